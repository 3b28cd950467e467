"""The bytes of an audio file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from lst_fairseq.data.audio_error import AudioError


@dataclass(frozen=True, slots=True)
class RawFile:
    """An open file."""

    path: str
    file: BinaryIO
    size: int  # bytes

    @classmethod
    @contextmanager
    def open(cls, path: str | os.PathLike[str]) -> Iterator["RawFile"]:
        """The file, unbuffered: a few places of it are read. Raises AudioError where that fails."""
        try:
            with open(path, "rb", buffering=0) as file:
                yield cls(os.fspath(path), file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise AudioError(
                f"{path}: cannot be read ({error.strerror}); check its permissions and the disk", "not readable"
            ) from error

    def at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``position`` on; fewer at the end of the file."""
        if position >= self.size:  # a header may name any place, more than a seek can reach
            return b""
        self.file.seek(position)
        return self.file.read(size)

    def audio_begin(self) -> int:
        """Where the audio file proper begins: behind an ID3v2 tag in front of it."""
        return id3_size(self.at(0, 10))

    def audio_end(self) -> int:
        """Where it ends: before the tags that players append (ID3v1, APE, Lyrics3)."""
        end = self.size
        while True:
            tail = self.at(max(0, end - 128), min(128, end))
            if tail[:3] == b"TAG" and len(tail) == 128:
                end -= 128
            elif tail[-32:-24] == b"APETAGEX":
                has_header = tail[-9] & 0x80
                end -= int.from_bytes(tail[-20:-16], "little") + (32 if has_header else 0)
            elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
                end -= int(tail[-15:-9]) + 15
            else:
                return max(0, end)


def id3_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag with which ``head`` begins, its pictures included; 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    # Its size has 7 bits a byte.
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
