"""Training curves from what fairseq-train logged."""

import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lst_fairseq.errors import ComparisonError
from lst_fairseq.utils.text_files import Unreadable, read_data

#: The tag of a line about a few updates of training.
TRAINING = "train_inner"
#: Points that a curve is thinned out to.
CURVE_POINTS = 300
# "2026-01-01 00:00:00 | INFO | TAG | ...", or of fairseq-hydra-train "[2026-01-01 00:00:00,123][TAG][INFO] - ..."
_LOGGED = re.compile(r"(?:\| INFO \| ([\w.-]+) \| |\]\[([\w.-]+)\]\[INFO\] - )(.*)")
_PAIR = re.compile(r"(\w+)[= ]([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf)(?=[,\s]|$)")


def read_curve(paths: Iterable[str | Path]) -> dict[str, list[list[float]]]:
    """``{"train": [[updates, seconds, loss], ...], "dev": ...}`` of what fairseq-train logged, as text or as JSON.

    Loss is ``nll_loss`` where the log has it, else ``loss``: bits for each token of the model's own vocabulary. Several
    logs are stages of one training, each going on where the one before ended. Of several dev sets the first counts. The
    log does not time a look at it: it gets the seconds of the training line before it.
    """
    curve: dict[str, list[list[float]]] = {"train": [], "dev": []}
    for path in paths:
        ends = [points[-1][:2] for points in curve.values() if points]
        updates, seconds = (max(end[i] for end in ends) if ends else 0.0 for i in range(2))
        for kind, points in _read_log(path).items():
            curve[kind] += [[updates + point[0], seconds + point[1], point[2]] for point in points]
    return {kind: _thin(points) for kind, points in curve.items()}


def _read_log(path: str | Path) -> dict[str, list[list[float]]]:
    curve: dict[str, list[list[float]]] = {"train": [], "dev": []}
    try:
        data = read_data(path, "give fairseq-train's output", "training log")
    except Unreadable as error:
        raise ComparisonError(str(error)) from None
    lines = data.decode("utf-8", errors="replace").split("\n")
    wall, before, dev_tag = 0.0, 0.0, None
    for tag, values in filter(None, map(logged_losses, lines)):
        training = tag == TRAINING
        if not training and tag != (dev_tag := dev_tag or tag):
            continue
        loss, updates = values.get("nll_loss", values.get("loss", math.nan)), values.get("num_updates")
        if training:
            last, wall = wall, values.get("wall", wall)
            before += last if wall < last else 0.0  # of a process that this one goes on from
        if updates is None or not math.isfinite(loss):
            continue
        points = curve["train" if training else "dev"]
        while points and points[-1][0] >= updates:  # resumed from a checkpoint before them
            points.pop()
        points.append([updates, before + wall, loss])
    return curve


def logged_losses(line: str) -> tuple[str, dict[str, float]] | None:
    """What a line of fairseq-train's log says of losses, as text or as JSON; None: it says nothing of them.

    Returns:
        ``TRAINING`` or the name of the dev set, and the numbers by their names: ``loss``, ``num_updates``, ``wall``.
    """
    match = _LOGGED.search(line)
    if match is None:
        return None
    tag, body = match[1] or match[2], match[3].strip()
    # The tag of a look at the dev set is the name of the subset; "train" is an epoch's average.
    if tag == "train" or not (tag == TRAINING or f'"{tag}_loss"' in body or "| valid on '" in body):
        return None
    return tag, _values(body, "" if tag == TRAINING else f"{tag}_")


def _values(body: str, prefix: str) -> dict[str, float]:
    """The numbers of a logged line: ``loss=4.5, ...`` while training, ``loss 4.5 | ...`` on the dev set, or JSON."""
    if not body.startswith("{"):
        return {key: float(value) for key, value in _PAIR.findall(body)}
    try:
        logged = json.loads(body)
    except (ValueError, RecursionError):  # cut short where training was killed
        return {}
    values = {}
    for key, value in logged.items():
        with suppress(TypeError, ValueError, OverflowError):  # what cannot be measured is null
            values[key.removeprefix(prefix)] = float(value)
    return values


def _thin(points: list[list[float]]) -> list[list[float]]:
    """At most CURVE_POINTS of the points, evenly spread, with the first and the last."""
    if len(points) <= CURVE_POINTS:
        return points
    return [points[i * (len(points) - 1) // (CURVE_POINTS - 1)] for i in range(CURVE_POINTS)]
