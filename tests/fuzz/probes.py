"""What the package's readers make of a file, as JSON.

python -m tests.fuzz.probes audio|manifest FILE
"""

import json
import sys
from pathlib import Path

from lst_fairseq.data.audio import AudioError, Segment, audio_info, read_segment
from lst_fairseq.data.manifest import ManifestError, read_manifest


def audio(path: str) -> dict[str, float]:
    """Length and rate of a file by its header, and of the whole of it as it is read at 16 kHz."""
    info = audio_info(path)
    waveform = read_segment(Segment(path))
    loudness = float((waveform**2).mean() ** 0.5)
    return {
        "frames": info.frames,
        "rate": info.rate,
        "samples": len(waveform),
        "loudness": loudness,
    }


def manifest(path: str) -> dict[str, list[list[str]]]:
    """Identifier, reference and source text of each row, its audio checked."""
    rows = read_manifest(path).rows
    return {"rows": [[row.id, row.tgt_text, row.src_text] for row in rows]}


def main(arguments: list[str]) -> None:
    """Print what was read; errors end the program as they end the project's own."""
    name, path = arguments
    try:
        print(json.dumps({"audio": audio, "manifest": manifest}[name](path)))
    except (AudioError, ManifestError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1:])
