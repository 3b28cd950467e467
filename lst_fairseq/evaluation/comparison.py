"""Several systems on the same segments: confidence intervals, paired tests, training curves, sentences that differ.

Systems are what ``lst score`` wrote, in its JSON. :func:`compare` makes one JSON-able dict of them, which
``report/comparison.py`` shows.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from lst_fairseq.errors import ComparisonError
from lst_fairseq.evaluation.languages import DEFAULT_TOKENIZER
from lst_fairseq.evaluation.metrics import ScoreError, bleu_metric
from lst_fairseq.evaluation.training_curve import read_curve
from lst_fairseq.utils.shapes import ShapeError, check_shape, is_number
from lst_fairseq.utils.text_files import Unreadable, read_json

logger = logging.getLogger(__name__)

#: Of a score file's sentences.
SENTENCES = ("ids", "sources", "references", "hypotheses")
#: What other programs take from a score file, of all that ``lst score`` writes.
SCORE = {
    "name": str,
    "bleu": float,
    "segments": int,
    "signature": str,
    "full_signature?": str,
    "tokenize?": str,
    "log?": (str, int, float, None),
    "durations?": {re.compile(r"\d{1,9}(-\d{1,9}|\+)"): {"segments": int, "bleu": float}},
    "sentences?": {f"{key}?": [str] for key in SENTENCES},
}


def read_scores(path: str | Path) -> dict[str, Any]:
    """One system's scores, as ``lst score`` wrote them. Raises ComparisonError where the file is not such a file."""
    remedy, missing = "score that system again", "translate and score that system first (examples/mustc/generate.sh)"
    with expected(path, "a score file of lst score", remedy):
        scores = read_json(path, remedy, missing)
        check_shape(scores, SCORE)
        _check_sentences(scores)
    return scores


