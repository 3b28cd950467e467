"""What a study's cells gave: one JSON-able line a cell, comparisons with the reference, and the claims."""

import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lst_fairseq.evaluation.comparison import compare, read_scores
from lst_fairseq.evaluation.report.comparison import LEVEL
from lst_fairseq.evaluation.training_curve import logged_losses
from lst_fairseq.recipe.attempt import Cost
from lst_fairseq.recipe.location import recipe_root
from lst_fairseq.study.cells import Cell, Plan, Step
from lst_fairseq.study.grid import Arm, Claim
from lst_fairseq.study.progress import finished, has_failed, inspect, last_lines, read_cost, read_score

#: Of a score file, what goes into a cell's line for each split.
_SCORES = ("bleu", "chrf", "ter", "segments", "full_signature", "segments_per_second")
_GPU_TOTAL = re.compile(r"rank\s+\d+: .*total memory = ([\d.]+) GB")
_GPU_COUNT = re.compile(r"CUDA enviroments for all (\d+) workers")


def collect(plan: Plan) -> dict[str, Any]:
    """Everything that a study's folder holds so far.

    Returns a dict with ``cells``, a line for each finished cell (:func:`cell_line`), ``search``, what was tried for
    each arm on dev, ``missing``, arms and seeds without a result, and ``failures``, steps that failed with the last
    lines of their logs.
    """
    cells, search, missing, failures = [], [], [], {}
    for arm in plan.study.arms:
        state = inspect(plan, arm, cannot_run)
        for setting, tried in state.tried.items():
            search.append({"arm": arm.label, "setting": setting, "tried": tried, "chosen": state.chosen.get(setting)})
        for cell in state.cells:
            if finished(cell.steps["test"]):
                cells.append(cell_line(plan, cell))
            else:
                missing.append(cell.name)
        if not state.cells:
            missing += [f"{arm.label}, seed {seed}" for seed in plan.study.seeds]
    for step in dict.fromkeys(step for cell in plan.cells() for step in cell.steps.values()):
        if has_failed(step):
            failures[f"{step.kind}: {step.name}"] = last_lines(step.log)
    return {"cells": cells, "search": search, "missing": missing, "failures": failures}


def cannot_run(step: Step) -> bool:
    """Whether a step, or one that it needs, has failed."""
    return has_failed(step) or any(map(cannot_run, step.needs))


def cell_line(plan: Plan, cell: Cell) -> dict[str, Any]:
    """A finished cell's results, without sentences; paths are relative to the study's folder.

    Costs are those of the steps that the cell is made of, also where it shares them with other cells. ``cpu_seconds``
    are user and system time of all processes, ``gpu_seconds`` wall seconds times GPUs, ``peak_memory_gib`` that of the
    largest process, ``peak_gpu_memory_gib`` PyTorch's.
    """
    study = plan.study
    scores = {split: read_score(cell, split) for split in study.splits}
    main = scores[study.splits[0]]
    training = [cell.steps[kind] for kind in ("stage1", "stage2") if kind in cell.steps]
    costs = [read_cost(step) or Cost() for step in training]
    decoding = read_cost(cell.steps["test"]) or Cost()
    logs = [log for log in str(main.get("log", "")).split(":") if log]
    line: dict[str, Any] = {
        "arm": cell.arm.label,
        "factors": dict(cell.arm.values),
        "seed": cell.seed,
        "chosen": dict(cell.chosen),
        "settings": json.loads(json.dumps(cell.settings).replace(f"{recipe_root()}/", "$LST_ROOT/")),
        "scores": {split: {key: score[key] for key in _SCORES if key in score} for split, score in scores.items()},
        "trained_parameters": main.get("trained_parameters"),
        "train_seconds": main.get("train_seconds"),
        "cpu_seconds": {
            "training": round(sum(cost.cpu_seconds for cost in costs), 1),
            "decoding": decoding.cpu_seconds,
        },
        "peak_memory_gib": max(cost.peak_memory_gib for cost in [*costs, decoding]),
        **gpu_use(logs, main.get("train_seconds")),
        "files": {split: os.path.relpath(score["file"], plan.out) for split, score in scores.items()},
        "logs": [os.path.relpath(log, plan.out) for log in logs],
    }
    if study.searched and finished(cell.steps["dev"]):
        dev = read_score(cell, study.dev)
        line["scores"][study.dev] = {key: dev[key] for key in _SCORES if key in dev}
    if "alignment" in cell.steps and finished(cell.steps["alignment"]):
        path = cell.steps["alignment"].work / "alignment" / "alignment.json"
        (line["alignment"],) = json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
    return line


def gpu_use(logs: Sequence[str], seconds: float | None) -> dict[str, Any]:
    """``gpu_seconds`` and ``peak_gpu_memory_gib`` of trainings, from fairseq-train's logs; nothing without a GPU."""
    gpus, peaks = 0, []
    for log in logs:
        text = Path(log).read_text(encoding="utf-8", errors="replace") if Path(log).is_file() else ""
        if found := _GPU_COUNT.findall(text):
            gpus = max(gpus, int(found[-1]))
        total = _GPU_TOTAL.findall(text)
        logged = filter(None, map(logged_losses, text.split("\n")))
        free = [values["gb_free"] for _, values in logged if "gb_free" in values]
        if total and free:
            peaks.append(max(map(float, total)) - min(free))
    if not gpus:
        return {}
    use: dict[str, Any] = {"gpus": gpus, "gpu_seconds": round(gpus * (seconds or 0), 1)}
    return use | ({"peak_gpu_memory_gib": round(max(peaks), 2)} if peaks else {})


