"""The plain way to compute what the plugin computes: one sentence at a time, no padding, no mask, no cache."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

SAMPLE_RATE = 16_000
IGNORED = -100

#: Token ids so far -> log-probabilities [V] of the next token.
NextToken = Callable[[Sequence[Sequence[int]]], Tensor]


def waveforms_of(sample: dict[str, Any]) -> list[Tensor]:
    """The waveforms of a batch, each without its padding."""
    net_input = sample["net_input"]
    return [w[:n].float() for w, n in zip(net_input["src_tokens"], net_input["src_lengths"].tolist())]


def targets_of(sample: dict[str, Any], pad: int) -> list[Tensor]:
    """The targets of a batch with their end of sentence, each without its padding."""
    return [row[row.ne(pad)] for row in sample["target"]]


def alone(sample: dict[str, Any], row: int, pad: int) -> dict[str, Any]:
    """A batch of one row of a batch."""
    waveform, target = waveforms_of(sample)[row], targets_of(sample, pad)[row]
    previous = torch.cat([target[-1:], target[:-1]])
    return {
        "id": sample["id"][row : row + 1],
        "net_input": {
            "src_tokens": waveform.unsqueeze(0),
            "src_lengths": torch.tensor([waveform.numel()]),
            "prev_output_tokens": previous.unsqueeze(0),
            **{side: sample["net_input"][side][row : row + 1] for side in ("prompt_before", "prompt_after")},
        },
        "target": target.unsqueeze(0),
        "nsentences": 1,
        "ntokens": target.numel(),
    }


def plain_prompt(model: Any) -> tuple[list[int], list[int]]:
    """Token ids before and after the speech, of a template without instructions."""
    tokenizer = AutoTokenizer.from_pretrained(model.record.sources["llm"]["path"])
    before, after = (part.strip() for part in model.record.prompt["template"].split("{speech}"))
    ids = [tokenizer.bos_token_id, *tokenizer.encode(before, add_special_tokens=False)]
    return ids, tokenizer.encode(after, add_special_tokens=False)


@functools.cache
def plain_frontend(path: str) -> tuple[Any, Any]:
    """A directory's feature extractor, and its encoder in eval mode."""
    return AutoFeatureExtractor.from_pretrained(path), AutoModel.from_pretrained(path).eval()


def plain_prefix(model: Any, waveform: Tensor) -> Tensor:
    """Embeddings [P, E] of ``prompt | start | speech | end | prompt``, by transformers and fairseq themselves."""
    extractor, encoder = plain_frontend(model.record.sources["frontend"]["path"])
    with torch.no_grad():
        values = extractor(waveform.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"]
        features = encoder(values).last_hidden_state
    adapter, markers = model.encoder.adapter, model.encoder.markers
    shorter, _ = adapter.subsampler(features, torch.tensor([features.size(1)]))  # [M, 1, C]
    speech = adapter.projection(adapter.norm(shorter.squeeze(1))) * adapter.scale
    embed = model.decoder.llm.get_input_embeddings()
    before, after = (embed(torch.tensor(ids, dtype=torch.long)) for ids in plain_prompt(model))
    return torch.cat([before, markers.start.unsqueeze(0), speech, markers.end.unsqueeze(0), after])


def plain_loss(model: Any, waveform: Tensor, target: Tensor) -> Tensor:
    """Summed loss of a target [U] by transformers' own loss: labels are -100 before the target."""
    prefix = plain_prefix(model, waveform)
    inputs = torch.cat([prefix, model.decoder.llm.get_input_embeddings()(target)]).unsqueeze(0)
    labels = torch.cat([target.new_full((prefix.size(0),), IGNORED), target]).unsqueeze(0)
    return model.decoder.llm(inputs_embeds=inputs, labels=labels, use_cache=False).loss * target.numel()


def plain_logits(model: Any, prefix: Tensor, continuations: Sequence[Sequence[int]]) -> Tensor:
    """Logits [N, U + 1, V] of and after the tokens of N equally long continuations [N, U] of one prefix."""
    tokens = torch.tensor(continuations, dtype=torch.long).view(len(continuations), -1)
    embedded = model.decoder.llm.get_input_embeddings()(tokens)
    inputs = torch.cat([prefix.expand(len(continuations), -1, -1), embedded], dim=1)
    return model.decoder.llm(inputs_embeds=inputs, use_cache=False).logits[:, prefix.size(0) - 1 :]


def next_token(models: Sequence[Any], waveform: Tensor) -> NextToken:
    """Log-probabilities of the next token, among ids that have one; over models the average of the probabilities."""
    prefixes = [plain_prefix(model, waveform) for model in models]

    def log_probs(continuations: Sequence[Sequence[int]]) -> Tensor:
        each = []
        for model, prefix in zip(models, prefixes):
            logits = plain_logits(model, prefix, continuations)[:, -1]
            logits[:, model.decoder.dictionary.ids_without_token] = -torch.inf
            each.append(F.log_softmax(logits, dim=-1).exp())
        return torch.stack(each).mean(dim=0).log()

    return log_probs


def plain_beam_search(
    log_probs: NextToken,
    eos: int,
    forbidden: Sequence[int],
    beam: int,
    max_len: int,
    min_len: int = 1,
    lenpen: float = 1.0,
    normalise: bool = True,
) -> list[tuple[list[int], float]]:
    """Hypotheses of one sentence, best first: at most ``beam`` pairs of tokens (with end of sentence) and score.

    Each step takes the 2 x beam best continuations of the live hypotheses. Of the first ``beam`` of them those that
    end are finished; the first ``beam`` that do not end live on. The search is over when ``beam`` are finished, or
    after ``max_len`` tokens, when only the end of sentence may follow.
    """
    live: list[tuple[list[int], float]] = [([], 0.0)]
    done: list[tuple[list[int], float]] = []
    for step in range(max_len + 1):
        scores = log_probs([tokens for tokens, _ in live])
        scores[:, list(forbidden)] = -torch.inf
        if step >= max_len:
            scores[:, [i for i in range(scores.size(1)) if i != eos]] = -torch.inf
        elif step < min_len:
            scores[:, eos] = -torch.inf
        totals = scores + torch.tensor([score for _, score in live]).unsqueeze(1)
        best, places = totals.view(-1).topk(min(2 * beam, totals.numel()))
        candidates = [
            ([*live[place // scores.size(1)][0], place % scores.size(1)], total)
            for place, total in zip(places.tolist(), best.tolist())
            if total > -torch.inf
        ]
        for tokens, total in candidates[:beam]:
            if tokens[-1] == eos and len(done) < beam:
                done.append((tokens, total / len(tokens) ** lenpen if normalise else total))
        live = [candidate for candidate in candidates if candidate[0][-1] != eos][:beam]
        if len(done) == beam or not live:
            break
    return sorted(done, key=lambda hypothesis: -hypothesis[1])


@contextmanager
def logit_bias(model: Any, bias: dict[int, float], others: float = 0.0) -> Iterator[None]:
    """Add constants to the LLM's logits, whoever calls it: ``bias`` to these tokens, ``others`` to all the others."""
    llm = model.decoder.llm
    added = torch.full((llm.config.vocab_size,), others)
    added[list(bias)] = torch.tensor(list(bias.values()))

    def add(module: Any, arguments: Any, output: Any) -> None:
        output.logits = output.logits + added

    handle = llm.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
