"""Beams whose probabilities are set by hand come out right through the plugin's decoder.

The LLM is a stand-in that reads all it knows from its key/value cache: which sentence a row belongs to and which
tokens came before. A cache that is not reordered with the beams, or not cut when a sentence is finished, or a prefix
that is padded wrongly, leads it to a history that is not in the table.
"""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel
from fairseq.sequence_generator import SequenceGenerator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, PreTrainedTokenizerFast

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import Prompt, collate_prompts
from lst_fairseq.models.encoder import SpeechEncoder
from lst_fairseq.models.llm.decoder import LlmDecoder

PAD, EOS, UNK, A, B, BEFORE, AFTER = range(7)
WORDS = ["<pad>", "</s>", "<unk>", "a", "b", "before", "after"]
Table = dict[tuple[int, ...], tuple[float, float, float]]  # tokens so far -> probability of a, b and the end

#: Three sentences and every history that a beam of 2 reaches. Worked out by hand (cumulative probabilities):
#:   quick  a .60, b .30 | a. .42 done, ba .225, aa .12     | ba. .2025 done -> leaves after 3 steps
#:   brief  a .55, b .40 | a. .495 done, b. .32 done        | leaves after 2 steps, from the middle of the batch
#:   slow   b .50, a .40 | ba .25, aa .24                   | aab .204, ba. .10 done, baa .08: beams cross
#:          | aab. .1836 done -> leaves after 4 steps
SCRIPTS: list[Table] = [
    {
        (): (0.6, 0.3, 0.1),
        (A,): (0.2, 0.1, 0.7),
        (B,): (0.75, 0.05, 0.2),
        (B, A): (0.06, 0.04, 0.9),
        (A, A): (0.5, 0.4, 0.1),
    },
    {
        (): (0.55, 0.4, 0.05),
        (A,): (0.06, 0.04, 0.9),
        (B,): (0.15, 0.05, 0.8),
    },
    {
        (): (0.4, 0.5, 0.1),
        (A,): (0.6, 0.35, 0.05),
        (B,): (0.5, 0.45, 0.05),
        (B, A): (0.32, 0.28, 0.4),
        (A, A): (0.1, 0.85, 0.05),
        (A, A, B): (0.06, 0.04, 0.9),
        (B, A, A): (0.7, 0.1, 0.2),
    },
]
QUICK, BRIEF, SLOW = range(3)
FRAMES = (3, 5, 1)  # of each sentence's speech, so that rows are padded


class ScriptedLlm(nn.Module):
    """Looks its output up in SCRIPTS by what stands in the cache: token ids as one-hot vectors, speech as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig(num_hidden_layers=1, max_position_embeddings=100)
        self.table = nn.Embedding.from_pretrained(torch.eye(len(WORDS), len(WORDS) + 1))
        self.rows: list[int] = []  # of each call

    def get_output_embeddings(self) -> None:
        """It has no output layer."""

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: DynamicCache,
        use_cache: bool,
        logits_to_keep: int,
    ) -> SimpleNamespace:
        content, _ = cache.update(inputs_embeds.unsqueeze(1), inputs_embeds.unsqueeze(1), 0)
        assert use_cache and content.size(2) == attention_mask.size(1)
        expected_positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.size(1) :]
        assert torch.equal(position_ids, expected_positions)
        self.rows.append(inputs_embeds.size(0))
        logits = [self.next_word(row[mask.bool()]) for row, mask in zip(content[:, 0], attention_mask)]
        return SimpleNamespace(logits=torch.stack(logits).unsqueeze(1)[:, -logits_to_keep:])

    @staticmethod
    def next_word(content: Tensor) -> Tensor:
        """Log-probabilities [V] after the content [L, V + 1] of one row's cache."""
        speech = content[:, -1].nonzero().squeeze(1).tolist()
        sentence = int(content[speech[0], -1]) - 1
        tokens = content[:, :-1].argmax(dim=1).tolist()
        assert content[speech, -1].tolist() == [sentence + 1] * FRAMES[sentence]
        assert speech == list(range(1, 1 + FRAMES[sentence])) and tokens[0] == BEFORE
        start = 2 + FRAMES[sentence]
        assert tokens[start - 1] == AFTER
        history = tuple(tokens[start:])
        # The generator goes on feeding finished hypotheses and forgets what comes of them.
        a, b, end = (0.4, 0.4, 0.2) if EOS in history else SCRIPTS[sentence][history]
        log_probs = torch.full((len(WORDS),), -torch.inf)
        log_probs[[A, B, EOS]] = torch.tensor([a, b, end]).log()
        return log_probs


