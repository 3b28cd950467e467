"""What commit 41d8758 wrote: backbones, a checkpoint, a sharded one, an export, and what they translate.

Run in a checkout of that commit, from its root; the files are opened by tests/checkpoints/test_old_files.py ever after.

    PYTHONPATH=. python tests/data/41d8758/make.py
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import soundfile

from lst_fairseq.checkpoints.export import export
from lst_fairseq.generation.translator import DecodingOptions, Translator
from tests.conftest import SAMPLE_RATE, save_llama, save_wav2vec2
from tests.support.helpers import SENTENCES, write_tsv
from tests.support.ranks import run_ranks
from tests.support.running import run_train

BACKBONES = {"wav2vec2": "frontend", "llama": "llm"}  # relative: no path of the machine stands in the files


def corpus() -> None:
    rng = np.random.default_rng(41)
    for split, count in (("train", 8), ("dev", 2)):
        rows = []
        for i in range(count):
            path, frames = f"audio/{split}{i}.flac", int(rng.integers(SAMPLE_RATE // 4, SAMPLE_RATE // 2))
            tone = np.sin(2 * np.pi * (200 + 90 * i) * np.arange(frames) / SAMPLE_RATE)
            soundfile.write(path, (0.2 * tone + 0.02 * rng.standard_normal(frames)).astype("float32"), SAMPLE_RATE)
            rows.append({"id": f"{split}_{i}", "audio": path, "n_frames": frames, "tgt_text": SENTENCES[i]})
        write_tsv(Path(f"{split}.tsv"), rows)


def main() -> None:
    os.chdir(Path(__file__).parent)
    Path("audio").mkdir(exist_ok=True)
    save_wav2vec2(Path("frontend"))
    save_llama(Path("llm"))
    corpus()
    flags = {"train_modules": "adapter,llm", "max_update": 6, "batch_size": 4, "target_lang": "de", "user_dir": None}
    whole = run_train(".", BACKBONES, Path("run"), **flags)
    shutil.copy(whole.path(), "checkpoint.pt")
    longer = run_train(".", BACKBONES, Path("run"), **{**flags, "max_update": 8})
    sharded = {**flags, "update_freq": [1], "batch_size": 2, "use_sharded_state": True, "no_epoch_checkpoints": True}
    run_ranks(2, Path("ranks"), ".", BACKBONES, {"sharded": sharded})
    shutil.copy("ranks/sharded/checkpoint_last.pt", "checkpoint_sharded.pt")
    shutil.copytree("ranks/sharded/checkpoint_shards_6.0", "checkpoint_shards_6.0")
    export("checkpoint.pt", "exported", with_frontend=True)
    expected = {"losses_resumed": longer.losses, "translations": {}}
    files = [f"audio/dev{i}.flac" for i in range(2)]
    for name in ("checkpoint.pt", "checkpoint_sharded.pt", "exported"):
        translator = Translator(name, device="cpu", options=DecodingOptions(max_len_b=12))
        done = translator.translate(files)
        expected["translations"][name] = [{"tokens": t.tokens, "score": t.score, "text": t.text} for t in done]
    Path("expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for folder in ("run", "ranks"):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
