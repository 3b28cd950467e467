"""A sample of the campaign of kills; all of it is run on request."""

import subprocess
import sys

import pytest

from tests.support.helpers import REPOSITORY


@pytest.mark.slow
def test_some_moments():
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.kills",
        "--count",
        "2",
        "--kinds",
        "train",
        "cache",
        "prepare",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[2:] for line in done.stdout.splitlines() if line[:1] != " "][1:] == [
        ["2", "2"]
    ] * 3
