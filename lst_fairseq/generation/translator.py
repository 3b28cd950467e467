"""From a checkpoint and audio files to text: one class, used by every command that is not fairseq's own."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils

from lst_fairseq import register
from lst_fairseq.checkpoints.loading import load_own
from lst_fairseq.data.audio import SAMPLE_RATE, AudioError, Segment, audio_info, read_segment, segment_samples
from lst_fairseq.data.prompt import COT_TASK, DEFAULT_TASK, Prompt, collate_prompts
from lst_fairseq.utils.checkpoint_files import check_checkpoint


@dataclass(frozen=True)
class DecodingOptions:
    """How to search; fairseq-generate's flags of the same names."""

    beam: int = 4
    lenpen: float = 1.0  # exponent of the length by which a hypothesis' score is divided
    max_len_b: int = 500  # most tokens of a translation
    min_len: int = 1
    no_repeat_ngram_size: int = 0
    temperature: float = 1.0


@dataclass(frozen=True)
class Translation:
    """One hypothesis.

    Attributes:
        audio: the input as it was named.
        text: detokenised, on one line; of chain of thought (task ``cot``) the translation alone.
        score: sum of the tokens' natural log-probabilities over their number (with end) to the power ``lenpen``.
        seconds: duration of the speech.
        tokens: ids of the LLM, with the end of sentence.
        transcript: of chain of thought, what stood before the translation; None for other tasks.
    """

    audio: str
    text: str
    score: float
    seconds: float
    tokens: list[int]
    transcript: str | None = None


class Translator:
    """A trained model ready to translate files.

    Args:
        checkpoint: a file that ``fairseq-train --task lst_st`` wrote, or a directory of ``lst export``.
        speech_encoder: where the frontend lies now, if not where the checkpoint says.
        llm: where the LLM lies now, likewise.
        device: ``cuda``, ``cpu`` or any other of PyTorch's; a GPU if there is one by default.
        half: run in fp16 (GPUs).
        options: how to search.
        instruction_task: the task whose instruction the model gets, as the manifest's column ``task`` names it.
        source_lang, target_lang: language codes for the prompt, if not the checkpoint's.

    Raises:
        CheckpointError: not a checkpoint of ``lst_st``.
        ValueError: no such task or language, or the prompt names none.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        speech_encoder: str | None = None,
        llm: str | None = None,
        device: str | None = None,
        half: bool = False,
        options: DecodingOptions | None = None,
        instruction_task: str = DEFAULT_TASK,
        source_lang: str | None = None,
        target_lang: str | None = None,
    ):
        overrides = {"speech_encoder": speech_encoder, "llm": llm}
        check_checkpoint(checkpoint)
        register()
        state = load_own(checkpoint)
        for name, value in overrides.items():
            if value is not None:
                state["cfg"].task[name] = value
        models, _, self.task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = models[0].eval()
        if half:
            self.model.half()
        self.model.to(self.device)
        self.generator = self.task.build_generator([self.model], Namespace(**vars(options or DecodingOptions())))
        self.instruction_task = instruction_task
        self.prompt = self._prompt(source_lang or "", target_lang or "")

    def _prompt(self, source_lang: str, target_lang: str) -> Prompt:
        """The prompt of every file; what is asked for must have a place in it."""
        settings, name = self.task.prompts.settings, self.instruction_task
        if name not in settings.instructions:
            known = ", ".join(sorted(settings.instructions))
            raise ValueError(f"--instruction-task {name}: this model has no such task; its tasks: {known}")
        asked = {
            "--source-lang": (source_lang, "src_lang"),
            "--target-lang": (target_lang, "tgt_lang"),
            "--instruction-task": (name if name != DEFAULT_TASK else "", "instruction"),
        }
        for flag, (value, placeholder) in asked.items():
            if value and not settings.mentions(placeholder, name):
                raise ValueError(
                    f"{flag} {value}: this model's prompt has no {{{placeholder}}}, so that the flag would change "
                    f"nothing; leave it out (prompt: {settings.template!r})"
                )
        return self.task.prompts.choices(name, source_lang, target_lang)[0]

    @property
    def max_seconds(self) -> float:
        """Longest file that is translated, in seconds: what the model was trained for."""
        return self.task.cfg.max_source_seconds

    def check(self, audio: str) -> Segment:
        """The segment that ``FILE`` or ``FILE:OFFSET:FRAMES`` names, if it can be translated.

        Raises:
            AudioError: it cannot be read, or is longer than :attr:`max_seconds`; the message says what to do.
        """
        segment = Segment.parse(audio)
        seconds = segment_samples(segment, audio_info(segment.path)) / SAMPLE_RATE
        if seconds > self.max_seconds:
            raise AudioError(
                f"{audio}: {seconds:.1f} s long, and this model takes {self.max_seconds:g} s at most: cut it into "
                f"sentences, or name a part of it as FILE:OFFSET:FRAMES (samples at the file's own rate)",
                "too long",
            )
        return segment

    @torch.inference_mode()
    def translate(self, audio: Iterable[str], batch_size: int = 8) -> Iterator[Translation]:
        """Translate files in their order, ``batch_size`` at a time; results come as each batch is done."""
        names = list(audio)
        segments = [self.check(name) for name in names]
        for start in range(0, len(names), batch_size):
            waveforms = [torch.from_numpy(read_segment(s)) for s in segments[start : start + batch_size]]
            lengths = torch.tensor([len(w) for w in waveforms])
            net_input: dict[str, Any] = {
                "src_tokens": torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
                "src_lengths": lengths,
                **collate_prompts([self.prompt] * len(waveforms)),
            }
            sample = {"net_input": net_input}
            if self.device.type == "cuda":
                sample = utils.move_to_cuda(sample, device=self.device)
            hypotheses = self.task.inference_step(self.generator, [self.model], sample)
            for name, length, beams in zip(names[start:], lengths.tolist(), hypotheses, strict=False):
                tokens = beams[0]["tokens"].tolist()
                text, transcript = self.task.target_dictionary.string(tokens), None
                if self.instruction_task == COT_TASK:
                    transcript, text = self.task.prompts.settings.split_cot(text)
                yield Translation(
                    audio=name,
                    text=text,
                    score=float(beams[0]["score"]),
                    seconds=length / SAMPLE_RATE,
                    tokens=tokens,
                    transcript=transcript,
                )
