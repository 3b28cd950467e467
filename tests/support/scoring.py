"""Manifests and hypotheses for lst score."""

from pathlib import Path

from tests.support.helpers import write_tsv


def write_scored(folder: Path, pairs: list[tuple[str, str]], **columns: str) -> list[str]:
    """A manifest and fairseq-generate's output of (hypothesis, reference) pairs; returns the arguments for it."""
    rows = [
        {"id": f"u{i}", "audio": f"x.wav:{i * 16000}:16000", "n_frames": 16000, "tgt_text": reference, **columns}
        for i, (_, reference) in enumerate(pairs)
    ]
    write_tsv(folder / "test.tsv", rows)
    said = "".join(f"D-{i}\t-0.1\t{hypothesis}\n" for i, (hypothesis, _) in enumerate(pairs))
    (folder / "said.txt").write_text(said, encoding="utf-8")
    return ["--manifest", str(folder / "test.tsv"), "--hypotheses", str(folder / "said.txt"), "--rate", "16000"]
