#!/usr/bin/env python3
"""SIGKILL at random moments: run again to its end, a run leaves bit for bit what a whole one does.

    python -m tests.fuzz.kills                              # ten moments of each kind
    python -m tests.fuzz.kills --count 3 --kinds train both # three of these
    python -m tests.fuzz.kills --seed 7 --keep              # other moments; all folders stay

Kinds: train (one process), save (while a checkpoint is written), sharded (likewise, with shards),
cache (of speech features), prepare (manifests), generate (generate.sh), study (a study of one arm),
export, one (of two processes) and both (of them). Moments are drawn from the time that a run
without a kill takes. Everything is tiny, and forked from a process that has imported all: a moment
takes some seconds. The exit status is 1 if anything differs, is left over, or does not end.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import generate, train

from lst_fairseq.checkpoints.export import export
from lst_fairseq.cli.main import main as lst_command
from lst_fairseq.study.cells import Plan
from lst_fairseq.study.grid import read_study
from lst_fairseq.study.run import Runner
from tests.conftest import SAMPLE_RATE, save_llama, save_wav2vec2
from tests.support.forks import ended, fork
from tests.support.helpers import SENTENCES, lst
from tests.support.recipe import RECIPE
from tests.support.running import train_configuration
from tests.support.warm import commands

UPDATES = 6
SETTINGS = {"max_update": UPDATES, "no_epoch_checkpoints": True, "save_interval_updates": 1}
SHARDED = {**SETTINGS, "ddp_backend": "fully_sharded", "use_sharded_state": True}
#: Seconds after which a run that has not ended counts as hung.
HANGS_AFTER = 300.0
#: Seconds after which a process whose partner was killed has to have noticed.
NOTICED_AFTER = 60.0
#: Lists the names that the environment of a killed run's processes has.
MARK = "LST_KILLS"


@dataclass
class World:
    """What all runs share: a tiny corpus and backbones, and a trained model."""

    root: Path

    @property
    def backbones(self) -> dict[str, str]:
        return {name: str(self.root / name) for name in ("wav2vec2", "llama")}

    def make(self) -> None:
        """Write all of it but the model."""
        save_wav2vec2(self.root / "wav2vec2")
        save_llama(self.root / "llama")
        self.make_corpus("mustc", {"train": 12, "dev": 4, "tst-COMMON": 4})
        self.make_corpus("large", {"train": 4000, "dev": 1000, "tst-COMMON": 1000})
        (self.root / "env" / "bin").mkdir(parents=True)
        (self.root / "env" / ".lst-fairseq-setup").touch()
        python = self.root / "env" / "bin" / "python"
        # The recipe asks it for GPUs, which takes seconds to say.
        question = '[[ $* == *"import torch"* ]] && echo "0 fp32" && exit\n'
        python.write_text(f'#!/usr/bin/env bash\n{question}exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.prepare(self.root / "data")

    def make_corpus(self, name: str, splits: dict[str, int]) -> None:
        """A corpus in MuST-C's form, of one talk a split and so many segments."""
        rng = np.random.default_rng(3)
        for split, count in splits.items():
            base = self.root / name / "en-de" / "data" / split
            (base / "wav").mkdir(parents=True)
            (base / "txt").mkdir()
            talk = (0.1 * rng.standard_normal(20 * SAMPLE_RATE)).astype(np.float32)
            soundfile.write(base / "wav" / "ted_1.wav", talk, SAMPLE_RATE)
            lengths = [round(float(seconds), 2) for seconds in rng.uniform(0.5, 1.5, count)]
            lines = [
                f"- {{duration: {length}, offset: {i % 12 * 1.5}, speaker_id: s, wav: ted_1.wav}}"
                for i, length in enumerate(lengths)
            ]
            targets = [SENTENCES[i % len(SENTENCES)] for i in range(count)]
            texts = {"yaml": lines, "en": ["Hello there."] * count, "de": targets}
            for suffix, content in texts.items():
                (base / "txt" / f"{split}.{suffix}").write_text(
                    "\n".join(content) + "\n", encoding="utf-8"
                )

    def prepare(self, folder: Path, corpus: str = "mustc") -> None:
        root = self.root / corpus
        lst("prep", "mustc", "--data-root", root, "--tgt-lang", "de", "--out", folder)

    def train(self, folder: Path, **settings: Any) -> None:
        torch.set_num_threads(1)
        train.main(
            train_configuration(self.root / "data", self.backbones, folder / "run", **settings)
        )

    def rank(self, folder: Path, rank: int, port: int) -> None:
        """One of two processes; a partner that is gone is noticed."""
        torch.set_num_threads(1)
        two = {
            "distributed_world_size": 2, "distributed_rank": rank, "device_id": rank,
            "distributed_no_spawn": True, "distributed_backend": "gloo",
            "distributed_init_method": f"tcp://localhost:{port}",
            "lost_process_timeout": 3.0, "batch_size": 2,
        }  # fmt: skip
        cfg = train_configuration(
            self.root / "data", self.backbones, folder / "run", **SHARDED, **two
        )
        distributed_utils.call_main(cfg, train.main)

    def recipe(self, work: Path) -> dict[str, str]:
        """Environment of the recipe's scripts."""
        return {
            "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1",
            "VIRTUAL_ENV": str(self.root / "env"), "WORK": str(work), MARK: str(work),
            **self.settings(),
        }  # fmt: skip

    def settings(self) -> dict[str, str]:
        """Settings of the recipe that make everything small."""
        return {
            "MUSTC_ROOT": str(self.root / "mustc"), "SPEECH_ENCODER": self.backbones["wav2vec2"],
            "LLM": self.backbones["llama"], "ARCH": "lst_tiny",
            "EXTRA_TRAIN_ARGS": "--adapter-channels 24",
            "STAGE1_UPDATES": "2", "STAGE2_UPDATES": "4", "ONE_STAGE_UPDATES": "4",
            "GLOBAL_BATCH": "3", "BATCH": "3", "SAVE_INTERVAL": "1", "LOG_INTERVAL": "1",
            "NUM_WORKERS": "0", "MAX_LEN_B": "6", "BEAM": "2",
        }  # fmt: skip


