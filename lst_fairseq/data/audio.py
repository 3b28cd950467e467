"""Audio segments: from a file (or a part of one) to a mono float32 waveform at 16 kHz.

Reads what libsndfile reads (wav, flac, ogg, mp3, ...), any sample rate and channel count. Lengths come from file
headers, so that a whole corpus is checked before training starts without decoding it.
"""

import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from os import path as osp
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lst_fairseq.data.audio_error import AudioError
from lst_fairseq.data.containers import HEADER_CHECKS, check_data, check_header

__all__ = [
    "HEADER_CHECKS",
    "SAMPLE_RATE",
    "AudioError",
    "AudioInfo",
    "Segment",
    "audio_info",
    "check_audio",
    "in_opposite_phase",
    "read_segment",
    "resampled_length",
    "segment_samples",
]

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000

_SPEC = re.compile(r"(?P<path>.*):(?P<offset>\d+):(?P<frames>\d+|-1)", re.DOTALL)
# A file name that goes on with a colon after its audio suffix is a broken segment, not a path with a colon in it.
_SUFFIX = r"\.(?:wav|flac|ogg|oga|opus|mp3|aiff?|au)"
_BROKEN_SPEC = re.compile(rf"{_SUFFIX}\s*:(?!.*{_SUFFIX}$)", re.IGNORECASE)
_BLOCK_SAMPLES = 1 << 20  # of all channels, read at a time
# Channels are not compared where a segment is shorter, or quieter (amplitude, full scale 1), than this.
_SHORTEST_SECONDS = 0.1
_SILENCE = 1e-4


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
    """Length, rate and channels of a file from its header and a few other places.

    An mp3 whose Xing, Info or VBRI tag is missing, as when it was written to a pipe, or disagrees with the file's
    size is walked through frame by frame instead.

    Raises AudioError for a file that is missing, empty, not audio, without samples, cut short, or that holds more
    audio than its header tells of; whose header does not tell its length (a flac that was written to a pipe, an mp3 of
    which libsndfile would not read all), or a length or rate that cannot be. :func:`check_audio` finds more.
    """
    with _open(path) as handle:
        return _info(path, handle)


