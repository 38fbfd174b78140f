"""Data sets, loaded once per process and refused where they are not those of the run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ktbench.data import Dataset, load
from ktbench.data.image_store import reporting
from ktbench.engine.contract import Report
from ktbench.records import DataSpec, KtbenchError, Metric, NumericSpec
from ktbench.supervision import mark
from ktbench.system.provenance import host


@lru_cache(maxsize=4)
def dataset(spec: DataSpec, base: Path) -> Dataset:
    """Return a data set, loaded once per process."""
    return load(spec, base)


def same_dataset(spec: DataSpec, base: Path, digest: str | None) -> Dataset:
    """`dataset`; raises KtbenchError where it is not the one that the run was started with."""
    data = dataset(spec, base)
    if digest is not None and data.digest != digest:
        raise KtbenchError(
            f"data: digest {data.digest} on {host()}, {digest} where the run was started: give "
            "every node the same files"
        )
    return data


@dataclass(frozen=True)
class DataJob:
    """Load the data sets of a run, where its trainings will need them."""

    specs: tuple[DataSpec, ...]
    base: Path
    numeric: NumericSpec


@dataclass(frozen=True)
class DataDigests:
    """Digests of a data set, of all its samples and of those for the test alone; its classes.

    `metric` is what networks are judged by, with the score of a guess on this data set.
    """

    whole: str
    test: str
    classes: int
    metric: Metric


def digest_data(job: DataJob, report: Report) -> dict[str, DataDigests]:
    """Digest every data set, by its canonical text; raises KtbenchError for a bad one.

    Reports the share of a data set's images that are decoded, where they are decoded to the disk.
    """
    digests = {}
    for spec in job.specs:
        mark(stage="reading the data", what=spec.source)
        with reporting(report):
            data = dataset(spec, job.base)
        chance = data.task.chance(data.signature)
        metric = Metric.model_validate(data.task.metric.model_dump() | {"chance": chance})
        digests[spec.canonical] = DataDigests(
            data.digest, data.test_digest, data.signature.outputs, metric
        )
    return digests
