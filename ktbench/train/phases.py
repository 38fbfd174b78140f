"""The phases of a training: which updates run at a moment, with their optimisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ktbench.networks.layout import Guard, Layout
from ktbench.records import Cell, KtbenchError
from ktbench.students._contract import Inputs, Student, each
from ktbench.train.learning_rate import SCALE, make_optimiser
from ktbench.train.method_setup import MethodSetup, scope_parameters
from ktbench.transfer_methods._contract import Needs, Phase, Update


@dataclass(frozen=True)
class RunningUpdate:
    """An update of the current phase, with its parameters and optimiser."""

    update: Update
    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    clip_norm: float | None = None

    def step(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        """Move the parameters by gradients that were taken before."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get(SCALE, 1.0)
        self.optimiser.step()
        for parameter in self.parameters:
            parameter.grad = None


class PhaseSchedule:
    """The phases of a cell's method, and the updates of the one that the training is in."""

    def __init__(
        self,
        cell: Cell,
        setup: MethodSetup,
        student: Student,
        layout: Layout,
        probe: Inputs,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._cell, self._setup, self._student = cell, setup, student
        named = student.named_parameters() if scales else ()
        self._scales = {p: scales[name] for name, p in named if scales and name in scales}
        """Factors of the rate by the student's parameters."""
        self._layout, self._probe = layout, probe
        self.number = -1
        """Index of the current phase; -1 before the first step."""
        self.updates: list[RunningUpdate] = []

    @property
    def current(self) -> Phase:
        """The phase that was entered last."""
        return self._setup.phases[self.number]

    def teacher_needs(self, progress: float) -> Needs:
        """Return what a step reads of the teacher.

        Nothing in a phase that does without it, and nothing outside the window of the transfer.
        """
        phase = self._setup.phases[self._index(progress)]
        reads = phase.teacher and self.transfers(phase, progress)
        return self._setup.teacher_needs if reads else Needs()

    def transfers(self, phase: Phase, progress: float) -> bool:
        """Return whether the method's own loss counts: in the window, or without a teacher."""
        window = self._cell.distill
        return window is None or not phase.teacher or window.holds(progress)

    @property
    def weight_outside_window(self) -> float:
        """Weight of the cross-entropy where it is trained on alone, as the window says."""
        window, scale = self._cell.distill, self._setup.scale
        assert window is not None and scale is not None
        return scale.alone if window.scale == "keep" else scale.ce

    @property
    def edges(self) -> list[float]:
        """Shares of the training after which a step takes other work than before."""
        window = self._cell.distill
        ends = [phase.until for phase in self._setup.phases[:-1]]
        ends += [] if window is None else [window.start, window.end]
        return sorted({end for end in ends if 0.0 < end < 1.0})

    def _index(self, progress: float) -> int:
        phases = self._setup.phases
        ends = (i for i, phase in enumerate(phases) if progress < phase.until)
        return next(ends, len(phases) - 1)

    def enter(self, progress: float) -> Phase:
        """Return the phase of a step, and begin it if it is another than the current one."""
        number = self._index(progress)
        if number != self.number:
            self._begin(number)
        return self.current

    def finish(self) -> None:
        """Stand in the last phase without updates, as a network that is not trained here."""
        self.number = len(self._setup.phases) - 1

    def _begin(self, number: int) -> None:
        """Make fresh optimisers, except for updates that the last phase had too."""
        self.number = number
        before = {running.update: running for running in self.updates}
        self.updates = []
        for update in self.current.updates:
            running = before.get(update) or self._running(update)
            self.updates += [] if running is None else [running]
        if not self.updates:
            raise self._nothing()

    def _running(self, update: Update) -> RunningUpdate | None:
        """Return an update with its optimiser; None where all that it would move is frozen."""
        with Guard(), self._layout.running():
            probe = each(self._probe, Tensor.clone)
            parameters = scope_parameters(self._student, probe, update.student)
        parameters += [
            parameter
            for name, parameter in self._setup.method.named_parameters()
            if parameter.requires_grad
            and (update.adaptors is None or name.startswith(update.adaptors))
        ]
        if not parameters:
            if self._cell.from_file is not None and self._cell.from_file.freeze:
                return None
            raise self._nothing()
        train = self._cell.train
        optimiser = make_optimiser(train, parameters, self._scales)
        return RunningUpdate(update, parameters, optimiser, train.clip_norm)

    def _nothing(self) -> KtbenchError:
        return KtbenchError(
            f"method {self._cell.method.name}: phase {self.current.name!r} trains nothing"
        )

    # ------------------------------------------------------------ state

    def optimiser_states(self) -> list[dict[str, Any]]:
        """Return the states of the current updates' optimisers, in order."""
        return [running.optimiser.state_dict() for running in self.updates]

    def restore(self, number: int, optimisers: list[dict[str, Any]]) -> None:
        """Go on in a phase with saved states of its optimisers."""
        if number < 0:
            return
        self._begin(number)
        for running, saved in zip(self.updates, optimisers, strict=True):
            running.optimiser.load_state_dict(saved)
