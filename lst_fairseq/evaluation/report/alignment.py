"""Figures and pictures of alignment: tables, inline SVG, and a page of them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lst_fairseq.criterions import adapter_collapse
from lst_fairseq.evaluation.report.plots import plot

_CELL, _ROW, _LEFT, _TOP = 13, 18, 150, 24
_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } th, td { padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; } figure { overflow-x: auto; margin: .5em 0 1.5em; }
svg text { font: 12px sans-serif; } dt { color: #555; } dd { margin: 0 0 .3em 1em; }
"""


def colour(share: float) -> str:
    """From white at 0 to dark blue at 1."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(255 + (end - 255) * share) for end in (8, 64, 129))
    return f"#{red:02x}{green:02x}{blue:02x}"


def runs(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Stretches of equal labels: (first, one past the last, label)."""
    found: list[tuple[int, int, str]] = []
    for index, label in enumerate(labels):
        if found and found[-1][2] == label:
            found[-1] = (found[-1][0], index + 1, label)
        else:
            found.append((index, index + 1, label))
    return found


def _time_axis(n_vectors: int, seconds: float, y: float) -> list[str]:
    """Marks under n cells that stand for so many seconds, every half second or so."""
    parts = []
    step = max(0.5, round(seconds / 10 * 2) / 2)
    for number in range(int(seconds / step) + 1):
        x = _LEFT + number * step / seconds * n_vectors * _CELL
        parts.append(f'<path d="M{x:.1f} {y}v5" stroke="#888"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle" fill="#555">{number * step:g} s</text>')
    return parts


def token_strip(pieces: Sequence[str], cosines: Sequence[float], seconds: float) -> str:
    """The nearest token of the vocabulary along an utterance, darker where it is nearer.

    Args:
        pieces: the nearest token to each of the adapter's outputs, as text.
        cosines: with it, one each.
        seconds: duration of the utterance.
    """
    high = 96
    width, height = _LEFT + len(pieces) * _CELL + 20, _TOP + high + _ROW + 26
    parts = [f'<text x="{_LEFT - 8}" y="{_TOP + high + 13}" text-anchor="end">nearest token</text>']
    for index, cosine in enumerate(cosines):
        x = _LEFT + index * _CELL
        title = f"<title>{escape(pieces[index])}: {cosine:.2f}</title>"
        parts.append(
            f'<rect x="{x}" y="{_TOP + high}" width="{_CELL}" height="{_ROW}" fill="{colour(cosine)}">{title}</rect>'
        )
    for first, last, piece in runs(pieces):
        x = _LEFT + (first + last) / 2 * _CELL
        turned = f'transform="rotate(-60 {x:.1f} {_TOP + high - 5})"'
        parts.append(f'<text x="{x:.1f}" y="{_TOP + high - 5}" {turned}>{escape(piece.strip() or "·")}</text>')
        parts.append(f'<path d="M{_LEFT + first * _CELL} {_TOP + high - 3}V{_TOP + high + _ROW}" stroke="#bbb"/>')
    return _figure(width, height, parts + _time_axis(len(pieces), seconds, _TOP + high + _ROW))


def heat_map(pieces: Sequence[str], weights: Sequence[Sequence[float]], seconds: float) -> str:
    """Attention of a translation's tokens (rows, from the top) over the speech (columns); darkest at a row's highest.

    Args:
        pieces: the tokens, as text.
        weights: a row for each of them, a number for each of the adapter's outputs.
        seconds: duration of the utterance.
    """
    n_vectors = len(weights[0])
    width, height = _LEFT + n_vectors * _CELL + 90, _TOP + len(pieces) * _ROW + 26
    parts = [f'<text x="{_LEFT + n_vectors * _CELL + 6}" y="{_TOP - 8}">on speech</text>']
    for number, (piece, row) in enumerate(zip(pieces, weights, strict=True)):
        y, highest = _TOP + number * _ROW, max(row) or 1.0
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(piece.strip() or "·")}</text>')
        for index, weight in enumerate(row):
            x, title = _LEFT + index * _CELL, f"<title>{weight:.3f}</title>"
            fill = colour(weight / highest)
            parts.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_ROW}" fill="{fill}">{title}</rect>')
        parts.append(f'<text x="{_LEFT + n_vectors * _CELL + 6}" y="{y + 13}">{100 * sum(row):.0f} %</text>')
    return _figure(width, height, parts + _time_axis(n_vectors, seconds, _TOP + len(pieces) * _ROW))


def _figure(width: float, height: float, parts: Sequence[str]) -> str:
    view = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<figure><svg xmlns="http://www.w3.org/2000/svg" {view}>{"".join(parts)}</svg></figure>'


def table(checkpoints: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row of headings and one for each checkpoint that was measured."""
    rows = [["checkpoint", "nearest token, cosine", "of other transcripts", "retrieval", "chance", "vectors per token"]]
    rows[0] += ["variation", "scale"]
    for found in checkpoints:
        figures = [f"{found['cosine']:.3f}", f"{found['other_cosine']:.3f}", f"{100 * found['retrieval']:.1f} %"]
        rows.append([found["checkpoint"], *figures, f"{100 / found['candidates']:.1f} %"])
        rows[-1] += [f"{found['vectors_per_token']:.2f}", f"{100 * found['variation']:.1f} %", f"{found['scale']:.2f}"]
    return rows


def page(title: str, checkpoints: Sequence[Mapping[str, Any]], pictures: Sequence[Mapping[str, Any]]) -> str:
    """An HTML page that needs no other file, network or script.

    Args:
        title: of the page.
        checkpoints: what ``alignment.measure`` found, each with ``checkpoint``, its name.
        pictures: each with ``checkpoint``, ``id``, ``transcript``, ``translation``, ``strip`` and ``attention`` (SVG).
    """
    head, *rows = table(checkpoints)
    lines = [f"<h1>{escape(title)}</h1>", "<table>", _row(head, "th"), *(_row(row, "td") for row in rows), "</table>"]
    first = checkpoints[0]
    lines.append(
        f"<p>{first['segments']} segments. Cosine of each of the adapter's outputs with the nearest token of the right "
        f"transcript, and of others; retrieval: how often the right transcript matches best among "
        f"{first['candidates']}; variation: how much of the outputs' mean square is not that of their mean; scale: "
        f"root mean square of the outputs over that of the transcripts' embeddings.</p>"
    )
    for found in checkpoints:
        if warning := adapter_collapse.warning(found["variation"]):
            lines.append(f"<p><strong>{escape(found['checkpoint'])}: {escape(warning)}.</strong></p>")
    if len(checkpoints) > 1:
        names = [found["checkpoint"] for found in checkpoints]
        series = {
            label: [(i, 100 * found[key]) for i, found in enumerate(checkpoints)]
            for label, key in (
                ("cosine x 100", "cosine"),
                ("others x 100", "other_cosine"),
                ("retrieval, %", "retrieval"),
            )
        }
        lines.append(plot(series, "checkpoint", "", names))
    for picture in pictures:
        lines.append(f"<h2>{escape(picture['id'])}, {escape(picture['checkpoint'])}</h2><dl>")
        for label in ("transcript", "translation"):
            lines.append(f"<dt>{label}</dt><dd>{escape(picture[label])}</dd>")
        lines += ["</dl>", picture["strip"], "<p>Attention of the translation's tokens over the speech:</p>"]
        lines.append(picture["attention"])
    body = "\n".join(lines)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
