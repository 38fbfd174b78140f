"""Builds a cell's transfer method for its two networks, and finds the parameters it moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.catalogue.transfer_window import misfit
from ktbench.isolation import claim, seed_all
from ktbench.networks.network_parts import dependencies
from ktbench.records import Cell, KtbenchError, Pairing
from ktbench.students._contract import Features, Inputs, Student
from ktbench.train.context import SharedInputs
from ktbench.train.seeds import ADAPTORS, derived_seed
from ktbench.transfer_methods._contract import (
    Needs,
    Phase,
    Scale,
    Scope,
    Setting,
    Shapes,
    TransferMethod,
)


@dataclass(frozen=True)
class MethodSetup:
    """A method built for its networks, and what it reads of them."""

    method: TransferMethod
    phases: tuple[Phase, ...]
    scale: Scale | None
    """Weights of its terms; None where it has no cross-entropy with the labels."""
    teacher_needs: Needs
    student_needs: Needs
    pairing: Pairing | None = None
    """The pairs of stages that it compares; None where it compares none."""


def set_up_method(
    cell: Cell,
    shared: SharedInputs,
    student: Student,
    probed: Features,
    compared: tuple[Features | None, Features],
) -> MethodSetup:
    """Build the cell's method from a seed of its own; `probed` are the student's probe outputs.

    `compared` are the teacher's and a student's outputs by which pairs of stages are chosen.

    Raises KtbenchError where the method does not suit these networks or the cell's window.
    """
    base = str(shared.base)
    kind = catalogue.method(cell.method.name, base)
    config = catalogue.method_config(cell.method.name, cell.method.settings, base)
    teacher_needs, student_needs = kind.needs(config), kind.student_needs(config)
    setting = _setting(cell, shared, student, probed)
    measured = kind.warmup_epochs(config) is not None
    if (teacher := compared[0]) is not None and measured:
        setting = replace(setting, similarity=similarity(teacher, compared[1]))
    if reason := kind.incompatible(config, setting):
        raise KtbenchError(f"{cell.label}: {reason}")
    seed_all(derived_seed(cell.seed, ADAPTORS))
    method = kind(config, setting).to(torch.device(cell.numeric.device))
    claim(method, f"method {cell.method.name}")
    phases, scale = tuple(method.phases()), kind.scale(config)
    if not (phases and all(isinstance(phase, Phase) for phase in phases)):
        raise KtbenchError(f"method {cell.method.name}: phases must return some Phase objects")
    if cell.distill is not None:
        steps = cell.train.epochs * max(1, setting.train_size // setting.batch_size)
        if reason := misfit(cell.distill, scale, phases, steps=steps):
            raise KtbenchError(f"{cell.label}: {reason}")
    pairing = _pairing(method, setting)
    return MethodSetup(method, phases, scale, teacher_needs, student_needs, pairing)


def _pairing(method: TransferMethod, setting: Setting) -> Pairing | None:
    """Return the record of a method's pairs; None where it compares none."""
    pairs = tuple(method.paired_stages())
    if not pairs or setting.teacher is None:
        return None
    return Pairing(
        teacher=setting.teacher.names,
        student=setting.student.names,
        pairs=pairs,
        rule=_rule(getattr(method.config, "pairs", None)),
        similarity=setting.similarity,
    )


def _rule(pairs: object) -> str:
    """Return the name of a rule of pairs, however the setting writes it."""
    if isinstance(pairs, dict):
        return str(next(iter(pairs), ""))
    return pairs if isinstance(pairs, str) else "named" if isinstance(pairs, tuple) else ""


def _setting(cell: Cell, shared: SharedInputs, student: Student, probed: Features) -> Setting:
    teacher = shared.teacher_features
    return Setting(
        student=Shapes.of(probed, student.stage_names),
        teacher=Shapes.of(teacher, shared.teacher_stages) if teacher is not None else None,
        num_classes=shared.dataset.signature.outputs,
        train_size=shared.dataset.size("train"),
        batch_size=cell.train.batch_size,
    )


def similarity(teacher: Features, student: Features) -> tuple[tuple[float, ...], ...]:
    """Compute [teacher stage][student stage]: cosine similarity of L2-normalised activations.

    Where every pair of stages has the same shape it is the mean over samples of the activations'
    own cosine (the edge transfer study). Otherwise the widths cannot be compared directly, and
    it is the cosine of the two layers' centred sample-by-sample Gram matrices, for all pairs
    alike, so that figures of one table mean one thing.
    """
    shapes = {tuple(stage.shape) for stage in (*teacher.stages, *student.stages)}
    compare = _direct if len(shapes) == 1 else _gram
    return tuple(tuple(compare(t, s) for s in student.stages) for t in teacher.stages)


def _direct(teacher: Tensor, student: Tensor) -> float:
    flat = functional.cosine_similarity(teacher.flatten(1), student.flatten(1), dim=1)
    return float(flat.mean())


def _gram(teacher: Tensor, student: Tensor) -> float:
    def centred(stage: Tensor) -> Tensor:
        rows = functional.normalize(stage.flatten(1).double(), dim=1)
        gram = rows @ rows.T
        gram = gram - gram.mean(0, keepdim=True)
        return (gram - gram.mean(1, keepdim=True)).flatten()

    return float(functional.cosine_similarity(centred(teacher), centred(student), dim=0))


def scope_parameters(student: Student, inputs: Inputs, scope: Scope) -> list[nn.Parameter]:
    """Return the parameters of a scope, found by what a stage's output depends on.

    Runs the student in eval mode, so that no BatchNorm moves; leaves its mode as it was.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    if scope.everything:
        return parameters
    last = next((i for i in (scope.upto, scope.only, scope.after) if i is not None), None)
    if last is None:
        return []
    mode = student.training
    student.eval()
    try:
        with torch.enable_grad():
            stages = student.forward_features(inputs).stages
        reached = dependencies(stages[last], parameters)
        if scope.only is not None and scope.only > 0:
            reached -= dependencies(stages[scope.only - 1], parameters)
        if scope.after is not None:
            reached = set(range(len(parameters))) - reached
    finally:
        student.train(mode)
    return [p for i, p in enumerate(parameters) if i in reached]
