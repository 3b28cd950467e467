"""benchmarks/table.py: a README's benchmark figures are what the JSON says, or --check fails."""

import json
from pathlib import Path

import pytest

from benchmarks import table

README = f"Before.\n\n{table.BEGIN}\ntyped by hand\n{table.END}\n\nAfter.\n"
DECODING = {
    "title": "Beam search",
    "peer": "generate",
    "ratio": 3.456,
    "cpu_ratio": 3.21,
    "unit": "times the tokens a second",
    "identical": True,
    "score_difference": 1.9e-6,
    "machine": {"device": "CPU", "threads": 1, "load": 2.5},
}
UTILISATION = {"ratio": 0.51, "identical": False, "machine": {"device": "NVIDIA H200"}}
NAMED = {"device": "CPU", "processor": "Some Xeon", "threads": 2, "load": 1.0}
TRAINING = {
    "ratio": 2.5,
    "machine": NAMED,
    "peers": {"a": {"peer": "a loop", "ratio": 2.5}, "b": {"peer": "steps", "ratio": 0.95}},
}
GROWTH = {"title": "Growth", "table": "| a |\n|---|\n| 1 |"}
MEMORY = {"title": "Host memory", "sentences": 10_000, "growth_mib": 0.1, "resident_mib": [1, 2], "settings": {}}
SECTION = """\
| what | against | result | same output | where |
|---|---|---|---|---|
| Beam search | generate | 3.46 times the tokens a second (3.21 by processor time) | yes, within 2e-06 | \
CPU, 1 thread, load 2.5 |
| utilisation |  | 0.51 times | no | NVIDIA H200 |
| training | a loop | 2.50 times |  | Some Xeon, 2 threads, load 1.0 |
| training | steps | 0.95 times |  | Some Xeon, 2 threads, load 1.0 |

**Growth**:

| a |
|---|
| 1 |

**Host memory**: sentences 10,000, growth mib 0.1"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    results = {"decoding": DECODING, "utilisation": UTILISATION, "training": TRAINING}
    results |= {"growth": GROWTH, "memory": MEMORY}
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    return [str(tmp_path / name) for name in ("README.md", *(f"{name}.json" for name in results))]


def test_section_is_written_and_checked(files: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"README\.md: its benchmarks are stale"):
        table.main([*files, "--check"])
    assert Path(files[0]).read_text(encoding="utf-8") == README
    table.main(files)
    written = Path(files[0]).read_text(encoding="utf-8")
    assert written == README.replace("typed by hand\n", f"\n{SECTION}\n\n")
    table.main([*files, "--check"])
    table.main(files)
    assert Path(files[0]).read_text(encoding="utf-8") == written


def test_errors_are_one_line(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("no")
    (tmp_path / "bare.md").write_text("text")
    for arguments, message in (
        ([tmp_path / "gone.md", files[1]], "gone.md: no such file; give the README"),
        ([files[0], tmp_path / "gone.json"], "gone.json: no such file; make it with a benchmark's --json"),
        ([files[0], tmp_path / "list.json"], "list.json: not what a benchmark writes"),
        ([files[0], tmp_path / "text.json"], "text.json: not JSON"),
        ([tmp_path / "bare.md", files[1]], "bare.md: 0 lines '<!-- benchmarks: .*one is needed"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
            table.main([str(argument) for argument in arguments])
        assert "\n" not in caught.value.code
