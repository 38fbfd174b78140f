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
    SCHEMA,
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
from ktbench.results.lock import LOCK_SCHEMA, LockFile
from ktbench.results.storage import sealed, stored
from ktbench.results.unpacking import Unpacked
from ktbench.tasks.image_classification import image_signature

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
WORDS = {
    "intermediate_embedding: {pairs: similarity}": "intermediate_embedding: "
    "{pairs: similarity_untrained, normalise: none}",
    "pairs: similarity}": "pairs: similarity_untrained}",
}
"""What earlier matrices say, and what they would have to say today to mean the same."""
by_file = pytest.mark.parametrize("file", REFERENCE, ids=lambda p: p.stem)


def cells_of(plan: Plan) -> list[Cell]:
    """Every cell and skip."""
    return [*plan.cells, *(skip.cell for skip in plan.skips)]


def keys(plan: Plan) -> list[str]:
    """The key of every cell and skip, sorted."""
    return sorted(cell.key for cell in cells_of(plan))


def key_then(cell: Cell) -> str:
    """The key that a cell had when its settings were called what they were then."""
    settings = dict(cell.method.settings)
    if settings.get("pairs") != "similarity_untrained":
        return cell.key
    settings |= {"pairs": "similarity"}
    settings.pop("normalise", None)
    method = cell.method.model_copy(update={"settings": settings})
    return cell.model_copy(update={"method": method}).key


def digests(file: Path) -> Iterator[tuple[str, str]]:
    """Digests of a study's cell keys, and of each of its records, read and written again."""
    unpacked = Unpacked(file)
    folder = unpacked.path
    yield "keys", digest_of(keys(ResultsFolder(folder).lock().plan))
    for pattern, kind in KINDS.items():
        for path in sorted(folder.glob(pattern)):
            newest = LOCK_SCHEMA if kind is LockFile else SCHEMA
            record = sealed(stored(kind, path, newest=newest).record)
            yield path.relative_to(folder).as_posix(), digest_of(record)


@by_file
@pytest.mark.slow
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
    info = DataInfo(image_signature(10, (3, 32, 32)), 45_000, 5_000, 10_000)
    monkeypatch.setattr(planning, "describe", lambda *_: info)
    text = (folder / "matrix.yaml").read_text(encoding="utf-8")
    for then, now in WORDS.items():
        text = text.replace(then, now)
    planned = matrix.plan(matrix.loads(text, base=str(folder)))
    assert sorted(map(key_then, cells_of(planned))) == keys(ResultsFolder(folder).lock().plan)


if __name__ == "__main__":
    print(json.dumps({f.stem: dict(digests(f)) for f in REFERENCE}, indent=0))