def script(name: str, environment: dict[str, str]) -> None:
    """Become one of the recipe's scripts."""
    os.execvpe("bash", ["bash", str(RECIPE / f"{name}.sh")], environment)


def study(world: World, folder: Path) -> None:
    """Run a study of one arm."""
    os.environ.update({name: text for name, text in world.recipe(folder).items() if name != "WORK"})
    os.environ["PATH"] = f"{world.root / 'env' / 'bin'}:{os.environ['PATH']}"
    folder.mkdir(exist_ok=True)
    content = {
        "name": "kills", "base": world.settings(), "seeds": [1], "splits": ["tst-COMMON"],
        "factors": {"strategy": {"one-stage": {"ONE_STAGE": 1}}},
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    plan = Plan(
        read_study(folder / "study.yaml"),
        folder / "out",
        str(world.root / "env" / "bin" / "python"),
    )
    if failures := Runner(plan, plan.study.arms, poll=0.1).run():
        raise RuntimeError(failures[0].lines)


# --- what a run leaves ----------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, Any]:
    """All results in a folder but times: tensors, manifests, cached features, translations and
    scores.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "checkpoint_last.pt":
            state = torch.load(path, weights_only=True)
            found[name] = [state["model"], state["last_optimizer_state"], updates(state)]
        elif path.suffix in (".tsv", ".npy", ".safetensors", ".distcp"):
            # Folders of shards are numbered in the order in which they are written.
            found[name.split(".")[0] if "shards" in name else name, path.suffix] = path.read_bytes()
        elif path.name.startswith("generate-"):
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = [line for line in lines if line[:2] in ("H-", "D-", "T-")]
        elif path.suffix == ".json" and path.parent.name == "scores":
            score = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {
                key: score[key] for key in ("bleu", "chrf", "ter", "signature", "sentences")
            }
    return found


def updates(state: dict[str, Any]) -> int:
    return state["optimizer_history"][-1]["num_updates"]


def same(first: Any, second: Any) -> bool:
    """Whether two nested results are equal, tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def left_over(folder: Path) -> list[str]:
    """Names of temporary files and folders."""
    return [
        path.name for path in folder.rglob("*") if ".tmp" in path.name or path.suffix == ".partial"
    ]


# --- runs and kills -------------------------------------------------------------------------------


@dataclass
class Kind:
    """How a kind of run is started, and killed.

    Attributes:
        start: into a folder; the processes' ids.
        before: makes what has to be in the folder.
        watch: a pattern of files; the kill comes as one appears rather than after a time.
        appearances: at least so many files appear.
        victims: how many of the processes are killed.
    """

    start: Callable[[Path], list[int]]
    before: Callable[[Path], None] = lambda folder: folder.mkdir()
    watch: str = ""
    appearances: int = 2 * UPDATES - 1
    victims: int | None = None


def kinds(world: World) -> dict[str, Kind]:
    """All kinds, by name."""

    def one(function: Callable[..., Any], **settings: Any) -> Callable[[Path], list[int]]:
        return lambda folder: [fork(function, folder, log=log_of(folder), group=True, **settings)]

    def two(folder: Path) -> list[int]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        return [
            fork(world.rank, folder, rank, port, log=log_of(folder), group=True)
            for rank in range(2)
        ]

    def trained(folder: Path) -> None:
        shutil.copytree(world.root / "work", folder)

    def export_to(folder: Path) -> None:
        checkpoint = world.root / "work" / "stage2" / "checkpoint_last.pt"
        if not (folder / "exported").exists():
            export(checkpoint, folder / "exported", with_frontend=True)

    def caching(folder: Path) -> None:
        world.train(folder, **{**SETTINGS, "max_update": 1}, cache_features=str(folder / "cache"))

    return {
        "train": Kind(one(world.train, **SETTINGS)),
        "save": Kind(one(world.train, **SETTINGS), watch="run/*.tmp"),
        "sharded": Kind(one(world.train, **SHARDED), watch="run/checkpoint*.tmp"),
        "cache": Kind(one(caching), watch="cache/*/*", appearances=4),
        "prepare": Kind(one(lambda folder: world.prepare(folder / "data", "large"))),
        "export": Kind(one(export_to)),
        "generate": Kind(
            one(lambda folder: script("generate", world.recipe(folder))), before=trained
        ),
        "study": Kind(one(lambda folder: study(world, folder))),
        "one": Kind(two, victims=1),
        "both": Kind(two, victims=2),
    }


def log_of(folder: Path) -> Path:
    return folder.with_suffix(".log")


def wait(processes: list[int], seconds: float) -> list[int | None]:
    """Exit status of each process, None of one that has not ended after so many seconds; that one
    is killed.
    """
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(statuses) < len(processes) and time.monotonic() < deadline:
        for process in [p for p in processes if p not in statuses]:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                statuses[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    for process in [p for p in processes if p not in statuses]:
        kill(process)
        ended(process)
    return [statuses.get(process) for process in processes]


def kill(process: int) -> None:
    """SIGKILL to a process and all of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def kill_marked(folder: Path) -> None:
    """SIGKILL to the programs that a run has started in sessions of their own: its mark is in their
    environment.
    """
    mark = f"{MARK}={folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def killed(kind: Kind, folder: Path, moment: float, rng: random.Random) -> tuple[bool, str]:
    """Start a run and kill it; whether that came before its end, and what went wrong."""
    processes = kind.start(folder)
    began = time.monotonic()
    if kind.watch:
        passed = rng.randint(1, kind.appearances)
        seen: set[tuple[str, int]] = set()
        while len(seen) < passed and not exited(processes[0]):
            with contextlib.suppress(FileNotFoundError):
                seen |= {(path.name, path.stat().st_ino) for path in folder.glob(kind.watch)}
        moment = rng.choice([0.0, 0.001, 0.01])
        began = time.monotonic()
    while time.monotonic() - began < moment and not exited(processes[0]):
        time.sleep(0.001)
    early = not exited(processes[0])
    victims = rng.sample(processes, kind.victims or len(processes))
    for victim in victims:
        kill(victim)
    if set(victims) == set(processes):
        kill_marked(folder)
    statuses = wait(processes, NOTICED_AFTER)
    hung = [p for p, status in zip(processes, statuses, strict=True) if status is None]
    return early, f"{len(hung)} of {len(processes)} hung" if hung else ""


def exited(process: int) -> bool:
    """Whether a process has ended, which is still to be waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def finish(kind: Kind, folder: Path) -> tuple[float, str]:
    """Run to the end; the seconds it took, and what went wrong."""
    began = time.monotonic()
    statuses = wait(kind.start(folder), HANGS_AFTER)
    wrong = "" if set(statuses) == {0} else f"exit status {statuses}, see {log_of(folder)}"
    return time.monotonic() - began, wrong


def attempt(
    kind: Kind, folder: Path, wanted: dict[str, Any], seconds: float, rng: random.Random
) -> str | None:
    """Kill a run, run it again, and compare; what is wrong, or None where it ended before it could
    be killed.
    """
    kind.before(folder)
    early, wrong = killed(kind, folder, rng.uniform(0, seconds), rng)
    if not wrong:
        _, wrong = finish(kind, folder)
    if not wrong:
        found = contents(folder)
        differing = [
            str(name)
            for name in wanted.keys() | found.keys()
            if not same(wanted.get(name), found.get(name))
        ]
        wrong = f"differs: {', '.join(sorted(differing))}" if differing else ""
    if not wrong and (names := left_over(folder)):
        wrong = f"left over: {', '.join(names)}"
    return wrong if early or wrong else None


def campaign(world: World, names: list[str], count: int, seed: int, keep: bool) -> int:
    """Kill ``count`` runs of each kind and print a table; the number of those that went wrong."""
    failures = 0
    print(f"{'kind':10} {'run, s':>7} {'kills':>6} {'equal':>6}")
    for name in names:
        kind, rng = kinds(world)[name], random.Random(f"{seed} {name}")
        straight = world.root / f"{name}-straight"
        kind.before(straight)
        seconds, wrong = finish(kind, straight)
        if wrong:
            print(f"{name:10} without a kill: {wrong}")
            failures += 1
            continue
        wanted, done, equal = contents(straight), 0, 0
        for number in range(3 * count):  # some end before they are killed
            folder = world.root / f"{name}-{number}"
            fault = attempt(kind, folder, wanted, seconds, rng)
            if fault is not None:
                done, equal = done + 1, equal + (not fault)
            if fault:
                print(f"  {name} {number}: {fault}", flush=True)
            if not (fault and keep):
                shutil.rmtree(folder, ignore_errors=True)
            if done == count:
                break
        failures += done - equal + (done < count)
        print(f"{name:10} {seconds:7.1f} {done:6d} {equal:6d}", flush=True)
    return failures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = list(kinds(World(Path())))
    parser.add_argument(
        "--count", type=int, default=10, help="kills of each kind (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: %(default)s)")
    parser.add_argument(
        "--kinds", nargs="+", choices=known, default=known, help="only these (default: all)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the folders, also of runs that went wrong"
    )
    args = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="lst-kills-"))
    world = World(root)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train_configuration("data", world.backbones, "run")  # parsed once, before the forks
    try:
        # This process itself must not train, nor start a thread: it could not be forked to train
        # then.
        if ended(fork(world.make, log=root / "make.log")):
            print((root / "make.log").read_text(encoding="utf-8"), file=sys.stderr)
            return 1
        programs = {"fairseq-train": train.cli_main, "fairseq-generate": generate.cli_main}
        programs["lst"] = lst_command
        with commands(root / "env" / "bin", programs):
            if {"generate", "export"} & set(args.kinds):
                for name in ("prep", "stage1", "stage2"):
                    done = fork(script, name, world.recipe(root / "work"), log=root / "work.log")
                    if ended(done):
                        print((root / "work.log").read_text(encoding="utf-8"), file=sys.stderr)
                        return 1
            failures = campaign(world, args.kinds, args.count, args.seed, args.keep)
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    if args.keep:
        print(f"folders: {root}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
