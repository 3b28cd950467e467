"""The task: no utterance is lost on any way through it, samples are not taken for positions, settings are kept."""

import logging
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import tasks
from fairseq.data import ConcatDataset

from lst_fairseq.data.audio import AudioError
from lst_fairseq.data.manifest import read_manifest
from lst_fairseq.data.prompt import Prompt, PromptSettings
from lst_fairseq.evaluation.metrics import in_order, score
from lst_fairseq.generation.translator import Translator
from tests.conftest import save_llama
from tests.support.helpers import SENTENCES
from tests.support.running import (
    decoding_arguments,
    first_stage,
    run_generate,
    run_generate_command,
    run_interactive,
    run_train,
    spoil,
    train_configuration,
    write_split,
)


def task_and_model(data: Path, backbones: dict[str, str], **settings: Any) -> tuple[Any, Any]:
    cfg = train_configuration(data, backbones, data / "unused", **settings)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model).eval()


@pytest.fixture(scope="module")
def built(corpus: Path, backbones: dict[str, str]) -> tuple[Any, Any]:
    """Task with all splits of the corpus loaded, and its model."""
    task, model = task_and_model(corpus, backbones)
    for split in ("train", "dev", "test"):
        task.load_dataset(split)
    return task, model


def batched(task: Any, split: str, **limits: Any) -> list[list[int]]:
    """The batches that fairseq makes with its default --required-batch-size-multiple."""
    limits = {"required_batch_size_multiple": 8, "disable_iterator_cache": True, **limits}
    return task.get_batch_iterator(task.dataset(split), **limits).frozen_batches


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize(
    "limits", [{"max_sentences": n} for n in (1, 3, 4, 7, 8, 16)] + [{"max_tokens": 130}, {"max_tokens": 400}]
)
def test_the_last_batch_is_not_lost(built, split, limits):
    """Trap 1: data_utils.py:357 drops it where its size is no multiple of eight."""
    task, _ = built
    assert sorted(i for b in batched(task, split, **limits) for i in b) == list(range(len(task.dataset(split))))


def test_joined_training_manifests_lose_nothing(tmp_path, backbones):
    write_split(tmp_path, "train_a", [(0.5 + 0.01 * i, "Ja.") for i in range(7)])
    write_split(tmp_path, "train_b", [(0.5 + 0.02 * i, "Nein, danke.") for i in range(6)])
    task, _ = task_and_model(tmp_path, backbones)
    task.load_dataset("train_a,train_b")
    dataset = task.dataset("train_a,train_b")
    assert isinstance(dataset, ConcatDataset)
    for limits in ({"max_sentences": 4}, {"max_tokens": 150}):
        batches = batched(task, "train_a,train_b", **limits)
        assert sorted(i for batch in batches for i in batch) == list(range(13))
    sample = dataset.collater([dataset[i] for i in (0, 12)])
    assert sorted(t.tolist()[0] for t in sample["target"]) == sorted(d.targets[0][0] for d in dataset.datasets)


def test_sampling_between_training_manifests(tmp_path, backbones):
    write_split(tmp_path, "train_a", [(0.5, "Ja.")] * 12)
    write_split(tmp_path, "train_b", [(0.5, "Nein.")] * 3)
    (tmp_path / "config.yaml").write_text("target_lang: de\nsampling_alpha: 0.5\n", encoding="utf-8")
    run = run_train(tmp_path, backbones, tmp_path / "out", train_subset="train_a,train_b", disable_validation=True)
    assert len(run.losses) == 4
    task, _ = task_and_model(tmp_path, backbones)
    task.load_dataset("train_a,train_b")
    first, second = (len(d) for d in task.dataset("train_a,train_b").datasets)
    assert (first, second) == (10, 5)  # 0.8 and 0.2 of the data become 2/3 and 1/3
    batches = batched(task, "train_a,train_b", max_sentences=4)
    assert sorted(i for batch in batches for i in batch) == list(range(first + second))


def test_generation_returns_each_id_once(tmp_path, corpus, backbones):
    """Ten utterances, one longer than --max-source-seconds, one of a tenth of a frame, an empty reference."""
    durations = [0.5, 0.9, 3.0, 0.01, 0.7, 0.4, 0.001, 0.6, 0.8, 1.1]
    texts = ["" if i == 4 else SENTENCES[i] for i in range(10)]
    write_split(tmp_path, "test", list(zip(durations, texts)))
    checkpoint = first_stage(corpus, backbones).path()
    by_size = run_generate(tmp_path, checkpoint, tmp_path / "a", batch_size=4, max_source_seconds=2.0)
    assert sorted(by_size) == list(range(10))
    output = (tmp_path / "a" / "generate-test.txt").read_text(encoding="utf-8")
    assert "Translated 10 sentences" in output or output.count("\nD-") + output.startswith("D-") == 10
    by_tokens = run_generate(tmp_path, checkpoint, tmp_path / "b", batch_size=None, max_tokens=60)
    assert by_tokens == by_size


