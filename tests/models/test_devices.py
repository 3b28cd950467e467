"""What tests/support/on_device.py says of a pretended accelerator, in a process that knows it from its start."""

import re

import pytest

from tests.support import pretended
from tests.support.helpers import REPOSITORY, run_command


@pytest.mark.skipif(not pretended.AVAILABLE, reason="this PyTorch cannot register a device from Python")
def test_on_a_pretended_accelerator() -> None:
    arguments = ["tests/support/on_device.py", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore"]
    result = run_command("pytest", *arguments, cwd=REPOSITORY)
    found = re.search(r"^(\d+) passed in", result.stdout, re.MULTILINE)
    assert found and int(found[1]) >= 25, result.stdout
