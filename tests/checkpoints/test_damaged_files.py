"""Files that are not what was written any more: found on loading, and said in one line with file and remedy."""

import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from fairseq import tasks

from lst_fairseq.checkpoints import conversion, shard_checksums
from lst_fairseq.checkpoints.export import export, read_export
from lst_fairseq.checkpoints.sharded import assemble, read_file
from lst_fairseq.errors import CheckpointError
from lst_fairseq.generation.translator import Translator
from lst_fairseq.models.frontends.fairseq_settings import read_checkpoint as read_speech_encoder
from lst_fairseq.models.trained_parts import RECORD_KEY, CheckpointRecord
from lst_fairseq.utils import checksums
from tests.support.helpers import lst_refuses
from tests.support.running import differences, edited, first_stage, read_checkpoint, run_train, train_configuration

FLIPS = 25


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def refused(read: Callable[[], Any], path: Path, error: Any = CheckpointError) -> str:
    """The message of an error, which has to be one line that names the path."""
    with pytest.raises(error) as caught:
        read()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and "again" in message
    return message


@pytest.fixture(scope="module")
def checkpoint(corpus: Path, backbones: dict[str, str]) -> Path:
    return first_stage(corpus, backbones).path()


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(checkpoint, tmp_path_factory.mktemp("export") / "out", with_frontend=True)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture
def sharded(checkpoint: Path, tmp_path: Path) -> Path:
    conversion.convert(checkpoint, tmp_path / "sharded.pt", without_optimizer=False, force=False)
    return tmp_path / "sharded.pt"


def tensor_places(path: Path) -> list[int]:
    """Positions of bytes of tensors in a checkpoint, drawn at random."""
    content, generator, places = path.read_bytes(), random.Random(1), []
    values = [v for v in torch.load(path, weights_only=True)["model"].values() if v.is_floating_point()]
    for value in generator.choices(values, k=FLIPS):
        start = content.find(value.numpy().tobytes())
        assert start > 0
        places.append(start + generator.randrange(value.nbytes))
    return places


def test_any_bit_of_a_tensor(checkpoint, tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    for i, place in enumerate(tensor_places(checkpoint)):
        shutil.copy(checkpoint, path)
        flip(path, place, bit=i % 8)
        for read in (read_checkpoint, read_file):
            message = refused(lambda read=read: read(str(path)), path)
            assert "/data/" in message and "checksum" in message


def test_files_without_checksums_load(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "none.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("none.pt", "legacy.pt"):
        assert not differences(read_checkpoint(tmp_path / name)["model"], state["model"])


def test_the_first_byte_and_the_list_of_records(checkpoint, tmp_path):
    path = tmp_path / "c.pt"
    shutil.copy(checkpoint, path)
    flip(path, 0)
    assert "its first bytes" in refused(lambda: read_checkpoint(path), path)
    shutil.copy(checkpoint, path)
    content = path.read_bytes()
    directory = content.rfind(b"PK\x01\x02")
    flip(path, directory + 46)  # in a record's name
    assert "has not the checksum" in refused(lambda: read_checkpoint(path), path)


def test_a_record_that_is_there_twice(checkpoint, tmp_path):
    path = Path(shutil.copy(checkpoint, tmp_path / "c.pt"))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        name = next(name for name in archive.namelist() if "/data/" in name)
        archive.writestr(name, archive.read(name)[::-1])
    assert f"{name}' is there 2 times" in refused(lambda: read_checkpoint(path), path)


def test_weights_that_are_no_numbers(checkpoint, tmp_path):
    def broken(model: dict[str, Any]) -> dict[str, Any]:
        start = model["encoder.markers.start"]
        return {**model, "encoder.markers.start": torch.full_like(start, float("nan"))}

    path, audio = edited(checkpoint, tmp_path / "c.pt", model=broken), tmp_path / "a.wav"
    soundfile.write(audio, [0.0, 0.1] * 8000, 16000)
    line = lst_refuses("translate", "--checkpoint", path, "--device", "cpu", audio)
    assert line.startswith(f"error: {path}: ") and "not finite" in line


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "c.pt")
    assert "not a regular file" in refused(lambda: read_checkpoint(tmp_path / "c.pt"), tmp_path / "c.pt")


def test_a_large_file_is_read_in_threads(tmp_path, monkeypatch):
    torch.save({"model": {str(i): torch.full((999,), float(i)) for i in range(9)}}, tmp_path / "c.pt")
    monkeypatch.setattr(checksums, "ONE_THREAD", 0)
    monkeypatch.setattr(checksums.os, "cpu_count", lambda: 3)
    checksums.check_records(tmp_path / "c.pt")
    flip(tmp_path / "c.pt", tmp_path.joinpath("c.pt").read_bytes().find(torch.full((9,), 7.0).numpy().tobytes()))
    with pytest.raises(checksums.Damaged, match=r"c/data/7 \(3,996 bytes\) has not"):
        checksums.check_records(tmp_path / "c.pt")
    checksums.check_records(tmp_path / "c.pt", tensors=False)


def test_a_speech_encoder_of_fairseq(tmp_path):
    path = tmp_path / "encoder.pt"
    torch.save({"model": {"w": torch.full((99,), 3.0)}}, path)
    flip(path, path.read_bytes().find(torch.full((9,), 3.0).numpy().tobytes()) + 11)
    message = refused(lambda: read_speech_encoder(path), path, ValueError)
    assert message.startswith("--speech-encoder ") and "checksum" in message


def record(checkpoint: Path) -> dict[str, Any]:
    tensor = torch.load(checkpoint, weights_only=True)["model"][RECORD_KEY]
    return json.loads(bytes(tensor.tolist()).decode())


ODD_RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda r: [],
    "null": lambda r: None,
    "another format": lambda r: {**r, "format": 99},
    "a field less": lambda r: {k: v for k, v in r.items() if k != "tokenizer"},
    "a field more": lambda r: {**r, "x": 1},
    "held": lambda r: {**r, "held": ["decoder"]},
    "held, a text": lambda r: {**r, "held": "adapter"},
    "held, nested": lambda r: {**r, "held": [[]]},
    "no llm": lambda r: {**r, "sources": {"frontend": r["sources"]["frontend"]}},
    "a path that is none": lambda r: {**r, "sources": {**r["sources"], "llm": {"path": 3, "fingerprint": ""}}},
    "prompt": lambda r: {**r, "prompt": "x"},
}


