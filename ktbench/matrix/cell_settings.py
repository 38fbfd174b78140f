"""What a method and a teacher mean for a cell's settings."""

from __future__ import annotations

from ktbench import catalogue
from ktbench.records import OWN_ERRORS, Ensemble, Item, NumericSpec, Teacher, TeacherOutputs


def reads_teacher(item: Item, base: str, *, unknown: bool) -> bool:
    """Whether a method reads anything of a teacher; `unknown` where a user's own does not say."""
    if catalogue.unseen(item.name):
        return unknown
    kind = catalogue.method(item.name, base)
    config = catalogue.method_config(item.name, item.settings, base)
    try:
        return bool(kind.needs(config))
    except OWN_ERRORS:  # what a user's own raises is the reason of its skips
        if not catalogue.is_own(item.name):
            raise
        return unknown


def numeric_of(numeric: NumericSpec, teacher: Teacher | Ensemble | None) -> NumericSpec:
    """A cell's numeric settings: what changes nothing for it is not in its key."""
    outputs = numeric.outputs
    if outputs is None:
        return numeric
    if teacher is None or (outputs.sampled is None and outputs.precision == "fp32"):
        return numeric.model_copy(update={"outputs": None})
    if outputs.sampled is None:
        return numeric.model_copy(update={"outputs": TeacherOutputs(precision=outputs.precision)})
    return numeric.model_copy(update={"outputs": outputs.model_copy(update={"precision": "fp32"})})
