"""Segments of real files in every format: exact samples, exact lengths, and clear errors."""

import os
import pickle
import struct

import numpy as np
import pytest
import soundfile
import soxr

from lst_fairseq.data.audio import (
    AudioError,
    AudioInfo,
    Segment,
    audio_info,
    read_segment,
    resampled_length,
    segment_samples,
)

FORMATS = {  # name -> (suffix, subtype)
    "wav 16 bit": ("wav", "PCM_16"),
    "wav 24 bit": ("wav", "PCM_24"),
    "wav float": ("wav", "FLOAT"),
    "flac": ("flac", "PCM_16"),
    "ogg": ("ogg", "VORBIS"),
    "mp3": ("mp3", "MPEG_LAYER_III"),
}


def speechlike(seconds=1.5, rate=16_000, channels=1, seed=0):
    """Noise with a falling spectrum and a glide, [T, channels], within [-0.5, 0.5]."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = np.stack([np.convolve(rng.standard_normal(len(time)), np.ones(8) / 8, "same") for _ in range(channels)], 1)
    return (0.1 * noise + 0.2 * np.sin(2 * np.pi * (200 + 300 * time) * time)[:, None]).clip(-0.5, 0.5)


@pytest.fixture(params=FORMATS, ids=list(FORMATS))
def audio_file(request, tmp_path):
    suffix, subtype = FORMATS[request.param]
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, speechlike(), 16_000, subtype=subtype)
    return path


def refused(function, *args) -> AudioError:
    with pytest.raises(AudioError) as caught:
        function(*args)
    return caught.value


@pytest.mark.parametrize(
    ("spec", "path", "offset", "frames"),
    [
        ("a.wav", "a.wav", 0, -1),
        ("a.wav:0:16000", "a.wav", 0, 16_000),
        ("a.wav:5:-1", "a.wav", 5, -1),
        ("/data/en-de/ted_1.wav:257280:56000", "/data/en-de/ted_1.wav", 257_280, 56_000),
        ("C:/talks/a:b.flac", "C:/talks/a:b.flac", 0, -1),
        ("C:/talks/a:b.flac:1:2", "C:/talks/a:b.flac", 1, 2),
        ("10:30:00/day.wav:7:9", "10:30:00/day.wav", 7, 9),
        ("old.wav:copy.wav", "old.wav:copy.wav", 0, -1),
        ("with space.mp3:1:2", "with space.mp3", 1, 2),
    ],
)
def test_a_spec_is_parsed_and_given_back(spec, path, offset, frames):
    segment = Segment.parse(spec)
    assert segment == Segment(path, offset, frames)
    assert str(segment) == spec


def test_relative_paths_are_joined_to_the_root(tmp_path):
    assert Segment.parse("x/a.wav:1:2", tmp_path) == Segment(f"{tmp_path}/x/a.wav", 1, 2)
    assert Segment.parse("/x/a.wav:1:2", tmp_path) == Segment("/x/a.wav", 1, 2)


@pytest.mark.parametrize(
    "spec",
    ["", " ", "a.wav:", "a.wav:5", "a.wav:5:", "a.wav::5", "a.wav:x:5", "a.wav:1.5:3", "a.wav:-5:100", "a.wav:5:-2"]
    + ["a.WAV:1:2:3", "d/a.flac:0:10:", "a.mp3:0:ten", ":0:16000"],
)
def test_a_malformed_spec_is_refused(spec):
    error = refused(Segment.parse, spec)
    assert repr(spec) in str(error) and "PATH:OFFSET:FRAMES" in str(error)
    assert error.reason == "malformed segment"


def test_header(audio_file):
    assert audio_info(audio_file) == AudioInfo(24_000, 16_000, 1)


def test_segments_are_sample_exact(audio_file):
    whole = soundfile.read(audio_file, dtype="float32")[0]
    np.testing.assert_array_equal(read_segment(Segment(str(audio_file))), whole)
    rng = np.random.default_rng(1)
    for _ in range(20):
        offset = int(rng.integers(0, len(whole)))
        frames = int(rng.integers(1, len(whole) - offset + 1))
        part = read_segment(Segment(str(audio_file), offset, frames))
        assert part.dtype == np.float32 and part.flags.c_contiguous
        np.testing.assert_allclose(part, whole[offset : offset + frames], rtol=0, atol=1e-6)
    np.testing.assert_allclose(read_segment(Segment(str(audio_file), 20_000)), whole[20_000:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 2), (44_100, 1)], ids=["8 kHz stereo", "44.1 kHz mono"])
def test_other_rates_and_channels(tmp_path, suffix, rate, channels):
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, speechlike(1.0, rate, channels), rate)
    info = audio_info(path)
    assert (info.rate, info.channels) == (rate, channels)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    for segment in (Segment(str(path)), Segment(str(path), 1001, 4567)):
        waveform = read_segment(segment)
        assert waveform.dtype == np.float32 and waveform.shape == (segment_samples(segment, info),)
        end = info.frames if segment.frames == -1 else segment.offset + segment.frames
        expected = soxr.resample(whole[segment.offset : end], rate, 16_000, quality="HQ")
        np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-5)


def test_stereo_is_averaged_at_16_khz(tmp_path):
    stereo = speechlike(0.2, channels=2).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_segment(Segment(str(tmp_path / "a.wav"))), stereo.mean(1), atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 7_999])
def test_length_rule(tmp_path, rate):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, speechlike(0.5, rate)[:, 0], rate)
    info = audio_info(path)
    rng = np.random.default_rng(rate)
    for frames in [*range(1, 12), *(int(n) for n in rng.integers(12, info.frames - 3, 20))]:
        segment = Segment(path, 3, frames)
        samples = segment_samples(segment, info)
        assert len(read_segment(segment)) == samples == max(1, int(frames * 16_000 / rate + 0.5))
    assert len(read_segment(Segment(path), rate=8_000)) == resampled_length(info.frames, rate, 8_000)


def test_missing_file(tmp_path):
    for path in (tmp_path / "no.wav", tmp_path):
        for function, arg in ((audio_info, path), (read_segment, Segment(str(path)))):
            error = refused(function, arg)
            assert str(path) in str(error) and "check the path" in str(error)
    assert refused(audio_info, tmp_path / "no.wav").reason == "missing file"


def test_empty_file_and_text_named_wav(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    error = refused(audio_info, path)
    assert str(path) in str(error) and "empty" in str(error) and error.reason == "empty file"
    path.write_text("This is a text file.\n" * 100)
    error = refused(read_segment, Segment(str(path), 0, 10))
    assert str(path) in str(error) and "not an audio file" in str(error) and "convert it" in str(error)
    assert error.reason == "not audio"


def test_headerless_and_sampleless_files(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    assert refused(audio_info, tmp_path / "a.raw").reason == "not audio"
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    error = refused(audio_info, tmp_path / "a.wav")
    assert str(tmp_path / "a.wav") in str(error) and error.reason == "no samples"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_truncated_wav_is_seen_in_the_header(tmp_path, subtype):
    """libsndfile would silently give a shorter waveform."""
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(), 16_000, subtype=subtype)
    path.write_bytes(path.read_bytes()[:-3000])
    for function, arg in ((audio_info, path), (read_segment, Segment(str(path), 0, 100))):
        error = refused(function, arg)
        assert str(path) in str(error) and "cut short" in str(error) and "again" in str(error)
        assert error.reason == "truncated file"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_from_a_pipe_is_fine(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(), 16_000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    assert audio_info(path) == AudioInfo(24_000, 16_000, 1)
    assert len(read_segment(Segment(str(path)))) == 24_000


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_truncated_compressed_file(tmp_path, suffix, capfd):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speechlike(3.0), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for function, arg in ((audio_info, path), (read_segment, Segment(str(path), 0, 100))):
        error = refused(function, arg)
        assert str(path) in str(error) and "cut short" in str(error) and "again" in str(error)
    capfd.readouterr()  # libmpg123 complains on the terminal


def without_tag(data: bytes) -> bytes:
    """An mp3 without its first frame, the tag."""
    return data[data.index(data[:2], 4) :]


@pytest.mark.parametrize("rate", [8_000, 16_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_mp3_without_tag(tmp_path, mode, rate):
    """As it is written to a pipe. Quiet first, so that libsndfile's guess is too long rather than too short."""
    path = tmp_path / "a.mp3"
    samples = speechlike(2.0)[:, 0] * np.repeat([0.0, 1.0], 16_000)
    soundfile.write(
        path,
        np.interp(np.arange(2 * rate) / rate, np.arange(32_000) / 16_000, samples),
        rate,
        bitrate_mode=mode,
        compression_level=0.7,
    )
    tagged = audio_info(path).frames
    assert tagged == 2 * rate
    path.write_bytes(without_tag(path.read_bytes()))
    frames = audio_info(path).frames
    assert tagged < frames < tagged + 3 * 1152  # with the encoder's padding, of which the tag tells
    with soundfile.SoundFile(path) as handle:
        assert len(handle.read()) == frames  # all there is to decode
    assert len(read_segment(Segment(str(path)), rate)) == frames
    for suffix in (b"TAG" + bytes(125), b""):
        path.write_bytes(path.read_bytes() + suffix)
        assert audio_info(path).frames == frames


