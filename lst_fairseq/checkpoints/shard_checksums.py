"""Checksums of a sharded checkpoint's folder, of which each process takes those of its own files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checksums import Checksum, differences, parse_checksums, read_model_json

#: In a folder of shards.
SHARDS_FILE = "checksums.json"
SHARDS_FORMAT = 1


def shard_checksums(folder: Path, pattern: str = "*") -> dict[str, dict[str, int | str]]:
    """Checksums of the files in a folder that match, fit for JSON."""
    return {path.name: Checksum.of(path).as_dict() for path in sorted(folder.glob(pattern)) if path.is_file()}


def write_shard_checksums(folder: Path, files: Mapping[str, Any]) -> None:
    """Put the checksums of a folder of shards into it."""
    content = json.dumps({"format": SHARDS_FORMAT, "files": files}, indent=1)
    (folder / SHARDS_FILE).write_text(content + "\n", encoding="utf-8")


def shard_faults(folder: Path, share: int = 0, shares: int = 1) -> list[str]:
    """What is wrong with the files of a folder of shards, or with one process's share of them; no error is raised.

    A process looks at what processes of its number wrote, since it will read much of that anyway.
    """
    path = folder / SHARDS_FILE
    if not path.exists():
        return []
    try:
        content = read_model_json(path)
        if not isinstance(content, dict) or content.get("format") != SHARDS_FORMAT:
            raise ValueError(f"{path}: not of this version's format {SHARDS_FORMAT}")
        checksums = parse_checksums(content.get("files"))
    except (ValueError, OSError) as error:
        reason = str(error)
        return [reason if reason.startswith(str(path)) else f"{path}: {reason}"] if share == 0 else []
    return differences(folder, {name: c for name, c in checksums.items() if _writer(name) % shares == share})


def _writer(name: str) -> int:
    """The number of the process that wrote a file ``__3_0.distcp``; 0 for others."""
    number = name.removeprefix("__").partition("_")[0]
    return int(number) if number.isdecimal() else 0


def shards_error(folder: Path, faults: list[str]) -> CheckpointError:
    """The error for a folder of shards that is not what was written."""
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    where = "" if faults[0].startswith(str(folder)) else f"{folder}: "
    return CheckpointError(
        f"{where}{faults[0]}{more}: damaged; copy the folder of shards again from where it is whole, or use an earlier "
        "checkpoint"
    )
