"""Small real trainings for tests: digits, a teacher and its students in seconds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ktbench import catalogue
from ktbench.data import Dataset, load
from ktbench.networks.weights import load_student
from ktbench.records import (
    Augmentation,
    Cell,
    Checkpoint,
    DataSpec,
    Failure,
    Item,
    NumericSpec,
    Teacher,
    TrainSpec,
)
from ktbench.teacher.live import Live
from ktbench.train import Places, TrainingContext, train_cohort

DATA = DataSpec(source="digits", train_size=96, augment=Augmentation(crop_padding=1, flip=True))
TRAIN = TrainSpec(epochs=3, batch_size=32, lr=0.05)
NUMERIC = NumericSpec(threads=1)
HERE = Path()
BRIEF = TrainSpec(epochs=2, batch_size=40, lr=0.02)
# What the teacher's own network is given as student: it needs equal widths.
SAME_WIDTH = ("fsp", "kdsvd")
SUM = {"parts": [{"method": "crd", "end": 0.7}, {"method": "fitnet"}, "kd"]}


@lru_cache
def digits(spec_json: str = DATA.model_dump_json()) -> Dataset:
    """Load the data set of a spec, once per process."""
    return load(DataSpec.model_validate_json(spec_json), HERE)


def teacher_cell(**changes: Any) -> Cell:
    """Return the cell of a small network that is trained without transfer."""
    fields: dict[str, Any] = {
        "data": DATA.model_copy(update={"train_size": 300}),
        "student": Item(name="resnet8"),
        "method": Item(name="none"),
        "seed": 0,
        "train": TRAIN,
        "numeric": NUMERIC,
    }
    return Cell(**{**fields, **changes})


def cell(method: str = "kd", seed: int = 0, **changes: Any) -> Cell:
    """Return a student cell taught by `teacher_cell()`; `settings` are the method's."""
    settings = changes.pop("settings", {})
    fields: dict[str, Any] = {
        "data": DATA,
        "student": Item(name="resnet8", settings={"width": 0.5}),
        "method": Item(name=method, settings=settings),
        "teacher": None if method == "none" else Teacher(name="t", cell=teacher_cell()),
        "seed": seed,
        "train": TRAIN,
        "numeric": NUMERIC,
    }
    return Cell(**{**fields, **changes})


def brief(name: str) -> Cell:
    """Return a cell of any method that trains for a few steps, with a teacher if it needs one."""
    taught = catalogue.method(name).needs(catalogue.method_config(name, {}))
    changes = {} if taught else {"teacher": None}
    width = 1.0 if name in SAME_WIDTH else 0.5
    return cell(
        name,
        settings=SUM if name == "combined" else {},
        train=BRIEF,
        student=Item(name="resnet8", settings={"width": width}),
        **changes,
    )


def places_in(root: Path) -> Any:
    """Return a function that places a cell's files below `root`."""

    def places(of: Cell) -> Places:
        return Places(
            root=root,
            weights=root / f"{of.key}.pt",
            curves=root / f"{of.key}.parquet",
            work=root / f"{of.key}.work",
        )

    return places


_TEACHERS: dict[str, Live] = {}


def teacher(root: Path) -> Live:
    """Return the teacher of `cell()`, trained once per test process."""
    if "t" not in _TEACHERS:
        taught = teacher_cell()
        data = digits(taught.data.model_dump_json())
        [made] = train_cohort(
            [taught], TrainingContext(dataset=data, teacher=None, places=places_in(root), base=HERE)
        )
        assert isinstance(made, Checkpoint), made
        network = load_student(taught, root / made.path, num_classes=10, in_channels=1, base=HERE)
        _TEACHERS["t"] = Live(network, trained_on=data, dataset=digits())
    return _TEACHERS["t"]


def train(
    cells: list[Cell], root: Path, *, dataset: Dataset | None = None, **options: Any
) -> list[Checkpoint | Failure]:
    """Train cells as one cohort under the shared teacher, on digits unless told otherwise."""
    taught = any(c.teacher is not None for c in cells)
    return train_cohort(
        cells,
        TrainingContext(
            dataset=dataset or digits(cells[0].data.model_dump_json()),
            teacher=teacher(root) if taught else None,
            places=places_in(root),
            base=HERE,
            **options,
        ),
    )
