"""Paths: what is no regular file where files are read, and names that are hard to write."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.programs import generate_arguments, translate_arguments

#: Names that a file may well have.
NAMES = (
    *("a\nb", "a\tb", 'a"b', "a'b", "a b", "-a", "a:b", "a:1:2", "$(a)", "`a`", "*", "ä"),
    *("e\u0301", "\u202ea", "a\\b", "%s"),
    *("{0}", "~", ".a", "a.", "#a", "a&b;c", "x" * 240, "\x1b[31ma", os.fsdecode(b"\xff\xfe")),
)
#: What each program reads: how it is called with a path in that place.
ROLES: Mapping[
    str,
    tuple[str, str, Callable[[Path, Base], Path], Callable[[Path, Base, Path], tuple[str, ...]]],
] = {
    "audio": (
        "lst-translate",
        ".wav",
        lambda path, base: Path(base.speech),
        lambda path, base, out: translate_arguments(base.checkpoint, str(path)),
    ),
    "audio to the reader": (
        "read-audio",
        ".wav",
        lambda path, base: Path(base.speech),
        lambda path, base, out: (str(path),),
    ),
    "mp3": (
        "read-audio",
        ".mp3",
        lambda path, base: Path(base.speech),
        lambda path, base, out: (str(path),),
    ),
    "checkpoint": (
        "lst-translate",
        ".pt",
        lambda path, base: base.checkpoint,
        lambda path, base, out: translate_arguments(path, base.speech),
    ),
    "checkpoint to export": (
        "export",
        ".pt",
        lambda path, base: base.checkpoint,
        lambda path, base, out: (str(path), str(out / "exported")),
    ),
    "checkpoint to convert": (
        "convert_checkpoint",
        ".pt",
        lambda path, base: base.checkpoint,
        lambda path, base, out: (str(path), str(out / "converted.pt")),
    ),
    "checkpoint to fairseq": (
        "fairseq-generate",
        ".pt",
        lambda path, base: base.checkpoint,
        lambda path, base, out: generate_arguments(base.corpus, path, out),
    ),
    "checkpoint to average": (
        "average_checkpoints",
        ".pt",
        lambda path, base: base.checkpoint,
        lambda path, base, out: (str(path), "--out", str(out / "mean.pt")),
    ),
    "manifest": (
        "check_manifest",
        ".tsv",
        lambda path, base: base.corpus / "test.tsv",
        lambda path, base, out: (str(path),),
    ),
    "manifest to score": (
        "score",
        ".tsv",
        lambda path, base: base.corpus / "test.tsv",
        lambda path, base, out: ("--manifest", str(path), "--hypotheses", str(base.hypotheses)),
    ),
    "hypotheses": (
        "score",
        ".txt",
        lambda path, base: base.hypotheses,
        lambda path, base, out: (
            "--manifest",
            str(base.corpus / "test.tsv"),
            "--hypotheses",
            str(path),
        ),
    ),
    "log": (
        "score",
        ".log",
        lambda path, base: base.hypotheses,
        lambda path, base, out: (
            *("--manifest", str(base.corpus / "test.tsv"), "--hypotheses"),
            *(str(base.hypotheses), "--log", str(path)),
        ),
    ),
    "scores": (
        "compare",
        ".json",
        lambda path, base: base.scores,
        lambda path, base, out: (str(path), "--out", str(out)),
    ),
    "scores to report": (
        "report",
        ".json",
        lambda path, base: base.scores,
        lambda path, base, out: (str(path), "--out", str(out / "report.json")),
    ),
    "study": (
        "study",
        ".yaml",
        lambda path, base: Path(__file__).parents[3] / "examples" / "study" / "smoke.yaml",
        lambda path, base, out: (str(path), "--list", "--out", str(out)),
    ),
}


class Paths:
    """In each place where a program takes the path of a file."""

    name = "paths"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        role = rng.choice(sorted(ROLES))
        program, suffix, seed, arguments = ROLES[role]
        if rng.random() < 0.4:
            path = folder / (rng.choice(NAMES) + suffix)
            with suppress(OSError):
                shutil.copy(seed(path, base), path)
            said = f"called {path.name!r:.60}"
        else:
            path = folder / f"input{suffix}"
            thing = rng.choice(sorted(THINGS))
            path = THINGS[thing](path, seed(path, base)) or path
            said = thing
        shown = path.name.encode("unicode_escape", "surrogateescape").decode()
        named = (path.name, shown, repr(path.name)[1:-1])
        return Case(program, arguments(path, base, folder / "out"), f"{role}: {said}", named)

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
