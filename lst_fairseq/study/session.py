"""A study from its file to its report: what ``lst study`` does, one function a step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lst_fairseq.evaluation.report.files import write_texts
from lst_fairseq.recipe.location import study_folder
from lst_fairseq.study.cells import Plan
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.grid import Arm, Study, read_study
from lst_fairseq.study.progress import finished, inspect
from lst_fairseq.study.rehearsal import rehearsal
from lst_fairseq.study.report import blocks, console, markdown, page
from lst_fairseq.study.results import collect, judge, summaries
from lst_fairseq.utils.machine import machine, versions


def open_study(path: Path, out: Path | None = None, rehearse: bool = False) -> Plan:
    """The steps of the study that a YAML file describes.

    Args:
        path: of the YAML file.
        out: folder of all that it makes; by default results/study/NAME, in the checkout or, from a
            wheel, in the current directory.
        rehearse: a few updates of each arm instead.

    Raises:
        StudyError: the file or an entry cannot be used.
    """
    study = read_study(path)
    if rehearse:
        study = rehearsal(study)
    return Plan(study, out or study_folder(study.name))


def listing(plan: Plan) -> str:
    """Each arm with the number of its steps that are still to run."""
    lines, left = [], set()
    for number, arm in enumerate(plan.study.arms):
        planned = inspect(plan, arm).planned
        steps = {step for last in planned for step in last.with_needs() if not finished(step)}
        left |= steps
        values = ", ".join(f"{factor} {value}" for factor, value in arm.values.items())
        lines.append(f"{number:3d}  {arm.label}: {len(steps)} steps to run ({values})")
    lines.append(f"{len(left)} steps in all; a step that arms share is one")
    return "\n".join(lines)


def chosen_arms(study: Study, numbers: Sequence[int] | None) -> list[Arm]:
    """The arms of those numbers, or all."""
    if numbers is None:
        return list(study.arms)
    if unknown := [number for number in numbers if not 0 <= number < len(study.arms)]:
        last = len(study.arms) - 1
        raise StudyError(f"--arm {unknown[0]}: the study has arms 0 to {last} (see --list)")
    return [study.arms[number] for number in numbers]


def write_report(plan: Plan, samples: int = 1000) -> str:
    """Write results and report into the study's folder.

    Args:
        plan: the study's steps, run or not.
        samples: bootstrap resamples.

    Returns:
        The report's tables, and which files were written.
    """
    found = collect(plan)
    tables = {"results.jsonl": found["cells"], "search.jsonl": found["search"]}
    texts = {name: "".join(map(_json_line, lines)) for name, lines in tables.items()}
    results_file, _ = write_texts(plan.out, texts)
    results: dict[str, Any] = {
        **found,
        "arms": summaries(plan, found["cells"], samples),
        "claims": [judge(plan, claim, found["cells"], samples) for claim in plan.study.claims],
        "machine": machine(),
        "versions": versions(),
        "samples": samples,
    }
    parts = blocks(plan.study, results)
    reports = write_texts(plan.out, {"report.md": markdown(parts), "report.html": page(parts)})
    written = ", ".join(map(str, [results_file, *reports]))
    return f"{console(parts)}\n\nwritten: {written}"


def _json_line(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
