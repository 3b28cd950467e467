"""The repairs of fairseq, each where no command's test covers it, and that they are still needed."""

import copy
import inspect
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq
import pytest
import torch
from fairseq import checkpoint_utils, file_io, trainer
from fairseq.data import data_utils
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.optim import fp16_optimizer
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch import nn

from lst_fairseq.checkpoints.failures import explained_failure
from lst_fairseq.checkpoints.optimizer_state import MASTER_KEY
from lst_fairseq.data.prompt import PromptSettings
from lst_fairseq.errors import CheckpointError, SettingsError
from lst_fairseq.patches import repairs
from lst_fairseq.tasks.lst_st import LstTask


def test_they_are_applied_once():
    def repaired() -> list[Any]:
        return [
            checkpoint_utils.load_checkpoint_to_cpu,
            checkpoint_utils.torch_persistent_save,
            Trainer.load_checkpoint,
        ]

    before = repaired()
    repairs.apply()
    assert repaired() == before
    for function in before:
        assert function.__module__.startswith("fairseq.")  # functools.wraps: tracebacks and pickles name the original
    layers = [0, 0, 0]
    for i, function in enumerate(before):
        while hasattr(function, "__wrapped__"):
            function, layers[i] = function.__wrapped__, layers[i] + 1
    # Settings are looked at; then errors name the file; then directories are read, too.
    assert layers == [3, 1, 2]


#: What stands in each line that makes a repair necessary.
LINES = {
    "checkpoint_utils.py:139": "PathManager.copy(",
    "checkpoint_utils.py:306": "def load_checkpoint_to_cpu",
    "checkpoint_utils.py:340": "torch.load(",
    "checkpoint_utils.py:419": "def load_model_ensemble_and_task",
    "checkpoint_utils.py:511": "model.load_state_dict(",
    "checkpoint_utils.py:578": "def torch_persistent_save",
    "checkpoint_utils.py:872": "def verify_checkpoint_directory",
    "data/iterators.py:459": "iterations_in_epoch",
    "fairseq_cli/train.py:242": "should_stop_early",
    "fairseq_cli/train.py:389": "num_updates >= max_update",
    "file_io.py:76": "shutil.copyfile",
    "optim/fairseq_optimizer.py:87": "self.optimizer.load_state_dict",
    "optim/fp16_optimizer.py:80": "def state_dict",
    "trainer.py:171": "time.time()",
    "trainer.py:596": "except Exception",
    "trainer.py:652": "metrics.load_state_dict(",
    "trainer.py:897": "sample_size",
    "trainer.py:1591": "def _catalog_shared_params",
    "utils.py:497": "import_tasks(",
    "utils.py:503": "import_models(",
}


@pytest.mark.skipif(
    "0.12.3.1" not in [found.version for found in metadata.distributions(name="fairseq-fixed")],
    reason="the table is of fairseq-fixed 0.12.3.1",
)
def test_the_table_names_the_lines_that_make_repairs_necessary() -> None:
    assert {line for repair in repairs.REPAIRS for line in repair.lines.split(", ")} == set(LINES)
    package = Path(fairseq.__file__).parent
    for place, fragment in LINES.items():
        name, _, number = place.partition(":")
        folder = package.parent if name.startswith("fairseq_cli/") else package
        assert fragment in (folder / name).read_text(encoding="utf-8").splitlines()[int(number) - 1], place
    assert [repair.apply.__name__ for repair in repairs.REPAIRS if len(repair.why) < 20] == []


@pytest.mark.parametrize(
    ("function", "still"),
    [
        (data_utils.batch_by_size, "b = b[:-1]"),
        (checkpoint_utils._torch_persistent_save, "range(3)"),
        (fp16_optimizer._FP16OptimizerMixin.build_fp32_params, "torch.cuda.current_device()"),
        (inspect.unwrap(checkpoint_utils.load_checkpoint_to_cpu), "torch.load(f, map_location"),
        (inspect.unwrap(Trainer.load_checkpoint), "please ensure that the architectures match"),
        (S2TDataConfig.standardize_audio, "use_audio_input"),
        (trainer._catalog_shared_params.__wrapped__, "if param not in memo:"),
    ],
)
def test_what_is_repaired_is_still_there(function, still):
    """With a newer fairseq, a failure here says that a repair can go."""
    assert still in inspect.getsource(function)


