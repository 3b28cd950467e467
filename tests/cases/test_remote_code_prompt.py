"""Python code that comes with a model's directory is never run, and nobody is asked whether it should."""

import ast
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lst_fairseq.checkpoints.export import export
from lst_fairseq.errors import SettingsError
from lst_fairseq.generation.ctc_recognition import Transcriber
from lst_fairseq.models.frontends import build_frontend
from tests.support.helpers import REPOSITORY, build, lst_refuses
from tests.support.running import first_stage, run_interactive

MESSAGE = "needs Python code of its own (auto_map in its JSON files), which is never run; give a model of a type"
#: Classes and functions of this project, and torch, which know of no such thing.
OTHER = {"ADAPTERS", "Embedding", "nn"}


def with_code(directory: str, copy: Path, file: str = "config.json", **settings: Any) -> Path:
    """A model's directory whose JSON names Python code beside it, which would make the file ``ran``."""
    shutil.copytree(directory, copy)
    (copy / "evil.py").write_text(
        f"open({str(copy.parent / 'ran')!r}, 'w').write('x')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'evil'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    path = copy / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return copy


AUTO = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"}
DIRECTORIES: dict[str, dict[str, Any]] = {
    "config": {"model_type": "evil", "auto_map": AUTO},
    "tokenizer": {
        "file": "tokenizer_config.json",
        "tokenizer_class": "EvilTokenizer",
        "auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]},
    },
}


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))


@pytest.mark.parametrize("what", DIRECTORIES)
def test_an_llm(what, corpus, backbones, tmp_path, yes):
    llm = with_code(backbones["llama"], tmp_path / "llm", **DIRECTORIES[what])
    with pytest.raises(ValueError) as caught:
        build(corpus, backbones, llm=llm)
    assert str(caught.value).startswith(f"--llm {llm}: {MESSAGE}") and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_known_model_with_code_beside_it(corpus, backbones, tmp_path, yes):
    """Then transformers' own class is taken."""
    llm = with_code(backbones["llama"], tmp_path / "llm", auto_map=AUTO)
    (llm / "custom_generate").mkdir()
    shutil.copy(llm / "evil.py", llm / "custom_generate" / "generate.py")
    _, _, model = build(corpus, backbones, llm=llm)
    assert type(model.decoder.llm).__module__.startswith("transformers.models.llama")
    assert not (tmp_path / "ran").exists()


def test_a_speech_encoder(backbones, tmp_path, yes):
    directory = with_code(backbones["wav2vec2"], tmp_path / "encoder", auto_map=AUTO)
    assert type(build_frontend(str(directory)).model).__module__.startswith("transformers.models.wav2vec2")
    unknown = with_code(backbones["wav2vec2"], tmp_path / "other", **DIRECTORIES["config"])
    with pytest.raises(ValueError, match="model type 'evil' is not one that serves here"):
        build_frontend(str(unknown))
    assert not (tmp_path / "ran").exists()


def test_a_recogniser(backbones, tmp_path, yes):
    directory = with_code(backbones["wav2vec2"], tmp_path / "encoder")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    )
    with pytest.raises(SettingsError) as caught:
        Transcriber(str(directory), None, torch.device("cpu"), half=False)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_in_an_export(corpus, backbones, tmp_path, yes):
    out = export(first_stage(corpus, backbones).path(), tmp_path / "out", with_frontend=True)
    shutil.move(out / "llm", tmp_path / "plain")
    with_code(str(tmp_path / "plain"), out / "llm", **DIRECTORIES["config"])
    settings = json.loads((out / "lst.json").read_text())
    del settings["files"]  # a stranger's would fit
    (out / "lst.json").write_text(json.dumps(settings))
    audio = f"{corpus / 'test.wav'}:1000:8000"
    line = lst_refuses("translate", "--checkpoint", out, "--device", "cpu", audio)
    assert line.startswith(f"error: --llm {out / 'llm'}: {MESSAGE}")
    (tmp_path / "inputs").write_text(f"y\ny\n{audio}\n")
    with pytest.raises(ValueError, match="needs Python code of its own"):
        run_interactive(corpus, out, tmp_path / "inputs", "--beam", "1")
    assert not (out / "ran").exists()


def _refuses_code(call: ast.Call, text: str) -> bool:
    """Whether a call says that nothing is to be trusted, itself or by a dictionary of arguments."""
    for keyword in call.keywords:
        if keyword.arg == "trust_remote_code":
            return isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    spread = {getattr(keyword.value, "id", "") for keyword in call.keywords if keyword.arg is None}
    return bool(spread & {"LOCAL", "settings"}) and '"trust_remote_code": False' in text


def test_every_call_of_transformers_says_so():
    loading = {"from_pretrained", "from_config"}
    found, wrong = 0, []
    for folder in ("lst_fairseq", "scripts", "examples", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
                function = call.func
                if not isinstance(function, ast.Attribute) or function.attr not in loading:
                    continue
                if not any(name in ast.unparse(function) for name in OTHER):
                    found += 1
                    wrong += [] if _refuses_code(call, text) else [f"{path}:{call.lineno}: {ast.unparse(call)}"]
            assert "trust_remote_code=True" not in text, path
    assert not wrong and found > 8
