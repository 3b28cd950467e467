"""What programs write for other programs: translations, logs and scores."""

import json
import shutil
from pathlib import Path
from random import Random

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.mutators import changed_tree, damaged, deep_text
from tests.support.helpers import REPOSITORY

RESULTS = REPOSITORY / "examples" / "mini" / "results" / "mini.json"


ODD_LINES = (
    *(b"D-", b"D-0", b"D-99999999999999999999\t0\tx", b"D--1\t0\tx", b"D-0\tnan\t"),
    *(b"D-\xd9\xa3\t0\tx", b"\xff"),
)
SPEED = "Translated 5 sentences (30 tokens) in 1.0s (5.00 sentences/s, 30 tokens/s)"


class Records:
    """Translations and scores, damaged or with entries changed."""

    name = "records"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        return rng.choice((_hypotheses, _log, _scores, _scores))(rng, folder, base)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        return None


def _hypotheses(rng: Random, folder: Path, base: Base) -> Case:
    path = folder / "generate-test.txt"
    lines = base.hypotheses.read_bytes().split(b"\n")
    if rng.random() < 0.5:
        content, said = damaged(b"\n".join(lines), rng)
    else:
        number = rng.choice([i for i, line in enumerate(lines) if line.startswith(b"D-")])
        line = lines[number]
        lines[number] = rng.choice((*ODD_LINES, line + b"\tmore", line + b"\r", line * 2))
        content, said = b"\n".join(lines), f"line {number + 1} is {lines[number]!r:.60}"
    path.write_bytes(content)
    return Case("score", _score(base, folder, path), said, (path.name,))


def _log(rng: Random, folder: Path, base: Base) -> Case:
    path = folder / "generate.log"
    signature = {
        "frontend": "w2v",
        "llm": "llama",
        "adapter": {"type": "conv"},
        "prompt": "{speech}",
    }
    tree, said = changed_tree(signature, rng, str(base.marker))
    text = f"lst signature: {json.dumps(tree)}\n{SPEED}\n"
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        content, said = damaged(text.encode(), rng)
    path.write_bytes(content)
    arguments = (*_score(base, folder, base.hypotheses), "--log", str(path))
    return Case("score", arguments, f"log: {said}", (path.name,))


def _score(base: Base, folder: Path, hypotheses: Path) -> tuple[str, ...]:
    manifest = str(base.corpus / "test.tsv")
    given = (
        "--manifest",
        manifest,
        "--hypotheses",
        str(hypotheses),
        "--json",
        str(folder / "out" / "s.json"),
    )
    return given


def _scores(rng: Random, folder: Path, base: Base) -> Case:
    program = rng.choice(("compare", "compare", "report", "report --readme"))
    path = folder / "scores.json"
    seed = json.loads((RESULTS if program == "report --readme" else base.scores).read_text("utf-8"))
    what = rng.random()
    if what < 0.75:
        tree, said = changed_tree(seed, rng, str(base.marker))
        content = json.dumps(tree).encode()
    elif what < 0.8:
        text = deep_text(rng)
        content, said = text.encode(), f"nested: {text[:20]!r}"
    else:
        content, said = damaged(json.dumps(seed).encode(), rng)
    path.write_bytes(content)
    if program == "report --readme":
        readme = folder / "README.md"
        shutil.copy(REPOSITORY / "README.md", readme)
        return Case("report", (str(path), "--readme", str(readme)), said, (path.name,))
    out = str(folder / "out" / "report")
    other = folder / "other.json"
    other.write_text(
        json.dumps({**json.loads(base.scores.read_text("utf-8")), "name": "other"}),
        encoding="utf-8",
    )
    more = ("--baseline", "other", "--samples", "10") if program == "compare" else ()
    named = (path.name, seed["name"])  # compare speaks of systems
    return Case(program, (str(path), str(other), "--out", out, *more), said, named)
