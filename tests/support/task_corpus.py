"""A tiny corpus of several tasks, and training on it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from fairseq import tasks

from lst_fairseq.data.manifest import COLUMNS
from tests.support.helpers import SENTENCES, write_tsv
from tests.support.running import Run, run_train, train_configuration

RATE = 16_000
TEMPLATE = "USER: {speech} {instruction} ASSISTANT:"
#: Of each task; decoding takes the first.
INSTRUCTIONS = {
    "st": ["Sie sagt auf {tgt_lang}:"],
    "asr": ["Sie sagt:", "Was sagt sie?", "Wir sehen, was sie sagt:", "Bitte:"],
    "mt": ["Auf {tgt_lang}, bitte:", "Heute auf {tgt_lang}:"],
    "cot": ["Sie sagt, und auf {tgt_lang}:"],
}
SOURCES = ["Nein.", "Das Fahrrad ist dort.", "Heute wohnt er in Berlin.", "Wir sehen das Buch.", "Ja, am Montag."]
MIXED = [("st", 0.9, ""), ("mt", 0, "de"), ("asr", 0.6, ""), ("mt", 0, "fr"), ("st", 1.3, "fr"), ("", 0, "")]


def rows_of(folder: Path, name: str, wanted: Sequence[tuple[str, float, str]]) -> list[dict[str, Any]]:
    """Manifest rows for each (task, seconds of noise or 0 for text only, target language)."""
    noise = 0.1 * np.random.default_rng(len(wanted)).standard_normal(30 * RATE)
    soundfile.write(folder / f"{name}.wav", noise, RATE)
    rows, offset = [], 0
    for i, (task, seconds, language) in enumerate(wanted):
        frames = round(seconds * RATE)
        audio = f"{folder / f'{name}.wav'}:{offset}:{frames}" if frames else ""
        row = {"id": f"{name}_{i}", "audio": audio, "n_frames": frames, "src_text": SOURCES[i % len(SOURCES)]}
        rows.append({**row, "tgt_text": SENTENCES[i % 12], "speaker": "", "src_lang": "", "tgt_lang": language})
        rows[-1]["task"] = task
        offset += frames
    return rows


def write_manifests(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], extra: str = "") -> Path:
    """Manifests of those rows, and a data config with the instructions and ``extra`` lines."""
    for name, rows in splits.items():
        write_tsv(folder / f"{name}.tsv", rows, COLUMNS)
    config = f"target_lang: de\ninstructions: {json.dumps(INSTRUCTIONS)}\n{extra}"
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder


def write_task_corpus(folder: Path) -> Path:
    """Manifests train_st (9), train_asr (5), train_mt (6), dev and mixed (all three kinds), and test_mt (5).

    sampled.yaml is the data config with ``sampling_alpha: 0.5``.
    """
    splits = {
        "train_st": [("st", 0.5 + 0.1 * i, "") for i in range(9)],
        "train_asr": [("asr", 0.5 + 0.1 * i, "") for i in range(5)],
        "train_mt": [("mt", 0, "")] * 6,
        "dev": MIXED[:4],
        "mixed": MIXED,
        "test_mt": [("mt", 0, "de")] * 5,
    }
    write_manifests(folder, {name: rows_of(folder, name, wanted) for name, wanted in splits.items()})
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "sampled.yaml").write_text(config + "sampling_alpha: 0.5\n", encoding="utf-8")
    return folder


def build(data: Path, backbones: Mapping[str, str], **settings: Any) -> tuple[Any, Any, Any]:
    """(configuration, task, model in eval mode) that train adapter and LLM, as fairseq-train builds them."""
    given = {"prompt": TEMPLATE, "train_modules": "adapter,llm", **settings}
    cfg = train_configuration(data, backbones, data / "unused", **given)
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    return cfg, task, task.build_model(cfg.model).eval()


def train_all(data: Path, backbones: Mapping[str, str], folder: Path, **settings: Any) -> Run:
    """fairseq-train of adapter and LLM on all three training manifests."""
    given = {"prompt": TEMPLATE, "train_subset": "train_st,train_asr,train_mt", "train_modules": "adapter,llm"}
    return run_train(data, backbones, folder, **{**given, **settings})
