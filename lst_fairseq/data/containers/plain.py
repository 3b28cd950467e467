"""Containers with one header in front of the samples: AU, NIST sphere, and the rare ones by libsndfile's log."""

import re

from soundfile import SoundFile

from lst_fairseq.data.audio_error import cut_short, joined
from lst_fairseq.data.containers.chunks import check_size
from lst_fairseq.data.containers.source import RawFile

_NIST_FIELD = re.compile(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d+)", re.M)
# What libsndfile notes of these formats where they end early, and reads nevertheless.
_LOGGED = ("AVR", "MPC2K", "MAT4", "MAT5", "WVE", "VOC")
_LOGGED_CUT = re.compile(r"seems to be (?:a )?truncated", re.I)
_LOGGED_FRAMES = re.compile(r"^ *(?:Frames +:|Rows : \d+ +Cols :|Data length) (\d+)", re.M)


def check_au(raw: RawFile, handle: SoundFile) -> int | None:
    """Hold the size of the audio that an AU header states against the file. Raises AudioError.

    Returns the bytes of audio, None where the header does not say.
    """
    begin = raw.audio_begin()
    head = raw.at(begin, 12)
    order = "big" if head[:4] == b".snd" else "little"
    offset, stated = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    return check_size(raw, handle, begin + offset, stated)


def check_nist(raw: RawFile, handle: SoundFile) -> int | None:
    """Hold the samples that a NIST sphere header states against the file. Raises AudioError.

    libsndfile reads to the end of the file whatever the header says, a tag behind the audio included. Returns the
    bytes of audio where something follows them.
    """
    head = raw.at(0, 1024)
    fields = {name: int(value) for name, value in _NIST_FIELD.findall(head)}
    begin = head[8:16].strip()
    if not begin.isdigit() or b"sample_count" not in fields:
        return None
    width = fields.get(b"sample_n_bytes", 1)
    # Some count the samples of all channels.
    counts = {fields[b"sample_count"] * width * channels for channels in (1, fields.get(b"channel_count", 1))}
    stated, there = max(counts), raw.size - int(begin)
    if raw.at(int(begin) + stated, 7) == head[:7]:
        raise joined(raw.path, "NIST", int(begin) + stated)
    if there < stated and there not in counts:
        raise cut_short(raw.path, f"the header promises {stated} bytes of audio and only {max(0, there)} are there")
    return check_size(raw, handle, int(begin), stated) if there > stated else None


def check_log(raw: RawFile, handle: SoundFile) -> None:
    """What libsndfile itself noted of a container that is rare. Raises AudioError."""
    if handle.format not in _LOGGED:
        return
    log = handle.extra_info
    stated = [int(number) for number in _LOGGED_FRAMES.findall(log)]
    if stated and stated[-1] > handle.frames:
        raise cut_short(raw.path, f"the header promises {stated[-1]} samples and only {handle.frames} are there")
    if _LOGGED_CUT.search(log):
        raise cut_short(raw.path, f"libsndfile finds only {handle.frames} samples")
