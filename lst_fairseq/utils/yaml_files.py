"""YAML files that people write: read as data, with one line that says what is wrong with them."""

from pathlib import Path
from typing import Any

import yaml

from lst_fairseq.utils.messages import one_line
from lst_fairseq.utils.text_files import Unreadable, read_data

#: Entries that a file may come to, what its aliases stand for counted each time.
MAX_ENTRIES = 100_000
#: Bytes that it may have.
MAX_BYTES = 1 << 24
_Loader = yaml.SafeLoader


class YamlError(ValueError):
    """A YAML file that cannot be read; the message begins with the file, and the line where there is one."""


def read_yaml(path: str | Path, remedy: str = "check the path") -> Any:
    """A YAML file's content in plain types.

    Args:
        path: the file.
        remedy: what to do where there is none.

    Raises:
        YamlError: no such file, not UTF-8, not YAML, a key that stands twice, or aliases that come to too much.
    """
    try:
        text = read_data(path, remedy, max_bytes=MAX_BYTES).decode("utf-8-sig")
    except Unreadable as error:
        raise YamlError(str(error)) from None
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, str(path))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        at = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"{path}{at}: not YAML ({problem}); indent by spaces and quote texts") from None
    except yaml.YAMLError as error:
        reason = one_line(error, 200)
        raise YamlError(f"{path}: not YAML ({reason}); mend it there, or copy the file again") from None
    except RecursionError:
        raise YamlError(f"{path}: nested too deeply; write it flatter") from None
    except YamlError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # a date or a number that is none
        raise YamlError(f"{path}: a value that cannot be read ({error}); quote it if it is a text") from None


def _check(root: yaml.Node, path: str) -> None:
    """Refuse keys that stand twice, aliases of what they stand in, and aliases of aliases without end."""
    sizes: dict[yaml.Node, int] = {}
    open_nodes: set[yaml.Node] = set()

    def size(node: yaml.Node) -> int:
        if node in sizes:
            return sizes[node]
        where = f"{path}:{node.start_mark.line + 1}"
        if node in open_nodes:
            raise YamlError(f"{where}: an alias of what it stands in; write the entries out")
        open_nodes.add(node)
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise YamlError(
                            f"{path}:{key.start_mark.line + 1}: {key.value} stands twice, and the first would be lost; "
                            "leave one out"
                        )
                    seen.add(key.value)
                inner += (key, value)
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        sizes[node] = 1 + sum(map(size, inner))
        if sizes[node] > MAX_ENTRIES:
            raise YamlError(f"{where}: more than {MAX_ENTRIES:,} entries, with those that aliases repeat; write less")
        open_nodes.remove(node)
        return sizes[node]

    size(root)


def not_a_text(value: Any) -> str:
    """Why a value that should be a text is none, and the remedy, to follow its name: ``is read as false; ...``."""
    if isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        return f"is read as {str(value).lower()}, since YAML takes {words} without quotes so: quote it"
    if isinstance(value, int | float):
        return f"is read as the number {value}: quote it"
    return f"is {value!r}: give a text, in quotes"


def quoted(text: str) -> str:
    """A text as YAML, always in quotes, so that no, on and 5 stay texts."""
    return yaml.safe_dump(text, default_style='"', width=2**20, allow_unicode=True).strip()
