"""Shapes of JSON values: what differs is named."""

import re
from typing import Any

import pytest

from lst_fairseq.utils.shapes import ShapeError, check_shape, is_number

SHAPE = {
    "name": str,
    "score?": float,
    "count": (int, None),
    "texts?": ([str], None),
    "bins?": {re.compile(r"\d+"): {"bleu": float}},
}
VALID: dict[str, Any] = {"name": "a", "score": 1, "count": 3, "texts": ["b"], "bins": {"5": {"bleu": 0.5}}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"count": None}, {"texts": None}, {"texts": []}, {"bins": {}}, {"more": [{}]}, {"score": -1.5}],
)
def test_values_that_fit(changes: dict[str, Any]) -> None:
    check_shape({**VALID, **changes}, SHAPE)
    check_shape({"name": "", "count": 0}, SHAPE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 5}, "name is 5, and should be a text"),
        ({"score": True}, "score is True, and should be a number"),
        ({"score": float("nan")}, "score is nan, and should be a number"),
        ({"score": 10**400}, "score is 10+, and should be a number"),
        ({"count": -1}, "count is -1, and should be a whole number from 0 on or null"),
        ({"count": 1.5}, "count is 1.5, and should be a whole number"),
        ({"texts": ["a", 1]}, "texts.1 is 1, and should be a text"),
        ({"texts": "a"}, "texts is 'a', and should be a list or null"),
        ({"bins": {"x": {}}}, "bins.'x': no such name is known"),
        ({"bins": {"5": {}}}, "bins.5.bleu is missing"),
        ({"bins": {"5": 1}}, "bins.5 is 1, and should be names with values"),
    ],
)
def test_values_that_differ(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{message}"):
        check_shape({**VALID, **changes}, SHAPE)


def test_the_whole_and_a_missing_entry() -> None:
    with pytest.raises(ShapeError, match=r"^the whole is \[\], and should be names with values"):
        check_shape([], SHAPE)
    with pytest.raises(ShapeError, match="name is missing"):
        check_shape({}, SHAPE)


def test_numbers() -> None:
    assert all(map(is_number, (0, -1, 1.5, 10**299)))
    assert not any(map(is_number, (True, "1", None, 10**301, float("inf"), float("nan"))))
