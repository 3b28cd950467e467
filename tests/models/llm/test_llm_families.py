"""Any family of LLMs behind the decoder computes what transformers does for a sentence alone, unpadded and uncached."""

import inspect
import logging
import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OpenAIGPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrOCRConfig,
)

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import Prompt, collate_prompts
from lst_fairseq.models.llm import families as llm_module
from lst_fairseq.models.llm import onednn_weights
from lst_fairseq.models.llm.decoder import LlmDecoder
from lst_fairseq.models.llm.families import (
    UNLIMITED_POSITIONS,
    attention_for,
    cache_argument,
    embedding_outputs,
    position_limit,
)
from tests.support.llms import FAMILIES, VOCABULARY, WIDTH, WINDOW, family_config, save_llm

PAD, EOS = 0, 2
HOLE = 40  # an id in the middle for which the tokenizer has no token
IGNORED = -100
PROMPTS = [Prompt((1, 10, 11), (12, 13, 14)), Prompt((1,), ()), Prompt((1, 15), (16, 17)), Prompt((), (18,))]
FRAMES = [9, 2, 14, 4]
TARGETS = [[20, 21, 22, 23, 24, 25, EOS], [30, EOS], [31, 32, 33, 31, 35, 36, 37, 38, 50, EOS], [45, 46, 47, EOS]]


def dictionary() -> LlmDictionary:
    """Special tokens 0 to 3, then words, with a hole among them and outputs left over behind them."""
    names = {"<pad>": PAD, "<s>": 1, "</s>": EOS, "<unk>": 3}
    words = Tokenizer(WordLevel({**names, **{f"w{i}": i for i in range(4, 80) if i != HOLE}}, unk_token="<unk>"))
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = LlmDictionary()
    made.bind(PreTrainedTokenizerFast(tokenizer_object=words, **special), VOCABULARY)
    return made


@pytest.fixture(autouse=True)
def packed_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear maps run on laid out weights in searches, as those of larger models do."""
    monkeypatch.setattr(onednn_weights, "SMALLEST", 0)


@pytest.fixture(params=FAMILIES, scope="module")
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LlmDecoder:
    path = tmp_path_factory.mktemp("llm")
    save_llm(path, request.param)
    attention = attention_for(family_config(request.param))
    llm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=attention)
    return LlmDecoder(llm, dictionary(), freeze=True, max_speech=20, max_prompt=6).eval()


def speech_of(decoder: LlmDecoder) -> Tensor:
    """Random speech [B, N, E] at the scale of the LLM's embeddings; what stands beyond a row's length is far off."""
    torch.manual_seed(5)
    scale = embedding_outputs(decoder.llm).std()
    speech = scale * torch.randn(len(FRAMES), max(FRAMES), WIDTH)
    beyond = torch.arange(max(FRAMES)) >= torch.tensor(FRAMES).unsqueeze(1)
    return speech.masked_fill(beyond.unsqueeze(2), 50.0)


def encoder_out_of(speech: Tensor, sentences: list[int]) -> dict[str, Tensor]:
    lengths = torch.tensor([FRAMES[s] for s in sentences])
    prompts = collate_prompts([PROMPTS[s] for s in sentences])
    rows = torch.arange(len(sentences))
    return {"speech": speech[sentences, : lengths.max()], "speech_lengths": lengths, "row": rows, **prompts}


def previous_tokens(sentences: list[int]) -> Tensor:
    """LongTensor [B, T] as fairseq collates it."""
    rows = [torch.tensor([EOS, *TARGETS[s][:-1]]) for s in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def plain_inputs(decoder: LlmDecoder, speech: Tensor, sentence: int, tokens: list[int]) -> tuple[Tensor, int]:
    """One sentence's embeddings [1, L, E] by hand, and how many of them are its prefix."""
    embed = decoder.llm.get_input_embeddings()
    prompt = PROMPTS[sentence]
    ids = (prompt.before, prompt.after, tokens)
    before, after, target = (embed(torch.tensor(part, dtype=torch.long)) for part in ids)
    parts = [before, speech[sentence, : FRAMES[sentence]], after, target]
    return torch.cat(parts).unsqueeze(0), sum(map(len, parts[:3]))


