"""Read a matrix file as plain values, with the line of each.

Scalars follow the core schema of YAML 1.2: only `true` and `false` are booleans (`no` and `off`
are text), `1e-3` is a number, dates are text. A key is always text and may occur once. Numbers
that YAML readers understand differently (`010`, `0x10`) are refused, and so is what no matrix can
mean: a number beyond 64 bits, a terminal control character, unbounded aliases.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ktbench.matrix.file_problems import Branch, KeyPath, MatrixError, Origin, Problem
from ktbench.records.printable import LARGEST, unprintable
from ktbench.system.files import read_regular

MOST_VALUES = 100_000
MOST_BYTES = 1 << 20
"""Largest file: thousands of entries, read in seconds."""
MOST_DEPTH = 32
"""Deepest nesting of lists and mappings; the deepest useful matrix has ten levels."""
_OTHER_BASE = re.compile(r"[-+]?0[0-9xX].*")


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by the core schema of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - declared so by yaml


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )

_READ: dict[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": lambda text: int(text, 16 if "x" in text else 10),
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def read(path: Path) -> tuple[dict[str, Any], Origin]:
    """Return the file's top mapping and the lines of its values; raises MatrixError."""
    origin = Origin(file=str(path), base=str(path.absolute().parent))
    try:
        origin.base.encode()
    except UnicodeEncodeError as error:
        raise MatrixError(
            f"{path}: its folder's name is not UTF-8 text, as that of records is: rename the folder"
        ) from error
    return parse(_text(path, origin), origin)


def parse(text: str, origin: Origin) -> tuple[dict[str, Any], Origin]:
    """Return the top mapping of a text and the lines of its values; raises MatrixError."""
    try:
        _refuse_depth(text, origin)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{origin.file}:{mark.line + 1}" if mark else origin.file
        raise MatrixError(f"{at}: not valid YAML: {_syntax(error)}") from error
    except yaml.YAMLError as error:
        reason, at = getattr(error, "reason", None) or str(error), origin.file
        if isinstance(error, yaml.reader.ReaderError):
            at = f"{at}:{1 + text.count(chr(10), 0, error.position)}"
            reason = f"{reason} (U+{ord(text[error.position]):04X})"
        raise MatrixError(f"{at}: not valid YAML: {reason}") from error
    except RecursionError as error:
        raise MatrixError(
            f"{origin.file}: nested too deeply: {MOST_DEPTH} levels at most"
        ) from error
    except ValueError as error:  # an escape beyond the last character of Unicode
        raise MatrixError(f"{origin.file}: not valid YAML: {error}") from error
    if node is None:
        raise MatrixError(f"{origin.file}: is empty: `ktbench init` writes a starter")
    reader = _Reader()
    value, root = reader.value(node, ())
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "one value"
        raise MatrixError(f"{origin.file}:{root.line}: must be a mapping (key: value), not {kind}")
    origin = Origin(origin.file, origin.base, root, text)
    if reader.problems:
        raise origin.error(reader.problems)
    return value, origin


def _refuse_depth(text: str, origin: Origin) -> None:
    """Raise MatrixError for lists and mappings nested too deeply.

    The parser's events tell, as a tree of such depth cannot be composed.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_DEPTH:
                at = (
                    f"{origin.file}:{event.start_mark.line + 1}"
                    if event.start_mark
                    else origin.file
                )
                raise MatrixError(f"{at}: nested too deeply: {MOST_DEPTH} levels at most")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _text(path: Path, origin: Origin) -> str:
    try:
        return read_regular(path, limit=MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise MatrixError(
            f"{path}: no such file: name a matrix, or write a starter with `ktbench init`"
        ) from error
    except IsADirectoryError as error:
        raise MatrixError(f"{path}: is a folder: name the matrix file in it") from error
    except UnicodeDecodeError as error:
        raise MatrixError(
            f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise MatrixError(f"{path}: cannot be read: {error.strerror}") from error


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    if "'\\t'" in problem:
        return "a tab is used for indentation: use spaces"
    if problem.endswith("but got '{'"):
        return f"{problem} {context}: text with {{ in it, such as ${{NAME}}, needs quotes here"
    if context.startswith("while"):
        return f"{problem} {context}"
    return ", ".join(part for part in (context, problem) if part)


def _unusable(node: yaml.Node) -> str | None:
    """Say why a scalar's text is refused, or None."""
    if (code := unprintable(node.value)) is not None:
        return f"holds the control character {code}: leave it out"
    if node.tag.endswith(":int") and _OTHER_BASE.fullmatch(node.value):
        return (
            f"must be a number in decimal digits without zeros before it, not {node.value[:40]!r}"
        )
    return None


class _Reader:
    """Turns a node tree into values, and collects what is refused as problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> tuple[Any, Branch]:
        """Return the value of a node and its lines; aliases are expanded."""
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MOST_VALUES or id(node) in self._open:
            if self._count <= MOST_VALUES + 1:
                self._count = MOST_VALUES + 2
                self.problems.append(Problem(path, "aliases make the file grow without end"))
            return None, Branch(line)
        if node.tag not in _READ and node.tag not in _COLLECTIONS:
            self.problems.append(Problem(path, f"tag {node.tag} is not supported"))
            return None, Branch(line)
        if len(path) > MOST_DEPTH:
            message = f"nested too deeply: {MOST_DEPTH} levels at most"
            self.problems.append(Problem(path[:4], message))
            return None, Branch(line)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path, line)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path, line)
            return self._scalar(node, path), Branch(line)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        if (reason := _unusable(node)) is not None:
            self.problems.append(Problem(path, reason))
            return None
        try:
            value = _READ[node.tag](node.value)
        except (KeyError, ValueError):
            self.problems.append(Problem(path, "is not a number that can be used"))
            return None
        if isinstance(value, int) and abs(value) > LARGEST:
            self.problems.append(Problem(path, "is a whole number beyond 64 bits"))
            return None
        return value

    def _sequence(self, node: yaml.Node, path: KeyPath, line: int) -> tuple[Any, Branch]:
        pairs = [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        below: dict[str | int, Branch] = {i: branch for i, (_, branch) in enumerate(pairs)}
        return [value for value, _ in pairs], Branch(line, below)

    def _mapping(self, node: yaml.Node, path: KeyPath, line: int) -> tuple[Any, Branch]:
        values: dict[str, Any] = {}
        below: dict[str | int, Branch] = {}
        merged: list[tuple[dict[str, Any], Branch]] = []
        for key, child in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merged += self._merged(child, path)
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(path, "a key must be text"))
                continue
            name = str(key.value)
            if (code := unprintable(name)) is not None:
                message = f"a key holds the control character {code}: leave it out"
                self.problems.append(Problem(path, message))
                continue
            value, branch = self.value(child, (*path, name))
            at = key.start_mark.line + 1
            if name in values:
                first = below[name].line
                message = f"is given twice, on lines {first} and {at}"
                self.problems.append(Problem((*path, name), message))
                continue
            values[name] = value
            below[name] = Branch(at, branch.below)
        for more, branch in merged:
            for name, value in more.items():
                if name not in values:
                    values[name], below[name] = value, branch.below[name]
        return values, Branch(line, below)

    def _merged(self, node: yaml.Node, path: KeyPath) -> list[tuple[dict[str, Any], Branch]]:
        """Return the mappings that a `<<` key merges."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [self.value(child, path) for child in nodes]
        if not all(isinstance(value, dict) for value, _ in values):
            self.problems.append(Problem(path, "`<<` takes a mapping or a list of mappings"))
        return [(value, branch) for value, branch in values if isinstance(value, dict)]
