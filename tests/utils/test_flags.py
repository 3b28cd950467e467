"""Flags from a dataclass's fields, and the dataclass from them."""

import argparse
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Optional, Union

import pytest

from lst_fairseq.utils.arguments import positive
from lst_fairseq.utils.flags import add_settings, setting, settings_of


@dataclass(frozen=True, kw_only=True)
class Given:
    needed: str = setting("a name")
    folder: Path | None = setting("a folder", None, unset="none at all")
    number: int = setting("a count", 3, flag="--count", type=positive)
    yes: bool = setting("a truth", False)
    pairs: tuple = setting("more", (), nargs="+", type=str)


def parser(**options: object) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_settings(made, Given, **options)
    return made


def test_what_is_given_and_what_is_not():
    args = parser().parse_args(["--needed", "x"])
    assert settings_of(args, Given) == Given(needed="x")
    words = "--needed x --folder a/b --count 5 --yes --pairs a b".split()
    found = settings_of(parser().parse_args(words), Given)
    assert found == Given(needed="x", folder=Path("a/b"), number=5, yes=True, pairs=["a", "b"])
    assert isinstance(found.folder, Path)


def test_other_defaults_and_their_opposites():
    usual = Given(needed="y", yes=True)
    made = parser(defaults=usual)
    assert settings_of(made.parse_args([]), Given) == usual
    assert settings_of(made.parse_args(["--no-yes"]), Given) == Given(needed="y")
    assert settings_of(parser(required=False).parse_args([]), Given).needed is None


def test_help_and_refusals(capsys):
    text = " ".join(parser().format_help().split())
    for part in ("a folder (default: none at all)", "a count (default: 3)", "a truth (default: no)"):
        assert part in text
    assert text.endswith("more")
    for words, said in (([], "required: --needed"), (["--needed", "x", "--count", "0"], "0 is not a")):
        with pytest.raises(SystemExit):
            parser().parse_args(words)
        assert said in capsys.readouterr().err


def test_types_are_read_however_they_are_written(capsys):
    made = parser_of({"a": Optional[int], "b": "float | None", "c": Union[None, Path]}, None)
    args = made.parse_args("--a 3 --b 0.5 --c x".split())
    assert (args.a, args.b, args.c) == (3, 0.5, Path("x"))
    made = parser_of({"a": bool | None}, None)
    assert [made.parse_args(words).a for words in ([], ["--a"], ["--no-a"])] == [None, True, False]
    assert "50 % (default: 5%)" in " ".join(parser_of({"a": str}, "5%", "50 %").format_help().split())
    for kind in (list[str], int | str):
        with pytest.raises(TypeError, match=r"^Made.a: give its setting\(\) a type for "):
            parser_of({"a": kind}, None)


def test_a_field_that_says_nothing_is_named():
    with pytest.raises(TypeError, match=r"^Bare.a: has no setting\(\)"):
        add_settings(argparse.ArgumentParser(), make_dataclass("Bare", [("a", int)]))


def parser_of(types: dict[str, object], default: object, about: str = "") -> argparse.ArgumentParser:
    fields = [(name, kind, setting(about, default)) for name, kind in types.items()]
    made = argparse.ArgumentParser()
    add_settings(made, make_dataclass("Made", fields))
    return made
