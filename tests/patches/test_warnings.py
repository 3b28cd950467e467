"""What is printed before and beside a run's own log: nothing that concerns nobody, and everything else."""

import re
import warnings

import pytest

from lst_fairseq.patches.warnings import NOISE, keep_quiet
from tests.support.helpers import REPOSITORY, read_tsv, run_command, train_arguments, write_tsv

#: A message as its author words it, the category and the module that it comes from.
SAID = [
    (
        "hydra.experimental.initialize() is no longer experimental. Use hydra.initialize()",
        UserWarning,
        "hydra.x",
    ),
    (
        "hydra.experimental.compose() is no longer experimental. Use hydra.compose()",
        UserWarning,
        "hydra.x",
    ),
    (
        "\nThe version_base parameter is not specified.\nPlease specify",
        UserWarning,
        "hydra.experimental.initialize",
    ),
    (
        "In 'config': Usage of deprecated keyword in package header '# @package _group_'.",
        UserWarning,
        "hydra.core",
    ),
    (
        "\n'config' is validated against ConfigStore schema with the same name.\nThis",
        UserWarning,
        "__main__",
    ),
    ("\nThe strict flag in the compose API is deprecated.\nSee", UserWarning, "hydra.compose"),
    (
        "'pin_memory' argument is set as true but no accelerator is found, then",
        UserWarning,
        "torch.utils.data.x",
    ),
    (
        "`torch.cuda.amp.autocast(args...)` is deprecated. Please use",
        FutureWarning,
        "fairseq.tasks.fairseq_task",
    ),
    (
        "`torch.cuda.amp.GradScaler(args...)` is deprecated. Please use",
        FutureWarning,
        "fairseq.trainer",
    ),
    (
        "`gradient_checkpointing_enable` is deprecated and will be",
        FutureWarning,
        "transformers.modeling_utils",
    ),
]
OTHERS = [
    ("'config' has no key lr", UserWarning, "hydra.compose"),
    ("`torch.cuda.amp.autocast(args...)` is deprecated. Please use", FutureWarning, "mine"),
    ("'pin_memory' argument is set as true but no accelerator is found, then", UserWarning, "mine"),
    ("overflow encountered in exp", RuntimeWarning, "numpy"),
    ("The version_base parameter is not specified.", UserWarning, "mine"),
]


def shown(said: list[tuple[str, type[Warning], str]], *given: str) -> list[str]:
    """The messages that are not kept quiet, with filters that the user has given."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for action in given:
            warnings.simplefilter(action)
        keep_quiet()
        keep_quiet()
        for message, category, module in said:
            warnings.warn_explicit(message, category, f"{module}.py", 1, module, {})
    return [str(warning.message) for warning in caught]


def test_noise_is_named_narrowly():
    assert shown(SAID) == []
    assert shown(OTHERS) == [message for message, _, _ in OTHERS]
    with_words = [
        next(i for i, noise in enumerate(NOISE) if re.match(noise[0], said[0])) for said in SAID
    ]
    assert set(with_words) == set(range(len(NOISE)))


def test_who_asks_for_warnings_gets_all_of_them():
    assert shown(SAID, "always") == [message for message, _, _ in SAID]


@pytest.mark.slow
def test_fairseq_train_says_what_matters_and_nothing_else(corpus, backbones, tmp_path):
    """A process of its own, as a user starts it, whose own warnings and those of bad audio are to be seen."""
    rows = read_tsv(corpus / "train.tsv")
    write_tsv(tmp_path / "train.tsv", [*rows[:8], {**rows[8], "audio": str(tmp_path / "gone.wav")}])
    write_tsv(tmp_path / "dev.tsv", read_tsv(corpus / "dev.tsv"))
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import warnings\nfrom fairseq_cli import train\nwarnings.warn('mine')\ntrain.cli_main()\n"
    )
    settings = {
        "max_update": 2,
        "batch_size": 3,
        "max_tokens": None,
        "num_workers": 1,
        "save_dir": tmp_path / "out",
    }
    flags = train_arguments(
        tmp_path, backbones, "--skip-bad-audio", "--llm-gradient-checkpointing", **settings
    )
    result = run_command(
        "mine", *flags, cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    )
    assert [line for line in result.stderr.splitlines() if line.strip()] == [
        f"{plugin}:3: UserWarning: mine",
        "  warnings.warn('mine')",
    ]
    log = result.stdout.splitlines()
    assert any("WARNING" in line and "gone.wav" in line for line in log), result.stdout[:3000]
    assert sum("WARNING" in line for line in log) <= 2 and "num_updates" in result.stdout
