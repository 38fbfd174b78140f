"""Damaged matrices, drawn from a seed: what people, editors and programs make of a good one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

Path = tuple[str | int, ...]

EXTREMES: tuple[Any, ...] = (
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**63,
    10**30,
    -(2**70),
    10**400,
    0.0,
    -0.5,
    1e-300,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
    1.5,
    True,
    False,
    None,
    "",
    " ",
    "none",
    "null",
    [],
    {},
    [[]],
    [{}],
    {"": None},
    {"a": {"b": {"c": 1}}},
    [1, 2, 3],
    ["a", 1, None],
    "~",
    "x" * 300,
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "/dev/null",
    "/",
    ".",
    "..",
    "~",
    "a\0b",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "tab\tinside",
    "line\nbreak",
    "\u202edrawkcab",
    "ünïcödé 日本語 🙂",
    "e\u0301",
    "\ud800",
    "\ufeffbom",
    "\u2028",
    "$HOME",
    "${HOME}",
    "${NOT_THERE}",
    "$(reboot)",
    "`id`",
    "; ls",
    "%s%n",
    "{}",
    "*",
    "?",
    "[",
    "[!",
    "CON",
    "nul.txt",
    "trailing ",
    "trailing.",
    "-leading",
    "1_0",
    "0x10",
    "1:30",
    "2024-01-01",
    "yes",
    "off",
    "inf",
    "nan",
    "1e400",
    "12e03",
    "own.py:Net",
    ":",
    "a:b",
    "os:system",
    "os.path:join",
    "no_such_file.py:Net",
    "file.py:",
    ":Net",
    "resnet8:",
    "local",
    "none",
    list(range(300)),
    [0] * 50,
    {"resnet8": None},
    {"resnet8": []},
    {"kd": {"temperature": [1, 2, 4]}},
    {"resnet8": {"width": [0.1, 0.2, 0.5]}},
    {"resnet8": {"width": 10**6}},
    {"resnet8": {"width": -1}},
    {"vgg_thin": {"width": 1e9}},
    {"ssh": {"host": "user@host:22"}},
    {"ssh": {"host": "ssh://pi"}},
    {"ssh": {"host": "-oProxyCommand=true"}},
    {"local": {"threads": 10**9}},
    {"local": {"repeats": 10**9}},
)
"""Values that mean something else than their place, or nothing, or far too much."""

RAW: tuple[tuple[str, str], ...] = (
    ("true", "yes"),
    (": ", ":"),
    (": ", " : "),
    ("- ", "-"),
    ("  ", "\t"),
    ("[", "[["),
    ("]", ""),
    ("{", ""),
    ("}", "}}"),
    (", ", ",, "),
    ("\n", "\n\n---\n"),
    ("\n", "\r\n"),
    ("\n", "\r"),
    (":", "："),
    (" ", "\u00a0"),
    ("1", "１"),
    ("\n", "\n%YAML 1.1\n"),
    (": ", ": !!python/object:os.system "),
    (": ", ": !!binary "),
    (": ", ": !!set "),
    (": ", ": &a "),
    (": ", ": *a"),
    (": ", ": |\n"),
    (": ", ": >-\n"),
    (": ", ": '"),
    (": ", ': "'),
    ("\n", "\n? "),
    ("\n", "\n<<: "),
    ("\n", "\n<<: *a\n"),
    ("#", "\\"),
    ("\n", "\n#"),
    ("\n", "\x00\n"),
    ("\n", "\x85"),
    ("\n", "\x0b"),
    ("e", "\x1b"),
    ("a", "\ud83d"),
)
"""What replaces what in the text of a file, somewhere."""


def mutants(text: str, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` damaged copies of a good matrix's text, the same for the same seed."""
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        yield _damage(text, draw)


def _damage(text: str, draw: random.Random) -> bytes:
    if draw.random() < 0.25:
        return _as_bytes(_raw(text, draw), draw)
    values = yaml.safe_load(text)
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice(_TREE)(values, draw)
    try:
        said = yaml.safe_dump(values, sort_keys=False, allow_unicode=draw.random() < 0.5)
    except yaml.YAMLError:
        said = repr(values)
    return _as_bytes(said, draw)


def _as_bytes(text: str, draw: random.Random) -> bytes:
    """Encode a text, most of the time as UTF-8."""
    way = draw.random()
    if way < 0.94:
        return text.encode("utf-8", "surrogatepass" if way < 0.5 else "replace")
    if way < 0.96:
        return text.encode("utf-16", "replace")
    if way < 0.98:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "replace")
    return text.encode("latin-1", "replace") + b"\xff"


