"""What tests share: sentences, manifests, and building a task and a model as fairseq-train does."""

import csv
import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

REPOSITORY = Path(__file__).resolve().parents[2]

SENTENCES = [
    "Der Zug fährt um sieben.",
    "Ich brauche drei Fahrkarten, bitte.",
    "Das Buch liegt auf dem Tisch.",
    "Wir sehen den Arzt am Montag.",
    "Ja.",
    "Meine Schwester wohnt in Berlin und arbeitet dort.",
    "Où est la gare ?",
    "¿Dónde está el libro?",
    "Der Hund schläft.",
    "Heute kostet das neue Fahrrad neunzig Euro.",
    "Sie sagt, dass er morgen kommt.",
    "Nein, danke.",
]


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Path:
    """A fairseq S2T manifest."""
    columns = list(columns or rows[0])
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, columns, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_tsv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))


def load_script(name: str, folder: str = "scripts") -> ModuleType:
    """FOLDER/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and worker processes look it up
    spec.loader.exec_module(module)
    return module


def lst(*arguments: object) -> int:
    """The command ``lst`` in this process; SystemExit where it ends with an error."""
    from lst_fairseq.cli.main import main

    return main([str(argument) for argument in arguments])


def lst_refuses(*arguments: object) -> str:
    """What ``lst`` says of arguments that it refuses, in its one line."""
    with pytest.raises(SystemExit) as stopped:
        lst(*arguments)
    assert isinstance(stopped.value.code, str) and "\n" not in stopped.value.code
    return stopped.value.code


def train_arguments(data: Path | str, backbones: Mapping[str, str], *extra: str, **settings: Any) -> list[str]:
    """Arguments of fairseq-train on the tiny backbones; keywords replace or add flags (None: leave the flag out)."""
    flags: dict[str, Any] = {
        "user_dir": str(REPOSITORY / "lst_fairseq"),
        "task": "lst_st",
        "arch": "lst_tiny",
        "adapter_channels": 24,
        "speech_encoder": backbones["wav2vec2"],
        "llm": backbones["llama"],
        "prompt": "USER: {speech} Deutsch: ",
        "criterion": "lst_cross_entropy",
        "optimizer": "adam",
        "lr": 0.003,
        "lr_scheduler": "fixed",
        "max_tokens": 250,
        "max_update": 4,
        "train_subset": "train",
        "valid_subset": "dev",
        "num_workers": 0,
        "seed": 7,
        "log_format": "json",
        "log_interval": 1,
        **settings,
    }
    arguments = [str(data), "--cpu", *extra]
    for name, value in flags.items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


def parse_train(arguments: list[str]) -> Any:
    """The configuration that fairseq-train makes of its arguments."""
    parser = options.get_training_parser()
    args: Namespace = options.parse_args_and_arch(parser, input_args=arguments)
    return convert_namespace_to_omegaconf(args)


def build(data: Path | str, backbones: Mapping[str, str], *extra: str, **settings: Any) -> tuple[Any, Any, Any]:
    """(configuration, task, model in eval mode), built as fairseq-train does."""
    cfg = parse_train(train_arguments(data, backbones, *extra, **settings))
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return cfg, task, model.eval()


def batch_of(task: Any, split: str, indices: Sequence[int]) -> dict[str, Any]:
    """The collated batch of some utterances of a loaded split."""
    dataset = task.dataset(split)
    return dataset.collater([dataset[i] for i in indices])


def fed_lengths(kwargs: dict[str, Any]) -> list[int]:
    """Positions of each sentence that stands in the one row of an LLM's arguments: its positions begin anew."""
    starts = torch.where(kwargs["position_ids"][0] == 0)[0].tolist()
    ends = [*starts[1:], kwargs["inputs_embeds"].size(1)]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def run_command(module: str, *arguments: str, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess:
    """Run ``python -m module`` as a user would, output captured as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=environment, **kwargs
    )
    if check and result.returncode:
        raise AssertionError(f"{module} failed:\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}")
    return result
