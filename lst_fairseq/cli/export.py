"""Write a trained model as a directory: LLM as transformers loads it, adapter as safetensors, settings, model card.

examples:
  lst export results/quickstart/stage2/checkpoint_last.pt exported
  lst export checkpoint_best.pt exported --dtype bfloat16 --with-frontend
  fairseq-generate DATA --user-dir $(lst user-dir) --task lst_st --path exported --gen-subset tst-COMMON
  lst translate --checkpoint exported audio.wav

Low-rank updates are merged into the LLM. Without --with-frontend a speech encoder that was not
trained is named by its path and fingerprint, and --speech-encoder says where it lies when the
directory is used elsewhere.
"""

import argparse

from lst_fairseq import register
from lst_fairseq.models.pretrained import check_moved
from lst_fairseq.utils.checkpoint_files import EXPORTED_DTYPES, check_absent, check_checkpoint

#: What fairseq and transformers raise on a model that they cannot load.
ERRORS = (ValueError, RuntimeError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst export``."""
    parser.add_argument(
        "checkpoint", help="a checkpoint that fairseq-train wrote with --task lst_st"
    )
    parser.add_argument("out", help="the directory to make")
    parser.add_argument(
        "--dtype",
        choices=EXPORTED_DTYPES,
        default=EXPORTED_DTYPES[0],
        help="type of the LLM's weights (float32)",
    )
    parser.add_argument("--with-frontend", action="store_true", help="copy the speech encoder too")
    parser.add_argument(
        "--speech-encoder", help="where it lies now, if not where the checkpoint says"
    )
    parser.add_argument("--llm", help="where it lies now, if not where the checkpoint says")


def run(args: argparse.Namespace) -> None:
    """Write the directory."""
    check_absent(args.out)
    check_checkpoint(args.checkpoint)
    check_moved(args.speech_encoder, args.llm)
    register()
    from lst_fairseq.checkpoints.export import export

    out = export(
        args.checkpoint,
        args.out,
        dtype=args.dtype,
        with_frontend=args.with_frontend,
        speech_encoder=args.speech_encoder,
        llm=args.llm,
    )
    print(f"exported: {out}")
