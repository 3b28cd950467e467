"""The task ``lst_st``: fairseq's speech_to_text with raw waveforms, an LLM's vocabulary and a prompt.

What needs transformers is imported where it is used: it takes seconds, and ``fairseq-train --help`` imports this file.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import ConcatDataset, FairseqDataset, ResamplingDataset
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask, register_task
from fairseq.tasks.speech_to_text import SpeechToTextTask

from lst_fairseq.data.audio import SAMPLE_RATE, Segment, audio_info, segment_samples
from lst_fairseq.data.data_cfg import LstDataConfig
from lst_fairseq.data.dataset import LstDataset
from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.lengths import LengthRule
from lst_fairseq.data.manifest import Manifest, Row, read_manifest
from lst_fairseq.data.prompt import (
    COT_SEPARATOR,
    DEFAULT_SOURCE,
    DEFAULT_TASK,
    LST_TEMPLATE,
    Prompts,
    PromptSettings,
    language_name,
)
from lst_fairseq.data.sampling import sampled, sampled_sizes
from lst_fairseq.errors import SettingsError
from lst_fairseq.evaluation.metrics import SIGNATURE
from lst_fairseq.generation.flags import check_flags, check_shards
from lst_fairseq.models.lst import LstModel
from lst_fairseq.models.pretrained import OwnCodeError, load_tokenizer, model_config, model_directory
from lst_fairseq.tasks.config import MAX_SOURCE_SECONDS, LstTaskConfig
from lst_fairseq.tasks.feature_filling import use_cached_features
from lst_fairseq.utils.messages import in_words

logger = logging.getLogger(__name__)

#: Settings that a checkpoint has with it, so that decoding need not repeat them; the command line goes before.
REMEMBERED = ("speech_encoder", "llm", "max_source_seconds")


@register_task("lst_st", dataclass=LstTaskConfig)
class LstTask(SpeechToTextTask):
    """Speech translation with a frontend, an adapter and an LLM.

    The LLM, and with it the dictionary, may become known late: fairseq-generate sets the task up, asks for the
    dictionary and then reads the checkpoint, whose task state names the LLM.

    Attributes:
        prompts: tokenised prompts for each task and language pair; set when the model is built.
    """

    def __init__(self, cfg: LstTaskConfig):
        FairseqTask.__init__(self, cfg)
        self.args = cfg  # SpeechToTextTask reads its settings from here
        self.data_cfg = LstDataConfig(Path(cfg.data) / cfg.config_yaml)
        self.tgt_dict = LlmDictionary()
        self.multitask_tasks: dict[str, Any] = {}
        self.speaker_to_id = None
        self.prompts: Prompts | None = None
        self.remembered: dict[str, Any] = {}  # prompt settings of the checkpoint that is decoded
        self.frontend_settings: dict[str, Any] | None = None  # of a frontend that the checkpoint holds
        self.rule: LengthRule | None = None
        self.model: LstModel | None = None
        self.max_decoder_positions = cfg.max_target_positions

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Flags from the dataclass; SpeechToTextTask writes its own by hand, which would come first."""
        gen_parser_from_dataclass(parser, LstTaskConfig())

    @classmethod
    def setup_task(cls, cfg: LstTaskConfig, **kwargs: Any) -> "LstTask":
        if not Path(cfg.data).is_dir() and not kwargs.get("from_checkpoint"):
            raise ValueError(f"{cfg.data}: no such folder of manifests; prepare the data first (lst prep)")
        task = cls(cfg)
        if cfg.llm:
            task._bind_dictionary()
        return task

    def _bind_dictionary(self) -> None:
        directory = model_directory(self.cfg.llm, "--llm")
        n_logits = model_config(directory, "--llm").get_text_config().vocab_size
        try:
            tokenizer = load_tokenizer(directory, "--llm")
        except OwnCodeError:
            raise
        except Exception as error:  # tokenizers, which is Rust, raises Exception itself
            raise ValueError(
                f"--llm {directory}: no tokenizer that transformers can read; give the directory of an LLM with its "
                f"tokenizer, as save_pretrained writes them ({in_words(error)})"
            ) from error
        try:
            self.tgt_dict.bind(tokenizer, n_logits)
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"--llm {directory}: {in_words(error)}") from error

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        if self.tgt_dict.tokenizer is None:
            self._bind_dictionary()
        if self.cfg.max_source_seconds is None:
            self.cfg.max_source_seconds = MAX_SOURCE_SECONDS
        settings = self._prompt_settings()
        self._check_languages(settings)
        self.prompts = Prompts(settings, self.tgt_dict.tokenizer)
        model = FairseqTask.build_model(self, cfg, from_checkpoint)
        self.model = model
        self.rule = LengthRule(
            speech_positions=model.encoder.output_lengths,
            llm_positions=model.decoder.llm_positions,
            max_source_seconds=self.cfg.max_source_seconds,
            min_source_seconds=self.cfg.min_source_seconds,
        )
        return model

    def _prompt_settings(self) -> PromptSettings:
        """From the command line; what that leaves open from the data config, then the checkpoint, then LST's own."""
        cfg, data, checkpoint = self.cfg, self.data_cfg, self.remembered
        return PromptSettings(
            template=cfg.prompt or data.prompt or checkpoint.get("template") or LST_TEMPLATE,
            instructions={**(checkpoint.get("instructions") or {}), **(data.instructions or {})},
            src_lang=cfg.source_lang or data.source_lang or checkpoint.get("src_lang") or DEFAULT_SOURCE,
            tgt_lang=cfg.target_lang or data.target_lang or checkpoint.get("tgt_lang"),
            cot_separator=data.cot_separator or checkpoint.get("cot_separator") or COT_SEPARATOR,
        )

    def _check_languages(self, settings: PromptSettings) -> None:
        """SettingsError where the command line or the data config gives a language without a name to a prompt."""
        for setting, placeholder in (("source_lang", "src_lang"), ("target_lang", "tgt_lang")):
            flag, configured = getattr(self.cfg, setting), getattr(self.data_cfg, setting)
            if (flag or configured) and settings.mentions(placeholder, DEFAULT_TASK):
                try:
                    language_name(flag or configured)
                except ValueError as error:
                    where = f"--{setting.replace('_', '-')}" if flag else f"{self.data_cfg.path}: `{setting}`"
                    raise SettingsError(f"{where}: {error}") from None

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        check_shards(cfg)
        return FairseqTask.build_criterion(self, cfg, from_checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The settings that decoding needs again, for the checkpoint."""
        own = {name: getattr(self.cfg, name) for name in REMEMBERED}
        own["prompt"] = self._prompt_settings().as_dict()
        if self.model is not None and "frontend" in self.model.record.held:
            own["frontend"] = self.model.encoder.frontend.settings()
        return {**super().state_dict(), "lst": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's settings where the command line says nothing."""
        state = dict(state_dict)
        own = state.pop("lst", {})
        for name in REMEMBERED:
            if getattr(self.cfg, name) is None and name in own:
                self.cfg[name] = own[name]
        if self.prompts is None:  # a model that is built already has its prompts
            self.remembered = own.get("prompt", {})
            self.frontend_settings = own.get("frontend")
        super().load_state_dict(state)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Load SPLIT.tsv, or several joined by commas (training; ``sampling_alpha`` of the data config applies).

        With ``sampling_alpha`` below 1 each epoch samples anew, as many segments in all as there are: from manifests
        that are to lose some, each segment at most once; from those that are to gain, with replacement.
        """
        names = split.split(",")
        is_train = names[0].startswith("train")
        if len(names) > 1 and (not is_train or "task_cfg" in kwargs):  # as fairseq-generate and -validate give it
            raise ValueError(
                f"{split}: the lines of both subsets would have the same numbers, and their hypotheses the same ids; "
                "give one subset a run"
            )
        if is_train and not all(name.startswith("train") for name in names):
            raise ValueError(f"{split}: training splits have names like train*, and none of them may be another kind")
        datasets: list[FairseqDataset] = [self._load_split(name) for name in names]
        if is_train and len(datasets) > 1:
            sizes = sampled_sizes([len(d) for d in datasets], self.data_cfg.sampling_alpha)
            logger.info(f"segments an epoch: {', '.join(f'{n} {s:,}' for n, s in zip(names, sizes, strict=True))}")
            datasets = [sampled(d, s, self.cfg.seed, epoch) for d, s in zip(datasets, sizes, strict=True)]
        self.datasets[split] = ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]

    def _load_split(self, name: str) -> LstDataset:
        path = Path(self.cfg.data) / f"{name}.tsv"
        if not path.is_file():
            found = ", ".join(sorted(p.stem for p in Path(self.cfg.data).glob("*.tsv"))) or "none"
            raise FileNotFoundError(f"{path}: no such manifest; splits in this folder: {found}")
        manifest = read_manifest(path, self.data_cfg.audio_root, skip_bad_audio=self.cfg.skip_bad_audio)
        dataset = self._dataset(name, manifest, self.tgt_dict)
        # The manifest's tasks and languages may ask for more than the model was built with.
        decoder = self.model.decoder
        decoder.reserve_prompt(dataset.longest_prompt(decoder.max_speech))
        if dataset.is_train_split and decoder.freeze and dataset.is_text.any():
            logger.warning(
                f"{path}: {int(dataset.is_text.sum()):,} lines are text only and teach nothing while the LLM is "
                "frozen: leave them out, or add llm or lora to --train-modules"
            )
        return dataset

    def _dataset(self, name: str, manifest: Manifest, dictionary: LlmDictionary | None) -> LstDataset:
        if self.rule is None or self.prompts is None:
            raise RuntimeError("build the model before the datasets: it knows how many LLM positions speech takes")
        return LstDataset(
            name,
            self.data_cfg,
            manifest,
            dictionary,
            self.rule,
            self.prompts,
            seed=self.cfg.seed,
            skip_bad_audio=self.cfg.skip_bad_audio,
        )

    def max_positions(self) -> None:
        """Nothing for fairseq to filter by (its --max-source-positions would count samples); see LengthRule."""
        return None

    def get_batch_iterator(self, dataset: FairseqDataset, *args: Any, **kwargs: Any) -> Any:
        """fairseq's batches, with none lost.

        data_utils.py:357 drops a last batch whose size is no multiple of --required-batch-size-multiple, which is 8
        by default; here each batch size is right. Outside training, an utterance longer than --max-tokens is a batch
        of its own rather than an error.
        """
        kwargs["required_batch_size_multiple"] = 1
        max_tokens = kwargs.get("max_tokens")
        sizes = np.asarray(dataset.sizes)
        longest = int(sizes.max(initial=0))
        is_train = any(dataset is d for name, d in self.datasets.items() if name.startswith("train"))
        if max_tokens and longest > max_tokens:
            if is_train:
                n_longer = int((sizes > max_tokens).sum())
                logger.warning(
                    f"{n_longer:,} training segments left out: more LLM positions than --max-tokens {max_tokens}"
                )
            else:
                logger.warning(f"--max-tokens {max_tokens} is raised to {longest}, the longest utterance, to lose none")
                kwargs["max_tokens"] = longest
        if self.cfg.cache_features:
            for part in _parts(dataset):
                use_cached_features(part, self.model, self.cfg)
        return super().get_batch_iterator(dataset, *args, **kwargs)

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """fairseq's, in which a batch that only stands in for a missing one counts for nothing."""
        loss, sample_size, logged = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        if ignore_grad:
            sample_size, logged = sample_size * 0, {name: value * 0 for name, value in logged.items()}
        return loss, sample_size, logged

    def build_generator(
        self, models: list[BaseFairseqModel], args: Any, seq_gen_cls: Any = None, extra_gen_cls_kwargs: Any = None
    ) -> Any:
        """fairseq's generator. ``--max-len-a`` counts tokens per second of speech (fairseq would count samples)."""
        from lst_fairseq.generation.beam_search import BeamSearchGenerator

        check_flags(args)
        if self.cfg.no_cuda_graphs:
            for model in models:
                model.decoder.recording.wanted = False
        if getattr(args, "max_len_a", 0):
            args = type(args)(**vars(args)) if not hasattr(args, "copy") else args.copy()
            args.max_len_a = args.max_len_a / SAMPLE_RATE
        logger.info(SIGNATURE + json.dumps(models[0].signature()))
        if seq_gen_cls is None:
            seq_gen_cls = BeamSearchGenerator
        return FairseqTask.build_generator(
            self, models, args, seq_gen_cls=seq_gen_cls, extra_gen_cls_kwargs=extra_gen_cls_kwargs
        )

    def begin_epoch(self, epoch: int, model: BaseFairseqModel) -> None:
        """Make sure that all processes train the same model: legacy_ddp broadcasts no initial parameters."""
        super().begin_epoch(epoch, model)
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            return
        trained = [p.detach().double().sum() for p in model.parameters() if p.requires_grad]
        mine = torch.stack(trained).sum()
        everyone = [torch.zeros_like(mine) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, mine)
        if any(not torch.equal(other, mine) for other in everyone):
            raise RuntimeError(
                "the processes hold different parameters at the start of the epoch: give every rank the same --seed, "
                "code and checkpoint"
            )

    def build_tokenizer(self, args: Any) -> None:
        """None: the dictionary detokenises."""
        return None

    def build_bpe(self, args: Any) -> None:
        """None: the dictionary detokenises."""
        return None

    def get_interactive_tokens_and_lengths(self, lines: list[str], encode_fn: Any) -> tuple[list[str], list[int]]:
        """fairseq-interactive: each input line names an audio file, or ``file:offset:frames``."""
        segments = [Segment.parse(line.strip(), self.data_cfg.audio_root) for line in lines]
        return lines, [segment_samples(segment, audio_info(segment.path)) for segment in segments]

    def build_dataset_for_inference(self, src_tokens: list[str], src_lengths: list[int], **kwargs: Any) -> LstDataset:
        """A dataset without targets of those audio files."""
        rows = [
            Row(
                line=number,
                id=str(number),
                segment=Segment.parse(path.strip(), self.data_cfg.audio_root),
                n_samples=n_samples,
                src_text="",
                tgt_text="",
                speaker="",
                src_lang="",
                tgt_lang="",
                task="",
            )
            for number, (path, n_samples) in enumerate(zip(src_tokens, src_lengths, strict=True), start=1)
        ]
        return self._dataset("interactive", Manifest("input", rows), None)


def _parts(dataset: FairseqDataset) -> list[LstDataset]:
    """The manifests' datasets inside fairseq's concatenated or resampled ones."""
    if isinstance(dataset, ConcatDataset):
        return [part for inner in dataset.datasets for part in _parts(inner)]
    if isinstance(dataset, ResamplingDataset):
        return _parts(dataset.dataset)
    return [dataset]
