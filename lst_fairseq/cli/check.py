"""Check manifests: missing audio, segments beyond its end, suspicious texts, duplicates, training data in test data.

examples:
  lst check data/mustc-de/train.tsv data/mustc-de/dev.tsv data/mustc-de/tst-COMMON.tsv
  lst check data/mustc-de                    # every .tsv in the folder
  lst check --audio-root /corpora --json report.json --show 20 my/train.tsv my/dev.tsv

A manifest is tab separated with the columns id, audio (PATH or PATH:OFFSET:FRAMES, empty for text
alone), n_frames, tgt_text and, where known, src_text, speaker, src_lang, tgt_lang, task. Every kind
of finding is counted, and the first lines of each are named. Manifests whose name begins with
"train" are compared with the others, by audio and by text.

    error    training or decoding would stop, or the scores would be void (train and test share audio)
    warning  worth a look: much of it is normal in small numbers ("OK." is "OK." in most languages)
    note     handled when the data is read

Audio is refused as training would: missing, cut short, more than the header tells of. Mono wav
costs a header a file; compressed files are read to their end, and segments of several channels
decoded: --headers-only leaves that out.

Exit status: 1 if there is any error, else 0.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst check``."""
    parser.add_argument(
        "manifests",
        nargs="+",
        type=Path,
        metavar="MANIFEST",
        help="files, or folders with .tsv files",
    )
    parser.add_argument(
        "--audio-root",
        metavar="DIR",
        help="folder that relative audio paths are joined to (default: audio_root of the manifest's config.yaml)",
    )
    audio = parser.add_mutually_exclusive_group()
    audio.add_argument(
        "--no-audio",
        dest="audio",
        action="store_const",
        const="none",
        help="do not open audio files: texts, ids, overlap only",
    )
    audio.add_argument(
        "--headers-only",
        dest="audio",
        action="store_const",
        const="headers",
        help="neither read compressed files to their end nor decode those of several channels: much faster",
    )
    parser.set_defaults(audio="whole")
    parser.add_argument(
        "--show", type=int, default=5, metavar="N", help="lines to name of each kind (default: 5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON too")
    parser.add_argument(
        "--max-length-ratio",
        type=float,
        default=3.0,
        metavar="R",
        help="target to source, in characters, at most so many times off the manifest's median (default: 3)",
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; status 1 where there is an error."""
    from lst_fairseq.corpora.checking import check_manifests, totals

    reports = check_manifests(
        args.manifests,
        audio_root=args.audio_root,
        audio=args.audio,
        max_length_ratio=args.max_length_ratio,
        show=args.show,
    )
    print(*reports, sep="\n")
    found = totals(reports)
    counts = ", ".join(f"{number} {level}s" for level, number in found.items())
    print(f"{len(reports)} manifests: {counts}")
    if args.json:
        from lst_fairseq.evaluation.report.files import write_json

        content = {f"{level}s": number for level, number in found.items()}
        manifests = [report.as_dict() for report in reports]
        write_json(args.json, {**content, "manifests": manifests})
    return 1 if found["error"] else 0
