"""Manifests: damaged, with odd cells, and with changes that a reader has to understand."""

import json
import shutil
from pathlib import Path
from random import Random

from tests.fuzz.base import Base
from tests.fuzz.case import Case, Outcome
from tests.fuzz.mutators import damaged, odd_value
from tests.fuzz.programs import generate_arguments

#: Texts that are texts: whatever they hold stays as it is.
TEXTS = (
    *('Er sagt "ja".', '5" Rohr', "'", '"', "«Où ?»\u00a0", "zwei\u2028Zeilen", "a\x85b"),
    *("👩‍👩‍👧", "مرحبا بالعالم"),
    *("C:\\temp\\neu", "# nicht", "=1+1", "NA", "null", "0012", "x" * 5_000, "\u202eabc"),
    *("e\u0301", "中文没有空格", "%s {0}"),
)
CELLS = (
    *("", " ", "-1", "0", "1e9", "9" * 400, "٣", "٣", "0x10", "nan", "../../etc/passwd"),
    *("/dev/zero", "/none.wav"),
    *(".", "/", "~", "a.wav:0:0", "a.wav:-1:5", "a.wav:5", ":0:1"),
    *("x:99999999999999999999:1", "\x00", "\r", "\ufeff"),
    *("zz", "no", "st", "asr", "mt", "cot", "unknown task"),
)


#: Changes that lose nothing.
VALID = (
    "texts",
    "CRLF",
    "byte order mark",
    "blank lines",
    "another column",
    "no last line end",
    "order",
)
#: What may stand in place of a column's name, and behind the path of an audio file.
HEADERS = ("", "id", "audio", "tgt_text", "Audio", "n_frames ", "task", "tgt_lang", "src_lang")
PARTS = (":0:0", ":0:-1", ":-5:10", ":1e3:5", ":9" + "9" * 30 + ":1", ":0:99999999")


class Manifests:
    """Read, checked, scored and translated."""

    name = "manifests"

    def make(self, rng: Random, folder: Path, base: Base) -> Case:
        table = [
            line.split("\t") for line in (base.corpus / "test.tsv").read_text("utf-8").splitlines()
        ]
        table[0] += ["src_text", "speaker"]
        for number, row in enumerate(table[1:]):
            row += [f"source {number}", f"spk_{number % 2}"]
        valid = rng.random() < 0.3
        data, said = (understood if valid else broken)(rng, table, base)
        # Of a test set, so that fairseq-generate finds it.
        path = folder / "data" / "test.tsv"
        path.parent.mkdir()
        path.write_bytes(data)
        shutil.copy(base.corpus / "config.yaml", path.parent)
        rows = [[row[0], row[3], row[4]] for row in table[1:]] if valid else None
        program, arguments = _call(rng, path, base, folder / "out")
        return Case(program, arguments, said, (path.name, "config.yaml"), rows)

    def wrong(self, case: Case, outcome: Outcome) -> str | None:
        """Texts exactly as they were written."""
        if case.expected is None:
            return None
        due = [row[1] for row in case.expected]
        if case.program == "read-manifest":
            found = [row[1] for row in json.loads(outcome.stdout)["rows"]]
        elif case.program == "score":
            out = Path(case.arguments[case.arguments.index("--json") + 1])
            found = json.loads(out.read_text("utf-8"))["sentences"]["references"]
        else:
            return None
        differing = [pair for pair in zip(due, found, strict=False) if pair[0] != pair[1]]
        if differing or len(due) != len(found):
            return f"{len(found)} texts of {len(due)}; written and read: {differing[:1]}"
        return None


def _call(rng: Random, path: Path, base: Base, out: Path) -> tuple[str, tuple[str, ...]]:
    twice = ("read-manifest", "check")
    program = rng.choice((*twice, *twice, "score", "generate"))
    if program == "score":
        given = (
            "--manifest",
            str(path),
            "--hypotheses",
            str(base.hypotheses),
            "--json",
            str(out / "s.json"),
        )
        return program, given
    if program == "generate" and rng.random() < 0.5:
        return "fairseq-generate", generate_arguments(path.parent, base.checkpoint, out)
    return (
        (program, (str(path),))
        if program != "generate"
        else ("check", (str(path.parent),))
    )


def text_of(table: list[list[str]]) -> str:
    """As a manifest is written."""
    return "".join("\t".join(row) + "\n" for row in table)


def understood(rng: Random, table: list[list[str]], base: Base) -> tuple[bytes, str]:
    """A change that loses nothing, made in the table too, where it concerns texts or order."""
    for row in table[1:]:
        row[3] = rng.choice((*TEXTS, row[3], row[3]))
    what = rng.choice(VALID)
    if what == "order":
        rng.shuffle(rows := table[1:])
        table[1:] = rows
    text = text_of(table)
    if what == "CRLF":
        text = text.replace("\n", "\r\n")
    elif what == "byte order mark":
        text = "\ufeff" + text
    elif what == "blank lines":
        text = text.replace("\n", "\n\n") + " \n"
    elif what == "another column":
        text = text_of([[*row, "more" if number else "mine"] for number, row in enumerate(table)])
    elif what == "no last line end":
        text = text[:-1]
    return text.encode("utf-8"), f"valid: {what}, with texts {[row[3][:20] for row in table[1:]]!r}"


def broken(rng: Random, table: list[list[str]], base: Base) -> tuple[bytes, str]:
    """Cells, columns or bytes changed: what is right, nobody knows."""
    others = ("drop", "double", "header", "bytes", "bytes", "fields", "size")
    what = rng.choice(("cell", "cell", "cell", *others))
    row, column = rng.randrange(len(table)), rng.randrange(len(table[0]))
    if what == "cell":
        value = rng.choice(CELLS) if rng.random() < 0.7 else str(odd_value(rng, str(base.marker)))
        if column == 1 and rng.random() < 0.4:
            value = table[row][1] + rng.choice(PARTS)
        table[row][column] = value
        said = f"line {row + 1}, field {column + 1} is {value!r:.60}"
    elif what == "drop":
        del table[row]
        said = f"line {row + 1} lost"
    elif what == "double":
        table.insert(rng.randrange(len(table)), list(table[row]))
        said = f"line {row + 1} twice"
    elif what == "header":
        table[0][column] = rng.choice(HEADERS)
        said = f"column {column + 1} is called {table[0][column]!r}"
    elif what == "fields":
        table[row] = rng.choice((table[row][:-1], [*table[row], ""], [], [" "], ["\t" * 1000]))
        said = f"line {row + 1} has {len(table[row])} fields"
    elif what == "size":
        table += [list(table[1])] * rng.choice((1, 2000))
        said = "rows repeated"
    else:
        return damaged(text_of(table).encode("utf-8"), rng)
    return text_of(table).encode("utf-8", "surrogatepass"), said
