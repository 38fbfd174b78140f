"""Keys and records of the committed results are those with which they were written.

So no renaming can change a cell's key, or what a record is, unseen. After an intended change:

    python -m tests.house.test_reference_keys > tests/house/reference_keys.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktbench import matrix
from ktbench.data import DataInfo
from ktbench.matrix import planning
from ktbench.records import (
    Assembly,
    BlockResult,
    Cell,
    Measurement,
    Plan,
    Record,
    Result,
    digest_of,
)
from ktbench.results import ResultsFolder
from ktbench.results.lock import LockFile
from ktbench.results.storage import sealed, stored
from ktbench.results.unpacking import Unpacked

ROOT = Path(__file__).parents[2]
DIGESTS = Path(__file__).with_name("reference_keys.json")
REFERENCE = sorted(ROOT.glob("results/reference/*.ktb"))
KINDS: dict[str, type[Record]] = {
    "cells/*.json": Result,
    "measurements/*.json": Measurement,
    "blocks/assembled-*.json": Assembly,
    f"blocks/{'[0-9a-f]' * 16}.json": BlockResult,
    "lock.json": LockFile,
}
by_file = pytest.mark.parametrize("file", REFERENCE, ids=lambda p: p.stem)


def keys(plan: Plan) -> list[str]:
    """The key of every cell and skip, sorted."""
    cells: list[Cell] = [*plan.cells, *(skip.cell for skip in plan.skips)]
    return sorted(cell.key for cell in cells)


def digests(file: Path) -> Iterator[tuple[str, str]]:
    """Digests of a study's cell keys, and of each of its records, read and written again."""
    unpacked = Unpacked(file)
    folder = unpacked.path
    yield "keys", digest_of(keys(ResultsFolder(folder).lock().plan))
    for pattern, kind in KINDS.items():
        for path in sorted(folder.glob(pattern)):
            record = sealed(stored(kind, path).record)
            yield path.relative_to(folder).as_posix(), digest_of(record)


@by_file
def test_keys_and_records_are_what_they_were(file: Path) -> None:
    assert dict(digests(file)) == json.loads(DIGESTS.read_text(encoding="utf-8"))[file.stem]


@by_file
@pytest.mark.slow
def test_the_matrix_of_committed_results_still_means_the_same_cells(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No data set is needed: what planning asks of it decides no key."""
    unpacked = Unpacked(file)
    folder = unpacked.path
    info = DataInfo(10, (3, 32, 32), 45_000, 5_000, 10_000)
    monkeypatch.setattr(planning, "describe", lambda *_: info)
    planned = matrix.plan(matrix.load(folder / "matrix.yaml"))
    assert keys(planned) == keys(ResultsFolder(folder).lock().plan)


if __name__ == "__main__":
    print(json.dumps({f.stem: dict(digests(f)) for f in REFERENCE}, indent=0))
