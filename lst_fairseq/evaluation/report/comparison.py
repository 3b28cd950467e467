"""A comparison to read: its table in Markdown, the whole of it in Markdown, and as an HTML page of one file with plots.

Everything is taken from what ``compare`` returned; the same dict gives the same text.
"""

import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from lst_fairseq.evaluation.comparison import expected
from lst_fairseq.evaluation.report.plots import plot
from lst_fairseq.utils.machine import on_cpus
from lst_fairseq.utils.markdown import code_span, table_rows
from lst_fairseq.utils.markdown import escape as escape_markdown
from lst_fairseq.utils.shapes import ShapeError, check_shape
from lst_fairseq.utils.text_files import read_json

#: What :func:`section` takes from a comparison, of all that ``lst compare`` writes.
COMPARISON = {
    "title?": str,
    "corpus?": (str, float, None),
    "split?": (str, float, None),
    "segments": int,
    "baseline": (str, None),
    "bootstrap": {"samples": int, "seed": int},
    "systems": [
        {"name": str, "bleu": float, "bleu_p?": float, "signature": str, "full_signature?": str},
    ],
    "machine?": ({"cpus": int, "gpus": [str], "processor?": (str, None)}, None),
}
#: A difference with a smaller p-value is called significant.
LEVEL = 0.05
_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } th, td { padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; } figure { display: inline-block; margin: 1em 1em 1em 0; }
svg text { font: 12px sans-serif; } dl { margin: .3em 0 1em; } dt { color: #555; } dd { margin: 0 0 0 1em; }
code { overflow-wrap: anywhere; }
"""
_LOSS = (
    "Losses are bits for each token of the model's own vocabulary: between systems compare their course, not height."
)


# --- results files ----------------------------------------------------------------------------------------------------


def read_comparison(path: str | Path) -> dict[str, Any]:
    """What ``lst compare`` wrote to results.json.

    Raises:
        ComparisonError: the file is not such a file; names it, the entry and the remedy.
    """
    with expected(path, "a results.json of lst compare", "compare again"):
        results = read_json(path, "compare again", "make it with lst compare")
        check_shape(results, COMPARISON)
        names = [system["name"] for system in results["systems"]]
        if (baseline := results["baseline"]) is None and any("bleu_p" in s for s in results["systems"]):
            raise ShapeError("baseline is null, and a system has bleu_p")
        if baseline is not None and baseline not in names:
            raise ShapeError(f"baseline is {baseline[:80]!r}, and the systems are {', '.join(names)[:200]}")
    return results


# --- in words ---------------------------------------------------------------------------------------------------------


def heading(results: Mapping[str, Any]) -> str:
    """What the comparison is on: its ``title``, or corpus and split."""
    found = (str(results[key]) for key in ("corpus", "split") if results.get(key) is not None)
    return results.get("title") or ", ".join(found) or "Results"


def cells(results: Mapping[str, Any]) -> list[list[str]]:
    """The table: a row of headings, then a row for each system; columns of which nothing is known are left out.

    BLEU and chrF2 stand with half their 95 % interval; the p-values are those against the baseline.
    """
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("system", lambda system: system["name"]),
        ("BLEU", lambda system: f"{system['bleu']:.1f} ± {system['bleu_ci']:.1f}"),
        ("p (BLEU)", lambda system: f"{system['bleu_p']:.2g}"),
        ("chrF2", lambda system: f"{system['chrf']:.1f} ± {system['chrf_ci']:.1f}"),
        ("p (chrF2)", lambda system: f"{system['chrf_p']:.2g}"),
        ("TER", lambda system: f"{system['ter']:.1f}"),
        ("WER", lambda system: f"{system['wer']:.1f}"),
        ("CER", lambda system: f"{system['cer']:.1f}"),
        ("COMET", lambda system: f"{system['comet']:.4f}"),
        ("trained on", lambda system: str(system["saw"])),
        ("trained parameters", lambda system: _count(system["trained_parameters"])),
        ("training", lambda system: _duration(system["train_seconds"])),
        ("decoding", lambda system: f"{system['segments_per_second']:.1f} segments/s"),
    ]
    table = [[name, *(_known(system, show) for system in results["systems"])] for name, show in columns]
    return [list(row) for row in zip(*(column for column in table if any(column[1:])), strict=True)]


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each system but the baseline: above, below, or not significantly different, in BLEU."""
    baseline = next((system for system in results["systems"] if system["name"] == results["baseline"]), None)
    sentences = []
    for system in results["systems"]:
        if "bleu_p" not in system:
            continue
        difference = system["bleu"] - baseline["bleu"]
        names, figures = (system["name"], baseline["name"]), f"{difference:+.1f} BLEU, p = {system['bleu_p']:.2g}"
        if system["bleu_p"] < LEVEL:
            sentences.append(
                f"{names[0]} is significantly {'above' if difference > 0 else 'below'} {names[1]}: {figures}."
            )
        else:
            sentences.append(f"{names[0]} does not differ significantly from {names[1]}: {figures}.")
    return sentences


def notes(results: Mapping[str, Any]) -> str:
    """What a reader of the table has to know: the resampling, the test, where it ran."""
    bootstrap = results["bootstrap"]
    resampled = f"{bootstrap['samples']:,} bootstrap resamples of {results['segments']:,} segments"
    sentences = [f"± is half the 95 % interval over {resampled} (seed {bootstrap['seed']})."]
    if results["baseline"] is not None:
        sentences.append(f"p is of the paired bootstrap test against {results['baseline']}, by sacreBLEU.")
    if machine := results.get("machine"):
        gpus = ", ".join(machine["gpus"]) or "no GPU"
        sentences.append(f"Compared on {on_cpus(machine)}, {gpus}.")
    return " ".join(sentences)


def table(results: Mapping[str, Any]) -> str:
    """The table in Markdown, its verdicts and notes; no heading and no line end."""
    parts = [_table(results), _verdict_list(results), escape_markdown(notes(results))]
    return "\n\n".join(part for part in parts if part)


def section(results: Mapping[str, Any]) -> str:
    """A part of a README: heading, table, notes, and folded up the verdicts and signatures; no line end."""
    parts = [f"### {escape_markdown(heading(results))}", _table(results), escape_markdown(notes(results))]
    parts += ["<details><summary>Tests and signatures</summary>", _verdict_list(results), _signature_list(results)]
    return "\n\n".join(part for part in [*parts, "</details>"] if part)


def markdown(results: Mapping[str, Any]) -> str:
    """The whole comparison in Markdown but for the plots."""
    parts = [f"# {escape_markdown(heading(results))}", table(results)]
    if bins := duration_bins(results):
        rows = [["system", *(f"{name} s" for name in bins)]]
        for system in results["systems"]:
            found = system.get("durations", {})
            scores = (f"{found[b]['bleu']:.1f} ({found[b]['segments']})" if b in found else "" for b in bins)
            rows.append([escape_markdown(system["name"]), *scores])
        parts += ["## BLEU by duration", table_rows(rows), "In brackets: segments."]
    for title, segments, names in _differences(results):
        parts += [f"## {escape_markdown(title)}", *(_in_markdown(row, names) for row in segments)]
    return "\n\n".join([*parts, "## Signatures", _signature_list(results)]) + "\n"


def duration_bins(results: Mapping[str, Any]) -> list[str]:
    """Names of the duration bins that hold segments, shortest first."""
    names = {name for system in results["systems"] for name in system.get("durations", {})}
    return sorted(names, key=lambda name: int(re.match(r"\d+", name)[0]))


def _differences(results: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]], tuple[str, str]]]:
    """Title, segments and the names of both systems, for each list of segments that is not empty."""
    found = []
    for difference in results["differences"]:
        names = difference["system"], difference["baseline"]
        for side in ("above", "below"):
            if difference[side]:
                title = f"{names[0]} furthest {side} {names[1]} (chrF2 of the sentence)"
                found.append((title, difference[side], names))
    return found


