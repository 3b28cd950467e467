"""What every corpus has in common: splits, cleaning of training data alone, counts, manifests."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from lst_fairseq.corpora import corpora
from lst_fairseq.corpora.base import CORPORA, Corpus, Split, Utterance, prepare, register_corpus
from lst_fairseq.corpora.cleaning import CleaningOptions
from lst_fairseq.corpora.preparation import PrepError
from lst_fairseq.data.audio import Segment
from lst_fairseq.utils.flags import setting
from tests.support.helpers import lst, lst_refuses, read_tsv

#: Seconds, speaker and target of each segment of a split.
SEGMENTS = {
    "train": [(1.0, "a", "Eins"), (9.0, "a", "Lang"), (0.0, "b", "Nichts"), (2.0, "c", "Zwei")],
    "dev": [(9.0, "a", "Lang"), (0.5, "b", "")],
    "odd": [(0.0, "a", "Nichts")],
}


ONE = Utterance("list:0", "dev_0", Segment("0.wav"), 8000, 1.0, "One.", "Eins.", "a")


@dataclass(frozen=True, kw_only=True)
class Spoken(Corpus):
    """A corpus of the tests.

    example:
      lst prep spoken --suffix !
    """

    suffix: str = setting("behind each source", ".")
    tgt_lang = "de"
    layout = "none"
    cleaning = CleaningOptions(max_seconds=5.0)
    place: ClassVar[str] = "here"

    def splits(self) -> list[str]:
        return list(SEGMENTS)

    def read(self, split: str, out: Path) -> Split:
        def utterances() -> Iterator[Utterance]:
            for number, (seconds, speaker, target) in enumerate(SEGMENTS[split]):
                note = "shouted" if seconds == 2.0 else ""
                source, frames = f"{number}{self.suffix}", round(8000 * seconds)
                where, audio = f"list:{number}", Segment(f"{number}.wav")
                name = f"{split}_{number}"
                yield Utterance(where, name, audio, frames, seconds, source, target, speaker, note)

        return Split(utterances(), len(SEGMENTS[split]), "; one was lost" if split == "dev" else "")


@pytest.fixture
def registered():
    register_corpus("spoken")(Spoken)
    yield
    del CORPORA["spoken"]


def test_training_data_alone_is_cleaned_and_all_is_counted(tmp_path):
    said: list[str] = []
    prepare(Spoken(), tmp_path, splits=["train", "dev"], say=said.append)
    assert said == [
        "train: 2 segments, 2 speakers, 0.00 h, 1 shouted; left out 2 of 4: 1 longer than 5 s, "
        "1 shorter than 0 s",
        "dev: 2 segments, 2 speakers, 0.00 h; one was lost",
    ]
    rows = read_tsv(tmp_path / "train.tsv")
    assert [row["id"] for row in rows] == ["train_0", "train_3"]
    # From whatever folder the manifest is read.
    first = {"audio": f"{Path.cwd()}/0.wav", "n_frames": "8000", "src_text": "0.", "tgt_text": "Eins"}
    known = {"speaker": "a", "src_lang": "en", "tgt_lang": "de", "task": "st"}
    assert rows[0] == {"id": "train_0", **first, **known}
    assert [row["tgt_text"] for row in read_tsv(tmp_path / "dev.tsv")] == ["Lang", ""]
    assert 'target_lang: "de"' in (tmp_path / "config.yaml").read_text()


def test_other_cleaning_takes_the_place_of_the_corpus_s_own(tmp_path):
    prepare(Spoken(), tmp_path, splits=["train"], cleaning=CleaningOptions(), say=lambda _: None)
    assert [row["tgt_text"] for row in read_tsv(tmp_path / "train.tsv")] == ["Eins", "Lang", "Zwei"]


def test_a_split_that_is_not_there_and_a_segment_that_is_nothing(tmp_path):
    with pytest.raises(PrepError, match=r"^here: no split test; there are: train, dev, odd$"):
        prepare(Spoken(), tmp_path / "out", splits=["test"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(PrepError, match=r"^list:0: the segment has no samples, and of odd nothing"):
        prepare(Spoken(), tmp_path / "out", say=lambda _: None)
    assert not (tmp_path / "out" / "odd.tsv").exists()


def test_ids_that_stand_twice_and_splits_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(SEGMENTS, "dev", [])
    with pytest.raises(PrepError, match=r"^here: dev holds no segment"):
        prepare(Spoken(), tmp_path, splits="dev", say=lambda _: None)
    monkeypatch.setattr(Spoken, "read", lambda *_: Split([ONE, replace(ONE, where="list:7")], 2))
    message = r"^list:7: the id dev_0 stands twice in dev, first at list:0; give each"
    with pytest.raises(PrepError, match=message):
        prepare(Spoken(), tmp_path, splits="dev", say=lambda _: None)
    assert not list(tmp_path.glob("*.tsv"))


def test_its_settings_are_flags(registered, tmp_path, capsys):
    assert "spoken" in corpora()
    lst("prep", "spoken", "--suffix", "!", "--out", tmp_path, "--splits", "dev")
    assert read_tsv(tmp_path / "dev.tsv")[0]["src_text"] == "0!"
    assert "dev: 2 segments" in capsys.readouterr().out
    refusal = lst_refuses("prep", "spoken", "--out", tmp_path, "--splits", "dve")
    assert refusal == "error: here: no split dve; there are: train, dev, odd"
