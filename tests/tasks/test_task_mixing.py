"""Training on several manifests: each keeps its tasks, sampling is what it says, and a resumed run is the same."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import ConcatDataset

from lst_fairseq.data.sampling import sampled_sizes
from tests.distributed.test_distributed import run_two
from tests.support.running import run_generate, run_train
from tests.support.task_corpus import TEMPLATE, build, train_all, write_task_corpus
from tests.tasks.test_training import assert_resumes_exactly

PAD = 1
NAMES = "train_st,train_asr,train_mt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_corpus(tmp_path_factory.mktemp("tasks"))


def test_each_manifest_keeps_its_own_prompts(data, backbones) -> None:
    """In joined and resampled manifests, in processes that load data, and anew in each epoch."""
    for config in ("config.yaml", "sampled.yaml"):
        _, task, _ = build(data, backbones, config_yaml=config)
        task.load_dataset(NAMES)
        dataset, drawn = task.dataset(NAMES), []
        for epoch in (1, 2, 3):
            iterator = task.get_batch_iterator(dataset, max_sentences=4, num_workers=1, epoch=epoch)
            items = [dataset[i] for batch in iterator.frozen_batches for i in batch]
            wanted = Counter((*i.prompt.before, *i.prompt.after, *i.target.tolist()) for i in items)
            seen: Counter[tuple[int, ...]] = Counter()
            for batch in iterator.next_epoch_itr(shuffle=False):
                sides = [batch["net_input"][name] for name in ("prompt_before", "prompt_after")]
                for *prompt, target in zip(*sides, batch["target"]):
                    ids = [piece[piece.ne(-1)].tolist() for piece in prompt]
                    seen[(*ids[0], *ids[1], *target[target.ne(PAD)].tolist())] += 1
            assert seen == wanted and seen.total() == len(dataset)
            drawn.append(seen)
        assert drawn[0] != drawn[1] != drawn[2]


@pytest.mark.parametrize(("config", "workers"), [("sampled.yaml", 0), ("config.yaml", 1)])
def test_a_resumed_run_of_several_tasks_is_the_uninterrupted_one(config, workers, data, backbones, tmp_path) -> None:
    """Bit by bit, from the end of an epoch and from the middle of one, with prompts and segments drawn at random."""
    settings = {"config_yaml": config, "num_workers": workers, "max_update": 17, "save_interval_updates": 5}
    straight = train_all(data, backbones, tmp_path / "straight", **settings)
    assert len(straight.losses) == 17
    # 20 segments in batches of three: 7 updates an epoch.
    for saved, n_updates in (("checkpoint1", 7), ("checkpoint_2_10", 10)):
        assert_resumes_exactly(straight, saved, n_updates, lambda f: train_all(data, backbones, f, **settings))


def test_sampled_sizes() -> None:
    """Proportional to size ** alpha, as many segments in all; alpha 1 and equal sizes change nothing."""
    sizes = [9000, 1000, 240]
    for alpha in (0.0, 0.3, 0.5):
        sampled = np.array(sampled_sizes(sizes, alpha))
        assert abs(sampled.sum() - 10_240) <= 1
        assert sampled / sampled[0] == pytest.approx((np.array(sizes) / 9000) ** alpha, rel=2e-3)
    assert sampled_sizes(sizes, 1) == sizes and sampled_sizes([7, 7, 7], 0.3) == [7, 7, 7]
    assert sampled_sizes([10_000, 1], 0.999) == [10_000, 1]


def test_every_manifest_is_in_every_epoch(data, backbones) -> None:
    """9, 5 and 6 segments at alpha 0.5 become 7.8, 5.8 and 6.4, rounded; which ones changes with the epoch."""
    _, task, _ = build(data, backbones, config_yaml="sampled.yaml")
    task.load_dataset(NAMES)
    dataset = task.dataset(NAMES)
    assert isinstance(dataset, ConcatDataset) and [len(part) for part in dataset.datasets] == [8, 6, 6]
    drawn = []
    for epoch in (1, 2, 1):
        batches = task.get_batch_iterator(dataset, max_sentences=4, epoch=epoch).frozen_batches
        assert sorted(i for batch in batches for i in batch) == list(range(20))
        drawn.append([item.index for item in (dataset[i] for i in range(20))])
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(set(drawn[0][:8])) == 8  # without replacement where a manifest shrinks


def test_fairseq_generate_translates_text(data, backbones, tmp_path) -> None:
    """Each id once, whatever the batch; max-len-a counts speech, of which there is none."""
    trained = train_all(data, backbones, tmp_path / "run", max_update=1, disable_validation=True)
    runs = [
        run_generate(data, trained.path(), tmp_path / str(size), "test_mt", batch_size=size, max_len_a=3.0)
        for size in (1, 3)
    ]
    assert sorted(runs[0]) == list(range(5)) and runs[0] == runs[1]


def test_a_process_with_text_only_does_not_hang(data, backbones, tmp_path) -> None:
    """legacy_ddp: batches of one segment, so that a process often has no gradient for the adapter."""
    settings = {"prompt": TEMPLATE, "train_subset": "train_asr,train_mt", "train_modules": "adapter,llm"}
    settings |= {"batch_size": 1, "max_update": 6}
    one = run_train(data, backbones, tmp_path / "one", update_freq=[2], **settings)
    two = run_two(data, backbones, tmp_path / "two", **settings)
    assert [rank["error"] for rank in two] == ["", ""]
    # One process leaves Adam's moments as they are where there is no gradient; two add zeros to them. Up to the first
    # gradient that is the same.
    assert two[0]["losses"][:2] == pytest.approx(one.losses[:2], rel=1e-5) and len(two[0]["losses"]) == 6
