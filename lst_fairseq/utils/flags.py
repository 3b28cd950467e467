"""Flags of a command from the fields of a dataclass, and the dataclass from what was given: each said once."""

import argparse
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def setting(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    flag: str | None = None,
    unset: str = "",
    **options: Any,
) -> Any:
    """A field of which :func:`add_settings` makes a flag.

    Args:
        help: what the flag does.
        default: of the field, which is required without one.
        flag: its name, if not the field's.
        unset: what ``None`` means.
        options: more for argparse: ``type`` if not the field's, ``choices``, ``metavar``.
    """
    about = {"help": help, "flag": flag, "unset": unset, "options": options}
    return dataclasses.field(default=default, metadata=about)


class _Switch(argparse.BooleanOptionalAction):
    """As its base, which on Python 3.10 adds the default to the help by itself."""

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any):
        super().__init__(*args, help=help, **kwargs)
        self.help = help


def add_settings(
    parser: Any, settings: type, defaults: object | None = None, required: bool = True
) -> None:
    """Add a flag for each field of a dataclass; one of a truth value has its opposite, too.

    Args:
        parser: or a group of one.
        settings: the dataclass, whose fields are of :func:`setting`.
        defaults: one of it, which has other defaults than its fields.
        required: whether the command needs what has no default.

    Raises:
        TypeError: a field without setting(), or of a type that does not tell how its text is read.
    """
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        about, hint = field.metadata, hints[field.name]
        if "help" not in about:
            raise TypeError(
                f"{settings.__name__}.{field.name}: has no setting(), which says what it is"
            )
        default = field.default if defaults is None else getattr(defaults, field.name)
        options = {"dest": field.name, "help": about["help"], **about["options"]}
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        kinds = [each for each in kinds if each is not type(None)]  # "X | None" is read as X
        if kinds == [bool]:
            options["action"] = _Switch
        elif len(kinds) == 1 and kinds[0] in (str, int, float, Path):
            options.setdefault("type", kinds[0])
        elif "type" not in options:
            raise TypeError(
                f"{settings.__name__}.{field.name}: give its setting() a type for {hint}"
            )
        if default is dataclasses.MISSING:
            options["required"] = required
        else:
            options["default"] = default
            shown = about["unset"] if default is None else default
            shown = {True: "yes", False: "no"}[shown] if kinds == [bool] and shown != "" else shown
            options["help"] += f" (default: {shown})" if shown not in ("", ()) else ""
        options["help"] = options["help"].replace("%", "%%")
        parser.add_argument(about["flag"] or f"--{field.name.replace('_', '-')}", **options)


def settings_of(args: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The dataclass that the flags of :func:`add_settings` ask for."""
    fields = dataclasses.fields(settings)  # type: ignore[arg-type]
    return settings(**{field.name: getattr(args, field.name) for field in fields})
