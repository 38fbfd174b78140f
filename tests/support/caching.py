"""Cached teachers for tests: sources for the cells of `training`, and trainings under them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktbench.data import Stream
from ktbench.records import Cell, Checkpoint, SourceSpec, TeacherOutputs
from ktbench.teacher.build import build_source
from ktbench.teacher.cache.source import Cached
from ktbench.teacher.source import TeacherSource
from ktbench.train import TrainingContext, train_cohort
from ktbench.transfer_methods._contract import Batch
from tests.support.training import HERE, NUMERIC, TRAIN, cell, digits, places_in, teacher

VIEWS = TRAIN.model_copy(update={"views": 2, "epochs": 4})
"""Twelve steps; every image is seen in each of its two views twice."""
SAMPLED = NUMERIC.model_copy(update={"outputs": TeacherOutputs(sampled=20)})
HALF = NUMERIC.model_copy(update={"outputs": TeacherOutputs(precision="fp16")})


@dataclass
class Trial:
    """One training, and the source that it read."""

    made: Checkpoint
    source: TeacherSource
    notes: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """The digest of the trained weights."""
        return self.made.digest

    @property
    def shares(self) -> tuple[int, int]:
        """The numbers of samples that were read, and that the teacher ran for."""
        assert isinstance(self.source, Cached)
        return self.source.account.read, self.source.account.ran


def stream_of(of: Cell) -> Stream:
    """Return the stream of a cell's batches."""
    data = digits(of.data.model_dump_json())
    return Stream.of(data, of)


def batch_of(of: Cell, epoch: int = 0, number: int = 0) -> Batch:
    """Return one batch of a cell, as the training loop makes it."""
    stream = stream_of(of)
    indices = stream.order(epoch)[number]
    return Batch(
        inputs=stream.inputs(indices, epoch),
        labels=stream.labels(indices, epoch),
        indices=indices,
        epoch=epoch,
        step=0,
        progress=0.0,
        seed=0,
    )


def source(of: Cell, root: Path, *, name: str = "t", **changes: Any) -> Any:
    """Return a cell's source with its outputs in `root / "outputs"`; `changes` are the spec's."""
    notes: list[str] = changes.pop("notes", [])
    live = changes.pop("live", None) or teacher(root)
    return build_source(
        live,
        taught=of,
        stream=stream_of(of),
        teacher=(name, live.digest),
        spec=SourceSpec.model_validate({"source": "cached", **changes}),
        note=notes.append,
        root=root / "outputs",
    )


def trial(of: Cell | None = None, root: Path = HERE, **changes: Any) -> Trial:
    """Train one cell with a source of its own."""
    of = of or cell(train=VIEWS)
    root.mkdir(exist_ok=True)
    notes: list[str] = []
    own = changes.pop("own", None) or source(of, root, notes=notes, **changes)
    [made] = train_cohort(
        [of],
        TrainingContext(
            dataset=digits(of.data.model_dump_json()),
            teacher=own,
            places=places_in(Path(tempfile.mkdtemp(dir=root))),
            base=HERE,
        ),
    )
    assert isinstance(made, Checkpoint), made
    if isinstance(own, Cached):
        own.close()
    return Trial(made, own, notes)


def files(root: Path) -> list[Path]:
    """List the row files below a root."""
    return sorted((root / "outputs").glob("*/*.rows"))
