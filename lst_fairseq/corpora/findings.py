"""What is found in a manifest: kinds of findings, how often each, and the first lines of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lst_fairseq.data.audio import Segment

LEVELS = ("error", "warning", "note")


@dataclass(slots=True)
class Finding:
    """One kind of finding in one manifest."""

    level: str
    kind: str
    count: int = 0
    lines: list[str] = field(default_factory=list)  # the first ones, as "FILE:LINE: detail"


@dataclass(slots=True)
class Line:
    """What is kept of a line for comparisons."""

    number: int
    segment: Segment | None  # None: text alone, or it could not be read
    src_text: str
    tgt_text: str


class Report:
    """The findings in one manifest, in the order in which they were met.

    Args:
        path: the manifest.
        show: how many lines to name of each kind.
    """

    def __init__(self, path: Path, show: int):
        self.path = path
        self.show = show
        self.segments = 0
        self.seconds = 0.0
        self.files = 0
        self.findings: dict[str, Finding] = {}
        self.lines: list[Line] = []

    def add(self, level: str, kind: str, number: int, detail: str = "") -> None:
        """Count one more finding of a kind."""
        finding = self.findings.setdefault(kind, Finding(level, kind))
        finding.count += 1
        if len(finding.lines) < self.show:
            finding.lines.append(f"{self.path}:{number}" + (f": {detail}" if detail else ""))

    def count(self, level: str) -> int:
        """Findings of a level."""
        return sum(finding.count for finding in self.findings.values() if finding.level == level)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "manifest": str(self.path),
            "segments": self.segments,
            "hours": round(self.seconds / 3600, 4),
            "audio_files": self.files,
            "findings": [
                {"level": f.level, "kind": f.kind, "count": f.count, "lines": f.lines}
                for f in self.sorted_findings()
            ],
        }

    def __str__(self) -> str:
        """For people, a line a finding and one for each line that is named."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        audio = f", {self.seconds / 3600:.2f} h in {self.files} audio files" if self.files else ""
        yield f"{self.path}: {self.segments} segments{audio}"
        for finding in self.sorted_findings():
            yield f"  {finding.level}: {finding.kind}: {finding.count}"
            yield from (f"      {line}" for line in finding.lines)
            if finding.lines and finding.count > len(finding.lines):
                yield f"      and {finding.count - len(finding.lines)} more"

    def sorted_findings(self) -> list[Finding]:
        """Errors first, then by number."""
        return sorted(self.findings.values(), key=lambda f: (LEVELS.index(f.level), -f.count))
