"""What a method is told of two networks before training: shapes, similarity, parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import Features, Student
from ktbench.transfer_methods._contract import Scope


def similarity(teacher: Features, student: Features) -> tuple[tuple[float, ...], ...]:
    """[teacher stage][student stage]: cosine similarity of L2-normalised activations.

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


def scope_parameters(student: Student, inputs: Tensor, scope: Scope) -> list[nn.Parameter]:
    """The parameters of a scope, found by what a stage's output depends on.

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
        reached = _dependencies(stages[last], parameters)
        if scope.only is not None and scope.only > 0:
            reached -= _dependencies(stages[scope.only - 1], parameters)
        if scope.after is not None:
            reached = set(range(len(parameters))) - reached
    finally:
        student.train(mode)
    return [p for i, p in enumerate(parameters) if i in reached]


def _dependencies(output: Tensor, parameters: list[nn.Parameter]) -> set[int]:
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
    return {i for i, gradient in enumerate(gradients) if gradient is not None}