def test_plain_containers_of_fairseq_are_read_with_weights_only(tmp_path):
    config = OmegaConf.create({"a": {"b": [1, "x"]}})
    torch.save({"cfg": config, "tensor": _TensorPlaceholder(3)}, tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded["cfg"] == config and loaded["tensor"].index == 3


def test_parameters_that_are_none_are_not_shared():
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "abc"})
    model["c"].weight = model["a"].weight
    assert trainer._catalog_shared_params(model) == [["a.weight", "c.weight"]]
    assert trainer._catalog_shared_params(model["b"]) == []


def test_a_copy_appears_whole(tmp_path):
    (tmp_path / "a").write_text("new", encoding="utf-8")
    (tmp_path / "b").write_text("old", encoding="utf-8")
    assert file_io.PathManager.copy(str(tmp_path / "a"), str(tmp_path / "b"), overwrite=True)
    assert (tmp_path / "b").read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_save_names_the_folder_that_is_missing(tmp_path):
    with pytest.raises(OSError, match="none"):
        checkpoint_utils.torch_persistent_save({}, str(tmp_path / "none" / "x.pt"))


class Optimizer(fp16_optimizer._FP16OptimizerMixin):
    """The mixin over one plain parameter, without fairseq's configuration around it."""

    class Inner:
        def state_dict(self) -> dict[str, Any]:
            return {"state": 1}

        def load_state_dict(self, state: dict[str, Any], overrides: Any) -> None:
            assert state.keys() <= {"state", "loss_scale"}  # not what the plugin added

    def __init__(self, masters: Any):
        self.fp32_params = masters
        self.fp32_optimizer = self.Inner()
        self.scaler = None


@pytest.mark.parametrize("flat", [True, False])
def test_master_weights_travel_in_both_of_fairseqs_forms(flat):
    """A list without flattening (CPU, bf16), a dict of flat tensors a device with it (fp16 on GPUs)."""

    def masters(value: float) -> Any:
        parameter = torch.nn.Parameter(torch.full((3,), value))
        return {0: parameter} if flat else [parameter]

    state = Optimizer(masters(1.25)).state_dict()
    assert state["state"] == 1 and torch.equal(state[MASTER_KEY][0], torch.full((3,), 1.25))
    other = Optimizer(masters(0.0))
    before = copy.copy(state)
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()[MASTER_KEY][0], torch.full((3,), 1.25)) and state.keys() == before.keys()
    other.load_state_dict({"state": 1})  # a checkpoint without them is read as fairseq does
    with pytest.raises(CheckpointError, match="other shapes"):
        other.load_state_dict({"state": 1, MASTER_KEY: [torch.zeros(4)]})


def test_errors_of_ensembles_name_all_files(tmp_path, monkeypatch):
    paths = []
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"")
        paths.append(str(tmp_path / name))
    with pytest.raises(CheckpointError) as caught:
        checkpoint_utils.load_model_ensemble(paths)
    assert str(caught.value).startswith(f"{Path(paths[0])}: not a complete fairseq checkpoint")


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=rf"^{path}: no such checkpoint; give a file that"):
        checkpoint_utils.load_model_ensemble_and_task([path])


@pytest.mark.parametrize(
    ("flag", "config", "where"),
    [("Was?", "de", "--target-lang"), (None, "Was?", "config.yaml: `target_lang`")],
)
def test_a_language_without_a_name_is_named_with_its_source(flag, config, where) -> None:
    task = SimpleNamespace(
        cfg=SimpleNamespace(source_lang=None, target_lang=flag),
        data_cfg=SimpleNamespace(path="config.yaml", source_lang=None, target_lang=config),
    )
    with pytest.raises(SettingsError, match=f"^{where}: unknown language code 'Was.'; known: af,") as caught:
        LstTask._check_languages(task, PromptSettings(tgt_lang=flag or config))
    assert explained_failure(caught.value, ["a.pt"]) is caught.value
    LstTask._check_languages(task, PromptSettings("{speech}", tgt_lang=flag or config))  # the prompt names none
