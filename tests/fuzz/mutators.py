"""Damage to bytes, to text and to trees of settings, by the generator that is given."""

from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

# --- bytes ----------------------------------------------------------------------------------------


def flip(data: bytearray, rng: Random) -> str:
    """Flip one to eight bits."""
    places = [rng.randrange(len(data)) for _ in range(rng.choice((1, 1, 2, 8)))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    return f"bits flipped at {places}"


def flip_early(data: bytearray, rng: Random) -> str:
    """Flip a bit among the first bytes, where headers are."""
    place = rng.randrange(min(256, len(data)))
    data[place] ^= 1 << rng.randrange(8)
    return f"a bit flipped at {place}"


def cut(data: bytearray, rng: Random) -> str:
    """Keep the beginning."""
    end = rng.randrange(len(data))
    del data[end:]
    return f"cut at {end}"


def cut_out(data: bytearray, rng: Random) -> str:
    """Lose a stretch in the middle."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    del data[start:end]
    return f"bytes {start} to {end} lost"


def zero(data: bytearray, rng: Random) -> str:
    """Zeros in place of a stretch, as a file system leaves them."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    data[start:end] = bytes(end - start)
    return f"bytes {start} to {end} zero"


def double(data: bytearray, rng: Random) -> str:
    """A stretch twice."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    data[end:end] = data[start:end]
    return f"bytes {start} to {end} twice"


def swap(data: bytearray, rng: Random) -> str:
    """Two stretches of equal length change places."""
    size = max(1, len(data) // rng.choice((4, 16, 256)))
    a, b = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return f"{size} bytes at {a} and {b} swapped"


def extreme_integer(data: bytearray, rng: Random) -> str:
    """An extreme number where a field of the header may be."""
    size = rng.choice((1, 2, 4, 8))
    place = rng.randrange(max(1, min(len(data) - size, rng.choice((64, 256, len(data))))))
    top = 1 << 8 * size
    number = rng.choice((0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, top // 16))
    data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
    return f"{number} in {size} bytes at {place}"


def not_utf8(data: bytearray, rng: Random) -> str:
    """Bytes that no UTF-8 text holds."""
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.choice((b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\x00", b"\xfe\xff"))
    return f"no UTF-8 at {place}"


def append(data: bytearray, rng: Random) -> str:
    """Something behind the end."""
    more = rng.choice(
        (bytes(rng.randrange(1, 4096)), rng.randbytes(rng.randrange(1, 4096)), b"\n" * 10)
    )
    data += more
    return f"{len(more)} bytes behind the end"


BYTES: tuple[Callable[[bytearray, Random], str], ...] = (
    *(flip, flip_early, cut, cut_out, zero, double, swap, extreme_integer, not_utf8, append),
)


def damaged(data: bytes, rng: Random) -> tuple[bytes, str]:
    """One kind of damage, and what it was; an empty file stays one."""
    changed = bytearray(data)
    if not changed:
        return data, "empty"
    said = rng.choice(BYTES)(changed, rng)
    return bytes(changed), said


# --- trees of settings ----------------------------------------------------------------------------


def hostile(marker: str) -> tuple[str, ...]:
    """Texts that write the marker file, or show the secret, where anything evaluates them."""
    return (
        f"__import__('pathlib').Path('{marker}').write_text('ran')",
        f"[(512, 10, 5)] + [__import__('os').system('touch {marker}')]",
        f"$(touch {marker})",
        f"`touch {marker}`",
        f"x[$(touch {marker})0]",
        f"1; touch {marker} #",
        f"'; touch {marker}; '",
        f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}",
        "${oc.env:LST_FUZZ_SECRET}",
        "${LST_FUZZ_SECRET}",
        "$LST_FUZZ_SECRET",
        "${task.data}",
        "${oc.decode:1}",
        "???",
    )


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.5),
    *(1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), "", " ", "abc", "1", "-1", "no", "1e9", "nan", "\x00"),
    *("a\nb", "a\tb", "\u2028"),
    *("../../x", "/dev/zero", "/dev/null", "/none", "~", "x" * 100_000, "é" * 300),
    *("%s%n{0}{x}", "<b>&amp;`|*"),
    *([], {}, [None], {"a": 1}, [[[[1]]]], [1] * 1000, {"": ""}, "2026-01-01", [float("nan")]),
)


def odd_value(rng: Random, marker: str) -> Any:
    """A value that few settings take."""
    return rng.choice(hostile(marker)) if rng.random() < 0.25 else deepcopy(rng.choice(ODD))


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all nodes below the root."""
    if isinstance(tree, dict):
        entries = list(tree.items())
    elif isinstance(tree, list):
        entries = list(enumerate(tree))
    else:
        return []
    return [
        found for key, value in entries for found in [(*path, key), *places(value, (*path, key))]
    ]


def node(tree: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        tree = tree[key]
    return tree


def changed_tree(tree: Any, rng: Random, marker: str) -> tuple[Any, str]:
    """A copy of a tree of dicts and lists with one thing changed, and what it was."""
    found = places(tree)
    if not found or rng.random() < 0.03:
        value = odd_value(rng, marker)
        return value, f"the whole is {value!r:.60}"
    tree = deepcopy(tree)
    path = rng.choice(found)
    holder, key, name = node(tree, path[:-1]), path[-1], ".".join(map(str, path))
    what = rng.choice(("replace", "replace", "replace", "replace", "delete", "add", "swap", "wrap"))
    if what == "delete":
        del holder[key]
        return tree, f"{name} deleted"
    if what == "swap":
        other = rng.choice(found)
        try:
            value = deepcopy(node(tree, other))
        except (KeyError, IndexError, TypeError):
            value = None
        holder[key] = value
        return tree, f"{name} is as {'.'.join(map(str, other))}"
    if what == "wrap":
        holder[key] = [holder[key]]
        return tree, f"{name} in a list"
    value = odd_value(rng, marker)
    if what == "add" and isinstance(holder, dict):
        new = rng.choice(("_target_", "_name", "no_such_entry", "", "data", "format", "__class__"))
        holder[new] = value
        return tree, f"{'.'.join(map(str, (*path[:-1], new)))} added as {value!r:.60}"
    holder[key] = value
    return tree, f"{name} is {value!r:.60}"


def deep_text(rng: Random) -> str:
    """JSON and YAML that are nested beyond reason, or grow when they are read."""
    depth = rng.choice((100, 5_000, 100_000))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi")
    )
    return rng.choice(
        (
            "[" * depth,
            '{"a":' * depth,
            "- " * depth,
            bomb,
            "a: *nowhere",
            "? " * depth,
            "!!python/none",
        )
    )
