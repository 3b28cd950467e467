"""Speech frontends: waveforms in, one feature vector every 20 ms out, built from the model's own configuration."""

from lst_fairseq.models.frontends.base import (
    BATCHINGS,
    FRONTENDS,
    WINDOWS,
    FrontendOptions,
    SpeechFrontend,
    register_frontend,
)
from lst_fairseq.models.frontends.build import build_frontend, encoder_fingerprint
from lst_fairseq.models.frontends.wav2vec2 import Wav2Vec2Frontend
from lst_fairseq.models.frontends.wav2vec2_bert import SeamlessFrontend, Wav2Vec2BertFrontend
from lst_fairseq.models.frontends.whisper import WhisperFrontend

__all__ = [
    "BATCHINGS",
    "FRONTENDS",
    "WINDOWS",
    "FrontendOptions",
    "SeamlessFrontend",
    "SpeechFrontend",
    "Wav2Vec2BertFrontend",
    "Wav2Vec2Frontend",
    "WhisperFrontend",
    "build_frontend",
    "encoder_fingerprint",
    "register_frontend",
]
