"""Text files that people and programs write: read whole, or refused with a reason and a remedy."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

#: A file of more bytes is no text: a manifest of ten million segments has some 3 GB.
MAX_BYTES = 8 << 30
#: The same of what is parsed as a whole, JSON or YAML.
MAX_PARSED = 1 << 28
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Unreadable(ValueError):
    """A text file that cannot be read; the message is ``PATH: REASON``, the reason with a remedy.

    Attributes:
        reason: the message without the path.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_data(
    path: str | Path, remedy: str, what: str = "file", max_bytes: int = MAX_BYTES
) -> bytes:
    """The content of a regular file; pipes and devices, which need not end, are not opened.

    Args:
        path: the file.
        remedy: what to do where there is none.
        what: what it should be, for the message.
        max_bytes: that it may have.

    Raises:
        Unreadable: there is none, or it is something else than a file, or has too many bytes.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise Unreadable(path, f"a folder, where a {what} is needed; name the file itself")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(
                path,
                "a pipe, a device or a socket, which need not end; copy what it gives to a file, "
                "and name that",
            )
        if status.st_size > max_bytes:
            raise Unreadable(path, f"{status.st_size:,} bytes, too many for a {what}; check the path")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Unreadable(path, f"no such {what}; {remedy}") from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path and its permissions"
        raise Unreadable(path, reason) from None


def read_text(path: str | Path, remedy: str) -> str:
    """The text of a UTF-8 file, its line ends as they are.

    Raises:
        Unreadable: the file is not there (the message ends with ``remedy``), no file, or not UTF-8.
    """
    try:
        return read_data(path, remedy).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text ({error.reason} at byte {error.start}); unpack the corpus again"
        raise Unreadable(path, reason) from None


def read_json(path: str | Path, remedy: str, missing: str | None = None) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        remedy: what to do where it is no JSON.
        missing: what to do where there is none, if something else.

    Raises:
        Unreadable: it cannot be read, or is no JSON, or has half of a character in it.
    """
    data = read_data(path, missing or remedy, max_bytes=MAX_PARSED)
    try:
        text = data.decode("utf-8-sig")
        content = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise Unreadable(path, f"nested too deeply; {remedy}") from None
    except ValueError as error:
        raise Unreadable(path, f"no JSON that can be read ({error}); {remedy}") from None
    return content
