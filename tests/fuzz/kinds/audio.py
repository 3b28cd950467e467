"""Audio files: of many formats, damaged, joined, cut short, and with headers that lie."""

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.mutators import damaged
from tests.fuzz.programs import translate_arguments

#: Suffix, and libsndfile's format and subtype.
FORMATS = (
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "ULAW"),
    ("wav", "WAVEX", "PCM_24"),
    ("wav", "RF64", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("sph", "NIST", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
)
RATES = (8_000, 16_000, 24_000, 48_000)
_SILENT = 1e-3


class Audio:
    """Read by the package's reader, and now and then translated."""

    name = "audio"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        suffix, kind, subtype = rng.choice(FORMATS)
        rate, channels = rng.choice(RATES), rng.choice((1, 1, 2))
        seed = Seed(_sound(rng, kind, subtype, rate, channels), kind, subtype, rate)
        change = rng.choice(_CHANGES)
        data, said, expected = change(rng, seed)
        path = folder / f"{rng.choice(('a', 'b c', 'ä'))}.{suffix}"
        path.write_bytes(data)
        description = (
            f"{kind} {subtype}, {rate} Hz, {channels} channels, {seed.frames} frames: {said}"
        )
        program, arguments = "read-audio", (str(path),)
        if rng.random() < 0.1:
            program, arguments = "lst-translate", translate_arguments(base.checkpoint, str(path))
        return Case(program, arguments, description, (path.name,), expected)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """All samples, in the right number, and not silent; or a warning that names the file."""
        result = json.loads(outcome.stdout.splitlines()[-1])
        if case.expected is None or case.named[0] in outcome.stderr:
            return None
        frames, rate = case.expected["frames"], case.expected["rate"]
        if case.program == "lst-translate":
            found, due = result["seconds"], frames / rate
            return (
                None if abs(found - due) < 1e-3 else f"{found} s instead of {due} s, without a word"
            )
        if result["frames"] != frames:
            return f"{result['frames']} frames instead of {frames}, without a word"
        if abs(result["samples"] - frames * 16_000 / rate) > 1:
            return f"{result['samples']} samples of {frames} frames at {rate} Hz"
        return "silent, without a word" if result["loudness"] < _SILENT else None


@dataclass(frozen=True)
class Seed:
    """A sound file."""

    data: bytes
    kind: str  # libsndfile's format
    subtype: str
    rate: int

    @property
    def frames(self) -> int:
        """Samples per channel, all of the file read."""
        return len(soundfile.read(io.BytesIO(self.data), always_2d=True)[0])

    @property
    def expected(self) -> dict[str, int]:
        """What a reader has to find."""
        return {"frames": self.frames, "rate": self.rate}


#: Content, what was done, and what a reader has to find now, if anybody knows.
Changed = tuple[bytes, str, dict[str, int] | None]


def _sound(
    rng: Random, kind: str, subtype: str, rate: int, channels: int, opposite: bool = False
) -> bytes:
    frames = rng.randrange(rate // 8, rate // 2)
    samples = 0.1 * np.random.default_rng(rng.randrange(1 << 30)).standard_normal(
        (frames, channels)
    )
    if opposite:
        samples = np.concatenate([samples[:, :1], -samples[:, :1]], axis=1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def damage(rng: Random, seed: Seed) -> Changed:
    """Bytes changed anywhere: what is right, nobody knows."""
    return *damaged(seed.data, rng), None


def whole(rng: Random, seed: Seed) -> Changed:
    """Nothing changed."""
    return seed.data, "as it is", seed.expected


def joined(rng: Random, seed: Seed) -> Changed:
    """Two files one after the other, as ``cat`` joins them."""
    times = rng.choice((2, 3))
    return seed.data * times, f"{times} joined", {**seed.expected, "frames": times * seed.frames}


def cut_short(rng: Random, seed: Seed) -> Changed:
    """The end is missing, as after a full disk."""
    end = int(len(seed.data) * rng.uniform(0.3, 0.97))
    return seed.data[:end], f"cut short at {end} of {len(seed.data)} bytes", seed.expected


def followed(rng: Random, seed: Seed) -> Changed:
    """Something that is no audio behind it, as some programs leave it."""
    tag = b"TAG" + b"title".ljust(125, b"\0")
    more = rng.choice((tag, bytes(4096), b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + bytes(4)))
    return seed.data + more, f"{len(more)} bytes behind it", seed.expected


def opposite(rng: Random, seed: Seed) -> Changed:
    """Two channels in opposite phase, whose mean is silence."""
    other = replace(seed, data=_sound(rng, seed.kind, seed.subtype, seed.rate, 2, opposite=True))
    return other.data, "channels in opposite phase", other.expected


def unfinished(rng: Random, seed: Seed) -> Changed:
    """The length in the header is that of a file being written: nothing, or a placeholder."""
    data, kind = bytearray(seed.data), seed.kind
    place = data.find(b"data") + 4 if kind in ("WAV", "WAVEX") else 8 if kind == "AU" else -1
    if place < 4:
        return seed.data, "as it is", seed.expected
    size = rng.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000))
    struct.pack_into(">I" if kind == "AU" else "<I", data, place, size)
    return bytes(data), f"{size:#x} bytes by its header", seed.expected


def lying(rng: Random, seed: Seed) -> Changed:
    """Absurd lengths and rates where each format keeps them."""
    data, kind = bytearray(seed.data), seed.kind
    if kind == "FLAC":
        total, rate = rng.choice((1, 2**20, 2**36 - 1)), rng.choice((1, 7, seed.rate, 655_350))
        data[18:26] = ((rate << 44) | (15 << 36) | total).to_bytes(8, "big")
        return bytes(data), f"{total} samples at {rate} Hz by its header", None
    if kind == "MP3":
        place = max(data.find(b"Xing"), data.find(b"Info")) + 8
        number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1))
        data[place : place + 4] = number.to_bytes(4, "big")
        return bytes(data), f"{number} frames by its tag", None
    if kind in ("WAV", "WAVEX", "RF64"):
        place = data.find(b"fmt ") + 12
        rate = rng.choice((0, 1, 2, 50, 2**31 - 1, 2**32 - 1, 3_000_000))
        struct.pack_into("<I", data, place, rate)
        return bytes(data), f"{rate} Hz by its header", None
    if kind == "NIST":
        name, value = rng.choice(((b"sample_rate", b"1"), (b"sample_count", b"99999999999")))
        new = name + b" -i " + value + b"\n; "
        return seed.data.replace(name + b" -i ", new)[: len(data)], new.decode(), None
    number, place = rng.choice((0, 1, 2**31 - 1, 2**32 - 1)), rng.randrange(4, 60)
    struct.pack_into(">I", data, place, number)
    return bytes(data), f"{number} at {place}", None


_CHANGES: tuple[Callable[[Random, Seed], Changed], ...] = (
    *(damage, damage, damage, whole, joined, cut_short, followed, opposite, unfinished, lying),
)
