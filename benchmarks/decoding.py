#!/usr/bin/env python3
"""Beam search: the plugin's decoder in fairseq's generator against transformers' generate, on the same weights.

    python benchmarks/decoding.py                                   # CPU, a small Llama, as in the README
    python benchmarks/decoding.py --batch 1 --beam 4 --json out.json
    python benchmarks/decoding.py --device cuda --dtype bfloat16 --layers 32 --width 4096 --heads 32 --kv-heads 32 \\
        --intermediate 11008

Both get the same prefix embeddings (of different lengths, left-padded), make the same number of tokens with the same
beam and length penalty, and run in turns, one warm-up and then --repeats times each; the ratio is that of the medians.
cpu_ratio is that of the processor's time, which other work on the machine changes less. Whether hypotheses and scores
are identical is checked and reported. The weights are random: time does not depend on them.
"""

import argparse
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel
from torch import Tensor
from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import (
    EOS,
    PAD,
    add_common_arguments,
    add_llm_arguments,
    device_of,
    in_turns,
    llama,
    ratios,
    write_json,
)
from lst_fairseq.generation.beam_search import BeamSearchGenerator
from lst_fairseq.models.llm.cuda_graphs import Recording
from lst_fairseq.models.llm.decoder import LlmDecoder, left_pad

Hypotheses = list[tuple[list[int], float]]


class PrefixEncoder(FairseqEncoder):
    """Hands given embeddings to the decoder as if they were encoded speech."""

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        none = src_lengths.new_zeros(len(src_lengths), 0)
        rows = torch.arange(len(src_lengths), device=src_lengths.device)
        return {
            "speech": src_tokens,
            "speech_lengths": src_lengths,
            "row": rows,
            "prompt_before": none,
            "prompt_after": none,
        }

    def reorder_encoder_out(self, encoder_out: dict[str, Tensor], new_order: Tensor) -> dict[str, Tensor]:
        return {**encoder_out, "row": encoder_out["row"].index_select(0, new_order)}

    def max_positions(self) -> int:
        return int(1e9)


class EndAt(LogitsProcessor):
    """Ends every hypothesis with its N-th token and none before, as fairseq's generator does at its limits."""

    def __init__(self, tokens: int):
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        end = scores[:, EOS].clone()
        if input_ids.size(1) < self.tokens - 1:
            for token in (PAD, EOS):  # a list of both would be copied to a GPU at each step
                scores[:, token] = -torch.inf
        else:
            scores.fill_(-torch.inf)
            scores[:, EOS] = end
        return scores


def dictionary_of(size: int) -> Dictionary:
    """A fairseq dictionary of that many symbols, all of them tokens."""
    dictionary = Dictionary()
    for i in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    dictionary.ids_without_token = []
    return dictionary


def generator_of(model: Any, dictionary: Dictionary, beam: int, tokens: int) -> BeamSearchGenerator:
    """The generator that the task builds; hypotheses end with their ``tokens``-th token and not before."""
    limits = {"max_len_b": tokens - 1, "min_len": tokens - 1}
    return BeamSearchGenerator([model], dictionary, beam, len_penalty=1.0, **limits)


