"""Load a user's own file with its neighbours, and digest all files that it consists of.

A file is loaded as a script is: `import blocks` finds `blocks.py` beside it, now or in a function
that is called later, and `from .blocks import X` works too. Nothing is put on `sys.path`: each
folder's modules have a name of their own, so that equally named neighbours of two files are two
modules, and the rest of the program imports what is installed, as before.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ktbench.records import digest_of

PREFIX = "ktbench_own_"
_LATE_IMPORTS = ("import_module", "__import__")


@dataclass(frozen=True)
class Place:
    """Location of a file among its neighbours."""

    path: Path
    """Absolute path of the file."""

    @property
    def folder(self) -> Path:
        """Folder of the file, where absolute imports look first."""
        return self.path.parent

    @property
    def root(self) -> Path:
        """Folder that holds the outermost package around the file; else the file's folder."""
        root = self.folder
        while (root / "__init__.py").is_file() and root.parent != root:
            root = root.parent
        return root

    @property
    def top(self) -> str:
        """Name of the package that stands for `root` in `sys.modules`."""
        return f"{PREFIX}{digest_of(str(self.root))}"

    @property
    def package(self) -> str:
        """Name of the package that the file is a member of."""
        return ".".join((self.top, *self.folder.relative_to(self.root).parts))

    @property
    def name(self) -> str:
        """Module name of the file, made up where its stem is no identifier."""
        stem = self.path.stem
        if not stem.isidentifier() or stem == "__init__":
            stem = f"file_{digest_of(stem)}"
        return f"{self.package}.{stem}"

    def package_of(self, top_level: str) -> str | None:
        """Return the package in which a top-level name is looked up, or None for other names.

        A folder that is no package counts only where nothing of its name is installed, so that
        a folder of data called like a library does not hide it.
        """
        for folder, package in ((self.folder, self.package), (self.root, self.top)):
            if any((folder / f"{top_level}{end}").is_file() for end in _SUFFIXES):
                return package
            if (folder / top_level / "__init__.py").is_file():
                return None if _is_ktbench(folder, top_level) else package
        for folder, package in ((self.folder, self.package), (self.root, self.top)):
            if (folder / top_level).is_dir() and not _installed(top_level):
                return package
        return None


_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)


def _is_ktbench(folder: Path, top_level: str) -> bool:
    """Return True for ktbench's own package: a file in its checkout gets no second copy of it."""
    if top_level != "ktbench":
        return False
    spec = importlib.util.find_spec(top_level)
    places = (spec and spec.submodule_search_locations) or ()
    return (folder / top_level).resolve() in (Path(place).resolve() for place in places)


def _installed(top_level: str) -> bool:
    try:
        return top_level in sys.modules or importlib.util.find_spec(top_level) is not None
    except (ImportError, ValueError):
        return False


# ---------------------------------------------------------------- loading


def load(path: Path) -> ModuleType:
    """Load the module of a file, once per process; raises what the file raises."""
    place = Place(path)
    if place.name in sys.modules:
        return sys.modules[place.name]
    _prepare(place)
    loader = _Loader(place.name, str(path))
    spec = importlib.util.spec_from_loader(place.name, loader, origin=str(path))
    assert spec is not None
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(place.name, None)
        raise
    return module


def _prepare(place: Place) -> None:
    """Register the package of the file's folder, so that imports find it."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if place.top not in sys.modules:
        package = ModuleType(place.top)
        package.__path__ = [str(place.root)]
        sys.modules[place.top] = package


class _Finder:
    """Finds the modules of users' folders, and no others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if not name.startswith(PREFIX) or path is None:
            return None
        details = ((_Loader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES))
        for folder in path:
            spec = FileFinder(folder, *details).find_spec(name)
            if spec is not None:
                return spec
        return None


class _Loader(SourceFileLoader):
    """Runs a file whose import statements look among its neighbours first."""

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`.

        A function looks its builtins up in its module, so that an import within a function finds
        the neighbours whenever it is called.
        """
        importer = _Importer(Place(Path(self.path)))
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importer}
        super().exec_module(module)

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the file as it is now, without a bytecode cache beside it."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


@dataclass(frozen=True)
class _Importer:
    """Replaces `__import__` in a user's module."""

    place: Place

    def __call__(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: dict[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        package = None if level else self.place.package_of(name.partition(".")[0])
        if package is None:
            return __import__(name, globals, locals, fromlist or (), level)
        within = {"__package__": package, "__name__": package}
        return __import__(name, within, None, fromlist or (), 1)


# ---------------------------------------------------------------- digest


def digest(path: Path) -> str:
    """Digest a file and the neighbours that it imports, directly or through each other.

    A file without neighbours has the digest of its bytes alone. No code is run: files are parsed.
    """
    content = path.read_bytes()
    root = Place(path).root
    others = {
        member.relative_to(root).as_posix(): hashlib.sha256(member.read_bytes()).hexdigest()
        for member in neighbours(path)
    }
    total = hashlib.sha256(content)
    for name in sorted(others):
        total.update(f"\n{name} {others[name]}".encode())
    return total.hexdigest()[:16]


def neighbours(path: Path) -> tuple[Path, ...]:
    """Return the other files of its folder or package that a file imports, also indirectly."""
    files: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        member = waiting.pop()
        for other in _imported_files(member):
            if other != path and other not in files:
                files[other] = None
                waiting.append(other)
    return tuple(sorted(files))


def _imported_files(path: Path) -> Iterator[Path]:
    if path.suffix not in SOURCE_SUFFIXES:
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    place = Place(path)
    for node in ast.walk(tree):
        for level, name in _names(node):
            yield from _files(place, level, name)


def _names(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield level and dotted name of everything that a statement may import as a module."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        yield node.level, base
        yield from (
            (node.level, f"{base}.{alias.name}".lstrip("."))
            for alias in node.names
            if alias.name != "*"
        )
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called in _LATE_IMPORTS and isinstance(node.args[0].value, str):
            yield 0, node.args[0].value


def _files(place: Place, level: int, name: str) -> Iterator[Path]:
    """Yield the files that importing a name runs, packages on the way included."""
    parts = name.split(".") if name else []
    if level:
        folder = place.folder
        for _ in range(level - 1):
            folder = folder.parent
        if folder != place.root and place.root not in folder.parents:
            return
    elif parts and (package := place.package_of(parts[0])) is not None:
        folder = place.folder if package == place.package else place.root
    else:
        return
    if (level or folder != place.root) and (folder / "__init__.py").is_file():
        yield folder / "__init__.py"
    for part in parts:
        file = next((f for end in _SUFFIXES if (f := folder / f"{part}{end}").is_file()), None)
        if (folder / part / "__init__.py").is_file():
            folder = folder / part
            yield folder / "__init__.py"
        elif file is not None:
            yield file
            return
        elif (folder / part).is_dir():
            folder = folder / part
        else:
            return
