"""fairseq's generator on tiny models equals plain searches over cache-free passes, one sentence at a time."""

import itertools
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf

from lst_fairseq.generation.flags import UNSUPPORTED
from tests.conftest import save_llama
from tests.support.helpers import batch_of, build
from tests.support.reference import (
    SAMPLE_RATE,
    alone,
    logit_bias,
    next_token,
    plain_beam_search,
    plain_logits,
    plain_prefix,
    waveforms_of,
)
from tests.support.running import write_split

EOS, PAD = 2, 1
ENDING = {EOS: 3.0}  # makes the untrained LLM end some hypotheses early and others late
Hypotheses = list[list[tuple[list[int], float]]]  # of each sentence, best first


@pytest.fixture(scope="module")
def tiny(
    corpus: Path, backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, dict[str, Any]]:
    """(task, model, batch of the whole test split); the LLM's weights are large, so that it says various things."""
    path = tmp_path_factory.mktemp("llama")
    save_llama(path, seed=22, tied=False, initializer_range=0.35)
    _, task, model = build(corpus, {**backbones, "llama": str(path)})
    task.load_dataset("test")
    dictionary = task.target_dictionary
    assert (dictionary.eos(), dictionary.pad()) == (EOS, PAD)
    return task, model, batch_of(task, "test", range(5))


@pytest.fixture(scope="module")
def other(corpus: Path, backbones: dict[str, str]) -> Any:
    """A model with another LLM of the same vocabulary."""
    return build(corpus, {**backbones, "llama": backbones["llama_other"]})[2]


def generate(task: Any, models: list[Any], sample: dict[str, Any], prefix: Any = None, **settings: Any) -> Hypotheses:
    """What fairseq-generate does with a batch; settings are its flags."""
    generator = task.build_generator(models, Namespace(**settings))
    found = task.inference_step(generator, models, sample, prefix_tokens=prefix)
    return [[(h["tokens"].tolist(), h["score"].item()) for h in hypotheses] for hypotheses in found]


def scored(model: Any, waveform: torch.Tensor, sentences: list[Any]) -> list[tuple[list[int], float]]:
    """Equally long sentences with their end, and their log-probabilities, by one cache-free pass."""
    complete = torch.tensor([[*sentence, EOS] for sentence in sentences])
    log_probs = plain_logits(model, plain_prefix(model, waveform), complete[:, :-1].tolist()).log_softmax(dim=-1)
    totals = log_probs.gather(2, complete.unsqueeze(2)).sum(dim=(1, 2))
    return list(zip(complete.tolist(), totals.tolist()))


def assert_same(got: Hypotheses, expected: Hypotheses) -> None:
    """Identical tokens, scores within 1e-4."""
    assert [[tokens for tokens, _ in h] for h in got] == [[tokens for tokens, _ in h] for h in expected]
    for ours, theirs in zip(itertools.chain(*got), itertools.chain(*expected)):
        assert ours[1] == pytest.approx(theirs[1], abs=1e-4)


