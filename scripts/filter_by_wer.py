#!/usr/bin/env python3
"""Keep the training segments whose transcript the speech encoder's own CTC head agrees with, by word error rate.

    python scripts/filter_by_wer.py --manifest data/mustc-de/train.tsv --out data/mustc-de/train_clean.tsv \\
        --speech-encoder models/wav2vec2-large-960h-lv60-self --max-wer 0.3
    python scripts/filter_by_wer.py --manifest data/mustc-de/train.tsv --out data/mustc-de/train_100k.tsv \\
        --speech-encoder wav2vec_vox_960h_pl.pt --dict dict.ltr.txt --max-examples 100000

Every segment with a transcript (src_text) is decoded greedily and compared with it, both without case and punctuation:
by words, or by characters where src_lang (or the script, where that is empty) is one that writes no spaces.
OUT.wer.tsv takes the columns id, wer, transcript, audio and decoder as they are found: a run that was interrupted goes
on from there, and another threshold needs no new decoding (with another OUT, name the file by --wers). Segments without
a transcript are left out, lines without audio are kept. Numbers written as digits, and words that nobody says, such as
"(Applause)", count as errors: prep_mustc.py --clean-stage-directions takes the latter out first.

A directory needs its tokenizer (vocab.json, tokenizer_config.json); a fairseq file its dictionary, by default
dict.ltr.txt beside it. With neither --max-wer nor --max-examples every segment is kept, and the table of the word error
rates helps to choose.
"""

import argparse
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jiwer
import regex
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.corpora.preparation import PrepError, is_train, read_text
from lst_fairseq.data.audio import SAMPLE_RATE
from lst_fairseq.data.manifest import Row, read_manifest, unescaped
from lst_fairseq.evaluation.languages import is_spaceless, script_language
from lst_fairseq.models.pretrained import ctc_source
from lst_fairseq.utils.arguments import device_name, finite, positive, positive_number
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line

if TYPE_CHECKING:
    from lst_fairseq.corpora.recognition import Transcriber

COLUMNS = ("id", "wer", "transcript", "audio", "decoder")
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)

_APOSTROPHES = regex.compile("[\u2018\u2019\u02bc\uff07`]")
_WORD_CHARACTER = r"[\p{L}\p{M}\p{N}]"
# All but letters, combining marks, digits and apostrophes within a word separates words.
_SEPARATORS = regex.compile(rf"(?:[^\p{{L}}\p{{M}}\p{{N}}']|(?<!{_WORD_CHARACTER})'|'(?!{_WORD_CHARACTER}))+")


def normalise(text: str) -> str:
    """A text as it is compared: lower case, one kind of apostrophe, and words with single spaces between them."""
    text = _APOSTROPHES.sub("'", unicodedata.normalize("NFC", text).lower())
    return _SEPARATORS.sub(" ", text).strip()


def error_rate(reference: str, transcript: str, language: str = "") -> float | None:
    """Error rate of two texts after :func:`normalise`; None where the reference has no word.

    Of words, or of characters where the language writes no spaces; empty stands for what the reference's script says.
    """
    reference, transcript = normalise(reference), normalise(transcript)
    if not reference:
        return None
    if by_characters(reference, language):
        return jiwer.cer(reference.replace(" ", ""), transcript.replace(" ", ""))
    return jiwer.wer(reference, transcript)


def by_characters(reference: str, language: str) -> bool:
    """Whether a transcript is compared character by character."""
    return is_spaceless(language or script_language([reference]))


def unit(rows: Sequence[Row]) -> str:
    """What the error rates of rows count, in words."""
    found = {by_characters(normalise(row.src_text), row.src_lang) for row in rows}
    return {(False,): "word", (True,): "character"}.get(tuple(found), "word or character")


def length(row: Row) -> int:
    """Words of a row's transcript, or characters where these are compared."""
    text = normalise(row.src_text)
    return len(text.replace(" ", "")) if by_characters(text, row.src_lang) else len(text.split())


def stored_transcripts(path: Path, key: str) -> dict[tuple[str, str], str]:
    """(id, audio) -> transcript, of what this decoder wrote. A last line that was cut short is taken off the file."""
    if not path.exists():
        return {}
    text = read_text(path, "")
    lines = text.split("\n")
    if tuple(lines[0].split("\t")) != COLUMNS and text:
        raise PrepError(f"{path}:1: not a file of word error rates; --wers names another one")
    if lines[-1]:
        with atomic_text(path) as file:
            file.write("".join(f"{line}\n" for line in lines[:-1]))
    fields = (line.split("\t") for line in lines[1:-1])
    return {(name, audio): transcript for name, _, transcript, audio, decoder in fields if decoder == key}


def measure(
    rows: Sequence[Row], transcriber: "Transcriber", path: Path, batch_seconds: float, workers: int
) -> dict[str, float | None]:
    """Error rate of each row by its id; what is not in the file yet is decoded and appended to it."""
    from lst_fairseq.corpora.recognition import make_batches, read_ahead

    stored = stored_transcripts(path, transcriber.key)
    missing = [row for row in rows if (row.id, str(row.segment)) not in stored]
    if stored:
        print(f"{path}: {len(rows) - len(missing)} of {len(rows)} segments decoded already", file=sys.stderr)
    is_new = not path.exists() or not path.stat().st_size
    with (
        open(path, "a", encoding="utf-8", newline="\n") as file,
        tqdm(total=len(missing), unit="seg", disable=not missing) as progress,
    ):
        if is_new:
            file.write("\t".join(COLUMNS) + "\n")
        for batch, waveforms in read_ahead(make_batches(missing, batch_seconds), workers):
            for row, transcript in zip(batch, transcriber.transcribe(waveforms), strict=True):
                audio, rate = str(row.segment), error_rate(row.src_text, transcript, row.src_lang)
                stored[row.id, audio] = transcript
                shown = "" if rate is None else f"{rate:.4f}"
                file.write(f"{row.id}\t{shown}\t{transcript}\t{audio}\t{transcriber.key}\n")
            file.flush()
            progress.update(len(batch))
    # From the transcripts, since src_text may be another one by now.
    return {row.id: error_rate(row.src_text, stored[row.id, str(row.segment)], row.src_lang) for row in rows}


