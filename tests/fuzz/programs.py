"""The programs that take inputs: as functions in a warm process, and as commands."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.helpers import REPOSITORY


@dataclass(frozen=True)
class Program:
    """How a program is started.

    Attributes:
        command: before its arguments, as a user calls it.
        load: gives the function that takes its arguments in a process that has imported everything;
            None where it is no Python.
    """

    command: tuple[str, ...]
    load: Callable[[], Callable[[list[str]], Any]] | None = None


def _lst(*verb: str) -> Program:
    def load() -> Callable[[list[str]], Any]:
        from lst_fairseq.cli.main import main

        importlib.import_module(f"lst_fairseq.cli.{verb[0]}")
        return lambda arguments: main([*verb, *arguments])

    return Program((sys.executable, "-m", "lst_fairseq.cli", *verb), load)


def _translate() -> Callable[[list[str]], Any]:
    from lst_fairseq.cli import translate  # noqa: F401
    from lst_fairseq.cli.main import lst_translate

    return lst_translate


def _generate() -> Callable[[list[str]], Any]:
    """fairseq-generate on a configuration that was parsed once; a command line takes a second."""
    from tests.support.running import run_generate

    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--path")
    parser.add_argument("--results-path", type=Path)

    def main(arguments: list[str]) -> None:
        args, _ = parser.parse_known_args(arguments)
        run_generate(args.data, args.path, args.results_path, config_yaml="config.yaml")

    return main


def _probe(name: str) -> Program:
    def load() -> Callable[[list[str]], Any]:
        from tests.fuzz import probes

        return lambda arguments: probes.main([name, *arguments])

    return Program((sys.executable, "-m", "tests.fuzz.probes", name), load)


_bin = Path(sys.executable).parent

PROGRAMS: Mapping[str, Program] = {
    "lst-translate": Program((str(_bin / "lst-translate"),), _translate),
    "fairseq-generate": Program((str(_bin / "fairseq-generate"),), _generate),
    "read-audio": _probe("audio"),
    "read-manifest": _probe("manifest"),
    "recipe": Program(("bash", str(Path(__file__).with_name("recipe.sh")))),
    "prep text": _lst("prep", "text"),
    **{
        verb: _lst(verb)
        for verb in (
            *("average", "check", "compare", "convert", "export", "filter"),
            *("report", "score", "study"),
        )
    },
}


def generate_arguments(data: Path, checkpoint: Path, out: Path) -> tuple[str, ...]:
    """Arguments of fairseq-generate for the split test."""
    return (
        *(str(data), "--cpu", "--user-dir", str(REPOSITORY / "lst_fairseq"), "--task"),
        *("lst_st",),
        *("--path", str(checkpoint), "--gen-subset", "test", "--results-path", str(out)),
        *("--num-workers", "0"),
        *("--beam", "2", "--max-len-b", "6", "--batch-size", "3", "--config-yaml"),
        *("config.yaml",),
    )


def translate_arguments(checkpoint: Path | str, *audio: str) -> tuple[str, ...]:
    """Arguments of lst-translate for results that can be compared."""
    flags = ("--json", "--device", "cpu", "--beam", "2", "--max-len-b", "6")
    return ("--checkpoint", str(checkpoint), *flags, *audio)
