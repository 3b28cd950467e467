"""Checkpoints, whole and sharded: damaged, rezipped, with other settings, tensors and pickles."""

import io
import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from omegaconf import OmegaConf

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.mutators import changed_tree, damaged, hostile, odd_value
from tests.fuzz.programs import generate_arguments, translate_arguments

#: Models and tasks of fairseq that a file might name; some evaluate a setting of theirs.
NAMES = (
    *("wav2vec2", "wav2vec", "fconv", "lightconv", "wav2vec_ctc", "hubert"),
    *("transformer_lm", "lst", "lst_st", "nope"),
    *("speech_to_text", "translation", "audio_pretraining", "dummy_lm"),
    *("online_backtranslation", "s2t_transformer"),
)
EVALUATED = (
    *("conv_feature_layers", "decoder_layers", "encoder_layers", "dec_layers"),
    *("eval_bleu_args", "lambda_main"),
)


class Checkpoints:
    """Translated with, exported, converted, averaged."""

    name = "checkpoints"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        if rng.random() < 0.3:
            path, said = _sharded(rng, folder, base)
            expected = None
        else:
            path = folder / "checkpoint.pt"
            said, expected = rng.choice(_CHANGES)(rng, path, base)
        program, arguments = _call(rng, path, base, folder / "out", known=expected is not None)
        return Case(program, arguments, said, (path.name, ".metadata", ".distcp"), expected)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """Weights that were damaged and loaded all the same give another score."""
        if case.expected is None or case.program != "lst-translate":
            return None
        due, found = case.expected, json.loads(outcome.stdout.splitlines()[-1])
        differing = [key for key in ("text", "score", "tokens") if due[key] != found[key]]
        return (
            f"damage unnoticed, another {differing[0]}: {found[differing[0]]!r:.80}"
            if differing
            else None
        )


def _call(
    rng: Random, path: Path, base: Base, out: Path, known: bool
) -> tuple[str, tuple[str, ...]]:
    draw = rng.random()
    if draw < 0.5 or known:
        return "lst-translate", translate_arguments(path, base.speech)
    if draw < 0.65:
        return "export", (str(path), str(out / "exported"))
    if draw < 0.75:
        return "fairseq-generate", generate_arguments(base.corpus, path, out)
    if draw < 0.9:
        return "convert", (str(path), str(out / "converted.pt"))
    return "average", (str(path), str(base.checkpoint), "--out", str(out / "mean.pt"))


Made = tuple[str, Any]


def read(base: Base) -> dict[str, Any]:
    """The seed's content, its settings as plain dicts."""
    state = torch.load(base.checkpoint, weights_only=True)
    if OmegaConf.is_config(state["cfg"]):
        state["cfg"] = OmegaConf.to_container(state["cfg"])
    return state


def _bytes(rng: Random, path: Path, base: Base) -> Made:
    data, said = damaged(base.checkpoint.read_bytes(), rng)
    path.write_bytes(data)
    return said, base.translation


def _zip(rng: Random, path: Path, base: Base) -> Made:
    """Members lost, doubled, renamed, compressed, changed with a right checksum, far too large."""
    with zipfile.ZipFile(base.checkpoint) as file:
        members = [(info.filename, file.read(info)) for info in file.infolist()]
    number = rng.randrange(len(members))
    name, data = members[number]
    what = rng.choice(("lose", "double", "rename", "compress", "change", "empty", "bomb", "up"))
    if what == "lose":
        del members[number]
    elif what == "double":
        members.append((name, data[::-1]))
    elif what == "rename":
        members[number] = (name + "x", data)
    elif what == "change":
        members[number] = (name, damaged(data, rng)[0])
    elif what == "empty":
        members[number] = (name, b"")
    elif what == "bomb":
        members[number] = (name, bytes(1 << 28))
    elif what == "up":
        members.append(("../../../" + path.parent.name + "/escaped", b"x"))
    method = zipfile.ZIP_DEFLATED if what in ("compress", "bomb") else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice
        for each, content in members:
            file.writestr(each, content)
    return f"zip: {what} {name}", None


def _settings(rng: Random, path: Path, base: Base) -> Made:
    """One setting of model, task or another part replaced."""
    state = read(base)
    parts = [
        part
        for part in state["cfg"]
        if isinstance(state["cfg"][part], dict) and part in ("model", "task")
    ]
    part = rng.choice((*parts, *parts, "whole"))
    tree = state["cfg"] if part == "whole" else state["cfg"][part]
    new, said = changed_tree(tree, rng, str(base.marker))
    if part == "whole":
        state["cfg"] = new
    else:
        state["cfg"][part] = new
    torch.save(state, path)
    return f"cfg: {part}: {said}", None


def _named(rng: Random, path: Path, base: Base) -> Made:
    """Another model, task, criterion, ... of fairseq, with settings that some of them evaluate."""
    state = read(base)
    code = rng.choice(hostile(str(base.marker))[:2])
    parts = ("task", "criterion", "optimizer", "lr_scheduler", "tokenizer", "bpe")
    part, name = rng.choice(("model", "model", "model", *parts)), rng.choice(NAMES)
    evaluated = dict.fromkeys(EVALUATED, code)
    before = state["cfg"].get(part) if rng.random() < 0.5 else None
    state["cfg"][part] = {
        **(before if isinstance(before, dict) else {}),
        "_name": name,
        **evaluated,
    }
    if rng.random() < 0.2:
        from argparse import Namespace

        state["args"], state["cfg"] = (
            Namespace(arch=name, task="lst_st", criterion="x", **evaluated),
            None,
        )
    torch.save(state, path)
    return f"{part} is {name}, with code in its settings", None


