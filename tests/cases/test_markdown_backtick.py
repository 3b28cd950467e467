"""Names and logs of others stay text in Markdown reports, however many backticks they have."""

import re

import pytest

from lst_fairseq.evaluation.metrics import full_signature
from lst_fairseq.evaluation.report.comparison import markdown as comparison_markdown
from lst_fairseq.evaluation.report.comparison import section
from lst_fairseq.study.report import markdown
from lst_fairseq.utils.markdown import code_block, code_span, escape

HTML = "<svg/onload=alert(1)>"
NAMES = [f"A`{HTML}", f"``{HTML}``", f"`{HTML}`", f"a```\n{HTML}", f"|{HTML}|", HTML]


def outside_code(text: str) -> str:
    """Markdown without its code blocks and spans, found as CommonMark does: a fence ends at one of its own length."""
    text = re.sub(r"^(`{3,})[^`\n]*\n.*?^\1`*$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace("\\`", "")  # no fence
    return re.sub(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


def shows_html(text: str) -> bool:
    return bool(re.search(r"(?<!\\)<(?!details>|summary>|/)", outside_code(text)))


@pytest.mark.parametrize("name", NAMES)
def test_a_system_of_any_name(name):
    signature = full_signature("nrefs:1", 5, {"system": name})
    system = {"name": name, "signature": "s", "full_signature": signature, "bleu": 1.0, "bleu_ci": 0.1}
    results = {
        "systems": [system, {**system, "name": "b", "bleu_p": 0.5}],
        "baseline": name,
        "segments": 5,
        "bootstrap": {"samples": 10, "seed": 1},
        "differences": [],
    }
    for text in (comparison_markdown(results), section(results)):
        assert not shows_html(text)
        assert all(line.endswith("|") for line in text.split("\n") if line.startswith("|"))


@pytest.mark.parametrize("content", ["```\n<img src=x onerror=alert(1)>\n```", "````\n<img>", "plain", "``` ```` <b>"])
def test_a_log_with_any_fence(content):
    text = markdown([("h2", f"Failed `{HTML}`"), ("code", content), ("table", [[HTML], [f"`{HTML}`"]]), ("p", HTML)])
    assert content in text and not shows_html(text)


def test_code_and_text():
    assert code_span("a") == "`a`" and code_span("a`b") == "``a`b``" and code_span("`a") == "`` `a ``"
    assert code_span("``") == "``` `` ```" and code_span(" ") == "" and code_span("a\nb") == "`a b`"
    assert code_block("a") == "```\na\n```" and code_block("```") == "````\n```\n````"
    assert escape("a|b\n# c") == r"a\|b \# c"
