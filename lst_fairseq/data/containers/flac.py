"""FLAC (RFC 9639): whether the frames end where STREAMINFO says, and whether one stream is all there is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from soundfile import SoundFile

from lst_fairseq.data.audio_error import AudioError, beyond_header, cut_short
from lst_fairseq.data.containers.source import RawFile

_MARKER = b"fLaC"
# A stream's beginning: STREAMINFO, 34 bytes, is the first block of metadata, and may be the last one.
_STREAM = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
# The first bytes of a frame's header: sync code, block size and rate, channels and bits a sample.
_FRAME = re.compile(rb"\xff[\xf8\xf9][\x10-\xff][\x00-\xaf]")
_MAX_HEADER = 16  # bytes of a frame's header
_TAIL = 1 << 14
_LONGEST_TAIL = 1 << 20
_BLOCK = 1 << 20  # bytes read at a time
_JOINED = "convert it, for example: ffmpeg -i IN OUT.flac (the frames of all streams are read)"
_REWRITE = "write it again, for example: ffmpeg -i IN OUT.flac"


@dataclass(frozen=True, slots=True)
class _Stream:
    """What STREAMINFO says, as far as it is needed here."""

    min_block: int  # samples
    max_block: int
    max_frame: int  # bytes; 0: unknown
    channels: int
    bits: int
    total: int  # samples

    @classmethod
    def parse(cls, info: bytes) -> "_Stream":
        packed = int.from_bytes(info[10:18], "big")  # rate 20 bits, channels - 1: 3, bits - 1: 5, samples: 36
        return cls(
            min_block=int.from_bytes(info[0:2], "big"),
            max_block=int.from_bytes(info[2:4], "big"),
            max_frame=int.from_bytes(info[7:10], "big"),
            channels=(packed >> 41 & 7) + 1,
            bits=(packed >> 36 & 31) + 1,
            total=packed & ((1 << 36) - 1),
        )


@dataclass(frozen=True, slots=True)
class _Frame:
    """The samples of one frame, from the beginning of the stream."""

    first: int
    end: int


def check_header(raw: RawFile, handle: SoundFile) -> None:
    """Hold the number of samples against the last frame, the header of which says which samples it has.

    A frame is named by four bytes that samples may hold, too: what looks like one counts only if its checksum is
    right and it fits the stream. Raises AudioError.
    """
    begin = raw.audio_begin()
    head = raw.at(begin, 42)
    if head[:4] != _MARKER or len(head) < 42:
        return
    stream = _Stream.parse(head[8:42])
    if not stream.total or not stream.max_block:
        return
    size = max(_TAIL, 2 * stream.max_frame)
    while True:
        size = min(size, _LONGEST_TAIL, raw.size - begin)
        tail = raw.at(raw.size - size, size)
        if joined := _STREAM.search(tail, 1):
            position = raw.size - size + joined.start()
            raise _joined(raw, position)
        frames = list(_frames(tail, stream, len(tail)))
        if frames or size >= min(_LONGEST_TAIL, raw.size - begin):
            break
        size *= 8
    if not frames:
        if size == raw.size - begin and stream.min_block == stream.max_block:
            raise cut_short(raw.path, f"the header promises {stream.total} samples and there are none")
        return
    _check_end(raw, stream.total, frames)


def check_data(raw: RawFile) -> None:
    """Follow the frames through the file, each from where the one before it ends. Raises AudioError.

    Only their headers are looked at: a frame that is damaged inside is for the decoder to find.
    """
    stream = _Stream.parse(raw.at(raw.audio_begin(), 42)[8:])
    expected = 0
    for start, window, end in _windows(raw):
        if found := _STREAM.search(window):
            raise _joined(raw, start + found.start())
        for frame in _frames(window, stream, end):
            if expected == stream.total and frame.end == stream.total:
                raise beyond_header(raw.path, "frames follow that of the last sample", _REWRITE)
            if frame.first == expected:
                expected = frame.end
    is_numbered = stream.total and stream.min_block == stream.max_block
    if is_numbered and expected != stream.total:
        raise AudioError(
            f"{raw.path}: damaged, no frame begins at sample {expected} of {stream.total}; copy or convert it again",
            "broken data",
        )


def _windows(raw: RawFile) -> Iterator[tuple[int, bytes, int]]:
    """The file behind its first bytes, some at a time: position, bytes, and how many are not in the next ones again.

    So a header that lies across a border is whole in one of them.
    """
    position, kept = raw.audio_begin() + len(_MARKER), b""
    while data := raw.at(position, _BLOCK):
        window, start = kept + data, position - len(kept)
        position += len(data)
        kept = b"" if position >= raw.size else window[-_MAX_HEADER:]
        yield start, window, len(window) - len(kept)


def _check_end(raw: RawFile, total: int, frames: list[_Frame]) -> None:
    last = frames[-1]
    if last.end == total:
        return
    ending = [number for number, frame in enumerate(frames) if frame.end == total]
    if ending and all(frame.first != total for frame in frames[ending[-1] + 1 :]):
        return  # what looks like a frame behind the last one is none
    for start, window, _ in _windows(raw):  # a second stream would explain it
        if found := _STREAM.search(window):
            raise _joined(raw, start + found.start())
    if last.end > total:
        raise beyond_header(raw.path, f"the header promises {total} samples, and the last ends at {last.end}", _REWRITE)
    raise cut_short(raw.path, f"the header promises {total} samples, and the last frame ends at {last.end}")


def _joined(raw: RawFile, position: int) -> AudioError:
    return beyond_header(raw.path, f"another stream begins at byte {position}", _JOINED)


def _frames(data: bytes, stream: _Stream, end: int) -> Iterator[_Frame]:
    """What can be the frames of the stream that begin in ``data`` before ``end``."""
    for match in _FRAME.finditer(data, 0, min(end + 3, len(data))):
        frame = _parse_frame(data[match.start() : match.start() + _MAX_HEADER], stream)
        if frame is not None:
            yield frame


def _parse_frame(head: bytes, stream: _Stream) -> _Frame | None:
    """The frame of which ``head`` is the header, if it is one."""
    is_variable = head[1] & 1
    block_code, rate_code = head[2] >> 4, head[2] & 15
    channel_code, bits_code = head[3] >> 4, head[3] >> 1 & 7
    channels = channel_code + 1 if channel_code < 8 else 2
    bits = (stream.bits, 8, 12, 0, 16, 20, 24, 32)[bits_code]
    if rate_code == 15 or head[3] & 1 or channels != stream.channels or bits != stream.bits:
        return None
    number, position = _coded_number(head)
    if number < 0:
        return None
    if block_code == 1:
        block = 192
    elif block_code < 6:
        block = 576 << (block_code - 2)
    elif block_code < 8:
        length = block_code - 5
        block = int.from_bytes(head[position : position + length], "big") + 1
        position += length
    else:
        block = 256 << (block_code - 8)
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if position >= len(head) or _crc8(head[:position]) != head[position] or block > stream.max_block:
        return None
    first = number if is_variable else number * stream.max_block
    if not is_variable and stream.min_block != stream.max_block:
        return None  # frames are numbered, of unknown sizes: no knowing where this one begins
    return _Frame(first, first + block)


def _coded_number(head: bytes) -> tuple[int, int]:
    """The number of a frame or sample, coded as UTF-8 codes characters but up to 36 bits, and where it ends.

    -1 where there is none.
    """
    lead = head[4] if len(head) > 4 else 0x80
    if lead < 0x80:
        return lead, 5
    extra = 7 - (lead ^ 0xFF).bit_length()  # bytes behind the first one
    if not 1 <= extra <= 6 or len(head) < 5 + extra:
        return -1, 0
    number = lead & ((1 << (6 - extra)) - 1)
    for byte in head[5 : 5 + extra]:
        if byte >> 6 != 2:
            return -1, 0
        number = number << 6 | byte & 63
    return number, 5 + extra


def _crc8_table() -> bytes:
    table = bytearray()
    for value in range(256):
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
        table.append(value & 0xFF)
    return bytes(table)


_CRC8 = _crc8_table()


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc
