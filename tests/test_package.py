"""The package: what importing it registers, and what it says where fairseq cannot be used."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

import lst_fairseq
from lst_fairseq.cli.main import lst_translate
from lst_fairseq.criterions.lst_cross_entropy import LstCrossEntropy
from lst_fairseq.models.architectures import ARCHITECTURES
from lst_fairseq.models.lst import LstModel
from lst_fairseq.tasks.lst_st import LstTask
from tests.support.helpers import REPOSITORY, lst, parse_train, run_command, train_arguments


def test_what_is_registered():
    assert TASK_REGISTRY["lst_st"] is LstTask
    assert MODEL_REGISTRY["lst"] is LstModel
    assert CRITERION_REGISTRY["lst_cross_entropy"] is LstCrossEntropy
    assert {name for name, model in ARCH_MODEL_REGISTRY.items() if model is LstModel} == set(ARCHITECTURES)
    assert set(ARCHITECTURES) == {"lst", "lst_tiny", "lst_7b", "lst_13b"}


@pytest.mark.parametrize(
    ("arch", "channels", "norm", "checkpointing"),
    [
        ("lst", 1024, "embedding", None),
        ("lst_tiny", 256, "embedding", None),
        ("lst_7b", 1024, "none", True),
        ("lst_13b", 1024, "none", True),
    ],
)
def test_an_architecture_sets_what_the_user_does_not(arch, channels, norm, checkpointing):
    for modules, recomputed in (("adapter", None), ("adapter,llm", checkpointing), ("adapter,lora", checkpointing)):
        model = Namespace(train_modules=modules)
        ARCH_CONFIG_REGISTRY[arch](model)
        assert (model.adapter, model.adapter_kernel_sizes, model.adapter_channels) == ("conv", "3,3", channels)
        assert (model.adapter_norm, getattr(model, "llm_gradient_checkpointing", None)) == (norm, recomputed)
    model = Namespace(adapter_channels=7, bf16=True, tpu=True)
    ARCH_CONFIG_REGISTRY[arch](model)
    assert model.adapter_channels == 7 and not model.tpu


def test_an_architecture_on_the_command_line(corpus, backbones):
    settings = {"arch": "lst_7b", "adapter_channels": 7}
    model = parse_train(train_arguments(corpus, backbones, **settings)).model
    assert (model.adapter_channels, model.adapter_norm, model.llm_gradient_checkpointing) == (7, "none", None)
    settings["train_modules"] = "adapter,llm"
    assert parse_train(train_arguments(corpus, backbones, **settings)).model.llm_gradient_checkpointing is True
    off = train_arguments(corpus, backbones, "--no-llm-gradient-checkpointing", **settings)
    assert parse_train(off).model.llm_gradient_checkpointing is False
    with pytest.raises(ValueError, match="and --no-llm-gradient-checkpointing: give one of the two"):
        parse_train([*off, "--llm-gradient-checkpointing"])


#: What only some commands need, and takes seconds to import.
HEAVY = ("transformers", "peft", "accelerate", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor")

USER_DIR = """
import sys
import fairseq
from fairseq import options
before = set(sys.modules)
options.get_training_parser()
assert not hasattr(fairseq.tasks, "lst_st_parser"), "fairseq has imported the files in tasks"
print(*set(sys.modules) - before)
"""


def test_registering_imports_no_more_than_every_command_needs(tmp_path):
    """As fairseq-train registers: by --user-dir, which would also import each file in tasks and models."""
    command = [sys.executable, "-c", USER_DIR, "--user-dir", str(REPOSITORY / "lst_fairseq")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    new = set(result.stdout.split())
    assert {"lst_fairseq.tasks.lst_st", "lst_fairseq.models.lst"} <= new
    roots = {*HEAVY, "sklearn", "torchvision", "sacrebleu", "jiwer", "pandas", "torch.distributed.checkpoint"}
    assert not [name for name in new if any(name == root or name.startswith(f"{root}.") for root in roots)]
    assert "lst_fairseq.models.llm.decoder" not in new and "lst_fairseq.distributed.fsdp" not in new


IN_EITHER_ORDER = """
import sys
import lst_fairseq
assert "fairseq" not in sys.modules
from fairseq.tasks import TASK_REGISTRY
assert "lst_st" not in TASK_REGISTRY
lst_fairseq.register()
assert "lst_st" in TASK_REGISTRY
for module in [name for name in sys.modules if name.split(".")[0] in ("lst_fairseq", "fairseq")]:
    del sys.modules[module]