def _tensors(rng: Random, path: Path, base: Base) -> Made:
    """A tensor of another shape, type or content, none, one more; another entry of the top."""
    state = read(base)
    name = rng.choice(sorted(state["model"]))
    tensor = state["model"][name]
    choices: dict[str, Callable[[], Any]] = {
        "transposed": lambda: tensor.unsqueeze(0),
        "cut": lambda: tensor[:-1] if tensor.dim() else tensor,
        "empty": lambda: tensor.new_zeros(0),
        "whole numbers": lambda: tensor.to(torch.int64),
        "complex": lambda: tensor.to(torch.complex64),
        "half": lambda: tensor.half(),
        "sparse": lambda: tensor.to_sparse(),
        "meta": lambda: tensor.to("meta"),
        "huge by stride": lambda: torch.zeros(1).expand(1 << 40),
        "text": lambda: "text",
        "None": lambda: None,
    }
    what = rng.choice((*choices, "deleted", "added", "top"))
    if what == "deleted":
        del state["model"][name]
    elif what == "added":
        state["model"][rng.choice(("stray", "", "encoder", name + ".more"))] = tensor
    elif what == "top":
        name = rng.choice(sorted(state))
        state[name] = odd_value(rng, str(base.marker))
        what = f"{state[name]!r:.40}"
    else:
        state["model"][name] = choices[what]()
    torch.save(state, path)
    return f"{name}: {what}", None


class _Hostile:
    """Pickled, it is a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def hostile_object(rng: Random, marker: str) -> _Hostile:
    """An object that runs code when it is unpickled."""
    return rng.choice(
        (
            _Hostile(os.system, f"touch {marker}"),
            _Hostile(eval, f"__import__('pathlib').Path('{marker}').touch()"),
            _Hostile(open, marker, "w"),
            _Hostile(torch.hub.load, "nobody/nothing", marker),
            _Hostile(torch.load, marker),
        )
    )


def _pickle(rng: Random, path: Path, base: Base) -> Made:
    """A call where a value should be, in today's format, in the old one, or as a bare pickle."""
    state, bad = read(base), hostile_object(rng, str(base.marker))
    where = rng.choice(("cfg", "model", "extra_state", "whole", "new"))
    content = (
        bad if where == "whole" else {**state, where: {"x": bad} if rng.random() < 0.5 else bad}
    )
    how = rng.choice(("zip", "old", "bare"))
    if how == "bare":
        path.write_bytes(pickle.dumps(content if where == "whole" else {where: bad}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    return f"{bad.call.__name__} called in {where}, {how}", None


def _text(rng: Random, path: Path, base: Base) -> Made:
    """Something else under a checkpoint's name."""
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    contents = (b"", b"\n", pointer, b"<!doctype html>", b"PK\x03\x04", b"\x80\x02.", bytes(5000))
    data = rng.choice((*contents, base.scores.read_bytes()))
    path.write_bytes(data)
    return f"{data[:30]!r} as a checkpoint", None


_CHANGES: tuple[Callable[[Random, Path, Base], Made], ...] = (
    *(_bytes, _bytes, _zip, _settings, _settings, _settings, _named, _tensors, _pickle, _text),
)


def _sharded(rng: Random, folder: Path, base: Base) -> tuple[Path, str]:
    """A sharded checkpoint with one of its files damaged, lost, exchanged or hostile."""
    path = folder / "sharded" / "sharded.pt"
    shutil.copytree(base.sharded.parent, path.parent)
    files = sorted(file for file in path.parent.rglob("*") if file.is_file())
    file = rng.choice(files)
    others = ("lose", "empty", "exchange", "pickle", "elsewhere", "settings")
    what = rng.choice(("damage", "damage", "damage", *others))
    if what == "damage":
        data, said = damaged(file.read_bytes(), rng)
        file.write_bytes(data)
        return path, f"{file.name}: {said}"
    if what == "lose":
        file.unlink()
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "exchange":
        file.write_bytes(rng.choice(files).read_bytes())
    elif what == "pickle":
        content = {"x": hostile_object(rng, str(base.marker))}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        file.write_bytes(rng.choice((pickle.dumps(content), buffer.getvalue())))
    else:
        state = torch.load(path, weights_only=True)
        if what == "elsewhere":
            keys = [key for key in state if isinstance(state[key], str)] or sorted(state)
            key = rng.choice(keys)
            state[key] = rng.choice(
                ("../other", "/dev/zero", "/none", "", str(base.root / "exported"), "~")
            )
            what = f"{key} is {state[key]!r}"
        else:
            if OmegaConf.is_config(state["cfg"]):
                state["cfg"] = OmegaConf.to_container(state["cfg"])
            state, what = changed_tree(state, rng, str(base.marker))
        torch.save(state, path)
        return path, f"sharded: {what}"
    return path, f"{file.name}: {what}"
