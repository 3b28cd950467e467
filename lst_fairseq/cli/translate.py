"""Translate speech with a trained model: one line of text for each audio file.

examples:
  lst translate --checkpoint checkpoint_last.pt talk.wav
  lst translate --checkpoint checkpoint_last.pt --beam 8 --json *.flac > translations.jsonl
  lst translate --checkpoint checkpoint_last.pt talk.wav:16000:48000      # 3 s of a 16 kHz file, from 1 s on
  lst translate --checkpoint checkpoint_last.pt --instruction-task asr talk.wav    # transcribe
"""

import argparse
import json
from dataclasses import asdict
from typing import Any

from lst_fairseq import register
from lst_fairseq.cli import user_dir
from lst_fairseq.data.audio import Segment, audio_info, segment_samples
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.pretrained import check_moved
from lst_fairseq.utils.arguments import UsageError, device_name, finite, positive
from lst_fairseq.utils.checkpoint_files import check_checkpoint

#: What fairseq and transformers raise on a model that they cannot load.
ERRORS = (ValueError, RuntimeError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst translate``."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="wav, flac, ogg or mp3; FILE:OFFSET:FRAMES for a part",
    )
    parser.add_argument(
        "--checkpoint", help="what fairseq-train wrote with --task lst_st, or lst export"
    )
    parser.add_argument(
        "--speech-encoder", help="where the frontend lies now, if not where it was trained"
    )
    parser.add_argument("--llm", help="where the LLM lies now, if not where it was trained")
    parser.add_argument(
        "--instruction-task",
        default="st",
        metavar="TASK",
        help="whose instruction the model gets: st (translate), asr (transcribe), cot (transcribe, then translate; the "
        "translation is printed, --json has both), or another that it was trained on (default: st)",
    )
    parser.add_argument(
        "--source-lang", metavar="CODE", help="language that is spoken, if the prompt names it"
    )
    parser.add_argument(
        "--target-lang", metavar="CODE", help="language to translate into, if the prompt names it"
    )
    parser.add_argument("--beam", type=positive, default=4, help="beam size (default: 4)")
    parser.add_argument("--lenpen", type=finite, default=1.0, help="length penalty (default: 1.0)")
    parser.add_argument(
        "--max-len-b",
        type=positive,
        default=500,
        help="most tokens of a translation (default: 500)",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, help="files at a time (default: 8)"
    )
    parser.add_argument(
        "--device", type=device_name, help="cuda, cpu, ... (default: a GPU if there is one)"
    )
    parser.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line instead of text"
    )
    parser.add_argument(
        "--user-dir", action="store_true", help="print what `lst user-dir` prints, and stop"
    )


def run(args: argparse.Namespace) -> None:
    """Print the translation of each file."""
    if args.user_dir:
        user_dir.run(args)
        return
    if not args.checkpoint or not args.files:
        raise UsageError("give --checkpoint and at least one FILE (--help shows examples)")
    check_inputs(args)
    register()
    from lst_fairseq.generation.translator import DecodingOptions, Translator

    try:
        translator = Translator(
            args.checkpoint,
            speech_encoder=args.speech_encoder,
            llm=args.llm,
            device=args.device,
            half=args.fp16,
            options=DecodingOptions(beam=args.beam, lenpen=args.lenpen, max_len_b=args.max_len_b),
            instruction_task=args.instruction_task,
            source_lang=args.source_lang,
            target_lang=args.target_lang,
        )
        for translation in translator.translate(args.files, args.batch_size):
            print(_json(translation) if args.json else translation.text, flush=True)
    except FloatingPointError as error:  # of the model's numbers
        raise CheckpointError(f"{args.checkpoint}: {error}") from None


def check_inputs(args: argparse.Namespace) -> None:
    """Raise what a checkpoint, model or audio file is refused for, as far as a look at it tells."""
    check_checkpoint(args.checkpoint)
    check_moved(args.speech_encoder, args.llm)
    for name in args.files:
        segment = Segment.parse(name)
        segment_samples(segment, audio_info(segment.path))


def _json(translation: Any) -> str:
    known = {name: value for name, value in asdict(translation).items() if value is not None}
    return json.dumps(known, ensure_ascii=False)
