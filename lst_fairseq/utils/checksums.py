"""Whether files still are what was written: checksums in checkpoints, exported directories and folders of shards.

    FILE.pt                 the CRC-32 of each record, which torch.save writes and torch.load ignores
    EXPORT/lst.json         `files`: size, SHA-256 and CRC-32 of each file that decides what the model computes
    SHARDS/checksums.json   the same without SHA-256; see checkpoints/shard_checksums.py

Files of older versions have none of the last two and are taken as they are. A large file costs about a tenth of the
time in which it is read: its CRC-32 is compared, which finds any flipped bit. SHA-256 is ten times as slow; it is
compared for small files, and is there for `sha256sum` and the hub.
"""

import hashlib
import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

try:
    from zlib_ng.zlib_ng import crc32  # six times as fast
except ImportError:
    from zlib import crc32

#: Bytes read at a time.
BLOCK = 2**20
#: Files up to so many bytes are compared by SHA-256 too.
SMALL = 2**26
#: Records or files in all up to so many bytes are not worth threads.
ONE_THREAD = 2**24
MAX_THREADS = 8
#: A zip file's header of a record, without its name and what follows it.
ZIP_HEADER, ZIP_MAGIC = 30, b"PK\x03\x04"
ZIP_ERRORS = (zipfile.BadZipFile, ValueError, OverflowError, EOFError, IndexError, NotImplementedError)


class Damaged(RuntimeError):
    """A file is not what was written; the message says in what, and whoever knows the file names it and the remedy."""


@dataclass(frozen=True)
class Checksum:
    """Of a file.

    Attributes:
        bytes: its size.
        crc32: 8 hexadecimal digits.
        sha256: 64 of them; None where it was not taken.
    """

    bytes: int
    crc32: str
    sha256: str | None = None

    @classmethod
    def of(cls, path: Path, with_sha256: bool = False) -> "Checksum":
        """Read a file once."""
        digest = hashlib.sha256() if with_sha256 else None
        size, crc = _read(path, 0, None, digest)
        return cls(size, f"{crc:08x}", digest.hexdigest() if digest else None)

    @classmethod
    def parse(cls, entry: Any) -> "Checksum":
        """From JSON; a ValueError if it is something else."""
        if (
            not isinstance(entry, dict)
            or entry.keys() - {"bytes", "crc32", "sha256"}
            or not isinstance(entry.get("bytes"), int)
            or not isinstance(entry.get("crc32"), str)
            or not isinstance(entry.get("sha256", ""), str)
        ):
            raise ValueError("an entry is not {bytes, crc32, sha256}")
        return cls(**entry)

    def as_dict(self) -> dict[str, int | str]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def difference(self, path: Path) -> str | None:
        """What is wrong with a file, in words; None if nothing is."""
        try:
            size = path.stat().st_size
            if size != self.bytes:
                return f"{size:,} bytes instead of {self.bytes:,}"
            found = Checksum.of(path, with_sha256=self.sha256 is not None and size <= SMALL)
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        same = found.crc32 == self.crc32 and found.sha256 in (None, self.sha256)
        return None if same else "other content than was written, though of the same size"


def check_regular(path: str | Path) -> None:
    """Refuse what could never end, a pipe or a device; what is not there is for others to say.

    Raises:
        Damaged: with the reason.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Damaged("not a regular file")


def check_records(path: str | Path, tensors: bool = True) -> None:
    """Compare each record of a file that ``torch.save`` wrote with its CRC-32.

    Files of the format before PyTorch 1.6, and those that were written without checksums, pass.

    Args:
        path: the file.
        tensors: also look at the tensors' values, and not only at what is said about them.

    Raises:
        Damaged: it is, with the reason.
        RuntimeError: it is cut short.
        OSError: it cannot be opened.
    """
    check_regular(path)
    with open(path, "rb") as file:
        begins_well = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        if not begins_well:
            if zipfile.is_zipfile(file):
                raise Damaged("its first bytes are others than those of its kind")
            return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except ZIP_ERRORS as error:
        raise RuntimeError(f"its list of records cannot be read: {error}") from None
    [(name, times)] = Counter(record.filename for record in records).most_common(1) or [("", 0)]
    if times > 1:  # readers differ in which of them they take
        raise Damaged(f"its record {name!r:.200} is there {times} times")
    if not any(record.CRC for record in records):
        return
    wanted = [record for record in records if tensors or "/data/" not in record.filename]

    def difference(record: zipfile.ZipInfo) -> str | None:
        return None if _record_is_whole(path, record) else f"{record.filename} ({record.file_size:,} bytes)"

    faults = _faults(difference, wanted, sum(record.file_size for record in wanted))
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise Damaged(f"its record {faults[0]}{more} has not the checksum that it was written with")


def _record_is_whole(path: str | Path, record: zipfile.ZipInfo) -> bool:
    with open(path, "rb") as file:
        file.seek(record.header_offset)
        header = file.read(ZIP_HEADER)
        if len(header) < ZIP_HEADER or not header.startswith(ZIP_MAGIC):
            return False
        name_length, extra_length = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        if file.read(name_length) != record.orig_filename.encode():
            return False
    if record.compress_type != zipfile.ZIP_STORED:
        return False
    begin = record.header_offset + ZIP_HEADER + name_length + extra_length
    return _read(Path(path), begin, record.file_size) == (record.file_size, record.CRC)


def _read(path: Path, begin: int, size: int | None, digest: Any = None) -> tuple[int, int]:
    """Number and CRC-32 of the bytes that are there from ``begin`` on, of ``size`` bytes or all."""
    buffer = memoryview(bytearray(BLOCK if size is None else max(1, min(BLOCK, size))))
    done, crc = 0, 0
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        while size is None or done < size:
            got = file.readinto(buffer if size is None else buffer[: min(BLOCK, size - done)])
            if not got:
                break
            crc = crc32(buffer[:got], crc)
            if digest is not None:
                digest.update(buffer[:got])
            done += got
    return done, crc


def _faults(difference: Callable[[Any], str | None], items: Iterable[Any], total: int) -> list[str]:
    """What is wrong with any of the items, in their order; in threads if they have many bytes."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    if total <= ONE_THREAD or threads == 1:
        return [fault for item in items if (fault := difference(item))]
    with ThreadPoolExecutor(threads) as pool:
        return [fault for fault in pool.map(difference, items) if fault]


def differences(directory: Path, checksums: Mapping[str, Checksum]) -> list[str]:
    """``FILE: what is wrong with it`` for each file below a directory that is not as it was written."""

    def difference(name: str) -> str | None:
        wrong = checksums[name].difference(directory / name)
        return f"{directory / name}: {wrong}" if wrong else None

    return _faults(difference, checksums, sum(checksum.bytes for checksum in checksums.values()))


def parse_checksums(entries: Any) -> dict[str, Checksum]:
    """A table of files, from JSON.

    Raises:
        ValueError: it is something else, or a name leads out of the directory.
    """
    if not isinstance(entries, dict):
        raise ValueError(f"the table of files is a {type(entries).__name__} and not an object")
    for name in entries:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} does not lie in the directory")
    return {name: Checksum.parse(entry) for name, entry in entries.items()}


def read_model_json(path: Path) -> Any:
    """Content of a JSON file beside a model's weights, in all that transformers would take from it.

    ``text_files.read_json``, for files that people write, refuses more.

    Raises:
        ValueError: it cannot be read; names the file.
        OSError: it cannot be opened.
    """
    try:
        check_regular(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, Damaged) as error:
        raise ValueError(f"{path}: no JSON that can be read ({error}); copy it again") from None