def test_loss_and_gradient_are_those_of_each_sentence_alone(decoder: LlmDecoder) -> None:
    """By transformers' own loss, whose labels are -100 on the prefix. The gradient is with respect to the speech."""
    speech = speech_of(decoder).requires_grad_()
    sentences = list(range(len(FRAMES)))
    logits, _ = decoder(previous_tokens(sentences), encoder_out=encoder_out_of(speech, sentences))
    for sentence, row in zip(sentences, logits):
        target = torch.tensor(TARGETS[sentence])
        got = F.cross_entropy(row[: len(target)], target)
        inputs, prefix = plain_inputs(decoder, speech, sentence, TARGETS[sentence])
        assert prefix > WINDOW or sentence in (1, 3)
        labels = torch.cat([torch.full((prefix,), IGNORED), target]).unsqueeze(0)
        expected = decoder.llm(inputs_embeds=inputs, labels=labels, use_cache=False).loss
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(got, speech, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected, speech)
        assert expected_gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_batch_is_its_sentences(decoder: LlmDecoder) -> None:
    speech = speech_of(decoder)
    sentences = [2, 0, 3, 1]
    together, _ = decoder(previous_tokens(sentences), encoder_out=encoder_out_of(speech, sentences))
    for row, sentence in zip(together, sentences):
        alone, _ = decoder(previous_tokens([sentence]), encoder_out=encoder_out_of(speech, [sentence]))
        torch.testing.assert_close(row[: alone.size(1)], alone[0], atol=1e-4, rtol=0)


def check_cached_steps(decoder: LlmDecoder) -> None:
    """Each step equals a pass without cache.

    Two rows a sentence with random tokens; rows move between beams and sentences leave, as in fairseq's search.
    """
    draw, beam = random.Random(3), 2
    speech = speech_of(decoder)
    encoder_out = encoder_out_of(speech, [0, 1, 2, 3])
    sentences = [s for s in range(4) for _ in range(beam)]
    encoder_out["row"] = torch.tensor(sentences)
    tokens: list[list[int]] = [[] for _ in sentences]
    state: dict[str, Any] = {}
    for step in range(2 * WINDOW):
        fed = torch.tensor([[EOS, *row] for row in tokens])
        logits, _ = decoder(fed, encoder_out=encoder_out, incremental_state=state)
        assert logits.shape == (len(tokens), 1, VOCABULARY)
        for got, sentence, row in zip(logits[:, 0], sentences, tokens):
            inputs, _ = plain_inputs(decoder, speech, sentence, row)
            expected = decoder.llm(inputs_embeds=inputs, use_cache=False).logits[0, -1].clone()
            assert expected.log_softmax(0).std() > 0.3  # not the same score for all tokens
            expected[[HOLE, 80, 81, 82]] = -torch.inf
            torch.testing.assert_close(got.log_softmax(0), expected.log_softmax(0), atol=1e-4, rtol=0)
        alive = sorted(set(sentences))
        if step in (2, 6):
            alive.remove(draw.choice(alive))
        order = [draw.choice([i for i, s in enumerate(sentences) if s == a]) for a in alive for _ in range(beam)]
        sentences = [sentences[i] for i in order]
        tokens = [[*tokens[i], draw.randrange(4, HOLE)] for i in order]
        decoder.reorder_incremental_state_scripting(state, torch.tensor(order))
        encoder_out["row"] = encoder_out["row"][order]
    assert len(set(sentences)) == 2


@torch.no_grad()
def test_cached_steps_equal_a_cache_free_pass(decoder: LlmDecoder, caplog: pytest.LogCaptureFixture) -> None:
    """With the prefix once a sentence wherever the family's attention can be exchanged."""
    caplog.set_level(logging.INFO)
    check_cached_steps(decoder)
    assert decoder.shares_prefixes == (decoder.llm.config.model_type != "bloom")
    assert not caplog.records


