"""Values of command lines, checked as they are read: for argparse's ``type``."""

import argparse
import math
import re
from pathlib import Path

#: As torch.device takes it: ``cuda``, ``cuda:1``.
_DEVICE = re.compile(r"[a-z]\w*(:\d+)?")


class UsageError(ValueError):
    """Arguments that do not go together; the command's usage is shown before the message."""


def positive(text: str) -> int:
    """A number that counts something."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def finite(text: str) -> float:
    """Any number but infinity."""
    if not math.isfinite(value := _number(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value


def positive_number(text: str) -> float:
    """A number that measures something."""
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def device_name(text: str) -> str:
    """The name of a device by its form; whether there is such a device is PyTorch's to say."""
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of a device, such as cpu, cuda or cuda:1"
        )
    return text


def key_and_value(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` as a pair."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def at_least(least: int, **given: int) -> None:
    """Raise a UsageError where one of some flags, by their names in Python, is smaller than it may be."""
    for name, value in given.items():
        if value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value}: give {least} or more")


def check_apart(given: Path, out: Path, flag: str) -> None:
    """Raise a UsageError where what a flag names to write is what is read, which would be lost."""
    if out.resolve() == given.resolve():
        raise UsageError(
            f"{flag} {out}: is what is read; give another place, so that nothing is lost"
        )
