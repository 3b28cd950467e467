"""Plots as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

# Of Okabe and Ito: told apart by colour-blind readers too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def plot(
    series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, names: Sequence[str] | None = None
) -> str:
    """Lines through the points of each series, as inline SVG with axes and legend.

    ``names``: what stands under x = 0, 1, ... instead of numbers; the y axis then begins at 0 and points are marked.
    """
    width, height, left, top, right, bottom = 540, 260, 60, 10, 15, 45
    xs, ys = ([point[i] for points in series.values() for point in points] for i in range(2))
    x_ticks = [float(i) for i in range(len(names))] if names else ticks(min(xs), max(xs))
    y_ticks = ticks(0 if names else min(ys), max(ys))
    x_low, x_high = (-0.5, len(names) - 0.5) if names else (x_ticks[0], x_ticks[-1])

    def x_at(x: float) -> float:
        return round(left + (x - x_low) / (x_high - x_low) * (width - left - right), 1)

    def y_at(y: float) -> float:
        return round(height - bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (height - top - bottom), 1)

    parts = []
    for tick in y_ticks:
        parts.append(f'<path d="M{left} {y_at(tick)}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y_at(tick) + 4}" text-anchor="end">{tick:g}</text>')
    for i, tick in enumerate(x_ticks):
        label = escape(names[i]) if names else f"{tick:g}"
        parts.append(f'<text x="{x_at(tick)}" y="{height - bottom + 16}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (top + height - bottom) / 2
    turned = f'transform="rotate(-90 14 {middle})"'
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" {turned}>{escape(y_label)}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour, below = _COLOURS[number % len(_COLOURS)], height + 18 * number + 8
        corners = " ".join(f"{x_at(x)},{y_at(y)}" for x, y in points)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if names or len(points) == 1:
            parts += [f'<circle cx="{x_at(x)}" cy="{y_at(y)}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<path d="M{left} {below}h24" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 32}" y="{below + 4}">{escape(name)}</text>')
    full = height + 18 * len(series) + 6
    return f'<figure><svg width="{width}" height="{full}" viewBox="0 0 {width} {full}">{"".join(parts)}</svg></figure>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Some ``count`` round numbers, evenly spaced, the first at or below ``low`` and the last at or above ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