@pytest.mark.parametrize("kind", ODD_RECORDS)
def test_records(kind, checkpoint):
    with pytest.raises(CheckpointError, match=r"lst_record\) is damaged \(.*copy it again|update lst_fairseq"):
        CheckpointRecord.parse(ODD_RECORDS[kind](record(checkpoint)))


@pytest.mark.parametrize("values", [[300], 3, [0.5], [91] * 9999])
def test_record_tensors(values):
    with pytest.raises(CheckpointError, match=r"lst_record\) is damaged"):
        CheckpointRecord.from_tensor(torch.tensor(values))


ODD_STATES: dict[str, dict[str, Any]] = {
    "history": {"optimizer_history": {}},
    "an entry of the history": {"optimizer_history": [3]},
    "updates": {"optimizer_history": [{"num_updates": "x"}]},
    "model": {"model": []},
    "a parameter": {"model": lambda model: {**model, "encoder.markers.start": 5}},
    "a parameter that is larger than the file": {
        "model": lambda model: {**model, "encoder.markers.start": torch.zeros(1).expand(2**40)}
    },
    "a parameter on no device": {
        "model": lambda model: {**model, "encoder.markers.start": torch.empty(32, device="meta")}
    },
    "a sparse parameter": {"model": lambda model: {**model, "encoder.markers.start": torch.eye(3).to_sparse()}},
    "a complex parameter": {
        "model": lambda model: {**model, "encoder.markers.start": torch.zeros(32, dtype=torch.complex64)}
    },
    "a moment that is larger than the file": {
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(1).expand(2**40)}}}
    },
    "extra_state": {"extra_state": 1.5},
    "epoch": {"extra_state": {"train_iterator": {"epoch": "x"}}},
    "moments": {"last_optimizer_state": {"state": {0: 3}}},
}


@pytest.mark.parametrize("kind", ODD_STATES)
def test_entries_of_another_type(kind, checkpoint, tmp_path):
    path = edited(checkpoint, tmp_path / "c.pt", **ODD_STATES[kind])
    for read in (read_checkpoint, read_file):
        with pytest.raises(CheckpointError, match=r"c\.pt: not a complete fairseq checkpoint.*use an earlier one"):
            read(str(path))


