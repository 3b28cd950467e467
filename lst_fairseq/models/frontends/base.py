"""What every speech frontend offers, and the registry that finds the one for a pretrained model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data.data_utils import numpy_seed
from torch import Tensor, nn

from lst_fairseq.data.audio import SAMPLE_RATE

WINDOWS = ("exact", "trim")
BATCHINGS = ("auto", "padded", "equal")

#: Highest numbers in a speech encoder's configuration, by the endings of their names, and any others.
LARGEST = {"vocab_size": 10_000_000, "layers": 1_000, "size": 16_384, "dim": 16_384, "channels": 16_384}
LARGEST_NUMBER = 100_000_000

FRONTENDS: dict[str, type["SpeechFrontend"]] = {}


def check_rate(rate: Any, where: str) -> None:
    """ValueError where a model's settings, named by ``where``, ask for audio of another rate than what it will get."""
    if rate is not None and (isinstance(rate, bool) or rate != SAMPLE_RATE):
        raise ValueError(
            f"{where} is {rate!r}, and all audio is read at {SAMPLE_RATE} Hz here; give a speech encoder for "
            f"{SAMPLE_RATE} Hz"
        )


@dataclass(frozen=True)
class FrontendOptions:
    """How a frontend is used; its features depend on all of it.

    Attributes:
        layer: take the output of this inner Transformer layer, counted from 1, as transformers'
            ``output_hidden_states`` gives it (before a norm that closes the whole stack); None, or the topmost, for
            the model's own output. The layers above are not held.
        window: for Whisper: ``exact`` pads to the window it was trained on, ``trim`` encodes the true length only.
        batching: ``padded`` encodes a batch at once; ``equal`` encodes rows of equal length together, without padding;
            ``auto`` is the frontend's choice, by which a row's features never depend on its batch companions.
        ctc: keep the model's CTC head.
    """

    layer: int | None = None
    window: str = "exact"
    batching: str = "auto"
    ctc: bool = False

    def __post_init__(self) -> None:
        for name, known in (("window", WINDOWS), ("batching", BATCHINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"--frontend-{name} {getattr(self, name)}: unknown; known: {', '.join(known)}")
        if self.layer is not None and self.ctc:
            raise ValueError(
                f"--frontend-layer {self.layer}: a CTC head reads the last layer; leave the flag out, or take an "
                "adapter that needs no CTC head"
            )

    def check_layer(self, n_layers: int) -> None:
        """Raise a ValueError that names the range if the model has no such layer."""
        if self.layer is not None and not 1 <= self.layer <= n_layers:
            raise ValueError(f"--frontend-layer {self.layer}: the speech encoder has layers 1 to {n_layers}")


def beyond_reason(config: dict[str, Any]) -> str | None:
    """The name of a number in a speech encoder's configuration, or in a list there, that no encoder has; None: none."""
    for name, value in config.items():
        most = next((most for ending, most in LARGEST.items() if str(name).endswith(ending)), LARGEST_NUMBER)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not abs(number) <= most:
                return name
    return None


def register_frontend(kind: str) -> Callable[[type["SpeechFrontend"]], type["SpeechFrontend"]]:
    """Class decorator: this frontend serves models of that kind (for transformers: config.json's ``model_type``)."""

    def register(cls: type["SpeechFrontend"]) -> type["SpeechFrontend"]:
        FRONTENDS[kind] = cls
        return cls

    return register


class SpeechFrontend(nn.Module):
    """Base class. Takes 16 kHz waveforms in [-1, 1] and does its own scaling and feature extraction.

    In eval mode a row's features do not depend on its batch companions. In train mode the pretrained model's own
    dropout, layer drop and time masking apply; all are drawn from torch's generators, which fairseq seeds before each
    update, so that a resumed run draws what an uninterrupted one draws.

    Attributes:
        model: the pretrained encoder.
        output_dim: width of a feature vector.
        options: how it is used.
        ctc_head: linear layer from features to CTC labels where ``options.ctc`` asks for it, else None; never trained.
        blank: the CTC blank's label.
    """

    def __init__(
        self,
        model: nn.Module,
        output_dim: int,
        options: FrontendOptions,
        ctc_head: nn.Linear | None = None,
        blank: int = 0,
    ):
        super().__init__()
        self.model = model
        self.output_dim = output_dim
        self.options = options
        self.ctc_head = ctc_head
        self.blank = blank
        if ctc_head is not None:
            ctc_head.requires_grad_(False)

    @classmethod
    def empty(cls, settings: dict[str, Any], options: FrontendOptions) -> "SpeechFrontend":
        """The same frontend with random weights, from what :meth:`settings` returned."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What :meth:`empty` needs, fit for JSON; ``kind`` is the key in ``FRONTENDS``."""
        raise NotImplementedError

    def layers(self) -> list[nn.Module]:
        """Transformer layers from the bottom to the top."""
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
        if not self.training:
            return self._encode_all(waveforms, lengths)
        # The pretrained models draw from numpy's global state (masks of channels, layers to drop), and fairseq seeds
        # torch before an update.
        with numpy_seed(int(torch.randint(2**31, ()))):
            return self._encode_all(waveforms, lengths)

    def _encode_all(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.by_length:
            return encode_by_length(self.encode, waveforms, lengths)
        return self.encode(waveforms, lengths)

    @property
    def by_length(self) -> bool:
        """Whether rows of equal length are encoded together, unpadded."""
        return self.options.batching == "equal"

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` for a batch that is encoded at once."""
        raise NotImplementedError

    @torch.no_grad()
    def ctc_labels(self, features: Tensor) -> Tensor:
        """The CTC head's best label of each feature vector: [B, N, output_dim] -> LongTensor [B, N].

        Raises:
            ValueError: the frontend was built without its CTC head.
        """
        if self.ctc_head is None:
            raise ValueError("this speech encoder was built without its CTC head (FrontendOptions.ctc)")
        return self.ctc_head(features.to(self.ctc_head.weight.dtype)).argmax(dim=-1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def encode_by_length(
    encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], waveforms: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Encode rows of equal length together, unpadded, and put the results back in their order.

    Args:
        encode: waveforms [R, T'] and lengths [R] to features [R, N', D] and their lengths [R].
        waveforms: [B, T], padded at the end.
        lengths: LongTensor [B], samples of each row.

    Returns:
        features [B, N, D], zero beyond each row's own, and their lengths, LongTensor [B].
    """
    groups = []
    for n_samples in lengths.unique().tolist():
        rows = (lengths == n_samples).nonzero().squeeze(1)
        groups.append((rows, *encode(waveforms[rows, :n_samples], lengths[rows])))
    first = groups[0][1]
    longest = max(features.size(1) for _, features, _ in groups)
    all_features = first.new_zeros(lengths.size(0), longest, first.size(2))
    all_lengths = torch.zeros_like(lengths)
    for rows, features, feature_lengths in groups:
        padded = nn.functional.pad(features, (0, 0, 0, longest - features.size(1)))
        all_features = all_features.index_copy(0, rows, padded)
        all_lengths[rows] = feature_lengths
    return all_features, all_lengths
