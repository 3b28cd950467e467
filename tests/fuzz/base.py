"""What inputs are made from: a tiny corpus, and a checkpoint with its shards, export and scores.

python -m tests.fuzz.base FOLDER
"""

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECRET_NAME = "LST_FUZZ_SECRET"
#: Name of the marker file; hostile texts hold it, so that one that is evaluated gives itself away.
MARKER_WORD = "lst_fuzz_marker"


@dataclass(frozen=True)
class Base:
    """A folder of valid inputs, all written by the project's own programs.

    Attributes:
        root: the folder.
        marker: the file that hostile inputs try to write.
        secret: value of the variable :data:`SECRET_NAME`, which nothing may print or write.
    """

    root: Path
    marker: Path
    secret: str = "fuzz-secret-5f1d"

    @property
    def corpus(self) -> Path:
        """Manifests train, dev and test (5 segments), and config.yaml."""
        return self.root / "corpus"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint.pt"

    @property
    def sharded(self) -> Path:
        """The same checkpoint; its shards lie beside it, in ``sharded.pt.shards``."""
        return self.root / "sharded" / "sharded.pt"

    @property
    def exported(self) -> Path:
        """Its export, with the speech encoder."""
        return self.root / "exported"

    @property
    def hypotheses(self) -> Path:
        """Its translations of the split test, as fairseq-generate wrote them."""
        return self.root / "hypotheses" / "generate-test.txt"

    @property
    def scores(self) -> Path:
        """What lst score wrote about them."""
        return self.root / "scores.json"

    @property
    def translation(self) -> dict[str, Any]:
        """What lst-translate makes of :attr:`speech` with the checkpoint."""
        return json.loads((self.root / "translation.json").read_text("utf-8"))

    @property
    def speech(self) -> str:
        """Half a second of audio for lst-translate."""
        return str(self.corpus / "test_0.wav")


def make_base(root: Path, checkpoint: Path) -> Base:
    """Fill a folder; the checkpoint, which fairseq-train wrote, brings the model."""
    from lst_fairseq.checkpoints.conversion import convert
    from lst_fairseq.checkpoints.export import export
    from lst_fairseq.generation.translator import DecodingOptions, Translator
    from tests.support.helpers import SENTENCES, lst
    from tests.support.running import run_generate, write_split

    base = Base(root, root / MARKER_WORD)
    for split, count in (("train", 6), ("dev", 3), ("test", 5)):
        write_split(base.corpus, split, [(0.5 + 0.1 * i, SENTENCES[i]) for i in range(count)])
    shutil.copy(checkpoint, base.checkpoint)
    convert(base.checkpoint, base.sharded, without_optimizer=False, force=False)
    export(base.checkpoint, base.exported, with_frontend=True)
    run_generate(base.corpus, base.checkpoint, base.hypotheses.parent)
    manifest = str(base.corpus / "test.tsv")
    arguments = [
        "--manifest",
        manifest,
        "--hypotheses",
        str(base.hypotheses),
        "--json",
        str(base.scores),
    ]
    lst("score", *arguments)
    translator = Translator(
        base.checkpoint, device="cpu", options=DecodingOptions(beam=2, max_len_b=6)
    )
    (result,) = translator.translate([base.speech])
    (root / "translation.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
    return base


def main(root: Path) -> None:
    """Make everything anew, backbones and training included."""
    from tests.conftest import save_llama, save_wav2vec2
    from tests.support.helpers import SENTENCES
    from tests.support.running import run_train, write_split

    backbones = {name: str(root / "backbones" / name) for name in ("wav2vec2", "llama")}
    save_wav2vec2(Path(backbones["wav2vec2"]))
    save_llama(Path(backbones["llama"]))
    for split in ("train", "dev"):
        write_split(root / "trained_on", split, [(0.5, text) for text in SENTENCES[:6]])
    modules = {"train_modules": "adapter,llm", "max_update": 2}
    run = run_train(root / "trained_on", backbones, root / "run", **modules)
    make_base(root, run.path())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
