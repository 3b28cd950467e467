"""Many inputs, one after another: made, taken by a program, judged; the failures kept."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import execute
from tests.fuzz.base import SECRET_NAME, Base
from tests.fuzz.case import Case, Kind, Outcome
from tests.fuzz.programs import PROGRAMS
from tests.fuzz.verdict import ACCEPTED, FAILED, Verdict, failed, judge

FAILURES = "failures.jsonl"


@dataclass
class Campaign:
    """Takes inputs of some kinds.

    Attributes:
        base: what they are made from.
        out: folder for the inputs; those that fail stay, each with a line in ``failures.jsonl``.
        patience: seconds that a program may take.
        idle_mib: memory of this process before the first input; see :meth:`warm`.
    """

    base: Base
    out: Path
    patience: float = 10.0
    idle_mib: float = 0.0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _mains: dict[str, execute.Main] = field(default_factory=dict)

    def run(
        self, kinds: Sequence[Kind], count: int, commands: int, seed: int
    ) -> Iterator[tuple[str, Verdict]]:
        """``count`` inputs in children of this process, then ``commands`` by the real commands.

        The kinds take turns.
        """
        for number in range(count + commands):
            kind, turn = kinds[number % len(kinds)], number // len(kinds)
            name = f"{kind.name}-{seed}-{turn}"
            folder = self.out / name
            execute.remove(folder)
            folder.mkdir(parents=True)
            case = kind.make(Random(name), folder, self.base)
            verdict = self.take(kind, case, folder, number >= count)
            if verdict.result != FAILED:
                execute.remove(folder)
            yield name, verdict

    def take(self, kind: Kind, case: Case, folder: Path, command: bool) -> Verdict:
        """Run one case, judge it, count it, and note it if it failed."""
        output = folder / "output"
        execute.remove(output)
        execute.remove(folder / "out")
        output.mkdir()
        (folder / "out").mkdir()
        outcome = self._outcome(case, output, command)
        verdict = judge(case, outcome, self.idle_mib, self.base, folder)
        if verdict.result == ACCEPTED and (wrong := kind.wrong(case, outcome)):
            verdict = failed("wrong result", wrong)
        self.counts[kind.name, verdict.result] += 1
        if verdict.result != FAILED:
            return verdict
        self.faults[kind.name, case.program, verdict.fault] += 1
        content = {
            "kind": kind.name,
            "fault": verdict.fault,
            "detail": verdict.detail,
            "command": command,
        }
        with open(self.out / FAILURES, "a", encoding="utf-8") as file:
            file.write(
                json.dumps({**content, "folder": str(folder), "case": case.to_json()}) + "\n"
            )
        return verdict

    def replay(
        self, lines: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]
    ) -> Iterator[tuple[str, Verdict]]:
        """Take the inputs of lines of a failures' file once more; they stay where they are."""
        for line in lines:
            case, folder = Case.from_json(line["case"]), Path(line["folder"])
            yield folder.name, self.take(kinds[line["kind"]], case, folder, line["command"])

    def table(self) -> str:
        """Inputs by kind, and under it the kinds of fault."""
        rows = [("kind", "inputs", "accepted", "refused", "failed")]
        for name in sorted({name for name, _ in self.counts}):
            numbers = [self.counts[name, result] for result in ("accepted", "refused", "failed")]
            rows.append((name, *map(str, (sum(numbers), *numbers))))
        lines = [f"{row[0]:<12}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]
        lines += [f"{times:6d} x {' / '.join(fault)}" for fault, times in self.faults.most_common()]
        return "\n".join(lines)

    @property
    def failures(self) -> int:
        """Inputs that failed."""
        return sum(self.faults.values())

    def _outcome(self, case: Case, output: Path, command: bool) -> Outcome:
        environment = {SECRET_NAME: self.base.secret, **case.environment}
        program = PROGRAMS[case.program]
        if command or program.load is None:
            return execute.as_command(program, case, output, environment, 6 * self.patience)
        return execute.in_child(self._main(case.program), case, output, environment, self.patience)

    def _main(self, name: str) -> execute.Main:
        if name not in self._mains:
            load = PROGRAMS[name].load
            assert load is not None
            self._mains[name] = load()
        return self._mains[name]

    def warm(self) -> None:
        """Import in this process what its children need, before the first of them."""
        from tests import conftest  # noqa: F401
        from tests.support import running  # noqa: F401

        for name, program in PROGRAMS.items():
            if program.load is not None:
                self._main(name)
        execute.settle()
        self.idle_mib = _resident_mib()


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