def check_audio(path: str | Path) -> AudioInfo:
    """:func:`audio_info`, after a compressed file was read to its end as well. Little is decoded.

    Raises AudioError as audio_info does, and where several files were put together, pages or frames are missing, or
    the last samples cannot be decoded.
    """
    with _open(path) as handle:
        info = _info(path, handle)
        check_data(path, handle)
        if handle.format == "FLAC":  # its last frame may be cut behind the header
            deque(_blocks(Segment(str(path), info.frames - 1), handle, 1), maxlen=0)
        return info


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
    soxr's high quality. Of channels that would cancel each other (:func:`in_opposite_phase`) the loudest is taken
    alone, and a warning names the file, once.

    Raises AudioError as :func:`check_audio` and :func:`segment_samples` do, and for data that cannot be decoded, ends
    before the header says, or holds NaN or infinite samples.
    """
    path = segment.path
    with _open(path) as handle:
        info = _info(path, handle)
        check_data(path, handle)
        frames = _segment_frames(segment, info)
        waveform, channels = _averaged(segment, handle, frames)
        if _cancels(channels, frames, info.rate):
            _warn_of_phase(path, channels.loudest)
            blocks = _blocks(segment, handle, frames)
            waveform = np.concatenate([block[:, channels.loudest] for block in blocks])
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


def in_opposite_phase(segment: Segment) -> bool:
    """Whether the mean of a segment's channels would be next to silence, though the channels are not.

    So it is where a cable is wired wrongly, and one channel is the other inverted. Raises as :func:`read_segment`.
    """
    with _open(segment.path) as handle:
        info = _info(segment.path, handle)
        frames = _segment_frames(segment, info)
        return info.channels > 1 and _cancels(_averaged(segment, handle, frames)[1], frames, info.rate)


@dataclass(slots=True)
class _Channels:
    """Sums over a segment, to tell what averaging does to its channels."""

    total: np.ndarray  # of each channel's samples, [channels]
    squares: np.ndarray  # of their squares, [channels]
    mean_total: float = 0.0  # of the samples of the channels' mean
    mean_squares: float = 0.0  # of their squares

    @property
    def loudest(self) -> int:
        """The channel with most energy, of several the first."""
        return int(self.squares.argmax())


def _averaged(segment: Segment, handle: soundfile.SoundFile, frames: int) -> tuple[np.ndarray, _Channels]:
    """The mean of the channels, float32 [frames], and what there is to say about them."""
    sums = _Channels(np.zeros(handle.channels), np.zeros(handle.channels))
    parts = []
    for block in _blocks(segment, handle, frames):
        if handle.channels == 1:
            parts.append(block[:, 0])
            continue
        mean = block.mean(axis=1)
        parts.append(mean)
        sums.total += block.sum(axis=0, dtype=np.float64)
        sums.squares += np.einsum("tc,tc->c", block, block, dtype=np.float64)
        sums.mean_total += mean.sum(dtype=np.float64)
        sums.mean_squares += float(np.dot(mean, mean))
    return np.concatenate(parts), sums


def _cancels(channels: _Channels, frames: int, rate: int) -> bool:
    """Whether the mean holds less than a tenth of the energy that it would of channels with nothing in common.

    Those leave 1/N of the energy of N channels. A constant offset is no sound; what is too short or too quiet is left.
    """
    count = len(channels.squares)
    if count == 1 or frames < _SHORTEST_SECONDS * rate:
        return False
    with np.errstate(invalid="ignore", over="ignore"):  # of samples that are refused for it afterwards
        energy = float(np.mean(channels.squares / frames - (channels.total / frames) ** 2))
        mean_energy = channels.mean_squares / frames - (channels.mean_total / frames) ** 2
    return bool(energy > _SILENCE**2 and mean_energy < 0.1 * energy / count)


_warned: set[str] = set()


def _warn_of_phase(path: str, channel: int) -> None:
    if path not in _warned:
        _warned.add(path)
        logger.warning(
            f"{path}: its channels are in opposite phase and would cancel each other, so that channel {channel + 1} is "
            f"read alone; to be rid of this warning: ffmpeg -i IN -af 'pan=mono|c0=c{channel}' OUT.wav"
        )


def _blocks(segment: Segment, handle: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray]:
    """A segment's samples, float32 [t, channels], some at a time: memory is taken for what is there, not promised."""
    size = max(1, _BLOCK_SAMPLES // handle.channels)
    read = 0
    try:
        _seek(handle, segment.offset, size)
        while read < frames:
            block = handle.read(min(size, frames - read), dtype="float32", always_2d=True)
            if not len(block):
                break
            read += len(block)
            yield block
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"{segment}: the audio data cannot be decoded ({error}); the file is damaged or cut short, "
            "copy or convert it again",
            "broken data",
        ) from error
    if read != frames:
        raise AudioError(
            f"{segment}: the data ends after {read} of {frames} samples although the header promises them; "
            "the file is cut short, copy or convert it again",
            "truncated file",
        )


def _seek(handle: soundfile.SoundFile, offset: int, size: int) -> None:
    """Go to a sample, by reading up to it where libsndfile cannot do better (GSM 6.10, G.721, ...)."""
    if handle.seekable():
        handle.seek(offset)
        return
    while offset > 0:
        skipped = len(handle.read(min(size, offset), dtype="float32"))
        if not skipped:
            return
        offset -= skipped


def _open(path: str | Path) -> soundfile.SoundFile:
    if not osp.exists(path):
        raise AudioError(f"{path}: no such audio file; check the path and the audio root", "missing file")
    if osp.isdir(path):
        raise AudioError(f"{path}: is a directory, not an audio file; check the path", "not audio")
    if osp.getsize(path) == 0:
        raise AudioError(f"{path}: the audio file is empty (0 bytes); copy or convert it again", "empty file")
    try:
        return soundfile.SoundFile(os.fsencode(path))  # names that are no UTF-8, too
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats (.raw) need a given rate
        raise AudioError(
            f"{path}: not an audio file that libsndfile can read ({str(error).rpartition(': ')[2]}); "
            "convert it to wav, flac, ogg or mp3",
            "not audio",
        ) from error


def _info(path: str | Path, handle: soundfile.SoundFile) -> AudioInfo:
    return AudioInfo(check_header(path, handle), handle.samplerate, handle.channels)


def _segment_frames(segment: Segment, info: AudioInfo) -> int:
    """Number of samples of a segment at the file's own rate; AudioError where the file does not hold them."""
    end = info.frames if segment.frames == -1 else segment.offset + segment.frames
    if segment.offset < 0 or segment.frames < -1 or segment.offset >= info.frames or end > info.frames:
        raise AudioError(
            f"{segment}: the segment (samples {segment.offset} to {end}) lies beyond the file, which has {info.frames} "
            f"samples at {info.rate} Hz; offsets and lengths count samples at the file's own rate: correct them",
            "beyond the end",
        )
    if end == segment.offset:
        raise AudioError(f"{segment}: the segment is empty (0 samples); leave it out", "empty segment")
    return end - segment.offset
