"""Exported directories: transformers reads the LLM, the plugin reads all of it, scores stay what they were."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lst_fairseq.checkpoints.export import export
from lst_fairseq.errors import CheckpointError
from lst_fairseq.generation.translator import DecodingOptions, Translation, Translator
from lst_fairseq.models.trained_parts import RECORD_KEY
from tests.support.helpers import lst, lst_refuses, read_tsv
from tests.support.running import first_stage, run_generate, run_train, second_stage


def translated(model: Path | str, corpus: Path, **settings: Any) -> list[Translation]:
    audio = [row["audio"] for row in read_tsv(corpus / "test.tsv")]
    return list(Translator(model, options=DecodingOptions(beam=3, max_len_b=8), **settings).translate(audio, 2))


def assert_same_translations(got: list[Translation], expected: list[Translation]) -> None:
    assert [t.tokens for t in got] == [t.tokens for t in expected]
    torch.testing.assert_close(
        torch.tensor([t.score for t in got]), torch.tensor([t.score for t in expected]), atol=1e-5, rtol=0
    )


@pytest.fixture(scope="module")
def lora_run(corpus: Path, backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates of adapter and LoRA with a learning rate that shows, from the first stage on."""
    start = first_stage(corpus, backbones).path()
    settings = {"train_modules": "adapter,lora", "finetune_from_model": start, "max_update": 2, "lr": [0.02]}
    return run_train(corpus, backbones, tmp_path_factory.mktemp("lora"), **settings).path()


def test_a_merged_low_rank_model_translates_as_before(corpus, backbones, lora_run, tmp_path):
    out = export(lora_run, tmp_path / "out")
    assert_same_translations(translated(out, corpus), translated(lora_run, corpus))
    plain = AutoModelForCausalLM.from_pretrained(backbones["llama"]).state_dict()
    merged = AutoModelForCausalLM.from_pretrained(out / "llm").state_dict()
    assert merged.keys() == plain.keys()
    different = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert different == {name for name in plain if name.endswith("proj.weight")}
    assert AutoTokenizer.from_pretrained(out / "llm").encode("Ja.") == AutoTokenizer.from_pretrained(
        backbones["llama"]
    ).encode("Ja.")
    assert "lst-translate --checkpoint" in (out / "README.md").read_text(encoding="utf-8")


def test_low_rank_checkpoints_hold_no_weight_of_the_llm(lora_run):
    state = torch.load(lora_run, weights_only=True)["model"]
    llm = {name for name in state if name.startswith("decoder.llm.")}
    assert llm and all(".lora_" in name for name in llm)
    assert {name.split(".")[1] for name in state.keys() - llm - {RECORD_KEY}} == {"adapter", "markers"}


def test_a_second_stage_exported(corpus, backbones, tmp_path):
    checkpoint = second_stage(corpus, backbones).path()
    out = export(checkpoint, tmp_path / "out")
    assert_same_translations(translated(out, corpus), translated(checkpoint, corpus))
    state = torch.load(checkpoint, weights_only=True)["model"]
    adapter = load_file(out / "adapter.safetensors")
    assert {f"encoder.{name}" for name in adapter} == {name for name in state if name.startswith("encoder.")}
    assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in adapter.items())
    # fairseq-generate takes the directory where it takes a checkpoint.
    assert run_generate(corpus, out, tmp_path / "a") == run_generate(corpus, checkpoint, tmp_path / "b")


def test_a_trained_frontend_is_exported_and_its_directory_no_longer_needed(corpus, backbones, tmp_path):
    gone = tmp_path / "wav2vec2"
    gone.symlink_to(backbones["wav2vec2"])
    directories = {**backbones, "wav2vec2": str(gone)}
    settings = {"train_modules": "frontend,adapter", "max_update": 2}
    checkpoint = run_train(corpus, directories, tmp_path / "run", **settings).path()
    expected = translated(checkpoint, corpus)
    out = export(checkpoint, tmp_path / "out")
    gone.unlink()
    assert_same_translations(translated(checkpoint, corpus), expected)
    assert_same_translations(translated(out, corpus), expected)
    frozen = first_stage(corpus, backbones).path()
    with pytest.raises(ValueError, match="no-such-encoder: no such directory"):
        translated(frozen, corpus, speech_encoder=str(tmp_path / "no-such-encoder"))


def test_an_export_with_its_frontend_can_be_moved(corpus, backbones, tmp_path):
    checkpoint = first_stage(corpus, backbones).path()
    out = export(checkpoint, tmp_path / "out", with_frontend=True)
    moved = out.rename(tmp_path / "elsewhere")
    assert_same_translations(translated(moved, corpus), translated(checkpoint, corpus))
    record = json.loads((moved / "lst.json").read_text(encoding="utf-8"))["record"]
    assert (record["sources"]["frontend"]["path"], record["sources"]["llm"]["path"]) == ("frontend", "llm")


def test_half_precision(corpus, backbones, tmp_path):
    out = export(first_stage(corpus, backbones).path(), tmp_path / "out", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(out / "llm", dtype="auto").dtype == torch.bfloat16
    assert Translator(out).model.decoder.llm.dtype == torch.bfloat16
    assert len(translated(out, corpus)) == 5


def test_directories_that_cannot_serve(corpus, backbones, tmp_path):
    checkpoint = first_stage(corpus, backbones).path()
    out = export(checkpoint, tmp_path / "out")
    with pytest.raises(FileExistsError, match="exists already: give another directory"):
        export(checkpoint, out)
    with pytest.raises(ValueError, match="--dtype int8: unknown; known: float32, bfloat16, float16"):
        export(checkpoint, tmp_path / "other", dtype="int8")
    with pytest.raises(CheckpointError, match=r"a directory, and training starts from a checkpoint file; .*--llm "):
        run_train(corpus, backbones, tmp_path / "run", finetune_from_model=out, max_update=1)
    (out / "adapter.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        Translator(out)
    (out / "adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"not all of it .*adapter\.safetensors"):
        Translator(out)
    with pytest.raises(CheckpointError, match=r"not a directory that lst export wrote"):
        Translator(tmp_path)


def test_the_command(corpus, backbones, tmp_path, capsys):
    checkpoint = first_stage(corpus, backbones).path()
    lst("export", checkpoint, tmp_path / "out")
    assert capsys.readouterr().out == f"exported: {tmp_path / 'out'}\n"
    refusal = lst_refuses("export", checkpoint, tmp_path / "out")
    assert refusal.startswith("error: ") and "exists already" in refusal
