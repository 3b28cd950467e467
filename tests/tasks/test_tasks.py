"""Several tasks in one model: numbers of speech, transcription and text in one batch equal plain transformers."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from transformers import AutoTokenizer

from tests.support.helpers import SENTENCES, batch_of, fed_lengths
from tests.support.reference import IGNORED, logit_bias, plain_prefix, plain_prompt
from tests.support.task_corpus import INSTRUCTIONS, MIXED, RATE, build, rows_of, write_manifests, write_task_corpus

EOS, PAD = 2, 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_corpus(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def stage2(data: Path, backbones: dict[str, str]) -> tuple[Any, Any, Any]:
    """(criterion, task, model) that train adapter and LLM."""
    cfg, task, model = build(data, backbones)
    task.load_dataset("mixed")
    return task.build_criterion(cfg.criterion), task, model


def plain_ids(model: Any, row: Any) -> tuple[list[int], list[int]]:
    """What the LLM reads before and after the speech, by the tokenizer itself; text only has nothing after."""
    tokenizer = AutoTokenizer.from_pretrained(model.record.sources["llm"]["path"])
    language = {"de": "German", "fr": "French"}[row.tgt_lang or "de"]
    instruction = INSTRUCTIONS[row.task or "mt"][0].replace("{tgt_lang}", language)
    before, source, after = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in ("USER:", row.src_text, f"{instruction} ASSISTANT:")
    )
    before = [tokenizer.bos_token_id, *before]
    return ([*before, *source, *after], []) if not row.n_samples else (before, after)


def plain_inputs(model: Any, dataset: Any, index: int) -> Tensor:
    """Embeddings [P, E] in front of the target of a row."""
    row = dataset.rows[index]
    embed = model.decoder.llm.get_input_embeddings()
    before, after = (embed(torch.tensor(ids, dtype=torch.long)) for ids in plain_ids(model, row))
    if not row.n_samples:
        return before
    whole = plain_prefix(model, dataset.read_waveform(index))  # in a prompt of its own
    n_before, n_after = map(len, plain_prompt(model))
    return torch.cat([before, whole[n_before : len(whole) - n_after], after])


def plain_loss(model: Any, dataset: Any, index: int) -> Tensor:
    """Summed loss of a row by transformers' own loss."""
    target = torch.tensor([*dataset.targets[index].tolist(), EOS])
    prefix = plain_inputs(model, dataset, index)
    inputs = torch.cat([prefix, model.decoder.llm.get_input_embeddings()(target)]).unsqueeze(0)
    labels = torch.cat([torch.full((len(prefix),), IGNORED), target]).unsqueeze(0)
    return model.decoder.llm(inputs_embeds=inputs, labels=labels, use_cache=False).loss * len(target)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("indices", [range(6), [1, 3, 5], [3]])
def test_loss_and_gradients_of_a_mixed_batch_equal_plain_transformers(stage2, indices) -> None:
    """Speech, transcription and text; also text alone, where the adapter has nothing to learn."""
    criterion, task, model = stage2
    loss, sample_size, _ = criterion(model, batch_of(task, "mixed", indices))
    dataset = task.dataset("mixed")
    expected = sum(plain_loss(model, dataset, i) for i in indices)
    assert sample_size == sum(len(dataset.targets[i]) + 1 for i in indices)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    got, plain = gradients(model, loss), gradients(model, expected)
    assert got.keys() - plain.keys() <= {"encoder.markers.start"} and plain.keys() <= got.keys()
    assert any(name.startswith("decoder.llm.") for name in plain)
    assert any(name.startswith("encoder.adapter.") for name in plain) == any(MIXED[i][1] for i in indices)
    for name, gradient in got.items():
        wanted = plain.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item(), msg=name)


@torch.no_grad()
def test_text_alone_is_the_same_as_in_a_mixed_batch(stage2) -> None:
    """And alone it asks nothing of frontend and adapter."""
    _, task, model = stage2
    together = batch_of(task, "mixed", range(6))
    logits, _ = model(**together["net_input"])
    assert (together["net_input"]["src_lengths"] == 0).sum() == 3
    asked = []
    parts = (model.encoder.frontend, model.encoder.adapter)
    handles = [part.register_forward_pre_hook(lambda module, inputs: asked.append(module)) for part in parts]
    try:
        for row, index in enumerate(together["id"].tolist()):
            if MIXED[index][1]:
                continue
            alone, _ = model(**batch_of(task, "mixed", [index])["net_input"])
            torch.testing.assert_close(logits[row, : alone.size(1)], alone[0], atol=1e-4, rtol=0)
    finally:
        for handle in handles:
            handle.remove()
    assert asked == []


@torch.no_grad()
def test_generation_of_text_equals_transformers(stage2) -> None:
    """Greedy search of ``generate`` on the ids of each prompt; speech stands in the same batch."""
    _, task, model = stage2
    bias = {EOS: 3.0, PAD: -torch.inf, **dict.fromkeys(task.target_dictionary.ids_without_token, -torch.inf)}
    sample = batch_of(task, "mixed", range(6))
    with logit_bias(model, bias):
        found = task.inference_step(task.build_generator([model], Namespace(beam=1, max_len_b=30)), [model], sample)
        for index, hypotheses in zip(sample["id"].tolist(), found):
            if MIXED[index][1]:
                continue
            ids = torch.tensor([plain_ids(model, task.dataset("mixed").rows[index])[0]])
            output = model.decoder.llm.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=1,
                max_new_tokens=31,
                eos_token_id=EOS,
                pad_token_id=PAD,
            )
            assert hypotheses[0]["tokens"].tolist() == output[0, ids.size(1) :].tolist()


