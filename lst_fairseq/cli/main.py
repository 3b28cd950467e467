"""The command ``lst``: a verb for each thing that is done with a corpus, a run or a model.

A verb is a module of this folder. Its docstring is the verb's help, ``add_arguments(parser)`` gives it flags, and
``run(args)`` does the work and may return an exit status. It imports PyTorch and fairseq, which take seconds, only once
paths and numbers have been looked at.
"""

import argparse
import importlib
import os
import signal
import sys
from typing import NoReturn

from lst_fairseq import __version__
from lst_fairseq.errors import is_meant
from lst_fairseq.utils.arguments import UsageError
from lst_fairseq.utils.files import explained, print_any_name

VERBS = {
    "prep": "prepare a corpus, or other data from its manifests",
    "check": "check manifests: audio, texts, duplicates, training data in test data",
    "filter": "keep a part of a manifest's segments, by word error rate or at random",
    "plan": "parameters and GPU memory of a run, before any weight is there",
    "align": "measure how well an adapter speaks the LLM's language",
    "average": "average checkpoints of a run into one",
    "translate": "translate audio files with a trained model",
    "transcribe": "recognise a manifest's segments with a speech encoder's own CTC head",
    "score": "score fairseq-generate's output: BLEU, chrF2, TER, error rates, COMET",
    "compare": "compare systems on the same segments: intervals, tests, plots, sentences",
    "report": "put the scores of several systems into one file, or into a README",
    "step": "run a command of the recipe once, and go on where it was interrupted",
    "study": "run a grid of settings, and report on it",
    "export": "write a model as a directory that plain transformers can read",
    "convert": "turn a sharded checkpoint into a whole one, or back",
    "user-dir": "print what fairseq's --user-dir needs",
}
EXAMPLES = """examples:
  lst prep mustc --data-root /data/MUST-C --tgt-lang de --out data/mustc-de
  fairseq-train data/mustc-de --user-dir $(lst user-dir) --task lst_st ...
  lst translate --checkpoint checkpoint_last.pt talk.wav
  lst score --help"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``lst`` alone, which knows of its verbs no more than their names."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="lst",
        usage="lst VERB [ARGUMENT ...]",
        description="LST: speech translation with a speech encoder, an adapter and a large language model.",
        epilog=f"verbs:\n{verbs}\n\n{EXAMPLES}\n\nlst VERB --help tells all about one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lst-fairseq {__version__}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="what to do; see below")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run ``lst``; ends the program with one line on standard error, and status 1, where that fails."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in VERBS:
        # --help, --version, or an error that lists the verbs
        build_parser().parse_args(argv[:1] or ["--help"])
    return run_verb(argv[0], argv[1:])


def lst_translate(argv: list[str] | None = None) -> int:
    """``lst-translate``, another name of ``lst translate``."""
    return run_verb("translate", sys.argv[1:] if argv is None else argv, "lst-translate")


def run_verb(verb: str, argv: list[str], program: str | None = None) -> int:
    """Run a verb.

    Args:
        verb: one of ``VERBS``.
        argv: what follows it on the command line.
        program: the name of a command of its own, which its messages begin with.

    Returns:
        The exit status, 0 where all is well.

    Raises:
        SystemExit: with one line, where the verb fails as it is meant to.
    """
    try:
        try:
            return _run(verb, argv, program)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _end_as_interrupted()
    except BrokenPipeError:  # `| head` has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _run(verb: str, argv: list[str], program: str | None) -> int:
    module = importlib.import_module(f"lst_fairseq.cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=program or f"lst {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    command: list[str] = []
    if getattr(module, "TAKES_A_COMMAND", False) and "--" in argv:
        command = argv[argv.index("--") + 1 :]
        argv = argv[: argv.index("--")]
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(module, "READS_THE_REST", False):
        parser.parse_args(argv)  # which says what of it is unknown
    args.rest, args.command = rest, command
    print_any_name()
    try:
        return module.run(args) or 0
    except UsageError as error:
        getattr(args, "parser", parser).error(str(error))
    except BrokenPipeError:
        raise
    except Exception as error:
        expected = (OSError, *getattr(module, "ERRORS", ()))
        asked = os.environ.get("LST_TRACEBACK")
        if not is_meant(error) and (asked or not isinstance(error, expected)):
            raise
        _end(error, program or "error")


def _end_as_interrupted() -> NoReturn:
    """End by the signal itself: a shell that loops over the command has to see that, to stop too."""
    print("interrupted", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(130)


def _end(error: Exception, before: str) -> NoReturn:
    text = explained(error) if isinstance(error, OSError) else str(error)
    raise SystemExit(f"{before}: {text}") from None
