"""Turn a sharded checkpoint into a whole one, or a whole one into a sharded one, in one process without a GPU."""

import argparse
import itertools
import os
import re
import shutil
import sys
from pathlib import Path

from lst_fairseq import register
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import check_checkpoint
from lst_fairseq.utils.files import print_any_name

EXAMPLES = """examples:
  python scripts/convert_checkpoint.py stage2/checkpoint_last.pt stage2/whole.pt      # for other machines and programs
  python scripts/convert_checkpoint.py stage1/checkpoint_last.pt sharded/checkpoint_last.pt   # quick to start from
  python scripts/convert_checkpoint.py stage2/checkpoint_best.pt model.pt --without-optimizer   # a third as large
A sharded checkpoint is a small file and a folder of that file's name with `.shards`; keep the two beside each other.
Memory: a whole checkpoint's size when one is written, little when shards are."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 1 after an error, which is one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="convert_checkpoint.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a checkpoint that fairseq-train wrote")
    parser.add_argument("target", type=Path, help="the file to write; of the other kind than the source")
    parser.add_argument("--without-optimizer", action="store_true", help="leave out what only further training needs")
    parser.add_argument("--force", action="store_true", help="replace a target that is there")
    args = parser.parse_args(arguments)
    print_any_name()
    try:
        convert(args.source, args.target, args.without_optimizer, args.force)
    except (CheckpointError, OSError) as error:
        print(f"convert_checkpoint.py: {error}", file=sys.stderr)
        return 1
    return 0


def convert(source: Path, target: Path, without_optimizer: bool, force: bool) -> None:
    """Write ``target`` beside its place, and then rename it; what it replaces goes last.

    Raises:
        CheckpointError: the source cannot be read, or the target is there already.
    """
    replaced = shards_of(target)
    for path in (target, *replaced):
        if path.exists() and not force:
            raise CheckpointError(f"{path} is there already: give another name, or --force to replace it")
    check_checkpoint(source)
    register()
    from lst_fairseq.checkpoints.saving import save_alone
    from lst_fairseq.checkpoints.sharded import PARTS, assemble, disassemble, read_file
    from lst_fairseq.utils.checkpoint_files import SHARDS_KEY

    # Until the new file is in its place, the old one names the old folder.
    numbers = itertools.chain([""], (f".{number}" for number in itertools.count(1)))
    names = (target.with_name(f"{target.name}.shards{number}") for number in numbers)
    shards = next(folder for folder in names if folder not in replaced)
    state = read_file(str(source))
    parts = tuple(part for part in PARTS if part == "model" or not without_optimizer)
    to_whole = SHARDS_KEY in state
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{source}: {'sharded' if to_whole else 'whole'}; writing {'a whole' if to_whole else 'a sharded'} one")
    if to_whole:
        new = assemble(str(source), state, parts)
    else:
        new = disassemble({key: value for key, value in state.items() if key not in PARTS or key in parts}, shards)
    save_alone(new, target)
    for folder in replaced:
        shutil.rmtree(folder)
    size = sum(path.stat().st_size for path in (target, *shards.glob("*")) if path.is_file())
    print(f"{target}{'' if to_whole else f' and {os.fspath(shards)}'}: {size / 1e9:.2f} GB")


def shards_of(path: Path) -> list[Path]:
    """Folders of shards that this command made for a file: ``model.pt.shards``, ``model.pt.shards.1``, ..."""
    pattern = re.compile(rf"{re.escape(path.name)}\.shards(\.\d+)?")
    return sorted(folder for folder in path.parent.glob("*.shards*") if pattern.fullmatch(folder.name))
