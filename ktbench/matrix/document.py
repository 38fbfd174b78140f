"""A matrix file as plain values, and the line on which each of them stands.

Scalars follow the core schema of YAML 1.2: only `true` and `false` are booleans (`no` and `off`
are text), `1e-3` is a number, dates are text. A key is always text and may stand once. What readers
of YAML understand differently (`010`, `0x10`) is refused, and so is what no matrix can mean: a
number beyond 64 bits, a character that a terminal acts on, a file without an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ktbench.records import KtbenchError
from ktbench.records.printable import LARGEST, unprintable
from ktbench.system.files import read_regular

KeyPath = tuple[str | int, ...]
MOST_PROBLEMS = 20
MOST_VALUES = 100_000
MOST_BYTES = 1 << 20
"""Of a file: thousands of entries, and read in seconds."""
MOST_DEPTH = 32
"""Lists and mappings within each other; the deepest matrix that means something has ten."""
_LONGEST_KEY = 60
_OTHER_BASE = re.compile(r"[-+]?0[0-9xX].*")


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at a path: of a mapping by key, of a list by position."""

    path: KeyPath
    message: str

    def under(self, *prefix: str | int) -> Problem:
        """The same problem seen from further out."""
        return Problem((*prefix, *self.path), self.message)


@dataclass(frozen=True)
class Branch:
    """A value's line, and the branches below it."""

    line: int
    below: dict[str | int, Branch] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where a matrix came from, to say where a problem is."""

    file: str = "matrix"
    base: str = "."
    """Folder that the matrix's relative paths start from."""
    root: Branch | None = None
    text: str = ""
    """The file's own, as it was read."""

    def error(self, problems: Sequence[Problem]) -> MatrixError:
        """All problems as one error, a line each, in the order of the file; bounded."""
        located = [(*self.place(p.path), p.message) for p in problems]
        located.sort(key=lambda found: found[0])
        lines = []
        for line, where, message in located[:MOST_PROBLEMS]:
            at = f"{self.file}:{line}" if line else self.file
            lines.append(": ".join(part for part in (at, where, message) if part))
        if len(located) > MOST_PROBLEMS:
            lines.append(f"{self.file}: and {len(located) - MOST_PROBLEMS} more problems")
        return MatrixError("\n".join(dict.fromkeys(lines)))

    def place(self, path: KeyPath) -> tuple[int, str]:
        """Line and key path of the nearest value of the file.

        What the short forms leave out is left out here too: the position in a list that has one
        member and no brackets, the word `settings` below an item's name.
        """
        if self.root is None:
            return 0, _written(path)
        branch, found = self.root, []
        for part in path:
            if part in branch.below:
                found.append(part)
            elif part == "settings" and len(branch.below) == 1:
                part = next(iter(branch.below))
                found.append(part)
            else:
                continue
            branch = branch.below[part]
        return branch.line, _written(found)


class MatrixError(KtbenchError):
    """Everything that is wrong with a matrix: one line per problem, with file, line and key."""


def _written(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        key = part if len(part) <= _LONGEST_KEY else f"{part[: _LONGEST_KEY - 1]}…"
        text += f".{key}" if text else key
    return " ".join(text.split())


# ---------------------------------------------------------------- YAML


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
    """The file's top mapping and where its values stand; raises MatrixError."""
    origin = Origin(file=str(path), base=str(path.absolute().parent))
    try:
        origin.base.encode()
    except UnicodeEncodeError as error:
        raise MatrixError(
            f"{path}: its folder's name is not UTF-8 text, as that of records is: rename the folder"
        ) from error
    return parse(_text(path, origin), origin)


def parse(text: str, origin: Origin) -> tuple[dict[str, Any], Origin]:
    """As `read`, of a text."""
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
    except ValueError as error:  # an escape beyond the last character that there is
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
    """Raise MatrixError where lists and mappings stand within each other without end.

    Told by the file's events, as a tree of such depth cannot be put together.
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
        return "a tab stands where only spaces may: indent with spaces"
    if problem.endswith("but got '{'"):
        return f"{problem} {context}: text with {{ in it, such as ${{NAME}}, needs quotes here"
    if context.startswith("while"):
        return f"{problem} {context}"
    return ", ".join(part for part in (context, problem) if part)


def _unusable(node: yaml.Node) -> str | None:
    """Why a scalar's text cannot be meant, or None."""
    if (code := unprintable(node.value)) is not None:
        return f"holds the control character {code}: leave it out"
    if node.tag.endswith(":int") and _OTHER_BASE.fullmatch(node.value):
        return (
            f"must be a number in decimal digits without zeros before it, not {node.value[:40]!r}"
        )
    return None


class _Reader:
    """Turns a node tree into values, and keeps what it cannot take as problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> tuple[Any, Branch]:
        """The value of a node and its lines; aliases are unfolded."""
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MOST_VALUES or id(node) in self._open:
            if self._count <= MOST_VALUES + 1:
                self._count = MOST_VALUES + 2
                self.problems.append(Problem(path, "aliases make the file grow without end"))
            return None, Branch(line)
        if node.tag not in _READ and node.tag not in _COLLECTIONS:
            self.problems.append(Problem(path, f"tag {node.tag} is not taken here"))
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
                self.problems.append(
                    Problem((*path, name), f"stands twice, on lines {first} and {at}")
                )
                continue
            values[name] = value
            below[name] = Branch(at, branch.below)
        for more, branch in merged:
            for name, value in more.items():
                if name not in values:
                    values[name], below[name] = value, branch.below[name]
        return values, Branch(line, below)

    def _merged(self, node: yaml.Node, path: KeyPath) -> list[tuple[dict[str, Any], Branch]]:
        """The mappings that a `<<` key takes in."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found = [self.value(child, path) for child in nodes]
        if not all(isinstance(value, dict) for value, _ in found):
            self.problems.append(Problem(path, "`<<` takes a mapping or a list of mappings"))
        return [(value, branch) for value, branch in found if isinstance(value, dict)]
