"""fairseq's commands run inside the test process, which has paid for its imports already.

``run_*`` take settings by the names of flags. Unless ``command_line=True``, they change a configuration that was parsed
once, because fairseq takes a second to parse a command line.
"""

import copy
import functools
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from fairseq_cli import generate, interactive, train, validate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import lst_fairseq
from lst_fairseq.evaluation.metrics import read_generated
from lst_fairseq.patches.save_dir import release_save_dir
from tests.support.helpers import REPOSITORY, parse_train, train_arguments, write_tsv

lst_fairseq.register()  # also in processes that are forked with this module alone

USER_DIR = str(REPOSITORY / "lst_fairseq")


@dataclass
class Run:
    """What a training run left: its folder, and the exact (not rounded) loss of each update and validation step."""

    folder: Path
    losses: list[float] = field(default_factory=list)
    valid_losses: list[float] = field(default_factory=list)

    def path(self, name: str = "last") -> Path:
        return self.folder / f"checkpoint_{name}.pt"

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        return read_checkpoint(self.path(name))


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    return checkpoint_utils.load_checkpoint_to_cpu(str(path))


def configuration(base: Any, settings: Mapping[str, Any]) -> Any:
    """A copy of a parsed configuration with some flags set, each in whatever groups know it."""
    cfg = copy.deepcopy(base)
    for name, value in settings.items():
        value = str(value) if isinstance(value, Path) else value
        groups = [group for group in cfg.values() if hasattr(group, "keys") and name in group]
        assert groups, f"no setting {name}"
        for group in groups:
            group[name] = value
    return cfg


