"""The house's rooms know of each other only what the architecture allows."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"ktbench", "benchmarks", "tests"}
ITEMS = ("students", "transfer_methods", "devices")
"""Folders of the repository that are links inside `ktbench/`, and import as parts of it."""
STAGES = {
    "matrix",
    "data",
    "teacher",
    "train",
    "blockwise",
    "export",
    "measure",
    "results",
    "report",
    "compare",
}
SHARED = {
    "ktbench.records",
    "ktbench.catalogue",
    "ktbench.data",
    "ktbench.stats",
    "ktbench.supervision",
    "ktbench.isolation",
    "ktbench.networks",
    "ktbench.system",
    "ktbench.teacher.source",
    "ktbench.students._blocks",
    "ktbench.students._contract",
    "ktbench.tasks._contract",
    "ktbench.transfer_methods._contract",
    "ktbench.devices._contract",
    "ktbench.devices.agent.protocol",
}


READS = dict.fromkeys(("report", "compare"), "ktbench.results")
"""The rooms whose input is the results folder as a whole."""


def _files(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("ktbench", *parts) if parts[0] in ITEMS else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> set[str]:
    """All modules that a file imports anywhere; of `from a import b` a.b, and a if b is none."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = _module(path).split(".")
                package = package if path.stem == "__init__" else package[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([base] if base else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names
            if not all(map(_exists, names)):
                found.add(base)
    return found


def _top(name: str) -> str:
    return name.partition(".")[0]


def _exists(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))  # the links inside `ktbench/` are followed
    return place.with_suffix(".py").exists() or place.is_dir()


def _outside_stdlib(names: set[str]) -> set[str]:
    return {n for n in names if _top(n) not in sys.stdlib_module_names and n != "__future__"}


@pytest.mark.parametrize("folder", ["students", "transfer_methods"])
@pytest.mark.slow
def test_a_student_or_method_imports_torch_and_its_own_folder_only(folder: str) -> None:
    for path in _files(folder):
        for name in _outside_stdlib(_imports(path)):
            own = name.startswith(f"ktbench.{folder}.") or name == f"ktbench.{folder}"
            assert own or _top(name) == "torch", f"{path}: imports {name}"
            if own and _exists(name) and name != f"ktbench.{folder}":
                assert name.split(".")[2].startswith("_"), f"{path}: imports its neighbour {name}"


def test_a_device_imports_the_standard_library_and_its_contract_only() -> None:
    for path in _files("devices"):
        if "agent" in path.parts:
            continue
        for name in _outside_stdlib(_imports(path)):
            allowed = ("_contract", "agent.protocol", "transport")
            own = name == "ktbench.devices" or name.startswith("ktbench.devices.")
            face = own and (name == "ktbench.devices" or not _exists(name))
            assert face or name.startswith(tuple(f"ktbench.devices.{part}" for part in allowed)), (
                f"{path}: imports {name}"
            )


def test_the_agent_imports_the_standard_library_and_numpy_only() -> None:
    for path in _files("devices/agent"):
        if "runtimes" in path.parts and path.stem != "__init__":
            continue
        for name in _outside_stdlib(_imports(path)):
            assert _top(name) == "numpy" or name.startswith("ktbench.devices.agent"), (
                f"{path}: imports {name}"
            )


def test_records_and_stats_are_leaves() -> None:
    allowed = {"records": {"pydantic", "pydantic_core"}, "stats": {"numpy", "scipy"}}
    for stem, packages in allowed.items():
        for path in ROOT.glob(f"ktbench/{stem}/*.py"):
            for name in _outside_stdlib(_imports(path)):
                assert name.startswith(f"ktbench.{stem}") or _top(name) in packages, (
                    f"{path}: imports {name}"
                )


@pytest.mark.slow
def test_a_stage_never_imports_another_stage() -> None:
    for stage in STAGES:
        for path in ROOT.glob(f"ktbench/{stage}/**/*.py"):
            for name in _imports(path):
                if _top(name) not in OURS or not _exists(name):
                    continue
                own = name == f"ktbench.{stage}" or name.startswith(f"ktbench.{stage}.")
                own |= stage in READS and name.startswith(READS[stage])
                shared = any(name == s or name.startswith(f"{s}.") for s in SHARED)
                shared |= name.startswith("ktbench.devices.transport")
                assert own or shared, f"{path}: imports {name}"


@pytest.mark.slow
def test_nothing_but_the_commands_and_the_python_face_imports_the_runner() -> None:
    for path in _files("ktbench", "students", "transfer_methods", "devices"):
        if path.is_relative_to(ROOT / "ktbench/runner") or path.parent.name in ("cli", "api"):
            continue
        assert not any(n.startswith("ktbench.runner") for n in _imports(path)), path


@pytest.mark.slow
def test_no_import_cycles() -> None:
    """Module-level imports only: a cycle through a function's import is still a cycle."""
    graph = {}
    for path in _files("ktbench", "students", "transfer_methods", "devices", "benchmarks"):
        name = _module(path)
        named = {n for n in _imports(path) if _top(n) in OURS and _exists(n)}
        # Whoever imports a.b.c runs a and a.b first.
        graph[name] = named | {n.rsplit(".", up)[0] for n in named for up in range(1, n.count("."))}
        graph[name].discard(name)
        # A package's __init__ gathers its own modules; its modules may name the package's parts.
        graph[name] = {n for n in graph[name] if not name.startswith(f"{n}.")}
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        assert state.get(name) != 1, " → ".join([*trail[trail.index(name) :], name])
        state[name] = 1
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        state[name] = 2

    for name in graph:
        visit(name, ())
