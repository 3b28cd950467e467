"""How near the adapter's outputs are to the LLM's embeddings of what was said: whether stage 1 has done its work.

Measured on the model's own embedding table, without training anything, so that a checkpoint of stage 1 can be judged
before stage 2 is paid for. An adapter that only now begins to learn gives vectors about as near to any other transcript
as to the right one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lst_fairseq.criterions.adapter_collapse import variation
from lst_fairseq.data.audio import SAMPLE_RATE, read_segment
from lst_fairseq.data.manifest import Row
from lst_fairseq.data.prompt import NO_TOKEN, collate_prompts
from lst_fairseq.generation.translator import Translator
from lst_fairseq.models.llm.decoder import positions
from lst_fairseq.models.llm.families import embedding_outputs


@dataclass(frozen=True)
class Utterance:
    """A segment as the LLM sees it.

    Attributes:
        id, transcript: of the manifest.
        seconds: duration.
        speech: the adapter's outputs [n, E], without the markers.
        tokens: LongTensor [m], the transcript's ids.
        text: their embeddings [m, E].
    """

    id: str
    transcript: str
    seconds: float
    speech: Tensor
    tokens: Tensor
    text: Tensor


@dataclass(frozen=True)
class Attention:
    """Attention of a translation's tokens over the speech.

    Attributes:
        pieces: the translation's tokens as text, the end of sentence last.
        text: the translation.
        weights: [u, n]; a row is one token's attention, from the position that predicts it, over the adapter's outputs.
            What it gives to prompt, markers and earlier tokens is missing from the row's sum to 1.
    """

    pieces: list[str]
    text: str
    weights: Tensor


@torch.inference_mode()
def encode(translator: Translator, rows: Sequence[Row], batch_size: int = 8) -> Iterator[Utterance]:
    """Run frontend and adapter over segments with a transcript.

    Args:
        translator: the model.
        rows: of a manifest, each with audio and ``src_text``.
        batch_size: segments at once.
    """
    model, dictionary = translator.model, translator.task.target_dictionary
    table = embedding_outputs(model.decoder.llm).float()
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        waveforms = [torch.from_numpy(read_segment(row.segment)) for row in batch]
        out = _encoded(translator, waveforms)
        parts = batch, waveforms, out["speech"], out["speech_lengths"].tolist()
        for row, waveform, outputs, length in zip(*parts, strict=True):
            tokens = torch.as_tensor(np.asarray(dictionary.encode([row.src_text])[0], dtype=np.int64))
            yield Utterance(
                id=row.id,
                transcript=row.src_text,
                seconds=len(waveform) / SAMPLE_RATE,
                speech=outputs[1 : length - 1].float().cpu(),
                tokens=tokens,
                text=table[tokens.to(table.device)].cpu(),
            )


def _encoded(translator: Translator, waveforms: Sequence[Tensor]) -> dict[str, Tensor]:
    """What the model's encoder makes of waveforms, with decoding's prompt."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True)
    inputs = {
        "src_tokens": padded,
        "src_lengths": lengths,
        **collate_prompts([translator.prompt] * len(waveforms)),
    }
    return translator.model.encoder(**{name: tensor.to(translator.device) for name, tensor in inputs.items()})


# --- how near ---------------------------------------------------------------------------------------------------------


def cosines(speech: Tensor, text: Tensor) -> Tensor:
    """Cosine of each of [n, E] with each of [m, E]: [n, m]; that of a vector of zeros is 0."""
    return torch.nn.functional.normalize(speech, dim=1) @ torch.nn.functional.normalize(text, dim=1).T


def nearest_cosine(speech: Tensor, text: Tensor) -> float:
    """Mean over speech vectors [n, E] of the cosine with the nearest of the text vectors [m, E]."""
    return float(cosines(speech, text).max(dim=1).values.mean())


def matching_score(speech: Tensor, text: Tensor) -> float:
    """How well speech and a text match, both ways: the mean of :func:`nearest_cosine` and the same from text to speech.

    The second half keeps long texts, in which there is something near to everything, from matching best; as the
    harmonic mean in BERTScore (Zhang et al., 2020).
    """
    both = cosines(speech, text)
    return float(both.max(dim=1).values.mean() + both.max(dim=0).values.mean()) / 2


