#!/usr/bin/env python3
"""Look at how well an adapter speaks the LLM's language: whether stage 1 worked, before stage 2 is paid for.

    python scripts/alignment.py results/mustc-de/stage1/checkpoint_last.pt --data results/mustc-de/data --out alignment
    python scripts/alignment.py stage1/checkpoint_last.pt stage2/checkpoint_last.pt --data data --split tst-COMMON \\
        --segments 200 --candidates 50 --pictures 5 --out alignment

For each checkpoint: the mean cosine of each of the adapter's outputs with the nearest token of the transcript (and of
other transcripts, which says how much of it is the transcript's doing), how often the right transcript matches best
among --candidates, how much of the outputs' mean square varies (next to nothing of an adapter that has collapsed, as
too high a learning rate makes it), and their scale beside that of text embeddings. Takes --segments of the manifest,
spread evenly; they need a transcript (src_text).

Into --out: alignment.json, and alignment.html with pictures of some utterances: the vocabulary's nearest token to each
of the adapter's outputs, and the attention of the translation's tokens over the speech.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq import register
from lst_fairseq.data.audio import AudioError
from lst_fairseq.data.manifest import ManifestError, Row, read_manifest
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.pretrained import check_moved
from lst_fairseq.utils.arguments import device_name
from lst_fairseq.utils.checkpoint_files import check_checkpoint
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line

if TYPE_CHECKING:
    from lst_fairseq.generation.translator import Translator


def names(checkpoints: list[Path]) -> list[str]:
    """A short name for each checkpoint: its folder's, with the file's where that is another than checkpoint_last."""
    found = []
    for path in checkpoints:
        inner = "" if path.stem == "checkpoint_last" else f"/{path.stem.removeprefix('checkpoint_')}"
        name = f"{path.absolute().parent.name}{inner}"
        found.append(name if name not in found else str(path))
    return found


def look(
    translator: "Translator", name: str, rows: list[Row], args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of one checkpoint, and its pictures."""
    from lst_fairseq.evaluation.alignment import attention_over_speech, encode, measure, nearest_tokens, spread_rows
    from lst_fairseq.evaluation.report.alignment import heat_map, token_strip
    from lst_fairseq.models.llm.families import embedding_outputs

    utterances = list(encode(translator, rows, args.batch_size))
    figures = {"checkpoint": name, **measure(utterances, args.candidates, args.seed)}
    shown = spread_rows(rows, args.pictures) if args.pictures else []
    vocabulary = embedding_outputs(translator.model.decoder.llm).float().cpu()
    dictionary, pictures = translator.task.target_dictionary, []
    for row in shown:
        utterance = next(each for each in utterances if each.id == row.id)
        values, ids = nearest_tokens(utterance.speech, vocabulary)
        pieces = [dictionary.string([token]) for token in ids.tolist()]
        attention = attention_over_speech(translator, row, args.layer)
        pictures.append(
            {
                "checkpoint": name,
                "id": row.id,
                "transcript": row.src_text,
                "translation": attention.text,
                "strip": token_strip(pieces, values.tolist(), utterance.seconds),
                "attention": heat_map(attention.pieces, attention.weights.tolist(), utterance.seconds),
            }
        )
    return figures, pictures


def measured_checkpoints(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures of each checkpoint, which are printed as they come, and pictures of all."""
    register()
    from lst_fairseq.criterions import adapter_collapse
    from lst_fairseq.data.data_cfg import LstDataConfig
    from lst_fairseq.evaluation.alignment import spread_rows
    from lst_fairseq.evaluation.report.alignment import table
    from lst_fairseq.generation.translator import DecodingOptions, Translator

    measured, pictures = [], []
    root = LstDataConfig(args.data / "config.yaml").audio_root
    manifest = args.data / f"{args.split}.tsv"
    rows = spread_rows(read_manifest(manifest, root).rows, args.segments)
    if len(rows) < 2:
        raise ManifestError(f"{manifest}: fewer than two segments with audio and a transcript (src_text)")
    options = DecodingOptions(beam=1, max_len_b=args.max_len)
    for checkpoint, name in zip(args.checkpoints, names(args.checkpoints), strict=True):
        translator = Translator(checkpoint, args.speech_encoder, args.llm, args.device, options=options)
        figures, drawn = look(translator, name, rows, args)
        measured.append(figures)
        pictures += drawn
        heads, values = table([figures])
        print(", ".join(f"{head} {value}" for head, value in zip(heads, values, strict=True)), flush=True)
        if warning := adapter_collapse.warning(figures["variation"]):
            print(f"warning: {name}: {warning}", file=sys.stderr, flush=True)
    return measured, pictures


def check_inputs(args: argparse.Namespace) -> None:
    """Raise what a checkpoint, model or manifest is refused for, as far as a look at it tells."""
    for checkpoint in args.checkpoints:
        check_checkpoint(checkpoint)
    check_moved(args.speech_encoder, args.llm)
    manifest = args.data / f"{args.split}.tsv"
    if not manifest.exists():
        read_manifest(manifest)  # which says so


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="of fairseq-train, or exported")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the manifests")
    parser.add_argument("--split", default="dev", help="manifest in it (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--segments", type=int, default=100, metavar="N", help="to measure on (default: %(default)s)")
    parser.add_argument(
        "--candidates", type=int, default=20, metavar="N", help="transcripts to choose from (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", type=int, default=3, metavar="N", help="utterances to draw (default: %(default)s)"
    )
    parser.add_argument("--layer", type=int, help="of the LLM, whose attention is drawn (default: mean over all)")
    parser.add_argument("--max-len", type=int, default=200, help="tokens of a drawn translation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw of other transcripts (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="segments at once (default: %(default)s)")
    parser.add_argument("--speech-encoder", metavar="DIR", help="where the frontend lies now, if it has moved")
    parser.add_argument("--llm", metavar="DIR", help="where the LLM lies now, likewise")
    parser.add_argument("--device", type=device_name, help="cuda, cpu, ... (default: a GPU if there is one)")
    return parser


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    for name, least in (("segments", 2), ("candidates", 2), ("pictures", 0), ("batch_size", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: give {least} or more")

    try:
        check_inputs(args)
        measured, pictures = measured_checkpoints(args)
    except (ManifestError, AudioError, OSError, ValueError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    from lst_fairseq.evaluation.report.alignment import page

    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_text(args.out / "alignment.json") as file:
        json.dump({"split": args.split, "checkpoints": measured}, file, indent=1)
        file.write("\n")
    with atomic_text(args.out / "alignment.html") as file:
        file.write(page(f"Alignment of speech and text, {args.split}", measured, pictures))
    print(f"written: {args.out / 'alignment.json'}, {args.out / 'alignment.html'}")


if __name__ == "__main__":
    main()
