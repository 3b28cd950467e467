"""Scores of hypotheses against raw references: BLEU and chrF2 by sacreBLEU, each with its signature.

References come from the manifest, never from the target dictionary that fairseq's own scorers read them back from.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

#: Before the description of the model, as JSON, in fairseq-generate's log.
SIGNATURE = "lst signature: "
_HYPOTHESIS = re.compile(r"D-(\d+)\t([^\t]*)\t(.*)", re.DOTALL)


class ScoreError(ValueError):
    """Hypotheses that cannot be scored as they are; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Score:
    """A corpus-level result."""

    bleu: float  # 0 to 100
    chrf: float  # chrF2, 0 to 100
    segments: int
    signature: str  # sacreBLEU's, of BLEU
    chrf_signature: str

    def line(self, name: str) -> str:
        """``NAME: BLEU = 67.12, chrF2 = 80.1 (300 segments, signature ...)``."""
        scores = f"BLEU = {self.bleu:.2f}, chrF2 = {self.chrf:.1f}"
        return f"{name}: {scores} ({self.segments} segments, signature {self.signature})"


def read_generated(path: str | Path) -> dict[int, str]:
    """Hypotheses in a file that fairseq-generate wrote: index (row number in the manifest, from 0) -> text.

    Takes the detokenised ``D-INDEX<tab>SCORE<tab>TEXT`` lines and ignores all others. Raises ScoreError for a file
    that is missing or holds none, a line cut short, n-best lists, and an index that occurs twice.
    """
    try:
        # Split at \n alone: str.splitlines would also split at U+2028, \x85 and the like inside a hypothesis.
        lines = Path(path).read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        raise ScoreError(f"{path}: no such file; translate first (fairseq-generate --results-path DIR)") from None
    except UnicodeDecodeError as error:
        raise ScoreError(f"{path}: not UTF-8 text ({error.reason}); is it fairseq-generate's output?") from None
    hypotheses: dict[int, str] = {}
    doubled: list[int] = []
    previous = -1
    for number, line in enumerate(lines, start=1):
        if not line.startswith("D-"):
            continue
        match = _HYPOTHESIS.fullmatch(line.removesuffix("\r"))
        if not match:
            raise ScoreError(
                f"{path}:{number}: {line[:60]!r} is not D-INDEX<tab>SCORE<tab>TEXT; the file is cut short or was "
                "changed, translate again"
            )
        index = int(match[1])
        if index == previous:
            raise ScoreError(
                f"{path}:{number}: several hypotheses in a row for index {index}, an n-best list; "
                "translate again with --nbest 1"
            )
        if index in hypotheses:
            doubled.append(index)
        hypotheses[index] = match[3]
        previous = index
    if doubled:
        raise ScoreError(
            f"{path}: {_some(doubled)} more than once; the file holds several outputs, "
            "translate again into an empty folder"
        )
    if not hypotheses:
        raise ScoreError(
            f"{path}: holds no hypothesis (no line D-INDEX<tab>SCORE<tab>TEXT); give fairseq-generate's output "
            "file generate-SUBSET.txt, written without --quiet"
        )
    return hypotheses


def read_signature(path: str | Path) -> dict[str, Any] | None:
    """What the model says about itself in fairseq-generate's log: speech encoder, LLM, adapter, prompt.

    None where it says nothing, as other models do.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            _, found, text = line.partition(SIGNATURE)
            if found:
                return json.loads(text)
    return None


def in_order(hypotheses: Mapping[int, str], segments: int) -> list[str]:
    """The hypotheses of segments 0 to ``segments`` - 1; ScoreError naming what is missing or too much."""
    missing = [index for index in range(segments) if index not in hypotheses]
    beyond = sorted(index for index in hypotheses if index >= segments)
    if missing or beyond:
        problems = [f"no hypothesis for {_some(missing)}"] if missing else []
        problems += [f"hypotheses without a reference for {_some(beyond)}"] if beyond else []
        raise ScoreError(
            f"{len(hypotheses)} hypotheses for {segments} references: {'; '.join(problems)}; translate the whole of "
            "the manifest's split, and give the manifest that was translated"
        )
    return [hypotheses[index] for index in range(segments)]


def score(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> Score:
    """Corpus BLEU and chrF2 of hypotheses against one reference each, mixed case.

    ``tokenize`` is sacreBLEU's for BLEU: 13a, or zh, ja-mecab, ko-mecab for these target languages.
    """
    if len(hypotheses) != len(references) or not references:
        raise ScoreError(f"{len(hypotheses)} hypotheses for {len(references)} references; one for each is needed")
    bleu, chrf = BLEU(tokenize=tokenize), CHRF()
    bleu_score = bleu.corpus_score(hypotheses, [references]).score
    chrf_score = chrf.corpus_score(hypotheses, [references]).score
    return Score(bleu_score, chrf_score, len(references), str(bleu.get_signature()), str(chrf.get_signature()))


def _some(indices: Sequence[int], limit: int = 10) -> str:
    shown = ", ".join(map(str, indices[:limit]))
    return f"index {shown}" + (f" and {len(indices) - limit} more" if len(indices) > limit else "")
