"""Token ids in flat arrays, and their cache: the same ids, made once, and never those of another text or tokenizer."""

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from lst_fairseq.data import token_cache
from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.token_cache import Tokens, tokenise
from tests.support.helpers import SENTENCES, build, write_tsv

TEXTS = [*SENTENCES, "", "  zwei  Leerzeichen ", *reversed(SENTENCES)]


@pytest.fixture
def dictionary(backbones: dict[str, str]) -> LlmDictionary:
    return bound(backbones["llama"])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache few texts, in several batches."""
    monkeypatch.setattr(token_cache, "WORTH_CACHING", 5)
    monkeypatch.setattr(token_cache, "BATCH", 7)


def bound(llm: str) -> LlmDictionary:
    tokenizer = AutoTokenizer.from_pretrained(llm)
    dictionary = LlmDictionary()
    dictionary.bind(tokenizer, len(tokenizer))
    return dictionary


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*"))


def as_lists(tokens: Tokens) -> list[list[int]]:
    return [tokens[i].tolist() for i in range(len(tokens))]


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlmDictionary, "encode", lambda *_: pytest.fail("tokenised again"))


def test_ids_are_the_dictionarys(dictionary, tmp_path):
    for beside in (None, tmp_path / "train.tsv"):
        tokens = tokenise(TEXTS, dictionary, beside)
        assert as_lists(tokens) == dictionary.encode(TEXTS)
        assert tokens.ids.dtype == np.int32 and tokens.lengths.tolist() == [len(t) for t in dictionary.encode(TEXTS)]
    assert len(tokenise([], dictionary)) == 0


def test_selected_rows():
    tokens = Tokens(np.arange(6, dtype=np.int32), np.array([0, 2, 2]), np.array([2, 2, 6]))
    assert as_lists(tokens.select(np.array([2, 1]))) == [[2, 3, 4, 5], []]
    assert as_lists(tokens.select(slice(1))) == [[0, 1]]
    assert as_lists(Tokens.empty(2)) == [[], []]


def test_the_second_time_nothing_is_tokenised(dictionary, tmp_path, monkeypatch):
    first = tokenise(TEXTS, dictionary, tmp_path / "train.tsv")
    (path,) = files(tmp_path)
    assert path.name.startswith(".train.") and path.name.endswith(".tokens.npz")
    refuse(monkeypatch)
    again = tokenise(TEXTS, dictionary, tmp_path / "train.tsv")
    assert as_lists(again) == as_lists(first) and again.ids.dtype == np.int32


def test_few_texts_are_not_kept(dictionary, tmp_path):
    tokenise(TEXTS[:4], dictionary, tmp_path / "train.tsv")
    assert files(tmp_path) == []


def test_another_text_or_tokenizer_has_its_own_cache(dictionary, tmp_path, backbones):
    """The same characters divided otherwise, and the same vocabulary with another rule."""
    beside = tmp_path / "train.tsv"
    tokenise(TEXTS, dictionary, beside)
    moved = [TEXTS[0] + "Ich", TEXTS[1].removeprefix("Ich"), *TEXTS[2:]]
    assert as_lists(tokenise(moved, dictionary, beside)) == dictionary.encode(moved)
    other = bound(backbones["llama"])
    other.tokenizer.backend_tokenizer.pre_tokenizer = None
    assert as_lists(tokenise(TEXTS, other, beside)) == other.encode(TEXTS) != dictionary.encode(TEXTS)
    assert len(files(tmp_path)) == 3


def test_a_call_of_the_tokenizer_does_not_change_the_key(dictionary):
    before = dictionary.fingerprint()
    dictionary.tokenizer(TEXTS[:2], truncation=True, max_length=3)
    assert dictionary.fingerprint() == before == bound(dictionary.tokenizer.name_or_path).fingerprint()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "other key", "other array", "folder"])
def test_a_file_that_cannot_be_used_is_made_again(damage, dictionary, tmp_path, monkeypatch):
    beside = tmp_path / "train.tsv"
    first = tokenise(TEXTS, dictionary, beside)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a cache")
    elif damage == "flipped":  # one token; zip files carry a checksum
        place = content.index(first.ids.tobytes())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "other key":
        with open(path, "wb") as file:
            np.savez(file, key=np.array("x"), ids=first.ids[::-1], ends=first.ends)
    elif damage == "other array":
        with open(path, "wb") as file:
            np.savez(file, ids=first.ids)
    else:
        path.unlink()
        path.mkdir()
    assert as_lists(tokenise(TEXTS, dictionary, beside)) == as_lists(first)
    if damage != "folder":
        refuse(monkeypatch)
        tokenise(TEXTS, dictionary, beside)
    assert files(tmp_path) == [path]


def test_a_folder_that_cannot_be_written_costs_the_cache_only(dictionary, tmp_path, caplog):
    beside = tmp_path / "gone" / "train.tsv"
    with caplog.at_level(logging.INFO):
        assert as_lists(tokenise(TEXTS, dictionary, beside)) == dictionary.encode(TEXTS)
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/gone/.train.") and "cannot be kept for the next start" in message


def test_a_stopped_write_leaves_nothing_behind(dictionary, tmp_path, monkeypatch):
    def stopped(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stopped)
    with pytest.raises(KeyboardInterrupt):
        tokenise(TEXTS, dictionary, tmp_path / "train.tsv")
    assert files(tmp_path) == []


def test_processes_that_start_together(dictionary, tmp_path):
    """Each finds no cache, or a whole one."""
    results, barrier = [], threading.Barrier(4)

    def start() -> None:
        own = bound(dictionary.tokenizer.name_or_path)
        barrier.wait()
        results.extend(as_lists(tokenise(TEXTS, own, tmp_path / "train.tsv")) for _ in range(5))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = dictionary.encode(TEXTS)
    assert len(results) == 20 and all(result == expected for result in results)
    assert len(files(tmp_path)) == 1


def test_a_dataset_from_the_cache(backbones, tmp_path, monkeypatch):
    """Targets and source texts are those of a start without it."""
    rows = [
        {"id": str(i), "audio": "", "n_frames": 0, "src_text": text, "tgt_text": text[::-1], "tgt_lang": "de"}
        for i, text in enumerate(SENTENCES)
    ]
    write_tsv(tmp_path / "train.tsv", rows)
    loaded = []
    for again in (False, True):
        _, task, _ = build(tmp_path, backbones)
        if again:
            refuse(monkeypatch)
        task.load_dataset("train")
        loaded.append(
            [(item.prompt, item.target.tolist()) for item in map(task.dataset("train").__getitem__, range(12))]
        )
    assert loaded[0] == loaded[1]
    assert len(files(tmp_path)) == 1
