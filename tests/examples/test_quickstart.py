"""The quickstart, and what is said where a checkout has no environment yet, or half of one."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.recipe import RECIPE, ROOT, Sandbox, value


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without .venv, whose mini backbones are empty directories."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(RECIPE, root / "examples" / "mustc")
    shutil.copy(ROOT / "setup.py", root)
    (root / "lst_fairseq").symlink_to(ROOT / "lst_fairseq")
    for name in ("frontend", "llm"):
        (root / "examples" / "mini" / "backbones" / name).mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "mini" / "settings.env", root / "examples" / "mini")
    return root


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with what the scripts call and no compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in "awk bash cat cut dirname grep mkdir mktemp rm sed sha256sum sleep tail".split():
        (folder / name).symlink_to(shutil.which(name))
    return folder


def bash(script: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and everything printed."""
    command = [shutil.which("bash"), str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def environment_with(tmp_path: Path, python: str) -> Path:
    """A virtual environment whose python is the shell script given."""
    environment = tmp_path / "active"
    (environment / "bin").mkdir(parents=True)
    for name, body in (("python", python), ("fairseq-train", ""), ("lst", "")):
        (environment / "bin" / name).write_text("#!/usr/bin/env bash\n" + body)
        (environment / "bin" / name).chmod(0o755)
    return environment


def test_nothing_installed(checkout: Path, tools: Path) -> None:
    assert bash(checkout / "examples" / "mustc" / "prep.sh", PATH=str(tools)) == (
        1,
        "error: fairseq is not installed here: run bash scripts/setup.sh first\n",
    )


def test_an_environment_from_before_there_was_lst(
    checkout: Path, tools: Path, tmp_path: Path
) -> None:
    environment = environment_with(tmp_path, "exit 1")
    (environment / ".lst-fairseq-setup").touch()
    (environment / "bin" / "lst").unlink()
    assert bash(
        checkout / "examples" / "mustc" / "prep.sh", PATH=str(tools), VIRTUAL_ENV=str(environment)
    ) == (
        1,
        "error: the command lst is not installed here: run bash scripts/setup.sh again\n",
    )


def test_quickstart(checkout: Path, sandbox: Sandbox) -> None:
    (checkout / "scripts" / "setup.sh").write_text("exit 0\n")
    environment = {name: sandbox.settings[name] for name in ("PATH", "VIRTUAL_ENV", "CALLS")}
    script = checkout / "scripts" / "quickstart.sh"

    status, output = bash(script, **environment)
    assert status == 0, output
    work = checkout / "results" / "quickstart"
    assert "LST two-stage: BLEU = 61.20 (2 segments, signature s)" in output
    assert output.splitlines()[-1].startswith(f"report: {work}/report.json; 0 min ")
    stage1, stage2 = sandbox.calls("fairseq-train")
    for arguments in (stage1, stage2):
        assert (
            value(arguments, "--arch") == "lst_tiny"
            and value(arguments, "--prompt") == "{speech}<de>"
        )
        assert "--batch-size" not in arguments and value(arguments, "--update-freq") == "1"

    status, output = bash(script, **environment, TGT_LANG="fr")
    assert status == 0 and (checkout / "results" / "quickstart-fr" / "report.json").exists(), output
    assert value(sandbox.calls("fairseq-train")[-1], "--prompt") == "{speech}<fr>"
    assert len([call for call in sandbox.calls("python") if "make_corpus.py" in call[0]]) == 1

    assert "the mini corpus has de, fr and es" in bash(script, **environment, TGT_LANG="it")[1]


def test_quickstart_compare(checkout: Path, sandbox: Sandbox) -> None:
    (checkout / "scripts" / "setup.sh").write_text("exit 0\n")
    environment = {name: sandbox.settings[name] for name in ("PATH", "VIRTUAL_ENV", "CALLS")}
    status, output = bash(
        checkout / "scripts" / "quickstart.sh", "--compare", **environment, TRAIN_SECONDS="1.1"
    )
    assert status == 0, output
    names = [line.split(":")[0] for line in output.splitlines() if "BLEU = " in line]
    assert names == ["LST two-stage", "LST one-stage", "s2t_transformer_s from scratch"]
    report = json.loads((checkout / "results" / "quickstart" / "report.json").read_text())
    assert [system["name"] for system in report["systems"]] == names and report["language"] == "de"


def test_setup_does_nothing_twice(checkout: Path, tools: Path, tmp_path: Path) -> None:
    environment = environment_with(tmp_path, "exit 1")
    names = ("setup.py", "scripts/setup.sh", "scripts/fairseq_setup.py")
    sources = b"".join((checkout / name).read_bytes() for name in names)
    (environment / ".lst-fairseq-setup").write_text(hashlib.sha256(sources).hexdigest() + "\n")
    settings = {"PATH": str(tools), "VIRTUAL_ENV": str(environment)}
    assert bash(checkout / "scripts" / "setup.sh", **settings) == (
        0,
        f"set up already: {environment}\n",
    )
    (environment / "bin" / "lst").rename(tmp_path / "lst")
    assert bash(checkout / "scripts" / "setup.sh", **settings)[0] == 1
    (tmp_path / "lst").rename(environment / "bin" / "lst")
    with (checkout / "setup.py").open("a") as file:
        file.write("# changed\n")
    assert bash(checkout / "scripts" / "setup.sh", **settings)[0] == 1


HAS_TORCH_ONLY = """\
case "$*" in
    *"import re, fairseq"*) exit 1 ;;
    *"importlib.metadata"*) echo 2.9.1 ;;
    *PIP*) echo "ERROR: no such thing"; exit 1 ;;
esac
"""


def test_setup_without_compiler(checkout: Path, tools: Path, tmp_path: Path) -> None:
    environment = environment_with(tmp_path, HAS_TORCH_ONLY)
    status, output = bash(
        checkout / "scripts" / "setup.sh", PATH=str(tools), VIRTUAL_ENV=str(environment)
    )
    assert status == 1
    assert f"setting up {environment}" in output
    assert "there is no C++ compiler: install one" in output.splitlines()[-1]


def test_setup_names_the_log_of_a_failed_step(checkout: Path, tools: Path, tmp_path: Path) -> None:
    environment = environment_with(tmp_path, HAS_TORCH_ONLY.replace("PIP", '"-m pip"'))
    (tools / "c++").touch(0o755)
    status, output = bash(
        checkout / "scripts" / "setup.sh", PATH=str(tools), VIRTUAL_ENV=str(environment)
    )
    assert status == 1
    assert "keeping the torch that is there: 2.9.1" in output and "ERROR: no such thing" in output
    log = checkout / "results" / "setup.log"
    assert (
        output.splitlines()[-1].startswith("error: setup failed at")
        and str(log) in output
        and log.exists()
    )
    assert not (environment / ".lst-fairseq-setup").exists()
