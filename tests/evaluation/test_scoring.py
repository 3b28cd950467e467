"""What scoring is asked for, refused before anything is scored."""

import pytest

from lst_fairseq.evaluation.scoring import ScoringOptions
from lst_fairseq.utils.arguments import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": {"bleu": 99}}, "'bleu' is a result of its own"),
        ({"tokenize": "foo"}, "--tokenize foo: unknown; choose one of 13a, char"),
        ({"triples": -1}, "--triples -1: give 0 or more"),
        ({"after": " "}, "--after: give a text that is not blank"),
        ({"rate": 0}, "--rate 0: give samples a second"),
    ],
)
def test_options_that_cannot_be_right(options, message):
    with pytest.raises(UsageError, match=message):
        ScoringOptions(**options)
