"""Files whose settings, all of them plain text, would run code if fairseq built what they name.

Each is opened in every way in which this product opens files. None may run, and the error is one line with the file.
"""

import copy
import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lst_fairseq.checkpoints.averaging import average
from lst_fairseq.checkpoints.conversion import convert
from lst_fairseq.checkpoints.export import export
from lst_fairseq.errors import CheckpointError
from lst_fairseq.generation.translator import Translator
from tests.support.running import first_stage, run_generate, run_interactive, run_train, run_validate

#: What stands for the code in tables; it makes the file ``ran``.
CODE = "CODE"
CONVOLUTIONS = {"conv_feature_layers": CODE}
#: Models of fairseq that evaluate a setting, or build one that does.
MODELS: dict[str, dict[str, Any]] = {
    "wav2vec2": CONVOLUTIONS,
    "wav2vec": CONVOLUTIONS,
    "wav2vec_ctc": {"w2v_path": "x", "w2v_args": {"model": {"_name": "wav2vec2", **CONVOLUTIONS}}},
    "hubert": CONVOLUTIONS,
    "fconv": {"encoder_layers": CODE, "decoder_layers": CODE, "decoder_attention": CODE},
    "fconv_lm": {"decoder_layers": CODE},
    "fconv_self_att_wp": {"pretrained": CODE},
    "transformer_lm": {"character_embeddings": True, "character_filters": CODE},
    "lstm": {"adaptive_softmax_cutoff": CODE},
    "transformer": {"adaptive_softmax_cutoff": CODE},
    "s2t_wav_transformer": CONVOLUTIONS,
    "s2t_transformer": {"decoder_xformers_att_config": CODE, "adaptive_softmax_cutoff": CODE},
    "no_such_model": {},
}


def code(folder: Path) -> str:
    return f"__import__('pathlib').Path({str(folder / 'ran')!r}).write_text('x')"


def filled(settings: Any, text: str) -> Any:
    """Settings with ``text`` wherever they say ``CODE``."""
    if isinstance(settings, dict):
        return {name: filled(value, text) for name, value in settings.items()}
    if isinstance(settings, list):
        return [filled(value, text) for value in settings]
    return text if settings == CODE else settings


@dataclass(frozen=True)
class Hostile:
    """Changes of a checkpoint's settings: sections of its ``cfg`` that are replaced, and any other change."""

    sections: dict[str, Any] = field(default_factory=dict)
    change: Callable[[dict[str, Any], str], None] = lambda state, text: None

    def apply(self, state: dict[str, Any], text: str) -> dict[str, Any]:
        state = copy.copy(state)
        cfg = copy.deepcopy(state["cfg"])
        state["cfg"] = {**cfg, **filled(self.sections, text)}
        self.change(state, text)
        return state


def updated(section: str, **settings: Any) -> Hostile:
    """Some settings of a section replaced or added."""

    def change(state: dict[str, Any], text: str) -> None:
        state["cfg"][section] = {**(state["cfg"][section] or {}), **filled(settings, text)}

    return Hostile(change=change)


def old_form(both: bool, **settings: Any) -> Hostile:
    """All settings in a Namespace, beside the right ones or alone."""

    def change(state: dict[str, Any], text: str) -> None:
        given = {"task": "audio_pretraining", "criterion": "wav2vec", "data": "/x", **filled(settings, text)}
        state["args"] = Namespace(**given)
        if not both:
            del state["cfg"]

    return Hostile(change=change)


def frontend(kind: str, **config: Any) -> Hostile:
    """A speech encoder that the file says it holds, with nothing where it once lay."""

    def change(state: dict[str, Any], text: str) -> None:
        held = {"kind": kind, "config": filled(config, text), "preprocessor": {"normalize": False}}
        own = {**state["task_state"]["lst"], "frontend": held, "speech_encoder": "/gone"}
        state["task_state"] = {"lst": own}
        state["cfg"]["task"] = {**state["cfg"]["task"], "speech_encoder": "/gone"}

    return Hostile(change=change)