class ScriptedEncoder(SpeechEncoder):
    """Speech [B, N, E] that says in each frame which sentence it is; reordered by the plugin's own method."""

    def __init__(self) -> None:
        FairseqEncoder.__init__(self, None)

    def train(self, mode: bool = True) -> "ScriptedEncoder":
        return self

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        lengths = torch.tensor([FRAMES[sentence] for sentence in src_tokens[:, 0].long().tolist()])
        speech = torch.zeros(len(lengths), int(lengths.max()), len(WORDS) + 1)
        for row, length, sentence in zip(speech, lengths, src_tokens[:, 0]):
            row[:length, -1] = sentence + 1
        prompts = collate_prompts([Prompt((BEFORE,), (AFTER,))] * len(lengths))
        return {"speech": speech, "speech_lengths": lengths, "row": torch.arange(len(lengths)), **prompts}


@pytest.fixture
def model() -> FairseqEncoderDecoderModel:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    dictionary = LlmDictionary()
    dictionary.bind(tokenizer, len(WORDS))
    decoder = LlmDecoder(ScriptedLlm(), dictionary, freeze=True, max_speech=8, max_prompt=2)
    return FairseqEncoderDecoderModel(ScriptedEncoder(), decoder).eval()


def search(model: Any, sentences: list[int], **settings: Any) -> list[list[dict[str, Any]]]:
    """fairseq's generator on a batch of sentences, beam 2."""
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=2, **settings)
    src_tokens = torch.tensor(sentences).unsqueeze(1).float()
    net_input = {"src_tokens": src_tokens, "src_lengths": torch.ones(len(sentences), dtype=torch.long)}
    return generator.generate([model], {"net_input": net_input})


def check(
    found: list[dict[str, Any]], expected: list[tuple[list[int], list[float]]], lenpen: float | None = 1.0
) -> None:
    """Hypotheses in order: tokens, each token's probability, and the score made of them (lenpen None: the sum)."""
    assert [h["tokens"].tolist() for h in found] == [tokens for tokens, _ in expected]
    for hypothesis, (_, probabilities) in zip(found, expected):
        logs = [math.log(p) for p in probabilities]
        assert hypothesis["positional_scores"].tolist() == pytest.approx(logs, abs=1e-5)
        score = sum(logs) if lenpen is None else sum(logs) / len(logs) ** lenpen
        assert hypothesis["score"].item() == pytest.approx(score, abs=1e-5)


A_END = ([A, EOS], [0.6, 0.7])
BA_END = ([B, A, EOS], [0.3, 0.75, 0.9])
BRIEF_A, BRIEF_B = ([A, EOS], [0.55, 0.9]), ([B, EOS], [0.4, 0.8])
SLOW_BA, SLOW_AAB = ([B, A, EOS], [0.5, 0.5, 0.4]), ([A, A, B, EOS], [0.4, 0.6, 0.85, 0.9])


def test_normalised_scores(model: Any) -> None:
    quick, brief, slow = search(model, [QUICK, BRIEF, SLOW])
    check(quick, [A_END, BA_END])  # ln .42 / 2 = -.434, ln .2025 / 3 = -.532
    check(brief, [BRIEF_A, BRIEF_B])
    check(slow, [SLOW_AAB, SLOW_BA])  # ln .1836 / 4 = -.424, ln .10 / 3 = -.768


