"""lst prep fbank: its features are kaldi's, and fairseq's own task reads what it writes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import Dictionary
from fairseq.data.audio.audio_utils import get_features_or_waveform
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE, SentencepieceConfig

from lst_fairseq.data.audio import Segment, read_segment
from lst_fairseq.models.frontends import build_frontend
from tests.support.helpers import lst, write_tsv

knf = pytest.importorskip("kaldi_native_fbank")
RATE = 16_000
# Samples of the training segments: one too short for 5 frames, one too long for 3,000, and two to keep.
TRAIN = (900, 31 * RATE, 8000, 12345)
TEST = (300, 16000, 31 * RATE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests with audio in `audio`, and in `fbank` what the command makes of them."""
    root = tmp_path_factory.mktemp("fbank")
    (root / "audio").mkdir()
    rng = np.random.default_rng(1)
    for split, lengths in (("train", TRAIN), ("dev", TEST), ("tst-COMMON", TEST)):
        wav = root / "audio" / f"{split}.wav"
        soundfile.write(wav, 0.1 * rng.standard_normal(sum(lengths)), RATE, subtype="PCM_16")
        starts = np.cumsum((0, *lengths))
        rows = [
            {
                "id": f"{split}_{i}",
                "audio": f"{wav}:{start}:{n}",
                "n_frames": n,
                "src_text": f"Sentence {i} for all.",
                "tgt_text": f"Satz {i} für alle.",
            }
            for i, (start, n) in enumerate(zip(starts, lengths))
        ]
        write_tsv(root / "audio" / f"{split}.tsv", rows)
    return root


def prep_fbank(prepared: Path, out: Path, options: str) -> None:
    lst("prep", "fbank", "--manifests", prepared / "audio", "--out", out, *options.split())


@pytest.fixture(scope="module")
def fbank_dir(prepared: Path) -> Path:
    out = prepared / "fbank"
    prep_fbank(prepared, out, "--vocab-size 40 --time-mask 30 --workers 1")
    return out


def direct(waveform: np.ndarray) -> np.ndarray:
    """kaldi-native-fbank as its own examples call it, with the settings of fairseq's torchaudio call."""
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(RATE, (waveform * 32768).tolist())
    computer.input_finished()
    return np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def entries(tsv: Path) -> list[dict[str, str]]:
    header, *lines = tsv.read_text(encoding="utf-8").splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"))) for line in lines]


def test_features_are_kaldis_and_fairseq_reads_them(prepared: Path, fbank_dir: Path) -> None:
    waveform, _ = soundfile.read(prepared / "audio" / "tst-COMMON.wav", dtype="float32")
    rows = entries(fbank_dir / "tst-COMMON.tsv")
    expected = direct(waveform[300:16300])
    features = get_features_or_waveform(rows[1]["audio"])
    assert features.dtype == np.float32 and features.shape == (98, 80) == expected.shape
    np.testing.assert_array_equal(features, expected)
    assert rows[1]["n_frames"] == "98"


def test_scale_is_that_of_16_bit_integers(fbank_dir: Path) -> None:
    """White noise of 0.1, 3,277 in 16 bits, has log energies about 15 to 21 and not negative ones."""
    features = get_features_or_waveform(entries(fbank_dir / "tst-COMMON.tsv")[1]["audio"])
    assert 14 < features.mean() < 22


def test_no_test_segment_is_lost_and_short_ones_are_lengthened(fbank_dir: Path) -> None:
    rows = entries(fbank_dir / "tst-COMMON.tsv")
    assert [row["id"] for row in rows] == ["tst-COMMON_0", "tst-COMMON_1", "tst-COMMON_2"]
    assert [int(row["n_frames"]) for row in rows] == [5, 98, 3098]
    assert get_features_or_waveform(rows[0]["audio"]).shape == (5, 80)


def test_training_segments_are_filtered_and_counted(prepared: Path, capsys) -> None:
    out = prepared / "again"
    prep_fbank(prepared, out, "--splits train --vocab-size 40 --workers 1")
    # The short one is lengthened to 5 frames, the least that is kept.
    assert [row["id"] for row in entries(out / "train.tsv")] == ["train_0", "train_2", "train_3"]
    assert "train: left out 1 of 4 segments" in capsys.readouterr().out


