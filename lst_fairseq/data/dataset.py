"""Manifest rows to batches of waveforms and target ids; nothing is lost without being counted."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fairseq.data.audio.dataset_transforms.concataugment import ConcatAugment
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset, SpeechToTextDatasetItem
from torch import Tensor

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError, read_segment
from lst_fairseq.data.data_cfg import LstDataConfig
from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.feature_cache import FeatureCache
from lst_fairseq.data.manifest import Manifest, Row
from lst_fairseq.data.prompt import Prompt, Prompts, collate_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LengthRule:
    """How many LLM positions an utterance takes, and what training leaves out.

    Attributes:
        speech_positions: LongTensor [B] of samples -> LongTensor [B] of LLM positions; the model's own function.
        llm_positions: the most that the LLM has.
        max_source_seconds: longer training segments are left out.
        min_source_seconds: shorter training segments are left out.
    """

    speech_positions: Callable[[Tensor], Tensor]
    llm_positions: int
    max_source_seconds: float
    min_source_seconds: float

    def positions(
        self, n_samples: Sequence[int], prompt_lengths: Sequence[int], target_lengths: Sequence[int]
    ) -> np.ndarray:
        """LLM positions [N] of utterances: prompt, speech with its markers, and the target (whose length counts the end
        of sentence) without the end of sentence, which is predicted but never fed."""
        speech = self.speech_positions(torch.tensor(n_samples, dtype=torch.long)).numpy()
        target = np.maximum(np.asarray(target_lengths, dtype=np.int64) - 1, 0)
        return speech + np.asarray(prompt_lengths, dtype=np.int64) + target

    def reason_to_skip(self, row: Row, target_length: int, positions: int) -> str | None:
        """Why a training segment is left out, or None."""
        if row.n_samples > self.max_source_seconds * SAMPLE_RATE:
            return f"longer than --max-source-seconds {self.max_source_seconds:g}"
        if row.n_samples < self.min_source_seconds * SAMPLE_RATE:
            return f"shorter than --min-source-seconds {self.min_source_seconds:g}"
        if target_length <= 1:  # the end of sentence alone
            return "empty target"
        if positions > self.llm_positions:
            return f"longer than the LLM's {self.llm_positions} positions"
        return None


class LstDataset(SpeechToTextDataset):
    """Segments of a manifest. Lengths are LLM positions, so that fairseq's batching sees what the LLM sees.

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
        self.targets: list[np.ndarray] | None = None
        if dictionary is not None:
            eos = dictionary.eos()
            self.targets = [
                np.array([*ids, eos], dtype=np.int32) for ids in dictionary.encode([r.tgt_text for r in rows])
            ]
        lengths = [len(target) for target in self.targets] if self.targets else [0] * len(rows)
        self.prompts = prompts
        self.manifest_path = manifest.path
        positions = rule.positions([row.n_samples for row in rows], [self._prompt_length(row) for row in rows], lengths)
        self.skipped = Counter(manifest.skipped)
        if is_train:
            reasons = [rule.reason_to_skip(*triple) for triple in zip(rows, lengths, positions.tolist(), strict=True)]
            self.skipped.update(reason for reason in reasons if reason)
            keep = [i for i, reason in enumerate(reasons) if reason is None]
            if not keep:
                raise ValueError(f"{manifest.path}: no training segment is left: {_counts(self.skipped)}")
            rows, positions = [rows[i] for i in keep], positions[keep]
            self.targets = [self.targets[i] for i in keep] if self.targets else None
        self.rows = rows
        self.positions = positions
        self.seed = seed
        self.skip_bad_audio = skip_bad_audio
        self.cache: FeatureCache | None = None
        super().__init__(
            split=split,
            is_train_split=is_train,
            cfg=cfg,
            audio_paths=[str(row.segment) for row in rows],
            n_frames=[row.n_samples for row in rows],
            src_texts=[row.src_text for row in rows],
            tgt_texts=[row.tgt_text for row in rows] if self.targets is not None else None,
            speakers=[row.speaker for row in rows],
            src_langs=[row.src_lang for row in rows],
            tgt_langs=[row.tgt_lang for row in rows],
            ids=[row.id for row in rows],
            tgt_dict=dictionary,
        )
        if self.dataset_transforms.has_transform(ConcatAugment):
            raise ValueError("the data config asks for concataugment, which lst_st does not support: remove it")
        if self.skipped:
            logger.warning(f"{manifest.path}: {sum(self.skipped.values())} segments left out: {_counts(self.skipped)}")

    def get_tgt_lens_and_check_oov(self) -> list[int]:
        return [len(target) for target in self.targets] if self.targets is not None else [0] * self.n_samples

    @property
    def longest_prompt(self) -> int:
        """Positions of the longest prompt that any utterance may get."""
        return max(map(self._prompt_length, self.rows), default=0)

    def _prompt_length(self, row: Row) -> int:
        try:
            return self.prompts.longest(row.task, row.src_lang, row.tgt_lang)
        except ValueError as error:
            raise ValueError(f"{self.manifest_path}:{row.line}: {error}") from None

    def prompt(self, index: int) -> Prompt:
        """The prompt of an utterance: in training one of its task's, drawn anew in each epoch, else the first."""
        row = self.rows[index]
        choices = self.prompts.choices(row.task, row.src_lang, row.tgt_lang)
        if not self.is_train_split or len(choices) == 1:
            return choices[0]
        # A generator of its own, so that a resumed run draws what an uninterrupted one does.
        return choices[np.random.default_rng((self.seed, self.epoch, index)).integers(len(choices))]

    def use_cache(self, cache: FeatureCache) -> None:
        """Take a frozen frontend's features from a filled cache instead of reading audio."""
        self.cache = cache
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

    def __getitem__(self, index: int) -> SpeechToTextDatasetItem:
        """One utterance; its source is None where the audio is broken and may be skipped.

        Raises:
            AudioError: the audio cannot be read and ``skip_bad_audio`` is off; names manifest, line and file.
        """
        index = int(index)
        try:
            source = self.read_waveform(index) if self.cache is None else self.cache.read(index)
        except AudioError as error:
            if not self.skip_bad_audio:
                raise
            logger.warning(f"skipped: {error}")
            source = None
        target = torch.from_numpy(self.targets[index].astype(np.int64)) if self.targets is not None else None
        return SpeechToTextDatasetItem(index=index, source=source, target=target)

    def collater(self, samples: list[SpeechToTextDatasetItem], return_order: bool = False) -> dict[str, Any]:
        """fairseq's batch, and ``n_skipped``, how many utterances had broken audio.

        ``src_tokens`` is waveforms [B, T] in float64, or features [B, N, D] in float16 where they come from a cache.

        float64, because fairseq's trainer rounds float32 inputs to half precision (trainer.py, _prepare_sample), and a
        waveform in bf16 has 8 bits. The frontend takes it to float32.
        """
        if not samples:  # the share of a process for which no batch is left
            return {}
        good = [sample for sample in samples if sample.source is not None]
        items = good or [self._stand_in()]
        batch = super().collater(items, return_order=return_order)
        # fairseq sorts a batch by length, longest first, and keeps equals in their order.
        batch["net_input"].update(collate_prompts([self.prompt(index) for index in batch["id"].tolist()]))
        if not good:
            batch.update(id=batch["id"][:0], nsentences=0, ntokens=0)
            if batch["target"] is not None:
                batch["target"].fill_(self.tgt_dict.pad())
        if self.cache is None:
            batch["net_input"]["src_tokens"] = batch["net_input"]["src_tokens"].double()
        batch["n_skipped"] = len(samples) - len(good)
        return batch

    def _stand_in(self) -> SpeechToTextDatasetItem:
        """What a batch holds when all of its audio is broken: a second of silence, without loss, tokens or id.

        fairseq knows no such batch: for an empty one the trainer (trainer.py:1337) trains and logs its first batch
        again, and stops if that is empty, too.
        """
        target = None if self.targets is None else torch.tensor([self.tgt_dict.eos()])
        source = torch.zeros(SAMPLE_RATE) if self.cache is None else torch.zeros(50, self.cache.features.shape[1])
        return SpeechToTextDatasetItem(index=0, source=source, target=target)

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
        """Not where the order is random: batches are then made anew each epoch, so that a resumed run has the same."""
        return not self.shuffle

    def ordered_indices(self) -> np.ndarray:
        """Longest first by LLM positions, in random or manifest order among equals."""
        order = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return np.lexsort((order, -self.positions))


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
