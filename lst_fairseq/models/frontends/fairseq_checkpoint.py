"""wav2vec 2.0 and HuBERT as frontends, from the checkpoint files that fairseq publishes (fairseq-fixed 0.12.3.1)."""

from pathlib import Path
from typing import Any

import torch
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from torch import Tensor, nn

from lst_fairseq.models.frontends.base import FrontendOptions, SpeechFrontend, register_frontend
from lst_fairseq.models.frontends.fairseq_settings import (
    checkpoint_settings,
    encoder_settings,
    parse_convolutions,
    read_checkpoint,
)
from lst_fairseq.models.frontends.pretrained_frontend import span_mask
from lst_fairseq.models.frontends.wav2vec2 import conv_lengths, own_group_norm
from lst_fairseq.utils.masks import padding_mask

CTC_HEAD = "w2v_encoder.proj."
#: <s>, the dictionary's first symbol (fairseq/tasks/audio_finetuning.py:123, hubert_pretraining.py:127).
BLANK = 0

#: Parameters of parts that pretraining alone needs; Wav2VecEncoder and HubertEncoder drop those parts too.
PRETRAINING = ("quantizer.", "project_q.", "target_glu.", "final_proj.", "label_embs_concat")

#: PyTorch's two spellings of weight normalisation; fairseq (wav2vec2.py:939) builds the second.
WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


