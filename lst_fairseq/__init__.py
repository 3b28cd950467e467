"""LST: speech translation with a speech frontend, an adapter and a large language model, as a fairseq plugin.

Importing the package (which ``--user-dir lst_fairseq`` does) registers the task ``lst_st``, the model ``lst`` with its
architectures and the criterion ``lst_cross_entropy``, and applies the few repairs of fairseq listed in ``patches.py``.

The system: "Tuning Large Language Model for End-to-end Speech Translation" (arXiv 2310.02050).
"""

import logging

__version__ = "0.1.0"


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


_require_fairseq()

from lst_fairseq import patches  # noqa: E402

patches.apply()

from lst_fairseq import export, task  # noqa: E402, F401
from lst_fairseq.criterions import lst_cross_entropy  # noqa: E402, F401
from lst_fairseq.models import lst  # noqa: E402, F401
from lst_fairseq.sharding import states  # noqa: E402
from lst_fairseq.sharding.install import install  # noqa: E402

patches.read_directories(export.read_export, states.assemble)
install()
