"""Short lines of what fairseq's commands log, and the process that a log says was lost first."""

from pathlib import Path

import pytest

from lst_fairseq.recipe.progress import Tail, lost_process, training_line


@pytest.mark.parametrize(
    ("logged", "shown"),
    [
        (
            'train_inner | {"epoch": 1, "update": 0.5, "loss": "4.5", "num_updates": "50", "wall": "7"}',
            "update 50 of 90, loss 4.5, 12 s",
        ),
        (
            "train_inner | epoch 001:     50 / 90 loss=4.5, ppl=9, num_updates=1000000, wall=7",
            "update 1000000 of 90, loss 4.5, 12 s",
        ),
        ('train_inner | {"num_updates": "50", "loss": null}', "update 50 of 90, loss ?, 12 s"),
        ('dev_asr | {"epoch": 1, "dev_asr_loss": "3.25"}', "dev_asr loss 3.25"),
        ("dev | epoch 001 | valid on 'dev' subset | loss 3.25 | nll_loss 1", "dev loss 3.25"),
        ('train | {"train_loss": "4.5", "train_num_updates": "50"}', None),
        ("fairseq.trainer | Loaded checkpoint x.pt (epoch 2)", "Loaded checkpoint x.pt (epoch 2)"),
        ("lst_fairseq.data | encoding 1,200 segments", "encoding 1,200 segments"),
        ("fairseq_cli.train | num. shared model params: 5,000", None),
        ('train_inner | {"num_updates": "50", "lo', "update ? of 90, loss ?, 12 s"),
    ],
)
def test_a_line_of_training(logged: str, shown: str | None) -> None:
    assert training_line(f"2026-01-01 00:00:00 | INFO | {logged}", "90", 12.3) == shown


def test_a_file_that_grows(tmp_path: Path) -> None:
    """What was there before does not count, and half a line waits for its other half."""
    path = tmp_path / "log"
    path.write_text("of an earlier attempt\n")
    with Tail(path) as tail, open(path, "ab") as file:
        assert list(tail) == []
        for written, lines in ((b"one\ntw", ["one"]), (b"", []), (b"o\n\xff\n", ["two", "\ufffd"])):
            file.write(written)
            file.flush()
            assert list(tail) == lines


LOG = """\
srun: error: n3: task 2: Killed
slurmstepd-n1: error: *** STEP 8.0 ON n1 CANCELLED AT 2026-11-27T08:37:20 ***
srun: error: n2: task 1: Killed
srun: error: n1: task 0: Terminated
Failures:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 1611)  (SIGTERM)
Root Cause (first observed failure):
  rank      : 3 (local_rank: 1)
error: rank 5 (n6, process 9) is gone: no sign of life for 60 s
srun: error: n1: task 0: Exited with exit code 1
""".splitlines()


@pytest.mark.parametrize(("passed", "expected"), [(1, 2), (4, 8), (9, 9), (11, None)])
def test_the_process_that_stopped_first_is_named(passed: int, expected: int | None) -> None:
    """As Slurm 22.05 and torchrun say it, of this start of the run and not of an earlier one."""
    assert lost_process(LOG[passed:]) == (None if expected is None else LOG[expected])
