"""A study to read: Markdown, and an HTML page of one file with plots.

A report is a list of blocks, (kind, content), of which both are made:
    h1, h2, h3, p    text
    list             texts
    table            rows of texts, the first the headings
    figure           inline SVG; not in the Markdown
    code             lines as they are
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lst_fairseq.evaluation.report.plots import plot
from lst_fairseq.study.grid import Study
from lst_fairseq.study.run import duration
from lst_fairseq.utils.machine import on_cpus
from lst_fairseq.utils.markdown import code_block, table_rows
from lst_fairseq.utils.markdown import escape as escape_markdown

Block = tuple[str, Any]
#: Lines that a plot can have before it is unreadable.
PLOT_LINES = 8
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)(%?)")
_VERDICTS = {
    "holds": "holds",
    "contradicted": "does not hold, the reverse does",
    "open": "is neither shown nor contradicted",
    "no result": "has no result yet",
}
_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } th, td { padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; } figure { display: inline-block; margin: 1em 1em 1em 0; }
svg text { font: 12px sans-serif; } pre { overflow-x: auto; background: #f5f5f5; padding: .5em; }
"""


def blocks(study: Study, results: Mapping[str, Any]) -> list[Block]:
    """The report of a study.

    Args:
        study: what was to be run.
        results: ``arms`` (``results.summaries``), ``claims`` (``judge``), ``search``, ``missing`` and
            ``failures`` (``collect``), ``cells``, ``machine``, ``versions`` and ``samples``.
    """
    parts: list[Block] = [("h1", study.title), ("p", _introduction(study, results))]
    if results["claims"]:
        parts += [("h2", "Claims"), ("list", [claim_sentence(claim) for claim in results["claims"]])]
    arms = results["arms"]
    for factor in study.factors:
        parts += _factor_part(study, factor, arms)
    for block in study.blocks:
        if len(block) > 1:
            parts += _block_part(study, block, arms)
    parts += _scatter_part(study, arms) + search_part(results["search"])
    if results["missing"]:
        parts += [("h2", "Without a result"), ("list", results["missing"])]
    if results["failures"]:
        parts.append(("h2", "Failed"))
        for name, lines in results["failures"].items():
            parts += [("p", name), ("code", lines)]
    return parts + signature_part(study, results["cells"])


def _introduction(study: Study, results: Mapping[str, Any]) -> str:
    split, cells = study.splits[0], results["cells"]
    reference = ", ".join(f"{factor} {value}" for factor, value in study.reference.values.items())
    sentences = [f"{len(cells)} cells of {len(study.arms)} arms with seeds {_listed(study.seeds)}."]
    if cells:
        segments = {s: cells[0]["scores"][s]["segments"] for s in study.splits}
        sentences.append("Scored on " + _listed([f"{s} ({n} segments)" for s, n in segments.items()]) + ".")
    sentences.append(f"The reference is {reference}; where a table names one factor, the others are the reference's.")
    sentences.append(
        "BLEU is the mean over seeds ± their standard deviation; p, seed by seed, is of the paired bootstrap test "
        f"({results['samples']:,} resamples, by sacreBLEU) against the reference with the same seed on {split}. "
        "Times and memory are means over seeds; a step that cells share is counted for each of them."
    )
    if study.searched:
        names = _listed(list(study.searched))
        chosen = f"chosen on {study.dev} with seed {study.search_seed}, never on test"
        sentences.append(f"{names}: {chosen}, for each arm that stands under Search; the others had one value.")
    if machine := results.get("machine"):
        gpus = _listed(machine["gpus"]) or "no GPU"
        versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
        sentences.append(f"Made with {on_cpus(machine)}, {gpus}; {versions}.")
    return " ".join(sentences)


def claim_sentence(claim: Mapping[str, Any]) -> str:
    """``Claim: holds. better - worse: +1.2, +0.8 BLEU (seeds 1, 2), p = 0.01, 0.3.``"""
    text = f"{claim['claim']}: {_VERDICTS[claim['verdict']]}"
    if not claim["differences"]:
        return f"{text}."
    differences = ", ".join(f"{difference:+.1f}" for difference in claim["differences"].values())
    seeds = ", ".join(map(str, claim["differences"]))
    p = ", ".join(f"{value:.2g}" for value in claim["p"].values())
    sides = f"{claim['better']} against {claim['worse']}"
    return f"{text} ({sides}: {differences} BLEU with seeds {seeds}; p = {p})."


# --- tables -----------------------------------------------------------------------------------------------------------


