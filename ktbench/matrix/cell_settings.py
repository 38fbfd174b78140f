"""Settings of a cell that follow from its method and its teacher."""

from __future__ import annotations

from ktbench import catalogue
from ktbench.records import (
    BASELINE,
    OWN_ERRORS,
    WARMUP_SEED,
    Cell,
    Ensemble,
    Item,
    NumericSpec,
    Teacher,
    TeacherOutputs,
)


def reads_teacher(item: Item, base: str, *, unknown: bool) -> bool:
    """Return True for a method that reads a teacher; `unknown` where a user's own does not say."""
    if catalogue.unseen(item.name):
        return unknown
    kind = catalogue.method(item.name, base)
    config = catalogue.method_config(item.name, item.settings, base)
    try:
        return bool(kind.needs(config))
    except OWN_ERRORS:  # an error of a user's own method is the reason of its skips
        if not catalogue.is_own(item.name):
            raise
        return unknown


def numeric_of(numeric: NumericSpec, teacher: Teacher | Ensemble | None) -> NumericSpec:
    """Return a cell's numeric settings, with those that change nothing for it at their default."""
    outputs = numeric.outputs
    if outputs is None:
        return numeric
    if teacher is None or (outputs.sampled is None and outputs.precision == "fp32"):
        return numeric.model_copy(update={"outputs": None})
    if outputs.sampled is None:
        return numeric.model_copy(update={"outputs": TeacherOutputs(precision=outputs.precision)})
    return numeric.model_copy(update={"outputs": outputs.model_copy(update={"precision": "fp32"})})


def with_warmup(cell: Cell, base: str) -> Cell:
    """Return the cell with the warm-up that its method asks for, if any.

    The warm-up is a training of its own: same student, data and settings, without transfer, for
    the epochs that are asked for and from one seed for all.
    """
    if cell.teacher is None or catalogue.unseen(cell.method.name):
        return cell
    kind = catalogue.method(cell.method.name, base)
    config = catalogue.method_config(cell.method.name, cell.method.settings, base)
    try:
        epochs = kind.warmup_epochs(config)
        if not epochs:
            return cell
        warming = Cell(
            data=cell.data,
            student=cell.student,
            method=BASELINE,
            seed=WARMUP_SEED,
            train=cell.train.model_copy(update={"epochs": int(epochs)}),
            numeric=numeric_of(cell.numeric, None),
        )
    except OWN_ERRORS:  # an error of a user's own method is the reason of its skips
        if not catalogue.is_own(cell.method.name):
            raise
        return cell
    name = f"{cell.student.label} after {epochs} epoch{'s' if epochs > 1 else ''}"
    return cell.model_copy(update={"warmup": Teacher(name=name, cell=warming)})
