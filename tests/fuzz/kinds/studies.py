"""Study files: entries changed, hostile tags, nested beyond reason, damaged."""

from pathlib import Path
from random import Random

import yaml

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.mutators import changed_tree, damaged, deep_text
from tests.support.helpers import REPOSITORY


class Studies:
    """Listed, which reads and checks all of it."""

    name = "studies"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        seed = rng.choice(sorted((REPOSITORY / "examples" / "study").glob("*.yaml")))
        text = seed.read_text("utf-8")
        what = rng.random()
        if what < 0.75:
            tree, said = changed_tree(yaml.safe_load(text), rng, str(base.marker))
            content = yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")
        elif what < 0.8:
            content = (
                text.encode()
                + f"title: !!python/object/apply:os.system ['touch {base.marker}']\n".encode()
            )
            said = "a tag that runs a program"
        elif what < 0.85:
            nested = deep_text(rng)
            content, said = nested.encode(), f"nested: {nested[:20]!r}"
        else:
            content, said = damaged(text.encode(), rng)
        path = folder / "study.yaml"
        path.write_bytes(content)
        arguments = (str(path), "--list", "--out", str(folder / "out"))
        return Case("study", arguments, f"{seed.name}: {said}", (path.name,))

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """A list of arms, each with its steps."""
        return None if "steps in all" in outcome.stdout else "no list of arms"
