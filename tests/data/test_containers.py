"""Whether files hold what their headers tell: no sound file is refused, and nothing is lost without a word."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lst_fairseq.data.audio import AudioError, Segment, audio_info, check_audio, read_segment

RATE = 16_000
FRAMES = 24_000
FORMATS = [
    (container, codec)
    for container in sorted(soundfile.available_formats())
    for codec in soundfile.available_subtypes(container)
    if container not in ("RAW", "SD2")  # without a header; with one in a file of its own
]
STATED = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"]


def samples(frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(frames)
    return 0.3 * np.sin(2 * np.pi * 300 * np.arange(frames) / RATE) + 0.02 * noise


def write(path: Path, container: str, codec: str | None = None, frames: int = FRAMES) -> bytes:
    rate = 8_000 if container == "WVE" else RATE
    soundfile.write(path, samples(frames), rate, format=container, subtype=codec)
    return path.read_bytes()


def readings(path: Path) -> list[int | AudioError]:
    """What audio_info, check_audio and read_segment say of the length of a file."""

    def length(read) -> int | AudioError:
        try:
            return read()
        except AudioError as error:
            assert str(path) in str(error)
            return error

    info = length(lambda: audio_info(path).rate)
    rate = info if isinstance(info, int) else RATE
    return [
        length(lambda: audio_info(path).frames),
        length(lambda: check_audio(path).frames),
        length(lambda: len(read_segment(Segment(str(path)), rate))),
    ]


def reasons(path: Path) -> list[str]:
    return [reading.reason if isinstance(reading, AudioError) else "" for reading in readings(path)]


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_no_sound_file_is_refused(tmp_path, container, codec):
    path = tmp_path / "a"
    try:
        write(path, container, codec)
        whole = soundfile.read(path, dtype="float32")[0]
    except soundfile.SoundFileError:
        pytest.skip("libsndfile itself cannot write it, or cannot read what it wrote")
    assert readings(path) == [len(whole)] * 3
    part = read_segment(Segment(str(path), 1001, 500), audio_info(path).rate)
    np.testing.assert_allclose(part, whole[1001:1501], rtol=0, atol=1e-6)


def stale(path: Path, container: str) -> None:
    """A file whose stated bytes of audio are 2,000 fewer than there are."""
    data = bytearray(write(path, container, "PCM_16"))
    size = 2 * FRAMES
    layouts = ("<I", size), (">I", size), (">I", size + 8), ("<Q", size), ("<Q", size + 24), (">Q", size + 4)
    for layout, number in layouts:
        pattern, fewer = struct.pack(layout, number), struct.pack(layout, number - 2_000)
        at = data[:5000].find(pattern)
        while at >= 0:
            data[at : at + len(pattern)] = fewer
            at = data[:5000].find(pattern)
    path.write_bytes(data)


@pytest.mark.parametrize("channels", [1, 2])
def test_what_follows_the_audio_of_a_nist_sphere(tmp_path, channels):
    path = tmp_path / "a.sph"
    soundfile.write(path, np.full((FRAMES, channels), 0.25), 16_000, format="NIST", subtype="PCM_16")
    data = path.read_bytes()
    for after in (b"TAG" + b"x" * 125, bytes(4096)):
        path.write_bytes(data + after)
        assert readings(path) == [FRAMES] * 3
    path.write_bytes(data + b"\1\2" * 2_000)
    assert reasons(path) == ["audio beyond the header"] * 3


@pytest.mark.parametrize("container", [*STATED, "NIST"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_few_bytes_behind_the_audio_are_none_of_it(tmp_path, container, channels):
    path = tmp_path / "a"
    soundfile.write(path, np.full((FRAMES, channels), 0.25), 16_000, format=container, subtype="PCM_16")
    data = path.read_bytes()
    for after in (b"xyz1", b"LIST\x0c\0\0\0INFOISFT\0\0\0\0"):
        path.write_bytes(data + after)
        found = readings(path)
        assert found == [FRAMES] * 3 or reasons(path) == ["audio beyond the header"] * 3, found


@pytest.mark.parametrize("container", STATED)
def test_a_header_that_was_not_brought_up_to_date(tmp_path, container):
    path = tmp_path / "a"
    stale(path, container)
    assert reasons(path) == ["audio beyond the header"] * 3


@pytest.mark.parametrize("container", [*STATED, "NIST"])
def test_joined_files(tmp_path, container):
    path = tmp_path / "a"
    path.write_bytes(2 * write(path, container, "PCM_16"))
    if container in ("WAV", "WAVEX", "AIFF"):  # two stretches of audio are too much for libsndfile itself
        assert reasons(path) == ["not audio"] * 3
    else:
        assert reasons(path) == ["audio beyond the header"] * 3
        assert "begins at byte" in str(readings(path)[0])


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


AFTER = {
    "LIST": chunk(b"LIST", b"INFOISFT" + bytes(20)),
    "several": chunk(b"cue ", bytes(28)) + chunk(b"bext", bytes(602)) + chunk(b"id3 ", b"ID3" + bytes(31)),
    "cut": chunk(b"LIST", b"INFOISFT" + bytes(20))[:-7],
    "of a program's own": chunk(b"afsp", b"AFspdate: today"),
    "ID3v1": b"TAG" + b"x" * 125,
    "ID3v2": b"ID3\x04\x00\x00\x00\x00\x00\x0a" + b"x" * 10,
    "filling": bytes(1234),
    "a byte": b"x",
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("frames", [FRAMES, FRAMES + 1])
def test_what_may_follow_the_audio_of_a_wav(tmp_path, after, frames):
    path = tmp_path / "a.wav"
    data = write(path, "WAV", "PCM_U8", frames)
    # An odd chunk is followed by a byte more, which not every program writes.
    for padding in (b"", b"\0") if frames % 2 else (b"",):
        path.write_bytes(data[: 44 + frames] + padding + AFTER[after])
        assert readings(path) == [frames] * 3


def test_chunks_in_front_of_the_audio(tmp_path):
    path = tmp_path / "a.wav"
    data = write(path, "WAV", "PCM_16")
    path.write_bytes(data[:36] + chunk(b"LIST", b"INFO" + bytes(70_001)) + chunk(b"fact", bytes(4)) + data[36:])
    assert readings(path) == [FRAMES] * 3


def test_a_second_chunk_of_audio(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(write(path, "WAV", "PCM_16") + chunk(b"data", bytes(100)))
    assert all(reasons(path))


PIPED = {
    "wav": ("WAV", "<I", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000]),
    "aiff": ("AIFF", ">I", [0xFFFFFFFF, 0x7F000008, 0]),
    "au": ("AU", ">I", [0xFFFFFFFF]),
    "w64": ("W64", "<Q", [0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF]),
}


@pytest.mark.parametrize("suffix", PIPED)
def test_sizes_that_a_pipe_does_not_let_a_program_write(tmp_path, suffix):
    container, layout, placeholders = PIPED[suffix]
    path = tmp_path / "a"
    data = write(path, container, "PCM_16")
    stated = 2 * FRAMES + {"aiff": 8, "w64": 24}.get(suffix, 0)
    at = data.index(struct.pack(layout, stated))
    for size in placeholders:
        path.write_bytes(data[:at] + struct.pack(layout, size) + data[at + struct.calcsize(layout) :])
        assert readings(path) == [FRAMES] * 3, hex(size)


def test_a_flac_cut_anywhere(tmp_path):
    path = tmp_path / "a.flac"
    data = write(path, "FLAC", "PCM_16")
    rng = np.random.default_rng(0)
    for cut in [1, 2, 5, *rng.integers(1, len(data) - 60, 20)]:
        path.write_bytes(data[:-cut])
        info, check, read = reasons(path)
        assert check and read, cut
        if cut > 7000:  # more than the last frame
            assert info in ("truncated file", "impossible length"), cut


def test_frames_missing_from_a_flac(tmp_path):
    path = tmp_path / "a.flac"
    data = write(path, "FLAC", "PCM_16")
    path.write_bytes(data[:10_000] + data[18_000:])
    assert reasons(path) == ["", "broken data", "broken data"]
    path.write_bytes(data + data[len(data) // 2 :])  # without a marker in between
    assert all(reasons(path)[1:])


def test_tags_around_a_flac(tmp_path):
    path = tmp_path / "a.flac"
    data = write(path, "FLAC", "PCM_16")
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + data + b"TAG" + b"x" * 125)
    assert readings(path) == [FRAMES] * 3


def test_a_long_silence_in_a_flac_is_no_lie(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(60 * RATE), RATE)
    assert path.stat().st_size < 4_000
    assert readings(path) == [60 * RATE] * 3


def pages(data: bytes) -> list[bytes]:
    return [b"OggS" + page for page in data.split(b"OggS")[1:]]


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_pages_of_ogg(tmp_path, codec):
    path = tmp_path / "a.ogg"
    whole = pages(write(path, "OGG", codec, 6 * FRAMES))
    count = len(whole)
    assert count > 6
    path.write_bytes(b"".join(whole[:-1]))
    assert reasons(path) == ["truncated file"] * 3
    path.write_bytes(b"".join(whole)[:-1])
    assert reasons(path) == ["truncated file"] * 3
    path.write_bytes(b"".join(whole[: count // 2] + whole[count // 2 + 1 :]))
    assert reasons(path)[1:] == ["broken data"] * 2
    changed = bytearray(whole[count // 2])
    changed[-5] ^= 1
    path.write_bytes(b"".join([*whole[: count // 2], changed, *whole[count // 2 + 1 :]]))
    assert reasons(path)[1:] == ["broken data"] * 2
    path.write_bytes(b"".join(whole) + b"TAG" + b"x" * 125)
    assert readings(path) == [6 * FRAMES] * 3


def test_an_ogg_that_claims_too_much(tmp_path):
    path = tmp_path / "a.ogg"
    whole = pages(write(path, "OGG", "OPUS", 6 * FRAMES))
    claims = bytearray(whole[-1])
    claims[6:14] = struct.pack("<q", 1 << 28)
    path.write_bytes(b"".join(whole[:-1]) + claims)
    assert all(reasons(path))


TAGS = {
    "ID3v1": b"TAG" + b"x" * 125,
    "APE": b"APETAGEX" + bytes(24) + b"x" * 50 + b"APETAGEX" + struct.pack("<4I", 2000, 82, 1, 1 << 31) + bytes(8),
    "Lyrics3": b"LYRICSBEGIN" + b"x" * 40 + b"000051LYRICS200",
}


@pytest.mark.parametrize("after", [*TAGS, "all"])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_tags_behind_an_mp3(tmp_path, mode, after):
    path = tmp_path / "a.mp3"
    soundfile.write(path, samples(), RATE, bitrate_mode=mode, compression_level=0.7)
    tags = TAGS["APE"] + TAGS["Lyrics3"] + TAGS["ID3v1"] if after == "all" else TAGS[after]
    data = path.read_bytes()
    path.write_bytes(data + tags)
    assert readings(path) == [FRAMES] * 3
    if mode == "CONSTANT":  # without the tag that tells its length
        path.write_bytes(data[data.index(data[:2], 4) :] + tags)
        assert len(set(readings(path))) == 1 and audio_info(path).frames > FRAMES


def test_an_mp3_whose_tag_does_not_tell_its_bytes(tmp_path):
    path = tmp_path / "a.mp3"
    data = bytearray(write(path, "MP3"))
    at = max(data.find(b"Xing"), data.find(b"Info"))
    flags = int.from_bytes(data[at + 4 : at + 8], "big")
    assert flags & 3 == 3
    data[at + 4 : at + 8] = (flags & ~2).to_bytes(4, "big")
    del data[at + 12 : at + 16]
    data[at + 100 : at + 100] = bytes(4)
    path.write_bytes(data)
    assert not any(reasons(path))
    path.write_bytes(data + data)
    assert reasons(path) == ["audio beyond the header"] * 3


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write(path, "WAV", "PCM_16")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lst_fairseq.data.containers.source.open", refuse, raising=False)
    assert reasons(path) == ["not readable"] * 3