def _factor_part(study: Study, factor: str, arms: Mapping[str, Any]) -> list[Block]:
    """The arms that differ from the reference in this factor alone."""
    rows = []
    for value in study.factors[factor]:
        arm = study.arm(**{factor: value})
        if arm is not None and arm.label in arms:
            name = f"{value} (reference)" if arm is study.reference else value
            rows.append((name, study.notes.get((factor, value), ""), arms[arm.label]))
    if len(rows) < 2:
        return []
    return [("h2", factor), ("table", arm_table(study, rows)), *_curves([(row[0], row[2]) for row in rows])]


def _block_part(study: Study, block: Sequence[str], arms: Mapping[str, Any]) -> list[Block]:
    """Factors that were crossed, with a curve over the first of them whose values stand somewhere on an axis."""
    there = [arm for arm in study.block_arms(block) if arm.label in arms]
    if len(there) < 2:
        return []
    rows = [(", ".join(arm.values[name] for name in block), "", arms[arm.label]) for arm in there]
    parts: list[Block] = [("h2", " x ".join(block)), ("table", arm_table(study, rows))]
    for factor in block:
        axis, positions = axis_of(study, factor)
        series: dict[str, list[tuple[float, float]]] = {}
        for arm in there:
            if arm.values[factor] in positions:
                others = ", ".join(arm.values[name] for name in block if name != factor)
                mean = arms[arm.label]["scores"][study.splits[0]]["mean"]
                series.setdefault(others, []).append((positions[arm.values[factor]], mean))
        if lines := {name: sorted(points) for name, points in series.items() if len(points) > 1}:
            parts.append(("figure", plot(lines, axis, f"BLEU, {study.splits[0]}")))
            break
    return parts


def axis_of(study: Study, factor: str) -> tuple[str, dict[str, float]]:
    """The axis that a factor's values stand on, and where.

    Its name and positions are what the values' ``at`` says; else the factor's name and its values, if all are numbers.
    """
    said = {value: study.at[factor, value] for value in study.factors[factor] if (factor, value) in study.at}
    if said:
        return next(iter(said.values()))[0], {value: position for value, (_, position) in said.items()}
    numbers = {value: number(value) for value in study.factors[factor]}
    known = {value: position for value, position in numbers.items() if position is not None}
    return factor, known if len(known) == len(numbers) else {}


def number(value: str) -> float | None:
    """A value's name as a number, 25% as 0.25; None where it is none."""
    match = _NUMBER.fullmatch(value)
    return None if match is None else float(match[1]) / (100 if match[2] else 1)