def measure(utterances: Sequence[Utterance], candidates: int = 20, seed: int = 1) -> dict[str, Any]:
    """Alignment of a model's speech with text, over utterances.

    Each utterance meets its own transcript and ``candidates - 1`` of the others, drawn once for all checkpoints by the
    seed; texts that equal its own are not drawn.

    Returns:
        ``cosine``: mean over utterances of :func:`nearest_cosine` with the right transcript; ``other_cosine``: the same
        with the other candidates; ``retrieval``: share of utterances whose own transcript has the highest
        :func:`matching_score` (chance: 1 / ``candidates``); ``candidates``, ``segments``; ``vectors_per_token``;
        ``variation`` and ``scale`` of the speech (:func:`variation`, :func:`scale`).

    Raises:
        ValueError: fewer than two different transcripts, or fewer than two candidates.
    """
    if candidates < 2 or len({utterance.transcript for utterance in utterances}) < 2:
        raise ValueError("retrieval needs two candidates and two different transcripts at least; take more segments")
    rng = np.random.default_rng(seed)
    own, other, right, counts = [], [], [], []
    for utterance in utterances:
        others = [each for each in utterances if each.transcript != utterance.transcript]
        order = rng.permutation(len(others))[: candidates - 1]
        drawn = [others[i] for i in order]
        counts.append(len(drawn) + 1)
        own.append(nearest_cosine(utterance.speech, utterance.text))
        other += [nearest_cosine(utterance.speech, each.text) for each in drawn]
        best = max(matching_score(utterance.speech, each.text) for each in drawn)
        right.append(matching_score(utterance.speech, utterance.text) > best)
    vectors, tokens = (sum(len(getattr(u, part)) for u in utterances) for part in ("speech", "tokens"))
    return {
        "cosine": float(np.mean(own)),
        "other_cosine": float(np.mean(other)),
        "retrieval": float(np.mean(right)),
        "candidates": max(counts),
        "segments": len(utterances),
        "vectors_per_token": vectors / tokens,
        "variation": variation(torch.cat([utterance.speech for utterance in utterances])),
        "scale": scale(*(torch.cat([getattr(u, part) for u in utterances]) for part in ("speech", "text"))),
    }


def scale(speech: Tensor, text: Tensor) -> float:
    """Root mean square of speech vectors [n, E] over that of text vectors [m, E]."""
    return float((speech.square().mean() / text.square().mean()).sqrt())


def nearest_tokens(speech: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The vocabulary's nearest token to each speech vector.

    Args:
        speech: [n, E].
        table: embeddings of all ids [V, E].

    Returns:
        Cosines [n] and ids [n].
    """
    best = cosines(speech, table).max(dim=1)
    return best.values, best.indices


# --- attention --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def attention_over_speech(translator: Translator, row: Row, layer: int | None = None) -> Attention:
    """Translate a segment and look at what the tokens attend to.

    Args:
        translator: the model.
        row: a segment with audio.
        layer: of the LLM, counted from 1; None: the mean over all layers. Heads are averaged.

    Raises:
        ValueError: no such layer, or an LLM that does not say what it attends to.
    """
    (translation,) = translator.translate([str(row.segment)])
    decoder, dictionary = translator.model.decoder, translator.task.target_dictionary
    out = _encoded(translator, [torch.from_numpy(read_segment(row.segment))])
    prefix, mask = decoder.prefix(out)
    tokens = torch.tensor([translation.tokens], device=prefix.device)
    embedded = decoder.llm.get_input_embeddings()(tokens[:, :-1]).to(prefix.dtype)
    mask = torch.cat([mask, torch.ones_like(tokens[:, :-1], dtype=torch.bool)], dim=1)
    weights = _attentions(decoder, torch.cat([prefix, embedded], dim=1), mask)
    if layer is not None and not 1 <= layer <= len(weights):
        raise ValueError(f"--layer {layer}: the LLM has layers 1 to {len(weights)}")
    mean = (weights if layer is None else weights[layer - 1 : layer]).mean(dim=0)
    first = int(out["prompt_before"].ne(NO_TOKEN).sum()) + 1  # after the start marker
    speech = int(out["speech_lengths"][0]) - 2
    rows = slice(prefix.size(1) - 1, prefix.size(1) - 1 + tokens.size(1))
    pieces = [dictionary.string([token]) for token in translation.tokens[:-1]] + ["</s>"]
    return Attention(pieces, translation.text, mean[rows, first : first + speech].cpu())


def _attentions(decoder: Any, inputs: Tensor, mask: Tensor) -> Tensor:
    """Attention of each layer, averaged over its heads, [layers, L, L], for one row of embeddings [1, L, E]."""
    llm = decoder.llm
    arguments = {"attention_mask": mask.long(), "position_ids": positions(mask), "use_cache": False}
    if "position_ids" not in decoder.llm_arguments:
        del arguments["position_ids"]
    before = llm.config._attn_implementation
    llm.set_attn_implementation("eager")  # the only one that returns its weights
    try:
        found = llm(inputs_embeds=inputs, output_attentions=True, **arguments).attentions
    finally:
        llm.set_attn_implementation(before)
    if not found or any(layer is None for layer in found):
        raise ValueError(f"--llm: {type(llm).__name__} does not return its attention")
    return torch.stack([layer[0].float().mean(dim=0) for layer in found])


def spread_rows(rows: Iterable[Row], count: int) -> list[Row]:
    """``count`` rows with audio and a transcript, spread evenly over a manifest; all where there are fewer."""
    usable = [row for row in rows if not row.is_text and row.src_text.strip()]
    count = min(count, len(usable))
    return [usable[i * len(usable) // count] for i in range(count)]
