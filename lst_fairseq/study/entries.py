"""Entries of a study file: names, mappings and positions on an axis, and the error that says what is wrong with one."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+%-]*")


class StudyError(ValueError):
    """A study that cannot be run as it is; the message names the entry and what to do."""


def entry_name(given: Any, where: str) -> str:
    """A name of the study, of a factor or of a value."""
    if not _NAME.fullmatch(str(given)):
        raise StudyError(f"{where}: {given!r}: give a name of letters, digits and the signs . _ + % -")
    return str(given)


def entry_mapping(given: Any, where: str, known: Iterable[str] | None = None) -> Mapping[str, Any]:
    """Names with values; only the known names, if these are given."""
    if not isinstance(given, dict):
        raise StudyError(f"{where}: {given!r}: give names with values")
    if known is not None and (unknown := [key for key in given if key not in known]):
        raise StudyError(f"{where}: {unknown[0]}: no such entry; there are: {', '.join(sorted(known))}")
    return given


def axis_position(given: Any, where: str) -> tuple[str, float]:
    """The axis of a curve and where a value stands on it, as ``at: {CER: 5.8}`` says."""
    entries = list(given.items()) if isinstance(given, dict) else []
    try:
        ((axis, position),) = entries
        return str(axis), float(position)
    except (TypeError, ValueError):
        raise StudyError(f"{where}: at: {given!r}: give one name with a number, as {{CER: 5.8}}") from None
