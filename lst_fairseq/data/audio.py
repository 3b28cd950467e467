"""Audio segments: from a file (or a part of one) to a mono float32 waveform at 16 kHz.

Reads what libsndfile reads (wav, flac, ogg, mp3, ...), any sample rate and channel count. Lengths come from file
headers, so that a whole corpus is checked before training starts without decoding it.
"""

import re
from dataclasses import dataclass
from os import path as osp
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000

_SPEC = re.compile(r"(?P<path>.*):(?P<offset>\d+):(?P<frames>\d+|-1)", re.DOTALL)
# A file name that goes on with a colon after its audio suffix is a broken segment, not a path with a colon in it.
_SUFFIX = r"\.(?:wav|flac|ogg|oga|opus|mp3|aiff?|au)"
_BROKEN_SPEC = re.compile(rf"{_SUFFIX}\s*:(?!.*{_SUFFIX}$)", re.IGNORECASE)
# libsndfile shortens a wav that ends early without failing; only its log tells: "data : 60000 (should be 39985)".
_CUT_DATA = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.M)
# Sizes from here on are placeholders of programs that write wav to a pipe and do not know the length in advance.
_STREAMED_SIZE = 0x7FFF0000
_UNKNOWN_FRAMES = 1 << 48
# kbit/s by bit rate index from 1 on, of MPEG-2 and 2.5 and of MPEG-1, and Hz by rate index of MPEG-1.
_MP3_KBIT = (
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_MP3_HZ = (44_100, 48_000, 32_000)


class AudioError(ValueError):
    """A file or segment that cannot be used. The message names the file, what is wrong and the remedy.

    ``reason`` is a short name of the kind of failure ("missing file", "beyond the end", ...), for counting.
    """

    # One positional argument is enough to build it: DataLoader workers hand errors on as type(message).
    def __init__(self, message: str, reason: str = "bad audio"):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an audio file, in samples at the file's own rate."""

    path: str
    offset: int = 0  # first sample
    frames: int = -1  # number of samples; -1: to the end of the file

    @classmethod
    def parse(cls, spec: str, root: str | Path = "") -> "Segment":
        """Read ``a.wav`` or ``a.wav:OFFSET:FRAMES`` (FRAMES may be -1); a relative path is joined to ``root``.

        Colons in the path are fine. Raises AudioError where the spec is empty or its numbers are malformed.
        """
        match = _SPEC.fullmatch(spec)
        path, offset, frames = (match[1], int(match[2]), int(match[3])) if match else (spec, 0, -1)
        if not path.strip() or (":" in path and _BROKEN_SPEC.search(osp.basename(path))):
            raise AudioError(
                f"{spec!r}: malformed audio segment; write PATH or PATH:OFFSET:FRAMES, both numbers in samples "
                "of the file's own rate, for example talk.wav:16000:48000",
                "malformed segment",
            )
        return cls(osp.join(root, path) if root else path, offset, frames)

    def __str__(self) -> str:
        # A path that ends like a segment's numbers needs some after it.
        if self.offset == 0 and self.frames == -1 and not _SPEC.fullmatch(self.path):
            return self.path
        return f"{self.path}:{self.offset}:{self.frames}"


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file's header says."""

    frames: int  # samples per channel, at `rate`
    rate: int  # Hz
    channels: int


def audio_info(path: str | Path) -> AudioInfo:
    """Length, rate and channels of a file from its header alone.

    An mp3 without a Xing, Info or VBRI tag, as it is written to a pipe, is walked through frame by frame instead.

    Raises AudioError for a file that is missing, empty, not audio, cut short (wav), without samples, or whose header
    does not tell its length (a flac that was written to a pipe, an mp3 of which libsndfile would not read all).
    """
    with _open(path) as handle:
        return _checked_info(path, handle)


def resampled_length(frames: int, rate_in: int, rate_out: int = SAMPLE_RATE) -> int:
    """Length after resampling: frames * rate_out / rate_in rounded half up, and at least 1."""
    return max(1, (2 * frames * rate_out + rate_in) // (2 * rate_in))


def segment_samples(segment: Segment, info: AudioInfo, rate: int = SAMPLE_RATE) -> int:
    """Number of samples that :func:`read_segment` returns at ``rate`` for a segment of a file with this header.

    Raises AudioError when the segment is empty or lies (partly) beyond the end of the file.
    """
    return resampled_length(_segment_frames(segment, info), info.rate, rate)


def read_segment(segment: Segment, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read a segment: float32 ``[T]`` at ``rate``, T as :func:`segment_samples` says, channels averaged.

    Only the segment is decoded. The samples are as libsndfile gives them (integers scaled to [-1, 1)); resampling is
    soxr's high quality. Raises AudioError as :func:`audio_info` and :func:`segment_samples` do, and for data that
    cannot be decoded, ends before the header says, or holds NaN or infinite samples.
    """
    path = segment.path
    with _open(path) as handle:
        info = _checked_info(path, handle)
        frames = _segment_frames(segment, info)
        try:
            handle.seek(segment.offset)
            samples = handle.read(frames, dtype="float32", always_2d=True)  # [frames, channels]
        except soundfile.SoundFileError as error:
            raise AudioError(
                f"{segment}: the audio data cannot be decoded ({error}); the file is damaged or cut short, "
                "copy or convert it again",
                "broken data",
            ) from error
    if len(samples) != frames:
        raise AudioError(
            f"{segment}: the data ends after {len(samples)} of {frames} samples although the header promises them; "
            "the file is cut short, copy or convert it again",
            "truncated file",
        )
    waveform = samples[:, 0] if info.channels == 1 else samples.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise AudioError(
            f"{segment}: holds NaN or infinite samples; convert it again from its source or leave it out",
            "NaN or infinite samples",
        )
    if info.rate != rate:
        waveform = soxr.resample(waveform, info.rate, rate, quality="HQ")
        # soxr rounds as resampled_length does but promises no exact length.
        length = resampled_length(frames, info.rate, rate)
        waveform = np.pad(waveform[:length], (0, max(0, length - len(waveform))))
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _open(path: str | Path) -> soundfile.SoundFile:
    if not osp.exists(path):
        raise AudioError(f"{path}: no such audio file; check the path and the audio root", "missing file")
    if osp.isdir(path):
        raise AudioError(f"{path}: is a directory, not an audio file; check the path", "not audio")
    if osp.getsize(path) == 0:
        raise AudioError(f"{path}: the audio file is empty (0 bytes); copy or convert it again", "empty file")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats (.raw) need a given rate
        raise AudioError(
            f"{path}: not an audio file that libsndfile can read ({str(error).rpartition(': ')[2]}); "
            "convert it to wav, flac, ogg or mp3",
            "not audio",
        ) from error


def _checked_info(path: str | Path, handle: soundfile.SoundFile) -> AudioInfo:
    if cut := _CUT_DATA.search(handle.extra_info):
        promised, found = int(cut[1]), int(cut[2])
        if found < promised < _STREAMED_SIZE:
            raise AudioError(
                f"{path}: cut short, the header promises {promised} bytes of audio and only {found} are there; "
                "copy or convert it again",
                "truncated file",
            )
    if handle.frames <= 0:
        raise AudioError(f"{path}: holds no samples; copy or convert it again, or leave it out", "no samples")
    frames = handle.frames
    if handle.format == "MP3" and not _mp3_length_known(path):
        # libsndfile's guess is where it stops reading: what it guesses too long does no harm.
        counted = _mp3_samples(path)
        frames = counted if 0 < counted <= handle.frames else _UNKNOWN_FRAMES
    if frames >= _UNKNOWN_FRAMES:
        raise AudioError(
            f"{path}: its header does not tell its length, so that it could only be guessed; write the header again "
            f"without touching the audio, for example: ffmpeg -i IN -c copy OUT.{handle.format.lower()}",
            "unknown length",
        )
    return AudioInfo(frames, handle.samplerate, handle.channels)


def _mp3_length_known(path: str | Path) -> bool:
    """Whether the first frame is a Xing, Info or VBRI tag.

    Without one libsndfile guesses the length from the first frame's bit rate, and silently stops reading there: of a
    variable bit rate file more than half may be lost.
    """
    with open(path, "rb") as file:
        head = file.read(10)
        file.seek(_mp3_begin(head))
        first_frame = file.read(4096)
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _mp3_begin(head: bytes) -> int:
    """Where the first frame begins: behind the ID3v2 tag, which may hold pictures; its size has 7 bits a byte."""
    if head[:3] != b"ID3":
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def _mp3_samples(path: str | Path) -> int:
    """Samples per channel by all frames' headers (ISO 11172-3, 13818-3, layer III); 0 where they do not add up."""
    data = Path(path).read_bytes()
    position, end = _mp3_begin(data[:10]), len(data)
    if data[-128:-125] == b"TAG":  # ID3v1
        end -= 128
    samples = 0
    while position < end:
        header = int.from_bytes(data[position : position + 4], "big")
        version, layer, bit_rate, rate = header >> 19 & 3, header >> 17 & 3, header >> 12 & 15, header >> 10 & 3
        if header >> 21 != 0x7FF or version == 1 or layer != 1 or not 0 < bit_rate < 15 or rate == 3:
            return 0
        is_mpeg1 = version == 3
        kbit = _MP3_KBIT[is_mpeg1][bit_rate - 1]
        hz = _MP3_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG-2 halves the rates, and 2.5 halves them again
        position += (144 if is_mpeg1 else 72) * 1000 * kbit // hz + (header >> 9 & 1)
        samples += 1152 if is_mpeg1 else 576
    return samples if position == end else 0


def _segment_frames(segment: Segment, info: AudioInfo) -> int:
    """Number of samples of a segment at the file's own rate; AudioError where the file does not hold them."""
    end = info.frames if segment.frames == -1 else segment.offset + segment.frames
    if segment.offset < 0 or segment.frames < -1 or segment.offset >= info.frames or end > info.frames:
        raise AudioError(
            f"{segment}: the segment (samples {segment.offset} to {end}) lies beyond the file, which has {info.frames} "
            f"samples at {info.rate} Hz; offsets and lengths count samples at the file's own rate",
            "beyond the end",
        )
    if end == segment.offset:
        raise AudioError(f"{segment}: the segment is empty (0 samples); leave it out", "empty segment")
    return end - segment.offset