def test_decoding_takes_over_the_longest_speech(tmp_path, corpus, backbones):
    """An LLM without room for 30 s translates what it was trained for, without being told again."""
    save_llama(tmp_path / "llama", max_position_embeddings=100)
    short = {**backbones, "llama": str(tmp_path / "llama")}
    with pytest.raises(ValueError, match="--max-source-seconds 30 and the prompt take"):
        run_train(corpus, short, tmp_path / "first")
    run = run_train(corpus, short, tmp_path / "out", max_source_seconds=2.0)
    found = run_generate(corpus, run.path(), tmp_path / "found", max_len_b=5)
    assert found == run_generate(corpus, run.path(), tmp_path / "said", max_len_b=5, max_source_seconds=2.0)
    with pytest.raises(ValueError, match="--max-source-seconds 30 and the prompt take"):
        run_generate(corpus, run.path(), tmp_path / "other", max_source_seconds=30.0)
    assert Translator(run.path()).max_seconds == 2


def test_test_segments_longer_than_max_tokens_are_kept(built, caplog):
    task, _ = built
    longest = max(task.dataset("test").sizes)
    batches = batched(task, "test", max_tokens=int(longest) - 1)
    assert sorted(i for batch in batches for i in batch) == list(range(5))
    assert f"--max-tokens {longest - 1} is raised to {longest}, the longest utterance" in caplog.text


def test_training_segments_longer_than_max_tokens_are_counted(built, caplog):
    task, _ = built
    sizes = sorted(task.dataset("train").sizes)
    limit = int(sizes[-3])
    batches = batched(task, "train", max_tokens=limit, max_positions=limit, ignore_invalid_inputs=True)
    n_longer = sum(size > limit for size in sizes)
    assert n_longer and sum(map(len, batches)) == 12 - n_longer
    assert f"{n_longer} training segments left out: more LLM positions than --max-tokens {limit}" in caplog.text


def test_no_limit_counts_samples(built, corpus, backbones):
    """Trap 3: --max-source-positions would; there is none to filter by, and no such flag."""
    task, model = built
    assert task.max_positions() is None and model.max_positions() is None
    assert max(task.dataset("train").sizes) < 300 < min(task.dataset("train").n_frames)
    with pytest.raises(SystemExit):
        run_generate_command(corpus, "checkpoint.pt", corpus, "--max-source-positions", "6000")


def test_max_len_a_counts_tokens_per_second(built):
    """Trap 3: fairseq multiplies it with the width of src_tokens, which are samples."""
    task, model = built
    settings = Namespace(beam=1, max_len_a=3.0, max_len_b=4)
    generator = task.build_generator([model], settings)
    assert settings.max_len_a == 3.0  # the caller's is left alone
    model.decoder.llm.get_output_embeddings().weight.data[task.target_dictionary.eos()] *= 0  # never the best
    sample = {"net_input": {"src_tokens": torch.randn(1, 32_000), "src_lengths": torch.tensor([32_000])}}
    ((hypothesis,),) = task.inference_step(generator, [model], sample)
    assert len(hypothesis["tokens"]) <= 2 * 3 + 4 + 1
    assert generator.max_len_a * 32_000 + generator.max_len_b == pytest.approx(10)


def test_scores_compare_with_the_raw_reference(tmp_path, corpus, backbones):
    """Trap 4: fairseq's T- lines went through the dictionary, which lacks characters of these references."""
    references = ["Das Ω kostet 5 €, 漢字.", "Der Ψ schläft – „ja“ € 漢字."]
    write_split(tmp_path, "test", [(0.5, reference) for reference in references])
    hypotheses = run_generate(tmp_path, first_stage(corpus, backbones).path(), tmp_path / "out")
    lines = (tmp_path / "out" / "generate-test.txt").read_text(encoding="utf-8").split("\n")
    round_trip = dict(line.split("\t", 1) for line in lines if line.startswith("T-"))
    raw = [row.tgt_text for row in read_manifest(tmp_path / "test.tsv").rows]
    assert raw == references
    assert all(round_trip[f"T-{i}"] != raw[i] for i in range(2))
    assert score(raw, raw).bleu == pytest.approx(100)
    assert score([round_trip["T-0"], round_trip["T-1"]], raw).bleu < 100  # what fairseq's own scorer takes for perfect
    assert len(in_order(hypotheses, 2)) == 2


def test_interactive_translates_files_and_parts_of_them(tmp_path, corpus, backbones, capsys):
    checkpoint = first_stage(corpus, backbones).path()
    generated = run_generate(corpus, checkpoint, tmp_path)
    rows = read_manifest(corpus / "test.tsv").rows
    inputs = tmp_path / "inputs.txt"
    inputs.write_text("".join(f"{row.segment}\n" for row in rows), encoding="utf-8")
    capsys.readouterr()
    run_interactive(corpus, checkpoint, inputs, "--buffer-size", "3", "--batch-size", "2")
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines() if line.startswith("D-")]
    assert [(name, text) for name, _, text in lines] == [(f"D-{i}", generated[i]) for i in range(5)]