@torch.no_grad()
def test_lengths_are_what_the_llm_is_fed(stage2) -> None:
    """Of a task with several instructions the longest counts; decoding takes the first."""
    _, task, model = stage2
    dataset, fed = task.dataset("mixed"), []

    def spare(index: int) -> int:
        name, _, language = MIXED[index]
        choices = task.prompts.choices(name or "mt", "", language)
        return max(map(len, choices)) - len(choices[0])

    assert spare(2) > 0  # of transcription
    handle = model.decoder.llm.register_forward_pre_hook(
        lambda module, args, kwargs: fed.extend(fed_lengths(kwargs)), with_kwargs=True
    )
    for indices in ([1], [1, 5], range(6)):
        batch = dataset.collater([dataset[i] for i in indices])
        model(**batch["net_input"])
        assert fed == [dataset.num_tokens(i) - spare(i) for i in batch["id"].tolist()]
        fed.clear()
    handle.remove()


def test_a_long_text_leaves_room_for_its_target(backbones, tmp_path) -> None:
    """Speech of --max-source-seconds and the longest text both fit behind the LLM's positions."""
    long_text = " ".join(SENTENCES * 2)
    row = {**rows_of(tmp_path, "test", [("mt", 0, "de")])[0], "src_text": long_text}
    write_manifests(tmp_path, {"test": [row]})
    _, task, model = build(tmp_path, backbones, max_source_seconds=2)
    before = model.max_decoder_positions()
    task.load_dataset("test")
    dataset = task.dataset("test")
    longest = len(dataset.sources[0]) + task.prompts.longest("mt", "", "de")
    assert model.max_decoder_positions() == model.decoder.llm_positions - longest < before


def test_text_rows_are_left_out_of_training_for_text_reasons_only(backbones, tmp_path) -> None:
    rows = rows_of(tmp_path, "train", [("mt", 0, "de")] * 3 + [("st", 0.05, "")])
    rows[1]["tgt_text"] = ""
    rows[2]["src_text"] = " ".join(SENTENCES * 12)
    write_manifests(tmp_path, {"train": rows, "dev": [*rows[:2], *rows[3:]], "test": rows})
    _, task, _ = build(tmp_path, backbones)
    task.load_dataset("train")
    assert task.dataset("train").ids == ["train_0"]
    reasons = {"empty target", "longer than the LLM's 512 positions", "shorter than --min-source-seconds 0.1"}
    assert dict(task.dataset("train").skipped) == dict.fromkeys(reasons, 1)
    task.load_dataset("dev")
    assert len(task.dataset("dev")) == 3
    with pytest.raises(ValueError, match=r"test\.tsv:4: train_2 takes 2,\d+ positions .*, and the LLM has 512: cut"):
        task.load_dataset("test")


def test_a_frozen_llm_is_said_to_learn_nothing_from_text(data, backbones, caplog) -> None:
    """But a batch of text has a loss with a gradient, so that a mixed first stage does not stop at it."""
    cfg, task, model = build(data, backbones, train_modules="adapter")
    task.load_dataset("train_mt")
    assert "train_mt.tsv: 6 lines are text only and teach nothing while the LLM is frozen" in caplog.text
    loss, _, _ = task.build_criterion(cfg.criterion)(model.train(), batch_of(task, "train_mt", [0, 1]))
    got = gradients(model, loss)
    assert got.keys() == {"encoder.markers.start"} and not got["encoder.markers.start"].any()


def test_broken_audio_beside_text(backbones, tmp_path) -> None:
    rows = rows_of(tmp_path, "dev", [("st", 0.5, ""), ("mt", 0, "de"), ("st", 0.7, "")])
    write_manifests(tmp_path, {"dev": rows})
    _, task, _ = build(tmp_path, backbones, skip_bad_audio=True)
    task.load_dataset("dev")
    soundfile.write(tmp_path / "dev.wav", np.full(30 * RATE, np.nan), RATE, subtype="FLOAT")
    batch = batch_of(task, "dev", range(3))
    assert batch["id"].tolist() == [1] and batch["n_skipped"] == 2
    assert batch["net_input"]["src_tokens"].shape == (1, 0)


@torch.no_grad()
@pytest.mark.parametrize("parts", ["train_st,train_mt", "train_mt,train_st"])
def test_cached_features_beside_text(data, backbones, tmp_path, parts) -> None:
    """Text has no place in the cache; a manifest of text only may come first."""
    batches = {}
    for cache in (None, str(tmp_path)):
        _, task, model = build(data, backbones, cache_features=cache)
        task.load_dataset(parts)
        dataset = task.dataset(parts)
        task.get_batch_iterator(dataset, max_sentences=4)
        for name, indices in (("mixed", [0, 5, 9, 14]), ("text", [1, 2] if parts.startswith("train_mt") else [11, 12])):
            batch = dataset.collater([dataset[i] for i in indices])
            batches[name, cache] = batch["id"].tolist(), model(**batch["net_input"])[0]
            if cache:
                assert batch["net_input"]["src_tokens"].dtype == torch.float16
    for name in ("mixed", "text"):
        (ids, logits), (same_ids, cached) = batches[name, None], batches[name, str(tmp_path)]
        assert ids == same_ids
        torch.testing.assert_close(cached, logits, atol=2e-2 if name == "mixed" else 1e-6, rtol=0)
    assert len(list(tmp_path.iterdir())) == 1
