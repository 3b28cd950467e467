"""An input with the call that takes it, what became of it, and what a kind of input offers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

from tests.fuzz.base import Base


@dataclass(frozen=True)
class Case:
    """One input and the program that is to take it.

    Attributes:
        program: a key of :data:`tests.fuzz.programs.PROGRAMS`.
        arguments: of the program, every path absolute.
        description: what was done to which seed.
        named: a refusal has to hold one of these: names of files, or of settings.
        expected: what an accepted input is known to hold, for the kind's ``wrong``; None: nothing.
        environment: variables beyond those of the campaign.
        standard_input: what the program reads there.
    """

    program: str
    arguments: tuple[str, ...]
    description: str
    named: tuple[str, ...]
    expected: Any = None
    environment: Mapping[str, str] = field(default_factory=dict)
    standard_input: str = (
        "y\n" * 100
    )  # a program that asks whether it may run something is told that it may

    def to_json(self) -> dict[str, Any]:
        """As it stands in a line of the failures' file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Case":
        """The case of :meth:`to_json`."""
        listed = {name: tuple(content[name]) for name in ("arguments", "named")}
        return cls(**{**content, **listed})


@dataclass(frozen=True)
class Outcome:
    """What a program did with an input.

    Attributes:
        status: exit status; negative: the signal that ended it; None: it had to be killed.
        seconds: until it ended, on the wall.
        peak_mib: its largest resident memory.
        events: programs started, connections opened, strings evaluated, as far as Python knows.
    """

    status: int | None
    stdout: str
    stderr: str
    seconds: float
    peak_mib: float
    events: tuple[str, ...] = ()


class Kind(Protocol):
    """A kind of input."""

    #: As ``--kinds`` names it.
    name: str

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        """Write an input into an empty folder; the same generator state gives the same input."""

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """What is wrong with the result of an accepted input; None: nothing, or nobody knows."""
