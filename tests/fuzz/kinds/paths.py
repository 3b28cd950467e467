"""Paths: what is no regular file where files are read, and names that are hard to write."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.programs import generate_arguments, translate_arguments
from tests.support.helpers import REPOSITORY

#: Names that a file may well have.
NAMES = (
    *("a\nb", "a\tb", 'a"b', "a'b", "a b", "-a", "a:b", "a:1:2", "$(a)", "`a`", "*", "ä"),
    *("e\u0301", "\u202ea", "a\\b", "%s"),
    *("{0}", "~", ".a", "a.", "#a", "a&b;c", "x" * 240, "\x1b[31ma", os.fsdecode(b"\xff\xfe")),
)
Arguments = Callable[[Path, Base, Path], tuple[str, ...]]


@dataclass(frozen=True)
class Role:
    """A place where a program takes the path of a file.

    Attributes:
        program: which takes it.
        suffix: of the file's name.
        seed: a file that is right there.
        arguments: of the program, from the path, the base and a folder to write to.
    """

    program: str
    suffix: str
    seed: Callable[[Base], Path]
    arguments: Arguments


def _checkpoint(program: str, arguments: Arguments) -> Role:
    return Role(program, ".pt", lambda base: base.checkpoint, arguments)


def _manifest(base: Base) -> Path:
    return base.corpus / "test.tsv"


def _scored(manifest: Path, hypotheses: Path, *more: str) -> tuple[str, ...]:
    return ("--manifest", str(manifest), "--hypotheses", str(hypotheses), *more)


def _speech(base: Base) -> Path:
    return Path(base.speech)


def _study(base: Base) -> Path:
    return REPOSITORY / "examples" / "study" / "smoke.yaml"


ROLES: Mapping[str, Role] = {
    "audio": Role(
        "lst-translate",
        ".wav",
        _speech,
        lambda path, base, out: translate_arguments(base.checkpoint, str(path)),
    ),
    "audio to the reader": Role(
        "read-audio", ".wav", _speech, lambda path, base, out: (str(path),)
    ),
    "mp3": Role("read-audio", ".mp3", _speech, lambda path, base, out: (str(path),)),
    "checkpoint": _checkpoint(
        "lst-translate", lambda path, base, out: translate_arguments(path, base.speech)
    ),
    "checkpoint to export": _checkpoint(
        "export", lambda path, base, out: (str(path), str(out / "exported"))
    ),
    "checkpoint to convert": _checkpoint(
        "convert", lambda path, base, out: (str(path), str(out / "converted.pt"))
    ),
    "checkpoint to fairseq": _checkpoint(
        "fairseq-generate", lambda path, base, out: generate_arguments(base.corpus, path, out)
    ),
    "checkpoint to average": _checkpoint(
        "average", lambda path, base, out: (str(path), "--out", str(out / "mean.pt"))
    ),
    "manifest": Role("check", ".tsv", _manifest, lambda path, base, out: (str(path),)),
    "manifest to score": Role(
        "score", ".tsv", _manifest, lambda path, base, out: _scored(path, base.hypotheses)
    ),
    "hypotheses": Role(
        "score",
        ".txt",
        lambda base: base.hypotheses,
        lambda path, base, out: _scored(_manifest(base), path),
    ),
    "log": Role(
        "score",
        ".log",
        lambda base: base.hypotheses,
        lambda path, base, out: _scored(_manifest(base), base.hypotheses, "--log", str(path)),
    ),
    "scores": Role(
        "compare",
        ".json",
        lambda base: base.scores,
        lambda path, base, out: (str(path), "--out", str(out)),
    ),
    "scores to report": Role(
        "report",
        ".json",
        lambda base: base.scores,
        lambda path, base, out: (str(path), "--out", str(out / "report.json")),
    ),
    "study": Role(
        "study",
        ".yaml",
        _study,
        lambda path, base, out: (str(path), "--list", "--out", str(out)),
    ),
}


class Paths:
    """In each place where a program takes the path of a file."""

    name = "paths"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        name = rng.choice(sorted(ROLES))
        role = ROLES[name]
        seed = role.seed(base)
        if rng.random() < 0.4:
            path = folder / (rng.choice(NAMES) + role.suffix)
            with suppress(OSError):
                shutil.copy(seed, path)
            said = f"called {path.name!r:.60}"
        else:
            path = folder / f"input{role.suffix}"
            thing = rng.choice(sorted(THINGS))
            path = THINGS[thing](path, seed) or path
            said = thing
        shown = path.name.encode("unicode_escape", "surrogateescape").decode()
        named = (path.name, shown, repr(path.name)[1:-1])
        if role.program.startswith("fairseq"):  # whose --path is a list, joined by colons
            named = (*named, f"{path.parent}/{path.name.split(':')[0]}")
        arguments = role.arguments(path, base, folder / "out")
        return Case(role.program, arguments, f"{name}: {said}", named)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        return None


def _socket(path: Path, seed: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(path.parent, os.O_RDONLY)
        server.bind(
            f"/proc/self/fd/{descriptor}/{path.name}"
        )  # a socket's whole path may have 107 bytes
        os.close(descriptor)


def _sparse(path: Path, seed: Path) -> None:
    shutil.copy(seed, path)
    os.truncate(path, 20 << 30)


def _link_loop(path: Path, seed: Path) -> None:
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


#: Ways of putting something at a path, or of naming another path instead.
THINGS: Mapping[str, Callable[[Path, Path], Path | None]] = {
    "missing": lambda path, seed: None,
    "in a folder that is missing": lambda path, seed: path.parent / "none" / path.name,
    "below a file": lambda path, seed: Path(shutil.copy(seed, path.with_name("file"))) / path.name,
    "a folder": lambda path, seed: path.mkdir(),
    "a folder with a name for a file in it": lambda path, seed: (path / "lst.json").mkdir(
        parents=True
    ),
    "empty": lambda path, seed: path.touch(),
    "one byte": lambda path, seed: path.write_bytes(b"\n") and None,
    "a pipe": lambda path, seed: os.mkfifo(path),
    "a socket": _socket,
    "a link in a circle": _link_loop,
    "a link to nothing": lambda path, seed: path.symlink_to("nothing"),
    "a link to the file": lambda path, seed: path.symlink_to(seed.resolve()),
    "a link to /dev/zero": lambda path, seed: path.symlink_to("/dev/zero"),
    "a link to /dev/null": lambda path, seed: path.symlink_to("/dev/null"),
    "a link to /dev/urandom": lambda path, seed: path.symlink_to("/dev/urandom"),
    "a link to standard input": lambda path, seed: path.symlink_to("/dev/stdin"),
    "a link to memory": lambda path, seed: path.symlink_to("/proc/self/mem"),
    "20 GiB, sparse": _sparse,
}
