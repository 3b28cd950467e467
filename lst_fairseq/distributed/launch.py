"""fairseq-train as one process of a run that torchrun or Slurm has started.

    python -m lst_fairseq.distributed.launch ARGUMENTS-OF-FAIRSEQ-TRAIN

fairseq's own guesses take the number of visible GPUs for the number of processes, so that nodes with one GPU each train
alone, and cannot do without GPUs (distributed/utils.py:66, :91). Here rank, number of processes and meeting point come
from the launcher's environment and are given to fairseq-train as flags.
"""

import logging
import os
import sys
from collections.abc import Mapping

from lst_fairseq import register

HELP = """usage: torchrun ... -m lst_fairseq.distributed.launch ARGUMENTS-OF-FAIRSEQ-TRAIN
       srun ... python -m lst_fairseq.distributed.launch ARGUMENTS-OF-FAIRSEQ-TRAIN

Reads, in this order:
  RANK, WORLD_SIZE, LOCAL_RANK                            torchrun
  SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID               Slurm, with
    RENDEZVOUS=/shared/folder                               a file in a folder that all nodes see, or
    MASTER_ADDR=host MASTER_PORT=port                       the first process's host, without one

examples:
  torchrun --nproc-per-node 8 -m lst_fairseq.distributed.launch DATA --user-dir lst_fairseq --task lst_st \\
      --ddp-backend fully_sharded ...
  srun --ntasks-per-node 8 python -m lst_fairseq.distributed.launch DATA ...        # see examples/mustc/slurm.sh
"""


class LaunchError(ValueError):
    """The environment does not say which process this is."""


def distributed_flags(environment: Mapping[str, str]) -> list[str]:
    """fairseq's flags for this process.

    Args:
        environment: the process's.

    Raises:
        LaunchError: no launcher has set its variables, or the meeting point is missing.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= environment.keys():
        rank, size, local = (environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        where = "env://"
    elif {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"} <= environment.keys():
        rank, size, local = (environment[name] for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
        where = _slurm_meeting_point(environment)
    else:
        raise LaunchError(
            "neither torchrun's variables (RANK, ...) nor Slurm's (SLURM_PROCID, ...) are set; see --help"
        )
    if int(size) == 1:
        return ["--distributed-world-size", "1"]
    return [
        *("--distributed-world-size", size, "--distributed-rank", rank, "--device-id", local),
        *("--distributed-init-method", where, "--distributed-no-spawn"),
    ]


def _slurm_meeting_point(environment: Mapping[str, str]) -> str:
    if folder := environment.get("RENDEZVOUS"):
        # A file of an earlier start would be taken for this one's.
        start = "-".join(
            environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        )
        return f"file://{os.path.abspath(folder)}/lst-{start}"
    if {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        return f"tcp://{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    raise LaunchError(
        "where shall the processes meet? Set RENDEZVOUS to a folder that all nodes see, or MASTER_ADDR and MASTER_PORT"
    )


def _log_as_fairseq_train() -> None:
    """Give the log fairseq-train's form (fairseq_cli/train.py:18), which the recipe's scripts read.

    Here the package is imported first, and one of fairseq's tasks has set the log up by then.
    """
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=os.environ.get("LOGLEVEL", "INFO").upper(),
        stream=sys.stdout,
        force=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 1 after an error of the environment, which is one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in ([], ["-h"], ["--help"]):
        print(HELP)
        return 0
    try:
        flags = distributed_flags(os.environ)
    except LaunchError as error:
        print(f"lst_fairseq.distributed.launch: {error}", file=sys.stderr)
        return 1
    if "--cpu" in arguments and "--distributed-backend" not in arguments:
        flags += ["--distributed-backend", "gloo"]
    register()
    from fairseq_cli import train

    sys.argv = ["fairseq-train", *arguments, *flags]
    _log_as_fairseq_train()
    train.cli_main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
