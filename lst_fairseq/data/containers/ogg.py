"""Ogg (RFC 3533): whether the stream of the audio ends as it should, and whether it is the only one."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from soundfile import SoundFile

from lst_fairseq.data.audio_error import AudioError, beyond_header, cut_short
from lst_fairseq.data.containers.source import RawFile

_CAPTURE = b"OggS"
_HEAD_BYTES = 27  # of a page, in front of the lengths of its segments
_MAX_PAGE = 27 + 255 + 255 * 255
_FIRST_PAGES = 4096  # bytes that hold the first page of each stream
_BEGINS, _ENDS = 2, 4  # flags
# How the first packet of a codec begins, and the samples, at the rate of page positions, that a packet holds at most:
# Opus 120 ms of 48 kHz, Vorbis one block, FLAC one block.
_CODECS = {b"OpusHead": 5_760, b"\x01vorbis": 8_192, b"\x7fFLAC": 65_536, b"Speex   ": 1 << 20}
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_CONVERT = "ffmpeg -i IN OUT.flac"


@dataclass(frozen=True, slots=True)
class _Page:
    start: int
    body: int  # where the packets begin
    end: int
    flags: int
    position: int  # in samples, after the last packet that ends here; -1: none does
    serial: int  # of the page's stream
    number: int
    packets: int  # that end here


@dataclass(frozen=True, slots=True)
class _Streams:
    """The streams that begin together at the beginning of the file."""

    serials: frozenset[int]
    audio: int  # serial of the first that is audio
    max_packet: int  # its samples in a packet, at most
    end: int  # of their first pages


def check_header(raw: RawFile, handle: SoundFile) -> None:
    """Look at the first pages, for the stream of the audio, and at the last ones, for its end.

    Raises:
        AudioError: the stream's last page is missing or incomplete, its position cannot be, or another stream follows.
    """
    streams = _first_streams(raw)
    if streams is None:
        return
    offset = max(streams.end, raw.size - 2 * _MAX_PAGE)
    tail = raw.at(offset, raw.size - offset)
    pages, end = _tail_pages(tail)
    for page in pages:
        _check_single(raw, streams, page, offset)
    own = [page for page in pages if page.serial == streams.audio]
    if not own and pages and len(streams.serials) > 1:
        return  # the last pages are a picture's or a film's
    if not own or not own[-1].flags & _ENDS:
        raise cut_short(
            raw.path,
            "the page that ends the stream is missing (where nothing else is, as in a recording of a live stream, "
            f"{_CONVERT} makes it whole)",
        )
    for page in own[:-1]:
        if page.flags & _ENDS:
            raise _joined(raw, offset + page.end)
    if tail.startswith(_CAPTURE, end):
        raise _joined(raw, offset + end)
    for before, page in pairwise(own):
        _check_position(raw, streams, before, page)


def check_data(raw: RawFile) -> None:
    """Check every page: checksum, number, and that there is one stream of audio. Raises AudioError.

    The whole file, compressed as it is, is held in memory meanwhile.
    """
    streams = _first_streams(raw)
    if streams is None:
        return
    data = raw.at(streams.end, raw.size)
    before, end = None, 0
    for page in _pages(data, 0):
        _check_single(raw, streams, page, streams.end)
        end = page.end
        if page.serial != streams.audio:
            continue
        is_audio = before is not None and before.position > 0  # no page of headers, which some programs rewrite
        is_next = not is_audio or page.number == before.number + 1
        if before is not None and before.flags & _ENDS:
            raise _joined(raw, streams.end + page.start)
        if _checksum(data[page.start : page.end]) or not is_next:
            raise _damaged(raw, streams.end + page.start)
        if is_audio:
            _check_position(raw, streams, before, page)
        before = page
    if before is None or not before.flags & _ENDS:
        raise _damaged(raw, streams.end + end)
    if (position := data.find(_CAPTURE, end)) >= 0:
        raise _joined(raw, streams.end + position)


def _first_streams(raw: RawFile) -> _Streams | None:
    """The streams of the file; None where the first pages make no sense here, or none is audio."""
    begin = raw.audio_begin()
    head = raw.at(begin, _FIRST_PAGES)
    serials, audio, end = [], None, 0
    for page in _pages(head, 0):
        if not page.flags & _BEGINS:
            break
        serials.append(page.serial)
        end = page.end
        for magic, samples in _CODECS.items():
            if audio is None and head.startswith(magic, page.body):
                audio = page.serial, samples
    return None if audio is None else _Streams(frozenset(serials), *audio, begin + end)


def _pages(data: bytes, start: int) -> Iterator[_Page]:
    """The whole pages from ``start`` on, up to the first bytes that are none."""
    while data.startswith(_CAPTURE, start) and len(data) >= start + _HEAD_BYTES:
        body = start + _HEAD_BYTES + data[start + 26]
        segments = data[start + _HEAD_BYTES : body]
        end = body + sum(segments)
        if end > len(data):
            return
        yield _Page(
            start,
            body,
            end,
            flags=data[start + 5],
            position=int.from_bytes(data[start + 6 : start + 14], "little", signed=True),
            serial=int.from_bytes(data[start + 14 : start + 18], "little"),
            number=int.from_bytes(data[start + 18 : start + 22], "little"),
            packets=sum(length < 255 for length in segments),
        )
        start = end


def _tail_pages(tail: bytes) -> tuple[list[_Page], int]:
    """The whole pages in the last bytes of a file, and where the last one ends. What is between is left out."""
    pages: list[_Page] = []
    start = tail.find(_CAPTURE)
    end = max(0, start)
    while start >= 0:
        found = list(_pages(tail, start))
        pages += found
        end = found[-1].end if found else end
        start = tail.find(_CAPTURE, max(end, start + 1))
    return pages, end


def _check_single(raw: RawFile, streams: _Streams, page: _Page, offset: int) -> None:
    """No stream may begin behind the first pages."""
    if page.flags & _BEGINS or page.serial not in streams.serials:
        raise _joined(raw, offset + page.start)


def _check_position(raw: RawFile, streams: _Streams, before: _Page, page: _Page) -> None:
    """A page's position may grow by what its packets can hold, one more included that began on the page before."""
    grown = page.position - before.position
    if before.position > 0 and page.position >= 0 and grown > streams.max_packet * (page.packets + 1):
        raise AudioError(
            f"{raw.path}: {page.packets} packets at byte {page.start} of its last pages claim {grown} samples, more "
            "than they can hold; it is damaged, copy or convert it again",
            "impossible length",
        )


def _joined(raw: RawFile, position: int) -> AudioError:
    return beyond_header(
        raw.path, f"another stream follows at byte {position}", f"convert it, for example: {_CONVERT} (all are read)"
    )


def _damaged(raw: RawFile, position: int) -> AudioError:
    return AudioError(
        f"{raw.path}: damaged at byte {position}, a page is broken or missing; copy or convert it again", "broken data"
    )


def _checksum(page: bytes) -> int:
    """0 where the page's checksum is right.

    Ogg's CRC-32 is zlib's with the bits of bytes and result in the opposite order, without the two complements. The
    checksum's own four bytes count as 0.
    """
    plain = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    crc = zlib.crc32(plain, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc ^ int.from_bytes(page[22:26].translate(_REVERSED), "big")
