"""Chain of thought, transcript and then translation, from the manifest to lst-translate; other tasks by its flags."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from lst_fairseq.generation.translator import Translator
from tests.support.helpers import SENTENCES, lst, lst_refuses
from tests.support.running import Run
from tests.support.task_corpus import (
    INSTRUCTIONS,
    SOURCES,
    build,
    rows_of,
    train_all,
    write_manifests,
    write_task_corpus,
)

EOS = 2
SEPARATOR = "cot_separator: ' ? '\n"  # the tiny tokenizer knows no "=>"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_corpus(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def trained(data: Path, backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An update on translation, transcription and text."""
    return train_all(data, backbones, tmp_path_factory.mktemp("trained"), max_update=1)


def cot_data(folder: Path, **changes: str) -> Path:
    rows = rows_of(folder, "train", [("cot", 0.5, ""), ("st", 0.6, ""), ("cot", 0.7, "")])
    rows[2].update(changes)
    return write_manifests(folder, {"train": rows, "dev": rows}, SEPARATOR)


def test_chain_of_thought_targets(backbones, tmp_path) -> None:
    """Transcript, separator, translation; the checkpoint knows the separator."""
    _, task, model = build(cot_data(tmp_path), backbones)
    task.load_dataset("train")
    tokenizer = task.target_dictionary.tokenizer
    for i, text in enumerate((f"{SOURCES[0]} ? {SENTENCES[0]}", SENTENCES[1], f"{SOURCES[2]} ? {SENTENCES[2]}")):
        assert task.dataset("train").targets[i].tolist() == tokenizer.encode(text, add_special_tokens=False)
    assert model.record.prompt["cot_separator"] == " ? " == task.state_dict()["lst"]["prompt"]["cot_separator"]


def test_chain_of_thought_needs_transcripts_in_training(backbones, tmp_path) -> None:
    _, task, _ = build(cot_data(tmp_path, src_text=""), backbones)
    with pytest.raises(ValueError, match=r"train\.tsv:4: no src_text, and task cot is trained on the transcript"):
        task.load_dataset("train")
    task.load_dataset("dev")
    text = task.target_dictionary.string(task.dataset("dev").targets[2])
    assert text == SENTENCES[2]


def test_an_empty_translation_is_no_chain_of_thought(backbones, tmp_path) -> None:
    _, task, _ = build(cot_data(tmp_path, tgt_text=""), backbones)
    task.load_dataset("train")
    assert dict(task.dataset("train").skipped) == {"empty target": 1}


def test_a_separator_that_the_tokenizer_cannot_write(backbones, tmp_path) -> None:
    write_manifests(tmp_path, {"train": rows_of(tmp_path, "train", [("cot", 0.5, "")])})
    _, task, _ = build(tmp_path, backbones)
    with pytest.raises(ValueError, match="cot_separator ' => ': the LLM's tokenizer can write it as "):
        task.load_dataset("train")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model says for every file, instead of what it would; a list of one text."""
    texts = ["Ja."]

    def inference_step(self: Any, generator: Any, models: Any, sample: dict[str, Any], **kwargs: Any) -> Any:
        tokens = torch.tensor([*self.target_dictionary.encode(texts)[0], EOS])
        return [[{"tokens": tokens, "score": torch.tensor(-1.0)}] for _ in sample["net_input"]["src_lengths"]]

    monkeypatch.setattr("lst_fairseq.tasks.lst_st.LstTask.inference_step", inference_step)
    return texts


def translate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = lst("translate", *arguments, "--max-len-b", "6")
    return status, *capsys.readouterr()


def test_lst_translate_prints_the_translation_of_a_chain_of_thought(backbones, tmp_path, capsys, said) -> None:
    run = train_all(cot_data(tmp_path), backbones, tmp_path / "run", train_subset="train", max_update=1)
    arguments = ["--checkpoint", run.path(), tmp_path / "train.wav:0:8000", "--instruction-task", "cot"]
    said[:] = ["Was ist das ? Das Buch."]
    assert translate(capsys, *arguments)[:2] == (0, "Das Buch.\n")
    (line,) = translate(capsys, *arguments, "--json")[1].splitlines()
    result = json.loads(line)
    assert (result["transcript"], result["text"]) == ("Was ist das", "Das Buch.")
    said[:] = ["Nein"]  # cut off before the separator
    assert translate(capsys, *arguments)[:2] == (0, "\n")


def test_lst_translate_gives_the_instruction_of_a_task(trained, data, capsys) -> None:
    """The first of the task's instructions and the language reach the model."""
    audio = f"{data / 'mixed.wav'}:0:8000"
    for task, language in (("st", None), ("asr", None), ("st", "fr")):
        translator = Translator(trained.path(), instruction_task=task, target_lang=language)
        encoder = translator.model.encoder
        with mock.patch.object(encoder, "forward", wraps=encoder.forward) as forward:
            assert len(list(translator.translate([audio]))) == 1
        name = {"fr": "French", None: "German"}[language]
        text = INSTRUCTIONS[task][0].replace("{tgt_lang}", name) + " ASSISTANT:"
        tokenizer = translator.task.target_dictionary.tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert forward.call_args.kwargs["prompt_after"].tolist() == [ids]
    status, out, _ = translate(capsys, "--checkpoint", trained.path(), audio, "--instruction-task", "asr", "--json")
    assert status == 0 and "transcript" not in json.loads(out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--instruction-task sing", "--instruction-task sing: this model has no such task; its tasks: asr, cot, mt,"),
        ("--target-lang xx", "unknown language code 'xx'; known: "),
        ("--instruction-task asr --target-lang fr", "--target-lang fr: this model's prompt has no {tgt_lang}, so that"),
    ],
)
def test_tasks_and_languages_that_lst_translate_refuses(flags, message, trained, data, capsys) -> None:
    checkpoint, audio = trained.path(), data / "mixed.wav"
    refusal = lst_refuses("translate", "--checkpoint", checkpoint, audio, *flags.split())
    assert refusal.startswith(f"error: {message}") and capsys.readouterr().out == ""