@torch.no_grad()
def test_speech_longer_than_in_training_leaves_less_room(backbones: dict[str, str], tmp_path: Path) -> None:
    """A batch's targets end where the LLM's positions do, and those of other batches where they did."""
    save_llama(tmp_path / "llm", max_position_embeddings=60)
    write_split(tmp_path, "test", [(1.0, ""), (2.0, ""), (3.5, "")])
    _, task, model = build(tmp_path, {**backbones, "llama": str(tmp_path / "llm")}, max_source_seconds=2)
    task.load_dataset("test")
    for indices in ([0, 1], [2], [0, 2]):
        sample = batch_of(task, "test", indices)
        prefixes = [len(plain_prefix(model, waveform)) for waveform in waveforms_of(sample)]
        usual = model.max_decoder_positions()
        room = min(usual, 60 - max(prefixes))
        assert (room < usual) == (2 in indices)
        with logit_bias(model, {EOS: -100.0}):
            got = generate(task, [model], sample, beam=2, max_len_b=100)
        assert {len(tokens) for hypotheses in got for tokens, _ in hypotheses} == {room}
    with pytest.raises(ValueError, match=r"speech and prompt take 1\d\d positions of the LLM, which has 60: cut"):
        sample["net_input"]["src_tokens"] = sample["net_input"]["src_tokens"].repeat(1, 3)
        sample["net_input"]["src_lengths"] = sample["net_input"]["src_lengths"] * 3
        generate(task, [model], sample, beam=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"beam": 1, "max_len_b": 12},
        {"beam": 2, "max_len_b": 12, "lenpen": 0.0},
        {"beam": 4, "max_len_b": 12, "lenpen": 0.6},
        {"beam": 4, "max_len_b": 9, "lenpen": 2.0, "min_len": 4},
        {"beam": 5, "max_len_b": 10, "unnormalized": True},
        {"beam": 3, "max_len_b": 1},
        {"beam": 3, "max_len_b": 3, "min_len": 3},
        {"beam": 2, "max_len_b": 6, "min_len": 0, "ending": 4.0},
    ],
)
@torch.no_grad()
def test_equals_a_plain_beam_search(settings: dict[str, Any], tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """All hypotheses of all sentences, in a batch of mixed lengths."""
    task, model, sample = tiny
    settings = dict(settings)
    with logit_bias(model, {EOS: settings.pop("ending", ENDING[EOS])}):
        got = generate(task, [model], sample, **settings)
        expected = [
            plain_beam_search(
                next_token([model], waveform),
                EOS,
                [PAD],
                settings["beam"],
                settings["max_len_b"],
                min_len=settings.get("min_len", 1),
                lenpen=settings.get("lenpen", 1.0),
                normalise=not settings.get("unnormalized", False),
            )
            for waveform in waveforms_of(sample)
        ]
    assert_same(got, expected)
    assert all(len(hypotheses) == settings["beam"] for hypotheses in got)


@torch.no_grad()
def test_the_searches_end_at_different_lengths(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """Otherwise the comparisons above would see no sentence leave the batch early."""
    task, model, sample = tiny
    with logit_bias(model, ENDING):
        found = generate(task, [model], sample, beam=4, max_len_b=12, lenpen=0.6)
    last = [max(len(tokens) for tokens, _ in hypotheses) for hypotheses in found]
    assert len(set(last)) >= 3 and min(last) < 10


@pytest.mark.parametrize("settings", [{"lenpen": 1.0}, {"lenpen": 0.4}, {"unnormalized": True}])
@torch.no_grad()
def test_a_wide_beam_equals_an_exhaustive_search(
    settings: dict[str, Any], tiny: tuple[Any, Any, dict[str, Any]]
) -> None:
    """Three words and at most three of them: 39 sentences, each found, in the order of their scores."""
    task, model, sample = tiny
    words = (21, 40, 55)
    allowed = {**dict.fromkeys(words, 0.0), EOS: 0.0}
    with logit_bias(model, allowed, others=-torch.inf):
        got = generate(task, [model], sample, beam=40, max_len_b=3, **settings)
        for hypotheses, waveform in zip(got, waveforms_of(sample)):
            every = []
            for length in (1, 2, 3):
                for tokens, score in scored(model, waveform, list(itertools.product(words, repeat=length))):
                    scale = 1.0 if "unnormalized" in settings else len(tokens) ** settings["lenpen"]
                    every.append((tokens, score / scale))
            every.sort(key=lambda hypothesis: -hypothesis[1])
            assert_same([hypotheses], [every])


GOLDEN = [
    ([34, 0, 4, 65, 53, 56, 18, 30, 37, EOS], -1.13456),
    ([10, 61, 64, 10, 39, 49, 25, 25, 55, EOS], -1.43001),
    ([41, 68, EOS], -1.10688),
    ([12, 53, 55, 12, EOS], -1.41659),
    ([7, 54, 0, 31, 68, 0, 56, 59, EOS], -1.27689),
]


@torch.no_grad()
def test_golden_ids(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """Of the seeded model, beam 4; a change here is a change of what every user's checkpoint says."""
    task, model, sample = tiny
    with logit_bias(model, ENDING):
        found = generate(task, [model], sample, beam=4, max_len_b=12)
    assert_same([hypotheses[:1] for hypotheses in found], [[golden] for golden in GOLDEN])


@pytest.mark.parametrize("beam", [1, 3])
@torch.no_grad()
def test_equals_transformers_generate(beam: int, tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """Greedy and beam search of ``LlamaForCausalLM.generate`` on the concatenated embeddings of each sentence."""
    task, model, sample = tiny
    unused = task.target_dictionary.ids_without_token
    with logit_bias(model, {**ENDING, PAD: -torch.inf, **dict.fromkeys(unused, -torch.inf)}):
        got = generate(task, [model], sample, beam=beam, max_len_b=30)
        for hypotheses, waveform in zip(got, waveforms_of(sample)):
            prefix = plain_prefix(model, waveform).unsqueeze(0)
            output = model.decoder.llm.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
                do_sample=False,
                num_beams=beam,
                early_stopping=beam > 1,
                length_penalty=1.0,
                min_new_tokens=1,
                max_new_tokens=31,
                eos_token_id=EOS,
                pad_token_id=PAD,
                return_dict_in_generate=True,
                output_scores=True,
            )
            tokens = [token for token in output.sequences[0].tolist() if token != PAD]
            assert hypotheses[0][0] == tokens
            if beam > 1:
                assert hypotheses[0][1] == pytest.approx(output.sequences_scores[0].item(), abs=1e-4)


@torch.no_grad()
def test_a_sentence_alone_is_the_same_as_in_a_batch(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    task, model, sample = tiny
    with logit_bias(model, ENDING):
        together = generate(task, [model], sample, beam=4, max_len_b=12)
        for row, hypotheses in enumerate(together):
            assert_same(generate(task, [model], alone(sample, row, PAD), beam=4, max_len_b=12), [hypotheses])


@torch.no_grad()
def test_n_best_is_sorted_and_distinct(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """fairseq-generate prints the first --nbest of them."""
    task, model, sample = tiny
    with logit_bias(model, ENDING):
        found = generate(task, [model], sample, beam=6, max_len_b=8)
    for hypotheses in found:
        scores = [score for _, score in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(tokens) for tokens, _ in hypotheses}) == len(hypotheses) == 6


@torch.no_grad()
def test_prefix_forcing(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """Hypotheses begin with the forced tokens (--prefix-size), whose scores count; a shorter prefix is padded."""
    task, model, sample = tiny
    forced = [[30, 21, 47], [40], [30, 30, 30], [21, 55], [56, 47, 30]]
    prefix = torch.tensor([[*tokens, *[PAD] * (3 - len(tokens))] for tokens in forced])
    with logit_bias(model, ENDING):
        got = generate(task, [model], sample, prefix=prefix, beam=3, max_len_b=9)
        for hypotheses, tokens, waveform in zip(got, forced, waveforms_of(sample)):
            log_probs = next_token([model], waveform)

            def with_prefix(continuations: Any, log_probs: Any = log_probs, tokens: Any = tokens) -> torch.Tensor:
                scores = log_probs(continuations)
                step = len(continuations[0])
                if step < len(tokens):
                    only = torch.full_like(scores, -torch.inf)
                    only[:, tokens[step]] = scores[:, tokens[step]]
                    return only
                return scores

            assert_same([hypotheses], [plain_beam_search(with_prefix, EOS, [PAD], 3, 9)])
            assert all(found[: len(tokens)] == tokens for found, _ in hypotheses)


@torch.no_grad()
def test_sampling(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """Seeded sampling repeats itself, another seed differs, scores are those of the tokens; top-1 is greedy."""
    task, model, sample = tiny

    def sampled(seed: int, **settings: Any) -> Hypotheses:
        torch.manual_seed(seed)
        return generate(task, [model], sample, beam=2, max_len_b=8, sampling=True, **settings)

    with logit_bias(model, ENDING):
        assert sampled(1) == sampled(1)
        assert sampled(1) != sampled(2)
        for hypotheses, waveform in zip(sampled(3, sampling_topp=0.9), waveforms_of(sample)):
            log_probs = next_token([model], waveform)
            for tokens, score in hypotheses:
                total = sum(log_probs([tokens[:i]])[0, token].item() for i, token in enumerate(tokens))
                assert score == pytest.approx(total / len(tokens), abs=1e-4)
        greedy = generate(task, [model], sample, beam=1, max_len_b=8)
        top_1 = generate(task, [model], sample, beam=1, max_len_b=8, sampling=True, sampling_topk=1)
    assert [h[0][0] for h in top_1] == [h[0][0] for h in greedy]


@torch.no_grad()
def test_ensemble(tiny: tuple[Any, Any, dict[str, Any]], other: Any) -> None:
    """Of two models the probabilities are averaged at each step, as fairseq does."""
    task, model, sample = tiny
    models = [model, other]
    got = generate(task, models, sample, beam=3, max_len_b=8)
    expected = [plain_beam_search(next_token(models, waveform), EOS, [PAD], 3, 8) for waveform in waveforms_of(sample)]
    assert_same(got, expected)
    singles = [generate(task, [single], sample, beam=3, max_len_b=8) for single in models]
    assert got not in singles
    twice = generate(task, [model, model], sample, beam=3, max_len_b=8)
    assert_same(twice, singles[0])


@pytest.mark.parametrize("flag", UNSUPPORTED)
def test_flags_without_a_meaning_are_errors(flag: str, tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    task, model, sample = tiny
    with pytest.raises(ValueError, match=f"^--{flag.replace('_', '-')}: .*; leave the flag out$"):
        generate(task, [model], sample, beam=1, **{flag: 7})


@pytest.mark.parametrize("kind", ["namespace", "config"])
@torch.no_grad()
def test_max_len_a_counts_seconds(kind: str, tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """--max-len-a tokens a second of the batch's longest speech, plus --max-len-b; the caller's settings stay."""
    task, model, sample = tiny
    settings: Any = Namespace(beam=1, max_len_a=4.0, max_len_b=2)
    if kind == "config":
        settings = OmegaConf.structured(GenerationConfig(beam=1, max_len_a=4.0, max_len_b=2))
    generator = task.build_generator([model], settings)
    with logit_bias(model, {EOS: -30.0}):
        found = task.inference_step(generator, [model], sample)
    seconds = sample["net_input"]["src_tokens"].size(1) / SAMPLE_RATE
    most = int(4 * seconds + 2)
    assert [len(hypotheses[0]["tokens"]) for hypotheses in found] == [most + 1] * 5 and most > 5
    assert settings.max_len_a == 4.0


def test_batches_are_filled_by_memory(backbones: dict[str, str], tmp_path: Path) -> None:
    """--max-tokens counts what the LLM sees, with padding: few long sentences or many short ones, and none is lost."""
    utterances = [(4.0, "Ja.")] * 5 + [(0.3, "Ja.")] * 40 + [(0.3, "Der Zug fährt um sieben. " * 3)] * 5
    write_split(tmp_path, "test", utterances)
    _, task, _ = build(tmp_path, backbones)
    task.load_dataset("test")
    dataset, most = task.dataset("test"), 250
    batches = task.get_batch_iterator(dataset, max_tokens=most).frozen_batches
    assert sorted(index for batch in batches for index in batch) == list(range(len(utterances)))
    for batch, following in itertools.pairwise([*batches, []]):
        padded = max(dataset.sizes[batch])
        assert len(batch) * padded <= most
        if len(following):
            assert (len(batch) + 1) * max(padded, max(dataset.sizes[following])) > most
    rows = sorted(len(batch) for batch in batches)
    assert rows[0] <= 4 and rows[-1] >= 12


@torch.no_grad()
def test_never_longer_than_the_llm_has_positions(tiny: tuple[Any, Any, dict[str, Any]]) -> None:
    """With every limit off, the generator stops where prefix and target fill the LLM's positions."""
    task, model, sample = tiny
    generator = task.build_generator([model], Namespace(beam=1, max_len_b=100_000))
    assert generator.max_len == model.max_decoder_positions()
    max_prefix = model.decoder.max_speech + model.decoder.max_prompt
    longest = max_prefix + generator.max_len
    assert longest == model.decoder.llm_positions
    assert len(plain_prefix(model, waveforms_of(sample)[0])) <= max_prefix
