"""Trainings on any task's data, and proof that they end with equal bits however they are run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ktbench.data import Stream
from ktbench.networks.weights import load_student
from ktbench.records import Cell, Checkpoint, SourceSpec
from ktbench.teacher.build import build_source
from ktbench.teacher.live import Live
from ktbench.train import TrainingContext, train_cohort
from tests.support.texts import loaded
from tests.support.training import HERE, places_in


def trained(cells: list[Cell], root: Path, **options: Any) -> list[Checkpoint]:
    """Train cells as one cohort, without a teacher unless `teacher` is given."""
    data = loaded(cells[0].data.model_dump_json())
    options = {"teacher": None} | options
    context = TrainingContext(dataset=data, places=places_in(root), base=HERE, **options)
    made = train_cohort(cells, context)
    assert all(isinstance(one, Checkpoint) for one in made), made
    return made  # type: ignore[return-value]


def trained_teacher(cell: Cell, root: Path) -> tuple[Live, Checkpoint]:
    """Train a teacher; return it as a live source, with its checkpoint."""
    [made] = trained([cell], root)
    data = loaded(cell.data.model_dump_json())
    network = load_student(cell, root / made.path, base=HERE, **data.dimensions)
    return Live(network, trained_on=data, dataset=data), made


def source_of(taught: Cell, live: Live, root: Path, source: str) -> Any:
    """Return the source of a teacher's outputs for a cell: `live` or `cached` below `root`."""
    data = loaded(taught.data.model_dump_json())
    return build_source(
        live,
        taught=taught,
        stream=Stream(data, taught.seed, taught.train.batch_size, taught.train.views),
        teacher=("t", live.digest),
        spec=SourceSpec.model_validate({"source": source}),
        root=root / "outputs",
    )


def equal_bits(cells: list[Cell], root: Path, **options: Any) -> list[Checkpoint]:
    """Assert that cells end alike in a cohort, alone and resumed; return their checkpoints."""
    cohort = trained(cells, root / "cohort", **options)
    alone = [trained([cell], root / f"{n}", **options)[0] for n, cell in enumerate(cells)]
    assert [one.digest for one in cohort] == [one.digest for one in alone]

    def stop(progress: Any) -> None:
        if progress.done >= 2:
            raise KeyboardInterrupt

    interrupted = {"report": stop, "checkpoint_seconds": 0.0, **options}
    with pytest.raises(KeyboardInterrupt):
        trained(cells[:1], root / "resumed", **interrupted)
    [resumed] = trained(cells[:1], root / "resumed", **options)
    assert resumed.digest == alone[0].digest
    return cohort


def equal_bits_cached(cells: list[Cell], live: Live, root: Path) -> None:
    """Assert `equal_bits` of taught cells, and the same bits from a cold and from a warm cache.

    The first cell's method reads logits alone, which are what is cached.
    """
    [first, *_] = equal_bits(cells, root, teacher=live)
    for name in ("cold", "warm"):
        source = source_of(cells[0], live, root, "cached")
        [cached] = trained(cells[:1], root / name, teacher=source)
        source.close()
        assert cached.digest == first.digest, name
    assert source.account.read > source.account.ran
