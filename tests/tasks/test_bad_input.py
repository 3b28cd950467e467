"""Bad input through the task and the commands: each case with an error that says what, where and what to do, or a
counted skip. Files that are no audio, tables and checkpoints have more cases in data/ and test_checkpoints.py."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fairseq import tasks

from lst_fairseq.data.audio import AudioError
from lst_fairseq.data.manifest import ManifestError
from tests.conftest import save_llama
from tests.support.helpers import write_tsv
from tests.support.running import run_generate, run_train, run_train_command, spoil, train_configuration, write_split

RATE = 16_000
TEXT = "Das Buch liegt auf dem Tisch."


def load(data: Path, backbones: dict[str, str], split: str = "dev", **settings: Any) -> Any:
    cfg = train_configuration(data, backbones, data / "unused", **settings)
    task = tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    task.load_dataset(split)
    return task.dataset(split)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three good utterances, as train and dev."""
    for split in ("train", "dev"):
        write_split(tmp_path, split, [(0.5, TEXT), (0.6, "Ja."), (0.7, "Nein.")])
    return tmp_path


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text_named_wav(path: Path) -> None:
    path.write_text("This is not audio.\n" * 100, encoding="utf-8")


def without_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), RATE)


BROKEN_AUDIO: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing": (Path.unlink, "no such audio file; check the path and the audio root", "missing file"),
    "empty": (empty_file, r"the audio file is empty \(0 bytes\); copy or convert it again", "empty file"),
    "truncated": (cut_short, "cut short, the header promises .* copy or convert it again", "truncated file"),
    "text": (text_named_wav, "not an audio file that libsndfile can read .*; convert it to wav", "not audio"),
    "no samples": (without_samples, "holds no samples; copy or convert it again", "no samples"),
}


@pytest.mark.parametrize("kind", BROKEN_AUDIO)
def test_broken_audio_that_a_header_shows(kind, data, backbones, caplog):
    """Before anything is trained or decoded; left out and counted with --skip-bad-audio."""
    spoil_it, message, reason = BROKEN_AUDIO[kind]
    spoil_it(data / "dev_1.wav")
    spoil_it(data / "train_2.wav")
    for split, line in (("dev", 3), ("train", 4)):
        with pytest.raises(ManifestError, match=message) as caught:
            load(data, backbones, split)
        assert f"{split}.tsv:{line}: " in str(caught.value) and f"{split}_{line - 2}.wav" in str(caught.value)
        assert "--skip-bad-audio leaves such segments out (1 of 3)" in str(caught.value)
        dataset = load(data, backbones, split, skip_bad_audio=True)
        assert len(dataset) == 2 and dict(dataset.skipped) == {reason: 1}
        assert f"{split}.tsv: 1 segments left out: 1 {reason}" in caplog.text


def test_nan_samples_are_seen_on_reading(data, backbones):
    spoil(data / "dev_1.wav")
    dataset = load(data, backbones)  # the header is right
    with pytest.raises(AudioError, match=r"dev\.tsv:3: .*dev_1\.wav.*NaN or infinite samples"):
        dataset[1]


def test_all_audio_missing_is_an_error_also_with_skipping(data, backbones):
    for i in range(3):
        (data / f"dev_{i}.wav").unlink()
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: .*no such audio file; check the path and the audio root"):
        load(data, backbones, skip_bad_audio=True)