@torch.no_grad()
def test_attention_with_sinks_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    """GPT-OSS's attention can be exchanged and needs more than keys: found at the first token, and said once."""
    caplog.set_level(logging.INFO)
    torch.manual_seed(7)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": WINDOW}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "initializer_range": 0.2, "pad_token_id": 0}
    config = GptOssConfig(**sizes, **heads, **experts, max_position_embeddings=128)
    llm = AutoModelForCausalLM.from_config(config, attn_implementation=attention_for(config))
    for parameter in llm.parameters():
        parameter.data.normal_(0, 0.4)
    caplog.clear()
    decoder = LlmDecoder(llm, dictionary(), freeze=True, max_speech=20, max_prompt=6).eval()
    assert decoder.shares_prefixes
    for _ in range(2):
        check_cached_steps(decoder)
        assert not decoder.shares_prefixes
    assert [record.message for record in caplog.records] == [
        "GptOssForCausalLM cannot share prefixes between beams (the LLM has attention sinks (s_aux)): each beam gets a "
        "copy, slower"
    ]


def test_attention_of_its_own_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    llm = empty(family_config("bloom"))
    assert not LlmDecoder(llm, dictionary(), freeze=True, max_speech=20, max_prompt=6).shares_prefixes
    (record,) = caplog.records
    assert record.message.startswith("BloomForCausalLM cannot share prefixes between beams (its attention is its own)")


@torch.no_grad()
def test_searches_multiply_by_laid_out_weights() -> None:
    """And whole targets by the weights as they are."""
    config = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    llm = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=VOCABULARY, **config))
    decoder = LlmDecoder(llm, dictionary(), freeze=True, max_speech=20, max_prompt=6).eval()
    ways = []
    llm.lm_head.register_forward_hook(lambda head, inputs, output: ways.append("forward" in vars(head)))
    encoder_out = {"speech": torch.randn(2, 5, 16), "speech_lengths": torch.tensor([5, 3]), "row": torch.arange(2)}
    encoder_out |= collate_prompts(PROMPTS[:2])
    state: dict[str, Any] = {}
    for tokens in ([EOS], [EOS, 20]):
        decoder(torch.tensor([tokens] * 2), encoder_out, incremental_state=state)
    decoder(torch.tensor([[EOS, 20]] * 2), encoder_out)
    assert ways == [True, True, False]


def test_embedding_outputs(decoder: LlmDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_module, "EMBEDDING_CHUNK", 7)
    got = embedding_outputs(decoder.llm)
    scaled = decoder.llm.config.model_type.startswith("gemma")
    table = decoder.llm.get_input_embeddings().weight
    assert got.shape == (VOCABULARY, WIDTH) and not got.requires_grad
    torch.testing.assert_close(got, table * WIDTH**0.5 if scaled else table, atol=0, rtol=1e-6)
    assert (got.data_ptr() == table.data_ptr()) != scaled


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        *((family_config(family), 128) for family in ("llama 2", "gemma 3", "gpt-neox", "opt", "gpt-2")),
        (family_config("bloom"), UNLIMITED_POSITIONS),
        (family_config("phi 3 with longrope"), 64),
        (Phi3Config(max_position_embeddings=100), 100),
        (MptConfig(max_seq_len=77), 77),
    ],
)
def test_position_limit(config: PretrainedConfig, limit: int) -> None:
    assert position_limit(config) == limit


