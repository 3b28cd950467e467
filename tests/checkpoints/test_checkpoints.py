"""Checkpoints that cannot be read, written or used: what is wrong, with which file, and what to do."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fairseq import checkpoint_utils, file_io
from omegaconf import OmegaConf

from lst_fairseq.errors import CheckpointError
from lst_fairseq.generation.translator import Translator
from lst_fairseq.models.trained_parts import FORMAT, RECORD_KEY, CheckpointRecord
from tests.support.running import edited, first_stage, read_checkpoint, run_generate, run_train, second_stage

MARKER = "encoder.markers.start"


class Payload:
    """Unpickled, it makes a file: what a hostile checkpoint could do."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.mkdir, (self.path,)


def truncated(good: Path, path: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def with_code(good: Path, path: Path) -> None:
    torch.save({"model": {}, "cfg": Payload(str(path.parent / "code_was_run"))}, path)


def pickled_code(good: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(str(path.parent / "code_was_run"))))


UNREADABLE = {
    "truncated": (truncated, "not a complete fairseq checkpoint, perhaps truncated .*; use an earlier one"),
    "empty": (lambda good, path: path.write_bytes(b""), "not a complete fairseq checkpoint.*use an earlier one"),
    "text": (lambda good, path: path.write_text("weights?\n"), "refused, since it is no checkpoint or holds more than"),
    "code": (with_code, "refused, .*reading it could run code .*; use a checkpoint that fairseq-train wrote"),
    "pickled code": (pickled_code, "refused, .*reading it could run code"),
    "no settings": (lambda good, path: torch.save({"model": {}}, path), "not a complete fairseq checkpoint"),
    "a list": (lambda good, path: torch.save([1, 2], path), "not a complete fairseq checkpoint"),
    "a tensor": (lambda good, path: torch.save(torch.ones(3), path), "not a complete fairseq checkpoint"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_no_checkpoint(kind, corpus, backbones, tmp_path):
    """Refused by lst-translate's reader and by fairseq's; nothing in it is run."""
    make, message = UNREADABLE[kind]
    path = tmp_path / "bad.pt"
    make(first_stage(corpus, backbones).path(), path)
    for read in (Translator, read_checkpoint):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "code_was_run").exists()


def test_a_truncated_checkpoint_stops_training_and_generation(corpus, backbones, tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    truncated(first_stage(corpus, backbones).path(), path)
    with pytest.raises(CheckpointError, match=r"checkpoint_last\.pt: not a complete fairseq checkpoint"):
        run_train(corpus, backbones, tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint_last\.pt: not a complete fairseq checkpoint"):
        run_generate(corpus, path, tmp_path / "out")


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda model: {k: v for k, v in model.items() if k != name}


MISFITS = {
    "missing": (without(MARKER), r"missing: encoder\.markers\.start\. Use"),
    "unexpected": (lambda m: {**m, "encoder.adapter.extra": torch.ones(2)}, r"unexpected: encoder\.adapter\.extra\."),
    "of another shape": (
        lambda m: {**m, MARKER: torch.ones(5)},
        r"of another shape: encoder\.markers\.start \(checkpoint \[5\], model \[32\]\)\. Use the --arch",
    ),
    "all three": (
        lambda m: {**without("encoder.markers.end")(m), MARKER: torch.ones(5), "x": torch.ones(2)},
        r"missing: encoder\.markers\.end; unexpected: x; of another shape: encoder\.markers\.start",
    ),
    "no record": (without(RECORD_KEY), rf"not a checkpoint of this plugin's model `lst` \(no {RECORD_KEY}; "),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_keys_that_do_not_fit_are_listed(kind, corpus, backbones, tmp_path):
    """In the last line of the error, with the file, where fairseq's own would be a general one."""
    change, message = MISFITS[kind]
    path = edited(first_stage(corpus, backbones).path(), tmp_path / "checkpoint_last.pt", model=change)
    for use in (
        lambda: run_generate(corpus, path, tmp_path / "out"),
        lambda: run_train(corpus, backbones, tmp_path),
        lambda: run_train(corpus, backbones, tmp_path / "new", finetune_from_model=path),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            use()
        assert str(caught.value).startswith(f"{path}: ")


def test_a_long_list_of_keys_is_cut(corpus, backbones, tmp_path):
    def strange(model: dict[str, Any]) -> dict[str, Any]:
        return {**model, **{f"x{i:02}": torch.ones(1) for i in range(50)}}

    path = edited(first_stage(corpus, backbones).path(), tmp_path / "strange.pt", model=strange)
    with pytest.raises(CheckpointError, match=r"unexpected: x00, x01, .* x19 and 30 more"):
        run_generate(corpus, path, tmp_path / "out")


def test_another_adapter_size(corpus, backbones, tmp_path):
    start = first_stage(corpus, backbones).path()
    message = r"it holds adapter\).*of another shape: encoder\.adapter\..*\(checkpoint \["
    with pytest.raises(CheckpointError, match=message):
        run_train(corpus, backbones, tmp_path, adapter_channels=32, finetune_from_model=start)


def test_another_architecture_of_fairseq(corpus, backbones, tmp_path):
    """The state of a transformer, in a checkpoint that is otherwise right."""
    foreign = {"encoder.embed_tokens.weight": torch.ones(4, 4), "decoder.output_projection.weight": torch.ones(4, 4)}
    path = edited(first_stage(corpus, backbones).path(), tmp_path / "transformer.pt", model=foreign)
    message = r"transformer\.pt: not a checkpoint of .* `lst` \(no lst_record; keys such as encoder\.embed_tokens"
    with pytest.raises(CheckpointError, match=message):
        run_train(corpus, backbones, tmp_path, finetune_from_model=path)
    with pytest.raises(CheckpointError, match="give one that `fairseq-train --task lst_st` wrote"):
        run_generate(corpus, path, tmp_path / "out")


def test_another_task_in_lst_translate(corpus, backbones, tmp_path):
    task = {"_name": "translation", "data": "x"}
    path = edited(
        first_stage(corpus, backbones).path(),
        tmp_path / "translation.pt",
        cfg=lambda cfg: {**OmegaConf.to_container(OmegaConf.create(cfg)), "task": task},
    )
    with pytest.raises(CheckpointError, match=r"translation\.pt: not a checkpoint of the task lst_st .*; train one"):
        Translator(path)


def test_a_checkpoint_of_a_later_version(corpus, backbones, tmp_path):
    def later(model: dict[str, Any]) -> dict[str, Any]:
        record = CheckpointRecord.from_tensor(model[RECORD_KEY])
        record.format = FORMAT + 1
        return {**model, RECORD_KEY: record.to_tensor()}

    path = edited(first_stage(corpus, backbones).path(), tmp_path / "later.pt", model=later)
    with pytest.raises(CheckpointError, match=r"later\.pt: checkpoint format 2 is not this version's 1; update"):
        run_generate(corpus, path, tmp_path / "out")


def test_a_missing_checkpoint(corpus, backbones, tmp_path):
    path = tmp_path / "none.pt"
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such checkpoint"):
        Translator(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such checkpoint; give a file"):
        run_generate(corpus, path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"--finetune-from-model .*none\.pt does not exist"):
        run_train(corpus, backbones, tmp_path / "new", finetune_from_model=path)


def test_the_second_stages_optimiser_is_not_the_firsts(corpus, backbones, tmp_path):
    """Going on with another --train-modules in the same folder, instead of --finetune-from-model."""
    shutil.copy(first_stage(corpus, backbones).path(), tmp_path / "checkpoint_last.pt")
    with pytest.raises(ValueError, match="parameter group"):
        run_train(corpus, backbones, tmp_path, train_modules="adapter,llm", max_update=6)


def assert_still_good(corpus: Path, path: Path, folder: Path) -> None:
    assert sorted(run_generate(corpus, path, folder)) == list(range(5))


def interrupted(error: BaseException) -> Callable[[str, str], str]:
    """A copy function that breaks off after 1,000 bytes when it comes to checkpoint_last.pt."""
    copy = shutil.copyfile

    def copyfile(source: str, target: str) -> str:
        if "checkpoint_last" not in target:
            return copy(source, target)
        Path(target).write_bytes(Path(source).read_bytes()[:1000])
        raise error

    return copyfile


@pytest.mark.parametrize("written", [0, 20_000])
def test_a_full_disk_while_saving(written, corpus, backbones, tmp_path):
    """The error names file, space and remedy; nothing half-written stays; the last checkpoint is as it was."""
    run = run_train(corpus, backbones, tmp_path / "run", max_update=2)

    def full(obj: Any, file: Any) -> None:
        file.write(b"x" * written)
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        mock.patch.object(torch, "save", full),
        mock.patch.object(checkpoint_utils.time, "sleep"),  # fairseq tries three times
        pytest.raises(CheckpointError) as caught,
    ):
        run_train(corpus, backbones, run.folder, max_update=4)
    message = str(caught.value)
    assert message.startswith(f"{run.folder}/checkpoint") and "No space left on device" in message
    assert "bytes are now free there" in message and "free some space, or set another --save-dir" in message
    assert not list(run.folder.glob("*.tmp"))
    assert_still_good(corpus, run.path(), tmp_path / "out")
    resumed = run_train(corpus, backbones, run.folder, max_update=4)  # the same command, with space again
    assert len(resumed.losses) == 2


def test_a_device_that_is_really_full(corpus, backbones, tmp_path):
    """The kernel's own error out of PyTorch's writer, through /dev/full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "checkpoint_last.pt.tmp").symlink_to("/dev/full")
    state = torch.load(first_stage(corpus, backbones).path(), weights_only=True)
    with (
        mock.patch.object(checkpoint_utils.time, "sleep"),
        pytest.raises(CheckpointError, match=r"checkpoint_last\.pt: writing failed after .*; the checkpoints written"),
    ):
        checkpoint_utils.torch_persistent_save(state, str(tmp_path / "checkpoint_last.pt"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_the_last_checkpoint_is_copied(corpus, backbones, tmp_path):
    run = run_train(corpus, backbones, tmp_path / "run", max_update=2)
    before = run.path().read_bytes()

    with (
        mock.patch.object(file_io.shutil, "copyfile", interrupted(OSError(errno.ENOSPC, "No space left on device"))),
        pytest.raises(CheckpointError, match=r"writing failed after 1,000 bytes.*No space left.*free some space"),
    ):
        run_train(corpus, backbones, run.folder, max_update=4)
    assert run.path().read_bytes() == before and not list(run.folder.glob("*.tmp"))
    assert_still_good(corpus, run.folder / "checkpoint1.pt", tmp_path / "out")  # the newest, written before the copies


def test_a_kill_while_checkpoint_last_is_replaced(corpus, backbones, tmp_path):
    """It is there, whole, at any moment: the old one or the new one."""
    run = run_train(corpus, backbones, tmp_path / "run", max_update=2)
    before = run.path().read_bytes()
    killed = interrupted(KeyboardInterrupt())
    with mock.patch.object(file_io.shutil, "copyfile", killed), pytest.raises(KeyboardInterrupt):
        run_train(corpus, backbones, run.folder, max_update=4)
    assert run.path().read_bytes() == before
    resumed = run_train(corpus, backbones, run.folder, max_update=4)
    assert len(resumed.losses) == 2 and not list(run.folder.glob("*.tmp"))


def test_an_averaged_pair_of_stages_is_refused(corpus, backbones, tmp_path):
    """What they hold differs, so that the average would be of nothing."""
    first, second = first_stage(corpus, backbones).checkpoint(), second_stage(corpus, backbones).checkpoint()
    mixed = {**second["model"], RECORD_KEY: first["model"][RECORD_KEY]}
    path = edited(second_stage(corpus, backbones).path(), tmp_path / "mixed.pt", model=mixed)
    with pytest.raises(CheckpointError, match=r"it holds adapter\): unexpected: decoder\.llm\."):
        run_generate(corpus, path, tmp_path / "out")
