"""5 s cut at 60 % of the bytes: an error in every container that tells its length or marks its end."""

import numpy as np
import pytest
import soundfile

from lst_fairseq.data.audio import AudioError, Segment, audio_info, read_segment

KINDS = [(name, "PCM_16") for name in ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "W64", "RF64", "NIST", "SVX", "AVR")]
KINDS += [("OGG", "OPUS"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("MAT4", "FLOAT"), ("MAT5", "FLOAT")]
KINDS += [("VOC", "PCM_16"), ("MPC2K", "PCM_16")]


@pytest.mark.parametrize(("container", "codec"), KINDS)
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_cut(tmp_path, container, codec, share):
    path = tmp_path / "a"
    noise = np.random.default_rng(0).standard_normal(80_000)
    samples = 0.3 * np.sin(2 * np.pi * 300 * np.arange(80_000) / 16_000) + 0.02 * noise
    soundfile.write(path, samples, 16_000, format=container, subtype=codec)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for read in (audio_info, lambda name: read_segment(Segment(str(name), 0, 1000))):
        with pytest.raises(AudioError, match="cut short") as caught:
            read(path)
        assert str(path) in str(caught.value) and caught.value.reason == "truncated file"
