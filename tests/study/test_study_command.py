"""lst study: its report, its failures and its Slurm array."""

import json
import os
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lst_fairseq.study.run import slurm_script
from tests.support.helpers import REPOSITORY, lst
from tests.support.recipe import value
from tests.support.studies import Studies


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studies:
    return Studies(tmp_path, monkeypatch)


@pytest.fixture
def command(studies, monkeypatch):
    """``lst study`` in this process."""
    return lambda *arguments: lst("study", studies.root / "study.yaml", "--out", studies.out, *arguments)


def test_command_runs_and_reports(studies, command, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    fractions = {"fraction": {"100%": {}, "25%": {"STAGE2_LR": "7e-4"}}}
    one_stage = {"strategy": {"two-stage": {"note": "as | the paper"}, "one-stage": {"ONE_STAGE": 1, "STAGE1_LR": 1}}}
    studies.plan(factors={**one_stage, **fractions}, title="Tiny <study>", splits=["tst-COMMON"])
    command("--list")
    # Data, two seeds of stage 1, and two steps more of two seeds of four arms.
    assert f"{1 + 2 + 2 * 2 * 4} steps in all" in capsys.readouterr().out and not studies.out.exists()
    command("--samples", "50", "--jobs", "3")
    said = capsys.readouterr().out
    assert "Two beat one" in said and "written:" in said
    lines = [json.loads(line) for line in (studies.out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 2 and str(REPOSITORY) not in (studies.out / "results.jsonl").read_text()
    report = (studies.out / "report.md").read_text()
    assert report.startswith("# Tiny \\<study\\>\n")
    table = report.split("## strategy\n")[1].split("## ")[0]
    mean = statistics.fmean(line["scores"]["tst-COMMON"]["bleu"] for line in lines if line["arm"] == "one-stage")
    (row,) = [line for line in table.splitlines() if line.startswith("| one-stage")]
    assert f"{mean:.1f} ±" in row and "1.23 k" not in row and "0.00 M" in row
    assert "| two-stage (reference) | as \\| the paper |" in table
    assert "## strategy x fraction" in report and "| one-stage, 25% |" in report
    page = (studies.out / "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    body = page[page.index("<body>") : page.index("</html>")]
    root = ElementTree.fromstring(body)
    plots = root.findall(".//svg")
    assert len(plots) >= 8 and "Tiny <study>" in "".join(root.itertext())
    # BLEU by amount of data: a line for each strategy through both points.
    (by_fraction,) = [svg for svg in plots if any((t.text or "") == "fraction" for t in svg.iter("text"))]
    assert [len(line.get("points").split()) for line in by_fraction.iter("polyline")] == [2, 2]
    before = len(studies.calls("fairseq-train"))
    command("--report", "--samples", "50")
    assert len(studies.calls("fairseq-train")) == before and (studies.out / "report.md").read_text() == report


def test_command_fails_with_the_log(studies, command, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("FAILS", "--train-modules adapter,lora")
    low_rank = {"two-stage": {}, "lora": {"STAGE2_MODULES": "adapter,lora"}}
    studies.plan(seeds=[1], factors={"strategy": low_rank}, claims=[])
    with pytest.raises(SystemExit) as end:
        command("--samples", "20")
    assert "1 steps failed; the same command tries them again" in str(end.value.code)
    assert "failed: stage2: lora, seed 1" in (errors := capsys.readouterr().err) and "disk on fire" in errors
    assert "disk on fire" in (studies.out / "report.md").read_text()


def test_command_of_one_arm(studies, command, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    studies.plan(seeds=[1])
    command("--arm", "1")
    assert studies.trainings() == ["one-stage"] and not (studies.out / "report.md").exists()
    with pytest.raises(SystemExit, match="--arm 7: the study has arms 0 to 2"):
        command("--arm", "7")


def test_command_rehearses(studies, command, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    studies.plan(search={"STAGE2_LR": [1e-3, 5e-4], "STAGE2_UPDATES": [20, 40]})
    command("--rehearse", "--samples", "20")
    calls = studies.calls("fairseq-train")
    assert len(calls) == 1 + 3  # stage 1 is shared
    assert {value(call, "--max-update") for call in calls} == {"6"}
    assert "a rehearsal, whose scores mean nothing" in (studies.out / "report.md").read_text()


def test_slurm_array(studies, command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    plan = studies.plan()
    command("--slurm", str(tmp_path / "study.sbatch"), "--slurm-options", "gpus=1;time=8:00:00")
    text = (tmp_path / "study.sbatch").read_text()
    assert "#SBATCH --array=0-2\n" in text and "#SBATCH --gpus=1\n#SBATCH --time=8:00:00\n" in text
    assert f"\nexport PYTHONPATH={REPOSITORY}${{PYTHONPATH:+:$PYTHONPATH}}\nexec " in text
    assert '--arm "$SLURM_ARRAY_TASK_ID"' in text and studies.trainings() == []
    assert text == slurm_script(tmp_path / "study.yaml", plan.study, plan.out, sys.executable, "gpus=1;time=8:00:00")
    assert os.system(f"bash -n {tmp_path / 'study.sbatch'}") == 0
    command("--rehearse", "--slurm", str(tmp_path / "rehearsal.sbatch"))
    assert " --rehearse --arm " in (tmp_path / "rehearsal.sbatch").read_text()
