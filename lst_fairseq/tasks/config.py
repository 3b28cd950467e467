"""Settings of the task ``lst_st``."""

from dataclasses import dataclass, field
from typing import Optional  # fairseq reads Optional[X] in dataclasses, and not X | None

from omegaconf import II, MISSING

from lst_fairseq.data.prompt import LST_TEMPLATE
from lst_fairseq.models.frontends import FRONTENDS
from lst_fairseq.tasks.sharding_flags import ShardingConfig

#: Where neither the command line nor a checkpoint has it.
MAX_SOURCE_SECONDS = 30.0


@dataclass
class LstTaskConfig(ShardingConfig):
    """Settings of ``lst_st``."""

    data: str = field(default=MISSING, metadata={"help": "folder of the manifests, SPLIT.tsv"})
    config_yaml: str = field(
        default="config.yaml", metadata={"help": "data configuration in that folder (may be missing)"}
    )
    speech_encoder: Optional[str] = field(
        default=None,
        metadata={
            "help": "speech frontend: a directory (as save_pretrained writes it), the id of a model in the local "
            f"Hugging Face cache, or a fairseq .pt file; kinds: {', '.join(sorted(FRONTENDS))}"
        },
    )
    llm: Optional[str] = field(
        default=None,
        metadata={"help": "LLM and its tokenizer: a directory, or the id of a model in the local Hugging Face cache"},
    )
    prompt: Optional[str] = field(
        default=None,
        metadata={
            "help": "template with {speech} and, if wanted, {instruction}, {src_lang}, {tgt_lang}; or `chat`, for the "
            f"tokenizer's chat template (default: `prompt` of the data config, or {LST_TEMPLATE!r})"
        },
    )
    source_lang: Optional[str] = field(
        default=None, metadata={"help": "language code for {src_lang} (default: source_lang of the data config, or en)"}
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={
            "help": "language code for {tgt_lang} where the manifest has none (default: target_lang of the data config)"
        },
    )
    max_source_seconds: Optional[float] = field(
        default=None,
        metadata={"help": f"leave out longer training segments (default: a checkpoint's, or {MAX_SOURCE_SECONDS:g})"},
    )
    min_source_seconds: float = field(default=0.1, metadata={"help": "leave out shorter training segments"})
    max_target_positions: int = field(default=1024, metadata={"help": "most tokens that decoding makes"})
    skip_bad_audio: bool = field(
        default=False, metadata={"help": "leave out and count segments whose audio is missing or broken"}
    )
    cache_features: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder to keep the frozen frontend's features in (fp16): each segment is encoded once, and not in "
            "every epoch; 0.37 GB an hour of speech at 1,024 dimensions"
        },
    )
    no_cuda_graphs: bool = field(
        default=False,
        metadata={"help": "launch each kernel of a step of beam search on a GPU, instead of a recording of the step"},
    )
    seed: int = II("common.seed")
