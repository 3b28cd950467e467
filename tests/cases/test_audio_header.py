"""Small files whose headers claim absurd lengths or rates: an error, before memory is taken."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from lst_fairseq.data.audio import AudioError, Segment, audio_info, read_segment


def encoded(container: str, **options) -> bytearray:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(1).standard_normal(16_000)
    soundfile.write(buffer, noise, 16_000, format=container, **options)
    return bytearray(buffer.getvalue())


def flac(total: int, rate: int = 16_000) -> bytes:
    data = encoded("FLAC")
    data[18:26] = (rate << 44 | 15 << 36 | total).to_bytes(8, "big")
    return bytes(data)


def mp3(frames: int) -> bytes:
    data = encoded("MP3")
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = frames.to_bytes(4, "big")
    return bytes(data)


def wav(rate: int) -> bytes:
    data = encoded("WAV", subtype="PCM_16")
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


FILES = {
    "2^36 samples.flac": (lambda: flac(2**36 - 1), "impossible length"),
    "2^31 frames.mp3": (lambda: mp3(2**31 - 1), "impossible length"),
    "2 Hz.wav": (lambda: wav(2), "impossible rate"),
    "1 Hz.flac": (lambda: flac(16_000, 1), "impossible rate"),
    "2 GHz.wav": (lambda: wav(2**31 - 1), "impossible rate"),
    # Not beyond what the file could hold, had it been silence: the last frame tells.
    "twice as long.flac": (lambda: flac(32_000), "truncated file"),
    "half as long.flac": (lambda: flac(8_000), "audio beyond the header"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_absurd_header(tmp_path, name):
    build, reason = FILES[name]
    path = tmp_path / name
    path.write_bytes(build())
    tracemalloc.start()
    try:
        for read in (audio_info, lambda file: read_segment(Segment(str(file)))):
            with pytest.raises(AudioError) as caught:
                read(path)
            assert str(path) in str(caught.value) and caught.value.reason == reason
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("frames", [10, 300])
def test_frames_of_an_mp3_are_counted(tmp_path, frames):
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3(frames))
    with pytest.raises(AudioError) as caught:
        read_segment(Segment(str(path)))
    assert caught.value.reason == ("audio beyond the header" if frames == 10 else "impossible length")
