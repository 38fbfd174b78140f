"""Formulas that the tests of losses share, computed by loops in double precision."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ktbench.students._contract import Features
from tests.support import method_cases as cases
from tests.support.method_cases import possible


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((z - top) / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def ce(of: Features, labels: Tensor) -> float:
    rows = of.logits.double().tolist()
    chosen = [softmax(row)[label] for row, label in zip(rows, labels.tolist(), strict=True)]
    return -sum(map(math.log, chosen)) / len(rows)


def squares(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def flat(x: Tensor) -> list[float]:
    return [float(v) for v in x.detach().double().flatten()]


def mse(a: Tensor, b: Tensor) -> float:
    return squares(flat(a), flat(b)) / a.numel()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s_row, t_row in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p, q = softmax(t_row, temperature), softmax(s_row, temperature)
        total += sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True) if pi > 0)
    return total / len(student)


def run(name: str, settings: dict[str, Any], teacher: str = "same", **where: Any) -> Any:
    """Evaluate a method at random features; return it, the features and its loss terms."""
    method, at = possible(name, settings, teacher)
    student = cases.features(at.student, seed=1)
    assert at.teacher is not None
    taught = cases.features(at.teacher, seed=2)
    terms = method.loss(student, taught, cases.batch(**where))
    return method, student, taught, {n: t.item() for n, t in terms.items()}


LABELS = cases.batch().labels