def test_interactive_names_a_file_that_is_missing(tmp_path, corpus, backbones):
    (tmp_path / "inputs.txt").write_text(f"{tmp_path}/none.wav\n", encoding="utf-8")
    with pytest.raises(AudioError, match=r"none\.wav: no such audio file"):
        run_interactive(corpus, first_stage(corpus, backbones).path(), tmp_path / "inputs.txt")


def test_broken_audio_in_generation(tmp_path, corpus, backbones, caplog):
    """An error that names it, also out of a worker process; with --skip-bad-audio the others are translated."""
    checkpoint = first_stage(corpus, backbones).path()
    write_split(tmp_path, "test", [(0.5, "Ja."), (0.6, "Nein."), (0.7, "Ja.")])
    spoil(tmp_path / "test_2.wav")  # the longest: with --batch-size 1, the whole first batch
    for workers in (0, 1):
        with pytest.raises(AudioError, match=r"test\.tsv:4: .*test_2\.wav"):
            run_generate(tmp_path, checkpoint, tmp_path / "out", batch_size=1, num_workers=workers)
    for batch_size in (1, 3):
        translated = run_generate(tmp_path, checkpoint, tmp_path / "out", batch_size=batch_size, skip_bad_audio=True)
        assert sorted(translated) == [0, 1]
    assert "skipped: " in caplog.text and "test.tsv:4: " in caplog.text


def test_a_checkpoint_carries_its_settings(corpus, backbones, tmp_path):
    task, _ = task_and_model(corpus, backbones, prompt="{speech} auf {tgt_lang}:", max_source_seconds=20.0)
    state = task.state_dict()
    assert state["lst"] == {
        "speech_encoder": backbones["wav2vec2"],
        "llm": backbones["llama"],
        "max_source_seconds": 20.0,
        "prompt": PromptSettings("{speech} auf {tgt_lang}:", tgt_lang="de").as_dict(),
    }
    cfg = train_configuration(corpus, backbones, tmp_path, llm=None, speech_encoder=None, prompt="Mine: {speech}")
    fresh = tasks.setup_task(cfg.task)
    fresh.load_state_dict(state)
    assert (fresh.cfg.llm, fresh.cfg.speech_encoder) == (backbones["llama"], backbones["wav2vec2"])
    assert fresh.cfg.prompt == "Mine: {speech}"  # the command line goes before
    assert fresh.cfg.max_source_seconds == 20
    # Older checkpoints do not have it.
    del state["lst"]["max_source_seconds"]
    fresh = tasks.setup_task(train_configuration(corpus, backbones, tmp_path).task)
    fresh.load_state_dict(state)
    assert fresh.cfg.max_source_seconds is None
    fresh.build_model(train_configuration(corpus, backbones, tmp_path).model)
    assert fresh.cfg.max_source_seconds == 30


def test_the_language_is_known_without_the_training_data(tmp_path, backbones):
    """A prompt that names the language, which stands in the data config only; then the data is gone."""
    data = tmp_path / "data"
    audio = write_split(tmp_path / "audio", "x", [(0.5, "Ja.")]).parent / "x_0.wav"
    write_split(data, "train", [(0.5, "Ja.")] * 3)
    run = run_train(data, backbones, tmp_path / "out", prompt="{speech} {tgt_lang}:", disable_validation=True)
    shutil.rmtree(data)
    translator = Translator(run.path())
    (prompt,) = translator.task.prompts.choices()
    assert prompt == Prompt.from_text("{speech} German:", translator.task.target_dictionary.tokenizer)
    assert len(list(translator.translate([str(audio)]))) == 1


def test_decoding_takes_the_prompt_of_training(tmp_path, corpus, backbones, caplog):
    """Training's is the checkpoint's; another one on the command line is used, with a warning."""
    checkpoint = first_stage(corpus, backbones).path()
    own = run_generate_command(corpus, checkpoint, tmp_path / "a")
    assert own == run_generate(corpus, checkpoint, tmp_path / "b", prompt="USER: {speech} Deutsch: ")
    assert "the checkpoint was trained with" not in caplog.text
    with caplog.at_level(logging.WARNING):
        run_generate(corpus, checkpoint, tmp_path / "c", prompt="{speech}")
    told = "the prompt's template is '{speech}'; the checkpoint was trained with 'USER: {speech} Deutsch:'"
    assert told in caplog.text


def test_datasets_need_the_model(corpus, backbones, tmp_path):
    task = tasks.setup_task(train_configuration(corpus, backbones, tmp_path).task)
    with pytest.raises(RuntimeError, match="build the model before the datasets"):
        task.load_dataset("train")


def test_generation_arguments_are_those_of_the_readme(corpus):
    """The helpers' command line stays one that a person would write: no model setting is repeated."""
    flags = {a for a in decoding_arguments(corpus, "x.pt") if a.startswith("--")}
    assert flags == {"--cpu", "--user-dir", "--task", "--path", "--beam", "--max-len-b"}
