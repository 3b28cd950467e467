"""lst report: several systems' scores in one report."""

import json
from pathlib import Path

import pytest

from lst_fairseq.cli.main import main

SYSTEM = {"name": "LST two-stage", "bleu": 61.234, "chrf": 70.1, "segments": 300, "signature": "nrefs:1|tok:13a"}


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    two = write(
        tmp_path / "two.json", {**SYSTEM, "train_seconds": 540, "trained_parameters": 3_840_000, "sentences": {}}
    )
    base = write(tmp_path / "base.json", {**SYSTEM, "name": "s2t_transformer_s", "bleu": 5.1})
    out = tmp_path / "new" / "report.json"
    main(["report", two, base, "--out", str(out), "--set", "language=de", "corpus=mini"])
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


def test_score_file_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"gone.json: no such file; translate and score"):
        main(["report", str(tmp_path / "gone.json"), "--out", str(tmp_path / "report.json")])
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("content", [{"name": "no score"}, [1, 2], "text"])
def test_not_a_score_file(tmp_path: Path, content: object) -> None:
    with pytest.raises(SystemExit, match="not a score file"):
        main(["report", write(tmp_path / "x.json", content), "--out", str(tmp_path / "report.json")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of the arguments --out --readme is required"),
        (["--out", "o.json", "--readme", "r.md"], "--readme: not allowed with argument --out"),
        (["--out", "o.json", "--check"], "--check: give it with --readme"),
        (["--readme", "r.md", "--set", "a=b"], "--set: give it with --out"),
        (["--out", "o.json", "--set", "novalue"], "--set: 'novalue' is not KEY=VALUE"),
    ],
)
def test_flags_that_do_not_go_together(
    flags: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", "x.json", *flags])
    assert end.value.code == 2 and message in capsys.readouterr().err
