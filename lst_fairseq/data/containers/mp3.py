"""MPEG audio: whether the frames are as many as the Xing, Info or VBRI tag says.

libsndfile reads as many samples as the tag promises, and without a tag as many as it guesses from the first frame.
"""

from dataclasses import dataclass

from soundfile import SoundFile

from lst_fairseq.data.audio_error import AudioError, beyond_header, cut_short
from lst_fairseq.data.containers.source import RawFile, id3_size

# kbit/s by index from 1 on: MPEG-1 layers I, II, III, then MPEG-2 and 2.5 layer I, and II and III.
_KBIT_1 = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_KBIT_2 = (
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_HZ = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 halves them, and 2.5 halves them again
_NEAR = 1 << 14  # bytes in which a first frame, or a next one behind what is none, is looked for
_CONVERT = "write it again, for example: ffmpeg -i IN -c copy OUT.mp3 (all frames are kept)"


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a frame's header says (ISO 11172-3, 13818-3)."""

    kind: tuple[int, int, int]  # version, layer, and rate index: the same in all frames of a stream
    size: int  # bytes
    samples: int  # per channel
    least: int  # bytes of the smallest frame of the kind
    tag: int  # where a Xing or Info tag stands


@dataclass(frozen=True, slots=True)
class _Tag:
    """What a Xing, Info or VBRI tag says of the frames behind it; 0 what it does not say."""

    start: int  # of the frame that holds it
    frame: _Frame
    frames: int
    size: int  # bytes, from `start` on


def known_frames(raw: RawFile, handle: SoundFile) -> int:
    """Samples per channel, by a tag, or else by walking through all frames; 2**63 - 1 where they do not add up.

    Where libsndfile's guess is shorter than what is there, it would silently stop reading: that does not add up, too.
    A guess that is too long does no harm.
    """
    if _find_tag(raw) is not None:
        return handle.frames
    counted = _walk(raw, skip_junk=False)
    return counted.samples if counted and counted.samples <= handle.frames else (1 << 63) - 1


def check_header(raw: RawFile, handle: SoundFile) -> None:
    """Hold the tag's bytes against the file; where they differ, or are not stated, its frames. Raises AudioError."""
    tag = _find_tag(raw)
    if tag is None:
        return
    if tag.frames > raw.size // tag.frame.least:
        raise AudioError(
            f"{raw.path}: its header promises {tag.frames} frames, more than a file of {raw.size} bytes can hold; "
            "it is damaged or cut short, copy or convert it again",
            "impossible length",
        )
    # Some programs do not count the frame of the tag itself.
    if not tag.size or abs(raw.audio_end() - tag.start - tag.size) > tag.frame.size:
        check_data(raw)


def check_data(raw: RawFile) -> None:
    """Count the frames. Raises AudioError where they are not as many as the tag says.

    The whole file, compressed as it is, is held in memory meanwhile.
    """
    tag = _find_tag(raw)
    if tag is None:
        return
    walked = _walk(raw, skip_junk=True)
    if walked is None:
        return
    frames = walked.frames - 1  # without the tag's own
    if frames > tag.frames + 1:
        raise beyond_header(
            raw.path,
            f"the header promises {tag.frames} frames and {frames} are there (several files in one?)",
            _CONVERT,
        )
    if frames < tag.frames - (0 if walked.is_cut else 1):
        raise cut_short(raw.path, f"the header promises {tag.frames} frames and only {frames} are there")


@dataclass(frozen=True, slots=True)
class _Walked:
    frames: int
    samples: int
    is_cut: bool  # whether the last frame is, which is not counted


def _find_tag(raw: RawFile) -> _Tag | None:
    """The tag in the first frame, if it has one that tells the number of frames."""
    begin = raw.audio_begin()
    data = raw.at(begin, _NEAR)
    start = _next_frame(data, 0)
    if start < 0:
        return None
    frame = _parse(data, start)
    assert frame is not None
    at = start + frame.tag
    for shift in (0, 2):  # a frame with a checksum has two bytes more
        if data[at + shift : at + shift + 4] in (b"Xing", b"Info"):
            return _xing(data, at + shift, begin + start, frame)
    if data[start + 36 : start + 40] == b"VBRI":
        size, frames = (int.from_bytes(data[start + k : start + k + 4], "big") for k in (46, 50))
        return _Tag(begin + start, frame, frames, size) if frames else None
    return None


def _xing(data: bytes, at: int, start: int, frame: _Frame) -> _Tag | None:
    flags, *numbers = (int.from_bytes(data[at + k : at + k + 4], "big") for k in (4, 8, 12))
    frames = numbers.pop(0) if flags & 1 else 0
    size = numbers.pop(0) if flags & 2 else 0
    return _Tag(start, frame, frames, size) if frames else None


def _parse(data: bytes, position: int) -> _Frame | None:
    """The frame whose header is at ``position``; None where there is none, or one of a free bit rate."""
    header = int.from_bytes(data[position : position + 4], "big")
    version, layer_bits, bit_rate, rate = header >> 19 & 3, header >> 17 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer_bits == 0 or not 0 < bit_rate < 15 or rate == 3:
        return None
    layer = 4 - layer_bits
    is_mpeg1 = version == 3
    hz = _HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbit = (_KBIT_1 if is_mpeg1 else _KBIT_2)[layer - 1]
    samples = 384 if layer == 1 else 576 if layer == 3 and not is_mpeg1 else 1152
    slot = 4 if layer == 1 else 1  # bytes that sizes are multiples of

    def size(rate: int, padding: int) -> int:
        return (samples // 8 * 1000 * rate // (hz * slot) + padding) * slot

    is_mono = header >> 6 & 3 == 3
    side = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    return _Frame(
        (version, layer, rate), size(kbit[bit_rate - 1], header >> 9 & 1), samples, size(kbit[0], 0), 4 + side
    )


def _next_frame(data: bytes, position: int) -> int:
    """Where the next frame begins, that another of its kind or the end of ``data`` follows; -1: nowhere near."""
    end = min(len(data), position + _NEAR)
    while (position := data.find(b"\xff", position, end)) >= 0:
        if frame := _parse(data, position):
            following = _parse(data, position + frame.size)
            if position + frame.size == len(data) or (following and following.kind == frame.kind):
                return position
        position += 1
    return -1


def _walk(raw: RawFile, skip_junk: bool) -> _Walked | None:
    """Count all frames, by their headers; None where there is something else among them, or the last is cut.

    With ``skip_junk`` what is no frame is passed over, as a decoder does, and a frame that is cut does not count.
    """
    begin = raw.audio_begin()
    data = raw.at(begin, raw.audio_end() - begin)
    position = max(0, _next_frame(data, 0))
    frames = samples = 0
    is_cut = False
    while 0 <= position < len(data):
        frame = _parse(data, position)
        if frame is not None and position + frame.size <= len(data):
            frames, samples, position = frames + 1, samples + frame.samples, position + frame.size
        elif not skip_junk:
            return None
        else:
            is_cut = frame is not None
            tag = id3_size(data[position : position + 10])
            position = _next_frame(data, position + max(tag, 1))
    return _Walked(frames, samples, is_cut) if frames else None
