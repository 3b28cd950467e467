#!/usr/bin/env python3
"""Score fairseq-generate's output against the raw references of the manifest that was translated.

    python scripts/score.py --manifest data/tst-COMMON.tsv --hypotheses results/generate-tst-COMMON.txt
    python scripts/score.py --manifest data/tst-COMMON.tsv --hypotheses results/generate-tst-COMMON.txt \\
        --log results/generate.log --name "LST two-stage" --triples 10 --json results/score.json \\
        --extra corpus=mustc-en-de split=tst-COMMON beam=4 lenpen=1.0 train_seconds=812.5
    python scripts/score.py ... --after " => "          # of "transcript => translation" score the translation
    python scripts/score.py ... --comet models/wmt22-comet-da --comet-python ~/comet/bin/python

Prints NAME: BLEU = ..., chrF2 = ..., TER = ... (N segments, signature ...), then the score by duration and the whole
signature. Where all rows have the task asr, error rates of words and characters too: lower case without punctuation,
and of the text as it is. Hypotheses that are missing, doubled or too many are an error, so that a score is always one
of the whole split.

The tokeniser of BLEU follows the manifest's tgt_lang: zh, ja-mecab and ko-mecab for these languages, char for others
that write no spaces, else 13a. Where a language writes no spaces, 13a is refused, TER counts characters, and
transcripts have an error rate of characters alone.

The JSON file holds the scores, the sentences and all that --extra gives. The signature takes corpus, split, beam and
lenpen from there; scripts/compare.py shows train_seconds, trained_parameters, segments_per_second, saw (what the system
was trained on) and log (fairseq-train's logs, in order, with a colon between them).
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from sacrebleu.metrics import BLEU

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.data.manifest import ManifestError, Row, read_manifest
from lst_fairseq.evaluation.languages import LANGUAGE_NEUTRAL, LanguageError, language_of, tokenizer_for
from lst_fairseq.evaluation.metrics import (
    Score,
    ScoreError,
    after_marker,
    bleu_metric,
    by_duration,
    comet_score,
    full_signature,
    in_order,
    read_generated,
    read_signature,
    read_speed,
    score,
    segment_seconds,
    transcript_error_rates,
)
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line

# Entries of the JSON file that are worked out here.
RESULTS = (
    *("name", *Score.__dataclass_fields__, "wer", "wer_raw", "cer", "cer_raw", "comet", "durations"),
    *("full_signature", "tokenize", "after", "model", "sentences"),
)


def parse_extra(text: str) -> tuple[str, object]:
    """``key=value`` as a pair; the value is a number where it reads as one."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if key in RESULTS:
        raise argparse.ArgumentTypeError(f"{key!r} is a result of its own; choose another key")
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value