def test_fairseqs_dataset_reads_it(fbank_dir: Path) -> None:
    config = S2TDataConfig(fbank_dir / "config.yaml")
    dictionary = Dictionary.load(str(fbank_dir / config.vocab_filename))
    bpe = SentencepieceBPE(SentencepieceConfig(sentencepiece_model=config.bpe_tokenizer["sentencepiece_model"]))

    def dataset(split: str):
        train = split == "train"
        return SpeechToTextDatasetCreator.from_tsv(str(fbank_dir), config, split, dictionary, None, bpe, train, 1, 1)

    item = dataset("dev")[1]
    assert item.source.shape == (98, 80)
    # Normalised over the utterance, a transform that needs no torchaudio.
    assert abs(item.source.mean()) < 1e-4 and abs(item.source.std(0) - 1).max() < 1e-2
    assert dictionary.unk() not in item.target and bpe.decode(dictionary.string(item.target)) == "Satz 1 für alle."
    masked = dataset("train")[1].source
    names = [type(t).__name__ for t in dataset("train").feature_transforms.transforms]
    assert names == ["UtteranceCMVN", "SpecAugmentTransform"] and masked.shape == (48, 80)
    assert "30" in repr(dataset("train").feature_transforms)


def test_splits_that_are_there_are_kept(prepared: Path, fbank_dir: Path, capsys) -> None:
    before = (fbank_dir / "dev.zip").stat().st_mtime_ns
    prep_fbank(prepared, fbank_dir, "--vocab-size 40 --workers 1")
    assert (fbank_dir / "dev.zip").stat().st_mtime_ns == before
    assert "dev: there already" in capsys.readouterr().out


def test_missing_manifest_is_one_line(prepared: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*train.tsv"):
        lst("prep", "fbank", "--manifests", str(prepared), "--out", str(prepared / "none"))


def test_transcripts_for_pretraining(prepared: Path) -> None:
    """The same features with transcripts for targets, and a vocabulary of their own."""
    out = prepared / "asr"
    arguments = f"--manifests {prepared / 'audio'} --out {out} --splits train dev --vocab-size 40 --asr-vocab-size 35"
    lst("prep", "fbank", *arguments.split(), "--workers", "1")
    for split in ("train", "dev"):
        translated, spoken = entries(out / f"{split}.tsv"), entries(out / f"{split}_asr.tsv")
        assert [row["audio"] for row in spoken] == [row["audio"] for row in translated]
        assert [row["tgt_text"] for row in spoken] == [row["src_text"] for row in translated]
    config = S2TDataConfig(out / "config_asr.yaml")
    assert config.vocab_filename == "dict_asr.txt"
    bpe = SentencepieceBPE(SentencepieceConfig(sentencepiece_model=config.bpe_tokenizer["sentencepiece_model"]))
    assert bpe.decode(bpe.encode("Sentence 3 for all.")) == "Sentence 3 for all."
    assert (out / "dict.txt").read_text() != (out / "dict_asr.txt").read_text()


def test_a_speech_encoders_output_for_features(prepared: Path, backbones: dict) -> None:
    """Each segment's as it is alone, whatever stands beside it in a batch."""
    out = prepared / "encoded"
    arguments = f"--manifests {prepared / 'audio'} --out {out} --splits train tst-COMMON --vocab-size 40"
    lst("prep", "fbank", *arguments.split(), "--speech-encoder", backbones["wav2vec2"])
    assert S2TDataConfig(out / "config.yaml").input_feat_per_channel == 32
    frontend = build_frontend(backbones["wav2vec2"]).eval()
    rows = entries(out / "tst-COMMON.tsv")
    assert len(rows) == len(TEST)
    for row, source in zip(rows, entries(prepared / "audio" / "tst-COMMON.tsv")):
        waveform = torch.from_numpy(read_segment(Segment.parse(source["audio"])))
        with torch.no_grad():
            expected, lengths = frontend(waveform[None], torch.tensor([len(waveform)]))
        features = get_features_or_waveform(row["audio"])
        assert len(features) == max(5, int(lengths)) == int(row["n_frames"])
        np.testing.assert_allclose(features[: int(lengths)], expected[0].numpy(), atol=1e-4)
        assert not features[int(lengths) :].any()