def arm_table(study: Study, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[list[str]]:
    """A row of headings and one for each (name, note, summary of an arm); empty columns are left out."""
    columns: list[list[str]] = [["", *(name for name, _, _ in rows)], ["note", *(note for _, note, _ in rows)]]
    for number_of, split in enumerate(study.splits):
        scores = [_spread(arm["scores"][split]) for _, _, arm in rows]
        columns.append([f"BLEU, {split}", *scores])
        p = [", ".join(f"{value:.2g}" for value in arm["p"][split].values()) for _, _, arm in rows]
        columns.append(["p" if not number_of else f"p, {split}", *p])
    main = study.splits[0]
    columns.append(["chrF2", *(f"{arm['scores'][main]['chrf']:.1f}" for _, _, arm in rows)])
    for heading, key, show in (
        ("trained parameters", "trained_parameters", lambda value: f"{value / 1e6:.2f} M"),
        ("training", "train_seconds", duration),
        ("CPU time", "cpu_seconds", duration),
        ("GPU time", "gpu_seconds", duration),
        ("memory", "peak_memory_gib", lambda value: f"{value:.2f} GiB"),
        ("GPU memory", "peak_gpu_memory_gib", lambda value: f"{value:.1f} GiB"),
    ):
        columns.append([heading, *("" if arm.get(key) is None else show(arm[key]) for _, _, arm in rows)])
    for heading, key in (("nearest token, cosine", "cosine"), ("of another transcript", "other_cosine")):
        columns.append([heading, *(f"{arm['alignment'][key]:.2f}" if "alignment" in arm else "" for _, _, arm in rows)])
    for key in ("retrieval", "variation"):
        shown = (f"{100 * arm['alignment'][key]:.0f} %" if "alignment" in arm else "" for _, _, arm in rows)
        columns.append([key, *shown])
    for setting in study.searched:
        columns.append([setting, *(arm["chosen"].get(setting, "") for _, _, arm in rows)])
    return [list(row) for row in zip(*(c for c in columns if not c[0] or any(c[1:])), strict=True)]


def _spread(score: Mapping[str, Any]) -> str:
    return f"{score['mean']:.1f}" + ("" if score["spread"] is None else f" ± {score['spread']:.1f}")


def search_part(search: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What the search tried and chose; says where the best was the smallest or the largest of three values or more."""
    if not search:
        return []
    rows = [["arm", "setting", "tried: score on dev", "chosen", ""]]
    for entry in search:
        scores = {value: "failed" if score is None else f"{score:.1f}" for value, score in entry["tried"].items()}
        tried, chosen = list(entry["tried"]), entry["chosen"]
        if all(number(value) is not None for value in tried):
            tried.sort(key=number)
        edge = "at the edge of what was tried" if len(tried) > 2 and chosen in (tried[0], tried[-1]) else ""
        shown = ", ".join(f"{value}: {score}" for value, score in scores.items())
        rows.append([entry["arm"], entry["setting"], shown, chosen or "", edge])
    return [("h2", "Search"), ("table", rows)]


def signature_part(study: Study, cells: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not cells:
        return []
    seeds: dict[tuple[str, str], list[int]] = {}
    for line in cells:
        for split in study.splits:
            if signature := line["scores"][split].get("full_signature"):
                seeds.setdefault((line["arm"], signature), []).append(line["seed"])
    lines = [
        f"{arm}, seed{'s' if len(of) > 1 else ''} {_listed(of)}: {signature}" for (arm, signature), of in seeds.items()
    ]
    return [("h2", "Signatures"), ("code", "\n".join(lines))]


# --- plots ------------------------------------------------------------------------------------------------------------


def _curves(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Block]:
    """Learning curves of a factor's values."""
    figures = []
    for kind, loss in (("train", "training loss"), ("dev", "loss on dev")):
        for at, unit in ((0, "updates"), (1, "seconds of training")):
            series = {
                name: [(point[at], point[2]) for point in arm["curve"][kind]]
                for name, arm in rows[:PLOT_LINES]
                if arm.get("curve", {}).get(kind)
            }
            if series and (at == 0 or kind == "dev"):
                figures.append(("figure", plot(series, unit, loss)))
    return figures


def _scatter_part(study: Study, arms: Mapping[str, Any]) -> list[Block]:
    """Score against what it cost, a point an arm."""
    parts: list[Block] = []
    split = study.splits[0]
    for key, unit, scale in (
        ("trained_parameters", "trained parameters, million", 1e6),
        ("train_seconds", "seconds of training", 1),
    ):
        series = {
            label: [(arm[key] / scale, arm["scores"][split]["mean"])]
            for label, arm in arms.items()
            if arm.get(key) is not None
        }
        if len(series) > 1:
            parts.append(("figure", plot(series, unit, f"BLEU, {split}")))
    aligned = {
        label: [(100 * arm["alignment"]["retrieval"], arm["scores"][split]["mean"])]
        for label, arm in arms.items()
        if "alignment" in arm
    }
    if len(aligned) > 1:
        parts.append(("figure", plot(aligned, "retrieval of the transcript after stage 1, %", f"BLEU, {split}")))
    return [("h2", "Score and cost"), *parts] if parts else []


# --- as text ----------------------------------------------------------------------------------------------------------


def markdown(parts: Sequence[Block]) -> str:
    """The report in Markdown, without its figures."""
    lines = []
    for kind, content in parts:
        if kind in ("h1", "h2", "h3"):
            lines.append(f"{'#' * int(kind[1])} {escape_markdown(content)}")
        elif kind == "p":
            lines.append(escape_markdown(content))
        elif kind == "list":
            lines.append("\n".join(f"- {escape_markdown(item)}" for item in content))
        elif kind == "code":
            lines.append(code_block(content))
        elif kind == "table":
            lines.append(table_rows([[escape_markdown(cell) for cell in row] for row in content]))
    return "\n\n".join(lines) + "\n"


def page(parts: Sequence[Block]) -> str:
    """The report as an HTML page that needs no other file, network or script."""
    lines = []
    for kind, content in parts:
        if kind == "figure":
            lines.append(content)
        elif kind == "list":
            lines.append(f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in content)}</ul>")
        elif kind == "table":
            cells = [[f"<td>{escape(cell)}</td>" for cell in row] for row in content[1:]]
            head = "".join(f"<th>{escape(cell)}</th>" for cell in content[0])
            body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
            lines.append(f"<table>\n<tr>{head}</tr>\n{body}\n</table>")
        else:
            tag = "pre" if kind == "code" else kind
            lines.append(f"<{tag}>{escape(content)}</{tag}>")
    title = escape(next((content for kind, content in parts if kind == "h1"), "Study"))
    body = "\n".join(lines)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def console(parts: Sequence[Block]) -> str:
    """The claims and the tables as plain text."""
    lines = []
    for kind, content in parts:
        if kind in ("h2", "list"):
            lines += [f"\n{content}"] if kind == "h2" else [f"  {item}" for item in content]
        elif kind == "table":
            widths = [max(len(row[i]) for row in content) for i in range(len(content[0]))]
            lines += [
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in content
            ]
    return "\n".join(lines).strip("\n")


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))
