"""Settings of a cell that follow from its method and its teacher."""

from __future__ import annotations

from ktbench import catalogue
from ktbench.records import OWN_ERRORS, Ensemble, Item, NumericSpec, Teacher, TeacherOutputs


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