def _signatures(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(system["name"], system.get("full_signature", system["signature"])) for system in results["systems"]]


def _table(results: Mapping[str, Any]) -> str:
    return table_rows([[escape_markdown(cell) for cell in row] for row in cells(results)])


def _verdict_list(results: Mapping[str, Any]) -> str:
    return "\n".join(f"- {escape_markdown(sentence)}" for sentence in verdicts(results))


def _signature_list(results: Mapping[str, Any]) -> str:
    return "\n".join(f"- {escape_markdown(name)}: {code_span(signature)}" for name, signature in _signatures(results))


def _in_markdown(row: Mapping[str, Any], names: tuple[str, str]) -> str:
    said = [f"  - {escape_markdown(label)}: {escape_markdown(text)}" for label, text in _texts(row, names)]
    return "\n".join([f"- {escape_markdown(row['id'])}", *said])


def _texts(row: Mapping[str, Any], names: tuple[str, str]) -> list[tuple[str, str]]:
    labels = [f"{name} ({score:.1f})" for name, score in zip(names, row["chrf"], strict=True)]
    texts = ("source", row["source"]), ("reference", row["reference"])
    return [*texts, (labels[0], row["system"]), (labels[1], row["baseline"])]


def _known(system: Mapping[str, Any], show: Callable[[Mapping[str, Any]], str]) -> str:
    try:
        return show(system)
    except (KeyError, TypeError, ValueError, OverflowError):  # not there, or an --extra without a value
        return ""