def print_triples(rows: list[Row], hypotheses: list[str], count: int) -> None:
    """Print source, hypothesis and reference of ``count`` segments spread evenly over the split."""
    count = min(count, len(rows))
    for index in (i * len(rows) // count for i in range(count)):
        row = rows[index]
        print(
            f"[{row.id}]\n  source      {row.src_text}\n  hypothesis  {hypotheses[index]}\n  reference   {row.tgt_text}"
        )


def choose_tokenizer(args: argparse.Namespace, rows: list[Row], references: list[str]) -> tuple[str, str]:
    """The language of the references, empty where it is not known, and sacreBLEU's tokeniser for it."""
    codes = [row.tgt_lang or (row.src_lang if row.task == "asr" else "") for row in rows]
    if args.tokenize:
        bleu_metric(args.tokenize)  # where it cannot be had, that comes first
    try:
        # Characters and pieces of words fit any language.
        if args.tokenize in LANGUAGE_NEUTRAL and len(set(codes)) > 1:
            return "", args.tokenize
        language = language_of(codes, references, args.target_lang)
        return language, tokenizer_for(language, args.tokenize)
    except LanguageError as error:
        raise ScoreError(f"{args.manifest}: {error}") from None


def scored(args: argparse.Namespace, rows: list[Row], hypotheses: list[str]) -> dict[str, object]:
    """Everything that goes into the JSON file, name first; prints the scores on the way."""
    name = args.name or args.hypotheses.stem
    references = [row.tgt_text for row in rows]
    if args.after:
        hypotheses, without = after_marker(hypotheses, args.after)
        if without:
            print(f"{without} of {len(rows)} hypotheses lack {args.after!r}: scored as empty", file=sys.stderr)
        marked = after_marker(references, args.after)[0]
        references = [end if args.after.strip() in text else text for text, end in zip(references, marked, strict=True)]
    language, tokenize = choose_tokenizer(args, rows, references)
    result = score(hypotheses, references, tokenize, language)
    content: dict[str, object] = {"name": name, **asdict(result), "tokenize": tokenize}
    print(result.line(name))

    transcripts = all(row.task == "asr" for row in rows)
    if transcripts:
        rates = transcript_error_rates(hypotheses, references, language)
        content |= rates
        for key in ("wer", "cer"):
            if key in rates:
                figures = f"{rates[key]:.2f} lower case without punctuation, {rates[f'{key}_raw']:.2f} as it is"
                print(f"  {key.upper()} = {figures}")
    if args.comet:
        sources = [row.src_text for row in rows]
        content["comet"] = comet_score(args.comet, args.comet_python, sources, hypotheses, references)
        print(f"  COMET = {content['comet']:.4f} ({args.comet.name})")

    seconds, assumed = segment_seconds(args.manifest, rows, args.rate)
    if assumed:
        print(f"durations of {assumed} segments taken at 16 kHz: their audio is not here (see --rate)", file=sys.stderr)
    durations = by_duration(hypotheses, references, seconds, tokenize, transcripts, language)
    content["durations"] = durations
    parts = (f"{name} s {each['bleu']:.2f} ({each['segments']} segments)" for name, each in durations.items())
    print(f"  BLEU by duration: {', '.join(parts)}")

    model = read_signature(args.log) if args.log else None
    speed = read_speed(args.log) if args.log else None
    settings = {"split": args.manifest.stem, **dict(args.extra)}
    depends = {**settings, "system": name, "after": args.after}
    content["full_signature"] = full_signature(result.signature, len(rows), depends, model)
    print(f"  signature: {content['full_signature']}")
    optional = {"after": args.after, "model": model, "segments_per_second": speed}
    content |= {key: value for key, value in optional.items() if value}
    content |= settings
    content["sentences"] = {
        "ids": [row.id for row in rows],
        "sources": [row.src_text for row in rows],
        "references": references,
        "hypotheses": hypotheses,
    }
    return content


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="the TSV manifest that was translated")
    parser.add_argument("--hypotheses", type=Path, required=True, help="fairseq-generate's generate-SUBSET.txt")
    parser.add_argument(
        "--log", type=Path, help="what fairseq-generate logged: the model's description of itself, and its speed"
    )
    parser.add_argument("--name", help="name of the system (default: the hypothesis file's)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the scores to this file")
    parser.add_argument(
        "--extra", type=parse_extra, nargs="+", default=[], metavar="KEY=VALUE", help="more entries for the JSON file"
    )
    parser.add_argument(
        "--triples", type=int, default=0, metavar="N", help="print N source/hypothesis/reference triples"
    )
    parser.add_argument(
        "--tokenize", choices=sorted(BLEU.TOKENIZERS), help="tokeniser of BLEU (default: by the target language)"
    )
    parser.add_argument(
        "--target-lang", default="", metavar="CODE", help="language of segments whose manifest names none in tgt_lang"
    )
    parser.add_argument(
        "--after", metavar="MARKER", help="score what follows the last MARKER of hypothesis and reference"
    )
    parser.add_argument(
        "--rate", type=int, metavar="HZ", help="sample rate of n_frames (default: as each audio file's header says)"
    )
    parser.add_argument("--comet", type=Path, metavar="MODEL_DIR", help="score with this COMET model too")
    parser.add_argument(
        "--comet-python",
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter that has COMET (default: this one)",
    )
    args = parser.parse_args(argv)
    if args.after is not None and not args.after.strip():
        parser.error("--after: give a text that is not blank, such as ' => '")
    if args.rate is not None and args.rate < 1:
        parser.error(f"--rate {args.rate}: give samples a second, such as 16000")

    try:
        rows = read_manifest(args.manifest, check_audio=False).rows
        generated = read_generated(args.hypotheses)
        try:
            hypotheses = in_order(generated, len(rows))
        except ScoreError as error:
            raise ScoreError(f"{args.hypotheses} for {args.manifest}: {error}") from None
        if args.triples > 0:
            print_triples(rows, hypotheses, args.triples)
        content = scored(args, rows, hypotheses)
    except (ManifestError, ScoreError) as error:
        sys.exit(f"error: {error}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_text(args.json) as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")


if __name__ == "__main__":
    main()
