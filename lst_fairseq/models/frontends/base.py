"""What every speech frontend offers, and the registry that finds the one for a model directory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from lst_fairseq.models.pretrained import model_config, model_directory

FRONTENDS: dict[str, type["SpeechFrontend"]] = {}


def register_frontend(model_type: str) -> Callable[[type["SpeechFrontend"]], type["SpeechFrontend"]]:
    """Class decorator: this frontend serves directories whose config.json has this ``model_type``."""

    def register(cls: type["SpeechFrontend"]) -> type["SpeechFrontend"]:
        FRONTENDS[model_type] = cls
        return cls

    return register


class SpeechFrontend(nn.Module):
    """Base class. Takes 16 kHz waveforms in [-1, 1] and does its own scaling and feature extraction.

    Attributes:
        model: the pretrained transformers encoder.
        output_dim: width of a feature vector.
    """

    #: Parameters that only masked pretraining uses; checkpoints may lack them.
    unused: tuple[str, ...] = ()

    def __init__(self, model: PreTrainedModel, preprocessor: dict[str, Any]):
        super().__init__()
        self.model = model
        self.output_dim: int = model.config.hidden_size

    @classmethod
    def load(cls, directory: Path, config: PretrainedConfig) -> "SpeechFrontend":
        """Load weights and preprocessor_config.json from a directory; a partial load is an error."""
        model = cls.load_encoder(directory, config)
        path = directory / "preprocessor_config.json"
        return cls(model, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})

    @classmethod
    def load_encoder(cls, directory: Path, config: PretrainedConfig) -> PreTrainedModel:
        """The encoder in fp32."""
        raise NotImplementedError

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        """Number of feature vectors for waveforms of that many samples.

        Args:
            n_samples: LongTensor [B].

        Returns:
            LongTensor [B], at least 1.
        """
        raise NotImplementedError

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveforms: float [B, T], zero-padded at the end.
            lengths: LongTensor [B], samples of each row.

        Returns:
            features [B, N, output_dim] in the encoder's type, and their lengths, LongTensor [B].
        """
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def build_frontend(path: str | None) -> SpeechFrontend:
    """The frontend for ``--speech-encoder PATH``; an unknown kind is an error that lists the known ones."""
    directory = model_directory(path, "--speech-encoder")
    config = model_config(directory, "--speech-encoder", known=FRONTENDS)
    return FRONTENDS[config.model_type].load(directory, config)
