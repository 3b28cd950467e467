"""Settings that are numbers are numbers: text in their place is an error, and not run by bash's arithmetic."""

import subprocess
from pathlib import Path

import pytest

from tests.support.recipe import RECIPE, Sandbox

NUMBERS = {
    "baseline": ("BASELINE_TUNE_SHARE", "BASELINE_PRETRAIN_SHARE", "BASELINE_SECONDS", "BASELINE_UPDATES", "FOLLOWER"),
    "stage1": ("GLOBAL_BATCH", "BATCH", "WORLD_SIZE", "STAGE1_EPOCHS", "WARMUP_RATIO", "SEED", "ADAM_BETAS"),
    "torchrun": ("GPUS", "NODES", "NODE_RANK"),
}


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.mark.parametrize(("script", "name"), [(script, name) for script, names in NUMBERS.items() for name in names])
def test_text_in_a_number_is_not_run(sandbox: Sandbox, script: str, name: str) -> None:
    hostile = "PATH[$(touch ran)0]"
    output = sandbox.run(script, fails=True, **{name: hostile}) if script != "torchrun" else torchrun(sandbox, name)
    assert output.startswith(f"error: {name}={hostile}: ") and output.count("\n") == 1
    assert not list(sandbox.root.rglob("ran"))


def torchrun(sandbox: Sandbox, name: str) -> str:
    done = subprocess.run(
        ["bash", str(RECIPE / "torchrun.sh"), "stage1.sh"],
        env={**sandbox.settings, "GPUS": "1", name: "PATH[$(touch ran)0]"},
        cwd=sandbox.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode
    return done.stderr


@pytest.mark.parametrize("value", ["0", "100", "08", "20%", "", "1.5"])
def test_a_share_is_a_percentage(sandbox: Sandbox, value: str) -> None:
    output = sandbox.run("baseline", fails=True, BASELINE_TUNE_SHARE=value)
    assert f"BASELINE_TUNE_SHARE={value}: give a whole percentage from 1 to 99" in output
