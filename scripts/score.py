#!/usr/bin/env python3
"""Score fairseq-generate's output against the raw references of the manifest that was translated.

    python scripts/score.py --manifest data/tst-COMMON.tsv --hypotheses results/generate-tst-COMMON.txt
    python scripts/score.py --manifest data/tst-COMMON.tsv --hypotheses results/generate-tst-COMMON.txt \\
        --name "LST two-stage" --triples 10 --json results/score.json --extra train_seconds=812.5

Prints one line: NAME: BLEU = ..., chrF2 = ... (N segments, signature ...). Hypotheses that are missing, doubled or
too many are an error, so that a score is always one of the whole split.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from sacrebleu.metrics import BLEU

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.data.manifest import ManifestError, Row, atomic_text, read_manifest
from lst_fairseq.scoring import Score, ScoreError, in_order, read_generated, read_signature, score


def parse_extra(text: str) -> tuple[str, object]:
    """``key=value`` as a pair; the value is a number where it reads as one."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if key in ("name", *Score.__dataclass_fields__):
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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="the TSV manifest that was translated")
    parser.add_argument("--hypotheses", type=Path, required=True, help="fairseq-generate's generate-SUBSET.txt")
    parser.add_argument("--log", type=Path, help="what fairseq-generate logged, in which the model describes itself")
    parser.add_argument("--name", help="name of the system (default: the hypothesis file's)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the scores to this file")
    parser.add_argument(
        "--extra", type=parse_extra, nargs="+", default=[], metavar="KEY=VALUE", help="more entries for the JSON file"
    )
    parser.add_argument(
        "--triples", type=int, default=0, metavar="N", help="print N source/hypothesis/reference triples"
    )
    parser.add_argument(
        "--tokenize", default="13a", choices=sorted(BLEU.TOKENIZERS), help="tokeniser of BLEU (default: 13a)"
    )
    args = parser.parse_args(argv)

    try:
        rows = read_manifest(args.manifest, check_audio=False).rows
        hypotheses = in_order(read_generated(args.hypotheses), len(rows))
        result = score(hypotheses, [row.tgt_text for row in rows], args.tokenize)
    except (ManifestError, ScoreError) as error:
        sys.exit(f"error: {error}")
    name = args.name or args.hypotheses.stem
    if args.triples > 0:
        print_triples(rows, hypotheses, args.triples)
    print(result.line(name))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_text(args.json) as file:
            model = read_signature(args.log) if args.log else None
            described = {"model": model} if model else {}
            content = {"name": name, **asdict(result), **dict(args.extra), **described}
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")


if __name__ == "__main__":
    main()
