"""Frontends over transformers' speech encoders: loading, rebuilding, inner layers, CTC heads and time masking."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lst_fairseq.models.frontends.base import FRONTENDS, FrontendOptions, SpeechFrontend, check_rate
from lst_fairseq.models.pretrained import load_pretrained
from lst_fairseq.utils.checksums import read_model_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class PretrainedFrontend(SpeechFrontend):
    """A speech encoder of transformers, whose directory says by itself what it takes.

    A model's own length adapter (``add_adapter``) is left out, since LST's adapter does the shortening. Heads and
    decoders are not held.

    Args:
        model: the encoder, with as many layers as are used.
        config: the directory's configuration.
        preprocessor: content of its preprocessor_config.json.
        options: how it is used.
        ctc_head: the directory's CTC head.
    """

    #: What is built: a transformers class, or auto class; a name, as importing it takes seconds.
    model_class: str = "transformers:AutoModel"
    #: Where the encoder's parameters are in a larger model's checkpoint (regular expression to replacement), if
    #: transformers does not see to it by itself.
    key_mapping: ClassVar[dict[str, str] | None] = None
    #: The configuration's name for the number of Transformer layers.
    layer_count = "num_hidden_layers"
    #: Parameters (endings of names) that only masked training uses; directories may lack them.
    unused: tuple[str, ...] = ("masked_spec_embed",)

    def __init__(
        self,
        model: PreTrainedModel,
        config: PretrainedConfig,
        preprocessor: dict[str, Any],
        options: FrontendOptions,
        ctc_head: nn.Linear | None = None,
    ):
        super().__init__(model, config.hidden_size, options, ctc_head, blank=config.pad_token_id or 0)
        self.config = config
        self.preprocessor = preprocessor
        if options.layer is not None and options.layer < getattr(config, self.layer_count):
            self.drop_what_follows_the_layers()

    @classmethod
    def load(cls, directory: Path, config: PretrainedConfig, options: FrontendOptions) -> PretrainedFrontend:
        """Load weights and preprocessor_config.json from a directory.

        Raises:
            ValueError: weights are missing or of another shape, there is no such layer, or no CTC head.
        """
        path = directory / "preprocessor_config.json"
        preprocessor = read_model_json(path) if path.is_file() else {}
        if not isinstance(preprocessor, dict):
            raise ValueError(f"{path}: a {type(preprocessor).__name__} and not an object; copy it again")
        check_rate(preprocessor.get("sampling_rate"), f"--speech-encoder {path}: sampling_rate")
        if options.ctc:
            _check_ctc(directory, config)

        def load(model_class: Any, reduced: PretrainedConfig) -> PreTrainedModel:
            return load_pretrained(model_class, directory, reduced, cls.unused, key_mapping=cls.key_mapping)

        return cls._build(load, config, preprocessor, options)

    @classmethod
    def empty(cls, settings: dict[str, Any], options: FrontendOptions) -> PretrainedFrontend:
        def make(model_class: Any, reduced: PretrainedConfig) -> PreTrainedModel:
            if hasattr(model_class, "from_config"):  # an auto class
                return model_class.from_config(reduced, trust_remote_code=False)
            return model_class(reduced)

        from transformers import AutoConfig

        check_rate(settings["preprocessor"].get("sampling_rate"), "the speech encoder's settings: sampling_rate")
        return cls._build(make, AutoConfig.for_model(**settings["config"]), settings["preprocessor"], options)

    @classmethod
    def _build(
        cls,
        make: Callable[[Any, PretrainedConfig], PreTrainedModel],
        config: PretrainedConfig,
        preprocessor: dict[str, Any],
        options: FrontendOptions,
    ) -> PretrainedFrontend:
        options.check_layer(getattr(config, cls.layer_count))
        # The model is built without what is not used, so that it is neither loaded nor held.
        reduced = copy.deepcopy(config)
        reduced.dtype = torch.float32
        if getattr(config, "add_adapter", False):
            reduced.add_adapter = False
        if options.layer is not None:
            setattr(reduced, cls.layer_count, options.layer)
        if not options.ctc:
            return cls(make(resolve_name(cls.model_class), reduced), config, preprocessor, options)
        from transformers import AutoModelForCTC

        with_head = make(AutoModelForCTC, reduced)
        return cls(with_head.base_model, config, preprocessor, options, with_head.lm_head)

    def settings(self) -> dict[str, Any]:
        config = json.loads(self.config.to_json_string(use_diff=False))
        return {"kind": self.config.model_type, "config": config, "preprocessor": self.preprocessor}

    def layers(self) -> list[nn.Module]:
        return list(self.model.encoder.layers)

    def drop_what_follows_the_layers(self) -> None:
        """Leave out what the model applies to its last layer's output, for the output of an inner layer."""
        raise NotImplementedError

    def time_mask(self, lengths: Tensor, size: int) -> Tensor | None:
        """Where the configuration's time masking (``mask_time_*``) strikes in train mode: bool [B, size], or None.

        Drawn here since transformers refuses batches shorter than a span, and HuBERT's masks ignore the padding.

        Args:
            lengths: LongTensor [B], positions of each row.
            size: length of the padded rows.
        """
        config = self.model.config
        if not self.training or not getattr(config, "apply_spec_augment", True) or config.mask_time_prob <= 0:
            return None
        mask = span_mask(
            lengths.tolist(), size, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        )
        return mask.to(lengths.device)


def transformers_kinds() -> list[str]:
    """Model types that a save_pretrained directory may have."""
    return [kind for kind, cls in FRONTENDS.items() if issubclass(cls, PretrainedFrontend)]


def span_mask(lengths: Sequence[int], size: int, probability: float, span: int, min_spans: int) -> Tensor:
    """Random spans, as SpecAugment (Park et al., 2019) and wav2vec 2.0 mask them.

    About ``probability * length / span`` spans a row, at least ``min_spans`` and never more than fit side by side;
    their starts are drawn without replacement, so that they may overlap. Drawn from torch's CPU generator.

    Args:
        lengths: positions of each row; none beyond is masked.
        size: length of the padded rows.

    Returns:
        Bool [B, size] on the CPU, True where masked.
    """
    mask = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, length in zip(mask, lengths, strict=True):
        count = int(probability * length / span + torch.rand(()).item())
        count = min(max(count, min_spans), length // span)
        if count:
            starts = torch.randperm(length - span + 1)[:count]
            row[(starts.unsqueeze(1) + torch.arange(span)).flatten()] = True
    return mask


def _check_ctc(directory: Path, config: PretrainedConfig) -> None:
    architectures = config.architectures or []
    if not any(name.endswith("ForCTC") for name in architectures):
        raise ValueError(
            f"{directory}: no CTC head there (config.json: {', '.join(architectures) or 'no architecture'}); give a "
            "model fine-tuned with CTC, or take an adapter that needs none"
        )
    if getattr(config, "add_adapter", False):
        raise ValueError(
            f"{directory}: its CTC head reads the model's own length adapter (add_adapter), which LST leaves out; give "
            "a model fine-tuned without, or take an adapter that needs no CTC head"
        )
