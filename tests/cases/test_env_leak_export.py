"""``${oc.env:...}`` in a checkpoint's settings is text: no export or model card ever has the variable's value."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from lst_fairseq.checkpoints.averaging import average
from lst_fairseq.checkpoints.export import export
from lst_fairseq.errors import CheckpointError
from tests.support.running import first_stage

SECRET = "s3cr3t-value"
SECTIONS = [("task", "target_lang"), ("task", "llm"), ("model", "lora_targets"), ("common", "wandb_project")]


def assert_no_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(("section", "name"), SECTIONS)
def test_a_checkpoint(section, name, corpus, backbones, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    state["cfg"][section] = {**state["cfg"][section], name: "${oc.env:MY_TOKEN}"}
    torch.save(state, tmp_path / "c.pt")
    for use in (lambda: export(tmp_path / "c.pt", tmp_path / "out"), lambda: average([tmp_path / "c.pt"])):
        with pytest.raises(CheckpointError) as caught:
            use()
        assert f"c.pt: refused, its setting 'cfg.{section}.{name}' is '${{oc.env:MY_TOKEN}}'" in str(caught.value)
    assert_no_secret(tmp_path)


def test_beside_the_configuration(corpus, backbones, tmp_path, monkeypatch):
    """In the task's state, from which the task's settings are filled in."""
    monkeypatch.setenv("MY_TOKEN", SECRET)
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    state["task_state"]["lst"]["llm"] = "${oc.env:MY_TOKEN}"
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"c\.pt: refused, its setting 'task_state.lst.llm' is"):
        export(tmp_path / "c.pt", tmp_path / "out")


def test_text_in_prompts_stays_text(corpus, backbones, tmp_path, monkeypatch):
    """And in the model card it is neither HTML, nor does it leave its code span or its cell."""
    monkeypatch.setenv("MY_TOKEN", SECRET)
    llm = shutil.copytree(backbones["llama"], tmp_path / "a`|<b>")
    template = "``` <img src=x onerror=alert(1)> $MY_TOKEN {speech} `|` Deutsch:"
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    state["cfg"]["task"] = {**state["cfg"]["task"], "prompt": template, "llm": str(llm)}
    state["task_state"]["lst"]["prompt"]["instructions"]["st"] = ["Costs ${oc.env:MY_TOKEN}."]
    torch.save(state, tmp_path / "c.pt")
    out = export(tmp_path / "c.pt", tmp_path / "out")
    settings = json.loads((out / "lst.json").read_text())
    assert settings["record"]["prompt"]["instructions"]["st"] == ["Costs ${oc.env:MY_TOKEN}."]
    card = (out / "README.md").read_text()
    assert f"Prompt: ```` {template} ````." in card
    assert "| LLM | ``a`\\|<b>``, in `llm`, float32 |" in card
    assert_no_secret(out)


def test_an_export(corpus, backbones, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    out = export(first_stage(corpus, backbones).path(), tmp_path / "out")
    settings = json.loads((out / "lst.json").read_text())
    settings["task"]["target_lang"] = "${oc.env:MY_TOKEN}"
    (out / "lst.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"lst\.json: refused, its setting 'cfg.task.target_lang' is"):
        checkpoint_utils.load_checkpoint_to_cpu(str(out))
