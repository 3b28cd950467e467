"""What registering does to fairseq; only what every command needs is imported here.

The rest comes when it is used: transformers' models, peft, accelerate and PyTorch's sharding take
as long to import as fairseq does, and ``fairseq-train --help``, or a wrong flag, would wait for
them.
"""

from functools import cache

from lst_fairseq.patches.error_line import end_in_one_line
from lst_fairseq.patches.warnings import keep_quiet


def _require_fairseq() -> None:
    """Fail in one line that says what to run, whatever an unusable fairseq raises at import."""
    remedy = "run `bash scripts/setup.sh`, or `pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1`"
    try:
        import fairseq
    except Exception as error:  # it fails in many ways on Python 3.11 and later
        raise ImportError(
            f"lst_fairseq needs a fairseq that can be imported ({error!r}): {remedy}"
        ) from None
    # A folder called fairseq beside the program, a clone perhaps, is imported as an empty package
    # without a version.
    found = getattr(fairseq, "__version__", "none")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < (0, 12, 2):
        raise ImportError(f"lst_fairseq needs fairseq >= 0.12.2 and found {found}: {remedy}")


@cache
def register() -> None:
    """See :func:`lst_fairseq.register`."""
    keep_quiet()
    _require_fairseq()
    from lst_fairseq.patches import repairs

    repairs.apply()
    end_in_one_line()
    from lst_fairseq.criterions import lst_cross_entropy  # noqa: F401
    from lst_fairseq.distributed.install import install
    from lst_fairseq.models import lst  # noqa: F401
    from lst_fairseq.tasks import lst_st  # noqa: F401

    install()
