"""Loss terms of an epoch, summed on the device and read only every few steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ktbench.records import KtbenchError

READ_EVERY = 32
"""Steps between two readings, which is how long a diverged student may go on."""


class Diverged(KtbenchError):  # noqa: N818 - an event, not a program error
    """Raised for a loss that is no longer finite; `step` is the first where it was not."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class LossLog:
    """Sums of named scalars, and the first step at which one was not finite.

    Reading a scalar waits for the device to compute it, so adding reads nothing.
    """

    def __init__(self) -> None:
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._names: tuple[str, ...] = ()
        self._total = self._wrong_step = self._wrong_value = torch.zeros(0)
        self._steps = self._unread = self._epoch = 0

    @property
    def due(self) -> bool:
        """True when enough steps have gone by since the last check."""
        return self._unread >= READ_EVERY

    def add(self, terms: dict[str, Tensor], *, step: int, epoch: int) -> None:
        """Add a step's terms, each of one element; their names may change from phase to phase."""
        if not terms:
            return
        values = torch.stack([term.detach().reshape(()).double() for term in terms.values()])
        if tuple(terms) != self._names:
            self.check()
            self._store_sums()
            self._names = tuple(terms)
            nothing = values.new_zeros(())
            self._total = torch.stack([self._sums.get(name, nothing) for name in terms])
            self._wrong_step = torch.full_like(values, -1.0)
            self._wrong_value = torch.zeros_like(values)
        fresh = values.isfinite().logical_or_(self._wrong_step >= 0).logical_not_()
        self._wrong_step.masked_fill_(fresh, step)
        self._wrong_value = torch.where(fresh, values, self._wrong_value)
        self._total += values
        self._steps += 1
        self._unread += 1
        self._epoch = epoch

    def check(self) -> None:
        """Read what was added; raises Diverged with the first term that was not finite."""
        self._unread = 0
        steps = [int(step) for step in self._wrong_step.tolist()]
        wrong = [(step, i) for i, step in enumerate(steps) if step >= 0]
        if not wrong:
            return
        step, i = min(wrong)
        raise Diverged(
            f"loss term {self._names[i]!r} became {float(self._wrong_value[i])} at step {step} "
            f"(epoch {self._epoch + 1}): lower the learning rate or the term's weight",
            step,
        )

    def means(self) -> dict[str, float]:
        """Return each term's mean over the steps since the last call; raises as `check` does."""
        self.check()
        self._store_sums()
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        self._start_epoch()
        return means

    def _store_sums(self) -> None:
        self._sums |= dict(zip(self._names, self._total, strict=True))
        self._names = ()


def check_terms(terms: Any, method: str) -> None:
    """Refuse anything but a dict of scalar tensors, which a user's method may return."""
    if not isinstance(terms, dict):
        returned = type(terms).__name__
    else:
        wrong = [k for k, v in terms.items() if not isinstance(v, Tensor) or v.numel() != 1]
        if not wrong:
            return
        value = terms[wrong[0]]
        shape = f" {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        returned = f"a {type(value).__name__}{shape} as {wrong[0]!r}"
    raise KtbenchError(
        f"method {method}: loss must return a dict of scalar tensors, not {returned}"
    )


def require_ce(terms: dict[str, Tensor], method: str) -> None:
    """Refuse terms without the cross-entropy, which goes on where the transfer does not count."""
    if "ce" not in terms:
        raise KtbenchError(
            f"method {method}: loss gave no term 'ce', and the transfer is to count for a part of "
            "the training only (distill)"
        )


def total_of(
    terms: dict[str, Tensor], chosen: Sequence[str] | None, *, method: str, phase: str
) -> Tensor:
    """Sum the chosen terms, or all of them; raises KtbenchError where one is missing."""
    names = list(terms) if chosen is None else list(chosen)
    missing = [name for name in names if name not in terms]
    if missing or not names:
        raise KtbenchError(
            f"method {method}: phase {phase!r} trains the term "
            f"{missing[0] if missing else '(none)'!r}, but loss returned {sorted(terms)}"
        )
    total = terms[names[0]]
    for name in names[1:]:
        total = total + terms[name]
    return total