def in_dict_config(state: dict[str, Any], text: str) -> None:
    state["cfg"] = OmegaConf.create({**state["cfg"], "model": {"_name": "wav2vec2", "conv_feature_layers": text}})


def cyclic(state: dict[str, Any], text: str) -> None:
    state["cfg"]["common"] = {"a": state["cfg"]}


def growing(state: dict[str, Any], text: str) -> None:
    many: list[Any] = ["x"] * 10
    for _ in range(12):
        many = [many] * 10
    state["cfg"]["model"]["adapter"] = many


HOSTILE: dict[str, Hostile] = {
    **{f"model {name}": Hostile({"model": {"_name": name, **settings}}) for name, settings in MODELS.items()},
    "model and task": Hostile(
        {
            "model": {"_name": "wav2vec2", **CONVOLUTIONS},
            "task": {"_name": "audio_pretraining", "data": "/x"},
        }
    ),
    "model by arch": Hostile({"model": {"arch": "wav2vec2", **CONVOLUTIONS}}),
    "model by folder": Hostile({"model": {"wav2vec2": CONVOLUTIONS}}),
    "model in a namespace": Hostile({"model": Namespace(_name="lst", arch="fconv")}),
    "model in a DictConfig": Hostile(change=in_dict_config),
    "no model": Hostile({"model": None}),
    "task by its older name": updated("task", task="audio_pretraining"),
    "s2t task by its older name": Hostile(
        {
            "model": {"_name": "s2t_transformer_s"},
            "task": {"_name": "speech_to_text", "task": "translation", "data": "/x"},
        }
    ),
    "s2t that evaluates": Hostile(
        {
            "model": {"_name": "s2t_transformer_s", **MODELS["s2t_transformer"]},
            "task": {"_name": "speech_to_text", "data": "/x"},
        }
    ),
    "tokenizer of translation": Hostile(
        {
            "model": {"_name": "transformer"},
            "task": {"_name": "translation", "eval_bleu": True, "eval_bleu_detok": CODE, "data": "/x"},
        }
    ),
    "args": old_form(both=False, arch="wav2vec2", **CONVOLUTIONS),
    "args beside cfg": old_form(both=True, arch="wav2vec2", **CONVOLUTIONS),
    "args of fconv": old_form(both=True, arch="fconv", **MODELS["fconv"]),
    "args of s2t": old_form(
        both=True, arch="s2t_transformer_s", task="speech_to_text", **MODELS["s2t_transformer"]
    ),
    "args of ours": old_form(both=True, arch="lst", task="lst_st"),
    "frontend wav2vec2": frontend("fairseq-wav2vec2", ctc_classes=None, apply_mask=True, **CONVOLUTIONS),
    "frontend hubert": frontend("fairseq-hubert", ctc_classes=None, apply_mask=True, **CONVOLUTIONS),
    "frontend of another kind": frontend("whisper", model_type="llama"),
    "frontend with code of its own": frontend(
        "wav2vec2", model_type="evil", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    ),
    "frontend of no kind": frontend("evil"),
    "frontend of many layers": frontend("wav2vec2", model_type="wav2vec2", num_hidden_layers=10**9),
    "unknown setting": updated("model", user_dir="/x"),
    "many layers": updated("model", adapter="qformer", adapter_layers=10**9),
    "layers beyond the file's": updated("model", adapter="qformer", adapter_layers=900),
    "negative size": updated("model", adapter_channels=-8),
    "a number as a text": updated("model", lora_r="16"),
    "a text as a number": updated("model", adapter_norm=3),
    "truth as a number": updated("model", adapter_layers=True),
    "not a number": updated("task", max_source_seconds=float("nan")),
    "two lines": updated("task", llm="/x\n/y"),
    "a mapping": updated("task", prompt={"a": 1}),
    "a choice": updated("model", llm_dtype="float8"),
    "sizes in a text": updated("model", adapter_kernel_sizes="3,999999999999"),
    "environment": updated("task", target_lang="${oc.env:HOME}"),
    "environment elsewhere": updated("common", wandb_project="${oc.env:HOME}"),
    "environment in a name": Hostile({"common": {"${oc.env:HOME}": 1}}),
    "a reference": updated("task", target_lang="${common.seed}"),
    "settings within themselves": Hostile(change=cyclic),
    "settings that grow": Hostile(change=growing),
}
VALIDATION = ("--valid-subset", "dev", "--batch-size", "2")
#: Whose command lines take a second to parse: they open files as fairseq-generate does, so that a few will do.
SLOW = ("fairseq-interactive", "fairseq-validate", "finetune")
#: Sections of which nothing is ever built; of the criterion fairseq-validate builds one.
UNUSED = ("optimizer", "lr_scheduler", "tokenizer", "bpe", "scoring")


