"""The share that each term of a loss has in moving the student, looked at a few times per training.

A term's share of the loss says little of its pull: what moves the student is the gradient. In one
step of each third of the training, in each phase, the gradient of every term is taken once more by
itself, with respect to the student's parameters that the term moves. Nothing is changed by looking;
the time is not counted as the training's, but it passes: a backward pass per term, three times per
phase.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ktbench.train.phases import RunningUpdate

LOOKS = 3
"""Most looks per training and phase."""


def due(kind: str, progress: float, looked: set[str]) -> bool:
    """Return True at the first call for a kind of step within a part of the training; note it."""
    name = f"{kind} {int(progress * LOOKS)}"
    if name in looked:
        return False
    looked.add(name)
    return True


def look_at(
    terms: dict[str, Tensor],
    updates: Sequence[RunningUpdate],
    chosen: Sequence[Sequence[str] | None],
    *modules: nn.Module,
) -> dict[str, dict[str, float]]:
    """Return the `losses` and `gradients` of a look, by term, as `records.Look` has them."""
    gradients = gradient_norms(terms, updates, chosen, *modules)
    return {"losses": {name: float(terms[name].detach()) for name in gradients}} | {
        "gradients": gradients
    }


def gradient_norms(
    terms: dict[str, Tensor],
    updates: Sequence[RunningUpdate],
    chosen: Sequence[Sequence[str] | None],
    *modules: nn.Module,
) -> dict[str, float]:
    """Return the L2 norm of each term's gradient with respect to what it moves of the student.

    Terms that move none of it by design, but a method's own layers alone, are left out. The first
    module is the student. The graph stays as it is for the step itself, and so do random
    numbers and the buffers of the modules, whatever a user's own backward pass does to them.
    """
    student = {id(parameter) for parameter in modules[0].parameters()}
    squares: dict[str, float] = {}
    kept = [(b, b._version, b.clone()) for module in modules for b in module.buffers()]
    devices = {p.device for p in modules[0].parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        for running, names in zip(updates, chosen, strict=True):
            moved = [p for p in running.parameters if id(p) in student]
            for name in (terms if names is None else names) if moved else ():
                squares[name] = squares.get(name, 0.0) + _square(terms[name], moved)
    with torch.no_grad():
        for buffer, version, content in kept:
            if buffer._version != version:
                buffer.copy_(content)
    return {name: square**0.5 for name, square in squares.items()}


def _square(term: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """Return the squared norm of a term's gradient; 0 where it depends on none of them."""
    if not term.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
    total = sum((g.double().square().sum() for g in gradients if g is not None), torch.zeros(()))
    return float(total)
