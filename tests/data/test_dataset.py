"""Segments to batches: what is counted, what is left out and said, what happens to broken audio."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fairseq import tasks
from fairseq.data.audio.waveform_transforms import AudioWaveformTransform, register_audio_waveform_transform

from lst_fairseq.data.audio import AudioError
from lst_fairseq.data.data_cfg import LstDataConfig
from lst_fairseq.data.lengths import LengthRule
from tests.conftest import save_llama
from tests.support.helpers import SENTENCES, fed_lengths, write_tsv
from tests.support.running import spoil, train_configuration, write_split

RATE = 16_000
WORDS = "Das Buch liegt auf dem Tisch."


def task_and_model(data: Path, backbones: dict[str, str], **settings: Any) -> tuple[Any, Any]:
    cfg = train_configuration(data, backbones, data / "unused", **settings)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model).eval()


def load(data: Path, backbones: dict[str, str], split: str = "train", **settings: Any) -> Any:
    task, _ = task_and_model(data, backbones, **settings)
    task.load_dataset(split)
    return task.dataset(split)


@pytest.mark.parametrize("frontend", ["wav2vec2", "wav2vec2_bert", "whisper"])
def test_lengths_are_what_the_llm_is_fed(corpus, backbones, frontend):
    """Counted by a hook on the LLM, for each utterance alone and in a batch."""
    task, model = task_and_model(corpus, backbones, speech_encoder=backbones[frontend])
    task.load_dataset("dev")
    dataset, fed = task.dataset("dev"), []
    model.decoder.llm.register_forward_pre_hook(
        lambda module, args, kwargs: fed.extend(fed_lengths(kwargs)), with_kwargs=True
    )
    for indices in ([0], [1], [4], range(5)):
        batch = dataset.collater([dataset[i] for i in indices])
        model(**batch["net_input"])
        assert fed == [dataset.num_tokens(i) for i in batch["id"].tolist()]
        fed.clear()
    assert dataset.num_tokens_vec([0, 3]).tolist() == [dataset.num_tokens(0), dataset.num_tokens(3)]
    assert dataset.size(2) == (dataset.num_tokens(2), len(dataset.targets[2]) + 1)  # with the end of sentence
    assert dataset.sizes.tolist() == [dataset.num_tokens(i) for i in range(5)]


def test_max_tokens_counts_positions(corpus, backbones):
    task, _ = task_and_model(corpus, backbones)
    task.load_dataset("train")
    dataset = task.dataset("train")
    batches = task.get_batch_iterator(dataset, max_tokens=200).frozen_batches
    assert sorted(i for batch in batches for i in batch) == list(range(12))
    assert all(len(batch) * max(dataset.num_tokens(i) for i in batch) <= 200 for batch in batches)
    assert 1 < len(batches) < 12


def test_long_and_short_utterances_fill_a_batch_alike(tmp_path, backbones):
    """No batch could have taken the next utterance too, and what lies in it is no shorter than that."""
    rng = np.random.default_rng(6)
    write_split(tmp_path, "train", [(float(seconds), WORDS) for seconds in rng.uniform(0.2, 8, 60)])
    task, _ = task_and_model(tmp_path, backbones)
    task.load_dataset("train")
    dataset, most = task.dataset("train"), 600
    batches = task.get_batch_iterator(dataset, max_tokens=most).frozen_batches
    lengths = [sorted(dataset.num_tokens_vec(batch).tolist()) for batch in batches]
    for batch, following in itertools.pairwise(lengths):
        assert len(batch) * batch[-1] <= most < (len(batch) + 1) * batch[-1]
        assert batch[0] >= following[-1]
    assert len(lengths[-2]) > 2 * len(lengths[0]) > 4  # short utterances: more of them, not less in a batch
    filled = [sum(batch) / most for batch in lengths[:-1]]
    assert min(filled) > 0.75 and abs(filled[0] - np.mean(filled)) < 0.15


def rule(**limits: Any) -> LengthRule:
    return LengthRule(
        **{
            "speech_positions": lambda n: n // 320,
            "llm_positions": 200,
            "max_source_seconds": 2.0,
            "min_source_seconds": 0.1,
            **limits,
        }
    )


@pytest.mark.parametrize(
    ("n_samples", "target_length", "reason"),
    [
        (2 * RATE, 5, None),
        (2 * RATE + 1, 5, "longer than --max-source-seconds 2"),
        (1600, 5, None),
        (1599, 5, "shorter than --min-source-seconds 0.1"),
        (RATE, 1, "empty target"),
        (RATE, 141, None),  # 10 + 50 + 140 positions
        (RATE, 142, "longer than the LLM's 200 positions"),
    ],
)
def test_each_limit_holds_to_the_sample(n_samples, target_length, reason):
    samples, lengths, source = np.array([n_samples]), np.array([target_length]), np.array([0])
    positions = rule().positions(samples, [10], lengths)
    assert positions.tolist() == [10 + n_samples // 320 + target_length - 1]
    left_out = rule().left_out(samples, source, lengths, positions)
    assert [name for name, mask in left_out.items() if mask.any()] == [reason] * (reason is not None)


def test_text_has_no_duration():
    """0 samples: no speech and no markers, whatever the model says of none; the source text counts as prompt."""
    samples, source, target = np.array([0, 0, 0, 0]), np.array([7, 0, 7, 180]), np.array([5, 5, 1, 25])
    with_markers = rule(speech_positions=lambda n: n // 320 + 2)
    positions = with_markers.positions(samples, source + 10, target)
    assert positions.tolist() == [21, 14, 17, 214]
    left_out = with_markers.left_out(samples, source, target, positions)
    assert {reason: np.flatnonzero(mask).tolist() for reason, mask in left_out.items() if mask.any()} == {
        "empty source": [1],
        "empty target": [2],
        "longer than the LLM's 200 positions": [3],
    }


def test_a_segment_left_out_is_counted_once():
    left_out = rule().left_out(np.array([3 * RATE]), np.array([0]), np.array([1]), np.array([999]))
    assert [reason for reason, mask in left_out.items() if mask.any()] == ["longer than --max-source-seconds 2"]


def test_skipped_training_segments_are_counted_with_their_reasons(tmp_path, backbones, caplog):
    utterances = [(0.5, WORDS), (1.3, WORDS), (1.4, WORDS), (0.05, WORDS), (0.5, ""), (0.5, " ".join([WORDS] * 60))]
    write_split(tmp_path, "train", utterances)
    write_split(tmp_path, "dev", utterances)
    task, _ = task_and_model(tmp_path, backbones, max_source_seconds=1.25)
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert [row.id for row in dataset.rows] == dataset.ids == ["train_0"]
    assert dict(dataset.skipped) == {
        "longer than --max-source-seconds 1.25": 2,
        "shorter than --min-source-seconds 0.1": 1,
        "empty target": 1,
        "longer than the LLM's 512 positions": 1,
    }
    assert "train.tsv: 5 segments left out: 2 longer than --max-source-seconds 1.25, 1 " in caplog.text
    caplog.clear()
    task.load_dataset("dev")  # not a test segment is left out
    assert len(task.dataset("dev")) == 6 and "left out" not in caplog.text


def test_no_training_segment_left(tmp_path, backbones):
    write_split(tmp_path, "train", [(0.5, ""), (0.5, "")])
    with pytest.raises(ValueError, match=r"train\.tsv: no training segment is left: 2 empty target"):
        load(tmp_path, backbones)


def test_a_test_segment_longer_than_the_llm(tmp_path, backbones):
    """Its line is named when the split is loaded: nothing could be said about it."""
    save_llama(tmp_path / "llm", max_position_embeddings=60)
    write_split(tmp_path, "dev", [(1.0, WORDS), (3.0, WORDS), (6.0, WORDS), (7.0, WORDS)])
    few = {**backbones, "llama": str(tmp_path / "llm")}
    wanted = r"dev\.tsv:4: dev_2 takes 8\d positions .*, and the LLM has 60: cut it .*\(2 such lines\)"
    with pytest.raises(ValueError, match=wanted):
        load(tmp_path, few, "dev", max_source_seconds=2.0)
    write_split(tmp_path, "dev", [(1.0, WORDS), (3.0, WORDS)])  # longer than in training, and it fits
    assert len(load(tmp_path, few, "dev", max_source_seconds=2.0)) == 2


@pytest.mark.parametrize("config", [None, "", "use_audio_input: true\n", "standardize_audio: true\n"])
def test_waveforms_are_never_standardised(tmp_path, backbones, config):
    write_split(tmp_path, "dev", [(0.5, WORDS)])
    soundfile.write(tmp_path / "dev_0.wav", np.full(8000, 0.25), RATE)  # standardised, it would be all zeros
    (tmp_path / "config.yaml").unlink()
    if config is not None:
        (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    dataset = load(tmp_path, backbones, "dev")
    assert not dataset.cfg.standardize_audio and dataset.cfg.use_audio_input
    assert torch.equal(dataset[0].source, torch.full((8000,), 0.25))


def test_data_config(tmp_path):
    assert LstDataConfig(tmp_path / "none.yaml").target_lang is None
    (tmp_path / "config.yaml").write_text("target_lang: fr\naudio_root: /talks\nshuffle: true\n", encoding="utf-8")
    config = LstDataConfig(tmp_path / "config.yaml")
    assert (config.target_lang, config.audio_root, config.shuffle) == ("fr", "/talks", True)
    assert (config.sampling_alpha, config.cot_separator) == (1.0, None)


@pytest.mark.parametrize("alpha", ["-0.1", "2", "half", "true"])
def test_wrong_sampling_alpha(alpha, tmp_path):
    (tmp_path / "config.yaml").write_text(f"sampling_alpha: {alpha}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml: `sampling_alpha` is a number from 0 to 1, not"):
        _ = LstDataConfig(tmp_path / "config.yaml").sampling_alpha


def test_a_batch_holds_exact_waveforms_longest_first(corpus, backbones):
    dataset = load(corpus, backbones, "dev")
    batch = dataset.collater([dataset[i] for i in (3, 0, 2)])
    net_input, ids = batch["net_input"], batch["id"].tolist()
    assert net_input["src_tokens"].dtype == torch.float64  # the trainer rounds float32 inputs to half precision
    assert net_input["src_lengths"].tolist() == sorted(net_input["src_lengths"].tolist(), reverse=True)
    for row, index in enumerate(ids):
        source, n = dataset[index].source, int(net_input["src_lengths"][row])
        assert torch.equal(net_input["src_tokens"][row, :n].float(), source) and len(source) == n
        assert not net_input["src_tokens"][row, n:].any()
        target = batch["target"][row][batch["target"][row] != dataset.tgt_dict.pad()]
        assert target.tolist() == [*dataset.tgt_dict.encode([SENTENCES[index]])[0], dataset.tgt_dict.eos()]
        assert net_input["prev_output_tokens"][row, 0] == dataset.tgt_dict.eos()
    assert (batch["nsentences"], batch["n_skipped"]) == (3, 0)
    assert batch["ntokens"] == int((batch["target"] != dataset.tgt_dict.pad()).sum())
    assert dataset.collater([]) == {}


def test_order_is_by_positions_and_random_among_equals_if_asked(tmp_path, backbones):
    write_split(tmp_path, "train", [(0.5, WORDS)] * 20 + [(0.7, WORDS)])
    dataset = load(tmp_path, backbones)
    assert dataset.ordered_indices().tolist() == [20, *range(20)]
    assert dataset.can_reuse_epoch_itr_across_epochs
    (tmp_path / "config.yaml").write_text("shuffle: true\n", encoding="utf-8")
    dataset = load(tmp_path, backbones)
    first, second = dataset.ordered_indices().tolist(), dataset.ordered_indices().tolist()
    assert first[0] == second[0] == 20 and sorted(first) == sorted(second) and first != second
    assert not dataset.can_reuse_epoch_itr_across_epochs


def test_waveform_transforms_of_the_data_config_apply_to_training(tmp_path, backbones):
    class Louder(AudioWaveformTransform):
        @classmethod
        def from_config_dict(cls, config: dict[str, Any] | None = None) -> "Louder":
            return cls()

        def __call__(self, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
            return 2 * waveform, sample_rate

    register_audio_waveform_transform("lst_test_louder")(Louder)
    for split in ("train", "dev"):
        write_split(tmp_path, split, [(0.5, WORDS)])
    plain = load(tmp_path, backbones)[0].source
    (tmp_path / "config.yaml").write_text("waveform_transforms:\n  _train: [lst_test_louder]\n", encoding="utf-8")
    assert torch.equal(load(tmp_path, backbones)[0].source, 2 * plain)
    assert torch.equal(load(tmp_path, backbones, "dev")[0].source, plain)  # the same noise


def test_concataugment_is_refused(tmp_path, backbones):
    write_split(tmp_path, "train", [(0.5, WORDS)])
    (tmp_path / "config.yaml").write_text("dataset_transforms:\n  _train: [concataugment]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="asks for concataugment, which lst_st does not support: remove it"):
        load(tmp_path, backbones)


def test_noisy_overlap_is_refused_beside_text(tmp_path, backbones):
    write_split(tmp_path, "train", [(0.5, WORDS)])
    transforms = "dataset_transforms:\n  _train: [noisyoverlapaugment]\n"
    transforms += f"noisyoverlapaugment:\n  noise_path: {tmp_path}\n"
    (tmp_path / "config.yaml").write_text(transforms, encoding="utf-8")
    load(tmp_path, backbones)
    row = {"id": "a", "audio": "", "n_frames": 0, "src_text": "Yes.", "tgt_text": WORDS, "tgt_lang": "de"}
    write_tsv(tmp_path / "train.tsv", [row])
    with pytest.raises(ValueError, match=r"train\.tsv: the data config asks for noisyoverlapaugment, which cannot mix"):
        load(tmp_path, backbones)


def test_audio_that_turns_out_broken_names_line_and_file(tmp_path, backbones):
    write_split(tmp_path, "dev", [(0.5, WORDS)] * 3)
    dataset = load(tmp_path, backbones, "dev")
    spoil(tmp_path / "dev_1.wav")
    assert dataset[0].source is not None and dataset[2].source is not None
    with pytest.raises(AudioError, match=r"dev\.tsv:3: .*dev_1\.wav.* NaN .*; --skip-bad-audio leaves such"):
        dataset[1]


def test_broken_audio_is_skipped_and_counted(tmp_path, backbones, caplog):
    write_split(tmp_path, "dev", [(0.5, WORDS), (0.6, "Ja."), (0.7, "Nein, danke.")])
    dataset = load(tmp_path, backbones, "dev", skip_bad_audio=True)
    spoil(tmp_path / "dev_1.wav")
    batch = dataset.collater([dataset[i] for i in range(3)])
    assert batch["id"].tolist() == [2, 0]
    assert (batch["nsentences"], batch["n_skipped"], batch["target"].size(0)) == (2, 1, 2)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("skipped: ") and "dev.tsv:3: " in warning and "dev_1.wav" in warning


def test_a_batch_of_broken_audio_alone_has_no_loss_and_no_id(tmp_path, backbones):
    write_split(tmp_path, "train", [(0.5, WORDS), (0.6, "Ja.")])
    task, model = task_and_model(tmp_path, backbones, skip_bad_audio=True)
    task.load_dataset("train")
    dataset = task.dataset("train")
    for i in range(2):
        spoil(tmp_path / f"train_{i}.wav")
    batch = dataset.collater([dataset[i] for i in range(2)])
    assert batch["id"].tolist() == [] and (batch["n_skipped"], batch["nsentences"], batch["ntokens"]) == (2, 0, 0)
    logits, _ = model.train()(**batch["net_input"])
    kept = batch["target"].ne(dataset.tgt_dict.pad())
    assert not kept.any()
    logits[kept].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_segment_of_a_long_file_is_read_to_the_sample(tmp_path, backbones):
    talk = np.random.default_rng(5).integers(-9000, 9000, 40_000).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", talk, RATE)
    row = {"id": "a", "audio": "talk.wav:1234:16000", "n_frames": 16_000, "tgt_text": WORDS}
    write_tsv(tmp_path / "dev.tsv", [row])
    (tmp_path / "config.yaml").write_text(f"audio_root: {tmp_path}\n", encoding="utf-8")
    source = load(tmp_path, backbones, "dev")[0].source
    assert torch.equal(source, torch.from_numpy(talk[1234:17_234].astype(np.float32) / 2**15))
