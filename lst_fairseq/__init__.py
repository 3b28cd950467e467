"""LST: speech translation with a speech frontend, an adapter and a large language model, as a fairseq plugin.

Importing the package (which ``--user-dir lst_fairseq`` does) registers the task ``lst_st``, the model ``lst`` with its
architectures and the criterion ``lst_cross_entropy``, and applies the few repairs of fairseq listed in ``patches.py``;
all but in a few programs of this project's own, ``LIGHT_PROGRAMS``.

The system: "Tuning Large Language Model for End-to-end Speech Translation" (arXiv 2310.02050).
"""

import logging
import sys
from pathlib import Path

__version__ = "0.1.0"

#: Programs that work on files alone, or call :func:`register` themselves once their arguments are right. They start in
#: less than a second; fairseq, torch and transformers take some ten to import.
LIGHT_PROGRAMS = {
    "check_manifest.py",
    "compare.py",
    "lst-translate",
    "prep_covost.py",
    "prep_librispeech.py",
    "prep_mustc.py",
    "report.py",
    "results_table.py",
    "score.py",
    "select_manifest.py",
    "study.py",
    "text_manifest.py",
}


def _require_fairseq() -> None:
    """Fail in one line that says what to run, instead of with whatever an unusable fairseq raises at import."""
    remedy = "run `bash scripts/setup.sh`, or `pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1`"
    # One of its tasks asks for tensorboardX when it is imported, which nothing here needs.
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    try:
        import fairseq
    except Exception as error:  # fairseq fails in many ways on Python 3.11 and later, not only with ImportError
        raise ImportError(f"lst_fairseq needs a fairseq that can be imported ({error!r}): {remedy}") from None
    # A folder called fairseq beside the program, a clone perhaps, is imported as an empty package without a version.
    found = getattr(fairseq, "__version__", "none")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < (0, 12, 2):
        raise ImportError(f"lst_fairseq needs fairseq >= 0.12.2 and found {found}: {remedy}")


def register() -> None:
    """Register task, model and criterion with fairseq, and repair fairseq; once, however often it is called."""
    global _registered
    if _registered:
        return
    _require_fairseq()
    _registered = True
    from lst_fairseq import errors, patches

    patches.apply()
    errors.end_in_one_line()
    from lst_fairseq import export, task  # noqa: F401
    from lst_fairseq.criterions import lst_cross_entropy  # noqa: F401
    from lst_fairseq.models import lst  # noqa: F401
    from lst_fairseq.sharding import states
    from lst_fairseq.sharding.install import install

    patches.read_directories(export.read_export, states.assemble)
    install()


def _is_light() -> bool:
    """Whether the running program is one of ``LIGHT_PROGRAMS``, and not another of the same name."""
    program = Path(sys.argv[0] if sys.argv else "")
    own = Path(__file__).parents[1] / "scripts" / program.name
    return program.name in LIGHT_PROGRAMS and (
        program.suffix == "" or (own.is_file() and program.is_file() and own.samefile(program))
    )


_registered = False
if "fairseq" in sys.modules or not _is_light():
    register()