@contextmanager
def command_line(*arguments: Any) -> Iterator[None]:
    """``sys.argv`` as the shell would set it; fairseq reads it in several places."""
    with mock.patch.object(sys, "argv", ["fairseq", *map(str, arguments)]):
        yield


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Add the loss per unit of sample size, in nats and full precision, of each step to ``run``."""
    reduce_and_log = Trainer._reduce_and_log_stats

    def recording(self: Trainer, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        loss = sum(float(output["loss"]) for output in logging_outputs)
        size = sum(float(output["sample_size"]) for output in logging_outputs)
        (run.losses if self.get_model().training else run.valid_losses).append(loss / max(size, 1))
        return reduce_and_log(self, logging_outputs, sample_size, grad_norm)

    with mock.patch.object(Trainer, "_reduce_and_log_stats", recording):
        yield


@functools.cache
def _parsed_train(backbones: tuple[tuple[str, str], ...]) -> Any:
    return parse_train(train_arguments("data", dict(backbones), max_tokens=None, batch_size=3))


def train_configuration(data: Path | str, backbones: Mapping[str, str], folder: Path, **settings: Any) -> Any:
    """Configuration of fairseq-train on the tiny backbones; batches of three, four updates."""
    cfg = configuration(_parsed_train(tuple(backbones.items())), {"data": data, "save_dir": folder, **settings})
    cfg.dataset.batch_size_valid = cfg.dataset.batch_size
    cfg.dataset.max_tokens_valid = cfg.dataset.max_tokens
    return cfg


def forget_runs() -> None:
    """What fairseq keeps from one run to the next in a process: the best validation loss."""
    for function in (checkpoint_utils.save_checkpoint, train.should_stop_early):
        function.__dict__.pop("best", None)


@contextmanager
def loaders_ended() -> Iterator[None]:
    """End the workers of data loaders that a run leaves in the middle of an epoch.

    A process that ends takes them with it. Here the garbage collector comes upon them, closes their queues first, and
    then waits five seconds for each to read from its queue that it may end.
    """
    made, begin = [], _MultiProcessingDataLoaderIter.__init__

    def beginning(self: Any, loader: Any) -> None:
        begin(self, loader)
        made.append(self)

    with mock.patch.object(_MultiProcessingDataLoaderIter, "__init__", beginning):
        yield
    for iterator in made:
        iterator._shutdown_workers()


@contextmanager
def save_dir_released() -> Iterator[None]:
    """Let go of the folder that a run has written to, as the end of its process would."""
    try:
        yield
    finally:
        release_save_dir()


def run_train(data: Path | str, backbones: Mapping[str, str], folder: Path, **settings: Any) -> Run:
    """fairseq-train in this process, with :func:`train_configuration`."""
    forget_runs()
    run = Run(folder)
    with recorded(run), loaders_ended(), save_dir_released():
        train.main(train_configuration(data, backbones, folder, **settings))
    return run


def run_train_command(
    data: Path | str, backbones: Mapping[str, str], folder: Path, *extra: str, **settings: Any
) -> Run:
    """fairseq-train in this process from its command line on; see :func:`tests.support.helpers.train_arguments`."""
    forget_runs()
    run = Run(folder)
    settings = {"max_tokens": None, "batch_size": 3, "save_dir": folder, **settings}
    with command_line(*train_arguments(data, backbones, *extra, **settings)), recorded(run), save_dir_released():
        train.cli_main()
    return run


def first_stage(corpus: Path, backbones: Mapping[str, str]) -> Run:
    """A run of four updates with --train-modules adapter that tests share; nothing may write into its folder."""
    return _shared(corpus, backbones, "stage1")


def second_stage(corpus: Path, backbones: Mapping[str, str]) -> Run:
    """Four updates of adapter and LLM from the end of :func:`first_stage` on."""
    start = first_stage(corpus, backbones).path()
    return _shared(corpus, backbones, "stage2", finetune_from_model=start, train_modules="adapter,llm")


def _shared(corpus: Path, backbones: Mapping[str, str], name: str, **settings: Any) -> Run:
    run = Run(corpus.parent / f"shared_{name}")
    if not run.path().exists():
        run = run_train(corpus, backbones, run.folder, **settings)
    return run


def decoding_arguments(data: Path | str, checkpoint: Path | str, *extra: str, **settings: Any) -> list[str]:
    """Arguments of fairseq-generate and fairseq-interactive; keywords replace or add flags."""
    flags = {"user_dir": USER_DIR, "task": "lst_st", "path": checkpoint, "beam": 2, "max_len_b": 6, **settings}
    named = [item for name, value in flags.items() for item in (f"--{name.replace('_', '-')}", str(value))]
    return [str(data), "--cpu", *extra, *named]


@functools.cache
def _parsed_generate() -> Any:
    parser = options.get_generation_parser()
    arguments = decoding_arguments("data", "path", batch_size=3, num_workers=0)
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, input_args=arguments))


def run_generate(
    data: Path | str, checkpoint: Path | str, folder: Path, split: str = "test", **settings: Any
) -> dict[int, str]:
    """fairseq-generate in this process: hypotheses by row number. All it wrote is in folder/generate-SPLIT.txt."""
    where = {"data": data, "path": checkpoint, "results_path": folder, "gen_subset": split}
    generate.main(configuration(_parsed_generate(), {**where, **settings}))
    return read_generated(folder / f"generate-{split}.txt")


def run_generate_command(data: Path | str, checkpoint: Path | str, folder: Path, *extra: str) -> dict[int, str]:
    """fairseq-generate of the split test in this process from its command line on."""
    where = {"results_path": folder, "gen_subset": "test", "num_workers": 0}
    with command_line(*decoding_arguments(data, checkpoint, *extra, **where)):
        generate.cli_main()
    return read_generated(folder / "generate-test.txt")


def run_interactive(data: Path | str, checkpoint: Path | str, inputs: Path, *extra: str) -> None:
    """fairseq-interactive in this process; it prints."""
    with command_line(*decoding_arguments(data, checkpoint, *extra, input=inputs, num_workers=0)):
        interactive.cli_main()


def run_validate(data: Path | str, checkpoint: Path | str, *extra: str) -> None:
    """fairseq-validate in this process; it prints, through a logging handler of its own that is taken away again."""
    metrics.reset()  # as at the start of a process
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with command_line(data, "--cpu", "--user-dir", USER_DIR, "--task", "lst_st", "--path", checkpoint, *extra):
            validate.cli_main()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def edited(checkpoint: Path | str, path: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with some of its top-level entries replaced, or changed by a function."""
    state = torch.load(checkpoint, weights_only=True)
    for name, change in changes.items():
        state[name] = change(state[name]) if callable(change) else change
    torch.save(state, path)
    return path


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Names of the entries in which two nested states differ, bit by bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [path]
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if first.keys() != second.keys():
            return [f"{path}: keys {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [name for key in first for name in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f"{path}: lengths {len(first)}, {len(second)}"]
        return [name for i, pair in enumerate(zip(first, second)) for name in differences(*pair, f"{path}.{i}")]
    return [] if first == second else [f"{path}: {first!r}, {second!r}"]


def write_split(folder: Path, split: str, utterances: Sequence[tuple[float, str]], rate: int = 16_000) -> Path:
    """A manifest with a wav file of noise for each (seconds, target text); the data config, if there is none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(utterances))
    rows = []
    for i, (seconds, text) in enumerate(utterances):
        path = folder / f"{split}_{i}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * rate)), rate)
        rows.append({"id": f"{split}_{i}", "audio": path, "n_frames": round(seconds * rate), "tgt_text": text})
    if not (folder / "config.yaml").exists():
        (folder / "config.yaml").write_text("target_lang: de\n", encoding="utf-8")
    return write_tsv(folder / f"{split}.tsv", rows)


def spoil(audio: Path) -> None:
    """Make a wav file unusable in a way that only reading it shows: its header stays right, its samples are NaN."""
    info = soundfile.info(audio)
    soundfile.write(audio, np.full(info.frames, np.nan), info.samplerate, subtype="FLOAT")