@contextmanager
def expected(path: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Turn what reading a results file raises into a ComparisonError that says what it should be, and the remedy."""
    try:
        yield
    except Unreadable as error:
        raise ComparisonError(str(error)) from None
    except ShapeError as error:
        raise ComparisonError(f"{path}: not {what} ({error}); {remedy}") from None


def _check_sentences(scores: Mapping[str, Any]) -> None:
    """ShapeError unless there are as many sentences of each kind as segments, and sacreBLEU has the tokeniser."""
    if (tokenize := scores.get("tokenize", DEFAULT_TOKENIZER)) not in BLEU.TOKENIZERS:
        raise ShapeError(f"tokenize is {tokenize[:80]!r}, and sacreBLEU has no such tokeniser")
    for key, texts in scores.get("sentences", {}).items():
        if key in SENTENCES and (not texts or len(texts) != scores["segments"]):
            raise ShapeError(f"sentences.{key} has {len(texts)} texts, and segments is {scores['segments']}")


def line(system: Mapping[str, Any]) -> str:
    """``NAME: BLEU = 67.12 (300 segments, signature ...), trained 4.00 M parameters in 540 s``."""
    segments = f"{system['segments']} segments, signature {system['signature']}"
    text = f"{system['name']}: BLEU = {system['bleu']:.2f} ({segments})"
    if is_number(system.get("trained_parameters")) and "train_seconds" in system:
        text += f", trained {system['trained_parameters'] / 1e6:.2f} M parameters in {system['train_seconds']} s"
    return text


def training_logs(
    systems: Iterable[Mapping[str, Any]], given: Iterable[tuple[str, str]]
) -> dict[str, list[str]]:
    """For each system's name its logs: those given, else those of its score file.

    Warns where the log that a score file names is no longer there.

    Args:
        systems: scores as :func:`read_scores` gives them.
        given: pairs of a system's name and the path of a log; several of one are its stages.
    """
    logs: dict[str, list[str]] = {}
    for name, path in given:
        logs.setdefault(name, []).append(path)
    for system in systems:
        if system["name"] in logs or not system.get("log"):
            continue
        paths = str(system["log"]).split(os.pathsep)
        if gone := [path for path in paths if not Path(path).is_file()]:
            logger.warning(
                f"no training curve of {system['name']}: {gone[0]} is not there; see --logs"
            )
        else:
            logs[system["name"]] = paths
    return logs


def compare(
    systems: Sequence[Mapping[str, Any]],
    baseline: str | None = None,
    logs: Mapping[str, Sequence[str | Path]] | None = None,
    samples: int = 1000,
    seed: int = 12345,
    examples: int = 10,
) -> dict[str, Any]:
    """Compare systems that translated the same segments.

    Args:
        systems: scores with their sentences, as :func:`read_scores` gives them, in the order of the table.
        baseline: name of the one that the others are tested against; None: no test.
        logs: for a system's name, what fairseq-train logged, one file a stage in their order.
        samples: bootstrap resamples.
        seed: of the resampling; 1 or more.
        examples: sentences to show each way, of each system beside the baseline.

    Returns a dict with ``systems`` (their scores without the sentences; added are ``bleu_ci`` and ``chrf_ci``, half the
    95 % interval, ``bleu_p`` and ``chrf_p`` against the baseline, and ``curve``), ``differences``, and what the
    comparison is one of. Raises ComparisonError for systems that do not belong together and for unknown names.
    """
    _check_same(systems)
    names = [system["name"] for system in systems]
    for name in [*([baseline] if baseline is not None else []), *(logs or {})]:
        if name not in names:
            raise ComparisonError(f"no system is called {name!r}; there are: {', '.join(names)}")
    first = systems[0]
    tests, signatures = _paired_tests(systems, baseline, samples, seed)
    compared = []
    for system in systems:
        kept = {key: value for key, value in system.items() if key not in ("sentences", "log", "curve")}
        curve = read_curve((logs or {}).get(system["name"], ()))
        compared.append({**kept, **tests[system["name"]], **({"curve": curve} if any(curve.values()) else {})})
    others = [system for system in systems if baseline is not None and system["name"] != baseline]
    return {
        **{key: first[key] for key in ("corpus", "split") if key in first},
        "segments": first["segments"],
        "baseline": baseline,
        "bootstrap": {"samples": samples, "seed": seed, "signatures": signatures},
        "systems": compared,
        "differences": [most_different(other, systems[names.index(baseline)], examples) for other in others],
    }


def _check_same(systems: Sequence[Mapping[str, Any]]) -> None:
    """ComparisonError unless all have names of their own, and the same segments with the same references."""
    first = systems[0]
    seen: set[str] = set()
    for system in systems:
        name = system["name"]
        if name in seen:
            raise ComparisonError(f"two systems are called {name!r}; score one of them again with another --name")
        seen.add(name)
        if not set(SENTENCES) <= set(system.get("sentences", ())):
            raise ComparisonError(f"the score file of {name!r} holds no sentences; score that system again")
        for key in ("corpus", "split", "segments", "tokenize"):
            if key in system and key in first and system[key] != first[key]:
                raise ComparisonError(
                    f"{key} of {name!r} is {system[key]}, and of {first['name']!r} {first[key]}; "
                    "compare systems on one split of one corpus, scored in one way"
                )
        for key in ("ids", "references"):
            pairs = zip(first["sentences"][key], system["sentences"][key], strict=True)
            other = next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
            if other is not None:
                raise ComparisonError(
                    f"{key} of {name!r} and {first['name']!r} differ from segment {other} on "
                    f"({first['sentences']['ids'][other]}); score both with the same manifest"
                )


def _paired_tests(
    systems: Sequence[Mapping[str, Any]], baseline: str | None, samples: int, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """For each system's name its scores with interval and p-value; for each metric its signature. By sacreBLEU."""
    if seed < 1:
        raise ComparisonError(f"--seed {seed}: give 1 or more; sacreBLEU takes 0 for none, and is then not repeatable")
    ordered = sorted(systems, key=lambda system: system["name"] != baseline)  # stable: the baseline comes first
    try:
        metrics = {"BLEU": bleu_metric(systems[0].get("tokenize", DEFAULT_TOKENIZER)), "chrF2": CHRF()}
    except ScoreError as error:
        raise ComparisonError(str(error)) from None
    with _environment("SACREBLEU_SEED", str(seed)):  # there is no other way to give PairedTest a seed
        test = PairedTest(
            [(system["name"], system["sentences"]["hypotheses"]) for system in ordered],
            metrics,
            [systems[0]["sentences"]["references"]],
            test_type="bs",
            n_samples=samples,
        )
        signatures, found = test()
    tests: dict[str, dict[str, float]] = {system["name"]: {} for system in systems}
    for key, metric in (("bleu", "BLEU"), ("chrf", "chrF2")):
        for name, result in zip(found["System"], found[metric], strict=True):
            tests[name] |= {key: result.score, f"{key}_mean": float(result.mean), f"{key}_ci": float(result.ci)}
            if baseline is not None and name != baseline:
                # Of two systems with the same output, sacreBLEU says p = 1 / (samples + 1): none of its differences of
                # nothing is above nothing.
                tests[name][f"{key}_p"] = 1.0 if result.score == found[metric][0].score else float(result.p_value)
    return tests, {metric: str(signature) for metric, signature in signatures.items()}


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def most_different(system: Mapping[str, Any], baseline: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The segments on which ``system`` is furthest above and below ``baseline`` in sentence-level chrF2.

    Returns ``{"system": NAME, "baseline": NAME, "above": [...], "below": [...]}``, at most ``count`` segments each,
    with id, source, reference, both hypotheses and both scores.
    """
    chrf = CHRF()
    mine, theirs = system["sentences"], baseline["sentences"]
    rows = []
    for index, reference in enumerate(mine["references"]):
        hypotheses = mine["hypotheses"][index], theirs["hypotheses"][index]
        scores = [chrf.sentence_score(hypothesis, [reference]).score for hypothesis in hypotheses]
        described = {"id": mine["ids"][index], "source": mine["sources"][index], "reference": reference}
        rows.append({**described, "system": hypotheses[0], "baseline": hypotheses[1], "chrf": scores})
    by_difference = sorted(rows, key=lambda row: row["chrf"][1] - row["chrf"][0])
    above = [row for row in by_difference[:count] if row["chrf"][0] > row["chrf"][1]]
    below = [row for row in by_difference[::-1][:count] if row["chrf"][0] < row["chrf"][1]]
    return {"system": system["name"], "baseline": baseline["name"], "above": above, "below": below}