def test_training_does_not_go_on_from_odd_content(checkpoint, corpus, backbones, tmp_path):
    path = edited(checkpoint, tmp_path / "checkpoint_last.pt", last_optimizer_state={"state": {}, "param_groups": 3})
    message = refused(lambda: run_train(corpus, backbones, tmp_path), path)
    assert "holds something else than fairseq-train with this plugin writes" in message
    moments = torch.load(checkpoint, weights_only=True)["last_optimizer_state"]
    del moments["state"][0]["exp_avg"]
    edited(checkpoint, path, last_optimizer_state=moments)
    assert "of parameter 0 lacks exp_avg" in refused(lambda: run_train(corpus, backbones, tmp_path), path)
    path.unlink()
    path.symlink_to(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint_last\.pt: a link to nothing .*remove the link"):
        run_train(corpus, backbones, tmp_path)


def test_translating_odd_content(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["task_state"]
    odd = {**state, "lst": {**state["lst"], "prompt": {"src_lang": torch.ones(2)}}}
    path = edited(checkpoint, tmp_path / "c.pt", task_state=odd)
    with pytest.raises((CheckpointError, ValueError), match=r"c\.pt: ") as caught:
        Translator(path)
    assert "\n" not in str(caught.value)


# --- exported directories


def test_an_export_names_its_files(exported):
    files = json.loads((exported / "lst.json").read_text(encoding="utf-8"))["files"]
    assert {"adapter.safetensors", "llm/model.safetensors", "llm/tokenizer.json", "frontend/config.json"} <= set(files)
    assert not {"lst.json", "README.md", "llm/generation_config.json"} & set(files)
    assert all(len(entry["sha256"]) == 64 and entry["bytes"] for entry in files.values())


@pytest.mark.parametrize(
    "name", ["adapter.safetensors", "llm/model.safetensors", "llm/tokenizer.json", "frontend/model.safetensors"]
)
def test_changed_files_of_an_export(name, copy):
    file = copy / name
    flip(file, file.stat().st_size // 2)
    message = refused(lambda: read_export(copy), file)
    assert "other content than was written" in message and "remove the file's entry from `files` in lst.json" in message
    file.unlink()
    assert f"{file}: missing" in refused(lambda: read_export(copy), file)


def test_large_files_are_compared_by_crc(copy, monkeypatch):
    monkeypatch.setattr(checksums, "SMALL", 0)
    read_export(copy)
    flip(copy / "llm" / "model.safetensors", 9999)
    refused(lambda: read_export(copy), copy / "llm" / "model.safetensors")


def test_weights_that_were_not_exported(copy):
    shutil.copy(copy / "llm" / "model.safetensors", copy / "llm" / "more.safetensors")
    assert "more.safetensors: weights that lst.json does not name" in refused(lambda: read_export(copy), copy)


def change_settings(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / "lst.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    change(settings)
    path.write_text(json.dumps(settings), encoding="utf-8")


def test_what_may_change_in_an_export(copy):
    (copy / "README.md").write_text("mine", encoding="utf-8")
    (copy / "llm" / "generation_config.json").unlink()
    file = copy / "frontend" / "preprocessor_config.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    refused(lambda: read_export(copy), file)
    change_settings(copy, lambda settings: settings["files"].pop("frontend/preprocessor_config.json"))
    read_export(copy)  # a change that is meant
    change_settings(copy, lambda settings: settings.pop("files"))
    flip(copy / "llm" / "model.safetensors", 9999)
    read_export(copy)  # of an older version


ODD_SETTINGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no record": (lambda s: s.pop("record"), "`record` is missing, or is no object"),
    "model": (lambda s: s.update(model=[]), "`model` is missing, or is no object"),
    "task": (lambda s: s.update(task=None), "`task` is missing"),
    "frontend": (lambda s: s.update(frontend="x"), "`frontend` is missing"),
    "held": (lambda s: s["record"].update(held=["llm"]), "`record.held` names llm; valid are adapter, frontend"),
    "files": (lambda s: s.update(files=[1]), "the table of files is a list"),
    "an entry": (lambda s: s["files"].update(x=3), "an entry is not"),
    "elsewhere": (lambda s: s["files"].update({"../x": s["files"].popitem()[1]}), "does not lie in the directory"),
    "a field of the record": (lambda s: s["record"].pop("prompt"), "fields missing or unknown: prompt"),
}


@pytest.mark.parametrize("kind", ODD_SETTINGS)
def test_settings_of_an_export(kind, copy):
    change, message = ODD_SETTINGS[kind]
    change_settings(copy, change)
    assert message in refused(lambda: read_export(copy), copy / "lst.json")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_settings_that_are_no_object(text, copy):
    (copy / "lst.json").write_text(text, encoding="utf-8")
    refused(lambda: read_export(copy), copy / "lst.json")


# --- sharded checkpoints


def read_sharded(path: Path) -> dict[str, Any]:
    return assemble(str(path), read_file(str(path)))


def test_shards_that_changed(sharded, checkpoint):
    folder = Path(f"{sharded}.shards")
    assert not differences(read_sharded(sharded)["model"], torch.load(checkpoint, weights_only=True)["model"])
    file = next(folder.glob("*.distcp"))
    whole = file.read_bytes()
    for place in random.Random(2).choices(range(len(whole)), k=FLIPS):
        file.write_bytes(whole)
        flip(file, place)
        assert "other content than was written" in refused(lambda: read_sharded(sharded), file)
    file.write_bytes(whole[:-1])
    refused(lambda: read_sharded(sharded), file)
    file.unlink()
    assert "missing" in refused(lambda: read_sharded(sharded), file)
    (folder / "checksums.json").unlink()  # of an older version
    assert "shards that cannot be read" in refused(lambda: read_sharded(sharded), folder)
    file.write_bytes(whole)
    read_sharded(sharded)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 9}', '{"format": 1, "files": {"x": 3}}'])
def test_the_checksums_themselves(text, sharded):
    path = Path(f"{sharded}.shards") / "checksums.json"
    path.write_text(text, encoding="utf-8")
    refused(lambda: read_sharded(sharded), path)


@pytest.mark.parametrize("change", ["size", "missing", "no places"])
def test_an_index_of_something_else(change, sharded):
    folder = Path(f"{sharded}.shards")
    (folder / "checksums.json").unlink()
    index = pickle.loads((folder / ".metadata").read_bytes())
    name = next(name for name in index.state_dict_metadata if name.startswith("model/"))
    if change == "size":
        index.state_dict_metadata[name].size = torch.Size([10**9, 10**3])
    elif change == "missing":
        del index.state_dict_metadata[name]
    else:
        index.storage_data = {}
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    refused(lambda: read_sharded(sharded), folder)


def test_each_process_looks_at_its_share(sharded):
    folder = Path(f"{sharded}.shards")
    shutil.copy(folder / "__0_0.distcp", folder / "__3_0.distcp")
    shard_checksums.write_shard_checksums(folder, shard_checksums.shard_checksums(folder, "__*"))
    flip(folder / "__3_0.distcp", 99)
    faults = [shard_checksums.shard_faults(folder, share, 2) for share in range(2)]
    assert faults[0] == [] and len(faults[1]) == 1 and "__3_0.distcp" in faults[1][0]


# --- pretrained models


def build(corpus: Path, backbones: dict[str, str], **directories: str) -> None:
    cfg = train_configuration(corpus, backbones, corpus / "unused", **directories)
    tasks.setup_task(cfg.task).build_model(cfg.model)


def write_header(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def entry(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in header.items() if name != "__metadata__")


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no offsets": lambda h: entry(h).pop("data_offsets"),
    "offsets": lambda h: entry(h).update(data_offsets=None),
    "beyond the end": lambda h: entry(h).update(data_offsets=[0, 10**15]),
    "shape": lambda h: entry(h).update(shape="x"),
    "type": lambda h: entry(h).update(dtype="X"),
    "an entry": lambda h: h.update(x=3),
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("flag", ["llm", "speech_encoder"])
def test_headers_of_safetensors(flag, kind, corpus, backbones, tmp_path):
    copy = shutil.copytree(backbones["llama" if flag == "llm" else "wav2vec2"], tmp_path / "copy")
    file = copy / "model.safetensors"
    write_header(file, HEADERS[kind])
    refused(lambda: build(corpus, backbones, **{flag: str(copy)}), file, ValueError)


def test_a_huge_header_is_not_read(corpus, backbones, tmp_path):
    copy = shutil.copytree(backbones["llama"], tmp_path / "copy")
    file = copy / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63 - 1) + file.read_bytes()[8:])
    refused(lambda: build(corpus, backbones, llm=str(copy)), file, ValueError)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "gone.safetensors"}}'])
def test_an_index_of_weights(index, corpus, backbones, tmp_path):
    copy = shutil.copytree(backbones["llama"], tmp_path / "copy")
    file = copy / "model.safetensors.index.json"
    file.write_text(index, encoding="utf-8")
    refused(lambda: build(corpus, backbones, llm=str(copy)), file, ValueError)


@pytest.mark.parametrize(
    ("flag", "name", "text"),
    [
        ("llm", "config.json", "[]"),
        ("llm", "config.json", '{"model_type": "llama", "num_hidden_layers": "x"}'),
        ("llm", "tokenizer.json", "{"),
        ("llm", "tokenizer.json", "[]"),
        ("speech_encoder", "config.json", "[]"),
        ("speech_encoder", "preprocessor_config.json", "[]"),
        ("speech_encoder", "preprocessor_config.json", "{"),
    ],
)
def test_json_of_pretrained_models(flag, name, text, corpus, backbones, tmp_path):
    copy = shutil.copytree(backbones["llama" if flag == "llm" else "wav2vec2"], tmp_path / "copy")
    (copy / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"again|give the directory") as caught:
        build(corpus, backbones, **{flag: str(copy)})
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
