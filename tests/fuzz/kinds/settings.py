"""Settings: the data configuration, and the recipe's, from the environment and from a file."""

import shlex
import shutil
from pathlib import Path
from random import Random

import yaml

from lst_fairseq.recipe.location import recipe_settings
from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.mutators import changed_tree, damaged, deep_text, hostile
from tests.fuzz.programs import generate_arguments

CONFIG = {
    "use_audio_input": True,
    "target_lang": "de",
    "source_lang": "en",
    "prompt": "USER: {speech} {instruction} Deutsch:",
    "instructions": {"st": "Auf {tgt_lang}:", "asr": ["Sie sagt:", "Was sagt sie?"]},
    "cot_separator": " => ",
    "sampling_alpha": 0.5,
    "sample_rate": 16000,
    "audio_root": "",
    "feature_transforms": {"_train": [], "*": []},
    "specaugment": {"freq_mask_F": 27},
}
WORDS = (
    *("", " ", "0", "-1", "1.5", "1e9", "08", "0x10", "9" * 30, "nan", "abc", "*", "~"),
    *("a b", "--dropout 0.3", "'", '"'),
    *("--note it's --dropout 0.3", "\\", "a\nb", "\n", "é", "-h", "--", "$HOME", "!!"),
    *("[0]", "1 2 3", "x" * 5_000, "/"),
)


#: So that every setting is looked at: the baseline's trials have a share of the updates.
_USED = {"BASELINE_UPDATES": "10", "BASELINE_LRS": "1e-3 2e-3", "TUNE_BEAMS": "1 4"}


class Settings:
    """One or two of them odd, the others as they are."""

    name = "settings"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        return _recipe(rng, folder, base) if rng.random() < 0.4 else _config(rng, folder, base)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        return None


def _config(rng: Random, folder: Path, base: Base) -> Case:
    data = folder / "data"
    data.mkdir()
    shutil.copy(base.corpus / "test.tsv", data)
    what = rng.random()
    if what < 0.75:
        tree, said = changed_tree(CONFIG, rng, str(base.marker))
        content = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    elif what < 0.8:
        said = rng.choice(("object/apply", "name", "object/new"))
        content = f"target_lang: !!python/{said}:os.system ['touch {base.marker}']\n".encode()
    elif what < 0.87:
        text = deep_text(rng)
        content, said = text.encode(), f"nested: {text[:20]!r}"
    else:
        content, said = damaged(yaml.safe_dump(CONFIG).encode(), rng)
    (data / "config.yaml").write_bytes(content)
    arguments = generate_arguments(data, base.checkpoint, folder / "out")
    return Case(
        "fairseq-generate",
        arguments,
        f"config.yaml: {said}",
        ("config.yaml", "--prompt", "test.tsv"),
    )


def _recipe(rng: Random, folder: Path, base: Base) -> Case:
    from tests.support.recipe import Sandbox

    sandbox = Sandbox(folder)
    known = [name for name in recipe_settings() if name not in ("LAUNCHER", "WORK")]
    chosen = rng.sample(known, rng.choice((1, 1, 2)))
    values = {name: rng.choice((*WORDS, *hostile(str(base.marker)))) for name in chosen}
    environment = {**sandbox.settings, **_USED}
    said = ", ".join(f"{name}={value!r:.60}" for name, value in values.items())
    if rng.random() < 0.3:
        file = folder / "my settings.env"
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
        file.write_text("".join(lines), encoding="utf-8")
        environment |= {"SETTINGS": str(file)}
        for name in chosen:
            environment.pop(name, None)  # these would win over the file
    else:
        environment |= values
    return Case("recipe", (), f"recipe: {said}", (*chosen, "SETTINGS"), None, environment)
