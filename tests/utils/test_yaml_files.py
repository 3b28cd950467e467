"""yaml_files.py: what cannot be read is one line with the file, and language codes stay texts."""

import pytest
import yaml

from lst_fairseq.corpora.preparation import write_config
from lst_fairseq.data.data_cfg import LstDataConfig
from lst_fairseq.utils.yaml_files import YamlError, quoted, read_yaml

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("code", ["no", "on", "off", "yes", "y", "n", "null", "1e3", "de", "zh-CN", "~", "a'b\"c"])
def test_language_codes_are_written_as_texts(tmp_path, code):
    write_config(tmp_path, code)
    assert LstDataConfig(tmp_path / "config.yaml").target_lang == code
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["target_lang"] == code
    assert yaml.safe_load(quoted(code)) == code


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("target_lang: no\n", r"`target_lang` is read as false, since YAML takes no, off or false .*: quote it"),
        ("source_lang: on\n", r"`source_lang` is read as true"),
        ("prompt: 5\n", r"`prompt` is read as the number 5: quote it"),
        ("audio_root: [a]\n", r"`audio_root` is \['a'\]: give a text"),
        ("instructions: {st: 5}\n", r"`instructions` of task 'st': a text is read as the number 5"),
        ("instructions: {no: de}\n", r"`instructions` of task False: a text is read as false"),
        ("instructions: {st: [a, no]}\n", r"`instructions` of task 'st': a text is read as false"),
        ("instructions: [a]\n", r"`instructions` is a mapping from tasks to texts"),
        ("waveform_transforms: 5\n", r"`waveform_transforms` is a mapping from subsets to transforms"),
        ("feature_transforms: {'*': 5}\n", "`feature_transforms` of '.': give a list of names, not 5"),
        ("feature_transforms: {_train: [abc]}\n", "no transform is called 'abc'; there are: .*specaugment"),
        ("feature_transforms: {_train: [[]]}\n", "no transform is called "),
        ("waveform_transforms: {_train: [musicaugment]}\nmusicaugment: 5\n", "`musicaugment`: give its settings"),
        ("- a\n", "not settings, one `name: value` a line"),
        ("a: [\n", "not YAML"),
    ],
)
def test_settings_that_are_not_of_their_type_are_refused(tmp_path, config, message):
    path = tmp_path / "config.yaml"
    path.write_text(config, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        LstDataConfig(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_null_is_no_setting(tmp_path):
    (tmp_path / "config.yaml").write_text("target_lang:\nprompt: null\ninstructions: ~\n", encoding="utf-8")
    config = LstDataConfig(tmp_path / "config.yaml")
    assert config.target_lang is config.prompt is config.instructions is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 2\na: 3\n", "s.yaml:3: a stands twice"),
        (b"a: &a [*a]\n", "s.yaml:1: an alias of what it stands in"),
        (BOMB.encode(), "more than 100,000 entries"),
        (b"a:\n\tb: 1\n", "s.yaml:2: not YAML"),
        (b"a: \x01\n", "s.yaml: not YAML .*; mend it there"),
        (b"a: \xff\n", "not UTF-8 text"),
        (b"a: *b\n", "s.yaml:1: not YAML"),
        (b"a: 2026-13-45\n", "a value that cannot be read"),
        (b"a: !!python/object/apply:os.system [id]\n", "s.yaml:1: not YAML"),
        (b"[" * 1_000, "nested too deeply"),
        (b"? [a]\n: 1\n", "s.yaml:1: not YAML"),
    ],
    ids=range(11),
)
def test_broken_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(YamlError, match=message) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(YamlError, match="no such file; look elsewhere"):
        read_yaml(tmp_path / "none.yaml", "look elsewhere")
    with pytest.raises(YamlError, match="a folder, where a file is needed"):
        read_yaml(tmp_path)
    (tmp_path / "empty.yaml").touch()
    assert read_yaml(tmp_path / "empty.yaml") is None