def _count(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return f"{number:d}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- as a page --------------------------------------------------------------------------------------------------------


def page(results: Mapping[str, Any]) -> str:
    """The whole comparison as an HTML page that needs no other file, network or script."""
    title = escape(heading(results))
    head, *rows = cells(results)
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    parts = ["<table>", *lines, "</table>", "<ul>"]
    parts += [f"<li>{escape(sentence)}</li>" for sentence in verdicts(results)]
    parts += ["</ul>", f"<p>{escape(notes(results))}</p>", *_plots(results)]
    for label, segments, names in _differences(results):
        parts.append(f"<h2>{escape(label)}</h2>")
        for row in segments:
            said = "".join(f"<dt>{escape(k)}</dt><dd>{escape(text)}</dd>" for k, text in _texts(row, names))
            parts.append(f"<h4>{escape(row['id'])}</h4><dl>{said}</dl>")
    parts.append("<h2>Signatures</h2><ul>")
    parts += [f"<li>{escape(name)}: <code>{escape(signature)}</code></li>" for name, signature in _signatures(results)]
    body = "\n".join([f"<h1>{title}</h1>", *parts, "</ul>"])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _plots(results: Mapping[str, Any]) -> list[str]:
    curves = {system["name"]: system["curve"] for system in results["systems"] if "curve" in system}
    figures = []
    for kind, loss in (("train", "training loss"), ("dev", "loss on dev")):
        for at, unit in ((0, "updates"), (1, "seconds of training")):
            series = {name: [(p[at], p[2]) for p in curve[kind]] for name, curve in curves.items() if curve[kind]}
            if series:
                figures.append(plot(series, unit, loss))
    parts = ["<h2>Training</h2>", *figures, f"<p>{escape(_LOSS)}</p>"] if figures else []
    if bins := duration_bins(results):
        series = {
            system["name"]: [
                (i, system["durations"][b]["bleu"]) for i, b in enumerate(bins) if b in system["durations"]
            ]
            for system in results["systems"]
            if system.get("durations")
        }
        counts = next(system["durations"] for system in results["systems"] if system.get("durations"))
        names = [f"{name} ({counts[name]['segments']})" if name in counts else name for name in bins]
        parts += ["<h2>BLEU by duration</h2>", plot(series, "seconds (segments)", "BLEU", names)]
    return parts