def test_training_stops_before_the_first_update(data, backbones):
    text_named_wav(data / "train_1.wav")
    with pytest.raises(ManifestError, match=r"train\.tsv:3: .*train_1\.wav"):
        run_train(data, backbones, data / "out")
    assert not list((data / "out").glob("*.pt"))


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_other_rates_and_stereo_are_accepted(rate, tmp_path, backbones):
    stereo = 0.1 * np.random.default_rng(1).standard_normal((rate, 2))
    soundfile.write(tmp_path / "stereo.wav", stereo, rate)
    row = {"id": "a", "audio": f"{tmp_path}/stereo.wav:0:{rate // 2}", "n_frames": rate // 2, "tgt_text": TEXT}
    write_tsv(tmp_path / "dev.tsv", [row])
    (dataset,) = [load(tmp_path, backbones)]
    assert dataset[0].source.shape == (8_000,)


def change_manifest(data: Path, change: Callable[[list[list[str]]], Any]) -> None:
    path = data / "dev.tsv"
    table = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    change(table)
    path.write_text("".join("\t".join(row) + "\n" for row in table), encoding="utf-8")


def drop_column(table: list[list[str]]) -> None:
    for row in table:
        del row[1]


def put(line: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    """Write a field; line as an editor counts it."""

    def change(table: list[list[str]]) -> None:
        table[line - 1][column] = value

    return change


BAD_MANIFESTS: dict[str, tuple[Callable[[list[list[str]]], Any], str]] = {
    "missing column": (drop_column, r"dev\.tsv:1: no column audio; found: id, n_frames, tgt_text"),
    "duplicate id": (put(4, 0, "dev_0"), r"dev\.tsv:4: id 'dev_0' was used on line 2 already"),
    "empty id": (put(3, 0, ""), r"dev\.tsv:3: empty id; give every line an id"),
    "a field less": (lambda t: t[2].pop(), r"dev\.tsv:3: 3 fields where the header has 4"),
    "n_frames": (put(3, 2, "a lot"), r"dev\.tsv:3: n_frames is 'a lot', not a whole number"),
    "segment beyond the end": (
        lambda t: put(3, 1, t[2][1] + ":8000:8000")(t),
        r"dev\.tsv:3: .*lies beyond the file, which has 9600 samples",
    ),
    "malformed segment": (lambda t: put(3, 1, t[2][1] + ":8000")(t), r"dev\.tsv:3: .*malformed audio segment"),
    "header only": (lambda t: t.__delitem__(slice(1, None)), r"dev\.tsv:1: holds no segment, only a header"),
    "empty": (lambda t: t.clear(), r"dev\.tsv:1: no column id, audio, n_frames, tgt_text; found: nothing"),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_bad_manifests(kind, data, backbones):
    change, message = BAD_MANIFESTS[kind]
    change_manifest(data, change)
    with pytest.raises(ManifestError, match=message):
        load(data, backbones)


def test_no_such_split(data, backbones):
    with pytest.raises(FileNotFoundError, match=r"tst\.tsv: no such manifest; splits in this folder: dev, train"):
        load(data, backbones, "tst")
    (data / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="splits in this folder: none"):
        load(data / "none", backbones, "tst")


def test_training_mixed_with_another_split(data, backbones):
    with pytest.raises(ValueError, match="train,dev: training splits have names like train"):
        load(data, backbones, "train,dev")


def test_no_such_data_folder(backbones, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder of manifests; prepare the data first"):
        run_train(tmp_path / "nowhere", backbones, tmp_path / "out")


def test_the_data_config_may_be_missing(data, backbones):
    (data / "config.yaml").unlink()
    assert len(load(data, backbones)) == 3
    with pytest.raises(ValueError, match="give --target-lang CODE, or `target_lang: CODE` in the data config"):
        load(data, backbones, prompt=None)  # the default prompt names the language


def test_target_longer_than_the_llms_positions(tmp_path, backbones, caplog):
    """Left out of training, counted; translated all the same when it is a test segment's reference."""
    long = " ".join([TEXT] * 60)
    for split in ("train", "dev", "test"):
        write_split(tmp_path, split, [(0.5, TEXT), (0.6, long)])
    dataset = load(tmp_path, backbones, "train")
    assert dict(dataset.skipped) == {"longer than the LLM's 512 positions": 1} and len(dataset) == 1
    assert "train.tsv: 1 segments left out: 1 longer than the LLM's 512 positions" in caplog.text
    run = run_train(tmp_path, backbones, tmp_path / "out", max_update=1)
    assert sorted(run_generate(tmp_path, run.path(), tmp_path / "out")) == [0, 1]


def no_config(path: Path) -> None:
    (path / "config.json").unlink()


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def no_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


def half_the_weights(path: Path) -> None:
    cut_short(path / "model.safetensors")


def unknown_type(path: Path) -> None:
    (path / "config.json").write_text('{"model_type": "gramophone"}', encoding="utf-8")


def not_json(path: Path) -> None:
    (path / "config.json").write_text("{", encoding="utf-8")


BAD_BACKBONES = [
    ("llm", shutil.rmtree, "--llm .*: no such directory; download the model first and give its local path"),
    ("llm", no_config, r"--llm .*: no config\.json there \(found: .*\); give a save_pretrained directory"),
    ("llm", no_weights, r"--llm .*: no weights there \(\*\.safetensors or pytorch_model\*\.bin\)"),
    ("llm", no_tokenizer, "--llm .*: no tokenizer that transformers can read"),
    ("llm", half_the_weights, r"model\.safetensors: .*truncated.*; copy it again"),
    ("llm", unknown_type, r"--llm .*: transformers cannot read its config\.json: .*gramophone"),
    ("llm", not_json, r"--llm .*: transformers cannot read its config\.json: .*not a valid JSON file"),
    ("speech_encoder", shutil.rmtree, "--speech-encoder .*: no such directory; download the model first"),
    ("speech_encoder", no_config, r"--speech-encoder .*: no config\.json there"),
    ("speech_encoder", no_weights, "--speech-encoder .*: no weights there"),
    ("speech_encoder", half_the_weights, r"model\.safetensors: .*truncated.*; copy it again"),
    (
        "speech_encoder",
        unknown_type,
        "--speech-encoder .*: model type 'gramophone' is not one that serves here; known: ",
    ),
]


@pytest.mark.parametrize(("flag", "break_it", "message"), BAD_BACKBONES)
def test_wrong_backbone_directories(flag, break_it, message, data, backbones):
    copy = shutil.copytree(backbones["llama" if flag == "llm" else "wav2vec2"], data / "copy")
    break_it(copy)
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        load(data, backbones, **{flag: str(copy)})
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speech_encoder": "llama"}, "--speech-encoder .*: model type 'llama' is not one that serves here; known: w"),
        (
            {"llm": "wav2vec2"},
            "--llm .*wav2vec2: no tokenizer that transformers can read; give the directory of an LLM",
        ),
        ({"llm": "wav2vec2", "speech_encoder": "llama"}, "--llm .*wav2vec2: no tokenizer that transformers can read"),
        ({"llm": None}, "--llm is not set: give the directory of a pretrained model"),
        ({"speech_encoder": None}, "--speech-encoder is not set: give the directory of a pretrained model"),
    ],
)
def test_backbones_swapped_or_forgotten(settings, message, data, backbones):
    directories = {flag: name and backbones[name] for flag, name in settings.items()}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(data, backbones, **directories)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "cnn"}, "cnn.*conv"),
        ({"adapter_kernel_sizes": "3,x"}, "3,x"),
        ({"adapter_norm": "batch"}, "batch.*none"),
        (
            {"train_modules": "adapter,encoder"},
            "--train-modules 'adapter,encoder': valid are frontend, adapter, lora, llm, joined",
        ),
        ({"train_modules": ""}, "--train-modules '': valid are frontend, adapter, lora, llm"),
        ({"prompt": "Translate this:"}, r"--prompt 'Translate this:' must contain \{speech\} exactly once"),
        ({"prompt": "{speech} {lang}"}, r"--prompt .*: unknown placeholder \['lang'\]; valid: "),
        ({"prompt": "{speech} {tgt_lang}", "target_lang": "xx"}, "unknown language code 'xx'; known: "),
        ({"max_source_seconds": 600.0}, "--max-source-seconds 600 and the prompt take .* the LLM has 512: lower"),
    ],
)
def test_wrong_settings(settings, message, data, backbones):
    with pytest.raises(ValueError, match=message):
        load(data, backbones, **settings)


def test_a_tokenizer_larger_than_the_llm(data, backbones):
    save_llama(data / "llm", n_unused=0)
    shutil.rmtree(data / "smaller", ignore_errors=True)
    save_llama(data / "smaller", n_unused=-5)
    with pytest.raises(ValueError, match=r"the tokenizer has 70 tokens and the LLM only 65 outputs"):
        load(data, backbones, llm=str(data / "smaller"))
    assert len(load(data, backbones, llm=str(data / "llm")).tgt_dict) == 70


def test_a_flag_that_is_none(data, backbones, capsys):
    with pytest.raises(SystemExit):
        run_train_command(data, backbones, data / "out", "--speech-enkoder", "x")
    assert "unrecognized arguments: --speech-enkoder x" in capsys.readouterr().err
