"""Small tables of texts, and trainings on them, for tests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.data import Dataset, load
from ktbench.records import Cell, DataSpec, Item, NumericSpec, TrainSpec

WORDS = {
    0: ("dull", "slow", "tired", "empty", "plot", "fails", "bad"),
    1: ("bright", "quick", "funny", "warm", "story", "works", "good"),
}
BOTH = ("the", "film", "is", "a", "and", "of", "its", "people")


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Return texts of two kinds, each with words of its own among common ones, and their kinds."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    texts = [
        " ".join(draw.permutation([*draw.choice(WORDS[int(kind)], 3), *draw.choice(BOTH, 5)]))
        for kind in labels
    ]
    return texts, labels.tolist()


def write_texts(folder: Path, count: int = 400, **columns: Any) -> Path:
    """Write a training table of texts, with more columns if given; return the folder."""
    texts, labels = sentences(count)
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": texts, "label": labels} | columns)
    pq.write_table(table, folder / "train.parquet")
    return folder


def text_data(folder: Path, **settings: Any) -> DataSpec:
    """Return the spec of such a table, read as short texts."""
    settings = {"length": 12, "vocabulary": 120} | settings
    task = Item(name="text_classification", settings=settings)
    return DataSpec(task=task, source="parquet", path=str(folder))


def write_documents(folder: Path, count: int = 60) -> Path:
    """Write a training table of documents of 6 to 12 such texts each; return the folder."""
    texts, _ = sentences(12 * count)
    documents = [". ".join(texts[12 * n : 12 * n + 6 + n % 7]) for n in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": documents}), folder / "train.parquet")
    return folder


def masked_data(folder: Path, **settings: Any) -> DataSpec:
    """Return the spec of such a table, read as short masked texts."""
    settings = {"length": 16, "vocabulary": 120, "share": 0.2} | settings
    task = Item(name="masked_language_model", settings=settings)
    return DataSpec(task=task, source="parquet", path=str(folder))


BERT = Item(name="bert_tiny", settings={"width": 0.125, "layers": 1})


def bert_cell(spec: DataSpec, method: str = "none", seed: int = 0, **changes: Any) -> Cell:
    """Return the cell of a very small BERT."""
    return text_cell(spec, method, seed, **({"student": BERT} | changes))


@lru_cache
def loaded(spec_json: str) -> Dataset:
    """Load the data set of a spec, once per process."""
    return load(DataSpec.model_validate_json(spec_json), Path())


def text_cell(spec: DataSpec, method: str = "none", seed: int = 0, **changes: Any) -> Cell:
    """Return the cell of a small bag of word pieces."""
    fields: dict[str, Any] = {
        "data": spec,
        "student": Item(name="embedding_bag", settings={"width": 0.25}),
        "method": Item(name=method),
        "seed": seed,
        "train": TrainSpec(epochs=3, batch_size=32, lr=0.01, optimiser="adam"),
        "numeric": NumericSpec(threads=1),
    }
    return Cell(**{**fields, **changes})