@dataclass
class Task:
    """Prefixes to decode, and both ways to do so."""

    llm: LlamaForCausalLM
    args: Namespace
    model: FairseqEncoderDecoderModel
    generator: BeamSearchGenerator
    prefix: Tensor  # [B, P, E], right-padded
    lengths: Tensor  # [B]

    @classmethod
    def build(cls, args: Namespace, device: torch.device, llm: LlamaForCausalLM | None = None) -> "Task":
        """Random prefixes for the LLM that the flags describe: the longest of --prefix positions, none below 2/3."""
        llm = llama(args, device) if llm is None else llm
        torch.manual_seed(2)
        lengths = torch.randint(max(1, args.prefix * 2 // 3), args.prefix + 1, (args.batch,), device=device)
        lengths[0] = args.prefix
        prefix = 0.05 * torch.randn(args.batch, args.prefix, args.width, device=device, dtype=llm.dtype)
        dictionary = dictionary_of(args.vocabulary)
        decoder = LlmDecoder(llm, dictionary, freeze=True, max_speech=args.prefix, max_prompt=0)
        model = FairseqEncoderDecoderModel(PrefixEncoder(dictionary), decoder).to(device).eval()
        generator = generator_of(model, dictionary, args.beam, args.tokens)
        return cls(llm, args, model, generator, prefix, lengths)

    def plugin(self) -> Hypotheses:
        """The plugin's generator over its decoder."""
        sample = {"net_input": {"src_tokens": self.prefix, "src_lengths": self.lengths}}
        hypotheses = self.generator.generate([self.model], sample)
        return [(beams[0]["tokens"].tolist(), float(beams[0]["score"])) for beams in hypotheses]

    def plugin_step_by_step(self) -> Hypotheses:
        """The same with no step recorded as a CUDA graph."""
        decoder = self.model.decoder
        recording, decoder.recording = decoder.recording, Recording(wanted=False)
        try:
            return self.plugin()
        finally:
            decoder.recording = recording

    def generate(self) -> Hypotheses:
        """transformers' generate."""
        has_content = torch.arange(self.args.prefix, device=self.prefix.device) < self.lengths.unsqueeze(1)
        padded, mask = left_pad(self.prefix, has_content)
        output = self.llm.generate(
            inputs_embeds=padded,
            attention_mask=mask.long(),
            do_sample=False,
            num_beams=self.args.beam,
            length_penalty=1.0,
            max_new_tokens=self.args.tokens,
            logits_processor=LogitsProcessorList([EndAt(self.args.tokens)]),
            return_dict_in_generate=True,
            output_scores=True,
        )
        # Greedy search has no scores of sequences.
        scores = output.get("sequences_scores", torch.full((len(padded),), torch.nan))
        return list(zip(output.sequences.tolist(), scores.tolist(), strict=True))


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser)
    parser.add_argument("--batch", type=int, default=16, help="sentences (16)")
    parser.add_argument("--prefix", type=int, default=150, help="positions of the longest prefix (150)")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of each hypothesis (40)")
    parser.add_argument("--beam", type=int, default=4)
    add_common_arguments(parser, repeats=7)  # the speed of a virtual machine varies by more than a tenth
    return parser


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    device = device_of(args)
    task = Task.build(args, device)
    calls = {"plugin": task.plugin, "transformers": task.generate}
    timings, results = in_turns(calls, args.repeats, device)
    pairs = list(zip(results["plugin"], results["transformers"], strict=True))
    identical = all(ours[0] == theirs[0] for ours, theirs in pairs)
    difference = max(abs(ours[1] - theirs[1]) for ours, theirs in pairs)
    faster = ratios(timings, "plugin", "transformers")
    speed = {name: args.batch * args.tokens / timing.median for name, timing in timings.items()}
    for name, timing in timings.items():
        print(f"{name}: {timing.median:.2f} s ({timing.cpu_median:.2f} s of the CPU), {speed[name]:.0f} tokens/s")
    print(
        f"ratio {faster['ratio']:.2f} ({faster['cpu_ratio']:.2f} by the CPU's time), hypotheses identical: "
        f"{identical}, scores within {difference:.1e}"
    )
    write_json(
        args.json,
        args,
        f"Beam search, batch {args.batch}, beam {args.beam}, prefix {args.prefix}, {args.tokens} tokens",
        peer="transformers' generate",
        **faster,
        unit="times the tokens a second",
        identical=identical,
        score_difference=difference,
        tokens_per_second=speed,
        seconds={name: timing.seconds for name, timing in timings.items()},
        cpu_seconds={name: timing.cpu_seconds for name, timing in timings.items()},
    )


if __name__ == "__main__":
    main()