def choose(rates: dict[str, float], max_wer: float | None, max_examples: int | None) -> set[str]:
    """Ids of the segments to keep: those up to ``max_wer``, and of these the ones with the lowest rates."""
    kept = [name for name, rate in rates.items() if max_wer is None or rate <= max_wer]
    if max_examples is not None:
        kept = sorted(kept, key=rates.__getitem__)[:max_examples]  # stable: of equals the first in the manifest
    return set(kept)


def write_lines(manifest: Path, out: Path, lines: set[int]) -> None:
    """Copy the header and the given lines of a manifest, with all their columns."""
    # Of a file with backslashes before its quotes a part need not show that it is one.
    text = unescaped(read_text(manifest, ""))[0].split("\n")
    with atomic_text(out) as file:
        for number, line in enumerate(text, start=1):
            if number == 1 or number in lines:
                file.write(line.removesuffix("\r") + "\n")


def summary(rows: Sequence[Row], rates: dict[str, float], kept: set[str]) -> str:
    """Error rate of all words or characters, counts and hours by threshold, and what was kept."""
    hours = {row.id: row.n_samples / SAMPLE_RATE / 3600 for row in rows}
    lengths = {row.id: length(row) for row in rows}
    overall = sum(rate * lengths[name] for name, rate in rates.items()) / sum(lengths.values())
    lines = [f"{unit(rows)} error rate {overall:.2%} of {len(rates)} segments, {sum(map(hours.get, rates)):.2f} h"]
    for threshold in THRESHOLDS:
        names = [name for name, rate in rates.items() if rate <= threshold]
        lines.append(f"  up to {threshold:4.0%}: {len(names):8d} segments {sum(map(hours.get, names)):9.2f} h")
    lines.append(f"kept {len(kept)} segments, {sum(map(hours.get, kept)):.2f} h")
    return "\n".join(lines)


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="training manifest with src_text")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument(
        "--speech-encoder", required=True, help="model with a CTC head: directory, hub id in the cache, or fairseq .pt"
    )
    parser.add_argument("--dict", type=Path, help="dictionary of a .pt (default: dict.ltr.txt beside it)")
    parser.add_argument("--max-wer", type=finite, metavar="R", help="keep segments up to this rate, such as 0.3")
    parser.add_argument("--max-examples", type=int, metavar="N", help="keep the N segments with the lowest rates")
    parser.add_argument("--wers", type=Path, metavar="FILE", help="word error rates (default: OUT with .wer.tsv)")
    parser.add_argument("--audio-root", default="", help="folder that relative audio paths are joined to")
    parser.add_argument("--skip-bad-audio", action="store_true", help="leave out and count segments with broken audio")
    parser.add_argument(
        "--batch-seconds", type=positive_number, default=160.0, help="of audio at once, padded (default: 160)"
    )
    parser.add_argument("--workers", type=positive, default=8, help="threads that read audio (default: 8)")
    parser.add_argument("--device", type=device_name, help="cuda, cpu, ... (default: a GPU if there is one)")
    parser.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    args = parser.parse_args(argv)
    filtered = args.max_wer is not None or args.max_examples is not None
    if filtered and not is_train(args.manifest.stem):
        parser.error(f"--manifest {args.manifest}: only training data is filtered, whose name begins with train")
    if args.max_examples is not None and args.max_examples < 1:
        parser.error(f"--max-examples {args.max_examples}: has to be at least 1")
    if any(character in args.audio_root for character in "\t\r\n"):
        parser.error(f"--audio-root {args.audio_root!r}: has a tab or line break in it; rename the folder")
    if args.out.resolve() == args.manifest.resolve():
        parser.error("--out: has to be another file than --manifest, so that other thresholds can be tried")
    try:
        ctc_source(args.speech_encoder, args.dict)
        rows = read_manifest(args.manifest, args.audio_root, skip_bad_audio=args.skip_bad_audio).rows
        spoken = [row for row in rows if not row.is_text]
        usable = [row for row in spoken if normalise(row.src_text)]
        if not usable:
            raise PrepError(f"{args.manifest}: no segment has a transcript; the column src_text is needed")
        # PyTorch and transformers take seconds, which a wrong path need not wait for.
        from lst_fairseq.corpora.recognition import Transcriber

        transcriber = Transcriber(args.speech_encoder, args.dict, args.device, args.fp16)
        wers = args.wers or args.out.with_suffix(".wer.tsv")
        rates = measure(usable, transcriber, wers, args.batch_seconds, args.workers)
        kept = choose(rates, args.max_wer, args.max_examples)
        lines = {row.line for row in rows if row.is_text or not filtered or row.id in kept}
        write_lines(args.manifest, args.out, lines)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(summary(usable, rates, kept))
    report = f"{args.out}: {len(lines)} of {len(rows)} lines"
    if filtered:
        untranscribed = len(spoken) - len(usable)
        by_rate = f"{len(usable) - len(kept)} by {unit(usable)} error rate"
        report += f"; left out: {by_rate}, {untranscribed} without a transcript"
    print(report)


if __name__ == "__main__":
    main()
