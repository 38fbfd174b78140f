"""One student's part of a cohort: its network, method, optimisers and history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.catalogue.transfer_window import carries_ce, misfit
from ktbench.data import Dataset, Split, counter_hash
from ktbench.isolation import claim, own_code, seed_all
from ktbench.networks.layout import Guard, Layout, choose, without_onednn
from ktbench.networks.numeric import EVERYTHING, Clock, Runner
from ktbench.networks.outline import FlopCounter
from ktbench.networks.weights import load_weights
from ktbench.records import Cell, Failure, KtbenchError
from ktbench.students._contract import Features
from ktbench.train.learning_rate import learning_rate, make_optimiser
from ktbench.train.loss_log import Terms, check_terms, require_ce, total_of
from ktbench.train.method_setup import scope_parameters, similarity
from ktbench.transfer_methods._contract import Batch, Needs, Phase, Setting, Shapes, Update

_INIT, _ADAPTORS, _DROPOUT = 101, 102, 103
_EVALUATION = 105  # 104 draws the teachers of a step


@dataclass
class Running:
    """An update of the current phase with its parameters and optimiser."""

    update: Update
    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer


@dataclass
class Lane:
    """A student in training. `epoch` is the next one to be trained."""

    cell: Cell
    dataset: Dataset
    base: Path
    probe: Batch
    """A few training images, to find shapes and dependencies."""
    teacher_features: Features | None
    """The teacher's features of the probe."""
    teacher_names: tuple[str, ...] = ()
    """Of the teacher's stages."""
    first_weights: Path | None = None
    """A file that the student's weights are at the start; None: fresh ones of the seed."""
    asked: Layout | None = None
    """How to run the student; None: as its own layers decide."""
    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    failure: Failure | None = None

    def __post_init__(self) -> None:
        """Build the student and the method, each from its own seed."""
        data, cell = self.dataset, self.cell
        seed_all(derived_seed(cell.seed, _INIT))
        with own_code():
            self.student = catalogue.build_student(
                cell.student.name,
                cell.student.settings,
                num_classes=len(data.classes),
                in_channels=data.shape[0],
                base=str(self.base),
            )
        claim(self.student, cell.student.label)
        if self.first_weights is not None:
            load_weights(self.student, self.first_weights)
        elif cell.start is not None:
            raise KtbenchError(f"{cell.label}: its first weights, from blocks, are not there")
        # Drawn on the CPU, so that a seed's weights at the start are the same on every device.
        self.device = torch.device(cell.numeric.device)
        with own_code():
            self._lay_out()
            self._make_method()
        self._phase = -1
        self._running: list[Running] = []
        self._step_flops: dict[str, int] = {}
        self._guarded = False
        """Whether a layer of the method's met the fault that `layout` tells of."""
        self.seconds = self.teacher_seconds = self.shared_seconds = 0.0
        self.flops = self.teacher_flops = 0
        self.best_validation, self.best_epoch = -1.0, 0
        self.best_state: dict[str, Tensor] = {}
        self._terms, self._clock = Terms(), Clock(self.device)
        self.student.train()
        modules = (self.student, self.method)
        self._own = [t for m in modules for t in chain(m.parameters(), m.buffers())]
        self._mark: int | None = None

    def _lay_out(self) -> None:
        """Put the student where and as it is trained."""
        numeric, architecture = self.cell.numeric, self._architecture()
        probe = self.probe.inputs
        self.layout = self.asked or choose(
            self.student, probe.clone(), numeric, architecture=architecture
        )
        self.layout.place(self.student, self.device)
        self.inputs = self.layout.inputs(probe)
        self._run = Runner(self.student, numeric, architecture=architecture, layout=self.layout)

    def _make_method(self) -> None:
        """The method, from a seed of its own, told of what the student shows of the probe."""
        cell = self.cell
        self.student.eval()
        with torch.no_grad():
            own = self._run(self.probe.inputs.clone(), EVERYTHING, eager=True)
        kind = catalogue.method(cell.method.name, str(self.base))
        config = catalogue.method_config(cell.method.name, cell.method.settings, str(self.base))
        self._needs: Needs = kind.needs(config)
        self._student_needs: Needs = kind.student_needs(config)
        setting = self._setting(own)
        if reason := kind.incompatible(config, setting):
            raise KtbenchError(f"{cell.label}: {reason}")
        seed_all(derived_seed(cell.seed, _ADAPTORS))
        self.method = kind(config, setting).to(self.device)
        claim(self.method, f"method {cell.method.name}")
        self.phases: Sequence[Phase] = tuple(self.method.phases())
        self._scale = kind.scale(config)
        if not (self.phases and all(isinstance(phase, Phase) for phase in self.phases)):
            raise KtbenchError(f"method {cell.method.name}: phases must return some Phase objects")
        if cell.distill is not None:
            steps = cell.train.epochs * max(1, setting.train_size // setting.batch_size)
            if reason := misfit(cell.distill, self._scale, self.phases, steps=steps):
                raise KtbenchError(f"{cell.label}: {reason}")

    def _setting(self, own: Features) -> Setting:
        teacher = self.teacher_features
        reads = self._needs.stages or self._needs.preacts
        comparable = teacher is not None and teacher.stages and own.stages and reads
        return Setting(
            student=Shapes.of(own, self.student.stage_names),
            teacher=Shapes.of(teacher, self.teacher_names) if teacher is not None else None,
            num_classes=len(self.dataset.classes),
            train_size=self.dataset.size("train"),
            batch_size=self.cell.train.batch_size,
            similarity=similarity(teacher, own) if teacher is not None and comparable else None,
        )

    def _architecture(self) -> str:
        """Equal where networks are built alike, so that one compiled form serves them all."""
        data = self.dataset
        built = f"{self.cell.student.canonical} {self.student.structure}".rstrip()
        return f"{built} {len(data.classes)} {data.shape}"

    # ------------------------------------------------------------ one step

    def step(self, batch: Batch, teacher: Features | None) -> None:
        """Train on a batch; raises Diverged when a term was not finite, some steps later too."""
        with self._clock:
            try:
                self._step(batch, teacher)
            except Exception:
                self._terms.check()  # what fails after a term was not finite fails because of it
                raise
        if self._terms.due:
            self._terms.check()

    def _step(self, batch: Batch, teacher: Features | None) -> None:
        phase = self._enter_phase(batch.progress)
        batch = _private(batch.in_phase(phase.name))
        rate = learning_rate(self.cell.train, epoch=batch.epoch, progress=batch.progress)
        # Dropout and the like draw from the global generators: seeded per step, they do not
        # depend on who else is in the cohort or on where a run was resumed.
        seed_all(derived_seed(batch.seed, _DROPOUT))
        taught = self._taught(phase, batch.progress)
        kind = phase.name if taught else f"{phase.name} without transfer"
        if kind in self._step_flops:
            self._train_step(batch, teacher, rate, taught=taught)
        else:  # A phase's first step is counted, by operations that a compiler would hide.
            with Guard() as guard, FlopCounter() as counter:
                self._train_step(batch, teacher, rate, taught=taught, eager=True)
            self._step_flops[kind] = int(counter.get_total_flops())
            self._guarded |= guard.hit
        self.flops += self._step_flops[kind]

    def _train_step(
        self,
        batch: Batch,
        teacher: Features | None,
        rate: float,
        *,
        taught: bool,
        eager: bool = False,
    ) -> None:
        features = self._run(batch.inputs, self._student_needs, eager=eager)
        moving, method = self._running, self.cell.method.name
        if taught:
            terms = self.method.loss(features, teacher, batch)
            check_terms(terms, method)
            if self.cell.distill is not None and any(r.update.terms is None for r in moving):
                require_ce(terms, method)
        else:
            terms = {"ce": self._alone(features, batch)}
            moving = [running for running in moving if carries_ce(running.update)]
        self._terms.add(terms, step=batch.step, epoch=batch.epoch)
        gradients = []
        for number, running in enumerate(moving):
            update = running.update if taught else replace(running.update, terms=("ce",))
            total = total_of(terms, update.terms, method=method, phase=batch.phase)
            with without_onednn() if self._guarded else self.layout.running():
                gradients.append(
                    torch.autograd.grad(
                        total,
                        running.parameters,
                        allow_unused=True,
                        retain_graph=number + 1 < len(moving),
                    )
                )
        # Every gradient was taken at the same weights; only now does anything move.
        for running, found in zip(moving, gradients, strict=True):
            for parameter, gradient in zip(running.parameters, found, strict=True):
                parameter.grad = gradient
            for group in running.optimiser.param_groups:
                group["lr"] = rate
            running.optimiser.step()
            for parameter in running.parameters:
                parameter.grad = None

    def _alone(self, features: Features, batch: Batch) -> Tensor:
        """The loss outside the window of the transfer: the cross-entropy, weighed as it says."""
        assert self.cell.distill is not None and self._scale is not None
        keep = self.cell.distill.scale == "keep"
        weight = self._scale.alone if keep else self._scale.ce
        return weight * functional.cross_entropy(features.logits, batch.labels)

    # ------------------------------------------------------------ others

    def mark(self) -> None:
        """Remember what is now written in the student and the method."""
        self._mark = self._written()

    @property
    def touched(self) -> bool:
        """Whether anyone has written into them since."""
        return self._mark is not None and self._mark != self._written()

    def _written(self) -> int:
        return sum([tensor._version for tensor in self._own])

    # ------------------------------------------------------------ phases

    def needs(self, progress: float) -> Needs:
        """What a step reads of the teacher: nothing in a phase that does without it, and nothing
        outside the window of the transfer."""
        phase = self.phases[self._phase_at(progress)]
        return self._needs if phase.teacher and self._taught(phase, progress) else Needs()

    def _taught(self, phase: Phase, progress: float) -> bool:
        """Whether the method's own loss counts: outside the window, in phases without a teacher."""
        window = self.cell.distill
        return window is None or not phase.teacher or window.holds(progress)

    @property
    def edges(self) -> list[float]:
        """Shares of the training after which a step takes other work than before."""
        window = self.cell.distill
        ends = [phase.until for phase in self.phases[:-1]]
        ends += [] if window is None else [window.start, window.end]
        return sorted({end for end in ends if 0.0 < end < 1.0})

    def _phase_at(self, progress: float) -> int:
        ends = (i for i, phase in enumerate(self.phases) if progress < phase.until)
        return next(ends, len(self.phases) - 1)

    def _enter_phase(self, progress: float) -> Phase:
        number = self._phase_at(progress)
        if number != self._phase:
            self._start_phase(number)
        return self.phases[number]

    def _start_phase(self, number: int) -> None:
        """A phase begins with fresh optimisers, but for updates that the last one had too."""
        self._phase = number
        before = {running.update: running for running in self._running}
        self._running = []
        for update in self.phases[number].updates:
            if update in before:
                self._running.append(before[update])
                continue
            with Guard(), self.layout.running():
                parameters = scope_parameters(self.student, self.inputs.clone(), update.student)
            parameters += [
                parameter
                for name, parameter in self.method.named_parameters()
                if parameter.requires_grad
                and (update.adaptors is None or name.startswith(update.adaptors))
            ]
            if not parameters:
                raise KtbenchError(
                    f"method {self.cell.method.name}: phase {self.phases[number].name!r} "
                    "trains nothing"
                )
            optimiser = make_optimiser(self.cell.train, parameters)
            self._running.append(Running(update, parameters, optimiser))

    # ------------------------------------------------------------ epochs

    def end_epoch(self, *, step: int, progress: float) -> None:
        """Close an epoch: validate, remember the best, write the curve's row.

        Raises Diverged when a term of the epoch was not finite.
        """
        means = self._terms.means()
        self.seconds += self._clock.read()
        accuracy = self.accuracy("validation")
        if accuracy > self.best_validation:
            self.best_validation, self.best_epoch = accuracy, self.epoch + 1
            self.best_state = {k: v.clone() for k, v in self.student.state_dict().items()}
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": step,
            "phase": self.phases[self._phase].name,
            "validation_accuracy": accuracy,
            "seconds": self.seconds,
            "teacher_seconds": self.teacher_seconds,
            "flops": self.flops,
            "teacher_flops": self.teacher_flops,
            "lr": learning_rate(self.cell.train, epoch=self.epoch, progress=progress),
        }
        row |= {f"loss_{name}": mean for name, mean in means.items()}
        self.rows.append(row)
        self.epoch += 1

    def end_without_training(self) -> None:
        """Stand where a training would have ended, at no cost: for weights that were brought."""
        self._phase = len(self.phases) - 1
        self.end_epoch(step=0, progress=1.0)

    def unfit(self) -> str | None:
        """Why the trained network is of no use, or None: it must give finite logits.

        The last step's loss is taken before its update, and in train mode, so that it can be
        finite where the network no longer is.
        """
        self.student.eval()
        with torch.inference_mode():
            finite = bool(self.logits(self.inputs.clone()).isfinite().all())
        self.student.train()
        return None if finite else "the trained network's logits are not finite: lower the rate"

    def accuracy(self, split: Split) -> float:
        """Top-1 on a split, in eval mode; the student is back in train mode afterwards.

        Always single precision and not compiled: this is the network that is exported.
        """
        images, labels = self.dataset.images(split), self.dataset.labels(split).to(self.device)
        seed_all(derived_seed(self.cell.seed, _EVALUATION))  # a network may draw here, too
        self.student.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for start in range(0, len(labels), 256):
                chunk, truth = images[start : start + 256], labels[start : start + 256]
                inputs = self.dataset.normalise(chunk).to(self.device)
                right += (self.logits(inputs).argmax(1) == truth).sum()
        self.student.train()
        return int(right) / len(labels)

    def logits(self, images: Tensor) -> Tensor:
        """The plain network's answer (B, K), in the layout that it is trained in."""
        with self.layout.running():
            logits: Tensor = self.student(self.layout.inputs(images))
        return logits

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, as tensors and plain values."""
        return {
            "cell": self.cell.key,
            "torch": str(torch.__version__),
            "epoch": self.epoch,
            "phase": self._phase,
            "rows": self.rows,
            "student": self.student.state_dict(),
            "method": self.method.state_dict(),
            "optimisers": [r.optimiser.state_dict() for r in self._running],
            "step_flops": self._step_flops,
            "layout": self.layout.record.model_dump(),
            "guarded": self._guarded,
            "costs": [self.seconds, self.teacher_seconds, self.shared_seconds],
            "flops": [self.flops, self.teacher_flops],
            "best": [self.best_validation, self.best_epoch],
            "best_state": self.best_state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of this very cell."""
        if state["cell"] != self.cell.key or state["torch"] != str(torch.__version__):
            raise KtbenchError("written for another cell or another version of torch")
        self.student.suit(state["student"])
        self.student.load_state_dict(state["student"])
        self.method.load_state_dict(state["method"])
        if state["phase"] >= 0:
            self._start_phase(state["phase"])
            for running, saved in zip(self._running, state["optimisers"], strict=True):
                running.optimiser.load_state_dict(saved)
        self.epoch, self.rows = state["epoch"], state["rows"]
        self._step_flops = state["step_flops"]
        self._guarded = bool(state.get("guarded"))
        self.seconds, self.teacher_seconds, self.shared_seconds = state["costs"]
        self.flops, self.teacher_flops = state["flops"]
        self.best_validation, self.best_epoch = state["best"]
        self.best_state = state["best_state"]


def _private(batch: Batch) -> Batch:
    """A batch of a lane's own: networks and methods may work in place on what they are given."""
    return replace(
        batch,
        inputs=batch.inputs.clone(),
        labels=batch.labels.clone(),
        indices=batch.indices.clone(),
    )


def derived_seed(seed: int, purpose: int) -> int:
    """A 63-bit seed for one purpose, unrelated to those of other purposes."""
    return int(counter_hash(seed, purpose, 0)) >> 1
