"""Containers of chunks, each with a name and a size: wav (RIFF, RF64), W64, AIFF, SVX and CAF."""

from dataclasses import dataclass
from typing import Literal

from soundfile import SoundFile

from lst_fairseq.data.audio_error import beyond_header, cut_short, joined
from lst_fairseq.data.containers.source import RawFile

# More chunks than this in front of the audio, and nobody knows what the file is.
_MAX_CHUNKS = 10_000
# Bytes behind the audio that are nothing but zeros, up to so many, fill a sector or a page: no sound is lost.
_MAX_FILLING = 1 << 16
# Chunks that a file may follow its audio with, cut short or not. Others have to be whole to be told from samples.
_KNOWN = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"iXML", b"_PMX", b"axml", b"JUNK", b"junk", b"PAD ", b"afsp")
# Names that begin another file, or more audio.
_AUDIO = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff", b"data", b"SSND", b"BODY", b"wavl")
_RAW_NAMES = {  # ffmpeg's names of samples without a header, less byte order
    "PCM_S8": "s8",
    "PCM_U8": "u8",
    "PCM_16": "s16",
    "PCM_24": "s24",
    "PCM_32": "s32",
    "FLOAT": "f32",
    "DOUBLE": "f64",
    "ULAW": "mulaw",
    "ALAW": "alaw",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a container writes its chunks."""

    first: int  # bytes in front of the first chunk
    order: Literal["little", "big"]
    id_bytes: int
    size_bytes: int
    counts_itself: bool  # whether a size includes name and size
    align: int  # chunks begin at multiples of so many bytes
    audio: bytes  # how the name of the audio's chunk begins
    preface: int  # bytes of that chunk in front of the samples

    @property
    def head_bytes(self) -> int:
        """Bytes of a chunk's name and size."""
        return self.id_bytes + self.size_bytes


_DIALECTS = {
    b"RIFF": Dialect(12, "little", 4, 4, False, 2, b"data", 0),
    b"RIFX": Dialect(12, "big", 4, 4, False, 2, b"data", 0),
    b"RF64": Dialect(12, "little", 4, 4, False, 2, b"data", 0),
    b"riff": Dialect(40, "little", 16, 8, True, 8, b"data", 0),
    b"FORM": Dialect(12, "big", 4, 4, False, 2, b"SSND", 8),
    b"caff": Dialect(8, "big", 4, 8, False, 1, b"data", 4),
}
_SVX = Dialect(12, "big", 4, 4, False, 2, b"BODY", 0)


@dataclass(frozen=True, slots=True)
class Chunk:
    name: bytes
    body: int  # where its content begins
    size: int  # of its content, as stated


def check(raw: RawFile, handle: SoundFile) -> int | None:
    """Hold the size that the header states of the audio against the file, and look at what follows it.

    Returns the bytes of audio, None where the header does not say. Raises AudioError. A size that a program writes when
    it cannot know (to a pipe, or before it crashed) says nothing: libsndfile then reads to the end of the file.
    """
    begin = raw.audio_begin()
    dialect = _SVX if handle.format == "SVX" else _DIALECTS.get(raw.at(begin, 4))
    chunk = _find_audio(raw, begin, dialect) if dialect else None
    if dialect is None or chunk is None:
        return None
    samples = chunk.body + dialect.preface
    stated = chunk.size - dialect.preface
    return check_size(raw, handle, samples, stated, dialect)


def check_size(
    raw: RawFile, handle: SoundFile, begin: int, stated: int, dialect: Dialect | None = None
) -> int | None:
    """Hold the stated bytes of audio against the file; only chunks of the ``dialect`` may follow them.

    Returns these bytes, None where the number is that of a file being written. Raises AudioError.
    """
    there = raw.size - begin
    if (stated <= 0 and handle.frames > 0) or (stated > there and _is_placeholder(stated)):
        return None
    if stated > there:
        raise cut_short(raw.path, f"the header promises {stated} bytes of audio and only {max(0, there)} are there")
    end = begin + max(0, stated)
    if name := _other_file(raw, end, dialect):
        raise joined(raw.path, name, end)
    if not _may_follow(raw, end, dialect):
        raise beyond_header(
            raw.path,
            f"{stated} bytes are stated and {there} are there",
            f"write the header again, for example: {_rewriting(handle, begin)}",
        )
    return max(0, stated)


def _find_audio(raw: RawFile, begin: int, dialect: Dialect) -> Chunk | None:
    """The chunk of the audio; None where there is none to be found."""
    position = begin + dialect.first
    long_size = -1
    for _ in range(_MAX_CHUNKS):
        chunk = _chunk(raw, position, dialect)
        if chunk is None:
            return None
        if chunk.name == b"ds64":  # RF64 keeps the size of the audio here
            long_size = int.from_bytes(raw.at(chunk.body + 8, 8), "little")
        if chunk.name.startswith(dialect.audio):
            if chunk.size == 0xFFFFFFFF and long_size >= 0:
                return Chunk(chunk.name, chunk.body, long_size)
            return chunk
        position = _aligned(chunk.body + chunk.size, begin, dialect)
    return None


def _chunk(raw: RawFile, position: int, dialect: Dialect) -> Chunk | None:
    """The chunk that begins at ``position``; None at the end of the file."""
    head = raw.at(position, dialect.head_bytes)
    if len(head) < dialect.head_bytes:
        return None
    # A size of -1, in CAF, is the largest there is.
    size = int.from_bytes(head[dialect.id_bytes :], dialect.order)
    if dialect.counts_itself:
        size = max(0, size - dialect.head_bytes)
    return Chunk(head[: dialect.id_bytes], position + dialect.head_bytes, size)


def _aligned(position: int, begin: int, dialect: Dialect) -> int:
    return position + (begin - position) % dialect.align


def _is_placeholder(stated: int) -> bool:
    """Whether a size is what programs write to a pipe: the largest that fits, less some bytes, or sox's 0x7F000000."""
    return any(low <= stated <= high for low, high in ((0x7EFF0000, 1 << 31), (0xFFFF0000, 1 << 32))) or (
        stated >= (1 << 62)
    )


def _other_file(raw: RawFile, end: int, dialect: Dialect | None) -> str:
    """The name of what begins another file, or a second stretch of audio, right behind the audio; often empty."""
    for position in _chunk_starts(end, dialect):
        name = raw.at(position, 4)
        if name in _AUDIO or name in (b".snd", b"NIST", b"fLaC", b"OggS"):
            return name.decode()
    return ""


def _chunk_starts(end: int, dialect: Dialect | None) -> list[int]:
    """Where a chunk may begin: some programs leave out the bytes that align it."""
    aligned = end if dialect is None else _aligned(end, 0, dialect)
    return [aligned] if aligned == end else [aligned, end]


def _may_follow(raw: RawFile, end: int, dialect: Dialect | None) -> bool:
    """Whether what follows the audio is none: chunks, tags, or less than a chunk."""
    rest = raw.size - end
    smallest = 8 if dialect is None else dialect.head_bytes
    starts = _chunk_starts(end, dialect)
    if rest < smallest or raw.audio_end() <= starts[0] or any(raw.at(start, 3) == b"ID3" for start in starts):
        return True
    if rest <= _MAX_FILLING and not any(raw.at(end, rest)):
        return True
    return dialect is not None and any(_is_chain(raw, start, dialect) for start in starts)


def _is_chain(raw: RawFile, start: int, dialect: Dialect) -> bool:
    """Whether from ``start`` to the end of the file there are chunks, none of them audio."""
    position = start
    for _ in range(_MAX_CHUNKS):
        chunk = _chunk(raw, position, dialect)
        if chunk is None:
            return True
        name = chunk.name[:4]
        is_name = name.isascii() and name.decode().isprintable()
        is_whole = chunk.body + chunk.size <= raw.size
        if name not in _KNOWN and (name in _AUDIO or not is_name or not is_whole):
            return False
        position = _aligned(chunk.body + chunk.size, start, dialect)
    return False


def _rewriting(handle: SoundFile, begin: int) -> str:
    """A command that reads to the end of the file."""
    if handle.format in ("WAV", "WAVEX"):
        return "ffmpeg -ignore_length 1 -i IN -c copy OUT.wav"
    name = _RAW_NAMES.get(handle.subtype)
    if name is None:
        return "sox --ignore-length IN OUT.wav"
    if name[0] in "sf" and handle.subtype != "PCM_S8":
        is_little = handle.endian == "LITTLE" or handle.format in ("RF64", "W64")
        name += "le" if is_little else "be"
    return (
        f"ffmpeg -f {name} -ar {handle.samplerate} -ac {handle.channels} -skip_initial_bytes {begin} -i IN OUT.wav"
    )
