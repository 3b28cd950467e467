"""The kinds of input, by the names that ``--kinds`` takes."""

from collections.abc import Mapping

from tests.fuzz.case import Kind
from tests.fuzz.kinds.audio import Audio
from tests.fuzz.kinds.checkpoints import Checkpoints
from tests.fuzz.kinds.exports import Exports
from tests.fuzz.kinds.manifests import Manifests
from tests.fuzz.kinds.paths import Paths
from tests.fuzz.kinds.records import Records
from tests.fuzz.kinds.settings import Settings
from tests.fuzz.kinds.studies import Studies

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Audio(),
        Manifests(),
        Settings(),
        Studies(),
        Records(),
        Checkpoints(),
        Exports(),
        Paths(),
    )
}
