"""Text files: what is none is refused at once, in one line with its name and a remedy, by every reader."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lst_fairseq.data.manifest import read_manifest
from lst_fairseq.evaluation.comparison import read_scores
from lst_fairseq.evaluation.metrics import read_generated, read_signature
from lst_fairseq.evaluation.report.comparison import read_comparison
from lst_fairseq.evaluation.training_curve import read_curve
from lst_fairseq.utils import text_files
from lst_fairseq.utils.checkpoint_files import check_checkpoint
from lst_fairseq.utils.text_files import Unreadable, read_data, read_json, read_text
from lst_fairseq.utils.yaml_files import read_yaml

READERS: dict[str, Callable[[Path], object]] = {
    "data": lambda path: read_data(path, "make it"),
    "json": lambda path: read_json(path, "make it"),
    "yaml": read_yaml,
    "manifest": read_manifest,
    "corpus": lambda path: read_text(path, "make it"),
    "hypotheses": read_generated,
    "log": read_signature,
    "training log": lambda path: read_curve([path]),
    "scores": read_scores,
    "comparison": read_comparison,
}
THINGS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link in a circle": lambda path: path.symlink_to(path),
    "below a file": lambda path: None,
    "nothing": lambda path: None,
    "huge": lambda path: path.touch() or os.truncate(path, 20 << 30),
}
REASONS = {
    "a folder": "a folder, where a ",
    "a pipe": "a pipe, a device or a socket",
    "a device": "a pipe, a device or a socket",
    "a link in a circle": r"cannot be read \(Too many levels of symbolic links\)",
    "below a file": r"cannot be read \(Not a directory\)",
    "nothing": "no such ",
    "huge": "21,474,836,480 bytes, too many for a ",
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, reader: str, thing: str) -> None:
    path = tmp_path / "input"
    if thing == "below a file":
        path.touch()
        path = path / "input"
    THINGS[thing](path)
    with pytest.raises(ValueError, match=REASONS[thing]) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(RuntimeError, match=r"a\.pt: refused, .* a pipe, a device or a socket"):
        check_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None])
def test_a_folder_without_settings_is_no_export(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "lst.json")
    with pytest.raises(RuntimeError, match=r"it has no file lst\.json\); export the checkpoint again"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "no JSON that can be read"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"\xff", "no JSON that can be read"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 10_000, "no JSON that can be read"),
    ],
)
def test_what_is_no_json(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=rf"a\.json: {'.*' + reason}.*; make it again$"):
        read_json(path, "make it again")


def test_json_with_a_byte_order_mark_and_a_pair_of_surrogates(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "a.json", "") == {"a": "\U0001f600"}


def test_the_limit_is_the_readers(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_data(tmp_path / "a", "", max_bytes=5) == b"12345"
    with pytest.raises(Unreadable, match="5 bytes, too many for a log"):
        read_data(tmp_path / "a", "", "log", max_bytes=4)
    assert text_files.MAX_PARSED < text_files.MAX_BYTES
