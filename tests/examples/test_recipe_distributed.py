"""Stage 1 of the recipe under torchrun, on two nodes' worth of processes, and under Slurm: what one process trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq_cli import train

from tests.support.helpers import parse_train
from tests.support.ranks import free_port
from tests.support.recipe import RECIPE
from tests.support.running import USER_DIR, forget_runs, read_checkpoint

# One process for each task, in the environment that Slurm gives it.
SRUN = """\
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_ID=0 "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
"""


class Recipe:
    """The recipe's scripts with real commands, on tiny backbones."""

    def __init__(self, root: Path, backbones: dict[str, str]):
        self.root = root
        commands = root / "bin"
        commands.mkdir()
        (commands / "srun").write_text("#!/usr/bin/env bash\n" + SRUN)
        (commands / "srun").chmod(0o755)
        self.settings = {
            **{name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")},
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "OMP_NUM_THREADS": "1",
            "SPEECH_ENCODER": backbones["wav2vec2"], "LLM": backbones["llama"], "ARCH": "lst_tiny",
            "STAGE1_UPDATES": "4", "BATCH": "1", "GLOBAL_BATCH": "2", "NUM_WORKERS": "0", "PRECISION": "fp32",
            "LOG_INTERVAL": "1",
        }  # fmt: skip

    def start(self, work: str, script: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(RECIPE / script), *arguments],
            env={**self.settings, "WORK": str(self.root / work), **settings},
            cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def finish(*processes: subprocess.Popen[str]) -> None:
    """Wait for them all; the first one shows the steps' progress."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    assert "   stage 1: update 4 of 4, loss " in outputs[0]


@pytest.fixture(scope="module")
def recipe(corpus, backbones, tmp_path_factory) -> Recipe:
    recipe = Recipe(tmp_path_factory.mktemp("recipe"), backbones)
    for work in ("torchrun", "slurm"):  # as prep.sh leaves it
        shutil.copytree(corpus, recipe.root / work / "data")
        (recipe.root / work / "data" / ".done").write_text("prepared\n")
    return recipe


def assert_as_one_process(stage1: Path, data: Path) -> None:
    """The adapter in a step's folder is what this process trains with the step's settings, without the engine."""
    flags = dict(line.split(" ", 1) for line in (stage1 / ".settings").read_text().splitlines())
    assert flags.pop("--ddp-backend") == "fully_sharded" and flags.pop("--data")
    assert flags.pop("--update-freq") == "1"  # of two processes
    given = [word for flag in flags.items() for word in flag]
    folder = stage1.parent / "alone"
    plain = [
        str(data), "--cpu", "--user-dir", USER_DIR, "--num-workers", "0", "--update-freq", "2",
        "--save-dir", str(folder), "--no-epoch-checkpoints", "--disable-validation",
    ]  # fmt: skip
    forget_runs()
    train.main(parse_train([*plain, *given]))
    got, wanted = (read_checkpoint(path / "checkpoint_last.pt")["model"] for path in (stage1, folder))
    assert list(got) == list(wanted) and wanted
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, rtol=1e-5, atol=1e-5), name


@pytest.mark.slow
def test_torchrun_on_two_nodes(recipe, corpus):
    """Each node calls the script; the first one alone writes the log and marks the step as done."""
    meeting = {"NODES": "2", "GPUS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    flags = {"EXTRA_TRAIN_ARGS": "--ddp-backend fully_sharded"}
    finish(*(recipe.start("torchrun", "torchrun.sh", "stage1.sh", NODE_RANK=rank, **meeting, **flags) for rank in "01"))
    assert_as_one_process(recipe.root / "torchrun" / "stage1", corpus)


@pytest.mark.slow
def test_slurm_with_a_shared_folder(recipe, corpus):
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    submitted = {"LST_ROOT": str(RECIPE.parents[1]), "RENDEZVOUS": str(recipe.root / "meeting")}
    finish(recipe.start("slurm", "slurm.sh", "stage1.sh", **job, **submitted))
    assert_as_one_process(recipe.root / "slurm" / "stage1", corpus)
    log = (recipe.root / "slurm" / "stage1" / "train.log").read_text(encoding="utf-8")
    assert f"file://{recipe.root}/meeting/lst-7-0-0" in log
