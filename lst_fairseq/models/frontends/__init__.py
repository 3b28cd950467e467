"""Speech frontends: waveforms in, one feature vector every 20 ms out, built from the directory's own configuration."""

from lst_fairseq.models.frontends.base import FRONTENDS, SpeechFrontend, build_frontend, register_frontend
from lst_fairseq.models.frontends.wav2vec2 import Wav2Vec2BertFrontend, Wav2Vec2Frontend
from lst_fairseq.models.frontends.whisper import WhisperFrontend

__all__ = [
    "FRONTENDS",
    "SpeechFrontend",
    "Wav2Vec2BertFrontend",
    "Wav2Vec2Frontend",
    "WhisperFrontend",
    "build_frontend",
    "register_frontend",
]
