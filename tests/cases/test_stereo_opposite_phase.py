"""Channels that would cancel each other: one of them is read, and a warning names the file once."""

import logging

import numpy as np
import pytest
import soundfile

from lst_fairseq.data.audio import Segment, in_opposite_phase, read_segment

RATE = 16_000


def speech(seed: int, seconds: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.1 * np.convolve(rng.standard_normal(round(seconds * RATE)), np.ones(8) / 3, "same")


def write(path, *channels) -> Segment:
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return Segment(str(path))


@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_the_louder_channel_is_read(tmp_path, caplog, gain):
    left = speech(0).astype(np.float32)
    segment = write(tmp_path / "a.wav", left, -gain * left)
    assert in_opposite_phase(segment)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(read_segment(segment), left)
        np.testing.assert_array_equal(read_segment(Segment(segment.path, 5, 8000)), left[5:8005])
    (record,) = caplog.records
    assert segment.path in record.message and "ffmpeg" in record.message


def test_other_files_stay_as_they_are(tmp_path, caplog):
    a, b, quiet = speech(1), speech(2), 1e-5 * speech(3)
    for name, channels in {
        "independent": (a, b),
        "wide": (a + b, 0.5 * a - b),
        "many independent": tuple(speech(i) for i in range(16)),
        "silence": (quiet, -quiet),
        "offset": (np.full(RATE, 0.01), np.full(RATE, -0.01)),
        "short": (a[:800], -a[:800]),
    }.items():
        segment = write(tmp_path / f"{name}.wav", *channels)
        expected = soundfile.read(segment.path, dtype="float32")[0].mean(axis=1)
        np.testing.assert_array_equal(read_segment(segment), expected, err_msg=name)
    assert not caplog.records


def test_each_segment_is_judged_by_itself(tmp_path):
    left = speech(4)
    right = np.where(np.arange(RATE) < 8000, -left, left)
    segment = write(tmp_path / "a.wav", left, right)
    first, second = Segment(segment.path, 0, 8000), Segment(segment.path, 8000, 8000)
    assert in_opposite_phase(first) and not in_opposite_phase(second)
    for part in (first, second):
        expected = left[part.offset : part.offset + 8000]
        np.testing.assert_allclose(read_segment(part), expected, atol=1e-7)
