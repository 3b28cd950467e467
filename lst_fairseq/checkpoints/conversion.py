"""Turn a sharded checkpoint into a whole one, or a whole one into a sharded one, in one process without a GPU."""

import itertools
import os
import re
import shutil
from pathlib import Path

from lst_fairseq import register
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import check_checkpoint


def convert(
    source: Path, target: Path, *, without_optimizer: bool = False, force: bool = False
) -> None:
    """Write ``target`` beside its place, and then rename it; what it replaces goes last.

    Args:
        source: a checkpoint that fairseq-train wrote.
        target: the file to write, of the other kind.
        without_optimizer: leave out what only further training needs.
        force: replace a target that is there.

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
