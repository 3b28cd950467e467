"""Features of a frozen frontend on disk: the same training as without, written once, safe to stop."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

from lst_fairseq.data import feature_cache
from lst_fairseq.data.audio import AudioError
from lst_fairseq.data.feature_cache import FeatureCache
from lst_fairseq.tasks import feature_filling
from tests.support.helpers import SENTENCES, batch_of, build, write_tsv


def cached_task(data: Path, backbones: Mapping[str, str], cache: Path, *extra: str, **settings: str):
    _, task, model = build(data, backbones, *extra, cache_features=str(cache), **settings)
    for split in ("train", "dev"):
        task.load_dataset(split)
        task.get_batch_iterator(task.dataset(split), max_tokens=400)
    return task, model


@pytest.mark.parametrize("frontend", ["wav2vec2", "wav2vec2_bert", "whisper"])
def test_logits_equal_those_without_a_cache(corpus: Path, backbones: dict[str, str], tmp_path: Path, frontend: str):
    settings = {"speech_encoder": backbones[frontend]}
    _, plain, _ = build(corpus, backbones, **settings)
    plain.load_dataset("train")
    task, model = cached_task(corpus, backbones, tmp_path, **settings)
    expected = model(**batch_of(plain, "train", [0, 3, 5])["net_input"])[0]
    batch = batch_of(task, "train", [0, 3, 5])
    assert batch["net_input"]["src_tokens"].dtype == torch.float16
    # fp16 keeps 11 bits of features whose size is about 1.
    assert torch.allclose(model(**batch["net_input"])[0], expected, atol=2e-2)
    features, lengths = batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"]
    waveforms = batch_of(plain, "train", [0, 3, 5])["net_input"]
    direct, direct_lengths = model.encoder.frontend(waveforms["src_tokens"], waveforms["src_lengths"])
    assert lengths.tolist() == direct_lengths.tolist()
    for row, n in enumerate(lengths):
        assert torch.allclose(features[row, :n].float(), direct[row, :n], atol=5e-3, rtol=1e-3)


def test_second_run_encodes_nothing(
    corpus: Path, backbones: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cached_task(corpus, backbones, tmp_path)
    monkeypatch.setattr(feature_filling, "_batches", lambda *_: pytest.fail("encoded again"))
    cached_task(corpus, backbones, tmp_path)


def test_interrupted_run_goes_on(
    corpus: Path, backbones: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(feature_filling, "BATCH_SECONDS", 3)
    write, written = FeatureCache.write, []

    def stopped(self: FeatureCache, features: dict[int, torch.Tensor | None]) -> None:
        if len(written) >= 5:
            raise KeyboardInterrupt
        written.extend(features)
        write(self, features)

    monkeypatch.setattr(FeatureCache, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        cached_task(corpus, backbones, tmp_path)
    n_done = len(written)
    monkeypatch.setattr(FeatureCache, "write", lambda self, features: (written.extend(features), write(self, features)))
    task, _ = cached_task(corpus, backbones, tmp_path)
    rows = len(task.dataset("train").rows) + len(task.dataset("dev").rows)
    assert len(written) == rows and 5 <= n_done < rows
    assert not len(task.dataset("train").cache.missing())


def test_a_row_counts_once_its_features_are_on_the_disk(corpus: Path, backbones: dict[str, str], tmp_path: Path):
    """Otherwise a machine that fails could leave rows that are marked and empty."""
    task, _ = cached_task(corpus, backbones, tmp_path)
    cache = task.dataset("train").cache
    cache.states[:] = feature_cache.MISSING
    features = {0: torch.ones(cache.ends[0] - cache.starts[0], cache.width), 2: None}
    with mock.patch.object(np.memmap, "flush", side_effect=OSError("disk full")), pytest.raises(OSError):
        cache.write(features)
    assert not cache.states.any()
    cache.write(features)
    assert cache.states[:3].tolist() == [feature_cache.PRESENT, feature_cache.MISSING, feature_cache.BROKEN]
    assert cache.read(0).eq(1).all() and cache.read(2) is None


def test_several_files(corpus: Path, backbones: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows are in one file each, whatever their order, and a pickled dataset opens the files itself."""
    whole, _ = cached_task(corpus, backbones, tmp_path / "one")
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 64 * 200)
    task, _ = cached_task(corpus, backbones, tmp_path / "several")
    cache, expected = task.dataset("train").cache, whole.dataset("train").cache
    files = sorted(cache.directory.glob("features-*.npy"))
    assert 2 < len(files) < len(task.dataset("train"))
    assert sum(len(np.load(file)) for file in files) == cache.ends[-1]
    copy = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 20_000
    for index in range(len(task.dataset("train"))):
        assert torch.equal(cache.read(index), expected.read(index)) and torch.equal(copy.read(index), cache.read(index))


def test_no_room(corpus: Path, backbones: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    message = r"--cache-features .*: the features need [\d,]+ bytes and the disk has 1,000 left"
    with pytest.raises(OSError, match=message):
        cached_task(corpus, backbones, tmp_path)


def test_another_frontend_and_changed_audio_have_their_own_features(
    corpus: Path, backbones: dict[str, str], tmp_path: Path
):
    cached_task(corpus, backbones, tmp_path)
    first = set(tmp_path.iterdir())
    cached_task(corpus, backbones, tmp_path, speech_encoder=backbones["wav2vec2_bert"])
    second = set(tmp_path.iterdir())
    assert len(first) == 2 and len(second) == 4
    (corpus / "dev.wav").touch()
    cached_task(corpus, backbones, tmp_path)
    assert len(set(tmp_path.iterdir()) - second) == 1


def test_broken_audio(backbones: dict[str, str], tmp_path: Path):
    noise = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.1
    rows = []
    for i in range(4):
        path = tmp_path / f"{i}.wav"
        samples = noise.copy()
        samples[7] = np.nan if i == 2 else 0
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        rows.append({"id": str(i), "audio": str(path), "n_frames": len(noise), "tgt_text": SENTENCES[i]})
    write_tsv(tmp_path / "train.tsv", rows)
    write_tsv(tmp_path / "dev.tsv", rows[:2])
    with pytest.raises(AudioError, match=r"train\.tsv:4: .*2\.wav.*--skip-bad-audio"):
        cached_task(tmp_path, backbones, tmp_path / "cache")
    task, _ = cached_task(tmp_path, backbones, tmp_path / "cache", "--skip-bad-audio")
    batch = batch_of(task, "train", [0, 1, 2, 3])
    assert batch["n_skipped"] == 1 and sorted(batch["id"].tolist()) == [0, 1, 3]
    assert batch_of(task, "train", [2])["ntokens"] == 0
