"""lst report --readme: a README's results are what the JSON says, or --check fails."""

import json
from pathlib import Path

import pytest

from lst_fairseq.cli.main import main
from lst_fairseq.evaluation.report.readme import BEGIN, END

README = """\
# A project

Before.

<!-- results: written by lst report -->
typed by hand: 99.9
<!-- end of results -->

After.\u2028 The end.
"""
SYSTEM = {"bleu": 61.24, "bleu_ci": 2.04, "chrf": 70.1, "chrf_ci": 1.5, "signature": "tok:13a"}
RESULTS = {
    "title": "Mini, En-De",
    "segments": 1300,
    "baseline": "base",
    "bootstrap": {"samples": 1000, "seed": 5},
    "systems": [
        {"name": "LST", **SYSTEM, "bleu_p": 0.000999, "chrf_p": 0.34, "full_signature": "n:1300|tok:13a", "saw": "all"},
        {"name": "base", **SYSTEM, "bleu": 11.0, "trained_parameters": 512, "train_seconds": 9000},
    ],
    "differences": [],
    "machine": {"cpus": 2, "gpus": [], "platform": "Linux"},
}
SECTION = """\
### Mini, En-De

| system | BLEU | p (BLEU) | chrF2 | p (chrF2) | trained on | trained parameters | training |
|---|---|---|---|---|---|---|---|
| LST | 61.2 ± 2.0 | 0.001 | 70.1 ± 1.5 | 0.34 | all |  |  |
| base | 11.0 ± 2.0 |  | 70.1 ± 1.5 |  |  | 512 | 2.5 h |

± is half the 95 % interval over 1,000 bootstrap resamples of 1,300 segments (seed 5). p is of the paired bootstrap \
test against base, by sacreBLEU. Compared on 2 CPUs, no GPU.

<details><summary>Tests and signatures</summary>

- LST is significantly above base: +50.2 BLEU, p = 0.001.

- LST: `n:1300|tok:13a`
- base: `tok:13a`

</details>"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    readme, results = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(README, encoding="utf-8")
    results.write_text(json.dumps(RESULTS), encoding="utf-8")
    return readme, results


def test_section_is_written_between_the_markers(files: tuple[Path, Path]) -> None:
    readme, results = files
    main(["report", str(results), "--readme", str(readme)])
    written = readme.read_text(encoding="utf-8")
    assert written == README.replace("typed by hand: 99.9\n", f"\n{SECTION}\n\n")
    main(["report", str(results), "--readme", str(readme)])
    assert readme.read_text(encoding="utf-8") == written
    main(["report", str(results), str(results), "--readme", str(readme)])
    assert readme.read_text(encoding="utf-8") == README.replace(
        "typed by hand: 99.9\n", f"\n{SECTION}\n\n{SECTION}\n\n"
    )


def test_check_fails_where_the_section_is_stale(files: tuple[Path, Path]) -> None:
    readme, results = files
    stale = r"its results are stale; run lst report \S+results.json --readme \S+README.md$"
    with pytest.raises(SystemExit, match=stale):
        main(["report", str(results), "--readme", str(readme), "--check"])
    assert readme.read_text(encoding="utf-8") == README
    main(["report", str(results), "--readme", str(readme)])
    main(["report", str(results), "--readme", str(readme), "--check"])
    readme.write_text(readme.read_text(encoding="utf-8").replace("61.2", "71.2"), encoding="utf-8")
    with pytest.raises(SystemExit, match="stale"):
        main(["report", str(results), "--readme", str(readme), "--check"])


def test_errors_are_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    readme, results = files
    broken = tmp_path / "broken.json"
    broken.write_text('{"systems": []}')

    def changed(**entries: object) -> Path:
        path = tmp_path / f"{next(iter(entries))}-{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({**RESULTS, **entries}), encoding="utf-8")
        return path

    for name, text in (("none", "text"), ("twice", f"{BEGIN}\n{BEGIN}\n{END}"), ("turned", f"{END}\n{BEGIN}")):
        (tmp_path / f"{name}.md").write_text(text)
    for (into, given), message in (
        ([tmp_path / "gone.md", results], "gone.md: no such file"),
        ([readme, tmp_path / "gone.json"], "gone.json: no such file; make it with lst compare"),
        ([readme, broken], "broken.json: not a results.json .*segments is missing"),
        ([readme, changed(baseline="other")], "baseline is 'other', and the systems are LST, base"),
        ([readme, changed(baseline=None)], "baseline is null, and a system has bleu_p"),
        ([readme, changed(title=5)], "title is 5, and should be a text"),
        ([readme, changed(systems=[{}])], "systems.0.name is missing"),
        ([readme, changed(machine={"cpus": 2, "gpus": "none"})], "machine.gpus is 'none', and should be a list"),
        ([tmp_path / "none.md", results], "none.md: 0 lines '<!-- results: .*one is needed"),
        ([tmp_path / "twice.md", results], "twice.md: 2 lines"),
        ([tmp_path / "turned.md", results], "stands before"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
            main(["report", str(given), "--readme", str(into)])
        assert "\n" not in caught.value.code
    assert readme.read_text(encoding="utf-8") == README