class SpanMasks:
    """Time and channel masking as pretraining and fine-tuning do it, drawn from torch's CPU generator.

    fairseq's own (wav2vec2.py:429, hubert.py:344) draws from the operating system's entropy (data_utils.py:458), which
    a resumed run could not repeat, and fails on rows shorter than a span.
    """

    mask_channel_before = False

    def apply_mask(self, x: Tensor, padding_mask: Tensor | None, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Mask features [B, N, D]; the second value, for the pretraining loss, is always None."""
        if self.mask_channel_before:
            x = self._mask_channels(x)
        if self.mask_prob > 0:
            n_rows, size, _ = x.shape
            lengths = [size] * n_rows if padding_mask is None else (~padding_mask).sum(dim=1).tolist()
            mask = span_mask(lengths, size, self.mask_prob, self.mask_length, min_spans=2).to(x.device)
            x = torch.where(mask.unsqueeze(-1), self.mask_emb.to(x.dtype), x)
        return x if self.mask_channel_before else self._mask_channels(x), None

    def _mask_channels(self, x: Tensor) -> Tensor:
        if self.mask_channel_prob <= 0:
            return x
        n_rows, _, width = x.shape
        mask = span_mask([width] * n_rows, width, self.mask_channel_prob, self.mask_channel_length, min_spans=0)
        return x.masked_fill(mask.unsqueeze(1).to(x.device), 0)


class Wav2Vec2Encoder(SpanMasks, Wav2Vec2Model):
    """fairseq's wav2vec 2.0 without the parts for pretraining."""

    def __init__(self, cfg: Wav2Vec2Config):
        super().__init__(cfg)
        self.remove_pretraining_modules()

    def encode(self, waveforms: Tensor, padding_mask: Tensor | None, mask: bool) -> Tensor:
        """Waveforms [B, T] and a mask [B, T], True at padding, to features [B, N, D]."""
        return self.extract_features(waveforms, padding_mask, mask)["x"]


class HubertEncoder(SpanMasks, HubertModel):
    """fairseq's HuBERT without the parts for pretraining."""

    def __init__(self, cfg: HubertConfig):
        # Without dictionaries there are no label embeddings.
        super().__init__(cfg, HubertPretrainingConfig(), dictionaries=[None])
        self.remove_pretraining_modules()

    def encode(self, waveforms: Tensor, padding_mask: Tensor | None, mask: bool) -> Tensor:
        """As for wav2vec 2.0; a mask [B, N], one a feature vector, is used as it is (hubert.py:421)."""
        return self.extract_features(waveforms, padding_mask, mask)[0]


ENCODERS = {"fairseq-wav2vec2": (Wav2Vec2Encoder, Wav2Vec2Config), "fairseq-hubert": (HubertEncoder, HubertConfig)}


@register_frontend("fairseq-hubert")
@register_frontend("fairseq-wav2vec2")
class FairseqFrontend(SpeechFrontend):
    """wav2vec 2.0 (Baevski et al., 2020) or HuBERT (Hsu et al., 2021), pretrained or fine-tuned with CTC, by fairseq.

    A sentence's features are those of fairseq's own Wav2VecEncoder and HubertEncoder. In a batch, ``padded`` is their
    pass as it is, by which a row's features depend on its companions where the first convolution is group-normalised
    (``extractor_mode: default``), and slightly in HuBERT, whose mask is rough (hubert.py:421). ``auto`` pads too, with
    norm and mask of each row's own; conformers, stacked or batch-normalised positional convolutions and cropped
    lengths, for which that does not suffice, it encodes as ``equal`` does.

    In train mode a file's own dropout, LayerDrop and masking apply.

    Args:
        settings: as :meth:`settings` returns them.
        options: how it is used.

    Raises:
        ValueError: the settings make no encoder, there is no such layer, or no CTC head.
    """

    def __init__(self, settings: dict[str, Any], options: FrontendOptions):
        encoder_class, config_class = ENCODERS[settings["kind"]]
        config = encoder_settings(config_class, settings["config"])
        options.check_layer(config["encoder_layers"])
        if config["layer_type"] == "trf_adp":
            raise ValueError("layer_type trf_adp (adapters for each language) is not served; give a model without")
        n_classes = settings["config"]["ctc_classes"]
        if options.ctc and not n_classes:
            raise ValueError("no CTC head there; give a model fine-tuned with CTC, or take an adapter that needs none")
        convolutions = parse_convolutions(config["conv_feature_layers"])
        # fairseq evaluates this text (wav2vec2.py:314), so that it must be nothing but a list of numbers.
        config["conv_feature_layers"] = str(convolutions)
        n_layers = options.layer or config["encoder_layers"]
        model = encoder_class(config_class(**{**config, "encoder_layers": n_layers}))
        if n_layers < config["encoder_layers"] and config["layer_norm_first"]:
            model.encoder.layer_norm = nn.Identity()  # closes the whole stack, not an inner layer
        width = config["encoder_embed_dim"]
        super().__init__(model, width, options, nn.Linear(width, n_classes) if options.ctc else None, blank=BLANK)
        self.kind: str = settings["kind"]
        self.config = {**config, "apply_mask": settings["config"]["apply_mask"], "ctc_classes": n_classes}
        self.normalise: bool = settings["preprocessor"]["normalize"]
        self.kernels = [kernel for _, kernel, _ in convolutions]
        self.strides = [stride for _, _, stride in convolutions]
        self.crop: int = config.get("crop_seq_to_multiple", 1)
        # Stays until the next batch, as for the frontends of transformers.
        self._first_mask: Tensor | None = None
        if config["extractor_mode"] == "default" and options.batching == "auto":
            model.feature_extractor.conv_layers[0][2].register_forward_hook(self._own_norm)

    @classmethod
    def empty(cls, settings: dict[str, Any], options: FrontendOptions) -> "FairseqFrontend":
        return cls(settings, options)

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "config": self.config, "preprocessor": {"normalize": self.normalise}}

    def layers(self) -> list[nn.Module]:
        return list(self.model.encoder.layers)

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        lengths = conv_lengths(n_samples.clamp(min=self._shortest()), self.kernels, self.strides)
        return lengths - lengths % self.crop

    @property
    def by_length(self) -> bool:
        return super().by_length or (self.options.batching == "auto" and sees_padding(self.config))

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        waveforms = waveforms.float()
        if self.normalise:
            waveforms = layer_norm_waveforms(waveforms, lengths)
        shortest = self._shortest()
        waveforms = nn.functional.pad(waveforms, (0, max(0, shortest - waveforms.size(1))))
        # A row shorter than the receptive field still gives one vector, over its padding.
        lengths, size = lengths.clamp(min=shortest), waveforms.size(1)
        feature_lengths = self.output_lengths(lengths)
        padding = self._first_mask = None
        if bool((lengths < size).any()):
            padding = ~padding_mask(lengths, size)
            if self.options.batching == "auto":
                self._first_mask = self._mask_after(1, lengths, size)
                if self.kind == "fairseq-hubert":
                    padding = ~self._mask_after(len(self.kernels), lengths, size)
        mask = self.config["apply_mask"] and self.training and torch.is_grad_enabled()
        return self.model.encode(waveforms.to(self.dtype), padding, mask), feature_lengths

    def _mask_after(self, n_convolutions: int, lengths: Tensor, size: int) -> Tensor:
        """The mask of rows of so many samples after the first convolutions, True where a row has content."""
        ends = torch.cat((lengths, lengths.new_tensor([size])))  # the batch's width as one more row
        ends = conv_lengths(ends, self.kernels[:n_convolutions], self.strides[:n_convolutions])
        return padding_mask(ends[:-1], int(ends[-1]))

    def _own_norm(self, norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output if self._first_mask is None else own_group_norm(norm, inputs[0], self._first_mask)

    def _shortest(self) -> int:
        """Samples of the shortest input that the encoder accepts: what its first feature vectors see."""
        field, step = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field + (self.crop - 1) * step


def sees_padding(config: dict[str, Any]) -> bool:
    """Whether fairseq's encoder lets a row see the padding in spite of a mask."""
    return (
        config["layer_type"] != "transformer"
        or config.get("pos_conv_depth", 1) > 1
        or config.get("conv_pos_batch_norm", False)
        or config.get("crop_seq_to_multiple", 1) > 1
    )


def layer_norm_waveforms(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Layer norm over each row's own samples, as fairseq does it (raw_audio_dataset.py:95); the padding becomes zero.

    Args:
        waveforms: float32 [B, T].
        lengths: LongTensor [B].
    """
    normalised = torch.zeros_like(waveforms)
    for row, waveform, length in zip(normalised, waveforms, lengths.tolist(), strict=True):
        row[:length] = nn.functional.layer_norm(waveform[:length], (length,))
    return normalised


def load_fairseq_frontend(path: str | Path, options: FrontendOptions) -> FairseqFrontend:
    """The frontend of a fairseq checkpoint file, its weights in fp32, all of them or not at all.

    Args:
        path: a ``.pt`` file of wav2vec 2.0 or HuBERT, pretrained or fine-tuned with CTC, with its settings as ``args``
            or as ``cfg``.
        options: how the frontend is used.

    Raises:
        ValueError: the file cannot be read, holds something else, or its parameters are not those that its settings
            ask for; the message names the file.
    """
    path = Path(path).expanduser()
    state = read_checkpoint(path)
    try:
        settings, prefix = checkpoint_settings(state)
        parameters, head = encoder_parameters(state["model"], prefix)
        settings["config"]["ctc_classes"] = len(head["weight"]) if "weight" in head else None
        frontend = FairseqFrontend.empty(settings, options)
        load_parameters(frontend.model, without_unused(parameters, frontend))
        if frontend.ctc_head is not None:
            load_parameters(frontend.ctc_head, head)
    except ValueError as error:
        raise ValueError(f"--speech-encoder {path}: {error}") from error
    except (KeyError, TypeError, AttributeError, AssertionError, RuntimeError, IndexError) as error:
        raise ValueError(f"--speech-encoder {path}: its settings make no model ({error!r})") from error
    return frontend


def encoder_parameters(model: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's parameters under its own names, and those of the CTC head, if there is one."""
    parameters, head = {}, {}
    for name, tensor in model.items():
        if prefix and name.startswith(CTC_HEAD):
            head[name.removeprefix(CTC_HEAD)] = tensor
            continue
        name = name.removeprefix(prefix)
        for other, own in WEIGHT_NORM.items():
            name = name.replace(other, own)
        if not name.startswith(PRETRAINING):
            parameters[name] = tensor
    return parameters, head


def without_unused(parameters: dict[str, Tensor], frontend: FairseqFrontend) -> dict[str, Tensor]:
    """The parameters without those of layers above ``options.layer``, and of the norm that closes the stack."""
    unused = [f"encoder.layers.{i}." for i in range(len(frontend.layers()), frontend.config["encoder_layers"])]
    if isinstance(frontend.model.encoder.layer_norm, nn.Identity):
        unused.append("encoder.layer_norm.")
    return {name: tensor for name, tensor in parameters.items() if not name.startswith(tuple(unused))}


def load_parameters(module: nn.Module, parameters: dict[str, Tensor]) -> None:
    """Load strictly.

    Raises:
        ValueError: parameters are missing, unexpected or of another shape; the message lists them.
    """
    if isinstance(module, (Wav2Vec2Model, HubertModel)):
        module.upgrade_state_dict(parameters)  # the attention's joint projections of old files
    own = module.state_dict()
    faults = {
        "missing": own.keys() - parameters.keys(),
        "unexpected": parameters.keys() - own.keys(),
        "of another shape": {n for n in own.keys() & parameters.keys() if own[n].shape != parameters[n].shape},
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(sorted(names)[:8])}" for fault, names in faults.items() if names)
        raise ValueError(f"its parameters are not those of its settings ({listed})")
    module.load_state_dict(parameters)
