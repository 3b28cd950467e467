"""PyPI's torch is "2.13.0" in its metadata and "2.13.0+cu130" in ``torch.__version__``: pip goes by the former."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.helpers import REPOSITORY

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def distribution(name: str, version: str, requires: str = "", module: str = "") -> dict[str, str]:
    """The files of an installed package, or of a wheel: their text by path."""
    info = f"{name}-{version}.dist-info"
    return {
        f"{name}.py": module,
        f"{info}/METADATA": METADATA.format(name=name, version=version, requires=requires),
        f"{info}/WHEEL": WHEEL,
        f"{info}/RECORD": "",
    }


def pin_line() -> str:
    """The line of setup.sh that writes the constraints."""
    script = (REPOSITORY / "scripts" / "setup.sh").read_text(encoding="utf-8")
    (line,) = [line for line in script.splitlines() if '>"$scratch/constraints.txt"' in line]
    return line


@pytest.mark.parametrize(
    ("in_metadata", "in_module"), [("2.13.0", "2.13.0+cu130"), ("2.13.0+cpu", "2.13.0+cpu")]
)
def test_torch_is_pinned_as_pip_knows_it(in_metadata: str, in_module: str, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    torch = distribution("torch", in_metadata, module=f'__version__ = "{in_module}"\n')
    for name, text in torch.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "needs_torch-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in distribution("needs_torch", "1.0", "Requires-Dist: torch>=2.6\n").items():
            wheel.writestr(name, text)

    script = f'scratch={tmp_path}\npy() {{ {python} "$@"; }}\n{pin_line()}\n'
    subprocess.run(["bash", "-euc", script], check=True)
    constraints = tmp_path / "constraints.txt"
    assert constraints.read_text() == f"torch=={in_metadata}\n"

    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": ""}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    pip += ["install", "--dry-run", "--no-index", "--find-links", str(tmp_path)]
    done = subprocess.run(
        [*pip, "-c", str(constraints), "needs_torch"], env=settings, capture_output=True, text=True
    )
    assert "Would install needs_torch-1.0" in done.stdout.replace("needs-torch", "needs_torch"), done.stderr
