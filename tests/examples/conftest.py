from pathlib import Path

import pytest

from tests.support.recipe import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)