def opened_by(path: Path, corpus: Path, backbones: dict[str, str], out: Path) -> dict[str, Callable[[], Any]]:
    """Ways to open a checkpoint or an export."""
    inputs = out / "inputs"
    inputs.write_text(f"{corpus / 'test.wav'}:1000:8000\n")
    ways = {
        "Translator": lambda: Translator(path, device="cpu"),
        "export": lambda: export(path, out / "exported"),
        "fairseq-generate": lambda: run_generate(corpus, path, out / "generated"),
        "fairseq-interactive": lambda: run_interactive(corpus, path, inputs, "--beam", "1"),
        "fairseq-validate": lambda: run_validate(corpus, path, *VALIDATION),
    }
    if path.is_file():
        shutil.copy(path, out / "checkpoint_last.pt")
        ways["resume"] = lambda: run_train(corpus, backbones, out, max_update=5)
        ways["finetune"] = lambda: run_train(corpus, backbones, out / "new", finetune_from_model=path)
    return ways


def assert_refused(path: Path, ran: Path, ways: dict[str, Callable[[], Any]]) -> None:
    for name, opened in ways.items():
        with pytest.raises((CheckpointError, ValueError)) as caught:
            opened()
        message = str(caught.value)
        resumed = str(ran.parent / "out" / "checkpoint_last.pt")
        assert message.startswith((str(path), resumed)) and "\n" not in message, (name, message)
        assert len(message) < 1200 and ";" in message, (name, message)
        assert not ran.exists(), name


@pytest.mark.parametrize("what", HOSTILE)
def test_a_checkpoint_runs_nothing(what, corpus, backbones, tmp_path):
    (tmp_path / "out").mkdir()
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    path = tmp_path / "hostile.pt"
    torch.save(HOSTILE[what].apply(state, code(tmp_path)), path)
    ways = opened_by(path, corpus, backbones, tmp_path / "out")
    for slow in SLOW if what not in ("model wav2vec2", "args", "model and task", "environment") else ():
        del ways[slow]
    assert_refused(path, tmp_path / "ran", ways)


@pytest.fixture(scope="module")
def exported(corpus, backbones, tmp_path_factory) -> Path:
    return export(first_stage(corpus, backbones).path(), tmp_path_factory.mktemp("export") / "good", with_frontend=True)


@pytest.mark.parametrize("what", [name for name in HOSTILE if not name.startswith(("args", "settings", "model in"))])
def test_an_export_runs_nothing(what, exported, corpus, backbones, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "hostile")
    (tmp_path / "out").mkdir()
    settings = json.loads((folder / "lst.json").read_text())
    own = {"speech_encoder": None, "frontend": None}
    cfg = {"model": settings["model"], "task": settings["task"], "common": {}}
    state = HOSTILE[what].apply({"cfg": cfg, "task_state": {"lst": own}}, code(tmp_path))
    if not {"model", "task"} & {name for name in cfg if state["cfg"].get(name) != cfg[name]} and "front" not in what:
        pytest.skip("an export has no such section")
    settings |= {"model": state["cfg"]["model"], "task": state["cfg"]["task"]}
    if what.startswith("frontend"):
        settings["frontend"] = state["task_state"]["lst"]["frontend"]
        settings["record"]["sources"]["frontend"]["path"] = "/gone"
        settings["record"]["held"] = ["adapter"]
    if what == "two lines":
        settings["record"]["sources"]["llm"]["path"] = settings["task"]["llm"]
    (folder / "lst.json").write_text(json.dumps(settings))
    ways = opened_by(folder, corpus, backbones, tmp_path / "out")
    for slow in SLOW if what != "model wav2vec2" else ():
        ways.pop(slow, None)
    assert_refused(folder, tmp_path / "ran", ways)


