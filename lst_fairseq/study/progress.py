"""Where a study stands: which of its steps have run, what the search has chosen, and what comes next."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lst_fairseq.evaluation.comparison import read_scores
from lst_fairseq.recipe.attempt import Cost
from lst_fairseq.study.cells import Cell, Plan, Step
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.grid import Arm, Study

#: Lines of a failed step's log that are shown.
LOG_LINES = 8


def read_cost(step: Step) -> Cost | None:
    """What a step cost so far; None where it has not run with these settings yet."""
    if step.place.is_ours():
        return step.place.cost()
    before = _record(step)
    if before.get("key") != step.key:
        return None
    return _cost(before)


def finished(step: Step) -> bool:
    """Whether a step has run to its end."""
    before = _record(step)
    return step.place.is_finished() or (before.get("key") == step.key and bool(before.get("finished")))


def has_failed(step: Step) -> bool:
    """Whether a step was tried, did not get to its end, and does not run now."""
    return read_cost(step) is not None and not finished(step) and not step.place.is_in_use()


def made_otherwise(step: Step) -> bool:
    """Whether what is in a step's folder was made with other settings, another beam, say."""
    begun = step.place.made_with() is not None or bool(_record(step))
    return begun and read_cost(step) is None


def _record(step: Step) -> dict[str, Any]:
    """What versions before the step engine wrote about the step, unless it has run since."""
    if step.place.made_with() is not None:
        return {}
    record = _json(step.record)
    used = _json(step.record.with_suffix(".usage"))  # noted while it ran, and left there by one that was killed
    if used.get("key") != step.key:
        return record
    if record.get("key") != step.key:
        record = {}
    total = _cost(record) + replace(_cost(used), attempts=1)
    return {"key": step.key, "finished": used.get("code") == 0, **asdict(total)}


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return {}


def _cost(noted: Mapping[str, Any]) -> Cost:
    return Cost(*(noted.get(each.name, 0) for each in fields(Cost)))


def read_score(cell: Cell, split: str) -> dict[str, Any]:
    """What ``lst score`` wrote about a cell's translations of a split, and ``file``, where that is.

    Raises:
        StudyError: there is no such score, or more than one.
        ComparisonError: it is no file of ``lst score``.
    """
    files = sorted((cell.work / "scores").glob(f"*.{split}.json"))
    if len(files) != 1:
        raise StudyError(
            f"{cell.work / 'scores'}: {len(files)} scores of {split} where one is needed; remove {cell.work}"
        )
    return read_scores(files[0]) | {"file": str(files[0])}


def last_lines(log: Path, count: int = LOG_LINES) -> str:
    """The last lines of a log that say something."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.split("\n") if line.strip()][-count:])


@dataclass
class ArmState:
    """Where an arm stands.

    Attributes:
        wanted: last steps of what has to run now; all that they need has to run before.
        planned: the same for all that is still to come, as far as one can tell.
        chosen: settings that the search has chosen so far.
        tried: for each setting that was searched, its candidates with their scores on dev (None: failed).
        cells: one for each seed, once the search is over.
    """

    wanted: list[Step] = field(default_factory=list)
    planned: list[Step] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)
    tried: dict[str, dict[str, float | None]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)


def inspect(plan: Plan, arm: Arm, failed: Callable[[Step], bool] = lambda step: False) -> ArmState:
    """Where an arm stands, by what lies in the study's folder.

    The settings of the search are chosen one after another: the best of the first on dev, with the first candidates of
    the others, then of the second, and so on. While the best is at the edge of what was tried, the value beyond comes
    next, up to ``search_widen`` of them. A setting that changes nothing in this arm is not searched.

    Args:
        plan: of the study.
        arm: which one.
        failed: whether a step has failed and is not to be tried again.
    """
    study, state = plan.study, ArmState()
    candidates = study.candidates(arm)
    defaults = {name: values[0] for name, values in candidates.items()}
    for name, values in candidates.items():

        def cell(value: str, name: str = name, others: Mapping[str, str] = defaults | state.chosen) -> Cell:
            return plan.cell(arm, study.search_seed, {**others, name: value})

        if len({cell(value).steps["dev"] for value in values}) == 1:
            if len(values) > 1:  # says nothing about this arm
                del defaults[name]
            else:
                state.chosen[name] = values[0]
            continue
        pending, scores = _search(study, cell, values, failed)
        state.planned += [step for step in pending if step not in state.planned]
        if pending and not state.wanted:
            state.wanted = pending
        if state.wanted:  # what comes after depends on what is chosen here
            continue
        state.tried[name] = scores
        known = {value: score for value, score in scores.items() if score is not None}
        if not known:
            return state  # nothing to choose from: the arm has failed
        state.chosen[name] = max(known, key=known.__getitem__)
    searching = bool(state.wanted)
    cells = [plan.cell(arm, seed, defaults | state.chosen) for seed in study.seeds]
    last = [step for cell in cells for kind, step in cell.steps.items() if kind in ("test", "alignment")]
    pending = [step for step in last if not failed(step) and not finished(step)]
    state.planned += pending
    if not searching:
        state.cells, state.wanted = cells, pending
    return state


def _search(
    study: Study, cell: Callable[[str], Cell], values: Sequence[str], failed: Callable[[Step], bool]
) -> tuple[list[Step], dict[str, float | None]]:
    """What has to run now to choose a setting's value, or else the score of each value that was tried (None: failed).

    Args:
        study: says how far the search goes, and by what.
        cell: with a value of the setting.
        values: to try first.
        failed: as of :func:`inspect`.
    """
    tried = list(values)
    while True:
        steps = {value: cell(value).steps["dev"] for value in tried}
        pending = [step for step in steps.values() if not failed(step) and not finished(step)]
        if pending:
            return pending, {}
        scores = {
            value: read_score(cell(value), study.dev)[study.search_metric] if finished(step) else None
            for value, step in steps.items()
        }
        further = beyond(scores) if len(tried) < len(values) + study.search_widen else None
        if further is None:
            return [], scores
        tried.append(further)


def beyond(scores: Mapping[str, float | None]) -> str | None:
    """The value to try next where the best one is the smallest or the largest of those that were tried.

    It is as far from the best as the best from its neighbour, as a ratio: after 5e-4 and 1e-3, 2e-3.

    Args:
        scores: of positive numbers, by how they are written; None: failed.

    Returns:
        None where the best lies between others or is alone, or all have failed.
    """
    known = {value: score for value, score in scores.items() if score is not None}
    if not known or len(scores) == 1:
        return None
    ascending = sorted(scores, key=float)
    best = max(known, key=known.__getitem__)
    if best not in (ascending[0], ascending[-1]):
        return None
    neighbour = ascending[1] if best == ascending[0] else ascending[-2]
    mantissa, exponent = f"{float(best) ** 2 / float(neighbour):.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
