"""What is asked about a training run before any weight is there."""

from dataclasses import dataclass

from lst_fairseq.models.architectures import ARCHITECTURES
from lst_fairseq.utils.arguments import UsageError, at_least, positive, positive_number
from lst_fairseq.utils.flags import setting


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A training run: its backbones, GPUs and batches. The model's settings are fairseq-train's.

    Raises:
        UsageError: an architecture that there is not, or a number that is none.
    """

    arch: str = setting("lst_7b and lst_13b are the paper's", choices=tuple(ARCHITECTURES))
    llm: str | None = setting(
        "directory with the LLM's config.json",
        None,
        metavar="DIR",
        unset="lst_7b, lst_13b: LLaMA-2",
    )
    speech_encoder: str | None = setting(
        "directory with the frontend's config.json",
        None,
        metavar="DIR",
        unset="lst_7b, lst_13b: wav2vec 2.0 large LV-60",
    )
    gpus: int = setting("GPUs of the run; with --shard-group, of a group", 1, type=positive)
    shard_frozen: bool = setting("fully_sharded divides frozen parameters too", False)
    gpu_memory: float = setting("GiB of a GPU", 80.0, type=positive_number)
    batch_size: int = setting("utterances a GPU and step", 8, type=positive)
    seconds: float = setting("length of each", 30.0, type=positive_number)
    prompt_tokens: int = setting("tokens of the prompt", 40, type=positive)
    target_tokens: int = setting("tokens of a translation", 100, type=positive)

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise UsageError(f"--arch {self.arch}: no such architecture; there are: {known}")
        at_least(
            1,
            gpus=self.gpus,
            batch_size=self.batch_size,
            prompt_tokens=self.prompt_tokens,
            target_tokens=self.target_tokens,
        )
