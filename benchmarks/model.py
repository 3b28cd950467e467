"""A whole model of the plugin with random weights, of any size and on any device, and batches for it."""

import argparse
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf
from torch import Tensor
from transformers import Wav2Vec2Config

from benchmarks.common import EOS, llama
from benchmarks.decoding import dictionary_of
from lst_fairseq.criterions.lst_cross_entropy import LstCrossEntropy
from lst_fairseq.data.audio import SAMPLE_RATE
from lst_fairseq.models.adapters import build_adapter
from lst_fairseq.models.architectures import apply_architecture
from lst_fairseq.models.config import LstModelConfig, train_modules
from lst_fairseq.models.encoder import SpeechEncoder
from lst_fairseq.models.frontends import FRONTENDS
from lst_fairseq.models.llm.decoder import LlmDecoder
from lst_fairseq.models.lst import LstModel, frontend_options
from lst_fairseq.models.trained_parts import CheckpointRecord

PROMPT_BEFORE, PROMPT_AFTER = 8, 16  # tokens, about LST's conversation


def add_frontend_arguments(parser: argparse.ArgumentParser, **defaults: int) -> None:
    """Flags of the speech encoder's size, a wav2vec 2.0, and of the adapter's: frontend-layers, frontend-width, ..."""
    sizes = {"frontend_layers": 4, "frontend_width": 256, "frontend_heads": 4, "adapter_channels": 256}
    for name, size in {**sizes, **defaults}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help=f"({size})")


def model_settings(args: Namespace, train: str, checkpointing: bool) -> tuple[LstModelConfig, dict[str, Any]]:
    """The model's settings as the architecture ``lst_7b`` has them, and those of the speech encoder."""
    cfg = LstModelConfig(
        adapter_channels=args.adapter_channels, train_modules=train, llm_gradient_checkpointing=checkpointing
    )
    apply_architecture(cfg, "lst_7b")
    frontend = Wav2Vec2Config(
        hidden_size=args.frontend_width,
        num_hidden_layers=args.frontend_layers,
        num_attention_heads=args.frontend_heads,
        intermediate_size=4 * args.frontend_width,
        conv_dim=(min(512, args.frontend_width),) * 7,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    return cfg, {"kind": "wav2vec2", "config": frontend.to_dict(), "preprocessor": {"do_normalize": True}}


def lst_model(args: Namespace, device: torch.device, train: str = "adapter", checkpointing: bool = False) -> LstModel:
    """The model ``lst`` with a wav2vec 2.0 and a Llama of the sizes that the flags say, in train mode.

    Args:
        args: flags of :func:`add_frontend_arguments` and of :func:`benchmarks.common.add_llm_arguments`.
        device: where it is made.
        train: ``--train-modules``.
        checkpointing: recompute the LLM's activations in the backward pass.
    """
    cfg, settings = model_settings(args, train, checkpointing)
    trained = train_modules(train)
    llm = llama(args, device)
    if checkpointing:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    embeddings = llm.get_input_embeddings().weight.detach()
    with device:
        frontend = FRONTENDS["wav2vec2"].empty(settings, frontend_options(cfg))
        adapter = build_adapter(cfg, frontend, embeddings)
        encoder = SpeechEncoder(frontend, adapter, embeddings, "frontend" not in trained)
    decoder = LlmDecoder(llm, dictionary_of(args.vocabulary), "llm" not in trained, max_speech=2000, max_prompt=64)
    record = CheckpointRecord(held=trained, sources={}, prompt={}, tokenizer="")
    return LstModel(encoder, decoder, trained, record).to(device, getattr(torch, args.dtype)).train()


def batch(model: LstModel, seconds: list[float], tokens: list[int], seed: int = 3) -> dict[str, Any]:
    """A batch as the dataset collates it: noise of those lengths, random targets of so many tokens (with the end).

    Args:
        model: whose device and vocabulary it is for.
        seconds: of speech, for each row.
        tokens: of each target, likewise.
    """
    generator = torch.Generator().manual_seed(seed)
    dictionary: Dictionary = model.decoder.dictionary
    rows = len(seconds)
    lengths = torch.tensor([round(s * SAMPLE_RATE) for s in seconds])
    waveforms = 0.1 * torch.randn(rows, int(lengths.max()), generator=generator)
    waveforms.masked_fill_(torch.arange(waveforms.size(1)) >= lengths.unsqueeze(1), 0)
    target = torch.full((rows, max(tokens)), dictionary.pad())
    for row, size in enumerate(tokens):
        target[row, :size] = torch.randint(4, len(dictionary), (size,), generator=generator)
        target[row, size - 1] = EOS
    previous = torch.cat([torch.full((rows, 1), EOS), target[:, :-1].masked_fill(target[:, :-1].eq(EOS), 1)], dim=1)
    prompts = {
        "prompt_before": torch.randint(4, len(dictionary), (rows, PROMPT_BEFORE), generator=generator),
        "prompt_after": torch.randint(4, len(dictionary), (rows, PROMPT_AFTER), generator=generator),
    }
    net_input = {"src_tokens": waveforms.double(), "src_lengths": lengths, "prev_output_tokens": previous, **prompts}
    device = next(model.parameters()).device
    return {
        "net_input": {name: value.to(device) for name, value in net_input.items()},
        "target": target.to(device),
        "ntokens": sum(tokens),
        "nsentences": rows,
    }


def criterion(model: LstModel) -> LstCrossEntropy:
    """The plugin's criterion without smoothing."""
    return LstCrossEntropy(SimpleNamespace(target_dictionary=model.decoder.dictionary), False, 0.0)


class Training:
    """Updates as fairseq's trainer makes them: loss, backward, clipping, Adam; in bf16 with fp32 master weights.

    Raises:
        ValueError: the model is in float16, which would need a loss scale.
    """

    def __init__(self, model: LstModel, lr: float = 1e-4):
        self.model = model
        self.criterion = criterion(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        dtype = parameters[0].dtype
        if dtype == torch.float16:
            raise ValueError("--dtype float16: training is measured in float32 and bfloat16; choose one of them")
        adam = {"_name": "adam", "lr": [lr], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8, "weight_decay": 0.0}
        cfg = OmegaConf.create(
            {
                "common": {"bf16": True, "fp16_no_flatten_grads": True, "model_parallel_size": 1},
                "distributed_training": {"distributed_world_size": 1},
                "optimization": {"update_freq": [1]},
                "optimizer": {**adam, "use_old_adam": False, "fp16_adam_stats": False, "tpu": False},
            }
        )
        if dtype == torch.bfloat16:
            self.optimizer: Any = FP16Optimizer.build_optimizer(cfg, parameters)
        else:
            self.optimizer = FairseqAdam(cfg.optimizer, parameters)

    def step(self, *samples: dict[str, Any]) -> Tensor:
        """One update of some batches, whose gradients add up; the last one's loss, not yet on the host."""
        self.optimizer.zero_grad()
        total = 0
        for sample in samples:
            loss, sample_size, _ = self.criterion(self.model, sample)
            self.optimizer.backward(loss)
            total += sample_size
        self.optimizer.multiply_grads(1 / total)
        self.optimizer.clip_grad_norm(1.0)
        self.optimizer.step()
        return loss.detach()
