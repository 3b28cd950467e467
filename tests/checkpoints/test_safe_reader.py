"""Sharded checkpoints are read without running code from them."""

import io
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException

from lst_fairseq.checkpoints.safe_reader import SafeReader, cause_of, read_tensors
from lst_fairseq.errors import CheckpointError


class Payload:
    """Unpickled, it makes a folder: what a hostile checkpoint could do."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "model/a": torch.randn(5, 7, generator=generator),
        "model/b": torch.randn(3, generator=generator).bfloat16(),
        "last_optimizer_state/step": torch.tensor(9),
    }
    dcp.save(tensors, checkpoint_id=str(tmp_path / "shards"), no_dist=True)
    torch.save(tensors, tmp_path / "expected.pt")
    return tmp_path / "shards"


def test_reads_what_torch_writes(folder: Path) -> None:
    expected = torch.load(folder.parent / "expected.pt", weights_only=True)
    found = {name: torch.zeros_like(value) for name, value in expected.items()}
    read_tensors(folder, found, no_dist=True)
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype


@pytest.mark.parametrize("where", ["alone", "within"])
def test_runs_no_code(folder: Path, where: str) -> None:
    payload = Payload(folder / "code_was_run")
    content: Any = payload
    if where == "within":
        content = SafeReader(folder).read_metadata()
        content.planner_data = {"entry": payload}
    (folder / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"\.metadata: refused, .*could run code \(posix\.mkdir\); use a sharded"):
        SafeReader(folder).read_metadata()
    assert not (folder / "code_was_run").exists()
    # torch's own reader does run it, which is why there is another.
    with suppress(AttributeError):
        dcp.FileSystemReader(folder).read_metadata()
    assert (folder / "code_was_run").exists()


def with_pickled_entry(folder: Path, payload: Any) -> metadata.Metadata:
    """The index of the folder, in which model/b is no tensor any more, but seems to be of its size."""
    pickled = io.BytesIO()
    torch.save(payload, pickled)
    (folder / "more.distcp").write_bytes(pickled.getvalue())
    index = SafeReader(folder).read_metadata()
    entry = metadata.BytesStorageMetadata()
    vars(entry).update(vars(index.state_dict_metadata["model/b"]))
    index.state_dict_metadata["model/b"] = entry
    places = {place: file for place, file in index.storage_data.items() if place.fqn != "model/b"}
    place = filesystem._StorageInfo("more.distcp", 0, len(pickled.getvalue()))
    index.storage_data = {**places, metadata.MetadataIndex("model/b"): place}
    return index


def test_unpickles_no_entry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch unpickles what the index calls no tensor, wherever a tensor of that name is asked for."""
    index = with_pickled_entry(folder, Payload(folder / "code_was_run"))
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    targets = {"model/b": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"\.metadata: refused, .*BytesStorageMetadata"):
        SafeReader(folder).read_metadata()
    # Nor would it be unpickled if it came so far.
    monkeypatch.setattr(SafeReader, "read_metadata", dcp.FileSystemReader.read_metadata)
    with pytest.raises(CheckpointException) as caught:
        read_tensors(folder, targets, no_dist=True)
    assert str(cause_of(caught.value)) == "model/b is no tensor"
    assert not (folder / "code_was_run").exists()
    dcp.load(targets, checkpoint_id=folder, no_dist=True)
    assert (folder / "code_was_run").exists()  # as torch alone does it


@pytest.mark.parametrize("name", ["../elsewhere.distcp", "/elsewhere.distcp", "deeper/elsewhere.distcp"])
def test_reads_no_file_elsewhere(folder: Path, name: str) -> None:
    index = SafeReader(folder).read_metadata()
    place = next(iter(index.storage_data))
    index.storage_data[place].relative_path = name
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match=rf"\.metadata: refused, .*the file {name} elsewhere"):
        SafeReader(folder).read_metadata()


class EarlyPickler(pickle.Pickler):
    """Pickles enumerations as Python 3.11.2 does, whatever the Python that runs."""

    def reducer_override(self, obj: Any) -> Any:
        return (getattr, (type(obj), obj.name)) if isinstance(obj, Enum) else NotImplemented


def test_reads_what_early_releases_of_python_3_11_write(folder: Path) -> None:
    content = SafeReader(folder).read_metadata()
    early = io.BytesIO()
    EarlyPickler(early).dump(content)
    assert b"getattr" in early.getvalue()
    (folder / ".metadata").write_bytes(early.getvalue())
    assert SafeReader(folder).read_metadata().state_dict_metadata == content.state_dict_metadata


@pytest.mark.parametrize("module", [b"pathlib", b"pathlib._local"])  # before Python 3.13, and of it
def test_reads_what_another_python_writes(folder: Path, module: bytes) -> None:
    content = SafeReader(folder).read_metadata()
    content.storage_meta.checkpoint_id = folder
    pickled = pickle.dumps(content, protocol=2)  # which holds names as they are, without their lengths
    assert b"cpathlib" in pickled
    pickled = pickled.replace(b"cpathlib._local\n", b"cpathlib\n").replace(b"cpathlib\n", b"c" + module + b"\n")
    (folder / ".metadata").write_bytes(pickled)
    assert SafeReader(folder).read_metadata().storage_meta.checkpoint_id == folder


class Attribute:
    """Unpickled, it is something that an allowed type can do."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (Path, "unlink")


def test_gets_no_other_attribute(folder: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Attribute()))
    with pytest.raises(CheckpointError, match=r"refused, .*could run code \(builtins\.getattr\)"):
        SafeReader(folder).read_metadata()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[: len(data) // 2], "refused|damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: pickle.dumps({"a": 1}), r"refused, .*\(dict\)"),
    ],
)
def test_damaged(folder: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = folder / ".metadata"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        SafeReader(folder).read_metadata()
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match="not there, so that this is no complete sharded checkpoint"):
        SafeReader(folder).read_metadata()
