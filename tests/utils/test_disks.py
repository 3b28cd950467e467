"""Disks that are full, places where nobody may write, and two who write there at once."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from lst_fairseq.corpora import preparation
from lst_fairseq.corpora.preparation import stored_audio_headers
from lst_fairseq.utils.files import making
from tests.support.forks import outcome, serve
from tests.support.helpers import lst
from tests.support.running import differences, first_stage, read_checkpoint, run_train

NOBODY = 65534


def on_small_disk(size, function, *arguments):
    """No file may grow beyond ``size`` bytes: a write fails in the middle, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return function(*arguments)


def as_nobody(function, *arguments):
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    return function(*arguments)


def select(corpus, out):
    return lst("filter", "--manifest", corpus / "train.tsv", "--out", out, "--fraction", 1)


def test_a_manifest_that_does_not_fit_leaves_the_old_one(corpus, tmp_path):
    out = tmp_path / "train.tsv"
    out.write_text("old\n")
    status, said = outcome(on_small_disk, 300, select, corpus, out, log=tmp_path / "log")
    assert (status, said) == (1, f"error: {out}: File too large; try again\n")
    (tmp_path / "log").unlink()
    assert out.read_text() == "old\n" and [path.name for path in tmp_path.iterdir()] == [
        "train.tsv"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_manifest_where_nobody_may_write(corpus, tmp_path):
    manifest = corpus / "train.tsv"
    done = outcome(as_nobody, select, corpus, tmp_path / "new.tsv", log=tmp_path / "log")
    # pytest's folders are root's alone, the one that is read as well
    message = (
        f"error: {manifest}:1: cannot be read (Permission denied); check the path and its permissions\n"
    )
    assert done == (1, message)


def test_an_export_that_does_not_fit_leaves_nothing(corpus, backbones, tmp_path):
    checkpoint, out = first_stage(corpus, backbones).path(), tmp_path / "exported"

    def command():
        lst("export", checkpoint, out)

    status, said = outcome(on_small_disk, 30_000, command, log=tmp_path / "log")
    last = said.splitlines()[-1]
    assert status == 1 and "Traceback" not in said, said
    assert last.startswith(f"error: {out}: cannot be written (") and "File too large" in last
    assert last.endswith("; free some space, or name a directory elsewhere")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_of_two_exports_at_once_one_is_there_whole(tmp_path):
    out = tmp_path / "exported"
    message = f"^{out} exists already: another process has made it meanwhile$"
    with pytest.raises(FileExistsError, match=message), making(out) as mine:
        (mine / "weights").write_text("mine")
        out.mkdir()
        (out / "weights").write_text("theirs")
    assert (out / "weights").read_text() == "theirs" and [p.name for p in tmp_path.iterdir()] == [
        "exported"
    ]


def test_two_who_fill_one_cache_of_features(corpus, backbones, tmp_path):
    alone = run_train(
        corpus, backbones, tmp_path / "alone", cache_features=str(tmp_path / "cache1")
    )
    cache = str(tmp_path / "cache2")
    both = [
        serve(
            run_train,
            corpus,
            backbones,
            tmp_path / name,
            cache_features=cache,
            log=tmp_path / f"{name}.log",
        )
        for name in "ab"
    ]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    wanted = alone.checkpoint()["model"]
    for name in "ab":
        assert (
            differences(read_checkpoint(tmp_path / name / "checkpoint_last.pt")["model"], wanted)
            == []
        )
    first, second = (
        {path.name: np.load(path).tobytes() for path in folder.rglob("*.npy")}
        for folder in (tmp_path / "cache1", tmp_path / "cache2")
    )
    assert first == second and not list(tmp_path.rglob("*.tmp*"))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the audio files that are opened."""
    names: list[str] = []
    audio_info = preparation.audio_info
    monkeypatch.setattr(
        preparation, "audio_info", lambda path: names.append(Path(path).name) or audio_info(path)
    )
    return names


def test_headers_are_read_where_they_cannot_be_kept(corpus, tmp_path, opened, caplog):
    audio = [str(corpus / f"{split}.wav") for split in ("train", "dev")]
    store = tmp_path / "none" / "headers.txt"
    assert len(stored_audio_headers(audio, store, "headers")) == 2
    assert f"{store}: keeps no headers for the next run (No such file or directory)" in caplog.text


def test_a_store_that_two_have_written_to_is_read_as_far_as_it_is_whole(corpus, tmp_path, opened):
    audio, store = (
        [str(corpus / f"{split}.wav") for split in ("train", "dev")],
        tmp_path / "headers.txt",
    )
    wanted = stored_audio_headers(audio, store, "headers")
    first, second = store.read_text().splitlines()
    store.write_text(f"{first[:9]}{second}\n{first}\n\nx\ty\n{first[:20]}\n")
    opened.clear()
    assert stored_audio_headers(audio, store, "headers") == wanted
    assert opened == ["dev.wav"]


@pytest.mark.parametrize("days", [-20_000, 20_000])
def test_times_before_and_after_today_are_times_like_others(corpus, tmp_path, opened, days):
    """A clock that jumps: an entry holds while its file's time is the same, whatever that is."""
    audio, store = tmp_path / "a.wav", tmp_path / "headers.txt"
    audio.write_bytes((corpus / "dev.wav").read_bytes())
    os.utime(audio, (days * 86400, days * 86400))
    for _ in range(2):
        stored_audio_headers([str(audio)], store, "headers")
    assert opened == ["a.wav"]
    os.utime(audio)
    stored_audio_headers([str(audio)], store, "headers")
    assert opened == ["a.wav", "a.wav"]


def test_a_cache_that_cannot_be_made_is_named(corpus, backbones, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError,
        match=f"^--cache-features {tmp_path}/file: cannot be written .Not a directory.; name",
    ):
        run_train(corpus, backbones, tmp_path / "run", cache_features=str(tmp_path / "file"))
