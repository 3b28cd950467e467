"""Audio files: of many formats, damaged, joined, cut short, and with headers that lie."""

import io
import json
import struct
from collections.abc import Callable
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
        seed = _sound(rng, kind, subtype, rate, channels)
        frames = len(soundfile.read(io.BytesIO(seed), always_2d=True)[0])
        expected = {"frames": frames, "rate": rate}
        change = rng.choice((damage, damage, damage, whole, joined, cut_short, followed, opposite, unfinished, lying))
        data, said, expected_after = change(rng, seed, kind, subtype, expected)
        path = folder / f"{rng.choice(('a', 'b c', 'ä'))}.{suffix}"
        path.write_bytes(data)
        description = f"{kind} {subtype}, {rate} Hz, {channels} channels, {frames} frames: {said}"
        program, arguments = "read-audio", (str(path),)
        if rng.random() < 0.1:
            program, arguments = "lst-translate", translate_arguments(base.checkpoint, str(path))
        return Case(program, arguments, description, (path.name,), expected_after)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """All samples, in the right number, and not silent; or a warning that names the file."""
        result = json.loads(outcome.stdout.splitlines()[-1])
        if case.expected is None or case.named[0] in outcome.stderr:
            return None
        frames, rate = case.expected["frames"], case.expected["rate"]
        if case.program == "lst-translate":
            found, due = result["seconds"], frames / rate
            return None if abs(found - due) < 1e-3 else f"{found} s instead of {due} s, without a word"
        if result["frames"] != frames:
            return f"{result['frames']} frames instead of {frames}, without a word"
        if abs(result["samples"] - frames * 16_000 / rate) > 1:
            return f"{result['samples']} samples of {frames} frames at {rate} Hz"
        return "silent, without a word" if result["loudness"] < _SILENT else None


Expected = dict[str, int] | None
Change = Callable[[Random, bytes, str, str, dict[str, int]], tuple[bytes, str, Expected]]


def _sound(rng: Random, kind: str, subtype: str, rate: int, channels: int, opposite: bool = False) -> bytes:
    frames = rng.randrange(rate // 8, rate // 2)
    samples = 0.1 * np.random.default_rng(rng.randrange(1 << 30)).standard_normal((frames, channels))
    if opposite:
        samples = np.concatenate([samples[:, :1], -samples[:, :1]], axis=1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def damage(rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]) -> tuple[bytes, str, Expected]:
    """Bytes changed anywhere: what is right, nobody knows."""
    return *damaged(seed, rng), None


def whole(rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]) -> tuple[bytes, str, Expected]:
    """Nothing changed."""
    return seed, "as it is", expected


def joined(rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]) -> tuple[bytes, str, Expected]:
    """Two files one after the other, as ``cat`` joins them."""
    times = rng.choice((2, 3))
    return seed * times, f"{times} joined", {**expected, "frames": times * expected["frames"]}


def cut_short(
    rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]
) -> tuple[bytes, str, Expected]:
    """The end is missing, as after a full disk."""
    end = int(len(seed) * rng.uniform(0.3, 0.97))
    return seed[:end], f"cut short at {end} of {len(seed)} bytes", expected


def followed(
    rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]
) -> tuple[bytes, str, Expected]:
    """Something that is no audio behind it, as some programs leave it."""
    tag = b"TAG" + b"title".ljust(125, b"\0")
    more = rng.choice((tag, bytes(4096), b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + bytes(4)))
    return seed + more, f"{len(more)} bytes behind it", expected


def opposite(
    rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]
) -> tuple[bytes, str, Expected]:
    """Two channels in opposite phase, whose mean is silence."""
    data = _sound(rng, kind, subtype, expected["rate"], 2, opposite=True)
    frames = len(soundfile.read(io.BytesIO(data))[0])
    return data, "channels in opposite phase", {**expected, "frames": frames}


def unfinished(
    rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]
) -> tuple[bytes, str, Expected]:
    """The length in the header is that of a file being written: nothing, or a placeholder."""
    data = bytearray(seed)
    place = seed.find(b"data") + 4 if kind in ("WAV", "WAVEX") else 8 if kind == "AU" else -1
    if place < 4:
        return seed, "as it is", expected
    size = rng.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000))
    struct.pack_into(">I" if kind == "AU" else "<I", data, place, size)
    return bytes(data), f"{size:#x} bytes by its header", expected


def lying(rng: Random, seed: bytes, kind: str, subtype: str, expected: dict[str, int]) -> tuple[bytes, str, Expected]:
    """Absurd lengths and rates where each format keeps them."""
    data = bytearray(seed)
    if kind == "FLAC":
        total, rate = rng.choice((1, 2**20, 2**36 - 1)), rng.choice((1, 7, expected["rate"], 655_350))
        data[18:26] = ((rate << 44) | (15 << 36) | total).to_bytes(8, "big")
        return bytes(data), f"{total} samples at {rate} Hz by its header", None
    if kind == "MP3":
        place = max(seed.find(b"Xing"), seed.find(b"Info")) + 8
        number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1))
        data[place : place + 4] = number.to_bytes(4, "big")
        return bytes(data), f"{number} frames by its tag", None
    if kind in ("WAV", "WAVEX", "RF64"):
        place = seed.find(b"fmt ") + 12
        rate = rng.choice((0, 1, 2, 50, 2**31 - 1, 2**32 - 1, 3_000_000))
        struct.pack_into("<I", data, place, rate)
        return bytes(data), f"{rate} Hz by its header", None
    if kind == "NIST":
        old, new = rng.choice(
            ((b"sample_rate -i", b"sample_rate -i 1 ; "), (b"sample_count -i", b"sample_count -i 99999999999 ; "))
        )
        return seed.replace(old, new)[: len(seed)], f"{new.decode()} in its header", None
    number, place = rng.choice((0, 1, 2**31 - 1, 2**32 - 1)), rng.randrange(4, 60)
    struct.pack_into(">I", data, place, number)
    return bytes(data), f"{number} at {place}", None
