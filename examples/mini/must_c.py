"""Reading MuST-C's layout: ROOT/en-LANG/data/SPLIT/{wav,txt}."""

from pathlib import Path
from typing import NamedTuple

import yaml


class Segment(NamedTuple):
    """A part of a wav and the English words in it."""

    wav: Path
    start: float  # seconds
    seconds: float
    english: str


def read_split(corpus: Path, split: str) -> list[Segment]:
    """The segments of CORPUS/data/SPLIT, CORPUS being a folder such as ROOT/en-de."""
    folder = corpus / "data" / split
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load((folder / "txt" / f"{split}.yaml").read_text(encoding="utf-8"), Loader=loader)
    english = (folder / "txt" / f"{split}.en").read_text(encoding="utf-8").splitlines()
    if len(entries) != len(english):
        raise SystemExit(f"{folder}/txt: {len(entries)} segments in the yaml, {len(english)} lines in the .en")
    return [
        Segment(folder / "wav" / entry["wav"], float(entry["offset"]), float(entry["duration"]), words)
        for entry, words in zip(entries, english, strict=True)
    ]
