"""Manifest rows to batches of waveforms, prompts and target ids; nothing is lost without being counted."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data.audio.dataset_transforms.concataugment import ConcatAugment
from fairseq.data.audio.dataset_transforms.noisyoverlapaugment import NoisyOverlapAugment
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset, SpeechToTextDatasetItem
from torch import Tensor

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError, read_segment
from lst_fairseq.data.data_cfg import LstDataConfig
from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.feature_cache import FeatureCache
from lst_fairseq.data.lengths import LengthRule
from lst_fairseq.data.manifest import Manifest, Row
from lst_fairseq.data.prompt import COT_TASK, DEFAULT_TASK, TEXT_TASK, Prompt, Prompts, collate_prompts
from lst_fairseq.data.token_cache import Tokens, tokenise

logger = logging.getLogger(__name__)


@dataclass
class LstItem(SpeechToTextDatasetItem):
    """An utterance: waveform [T] or features [n, D] (None where the audio is broken), target ids, and its prompt."""

    prompt: Prompt | None = None


class LstDataset(SpeechToTextDataset):
    """Segments of a manifest. Lengths are LLM positions, so that fairseq's batching sees what the LLM sees.

    Rows without audio are text only: their source text stands in the prompt, and their speech has length 0.

    Args:
        split: name of the split; names that start with ``train`` are filtered by the length rule, others never.
        cfg: data configuration.
        manifest: checked rows.
        dictionary: the LLM's vocabulary; None for rows without targets (interactive use).
        rule: lengths and limits.
        prompts: of the model, for each task and language pair.
        seed: of the draws among several instructions.
        skip_bad_audio: count and leave out audio that turns out broken when it is read, instead of stopping.
    """

    def __init__(
        self,
        split: str,
        cfg: LstDataConfig,
        manifest: Manifest,
        dictionary: LlmDictionary | None,
        rule: LengthRule,
        prompts: Prompts,
        seed: int = 1,
        skip_bad_audio: bool = False,
    ):
        rows, is_train = manifest.rows, split.startswith("train")
        self.prompts = prompts
        self.manifest_path = manifest.path
        texts = self._target_texts(rows, dictionary, is_train) if dictionary is not None else None
        targets, sources = _tokenise(rows, texts, dictionary, Path(manifest.path))
        prompt_lengths, self.draws = self._prompt_lengths(rows, is_train)
        n_samples = np.array([row.n_samples for row in rows], dtype=np.int64)
        target_lengths = np.zeros(len(rows), np.int64) if targets is None else targets.lengths + 1
        prefix = prompt_lengths + sources.lengths
        positions = rule.positions(n_samples, prefix, target_lengths)
        self.skipped = Counter(manifest.skipped)
        keep = np.arange(len(rows))
        if is_train:
            left_out = rule.left_out(n_samples, sources.lengths, target_lengths, positions)
            self.skipped.update({reason: int(mask.sum()) for reason, mask in left_out.items() if mask.any()})
            keep = np.flatnonzero(~np.logical_or.reduce(list(left_out.values())))
            if not len(keep):
                raise ValueError(f"{manifest.path}: no training segment is left: {_counts(self.skipped)}")
        else:
            _check_room(manifest, rule.positions(n_samples, prefix, np.zeros_like(n_samples)), rule.llm_positions)
        self.rows = rows = [rows[i] for i in keep.tolist()]
        self.targets = None if targets is None else targets.select(keep)
        self.sources = sources.select(keep)
        self.positions, self.prefix, self.is_text = positions[keep], prefix[keep], n_samples[keep] == 0
        self.seed = seed
        self.epoch = 1
        self.skip_bad_audio = skip_bad_audio
        self.cache: FeatureCache | None = None
        self.feature_width: int | None = None  # of features that come from a cache; None: waveforms
        super().__init__(
            split=split,
            is_train_split=is_train,
            cfg=cfg,
            audio_paths=[str(row.segment) for row in rows],
            n_frames=n_samples[keep].tolist(),
            src_texts=[row.src_text for row in rows],
            tgt_texts=None if texts is None else [texts[i] for i in keep.tolist()],
            speakers=[row.speaker for row in rows],
            src_langs=[row.src_lang for row in rows],
            tgt_langs=[row.tgt_lang for row in rows],
            ids=[row.id for row in rows],
            tgt_dict=dictionary,
        )
        if self.dataset_transforms.has_transform(ConcatAugment):
            raise ValueError("the data config asks for concataugment, which lst_st does not support: remove it")
        if self.is_text.any() and self.dataset_transforms.has_transform(NoisyOverlapAugment):
            raise ValueError(
                f"{manifest.path}: the data config asks for noisyoverlapaugment, which cannot mix speech into lines "
                "that are text only: remove it, or the lines"
            )
        if self.skipped:
            logger.warning(f"{manifest.path}: {sum(self.skipped.values())} segments left out: {_counts(self.skipped)}")

    def _target_texts(self, rows: Sequence[Row], dictionary: LlmDictionary, is_train: bool) -> list[str]:
        """What the model is to say: ``tgt_text``, in chain of thought after the transcript."""
        separator = self.prompts.settings.cot_separator
        texts = [row.tgt_text for row in rows]
        for i, row in enumerate(rows):
            if row.task != COT_TASK or not row.tgt_text:
                continue
            if row.src_text.strip():
                texts[i] = f"{row.src_text}{separator}{row.tgt_text}"
            elif is_train:
                raise ValueError(
                    f"{self.manifest_path}:{row.line}: no src_text, and task {COT_TASK} is trained on the transcript "
                    "and then the translation: give it, or another task"
                )
        if is_train and any(row.task == COT_TASK for row in rows):
            written = dictionary.string(dictionary.encode([separator])[0])
            if separator.strip() not in written:
                raise ValueError(
                    f"cot_separator {separator!r}: the LLM's tokenizer can write it as {written!r} only; choose "
                    "another text for `cot_separator` in the data config"
                )
        return texts

    def _prompt_lengths(self, rows: Sequence[Row], is_train: bool) -> tuple[np.ndarray, bool]:
        """Positions [N] of the longest prompt that each row may get, and whether any is drawn among several."""
        known: dict[tuple[str, str, str], int] = {}
        draws = False
        lengths = np.empty(len(rows), dtype=np.int64)
        for i, row in enumerate(rows):
            key = _prompt_key(row)
            if key not in known:
                try:
                    known[key] = self.prompts.longest(*key)
                except ValueError as error:
                    raise ValueError(f"{self.manifest_path}:{row.line}: {error}") from None
                draws |= is_train and len(self.prompts.choices(*key)) > 1
            lengths[i] = known[key]
        return lengths, draws

    def get_tgt_lens_and_check_oov(self) -> list[int]:
        return [0] * self.n_samples if self.targets is None else (self.targets.lengths + 1).tolist()

    def longest_prompt(self, max_speech: int) -> int:
        """Positions that the LLM needs in front of a target, apart from ``max_speech`` for speech.

        That is the longest prompt that any utterance may get; a source text also fills the places of speech.
        """
        return int(np.where(self.is_text, self.prefix - max_speech, self.prefix).max(initial=0))

    def prompt(self, index: int) -> Prompt:
        """The prompt of an utterance: in training one of its task's, drawn anew in each epoch, else the first.

        A source text is part of it.
        """
        row = self.rows[index]
        choices = self.prompts.choices(*_prompt_key(row))
        prompt = choices[0]
        if self.is_train_split and len(choices) > 1:
            # A generator of its own, so that a resumed run draws what an uninterrupted one does.
            prompt = choices[np.random.default_rng((self.seed, self.epoch, index)).integers(len(choices))]
        return prompt.around_text(self.sources[index].tolist()) if row.is_text else prompt

    def set_epoch(self, epoch: int) -> None:
        """Draw that epoch's prompts from now on."""
        super().set_epoch(epoch)
        self.epoch = epoch

    def use_features(self, width: int, cache: FeatureCache | None) -> None:
        """Take a frozen frontend's features from a filled cache instead of reading audio.

        Args:
            width: of a feature vector.
            cache: None where every row is text only; batches may have rows of other manifests, too.
        """
        self.cache = cache
        self.feature_width = width
        self.cfg = self.cfg.for_features()

    def _get_source_audio(self, index: int) -> Tensor:
        waveform = read_segment(self.rows[index].segment)
        if self.waveform_transforms is not None:
            waveform = self.waveform_transforms(waveform[None], SAMPLE_RATE)[0][0]
        return torch.from_numpy(waveform)

    def read_waveform(self, index: int) -> Tensor:
        """The waveform [T] of a row; an AudioError names manifest and line."""
        try:
            return self._get_source_audio(index)
        except AudioError as error:
            where = f"{self.manifest_path}:{self.rows[index].line}"
            remedy = "" if self.skip_bad_audio else "; --skip-bad-audio leaves such segments out and counts them"
            raise AudioError(f"{where}: {error}{remedy}") from error

    def _read_source(self, index: int) -> Tensor | None:
        """Waveform or features of a row, of length 0 where it is text only, None where the audio is broken."""
        if self.rows[index].is_text:
            return self._no_speech(0)
        return self.read_waveform(index) if self.cache is None else self.cache.read(index)

    def _no_speech(self, length: int) -> Tensor:
        if self.feature_width is None:
            return torch.zeros(length)
        return torch.zeros(length, self.feature_width, dtype=torch.float16)

    def __getitem__(self, index: int) -> LstItem:
        """One utterance; its source is None where the audio is broken and may be skipped.

        Raises:
            AudioError: the audio cannot be read and ``skip_bad_audio`` is off; names manifest, line and file.
        """
        index = int(index)
        try:
            source = self._read_source(index)
        except AudioError as error:
            if not self.skip_bad_audio:
                raise
            logger.warning(f"skipped: {error}")
            source = None
        target = None
        if self.targets is not None:
            target = torch.tensor([*self.targets[index].tolist(), self.tgt_dict.eos()])
        return LstItem(index=index, source=source, target=target, prompt=self.prompt(index))

    def collater(self, samples: list[LstItem], return_order: bool = False) -> dict[str, Any]:
        """fairseq's batch, and ``n_skipped``, how many utterances had broken audio.

        ``src_tokens`` is waveforms [B, T] in float64, or features [B, N, D] in float16 where they come from a cache.
        ``src_lengths`` is 0 of text only. The prompts are the items' own: fairseq's ConcatDataset collates the items of
        all manifests with the first one's collater.

        float64, because fairseq's trainer rounds float32 inputs to half precision (trainer.py, _prepare_sample), and a
        waveform in bf16 has 8 bits. The frontend takes it to float32.
        """
        if not samples:  # the share of a process for which no batch is left
            return {}
        good = [sample for sample in samples if sample.source is not None]
        items = good or [self._stand_in()]
        batch = super().collater(items, return_order=True)  # fairseq sorts a batch by length, longest first
        order = batch["order"] if return_order else batch.pop("order")
        batch["net_input"].update(collate_prompts([items[i].prompt for i in order.tolist()]))
        if not good:
            batch.update(id=batch["id"][:0], nsentences=0, ntokens=0)
            if batch["target"] is not None:
                batch["target"].fill_(self.tgt_dict.pad())
        if self.feature_width is None:
            batch["net_input"]["src_tokens"] = batch["net_input"]["src_tokens"].double()
        batch["n_skipped"] = len(samples) - len(good)
        return batch

    def _stand_in(self) -> LstItem:
        """What a batch holds when all of its audio is broken: a second of silence, without loss, tokens or id.

        fairseq knows no such batch: for an empty one the trainer (trainer.py:1337) trains and logs its first batch
        again, and stops if that is empty, too.
        """
        target = None if self.targets is None else torch.tensor([self.tgt_dict.eos()])
        source = self._no_speech(SAMPLE_RATE if self.feature_width is None else 50)
        return LstItem(index=0, source=source, target=target, prompt=self.prompt(0))

    def num_tokens(self, index: int) -> int:
        """LLM positions of an utterance: what ``--max-tokens`` counts."""
        return int(self.positions[index])

    def num_tokens_vec(self, indices: Sequence[int]) -> np.ndarray:
        return self.positions[np.asarray(indices)]

    def size(self, index: int) -> tuple[int, int]:
        return int(self.positions[index]), self.tgt_lens[index]

    @property
    def sizes(self) -> np.ndarray:
        return self.positions

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Not where the order is random: batches are then made anew each epoch, so that a resumed run has the same.
        Nor where prompts are drawn: fairseq keeps the processes that load data, and they never hear of a new epoch."""
        return not self.shuffle and not self.draws

    def ordered_indices(self) -> np.ndarray:
        """Longest first by LLM positions, in random or manifest order among equals."""
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return np.lexsort((order, -self.positions))


def _prompt_key(row: Row) -> tuple[str, str, str]:
    """Task and languages by which a row's prompt is chosen."""
    return row.task or (TEXT_TASK if row.is_text else DEFAULT_TASK), row.src_lang, row.tgt_lang