# --- over seeds -------------------------------------------------------------------------------------------------------


def summaries(plan: Plan, cells: Sequence[Mapping[str, Any]], samples: int = 1000) -> dict[str, dict[str, Any]]:
    """For each arm's label, its cells taken together.

    ``seeds``; ``scores``: for each test split ``mean``, ``spread`` (the standard deviation over seeds, None for one)
    and ``seeds``, BLEU of each; means of the costs; ``p``: for each test split the p-values of the paired bootstrap
    test against the reference arm's cell with the same seed, by seed; ``curve``: losses while training, of the first
    seed.
    """
    study = plan.study
    arms: dict[str, dict[str, Any]] = {}
    for line in cells:
        arms.setdefault(line["arm"], {"cells": []})["cells"].append(line)
    for arm in arms.values():
        lines = arm.pop("cells")
        arm |= {"factors": lines[0]["factors"], "seeds": [line["seed"] for line in lines], "chosen": lines[0]["chosen"]}
        arm["scores"] = {
            split: spread([line["scores"][split]["bleu"] for line in lines]) | {"chrf": _mean(lines, split)}
            for split in study.splits
        }
        for key in ("trained_parameters", "train_seconds", "peak_memory_gib"):
            known = [line[key] for line in lines if line.get(key) is not None]
            arm[key] = statistics.fmean(known) if known else None
        arm["cpu_seconds"] = statistics.fmean(line["cpu_seconds"]["training"] for line in lines)
        for key in ("gpu_seconds", "peak_gpu_memory_gib"):
            if all(key in line for line in lines):
                arm[key] = statistics.fmean(line[key] for line in lines)
        aligned = [line["alignment"] for line in lines if "alignment" in line]
        if aligned:
            keys = ("cosine", "other_cosine", "retrieval", "variation")
            arm["alignment"] = {key: statistics.fmean(each[key] for each in aligned) for key in keys}
        arm["p"] = {split: {} for split in study.splits}
    for split in study.splits:
        for seed in study.seeds:
            systems = {line["arm"]: line for line in cells if line["seed"] == seed}
            if study.reference.label not in systems:
                continue
            logs = split == study.splits[0]
            for label, p, curve in paired_tests(plan.out, systems, study.reference.label, split, logs, samples):
                if p is not None:
                    arms[label]["p"][split][seed] = p
                if curve:
                    arms[label].setdefault("curve", curve)
    return arms


def paired_tests(
    out: Path,
    systems: Mapping[str, Mapping[str, Any]],
    baseline: str,
    split: str,
    with_curves: bool,
    samples: int = 1000,
) -> list[tuple[str, float | None, dict[str, Any] | None]]:
    """Label, p-value of BLEU against the baseline (None of itself) and learning curve of each system.

    Args:
        out: the study's folder.
        systems: cells' lines by label, all of one seed.
        baseline: label of the one that the others are tested against.
        split: test split.
        with_curves: whether to read the logs of training.
        samples: bootstrap resamples.
    """
    scores = [read_scores(out / line["files"][split]) | {"name": label} for label, line in systems.items()]
    there = {label: [out / log for log in line["logs"] if (out / log).is_file()] for label, line in systems.items()}
    compared = compare(scores, baseline, there if with_curves else None, samples, examples=0)
    return [(system["name"], system.get("bleu_p"), system.get("curve")) for system in compared["systems"]]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample; None for a single value) and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": deviation, "seeds": list(values)}


def _mean(lines: Sequence[Mapping[str, Any]], split: str) -> float:
    return statistics.fmean(line["scores"][split]["chrf"] for line in lines)


# --- claims -----------------------------------------------------------------------------------------------------------


def judge(plan: Plan, claim: Claim, cells: Sequence[Mapping[str, Any]], samples: int = 1000) -> dict[str, Any]:
    """Whether a claim holds on the first test split.

    It holds where the better arm is above the worse one with each seed that both have, significantly so (paired
    bootstrap) with each; it is contradicted where the reverse is so; else it is open. One seed decides nothing beyond
    its own segments, and the verdict says how many there were.

    Returns ``claim``, ``verdict`` (holds, contradicted, open, or no result), ``differences`` in BLEU by seed and ``p``.
    """
    study, split = plan.study, plan.study.splits[0]
    sides = [_of_arm(cells, arm) for arm in (claim.better, claim.worse)]
    differences, p = {}, {}
    for seed in [seed for seed in study.seeds if seed in sides[0] and seed in sides[1]]:
        systems = {claim.better.label: sides[0][seed], claim.worse.label: sides[1][seed]}
        better, worse = (line["scores"][split]["bleu"] for line in systems.values())
        differences[seed] = better - worse
        found = paired_tests(plan.out, systems, claim.worse.label, split, False, samples)
        p[seed] = next(value for label, value, _ in found if label == claim.better.label)
    signs = {difference > 0 for difference in differences.values()}
    if not differences:
        verdict = "no result"
    elif len(signs) == 1 and all(value < LEVEL for value in p.values()):
        verdict = "holds" if signs == {True} else "contradicted"
    else:
        verdict = "open"
    arms = {"better": claim.better.label, "worse": claim.worse.label}
    return {"claim": claim.text, "verdict": verdict, "differences": differences, "p": p, **arms}


def _of_arm(cells: Sequence[Mapping[str, Any]], arm: Arm) -> dict[int, Mapping[str, Any]]:
    return {line["seed"]: line for line in cells if line["arm"] == arm.label}
