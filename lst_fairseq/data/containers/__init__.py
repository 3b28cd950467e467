"""Whether a file holds the audio that its header tells of: no less, and no more.

libsndfile reads what the first header promises or what it finds, whichever is shorter, and says neither. So each
container is looked at here: :func:`check_header` reads a few places of a file, cheap enough for a corpus of millions;
:func:`check_data` reads all of it without decoding.
"""

import os
from collections.abc import Callable
from functools import lru_cache

from soundfile import SoundFile

from lst_fairseq.data.audio_error import AudioError
from lst_fairseq.data.containers import chunks, flac, mp3, ogg, plain
from lst_fairseq.data.containers.source import RawFile

#: Changes whenever a file that was fine may be refused or get another length: stored headers are read again then.
HEADER_CHECKS = 3
# Of speech. Below 4 kHz nothing is left that could be understood, and resampling to 16 kHz would multiply the samples
# without end; above 768 kHz nothing records.
MIN_RATE, MAX_RATE = 4_000, 768_000
_UNKNOWN_FRAMES = 1 << 48
#: Files that were read to their end and found whole are not read again while they stay as they are.
_REMEMBERED = 1 << 14

# Each returns the bytes of audio that the header states, if it says so and they are told apart from others.
_HEADER_CHECKS: dict[str, Callable[[RawFile, SoundFile], int | None]] = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "CAF"), chunks.check),
    "AU": plain.check_au,
    "NIST": plain.check_nist,
    "FLAC": flac.check_header,
    "OGG": ogg.check_header,
    "MP3": mp3.check_header,
}
_DATA_CHECKS: dict[str, Callable[[RawFile], None]] = {
    "FLAC": flac.check_data,
    "OGG": ogg.check_data,
    "MP3": mp3.check_data,
}

# Bytes of a sample, exactly.
_BYTES = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW"), 1),
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}
# Samples of all channels that a byte can stand for at most: adaptive PCM and GSM 6.10 take 1.6 bits or more a sample,
# delta coding with a variable word length at least 1.
_MAX_PER_BYTE = 8.0
# Samples of a channel that a byte can stand for at most, where silence may take next to nothing. FLAC: a block of
# 65,535 equal samples in 11 bytes. Opus: a packet of 120 ms at 48 kHz, in a byte and its place in the page's table; one
# of Vorbis holds 4,096 samples at most. MPEG: 1,152 samples in a frame of 24 bytes.
_MAX_PER_CHANNEL = {"FLAC": 65_535 / 11, "OGG": 2_880.0, "MP3": 48.0}
_MAX_ALAC = 4_096.0  # a packet in a byte


def check_header(path: str | os.PathLike[str], handle: SoundFile) -> int:
    """Number of samples per channel, after what a few places of the file tell about it.

    Raises:
        AudioError: the length is unknown, or more than a file of its size can hold; the file is cut short, or holds
            audio behind what would be read; the rate is none of speech.
    """
    if not MIN_RATE <= handle.samplerate <= MAX_RATE:
        raise AudioError(
            f"{path}: its header says {handle.samplerate} Hz, and speech has {MIN_RATE:,} to {MAX_RATE:,} Hz; "
            "the header is damaged: copy or convert it again",
            "impossible rate",
        )
    with RawFile.open(path) as raw:
        frames = handle.frames
        if handle.format == "MP3":
            frames = mp3.known_frames(raw, handle)
        elif handle.subtype.startswith("MPEG"):  # inside of a wav, where libsndfile only guesses
            frames = _UNKNOWN_FRAMES
        if frames >= _UNKNOWN_FRAMES:
            raise AudioError(
                f"{path}: its header does not tell its length, so that it could only be guessed; "
                f"{_length_remedy(handle)}",
                "unknown length",
            )
        _check_length(raw, handle, frames)
        stated = _HEADER_CHECKS.get(handle.format, plain.check_log)(raw, handle)
        if stated is not None and handle.subtype in _BYTES:  # what libsndfile reads may go on behind
            frames = min(frames, stated // (_BYTES[handle.subtype] * handle.channels))
    if frames <= 0:
        raise AudioError(f"{path}: holds no samples; copy or convert it again, or leave it out", "no samples")
    return frames


def check_data(path: str | os.PathLike[str], handle: SoundFile) -> None:
    """Read a compressed file to its end, without decoding, for what :func:`check_header` cannot see.

    That is several files in one, and pages or frames that are missing or broken. A file that was found whole is not
    read again in this process while it keeps its size and time of change. Raises AudioError.
    """
    if handle.format in _DATA_CHECKS:
        state = os.stat(path)
        _check_data(os.fspath(path), state.st_size, state.st_mtime_ns, handle.format)


@lru_cache(maxsize=_REMEMBERED)
def _check_data(path: str, size: int, changed_ns: int, container: str) -> None:
    """Size and time of change only tell whether it is the file that was checked."""
    with RawFile.open(path) as raw:
        _DATA_CHECKS[container](raw)


def _length_remedy(handle: SoundFile) -> str:
    if handle.format in ("MP3", "FLAC"):
        again = f"ffmpeg -i IN -c copy OUT.{handle.format.lower()}"
        return f"write the header again without touching the audio, for example: {again}"
    return "convert it, for example: ffmpeg -i IN OUT.flac"


def _check_length(raw: RawFile, handle: SoundFile, frames: int) -> None:
    """Hold the length against the size of the file, before anything relies on it."""
    if handle.format in _MAX_PER_CHANNEL:
        most = raw.size * _MAX_PER_CHANNEL[handle.format]
    elif handle.subtype in _BYTES:
        most = raw.size / (_BYTES[handle.subtype] * handle.channels)
    else:
        is_alac = handle.subtype.startswith("ALAC")
        most = raw.size * (_MAX_ALAC if is_alac else _MAX_PER_BYTE / handle.channels)
    if frames > most:
        raise AudioError(
            f"{raw.path}: its header promises {frames} samples, more than a file of {raw.size} bytes can hold; "
            "it is damaged or cut short, copy or convert it again",
            "impossible length",
        )
