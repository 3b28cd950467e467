"""Files that commit 41d8758 wrote open ever after, and translate and train on as they did then.

tests/data/41d8758/make.py made them there.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lst_fairseq.generation.translator import DecodingOptions, Translator
from tests.support.running import run_train

FOLDER = Path(__file__).parents[1] / "data" / "41d8758"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, from where its relative paths hold."""
    copy = shutil.copytree(FOLDER, tmp_path / "old")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("name", EXPECTED["translations"])
def test_translates_as_it_did(old: Path, name: str) -> None:
    translator = Translator(name, device="cpu", options=DecodingOptions(max_len_b=12))
    done = list(translator.translate([f"audio/dev{i}.flac" for i in range(2)]))
    expected = EXPECTED["translations"][name]
    assert [(t.tokens, t.text) for t in done] == [(e["tokens"], e["text"]) for e in expected]
    assert [t.score for t in done] == pytest.approx([e["score"] for e in expected], abs=1e-5)


def test_trains_on_as_it_did(old: Path) -> None:
    (old / "run").mkdir()
    shutil.copy("checkpoint.pt", "run/checkpoint_last.pt")
    settings = {"train_modules": "adapter,llm", "max_update": 8, "batch_size": 4, "target_lang": "de"}
    backbones = {"wav2vec2": "frontend", "llama": "llm"}
    run = run_train(".", backbones, Path("run"), user_dir=None, **settings)
    assert run.losses == pytest.approx(EXPECTED["losses_resumed"], abs=1e-5)
