"""Whether a program did right with an input: take it, or refuse it in one line that helps."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"
#: Memory above the process that has nothing to do yet.
MOST_MIB = 1024

_TRACEBACK = "Traceback (most recent call last)"
#: Bash's own errors, which name its scripts instead of the setting.
_BASH = re.compile(r"^\S*\.sh: line \d+: ", re.MULTILINE)
#: Python's platform module asks what processor this is; chat templates are rendered in a child.
_OWN = ("subprocess.Popen ('uname', ", "os.fork ")
#: Words by which messages say what to do.
_REMEDIES = """add|are needed|check|choose|compare|convert|copy|correct|cross|cut|download|export|free|give|has:
install|is needed|is one of|it has|join|keep|known|leave|let|lower|make|mend|name|names|needs|no tab|prepare
put|quote|raise|recognise|remove|rename|run|save|score|set|start|there are|train|translate|try|unpack|update|use|valid
write""".replace("\n", "|")
_REMEDY = re.compile(rf"\b({_REMEDIES})(?!\w)|is an? [\w ]+, not ", re.IGNORECASE)
_ERROR_LINE = re.compile(r"^(error|usage|[\w.-]+: error|[\w.-]+(\.py|translate|generate|train)): ")


@dataclass(frozen=True)
class Verdict:
    """``accepted``, ``refused`` or ``failed``; of a failure its kind and what shows it."""

    result: str
    fault: str = ""
    detail: str = ""


def failed(fault: str, detail: str) -> Verdict:
    """A failure, with so much of what shows it as fits on a few lines."""
    return Verdict(FAILED, fault, detail.strip()[-600:])


def judge(case: Case, outcome: Outcome, idle_mib: float, base: Base, folder: Path) -> Verdict:
    """Judge everything but whether an accepted input's result is right.

    Args:
        case: the input.
        outcome: what became of it.
        idle_mib: memory of the process that has imported everything and done nothing.
        base: its marker file must not be there, and its secret nowhere; the marker is removed.
        folder: what the program may have written into.
    """
    text = outcome.stderr + outcome.stdout
    if base.marker.exists():
        base.marker.unlink()
        return failed("ran code", "the marker file was written")
    if strange := [event for event in outcome.events if not event.startswith(_OWN)]:
        return failed("network" if strange[0].startswith("socket") else "ran code", strange[0])
    if base.secret in text or (where := _holds(folder, base.secret)):
        return failed(
            "leaked", "the secret is in " + ("the output" if base.secret in text else str(where))
        )
    if outcome.status is None:
        return failed("hang", f"killed after {outcome.seconds:.0f} s; {_last_line(text)}")
    if outcome.peak_mib - idle_mib > MOST_MIB:
        return failed(
            "memory", f"{outcome.peak_mib:.0f} MiB, idle {idle_mib:.0f}; {_last_line(text)}"
        )
    if outcome.status < 0:
        return failed("crash", f"signal {-outcome.status}; {_last_line(text)}")
    if _TRACEBACK in text:
        return failed("traceback", _last_line(outcome.stderr))
    if found := _BASH.search(outcome.stderr):
        return failed("traceback", outcome.stderr[found.start() :].split("\n")[0])
    return Verdict(ACCEPTED) if outcome.status == 0 else _judge_refusal(case, outcome)


def _judge_refusal(case: Case, outcome: Outcome) -> Verdict:
    """One line, a name, a remedy."""
    if (
        case.program == "check"
        and "  error: " in outcome.stdout
        and case.named[0] in outcome.stdout
    ):
        return Verdict(
            REFUSED, detail=_last_line(outcome.stdout)
        )  # a report, with what is wrong at each line
    lines = [line for line in outcome.stderr.split("\n") if line.strip()]
    if not lines:
        return failed("silent", f"exit status {outcome.status} and no line on standard error")
    line = lines[-1]
    starts = [number for number, text in enumerate(lines) if _ERROR_LINE.match(text)]
    if starts and starts[-1] != len(lines) - 1:
        return failed("several lines", "\n".join(lines[starts[-1] :]))
    if not any(name in line for name in case.named):
        return failed("names no file", line)
    if not _REMEDY.search(line):
        return failed("no remedy", line)
    return Verdict(REFUSED, detail=line)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.split("\n")) if line.strip()), "")


def _holds(folder: Path, secret: str) -> Path | None:
    """A file below a folder's ``out`` that holds the secret."""
    for path in sorted((folder / "out").rglob("*")):
        if path.is_file() and secret.encode() in path.read_bytes():
            return path
    return None
