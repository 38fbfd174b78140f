"""Whatever a table of texts holds, `plan` shows its cells or says in one line what is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.planning import trouble
from tests.support.text_mutants import FORMATS, damaged_tables

pytestmark = pytest.mark.slow

SEED = 20261128
PER_FORMAT = int(os.environ.get("KTBENCH_FUZZ", "0") or 0) or 30
"""Damaged tables of each format; a few in an ordinary run of the tests."""
MATRIX = """
data:
  source: parquet
  path: TABLES
  task: {text_classification: {length: 12, vocabulary: 150}}
students: [embedding_bag]
train: {epochs: 1}
"""


@pytest.mark.timeout(0)
@pytest.mark.parametrize("ending", FORMATS)
def test_every_damaged_table_of_texts_is_planned_or_refused_in_a_line(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    troubles = []
    for folder in damaged_tables(ending, tmp_path, PER_FORMAT, SEED):
        path = tmp_path / f"{folder.name}.yaml"
        path.write_text(MATRIX.replace("TABLES", folder.name))
        if (told := trouble(path, to_the_end=False)) is not None:
            troubles.append(f"{folder.name}: {told}")
        shutil.rmtree(folder)
    assert not troubles, f"{len(troubles)} of {PER_FORMAT}\n" + "\n\n".join(troubles[:20])