import fairseq, lst_fairseq
from fairseq.tasks import TASK_REGISTRY
assert "lst_st" in TASK_REGISTRY
"""


def test_under_fairseq_importing_registers_and_else_register_does(tmp_path):
    subprocess.run([sys.executable, "-c", IN_EITHER_ORDER], cwd=tmp_path, check=True)


def test_every_folder_with_modules_is_a_package():
    """Or else `pip install` leaves it out."""
    folders = {path.parent for path in (REPOSITORY / "lst_fairseq").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def import_with(fairseq: str, folder: Path) -> str:
    """The last line that registering ends with where another fairseq comes first on the path."""
    (folder / "fairseq").mkdir()
    (folder / "fairseq" / "__init__.py").write_text(fairseq, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    command = [sys.executable, "-c", "import lst_fairseq; lst_fairseq.register()"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


REMEDY = "run `bash scripts/setup.sh`, or `pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1`"


@pytest.mark.parametrize(
    ("fairseq", "message"),
    [
        ("raise ValueError('mutable default')", "needs a fairseq that can be imported (ValueError('mutable default'))"),
        ("import no_such_module", "needs a fairseq that can be imported (ModuleNotFoundError("),
        ("__version__ = '0.10.2'", "needs fairseq >= 0.12.2 and found 0.10.2"),
        ("", "needs fairseq >= 0.12.2 and found none"),  # a clone of fairseq in the working directory
    ],
)
def test_an_unusable_fairseq_is_one_line_with_the_remedy(fairseq, message, tmp_path):
    line = import_with(fairseq, tmp_path)
    assert line.startswith(f"ImportError: lst_fairseq {message}") and line.endswith(REMEDY)


def test_user_dir_from_another_folder(tmp_path, capsys):
    """What `lst user-dir` prints serves as fairseq's --user-dir anywhere: the plugin's own error comes."""
    assert lst("user-dir") == 0
    user_dir = capsys.readouterr().out.strip()
    assert lst_translate(["--user-dir"]) == 0 and capsys.readouterr().out.strip() == user_dir
    flags = ["--user-dir", user_dir, "--task", "lst_st", "--arch", "lst_7b", "--criterion", "lst_cross_entropy"]
    flags += ["--optimizer", "adam", "--cpu", "--batch-size", "1"]
    result = run_command("fairseq_cli.train", "nowhere", *flags, cwd=tmp_path, check=False, env={"PYTHONPATH": ""})
    assert result.returncode == 1 and "nowhere: no such folder of manifests" in result.stderr.splitlines()[-1]


FROM_THE_PACKAGE = """
import sys
import lst_fairseq
assert not {"torch", "fairseq"} & set(sys.modules)
from lst_fairseq import DecodingOptions, Translator
from lst_fairseq.generation import translator
assert Translator is translator.Translator and DecodingOptions is translator.DecodingOptions
assert not hasattr(lst_fairseq, "Translators")
"""


def test_the_package_offers_the_translator_and_imports_it_late(tmp_path):
    subprocess.run([sys.executable, "-c", FROM_THE_PACKAGE], cwd=tmp_path, check=True)


def test_version():
    assert lst_fairseq.__version__.count(".") == 2
    assert f'version="{lst_fairseq.__version__}"' in (REPOSITORY / "setup.py").read_text(encoding="utf-8")
