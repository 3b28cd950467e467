"""Exported directories: settings changed, weights damaged, code beside the weights."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.kinds.checkpoints import EVALUATED, NAMES, hostile_object
from tests.fuzz.mutators import changed_tree, damaged, deep_text, hostile
from tests.fuzz.programs import generate_arguments, translate_arguments


class Exports:
    """Translated with."""

    name = "exports"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        out = folder / "exported"
        shutil.copytree(base.exported, out)
        change = rng.choice(
            (_json, _json, _json, _json, _named, _bytes, _bytes, _header, _code, _lost)
        )
        said, named = change(rng, out, base)
        # A model card is for people; of the other files every byte counts.
        known = change is _bytes and not named.endswith((".md", ".json"))
        program, arguments = "lst-translate", translate_arguments(out, base.speech)
        if rng.random() < 0.1 and not known:
            program, arguments = (
                "fairseq-generate",
                generate_arguments(base.corpus, out, folder / "out"),
            )
        expected = base.translation if known else None
        return Case(program, arguments, said, (named, out.name), expected)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """Weights that were damaged and loaded all the same give another score."""
        if case.expected is None:
            return None
        due, found = case.expected, json.loads(outcome.stdout.splitlines()[-1])
        if due["tokens"] != found["tokens"] or abs(due["score"] - found["score"]) > 1e-4:
            return f"damage unnoticed: {found!r:.200}"
        return None


def _files(out: Path, *suffixes: str) -> list[Path]:
    return sorted(
        path for path in out.rglob("*") if path.is_file() and path.name.endswith(suffixes)
    )


def _json(rng: Random, out: Path, base: Base) -> tuple[str, str]:
    """A setting of the export, of a model, or of a tokenizer."""
    files = [*_files(out, ".json"), *[out / "lst.json"] * 6]
    path = rng.choice(files)
    if rng.random() < 0.08:
        text = deep_text(rng)
        path.write_text(text, encoding="utf-8")
        return f"{path.name}: nested: {text[:20]!r}", path.name
    tree, said = changed_tree(json.loads(path.read_text("utf-8")), rng, str(base.marker))
    path.write_bytes(json.dumps(tree).encode("utf-8", "surrogatepass"))
    return f"{path.relative_to(out)}: {said}", path.name


def _named(rng: Random, out: Path, base: Base) -> tuple[str, str]:
    """Another model or task of fairseq."""
    path = out / "lst.json"
    settings = json.loads(path.read_text("utf-8"))
    part, name = rng.choice(("model", "model", "task", "frontend")), rng.choice(NAMES)
    code = rng.choice(hostile(str(base.marker))[:2])
    settings[part] = {"_name": name, **dict.fromkeys(EVALUATED, code)}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return f"{part} is {name}, with code in its settings", path.name


def _bytes(rng: Random, out: Path, base: Base) -> tuple[str, str]:
    path = rng.choice([*_files(out, ""), *_files(out, ".safetensors")])
    data, said = damaged(path.read_bytes(), rng)
    path.write_bytes(data)
    return f"{path.relative_to(out)}: {said}", path.name


def _header(rng: Random, out: Path, base: Base) -> tuple[str, str]:
    """The header of a safetensors file: offsets, shapes, types, its own length."""
    path = rng.choice(_files(out, ".safetensors"))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.2:
        wrong = rng.choice((0, 1, size - 1, size + 1, len(data), 2**40, 2**63, 2**64 - 1))
        path.write_bytes(wrong.to_bytes(8, "little") + data[8:])
        return f"{path.relative_to(out)}: header of {wrong} bytes", path.name
    tree, said = changed_tree(json.loads(data[8 : 8 + size]), rng, str(base.marker))
    header = json.dumps(tree).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    return f"{path.relative_to(out)}: header: {said}", path.name


def _code(rng: Random, out: Path, base: Base) -> tuple[str, str]:
    """Python beside the weights, named by the configuration; pickles; a template that calls."""
    folder = rng.choice(sorted(path for path in out.iterdir() if path.is_dir()))
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    ways = (
        "auto_map",
        "auto_map only",
        "tokenizer",
        "pickle",
        "template",
        "attention",
        "elsewhere",
    )
    how = rng.choice(ways)
    code = f"import pathlib; pathlib.Path('{base.marker}').touch()\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code, encoding="utf-8")
    classes = ("Config", "Model", "ModelForCausalLM", "FeatureExtractor", "Processor")
    remote: dict[str, Any] = {f"Auto{name}": "evil.Evil" for name in classes}
    remote["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
    if how.startswith("auto_map"):
        config["auto_map"] = remote
        if how == "auto_map":
            config["model_type"] = "evil"
    elif how == "tokenizer":
        for other in folder.glob("*config.json"):
            settings = json.loads(other.read_text("utf-8"))
            settings |= {"auto_map": remote, "tokenizer_class": "Evil"}
            other.write_text(json.dumps(settings), encoding="utf-8")
        return f"{folder.name}: its tokenizer is Python beside it", path.name
    elif how == "pickle":
        import torch

        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        torch.save({"x": hostile_object(rng, str(base.marker))}, folder / "pytorch_model.bin")
        return f"{folder.name}: hostile pickle as weights", "pytorch_model.bin"
    elif how == "template":
        loop = (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}"
        )
        subclasses = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        template = rng.choice((loop, hostile(str(base.marker))[7], subclasses))
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        settings = json.loads((out / "lst.json").read_text("utf-8"))
        settings["task"]["prompt"] = settings["record"]["prompt"]["template"] = "chat"
        (out / "lst.json").write_text(json.dumps(settings), encoding="utf-8")
        return f"{folder.name}: chat template {template[:40]}", path.name
    elif how == "attention":
        names = ("kernels-community/flash-attn", "nobody/evil", "nope")
        config["_attn_implementation"] = rng.choice(names)
    else:
        config["_name_or_path"] = config["name_or_path"] = rng.choice(("nobody/evil", "/dev/zero"))
    path.write_text(json.dumps(config), encoding="utf-8")
    return f"{folder.name}: {how}", path.name


def _lost(rng: Random, out: Path, base: Base) -> tuple[str, str]:
    """A file that is missing, empty, a folder, or a link to itself."""
    path = rng.choice(_files(out, ""))
    what = rng.choice(("missing", "empty", "a folder", "a link to itself"))
    path.unlink()
    if what == "empty":
        path.touch()
    elif what == "a folder":
        path.mkdir()
    elif what == "a link to itself":
        path.symlink_to(path.name)
    return f"{path.relative_to(out)} is {what}", path.name
