"""Entries of a study file: each kind of value that there is, and the error that says what is wrong with one."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lst_fairseq.utils.shapes import is_number
from lst_fairseq.utils.yaml_files import not_a_text

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+%-]*")


class StudyError(ValueError):
    """A study that cannot be run as it is; the message names the entry and what to do."""


def entry_name(given: Any, where: str) -> str:
    """A name of the study, of a factor or of a value."""
    if given is None or isinstance(given, bool):
        raise StudyError(f"{where}: a name {not_a_text(given)}")
    if not _NAME.fullmatch(str(given)):
        raise StudyError(f"{where}: {given!r}: give a name of letters, digits and the signs . _ + % -")
    return str(given)


def entry_mapping(given: Any, where: str, known: Iterable[str] | None = None) -> Mapping[str, Any]:
    """Names with values, none where the entry is empty; only the known names, if these are given."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise StudyError(f"{where}: {given!r:.200}: give names with values")
    if known is not None and (unknown := [key for key in given if key not in known]):
        raise StudyError(f"{where}: {unknown[0]}: no such entry; there are: {', '.join(sorted(known))}")
    return given


def axis_position(given: Any, where: str) -> tuple[str, float]:
    """The axis of a curve and where a value stands on it, as ``at: {CER: 5.8}`` says."""
    entries = list(given.items()) if isinstance(given, dict) else []
    if len(entries) != 1 or not is_number(entries[0][1]):
        raise StudyError(f"{where}: at: {given!r:.200}: give one name with a number, as {{CER: 5.8}}")
    return str(entries[0][0]), float(entries[0][1])


def entry_text(given: Any, where: str) -> str:
    """A text, or a number as one; empty where the entry is."""
    if given is None:
        return ""
    if isinstance(given, str) or is_number(given):
        return str(given)
    raise StudyError(f"{where}: {not_a_text(given)}")


def entry_list(given: Any, where: str, of: str) -> list[Any]:
    """A list, empty where the entry is; ``of``: what it lists, for the error."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise StudyError(f"{where}: {given!r:.200}: give a list of {of}")
    return given


def entry_count(given: Any, where: str, least: int = 0, what: str = "") -> int:
    """A whole number; ``what``: it is, for the error."""
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given < 2**32:
        raise StudyError(f"{where}: {given!r:.200}: give {what}a whole number from {least} on")
    return given


def data_entries(given: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    """What a value does with the training data; see ``grid.Options``."""
    data = dict(entry_mapping(given, where, known))
    fraction, max_wer = data.get("fraction", 1), data.get("max_wer", 0)
    if not is_number(fraction) or not 0 < fraction <= 1:
        raise StudyError(f"{where}: fraction: {fraction!r}: give a number above 0, up to 1")
    if not is_number(max_wer) or max_wer < 0:
        raise StudyError(f"{where}: max_wer: {max_wer!r}: give a word error rate, as 0.3")
    if "speech_encoder" in data:
        data["speech_encoder"] = entry_text(data["speech_encoder"], f"{where}: speech_encoder")
    for task, texts in entry_mapping(data.get("instructions"), f"{where}: instructions").items():
        for text in (task, *(texts if isinstance(texts, list) and texts else [texts])):
            if not isinstance(text, str):
                raise StudyError(f"{where}: instructions: {task}: a text {not_a_text(text)}")
    return data


def setting_text(given: Any, where: str) -> str:
    """A setting's value as the shell gets it."""
    if given is not None and not isinstance(given, str) and not is_number(given):
        quote = ", in quotes, without which YAML takes no, on and the like for false and true"
        remedy = f"give a text or a number{quote if isinstance(given, bool) else ''}"
        raise StudyError(f"{where}: {given!r:.200}: {remedy}")
    if isinstance(given, str) and "\0" in given:
        raise StudyError(f"{where}: {given!r}: give a text without the character 0")
    return "" if given is None else str(given)
