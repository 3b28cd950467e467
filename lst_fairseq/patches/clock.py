"""The clocks of a run."""

import functools
import time
from types import SimpleNamespace
from typing import Any

from fairseq import trainer
from fairseq.logging import metrics


def measure_by_a_steady_clock() -> None:
    """Count a run's time, which --stop-time-hours limits, by a clock that nobody sets.

    trainer.py:171 takes the time of day: a clock that is put right by an hour ends a run an hour
    too early or too late.
    """
    trainer.time = SimpleNamespace(time=time.monotonic)


def start_the_wall_clock_again() -> None:
    """Let ``wall`` in the log count the seconds of a run that goes on, from where it does so.

    trainer.py:652 puts what the checkpoint has in the clock's place, which is never started: it
    stands at 0 from then on.
    """
    load = metrics.load_state_dict

    @functools.wraps(load)
    def load_state_dict(state: Any) -> None:
        load(state)
        if wall := metrics.get_meter("default", "wall"):
            wall.start()

    metrics.load_state_dict = load_state_dict