@pytest.mark.parametrize("what", ["model wav2vec2", "args", "model by arch", "environment"])
def test_a_sharded_checkpoint_runs_nothing(what, corpus, backbones, tmp_path):
    (tmp_path / "out").mkdir()
    path = tmp_path / "sharded.pt"
    convert(first_stage(corpus, backbones).path(), path)
    torch.save(HOSTILE[what].apply(torch.load(path, weights_only=True), code(tmp_path)), path)
    ways = opened_by(path, corpus, backbones, tmp_path / "out")
    for shards in tmp_path.glob("sharded.pt.shards*"):
        shutil.copytree(shards, tmp_path / "out" / shards.name)
    ways["engine"] = lambda: run_train(
        corpus, backbones, tmp_path / "out", ddp_backend="fully_sharded", max_update=5
    )
    assert_refused(path, tmp_path / "ran", ways)


@pytest.mark.parametrize("name", ["/etc", "../elsewhere", "..", "", 3])
def test_shards_lie_beside_their_file(name, corpus, backbones, tmp_path):
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    torch.save({**state, "lst_shards": name}, tmp_path / "sharded.pt")
    with pytest.raises(CheckpointError, match=r"sharded\.pt: refused, its setting 'lst_shards'.*beside it"):
        Translator(tmp_path / "sharded.pt")


def test_nothing_else_of_a_files_choosing_is_built(corpus, backbones, tmp_path):
    """Names of optimisers and others are only data, a folder of Python beside the file is not imported."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "__init__.py").write_text(code(tmp_path))
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    sections = {name: {"_name": "evil", "adam_betas": CODE, "wer_args": CODE} for name in UNUSED}
    sections["common"] = {**state["cfg"]["common"], "user_dir": str(tmp_path / "plugin")}
    hostile = Hostile(sections).apply(state, code(tmp_path))
    path = tmp_path / "other.pt"
    torch.save(hostile, path)
    Translator(path, device="cpu")
    export(path, tmp_path / "out")
    average([path, path])
    run_generate(corpus, path, tmp_path / "generated")
    run_validate(corpus, path, *VALIDATION)
    torch.save(hostile, tmp_path / "checkpoint_last.pt")
    run_train(corpus, backbones, tmp_path, max_update=5)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["ctc", "evil", 3])
def test_no_criterion_of_a_files_choosing_is_built(name, corpus, backbones, tmp_path):
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    hostile = Hostile({"criterion": {"_name": name, "wer_args": CODE}}).apply(state, code(tmp_path))
    torch.save(hostile, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: refused, its setting 'criterion' is .*one of lst_cross"):
        run_validate(corpus, tmp_path / "other.pt", *VALIDATION)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"held": ["adapter", "evil"]}, "`held` is"),
        ({"sources": {"llm": {"path": "x", "fingerprint": ""}}}, "`sources` does not name"),
        ({"sources": {name: {"path": 3, "fingerprint": ""} for name in ("llm", "frontend")}}, "`sources.llm` is not"),
        ({"prompt": {"template": ["a"]}}, "record.prompt.template"),
        ({"prompt": {"instructions": {"st": 3}}}, "record.prompt.instructions.st"),
        ({"tokenizer": None}, "`tokenizer` is no text"),
        ({"user_dir": "x"}, "unknown: user_dir"),
    ],
)
def test_a_record_of_wrong_types(record, message, corpus, backbones, tmp_path):
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    said = json.loads(bytes(state["model"]["lst_record"].tolist()).decode()) | record
    state["model"]["lst_record"] = torch.tensor(list(json.dumps(said).encode()))
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=rf"odd\.pt: .*{message}"):
        Translator(tmp_path / "odd.pt")
