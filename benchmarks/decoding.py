#!/usr/bin/env python3
"""Beam search: the plugin's decoder in fairseq's generator against transformers' generate, on the same weights.

    python benchmarks/decoding.py                                   # CPU, a small Llama, as in the README
    python benchmarks/decoding.py --batch 1 --beam 4 --json out.json
    python benchmarks/decoding.py --device cuda --dtype bfloat16 --layers 32 --width 4096 --heads 32 --kv-heads 32 \\
        --intermediate 11008

Both get the same prefix embeddings (of different lengths, left-padded), make the same number of tokens with the same
beam and length penalty, and run in turns, one warm-up and then --repeats times each; the ratio is that of the medians.
Whether hypotheses and scores are identical is checked and reported. The weights are random: time does not depend on
them.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.models.decoder import LlmDecoder, left_pad

PAD, EOS = 1, 2


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
            scores[:, [PAD, EOS]] = -torch.inf
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


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds, and what the call returned."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("width", 512), ("heads", 8), ("kv-heads", 8), ("intermediate", 1376)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=16, help="sentences (16)")
    parser.add_argument("--prefix", type=int, default=150, help="positions of the longest prefix (150)")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of each hypothesis (40)")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=0,
        initializer_range=0.05,
    )
    with device:
        llm = LlamaForCausalLM(config).to(dtype).eval()
    lengths = torch.randint(args.prefix * 2 // 3, args.prefix + 1, (args.batch,), device=device)
    lengths[0] = args.prefix
    prefix = 0.05 * torch.randn(args.batch, args.prefix, args.width, device=device, dtype=dtype)
    padded, mask = left_pad(prefix, torch.arange(args.prefix, device=device) < lengths.unsqueeze(1))

    dictionary = dictionary_of(args.vocabulary)
    decoder = LlmDecoder(llm, dictionary, freeze=True, max_speech=args.prefix, max_prompt=0)
    model = FairseqEncoderDecoderModel(PrefixEncoder(dictionary), decoder).to(device).eval()
    # Both make exactly --tokens tokens: the end of sentence is allowed as the last one only.
    generator = SequenceGenerator(
        [model], dictionary, args.beam, max_len_b=args.tokens - 1, min_len=args.tokens - 1, len_penalty=1.0
    )
    sample = {"net_input": {"src_tokens": prefix, "src_lengths": lengths}}

    def plugin() -> list[tuple[list[int], float]]:
        return [(h[0]["tokens"].tolist(), float(h[0]["score"])) for h in generator.generate([model], sample)]

    def peer() -> list[tuple[list[int], float]]:
        output = llm.generate(
            inputs_embeds=padded,
            attention_mask=mask.long(),
            do_sample=False,
            num_beams=args.beam,
            length_penalty=1.0,
            max_new_tokens=args.tokens,
            logits_processor=LogitsProcessorList([EndAt(args.tokens)]),
            return_dict_in_generate=True,
            output_scores=True,
        )
        return list(zip(output.sequences.tolist(), output.sequences_scores.tolist(), strict=True))

    plugin(), peer()  # warm-up
    seconds: dict[str, list[float]] = {"plugin": [], "transformers": []}
    for _ in range(args.repeats):
        for name, call in (("plugin", plugin), ("transformers", peer)):
            taken, result = timed(call, device)
            seconds[name].append(taken)
            if name == "plugin":
                ours = result
    theirs = result
    identical = all(a[0] == b[0] for a, b in zip(ours, theirs, strict=True))
    difference = max(abs(a[1] - b[1]) for a, b in zip(ours, theirs, strict=True))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    speed = {name: args.batch * args.tokens / value for name, value in median.items()}
    ratio = median["transformers"] / median["plugin"]
    for name, value in speed.items():
        print(f"{name}: {median[name]:.2f} s, {value:.0f} tokens/s")
    print(f"ratio {ratio:.2f}, hypotheses identical: {identical}, scores within {difference:.1e}")
    if args.json:
        described = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        args.json.write_text(
            json.dumps(
                {
                    "ratio": ratio,
                    "identical": identical,
                    "score_difference": difference,
                    "seconds": seconds,
                    "settings": described,
                },
                indent=2,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
