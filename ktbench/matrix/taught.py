"""What a method and a teacher mean for a cell's settings."""

from __future__ import annotations

from ktbench import catalogue
from ktbench.records import Ensemble, Item, NumericSpec, Teacher, TeacherOutputs


def reads_teacher(item: Item, base: str) -> bool:
    """Whether a method reads anything of a teacher."""
    kind = catalogue.method(item.name, base)
    return bool(kind.needs(catalogue.method_config(item.name, item.settings, base)))


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