def test_scores_without_normalisation(model: Any) -> None:
    quick, brief, slow = search(model, [QUICK, BRIEF, SLOW], normalize_scores=False)
    check(quick, [A_END, BA_END], lenpen=None)
    check(brief, [BRIEF_A, BRIEF_B], lenpen=None)
    check(slow, [SLOW_AAB, SLOW_BA], lenpen=None)


@pytest.mark.parametrize("lenpen,longer_first", [(0.2, False), (1.0, False), (1.4, False), (1.6, True), (3.0, True)])
def test_length_penalty(lenpen: float, longer_first: bool, model: Any) -> None:
    """The order turns where .868 / 2 ** p = 1.597 / 3 ** p, at p = 1.50."""
    quick, _, slow = search(model, [QUICK, BRIEF, SLOW], len_penalty=lenpen)
    check(quick, [BA_END, A_END] if longer_first else [A_END, BA_END], lenpen)
    check(slow, [SLOW_AAB, SLOW_BA], lenpen)


def test_maximum_length(model: Any) -> None:
    """After two words only the end may follow, at the probability it has: the search stops there for all."""
    quick, brief, slow = search(model, [QUICK, BRIEF, SLOW], max_len_b=2)
    check(quick, [A_END, BA_END])
    check(brief, [BRIEF_A, BRIEF_B])
    check(slow, [SLOW_BA, ([A, A, EOS], [0.4, 0.6, 0.05])])
    assert len(model.decoder.llm.rows) == 3


def test_maximum_length_of_one(model: Any) -> None:
    quick, brief, slow = search(model, [QUICK, BRIEF, SLOW], max_len_b=1)
    check(quick, [A_END, ([B, EOS], [0.3, 0.2])])
    check(brief, [BRIEF_A, BRIEF_B])
    check(slow, [([B, EOS], [0.5, 0.05]), ([A, EOS], [0.4, 0.05])])


def test_minimum_length(model: Any) -> None:
    """The end is forbidden before the third word, without giving its probability to the others."""
    (slow,) = search(model, [SLOW], min_len=3, max_len_b=3)
    check(slow, [SLOW_AAB, ([B, A, A, EOS], [0.5, 0.5, 0.32, 0.2])])


@pytest.mark.parametrize(
    "order", [[QUICK, BRIEF, SLOW], [SLOW, QUICK, BRIEF], [BRIEF, SLOW, QUICK, SLOW, BRIEF], [SLOW], [BRIEF, BRIEF]]
)
def test_finished_sentences_leave_the_batch(order: list[int], model: Any) -> None:
    """Results do not depend on the companions, and a finished sentence costs nothing more."""
    expected = {QUICK: [A_END, BA_END], BRIEF: [BRIEF_A, BRIEF_B], SLOW: [SLOW_AAB, SLOW_BA]}
    for sentence, found in zip(order, search(model, order)):
        check(found, expected[sentence])
    steps = {BRIEF: 2, QUICK: 3, SLOW: 4}
    alive = [sum(steps[sentence] > step for sentence in order) for step in range(1, max(steps[s] for s in order))]
    assert model.decoder.llm.rows == [len(order), *(2 * n for n in alive)]


def test_ensemble_of_a_model_with_itself(model: Any) -> None:
    """Each model has a cache of its own."""
    generator = SequenceGenerator([model, model], model.decoder.dictionary, beam_size=2)
    net_input = {"src_tokens": torch.tensor([[0.0], [2.0]]), "src_lengths": torch.ones(2, dtype=torch.long)}
    quick, slow = generator.generate([model, model], {"net_input": net_input})
    check(quick, [A_END, BA_END])
    check(slow, [SLOW_AAB, SLOW_BA])
