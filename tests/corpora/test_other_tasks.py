"""lst prep text: transcripts, the corpus's or recognised ones, in the place of speech."""

from pathlib import Path

import pytest

from lst_fairseq.data.manifest import read_manifest
from tests.support.helpers import lst, read_tsv, write_tsv


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"id": f"t{i}", "audio": f"talk{i}.wav:0:16000", "n_frames": 16000, "src_text": source, "tgt_text": target,
         "speaker": f"spk{i}", "src_lang": "en", "tgt_lang": "de"}
        for i, (source, target) in enumerate([("One.", "Eins."), ('Two "2"', "Zwei"), ("Three", "Drei")])
    ]  # fmt: skip
    for split in ("train", "dev", "tst-COMMON"):
        write_tsv(folder / f"{split}.tsv", rows)
    (folder / "config.yaml").write_text("key: value\n")
    return folder


def text_manifest(*arguments: Path | str) -> None:
    lst("prep", "text", *arguments)


def test_reference_transcripts(manifests: Path, tmp_path: Path) -> None:
    out = tmp_path / "text"
    text_manifest("--manifests", manifests, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "dev.tsv", "train.tsv", "tst-COMMON.tsv"]
    before, after = read_tsv(manifests / "train.tsv"), read_tsv(out / "train.tsv")
    for old, new in zip(before, after, strict=True):
        assert (new["audio"], new["n_frames"], new["task"]) == ("", "0", "mt")
        kept = ("id", "src_text", "tgt_text", "speaker", "src_lang", "tgt_lang")
        assert [new[name] for name in kept] == [old[name] for name in kept]
    assert all(row.is_text for row in read_manifest(out / "train.tsv").rows)


def test_recognised_transcripts(manifests: Path, tmp_path: Path) -> None:
    recognised = tmp_path / "recognised"
    recognised.mkdir()
    found = [{"id": "t2", "transcript": "tree"}, {"id": "t0", "transcript": " "}, {"id": "t1", "transcript": "TWO"}]
    write_tsv(recognised / "dev.tsv", found)
    text_manifest(
        "--manifests", manifests, "--out", tmp_path / "text", "--splits", "dev", "--transcripts", recognised
    )  # fmt: skip
    rows = read_tsv(tmp_path / "text" / "dev.tsv")
    # Where nothing was heard the LLM still gets a text, and no segment is lost.
    assert [(row["id"], row["src_text"]) for row in rows] == [("t0", "..."), ("t1", "TWO"), ("t2", "tree")]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "dev.tsv: no such file; recognise that split first"),
        ("id\ttext\nt0\tone\n", "dev.tsv:1: no column 'transcript'; it has to have id and transcript"),
        ("id\ttranscript\nt0\tone\nt2\tthree\n", "dev.tsv:3: no transcript of t1; recognise the whole split"),
    ],
)
def test_bad_transcripts(manifests: Path, tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dev.tsv").write_text(content)
    with pytest.raises(SystemExit) as caught:
        text_manifest(
            "--manifests", manifests, "--out", tmp_path / "text", "--splits", "dev", "--transcripts", tmp_path
        )  # fmt: skip
    assert str(caught.value).startswith("error: ") and message in str(caught.value)
    assert not (tmp_path / "text" / "dev.tsv").exists()


def test_no_source_text(manifests: Path, tmp_path: Path) -> None:
    rows = read_tsv(manifests / "dev.tsv")
    write_tsv(
        manifests / "dev.tsv", [{**row, "src_text": "" if row["id"] == "t1" else row["src_text"]} for row in rows]
    )
    with pytest.raises(SystemExit, match=r"dev\.tsv:3: t1 has no src_text; give --transcripts"):
        text_manifest("--manifests", manifests, "--out", tmp_path / "text", "--splits", "dev")


def test_nothing_is_written_where_a_split_is_missing(manifests: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"tst-HE\.tsv:1: no such manifest"):
        text_manifest(
            "--manifests", manifests, "--out", tmp_path / "text", "--splits", "dev", "tst-HE"
        )
    assert not (tmp_path / "text").exists()