def _check_room(manifest: Manifest, n_positions: np.ndarray, llm_positions: int) -> None:
    """Refuse rows [N] whose speech and prompt alone do not fit the LLM, so that nothing could be said about them."""
    too_long = np.flatnonzero(n_positions > llm_positions)
    if len(too_long):
        row, needed = manifest.rows[too_long[0]], int(n_positions[too_long[0]])
        raise ValueError(
            f"{manifest.path}:{row.line}: {row.id} takes {needed:,} positions of the LLM with its prompt, and the LLM "
            f"has {llm_positions:,}: cut it into shorter segments ({len(too_long):,} such lines)"
        )


def _tokenise(
    rows: Sequence[Row], targets: Sequence[str] | None, dictionary: LlmDictionary | None, manifest: Path
) -> tuple[Tokens | None, Tokens]:
    """Tokens of each row's target, and of the source text of those rows that are text only."""
    if targets is None or dictionary is None:
        return None, Tokens.empty(len(rows))
    is_text = np.array([row.is_text for row in rows], dtype=bool)
    tokens = tokenise([*targets, *(row.src_text for row in rows if row.is_text)], dictionary, manifest)
    starts, ends = np.zeros((2, len(rows)), dtype=np.int64)
    starts[is_text], ends[is_text] = tokens.starts[len(rows) :], tokens.ends[len(rows) :]
    return tokens.select(slice(len(rows))), Tokens(tokens.ids, starts, ends)


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
