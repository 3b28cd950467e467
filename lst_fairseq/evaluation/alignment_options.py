"""What alignment is measured on, and what of it is drawn."""

from dataclasses import dataclass

from lst_fairseq.utils.arguments import at_least, device_name
from lst_fairseq.utils.flags import setting


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions:
    """Segments, candidates and pictures of an alignment, and where its models lie.

    Raises:
        UsageError: a number is too small.
    """

    segments: int = setting("to measure on, spread evenly over the manifest", 100, metavar="N")
    candidates: int = setting("transcripts to choose from", 20, metavar="N")
    pictures: int = setting("utterances to draw", 3, metavar="N")
    layer: int | None = setting("of the LLM, whose attention is drawn", None, unset="mean over all")
    max_len: int = setting("tokens of a drawn translation", 200)
    seed: int = setting("of the draw of other transcripts", 1)
    batch_size: int = setting("segments at once", 8)
    speech_encoder: str | None = setting(
        "where the frontend lies now, if it has moved", None, metavar="DIR"
    )
    llm: str | None = setting("where the LLM lies now, likewise", None, metavar="DIR")
    device: str | None = setting(
        "cuda, cpu, ...", None, type=device_name, unset="a GPU if there is one"
    )

    def __post_init__(self) -> None:
        at_least(2, segments=self.segments, candidates=self.candidates)
        at_least(0, pictures=self.pictures)
        at_least(1, batch_size=self.batch_size)
