"""Files that hold 7 s and whose first header tells of 2 s (wav: 1 of 5 s): nothing is lost without a word."""

import struct

import numpy as np
import pytest
import soundfile

from lst_fairseq.data.audio import AudioError, Segment, check_audio, read_segment

KINDS = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
}


def tone(seconds: int, hz: int) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(seconds * 16_000) / 16_000)


def assert_refused(path):
    for read in (check_audio, lambda name: read_segment(Segment(str(name)))):
        with pytest.raises(AudioError) as caught:
            read(path)
        assert str(path) in str(caught.value) and "ffmpeg" in str(caught.value)
        assert caught.value.reason == "audio beyond the header"


@pytest.mark.parametrize("second", ["another", "the same"])
@pytest.mark.parametrize("suffix", KINDS)
def test_files_joined_byte_by_byte(tmp_path, suffix, second):
    container, codec = KINDS[suffix]
    parts = []
    for seconds, hz in ((2, 300), (5, 500)):
        soundfile.write(tmp_path / "part", tone(seconds, hz), 16_000, format=container, subtype=codec)
        parts.append((tmp_path / "part").read_bytes())
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(parts[0] + parts[second == "another"])
    assert_refused(path)


def test_a_wav_header_that_was_last_brought_up_to_date_after_a_second(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(5, 500), 16_000)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, 32_000)
    path.write_bytes(data)
    assert_refused(path)
