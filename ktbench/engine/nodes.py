"""What a node of a cluster must have in common with the machine that a run was started on."""

from __future__ import annotations

import hashlib
import os
from functools import cache, lru_cache
from pathlib import Path

from ktbench.records import Cell, KtbenchError, Plan, Record
from ktbench.system import installation, provenance


class Likeness(Record):
    """What every node must see and be, so that it does not matter where a job runs."""

    files: dict[str, str]
    """Files by absolute path with their digests."""
    facts: dict[str, str]
    """`facts` of the machine that the run was started on."""


def likeness(plan: Plan, token: Path) -> Likeness:
    """What this run asks of a node: `token` and the user's own files as they are, this kind."""
    files = [token, *own_files(plan)]
    return Likeness(files={str(path): _digest(path) or "" for path in files}, facts=facts())


def own_files(plan: Plan) -> list[Path]:
    """The user's own networks, methods and checkpoints that a plan names."""
    base = Path(plan.base)
    teachers = plan.teachers
    found: dict[Path, None] = {}
    cells: list[Cell] = [*plan.cells, *(teacher.cell for teacher in teachers)]
    for item in {id(i): i for cell in cells for i in (cell.student, cell.method)}.values():
        place = item.name.rpartition(":")[0]
        if item.code is not None and place.endswith(".py"):
            found[Path(base, place).resolve()] = None
    for teacher in teachers:
        if teacher.checkpoint is not None:
            found[Path(base, teacher.checkpoint).expanduser().resolve()] = None
    return list(found)


@cache
def facts() -> dict[str, str]:
    """This machine's facts, by the names that a user sees when they differ."""
    here = provenance.collect()
    return {
        "ktbench": here.ktbench,
        "ktbench's code (digest)": _code(),
        "Python": here.python,
        "machine": here.machine,
        "processor": here.processor,
        "instruction set": here.instruction_set or "unknown",
        **here.versions,
    }


def _code() -> str:
    """16 digits over what computes a result: nodes with other code give other results."""
    total = hashlib.sha256()
    root = installation.ROOT / "ktbench"
    # Links are followed: a checkout and an installed copy have the same files.
    folders = [(Path(folder), names) for folder, _, names in os.walk(root, followlinks=True)]
    for path in sorted(f / n for f, names in folders for n in names if n.endswith(".py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root)}|{len(content)}|".encode())
        total.update(content)
    return total.hexdigest()[:16]


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def why_not_here(wanted: Likeness) -> str | None:
    """Why the node that this runs on cannot take part, or None."""
    for path, digest in wanted.files.items():
        seen = _digest(Path(path))
        if seen is None:
            where = Path(path).parent
            return f"does not see {where} as this machine does: share that folder with every node"
        if seen != digest:
            return f"sees other content in {path}: give every node the same"
    here = facts()
    for name in sorted(wanted.facts.keys() | here.keys()):
        own, other = wanted.facts.get(name, "none"), here.get(name, "none")
        if own != other:
            return (
                f"has {name} {other}, the machine of this run has {own}: their results would not "
                "be comparable; give every node the same"
            )
    return None


@lru_cache(maxsize=1)
def refuse_here(wanted: str) -> None:
    """Raise KtbenchError where this node, which may have come late, cannot take part.

    `wanted` is a `Likeness` as JSON; a process looks once.
    """
    reason = why_not_here(Likeness.model_validate_json(wanted))
    if reason is not None:
        raise KtbenchError(f"node {provenance.host()} {reason}")
