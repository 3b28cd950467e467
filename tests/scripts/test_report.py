"""scripts/report.py: several systems' scores in one report."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.helpers import load_script

SYSTEM = {"name": "LST two-stage", "bleu": 61.234, "chrf": 70.1, "segments": 300, "signature": "nrefs:1|tok:13a"}


@pytest.fixture(scope="module")
def report() -> ModuleType:
    return load_script("report")


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_report(tmp_path: Path, report: ModuleType, capsys: pytest.CaptureFixture) -> None:
    two = write(
        tmp_path / "two.json", {**SYSTEM, "train_seconds": 540, "trained_parameters": 3_840_000, "sentences": {}}
    )
    base = write(tmp_path / "base.json", {**SYSTEM, "name": "s2t_transformer_s", "bleu": 5.1})
    out = tmp_path / "new" / "report.json"
    report.main([two, base, "--out", str(out), "--set", "language=de", "corpus=mini"])
    assert capsys.readouterr().out.splitlines() == [
        "LST two-stage: BLEU = 61.23 (300 segments, signature nrefs:1|tok:13a), trained 3.84 M parameters in 540 s",
        "s2t_transformer_s: BLEU = 5.10 (300 segments, signature nrefs:1|tok:13a)",
    ]
    written = json.loads(out.read_text(encoding="utf-8"))
    assert [system["name"] for system in written["systems"]] == ["LST two-stage", "s2t_transformer_s"]
    assert all("sentences" not in system for system in written["systems"])
    assert written["systems"][0]["bleu"] == 61.234 and written["systems"][0]["trained_parameters"] == 3_840_000
    assert (written["language"], written["corpus"]) == ("de", "mini")
    assert written["machine"]["cpus"] >= 1 and "torch" in written["versions"]


def test_score_file_missing(tmp_path: Path, report: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"gone.json: no such file; translate and score"):
        report.main([str(tmp_path / "gone.json"), "--out", str(tmp_path / "report.json")])
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("content", [{"name": "no score"}, [1, 2], "text"])
def test_not_a_score_file(tmp_path: Path, report: ModuleType, content: object) -> None:
    with pytest.raises(SystemExit, match="not a score file"):
        report.main([write(tmp_path / "x.json", content), "--out", str(tmp_path / "report.json")])
