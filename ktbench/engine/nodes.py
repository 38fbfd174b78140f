"""Checks that a cluster's node has the same files and facts as the machine of the run."""

from __future__ import annotations

import hashlib
import os
from functools import cache, lru_cache
from pathlib import Path

from ktbench.records import Cell, KtbenchError, Plan, Record
from ktbench.system import installation, provenance
from ktbench.system.files import content_files


class Likeness(Record):
    """Files and facts that every node must share, so that it does not matter where a job runs."""

    files: dict[str, str]
    """Files by absolute path with their digests."""
    facts: dict[str, str]
    """`facts` of the machine that the run was started on."""


def likeness(plan: Plan, token: Path) -> Likeness:
    """Return what every node must have: `token`, the user's own files, this machine's facts."""
    files = [token, *own_files(plan)]
    return Likeness(files={str(path): _digest(path) or "" for path in files}, facts=facts())


def own_files(plan: Plan) -> list[Path]:
    """List the user's own networks, methods, checkpoints and other files that a plan names."""
    base = Path(plan.base)
    teachers = plan.teachers
    files: dict[Path, None] = {}
    cells: list[Cell] = [*plan.cells, *(teacher.cell for teacher in teachers)]
    for item in {id(i): i for cell in cells for i in (cell.student, cell.method)}.values():
        place = item.name.rpartition(":")[0]
        if item.code is not None and place.endswith(".py"):
            files[Path(base, place).resolve()] = None
    items = (item for cell in cells for item in (cell.student, cell.data.task))
    for item in {id(item): item for item in items}.values():
        if item.file_setting is not None:
            named = Path(base, str(item.settings[item.file_setting])).resolve()
            files |= dict.fromkeys(content_files(named))
    for teacher in teachers:
        if teacher.checkpoint is not None:
            files[Path(base, teacher.checkpoint).expanduser().resolve()] = None
    return list(files)


@cache
def facts() -> dict[str, str]:
    """Return this machine's facts, by the names that a user sees when they differ."""
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
    """Digest the code that computes a result: nodes with other code give other results."""
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


def why_not_here(required: Likeness) -> str | None:
    """Return the reason why the node that this runs on cannot take part, or None."""
    for path, digest in required.files.items():
        digest_here = _digest(Path(path))
        if digest_here is None:
            where = Path(path).parent
            return f"does not see {where} as this machine does: share that folder with every node"
        if digest_here != digest:
            return f"sees other content in {path}: give every node the same"
    here = facts()
    for name in sorted(required.facts.keys() | here.keys()):
        expected, actual = required.facts.get(name, "none"), here.get(name, "none")
        if expected != actual:
            return (
                f"has {name} {actual}, the machine of this run has {expected}: their results would "
                "not be comparable; give every node the same"
            )
    return None


@lru_cache(maxsize=1)
def refuse_here(required: str) -> None:
    """Raise KtbenchError where this node, which may have come late, cannot take part.

    `required` is a `Likeness` as JSON; a process checks it once.
    """
    reason = why_not_here(Likeness.model_validate_json(required))
    if reason is not None:
        raise KtbenchError(f"node {provenance.host()} {reason}")