def _raw(text: str, draw: random.Random) -> str:
    """Damage characters, move lines, or write whole parts of a text in another way."""
    way = draw.randrange(7)
    if way == 0:
        cut = draw.randrange(len(text))
        return text[:cut]
    if way == 1:
        at = draw.randrange(len(text))
        return text[:at] + draw.choice("\t\x00\x1b[]{}:,&*!|>'\"%@`#-? \n\ufeff🙂") + text[at:]
    if way == 2:
        lines = text.splitlines(keepends=True)
        draw.shuffle(lines)
        return "".join(lines)
    if way == 3:
        lines = text.splitlines(keepends=True)
        at = draw.randrange(len(lines))
        return "".join([*lines[:at], draw.choice((" ", "  ", "\t", "- ")) + lines[at], *lines[at:]])
    if way == 4:
        deep = draw.choice((10, 40, 500, 5000))
        return text + "extra: " + draw.choice(("[", "{a: ", "- ")) * deep + "\n"
    if way == 5:
        laughs = ["a0: &a0 [x, x, x]"] + [
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)
        ]
        return text + "\n".join(laughs) + "\n"
    old, new = draw.choice(RAW)
    places = [i for i in range(len(text)) if text.startswith(old, i)]
    if not places:
        return text + new
    at = draw.choice(places)
    return text[:at] + new + text[at + len(old) :]


# ---------------------------------------------------------------- damage to the values


def _paths(values: Any, path: Path = ()) -> list[Path]:
    found = [path]
    if isinstance(values, dict):
        for key, inner in values.items():
            found += _paths(inner, (*path, key))
    elif isinstance(values, list):
        for number, inner in enumerate(values[:50]):
            found += _paths(inner, (*path, number))
    return found


def _at(values: Any, path: Path) -> Any:
    for part in path:
        values = values[part]
    return values


def _some(values: Any, draw: random.Random) -> tuple[Any, str | int]:
    """Draw a container and a key or position in it."""
    paths = [path for path in _paths(values) if path]
    if not paths:
        values.update({"name": "x"}) if isinstance(values, dict) else None
        return values, "name"
    path = draw.choice(paths)
    return _at(values, path[:-1]), path[-1]


def _set(values: Any, draw: random.Random) -> None:
    holder, key = _some(values, draw)
    holder[key] = copy.deepcopy(draw.choice(EXTREMES))


def _delete(values: Any, draw: random.Random) -> None:
    holder, key = _some(values, draw)
    del holder[key]


def _list_of(values: Any, draw: random.Random) -> None:
    holder, key = _some(values, draw)
    inner = holder[key]
    holder[key] = draw.choice(
        (
            [inner],
            [inner, inner],
            [[inner]],
            {"name": inner},
            {str(inner)[:40]: inner},
            [inner] * 40,
        )
    )


def _retype(values: Any, draw: random.Random) -> None:
    holder, key = _some(values, draw)
    inner = holder[key]
    holder[key] = draw.choice(
        (str(inner), [str(inner)], bool(inner), repr(inner)[:50], {"x": inner})
    )


def _swap(values: Any, draw: random.Random) -> None:
    (one, a), (other, b) = _some(values, draw), _some(values, draw)
    one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])


def _rename(values: Any, draw: random.Random) -> None:
    holder, key = _some(values, draw)
    if isinstance(holder, dict):
        holder[_typo(str(key), draw)] = holder.pop(key)
    elif isinstance(holder[key], str):
        holder[key] = _typo(holder[key], draw)


def _typo(word: str, draw: random.Random) -> str:
    at = draw.randrange(len(word) + 1)
    return draw.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + draw.choice("aeé_-.: 0") + word[at:],
            word.upper(),
            word + word,
            word[::-1],
            f" {word} ",
            word.replace("e", "\u0435"),
        )
    )


def _add(values: Any, draw: random.Random) -> None:
    """Add a key that belongs to another place, or to none."""
    holders = [_at(values, path) for path in _paths(values)]
    holders = [holder for holder in holders if isinstance(holder, dict | list)]
    if not holders:
        return
    holder, value = draw.choice(holders), copy.deepcopy(draw.choice(EXTREMES))
    if isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), value)
        return
    keys = [str(path[-1]) for path in _paths(values) if path] + list(_KEYS)
    holder[draw.choice(keys)] = value


_KEYS = (
    "name",
    "data",
    "teachers",
    "students",
    "methods",
    "seeds",
    "views",
    "budget",
    "distill",
    "train",
    "teacher",
    "blockwise",
    "numeric",
    "exports",
    "devices",
    "include",
    "exclude",
    "epochs",
    "lr",
    "threads",
    "image_size",
    "crop_padding",
    "checkpoint",
    "of",
    "sample",
    "width",
)


def _deepen(values: Any, draw: random.Random) -> None:
    holder, key = _some(values, draw)
    inner = holder[key]
    for _ in range(draw.choice((3, 20, 60))):
        inner = [inner] if draw.random() < 0.5 else {"a": inner}
    holder[key] = inner


_TREE: tuple[Callable[[Any, random.Random], None], ...] = (
    _set,
    _set,
    _set,
    _delete,
    _list_of,
    _retype,
    _swap,
    _rename,
    _add,
    _deepen,
)
