"""Flags of fairseq-generate that mean nothing here are refused, those for parts of a split and for two subsets too."""

import pytest

from tests.support.running import first_stage, run_generate, run_interactive, run_train, run_validate


@pytest.fixture
def checkpoint(corpus, backbones):
    return first_stage(corpus, backbones).path()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_shards": 2}, r"--num-shards, --shard-id: .*give --distributed-world-size N --distributed-rank I"),
        ({"shard_id": 1}, "--shard-id: .*give --distributed-world-size N"),
        ({"post_process": "sentencepiece"}, "--post-process, --remove-bpe: the LLM's own tokenizer"),
        ({"gen_subset": "test,dev"}, "test,dev: the lines of both subsets would have the same numbers"),
        ({"gen_subset": "train,train"}, "train,train: the lines of both subsets"),
        ({"constraints": "ordered"}, "--constraints: .*leave the flag out"),
        ({"lm_path": "lm.pt", "beam": 1}, "lm.pt"),  # fairseq looks for the file first
    ],
    ids=str,
)
def test_generate_refuses(corpus, checkpoint, tmp_path, flags, message):
    with pytest.raises((ValueError, OSError), match=message):
        run_generate(corpus, checkpoint, tmp_path, **flags)


def test_the_remedy_translates_each_sentence_once(corpus, checkpoint, tmp_path):
    whole = run_generate(corpus, checkpoint, tmp_path / "whole", batch_size=2)
    parts = [
        run_generate(corpus, checkpoint, tmp_path / name, batch_size=2, distributed_world_size=2, distributed_rank=rank)
        for rank, name in enumerate(("first", "second"))
    ]
    assert sorted(map(len, parts)) == [2, 3] and parts[0] | parts[1] == whole


def test_the_other_commands_refuse_too(corpus, backbones, checkpoint, tmp_path):
    inputs = tmp_path / "inputs.txt"
    inputs.write_text(f"{corpus}/test.wav:0:8000\n", encoding="utf-8")
    for flags in (["--num-shards", "2"], ["--bpe", "sentencepiece"]):
        with pytest.raises(ValueError, match=rf"^{flags[0]}.*leave the flag out"):
            run_interactive(corpus, checkpoint, inputs, *flags)
    with pytest.raises(ValueError, match=r"^--num-shards"):
        run_validate(corpus, checkpoint, "--valid-subset", "dev", "--batch-size", "2", "--num-shards", "2")
    with pytest.raises(ValueError, match=r"^--num-shards"):
        run_train(corpus, backbones, tmp_path / "run", num_shards=2)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_diverse_search_goes_by_places_in_the_batch(corpus, checkpoint, tmp_path, batch_size):
    """fairseq went by ids, and stopped or counted for another sentence."""
    flags = {"beam": 4, "diverse_beam_groups": 2, "diverse_beam_strength": 2.0}
    alone = run_generate(corpus, checkpoint, tmp_path / "alone", batch_size=1, **flags)
    assert run_generate(corpus, checkpoint, tmp_path / "batched", batch_size=batch_size, **flags) == alone
    assert len(alone) == 5
