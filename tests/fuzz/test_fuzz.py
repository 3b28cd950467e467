"""A sample of the fuzz, always the same; ``python -m tests.fuzz`` takes thousands."""

import os
from pathlib import Path

import pytest

from tests.fuzz.base import Base, make_base
from tests.fuzz.campaign import Campaign
from tests.fuzz.case import Case, Outcome
from tests.fuzz.kinds import KINDS
from tests.fuzz.verdict import ACCEPTED, FAILED, REFUSED, judge
from tests.support.helpers import REPOSITORY, run_command
from tests.support.running import second_stage

INPUTS_OF_A_KIND = 8


@pytest.fixture(scope="module")
def base(corpus: Path, backbones: dict[str, str]) -> Base:
    return make_base(corpus.parent / "fuzz_base", second_stage(corpus, backbones).path())


@pytest.fixture(scope="module")
def campaign(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    campaign = Campaign(base, tmp_path_factory.mktemp("fuzz"), patience=20)
    campaign.warm()
    return campaign


def test_a_sample_of_inputs(tmp_path: Path) -> None:
    """In a process of its own: children of one that has trained, as this one, may hang in torch."""
    count = str(INPUTS_OF_A_KIND * len(KINDS))
    flags = ["--count", count, "--commands", "0", "--seed", "22", "--patience", "30"]
    result = run_command(
        "tests.fuzz", *flags, "--out", str(tmp_path), check=False, cwd=REPOSITORY
    )
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    inputs = [line.split() for line in result.stdout.splitlines() if line.split(" ")[0] in KINDS]
    assert [row[1] for row in inputs] == [str(INPUTS_OF_A_KIND)] * len(KINDS)


def test_the_same_seed_gives_the_same_inputs(base: Base, tmp_path: Path) -> None:
    from random import Random

    for kind in KINDS.values():
        made = []
        for _ in range(2):
            folder = tmp_path / kind.name
            folder.mkdir()
            case = kind.make(Random("seed"), folder, base)
            files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            made.append((case, files))
            folder.rename(tmp_path / f"{kind.name}-{len(made)}")
        assert made[0] == made[1]


CASE = Case("export", ("x.pt",), "", ("x.pt",))
GOOD = "error: x.pt: cut short; copy it again"


@pytest.mark.parametrize(
    ("outcome", "result", "fault"),
    [
        (Outcome(0, "fine", "", 1, 100), ACCEPTED, ""),
        (Outcome(1, "", f"a warning\n{GOOD}\n", 1, 100), REFUSED, ""),
        (Outcome(1, "", "error: y.pt: cut short; copy it again", 1, 100), FAILED, "names no file"),
        (Outcome(1, "", "error: x.pt: damaged", 1, 100), FAILED, "no remedy"),
        (Outcome(1, "", f"{GOOD}\nand more\n", 1, 100), FAILED, "several lines"),
        (Outcome(1, "", "", 1, 100), FAILED, "silent"),
        (
            Outcome(1, "", f"Traceback (most recent call last):\n{GOOD}", 1, 100),
            FAILED,
            "traceback",
        ),
        (Outcome(None, "", "", 10, 100), FAILED, "hang"),
        (Outcome(0, "", "", 1, 1500), FAILED, "memory"),
        (Outcome(-11, "", "", 1, 100), FAILED, "crash"),
        (Outcome(0, "", "", 1, 100, ("os.system b'x'",)), FAILED, "ran code"),
        (Outcome(0, "", "", 1, 100, ("socket.connect ('x', 80)",)), FAILED, "network"),
        (Outcome(0, "fuzz-secret-5f1d", "", 1, 100), FAILED, "leaked"),
    ],
)
def test_verdicts(outcome: Outcome, result: str, fault: str, tmp_path: Path) -> None:
    base = Base(tmp_path, tmp_path / "marker")
    verdict = judge(CASE, outcome, 100, base, tmp_path)
    assert (verdict.result, verdict.fault) == (result, fault)


def test_the_marker_and_what_was_written_tell(tmp_path: Path) -> None:
    base, fine = Base(tmp_path, tmp_path / "marker"), Outcome(0, "", "", 1, 100)
    base.marker.touch()
    assert judge(CASE, fine, 100, base, tmp_path).fault == "ran code"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lst.json").write_text(base.secret)
    assert judge(CASE, fine, 100, base, tmp_path).fault == "leaked"
    (tmp_path / "out" / "lst.json").unlink()
    assert judge(CASE, fine, 100, base, tmp_path).result == ACCEPTED


def _hostile(arguments: list[str]) -> None:
    what = arguments[0]
    if what == "system":
        os.system("true")
    elif what == "eval":
        eval("'lst_fuzz_marker'")
    elif what == "raise":
        raise RuntimeError("x.pt: damaged")
    elif what == "memory":
        bytearray(4 << 30)


@pytest.mark.parametrize(
    ("what", "fault"),
    [("system", "ran code"), ("eval", "ran code"), ("raise", "traceback"), ("memory", "traceback")],
)
def test_a_child_is_watched(what: str, fault: str, tmp_path: Path) -> None:
    from tests.fuzz.execute import in_child

    case = Case("export", (what,), "", ("x.pt",))
    outcome = in_child(_hostile, case, tmp_path, {}, 60)
    assert judge(case, outcome, 1000, Base(tmp_path, tmp_path / "marker"), tmp_path).fault == fault
