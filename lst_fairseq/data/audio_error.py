"""The error of audio that cannot be used, and its most frequent kinds."""

from os import PathLike


class AudioError(ValueError):
    """A file or segment that cannot be used. The message names the file, what is wrong and the remedy.

    ``reason`` is a short name of the kind of failure ("missing file", "beyond the end", ...), for counting.
    """

    # One positional argument is enough to build it: DataLoader workers hand errors on as type(message).
    def __init__(self, message: str, reason: str = "bad audio"):
        super().__init__(message)
        self.reason = reason


def cut_short(path: str | PathLike[str], what: str) -> AudioError:
    """The error of a file that ends before it should; ``what`` tells how that is known."""
    return AudioError(f"{path}: cut short, {what}; copy or convert it again", "truncated file")


def joined(path: str | PathLike[str], name: str, position: int) -> AudioError:
    """The error of files that were put one behind the other; ``name`` is what the second begins with."""
    return beyond_header(
        path,
        f"another file ({name}) begins at byte {position}",
        "join files with a program that knows their format, for example ffmpeg's concat, not byte by byte",
    )


def beyond_header(path: str | PathLike[str], what: str, remedy: str) -> AudioError:
    """The error of a file that holds more audio than would be read; ``what`` tells where."""
    return AudioError(
        f"{path}: holds more audio than its header tells of, which would be lost: {what}; {remedy}",
        "audio beyond the header",
    )
