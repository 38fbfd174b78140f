"""Prints rooms, arrows and what a reader stumbles on, as imports and docstrings have them.

python scripts/house.py            the counts
python scripts/house.py --list     and what stands behind each of them
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ktbench", "students", "transfer_methods", "devices")
_OPENINGS = """
Of As That What Which Where Who Whom Whose Whether When While How Why Than Beside Without Among
Between Below Above Before After Since Until If Though Because So And Or But Not No Nothing Nobody
None Is Are Was Were Has Have Rather Also
"""
FRAGMENTS = frozenset(_OPENINGS.split())
"""Words with which a first line opens that is neither an imperative nor a noun phrase."""


Count = tuple[str, object, list[str]]
"""A title, its figure, and a line for each thing counted."""


class Module:
    """One file: its dotted name, its tree, and the modules of ours that it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "ktbench" else ("ktbench", *parts)
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        text = path.read_text(encoding="utf-8")
        self.lines = len(text.splitlines())
        self.tree = ast.parse(text)

    @property
    def room(self) -> str:
        """The folder that it lies in, at most two levels down."""
        return "/".join(self.path.relative_to(ROOT).parts[:-1][:2])

    def imports(self) -> set[str]:
        """Dotted names after `import`, and `a.b` as well as `a` of `from a import b`."""
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    package = self.name.split(".")[: None if self.is_package else -1]
                    package = package[: len(package) - node.level + 1]
                    base = ".".join([*package, *([base] if base else [])])
                names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        return names

    def first_lines(self) -> list[tuple[int, str]]:
        """The first line of every docstring, and of every string below an attribute."""
        found = []
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            for inner in body if isinstance(body, list) else ():
                if (
                    isinstance(inner, ast.Expr)
                    and isinstance(inner.value, ast.Constant)
                    and isinstance(inner.value.value, str)
                ):
                    text = inner.value.value.strip()
                    found.append((inner.lineno, text.partition("\n")[0]))
        return found


def modules() -> dict[str, Module]:
    """Every module of the program by its dotted name."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {m.name: m for m in map(Module, sorted(paths))}


def links(house: dict[str, Module]) -> tuple[set[tuple[str, str]], dict[str, set[str]], set[str]]:
    """Arrows between rooms, the importers of each module, and the modules that packages offer."""
    arrows: set[tuple[str, str]] = set()
    importers: defaultdict[str, set[str]] = defaultdict(set)
    faces = set()
    for module in house.values():
        for name in module.imports() & house.keys() - {module.name}:
            if house[name].room != module.room:
                arrows.add((module.room, house[name].room))
            if module.name != name.rpartition(".")[0]:
                importers[name].add(module.name)
            else:
                faces.add(name)
    return arrows, importers, faces


def structure(house: dict[str, Module]) -> Iterator[Count]:
    """Rooms, arrows and files."""
    arrows, importers, faces = links(house)
    rooms = Counter(module.room for module in house.values())
    yield "rooms at the first two levels", len(rooms), [f"{r} ({n})" for r, n in rooms.items()]
    yield "arrows between them", len(arrows), [f"{a} -> {b}" for a, b in sorted(arrows)]
    yield "program files", len(house), []
    yield "lines of program code", sum(m.lines for m in house.values()), []
    single = {
        name: importers[name]
        for name, module in house.items()
        if len(importers[name]) == 1 and name not in faces and not module.is_package
    }
    behind = [f"{name} <- {next(iter(users))}" for name, users in sorted(single.items())]
    yield "modules with one importer and no face", len(single), behind
    names = Counter(name.rpartition(".")[2] for name, m in house.items() if not m.is_package)
    repeated = [f"{name} x{n}" for name, n in names.items() if n > 1]
    yield "file names in several rooms", len(repeated), repeated


def stumbling_blocks(house: dict[str, Module]) -> Iterator[Count]:
    """Docstrings that open as fragments, and long functions."""
    lines = [(m, *line) for m in house.values() for line in m.first_lines()]
    fragments = [
        f"{m.path.relative_to(ROOT)}:{at}: {text}"
        for m, at, text in lines
        if text.split(" ")[0].strip(",:") in FRAGMENTS
    ]
    share = f"{len(fragments)} of {len(lines)} ({100 * len(fragments) / len(lines):.1f} %)"
    yield "first lines that open as fragments", share, fragments
    long = [
        f"{m.path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for m in house.values()
        for node in ast.walk(m.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= 60
    ]
    yield "functions of 60 lines and more", len(long), long


def main() -> None:
    """Print each count, with `--list` also what stands behind it."""
    parser = argparse.ArgumentParser(description="The house as its imports have it.")
    parser.add_argument("--list", action="store_true", help="Print what stands behind each count.")
    listed = parser.parse_args().list
    house = modules()
    for title, value, behind in (*structure(house), *stumbling_blocks(house)):
        print(f"{title}: {value}")
        for line in behind if listed else ():
            print(f"    {line}")


if __name__ == "__main__":
    main()
