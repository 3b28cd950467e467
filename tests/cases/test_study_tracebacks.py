"""Study files with a value of the wrong kind anywhere: a listing, or one line that names the file and the entry."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lst_fairseq.study.cells import Plan
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.grid import read_study
from lst_fairseq.study.session import listing
from tests.support.helpers import REPOSITORY

STUDIES = sorted((REPOSITORY / "examples" / "study").glob("*.yaml"))
NUMBERS = (5, -1, float("inf"), float("nan"), 10**400)
VALUES = (None, True, *NUMBERS, "abc", "", [], [1], {}, {"a": 1}, {"a": [{"b": [None]}]})


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where each entry of a file lies."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(content: Any, place: tuple, value: Any) -> Any:
    content = copy.deepcopy(content)
    node = content
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return content


def listed(path: Path, out: Path) -> str:
    """What --list prints, or the error."""
    try:
        return listing(Plan(read_study(path), out))
    except StudyError as error:
        assert "\n" not in str(error) and len(str(error)) < 2500
        return f"error: {error}"


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("search: {seed: abc}", "search: seed: 'abc'"),
        ("alignment: [1]", "alignment: [1]"),
        ("exclude: 5", "exclude: 5"),
        ("grid: 5", "grid: 5"),
        ("claims: 5", "claims: 5"),
        ("settings: [1]", "settings: is [1]"),
        ("settings: /none", "settings: /none cannot be read"),
        ("settings: /", "settings: / cannot be read"),
        ("title: no", "title: is read as false"),
        ("seeds: [true]", "seeds: [True]"),
        ("splits: [no]", "splits: [False]"),
        ("grid: [[{}]]", "grid: no factor is called {}"),
        ("base: {TGT_LANG: no}", "base: TGT_LANG: False: give a text or a number, in quotes"),
        ("base: {STAGE1_LR: .inf}", "base: STAGE1_LR: inf"),
        ("base: {data: {instructions: {st: no}}}", "base: data: instructions: st: a text is read as false"),
        ("base: {data: {max_wer: abc}}", "base: data: max_wer: 'abc'"),
        ("factors: {d: {no: {}}}", "factors: d: a name is read as false"),
        ("factors: {d: {a: {data: {fraction: abc}}}}", "factors: d: a: data: fraction: 'abc'"),
        ("factors: {d: {a: {search: [1]}}}", "factors: d: a: search: [1]"),
        ("factors: {d: {a: {at: {x: .nan}}}}", "factors: d: a: at: {'x': nan}"),
        ("seeds: [1]\nseeds: [2]", "seeds stands twice"),
    ],
)
def test_the_entry_is_named(tmp_path, text, entry):
    path = tmp_path / "s.yaml"
    path.write_text(text + ("" if "factors" in text else "\nfactors: {d: {a: {}}}"), encoding="utf-8")
    message = listed(path, tmp_path / "out")
    assert message.startswith("error: ") and entry in message
    assert str(path) in message or "cannot be read" in message


def test_a_grid_without_end(tmp_path):
    path = tmp_path / "s.yaml"
    factors = {f"f{i}": {f"v{i}{j}": {} for j in range(3)} for i in range(30)}
    path.write_text(yaml.safe_dump({"factors": factors}), encoding="utf-8")
    assert "grid: more than 1,000 arms" in listed(path, tmp_path)


@pytest.mark.parametrize("count", [8, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_no_value_gives_a_traceback(study, count, tmp_path):
    """Entries of the examples with other values in their places, drawn from all there are."""
    content = yaml.safe_load(study.read_text(encoding="utf-8"))
    variants = [(place, value) for place in places(content) for value in VALUES]
    path = tmp_path / "s.yaml"
    for place, value in random.Random(3).sample(variants, min(count, len(variants))):
        path.write_text(yaml.safe_dump(changed(content, place, value), sort_keys=False), encoding="utf-8")
        assert listed(path, tmp_path / "out")