STATEFUL: dict[str, PretrainedConfig] = {
    "MambaForCausalLM": MambaConfig(vocab_size=9, hidden_size=8, state_size=2, num_hidden_layers=1),
    "JambaForCausalLM": JambaConfig(
        **{"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "Lfm2ForCausalLM": Lfm2Config(
        **{"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    ),
}


def empty(config: PretrainedConfig) -> PreTrainedModel:
    """A model of shapes only."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", STATEFUL)
def test_states_other_than_keys_and_values_are_refused(name: str) -> None:
    message = rf"^--llm: {name} \(model type \w+\) keeps a state other than the keys and values .* Llama, Mistral,"
    with pytest.raises(ValueError, match=message):
        LlmDecoder(empty(STATEFUL[name]), dictionary(), freeze=True, max_speech=1, max_prompt=1)


REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "no cache": (
        OpenAIGPTConfig(vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_positions=4),
        r"OpenAIGPTLMHeadModel .* does not accept a cache \(cache or past_key_values\); take",
    ),
    "positions by place in the batch": (
        TrOCRConfig(vocab_size=9, d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8),
        r"TrOCRForCausalLM .* does not accept position_ids, so that padding would shift",
    ),
    "embeddings in every layer": (
        Gemma3nTextConfig(
            **{"vocab_size": 9, "vocab_size_per_layer_input": 9, "hidden_size": 8, "hidden_size_per_layer_input": 8},
            **{"intermediate_size": 8, "num_hidden_layers": 5, "num_attention_heads": 2, "num_key_value_heads": 2},
            **{"num_kv_shared_layers": 0, "head_dim": 4, "activation_sparsity_pattern": None},
        ),
        r"Gemma3nForCausalLM .* looks token ids up in every layer",
    ),
    "encoder": (
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8),
        r"BertLMHeadModel .* is an encoder that reads in both directions",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_that_cannot_serve(name: str) -> None:
    config, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        LlmDecoder(empty(config), dictionary(), freeze=True, max_speech=1, max_prompt=1)


class WithoutOptions(torch.nn.Module):
    """A model whose forward takes neither positions nor a number of logits, and its cache by the older name."""

    def __init__(self, llm: PreTrainedModel):
        super().__init__()
        self.llm, self.config = llm, llm.config
        self.cache_argument = cache_argument(set(inspect.signature(llm.forward).parameters))

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.llm.get_input_embeddings()

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, past_key_values: Any, use_cache: bool) -> Any:
        cached = {self.cache_argument: past_key_values, "use_cache": use_cache}
        return self.llm(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **cached)


@torch.no_grad()
def test_logits_of_the_target_only_whatever_forward_takes() -> None:
    torch.manual_seed(6)
    llm = AutoModelForCausalLM.from_config(family_config("bloom", initializer_range=0.2)).eval()
    settings = {"freeze": True, "max_speech": 20, "max_prompt": 6}
    decoders = [LlmDecoder(model, dictionary(), **settings) for model in (llm, WithoutOptions(llm))]
    encoder_out = encoder_out_of(speech_of(decoders[0]), [0, 1, 2])
    tokens = previous_tokens([0, 1, 2])
    for state in (None, {}):
        fed = tokens if state is None else tokens[:, :1]
        expected, got = (
            decoder(fed, encoder_out=encoder_out, incremental_state=None if state is None else {})[0]
            for decoder in decoders
        )
        assert got.shape == (*fed.shape, VOCABULARY)
        # Not bit by bit: some processors round a product of more rows, of which a part is kept, in another way.
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


def test_attention_of_a_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    llama, gemma2, bloom = LlamaConfig(), family_config("gemma 2"), BloomConfig()
    assert attention_for(llama) == "sdpa" and attention_for(Gemma3TextConfig()) == "sdpa"
    assert not caplog.records
    assert attention_for(gemma2) == attention_for(Gemma3TextConfig(attn_logit_softcapping=50.0)) == "eager"
    assert len(caplog.records) == 2
    assert "(model type gemma2) runs with eager attention: sdpa knows no softcapping" in caplog.text
    assert attention_for(bloom) == "eager" and "(model type bloom) runs with eager" in caplog.text
    for wanted in ("eager", "sdpa", "flash_attention_2"):
        assert attention_for(llama, wanted) == wanted
    assert attention_for(gemma2, "flash_attention_2") == "flash_attention_2"


@pytest.mark.parametrize(
    ("config", "wanted", "message"),
    [
        (
            family_config("gemma 2"),
            "sdpa",
            r"implementation sdpa: .*gemma2\) cannot run with it, since .* softcapping .*; choose eager",
        ),
        (BloomConfig(), "sdpa", r"bloom\) cannot run with it, since transformers has no sdpa for it; choose eager"),
        (BloomConfig(), "flash_attention_2", r"flash_attention_2: transformers has none for .*bloom\); choose eager"),
    ],
)
def test_attention_that_would_be_wrong(config: PretrainedConfig, wanted: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_for(config, wanted)
