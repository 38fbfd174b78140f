"""Which rows of a source are for training, for choosing and for the final test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ktbench.data.counter import counter_hash
from ktbench.records import DataSpec, KtbenchError

Rows = NDArray[np.int64]


def split_rows(spec: DataSpec, labels: dict[str, NDArray[np.int64]]) -> dict[str, tuple[str, Rows]]:
    """For each of train, validation, test: the source split that it comes from, and its rows.

    Test and validation are set apart first, so they do not depend on `train_size`. Draws are
    stratified by class and nested: a larger set of the same seed contains a smaller one but for
    the rounding of class shares.
    """
    pool = np.arange(len(labels["train"]), dtype=np.int64)
    if not len(pool):
        raise KtbenchError("data: the training split is empty: give a source with images")
    out: dict[str, tuple[str, Rows]] = {}
    fractions = {"test": 0.2, "validation": 0.1}
    for name, wanted in (("test", spec.test_size), ("validation", spec.validation_size)):
        if name in labels:
            given = np.arange(len(labels[name]), dtype=np.int64)
            size = len(given) if wanted is None else wanted
            out[name] = (name, _draw(labels[name], given, size, spec.split_seed, name))
        else:
            size = max(1, round(fractions[name] * len(pool))) if wanted is None else wanted
            chosen = _draw(labels["train"], pool, size, spec.split_seed, name)
            out[name] = ("train", chosen)
            pool = np.setdiff1d(pool, chosen)
    size = len(pool) if spec.train_size is None else spec.train_size
    out["train"] = ("train", _draw(labels["train"], pool, size, spec.split_seed, "train"))
    for name, (_, rows) in out.items():
        if not len(rows):
            raise KtbenchError(f"data: no images are left for the {name} split: give more data")
    return out


def _draw(labels: NDArray[np.int64], pool: Rows, size: int, seed: int, name: str) -> Rows:
    """`size` rows of the pool, class by class in proportion, sorted by row."""
    if size > len(pool):
        raise KtbenchError(
            f"data: {name}_size is {size}, but only {len(pool)} images are there for it"
        )
    if size == len(pool):
        return pool
    classes, counts = np.unique(labels[pool], return_counts=True)
    share = size * counts / len(pool)
    quota = np.floor(share).astype(np.int64)
    # Largest remainders take what rounding left over; ties go to the lower class.
    rest = size - int(quota.sum())
    quota[np.argsort(-(share - quota), kind="stable")[:rest]] += 1
    salt = {"test": 1, "validation": 2, "train": 3}[name]
    taken = []
    for label, count in zip(classes, quota, strict=True):
        members = pool[labels[pool] == label]
        order = np.argsort(counter_hash(seed, salt, members), kind="stable")
        taken.append(members[order[:count]])
    return np.sort(np.concatenate(taken))
