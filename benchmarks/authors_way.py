#!/usr/bin/env python3
"""Decoding by the plugin against a plain loop that encodes the speech again at each step, one sentence at a time.

    python benchmarks/authors_way.py                     # CPU, small models
    python benchmarks/authors_way.py --batch 8 --tokens 20 --seconds 6 --json out.json

The loop is how the authors of LST decode: each sentence alone; each step runs the speech encoder, the adapter and the
LLM over everything from the start (the speech once for all beams). Both sides use the same modules and weights and make
the same number of tokens with the same beam; whether hypotheses and scores are identical is checked and reported.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import EOS, PAD, add_common_arguments, add_llm_arguments, device_of, in_turns, ratios, write_json
from benchmarks.decoding import Hypotheses, generator_of
from benchmarks.model import add_frontend_arguments, batch, lst_model
from lst_fairseq.models.lst import LstModel


def encoded(model: LstModel, net_input: dict[str, Tensor], row: int) -> Tensor:
    """Prefix embeddings [P, E] of one sentence, from its waveform on."""
    samples = int(net_input["src_lengths"][row])
    features, n_features = model.encoder.frontend(
        net_input["src_tokens"][row : row + 1, :samples], torch.tensor([samples])
    )
    speech, length = model.encoder.adapter(features.to(model.encoder.markers.start.dtype), n_features)
    speech, length = model.encoder.markers(speech, length)
    embed = model.decoder.llm.get_input_embeddings()
    before, after = (embed(net_input[side][row]) for side in ("prompt_before", "prompt_after"))
    return torch.cat([before, speech[0, : int(length)].to(before.dtype), after])


def plain_search(
    model: LstModel, net_input: dict[str, Tensor], row: int, beam: int, n_tokens: int
) -> tuple[list[int], float]:
    """Beam search for one sentence; hypotheses end with their last token and not before."""
    llm = model.decoder.llm
    embed = llm.get_input_embeddings()
    device = net_input["src_tokens"].device
    tokens = torch.zeros(1, 0, dtype=torch.long, device=device)
    scores = torch.zeros(1, device=device)
    for step in range(n_tokens):
        prefix = encoded(model, net_input, row)  # again at each step
        inputs = torch.cat([prefix.expand(len(tokens), -1, -1), embed(tokens)], dim=1)
        log_probs = (
            llm(inputs_embeds=inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().log_softmax(dim=-1)
        )
        if step == n_tokens - 1:
            best = scores + log_probs[:, EOS]
            winner = int(best.argmax())
            return [*tokens[winner].tolist(), EOS], float(best[winner] / n_tokens)
        log_probs[:, [PAD, EOS]] = -torch.inf
        total = (scores.unsqueeze(1) + log_probs).flatten()
        scores, index = total.topk(beam)
        parent = index.div(log_probs.size(1), rounding_mode="floor")
        tokens = torch.cat([tokens[parent], index.remainder(log_probs.size(1)).unsqueeze(1)], dim=1)
    raise ValueError("--tokens 0: give 1 or more")


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser, layers=4, width=256, heads=4, kv_heads=4, intermediate=688, vocabulary=8000)
    add_frontend_arguments(parser)
    parser.add_argument("--batch", type=int, default=8, help="sentences (8)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the longest speech; the shortest has half (6)")
    parser.add_argument("--tokens", type=int, default=20, help="tokens of each hypothesis (20)")
    parser.add_argument("--beam", type=int, default=4)
    add_common_arguments(parser, repeats=1)
    return parser


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    device = device_of(args)
    model = lst_model(args, device).eval()
    seconds = [args.seconds * (1 - 0.5 * i / args.batch) for i in range(args.batch)]
    net_input = batch(model, seconds, [1] * args.batch)["net_input"]
    generator = generator_of(model, model.decoder.dictionary, args.beam, args.tokens)

    def plugin() -> Hypotheses:
        hypotheses = generator.generate([model], {"net_input": net_input})
        return [(beams[0]["tokens"].tolist(), float(beams[0]["score"])) for beams in hypotheses]

    def loop() -> Hypotheses:
        return [plain_search(model, net_input, row, args.beam, args.tokens) for row in range(args.batch)]

    timings, results = in_turns({"plugin": plugin, "loop": loop}, args.repeats, device, warm=False)
    pairs = list(zip(results["plugin"], results["loop"], strict=True))
    identical = all(ours[0] == theirs[0] for ours, theirs in pairs)
    difference = max(abs(ours[1] - theirs[1]) for ours, theirs in pairs)
    faster = ratios(timings, "plugin", "loop")
    for name, timing in timings.items():
        print(f"{name}: {timing.median:.2f} s ({timing.cpu_median:.2f} s of the CPU)")
    print(
        f"ratio {faster['ratio']:.1f} ({faster['cpu_ratio']:.1f} by the CPU's time), hypotheses identical: "
        f"{identical}, scores within {difference:.1e}"
    )
    write_json(
        args.json,
        args,
        f"Decoding from the waveform, batch {args.batch}, {args.seconds:g} s, beam {args.beam}, {args.tokens} tokens",
        peer="one sentence at a time, encoded again at each step",
        **faster,
        unit="times the tokens a second",
        identical=identical,
        score_difference=difference,
        seconds={name: timing.seconds for name, timing in timings.items()},
        cpu_seconds={name: timing.cpu_seconds for name, timing in timings.items()},
    )


if __name__ == "__main__":
    main()
