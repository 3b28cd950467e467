#!/usr/bin/env python3
"""Write a trained model as a directory: LLM as transformers loads it, adapter as safetensors, settings, model card.

    python scripts/export.py results/quickstart/stage2/checkpoint_last.pt exported
    python scripts/export.py checkpoint_best.pt exported --dtype bfloat16 --with-frontend
    fairseq-generate DATA --user-dir lst_fairseq --task lst_st --path exported --gen-subset tst-COMMON
    lst-translate --checkpoint exported audio.wav

Low-rank updates are merged into the LLM. Without --with-frontend a speech encoder that was not trained is named by its
path and fingerprint, and --speech-encoder says where it lies when the directory is used elsewhere.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.models.pretrained import check_moved
from lst_fairseq.utils.checkpoint_files import EXPORTED_DTYPES, check_absent, check_checkpoint
from lst_fairseq.utils.files import file_errors_in_one_line


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint that fairseq-train wrote with --task lst_st")
    parser.add_argument("out", help="the directory to make")
    parser.add_argument(
        "--dtype", choices=EXPORTED_DTYPES, default=EXPORTED_DTYPES[0], help="type of the LLM's weights (float32)"
    )
    parser.add_argument("--with-frontend", action="store_true", help="copy the speech encoder too")
    parser.add_argument("--speech-encoder", help="where it lies now, if not where the checkpoint says")
    parser.add_argument("--llm", help="where it lies now, if not where the checkpoint says")
    args = parser.parse_args(argv)
    try:
        check_absent(args.out)
        check_checkpoint(args.checkpoint)
        check_moved(args.speech_encoder, args.llm)
        from lst_fairseq.checkpoints.export import export

        out = export(**vars(args))
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"exported: {out}")


if __name__ == "__main__":
    main()
