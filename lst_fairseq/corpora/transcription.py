"""Transcripts of a manifest's segments by a speech encoder's own CTC head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lst_fairseq import register
from lst_fairseq.data.manifest import Row, read_manifest
from lst_fairseq.models.pretrained import ctc_source
from lst_fairseq.utils.arguments import device_name, positive, positive_number
from lst_fairseq.utils.files import atomic_text
from lst_fairseq.utils.flags import setting

if TYPE_CHECKING:
    from lst_fairseq.generation.ctc_recognition import Transcriber


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """A speech encoder with a CTC head, and how it is run."""

    speech_encoder: str = setting(
        "model with a CTC head: directory, hub id in the cache, or fairseq .pt"
    )
    dictionary: Path | None = setting(
        "dictionary of a .pt", None, flag="--dict", metavar="FILE", unset="dict.ltr.txt beside it"
    )
    batch_seconds: float = setting("of audio at once, padded", 160.0, type=positive_number)
    workers: int = setting("threads that read audio", 8, type=positive)
    device: str | None = setting(
        "cuda, cpu, ...", None, type=device_name, unset="a GPU if there is one"
    )
    half: bool = setting("half precision, for GPUs", False, flag="--fp16")

    def check(self) -> None:
        """Raise the ValueError that loading it would end in, as far as a look at its paths tells."""
        ctc_source(self.speech_encoder, self.dictionary)

    def load(self) -> "Transcriber":
        """The model, which reads its weights when there is something to decode."""
        # PyTorch and transformers take seconds, which a wrong path need not wait for.
        register()
        from lst_fairseq.generation.ctc_recognition import Transcriber

        return Transcriber(self.speech_encoder, self.dictionary, self.device, self.half)

    def transcripts(
        self, transcriber: "Transcriber", rows: Sequence[Row]
    ) -> Iterator[list[tuple[Row, str]]]:
        """Batches of segments with their transcripts, the longest first, and a bar of progress."""
        from lst_fairseq.generation.ctc_recognition import make_batches, read_ahead

        with tqdm(total=len(rows), unit="seg", disable=not rows) as progress:
            batches = make_batches(rows, self.batch_seconds)
            for batch, waveforms in read_ahead(batches, self.workers):
                yield list(zip(batch, transcriber.transcribe(waveforms), strict=True))
                progress.update(len(batch))


def transcribe_manifest(manifest: Path, out: Path, recognition: Recognition) -> None:
    """Write a TSV file of ``id`` and ``transcript``: every segment with audio, in the manifest's order.

    Raises:
        ManifestError, ValueError: the manifest or the model cannot be used.
    """
    recognition.check()
    rows = [row for row in read_manifest(manifest).rows if not row.is_text]
    batches = recognition.transcripts(recognition.load(), rows)
    found = {row.id: text for batch in batches for row, text in batch}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(out) as file:
        file.write("id\ttranscript\n")
        file.writelines(f"{row.id}\t{found[row.id]}\n" for row in rows)
