"""From a checkpoint and audio files to text: one class, used by every command that is not fairseq's own."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError, Segment, audio_info, read_segment, segment_samples


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
        text: detokenised, on one line.
        score: sum of the tokens' natural log-probabilities over their number (with end) to the power ``lenpen``.
        seconds: duration of the speech.
        tokens: ids of the LLM, with the end of sentence.
    """

    audio: str
    text: str
    score: float
    seconds: float
    tokens: list[int]


class Translator:
    """A trained model ready to translate files.

    Args:
        checkpoint: a file that ``fairseq-train --task lst_st`` wrote, or a directory of scripts/export.py.
        speech_encoder: where the frontend lies now, if not where the checkpoint says.
        llm: where the LLM lies now, likewise.
        device: ``cuda``, ``cpu`` or any other of PyTorch's; a GPU if there is one by default.
        half: run in fp16 (GPUs).
        options: how to search.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        speech_encoder: str | None = None,
        llm: str | None = None,
        device: str | None = None,
        half: bool = False,
        options: DecodingOptions | None = None,
    ):
        overrides = {"speech_encoder": speech_encoder, "llm": llm}
        if not Path(checkpoint).exists():
            raise FileNotFoundError(f"{checkpoint}: no such checkpoint")
        state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
        if getattr((state.get("cfg") or {}).get("task"), "_name", None) != "lst_st":
            raise ValueError(f"{checkpoint}: not a checkpoint of the task lst_st; train one with --task lst_st")
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
            }
            sample = {"net_input": net_input}
            if self.device.type == "cuda":
                sample = utils.move_to_cuda(sample, device=self.device)
            hypotheses = self.task.inference_step(self.generator, [self.model], sample)
            for name, length, beams in zip(names[start:], lengths.tolist(), hypotheses, strict=False):
                tokens = beams[0]["tokens"].tolist()
                yield Translation(
                    audio=name,
                    text=self.task.target_dictionary.string(tokens),
                    score=float(beams[0]["score"]),
                    seconds=length / SAMPLE_RATE,
                    tokens=tokens,
                )
