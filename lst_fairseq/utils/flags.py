"""Flags of a command from the fields of a dataclass, and the dataclass from what was given: each said once."""

import argparse
import dataclasses
import typing
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


def add_settings(
    parser: Any, settings: type, defaults: object | None = None, required: bool = True
) -> None:
    """Add a flag for each field of a dataclass; one of a truth value has its opposite, too.

    Args:
        parser: or a group of one.
        settings: the dataclass, whose fields are of :func:`setting`.
        defaults: one of it, which has other defaults than its fields.
        required: whether the command needs what has no default.
    """
    for field in dataclasses.fields(settings):
        about = field.metadata
        default = field.default if defaults is None else getattr(defaults, field.name)
        options = {"dest": field.name, "help": about["help"], **about["options"]}
        if default is dataclasses.MISSING:
            options["required"] = required
        else:
            options["default"] = default
            shown = about["unset"] if default is None else default
            if field.type is bool:
                shown = "yes" if default else "no"
            options["help"] += f" (default: {shown})" if shown not in ("", ()) else ""
        if field.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            named = typing.get_args(field.type) or (field.type,)  # "X | None" is read as X
            options.setdefault("type", named[0])
        parser.add_argument(about["flag"] or f"--{field.name.replace('_', '-')}", **options)


def settings_of(args: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The dataclass that the flags of :func:`add_settings` ask for."""
    fields = dataclasses.fields(settings)  # type: ignore[arg-type]
    return settings(**{field.name: getattr(args, field.name) for field in fields})
