"""The files that scores, comparisons and reports are written to, each whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lst_fairseq.evaluation.report.comparison import markdown, page
from lst_fairseq.utils.files import atomic_text
from lst_fairseq.utils.machine import machine, versions


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts under their names into a folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_text(folder / name) as file:
            file.write(text)
    return [folder / name for name in texts]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write results as JSON; their folder is made where there is none."""
    write_texts(path.parent, {path.name: _as_json(content)})


def write_comparison(
    folder: Path, compared: Mapping[str, Any], extra: Mapping[str, Any]
) -> list[Path]:
    """Write a comparison as JSON, in Markdown and as a page.

    Args:
        folder: made where there is none.
        compared: what ``compare`` returned.
        extra: more entries for the JSON file, such as ``title``; those of the comparison win.

    Returns:
        Paths of results.json, results.md and results.html.
    """
    results = {**extra, **compared, "machine": machine(), "versions": versions()}
    texts = {
        "results.json": _as_json(results),
        "results.md": markdown(results),
        "results.html": page(results),
    }
    return write_texts(folder, texts)


def write_report(
    path: Path, systems: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]
) -> None:
    """Write the scores of several systems, without their sentences, into one JSON file.

    Args:
        path: of the report.
        systems: scores as ``read_scores`` gives them, in the order of the report.
        extra: more entries for the report.
    """
    kept = [{key: value for key, value in each.items() if key != "sentences"} for each in systems]
    write_json(path, {"systems": kept, **extra, "machine": machine(), "versions": versions()})


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