def test_mp3_of_which_libsndfile_would_lose_the_end_is_refused(tmp_path):
    path = tmp_path / "a.mp3"
    samples = speechlike(2.0)[:, 0] * np.repeat([1.0, 1e-4], 16_000)  # a high bit rate first
    soundfile.write(path, samples, 16_000, bitrate_mode="VARIABLE")
    data = path.read_bytes()
    assert audio_info(path).frames == 32_000
    path.write_bytes(without_tag(data))
    assert soundfile.info(path).frames < 30_000
    error = refused(audio_info, path)
    assert str(path) in str(error) and "ffmpeg -i IN -c copy OUT.mp3" in str(error)
    path.write_bytes(without_tag(data)[:-10])  # a frame cut short
    assert "does not tell its length" in str(refused(audio_info, path))
    picture = b"ID3\x04\x00\x00" + bytes([0, 0, 100, 0]) + bytes(100 << 7)
    path.write_bytes(picture + data)
    assert len(read_segment(Segment(str(path)))) == 32_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples(tmp_path, value):
    samples = speechlike()[:, 0]
    samples[5000] = value
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    error = refused(read_segment, Segment(str(path)))
    assert str(path) in str(error) and "NaN or infinite" in str(error) and "leave it out" in str(error)
    assert len(read_segment(Segment(str(path), 5001, 100))) == 100


@pytest.mark.parametrize("segment", [(0, 24_001), (24_000, -1), (23_999, 2), (30_000, 1), (-1, 5), (0, -2)])
def test_segment_beyond_the_end(tmp_path, segment):
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(), 16_000)
    for function, args in ((segment_samples, (audio_info(path),)), (read_segment, ())):
        error = refused(function, Segment(str(path), *segment), *args)
        assert str(path) in str(error) and "24000 samples at 16000 Hz" in str(error)
        assert error.reason == "beyond the end"


def test_empty_segment(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, speechlike(), 16_000)
    error = refused(read_segment, Segment(str(path), 5, 0))
    assert f"{path}:5:0" in str(error) and error.reason == "empty segment"


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("a.wav: gone", "missing file")))
    assert (str(error), error.reason) == ("a.wav: gone", "missing file")
    assert isinstance(AudioError("as torch's DataLoader builds it"), ValueError)


def test_a_name_that_is_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.wav")
    soundfile.write(os.fsencode(path), speechlike(1.0), 16_000, format="WAV")
    assert len(read_segment(Segment(str(path)))) == audio_info(path).frames == 16_000
