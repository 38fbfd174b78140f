"""One student in training: its network, method and step, and its account so far."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ktbench import catalogue
from ktbench.catalogue.transfer_window import carries_ce
from ktbench.data import Split
from ktbench.isolation import claim, own_code, seed_all
from ktbench.networks.first_weights import begin_from_file
from ktbench.networks.layout import Guard, Layout, choose, without_onednn
from ktbench.networks.network_parts import hold, learning_of
from ktbench.networks.numeric import COMPARED, EVERYTHING, Clock, Runner
from ktbench.networks.outline import FlopCounter
from ktbench.networks.weights import begin_from, load_weights
from ktbench.records import Begun, Cell, Failure, KtbenchError
from ktbench.students._contract import Features, Inputs, Student, each
from ktbench.train.context import SharedInputs
from ktbench.train.device_placement import copied
from ktbench.train.history import Judged, TrainingHistory
from ktbench.train.learning_rate import learning_rate
from ktbench.train.loss_balance import due, look_at
from ktbench.train.loss_log import Diverged, check_terms, require_ce, total_of
from ktbench.train.method_setup import set_up_method
from ktbench.train.phases import PhaseSchedule
from ktbench.train.seeds import EVALUATION, FIRST_WEIGHTS, STEP, derived_seed
from ktbench.train.weight_average import WeightAverage
from ktbench.transfer_methods._contract import Batch, Needs

EVALUATION_BATCH = 256
"""Samples per pass of an evaluation."""


class Trainee:
    """A student in training; `epoch` is the next one to be trained.

    `first_weights` is a file of the weights to begin from; without one they are drawn from the
    seed. Without a `layout` the student's own layers decide how it is run. `warmed_up` is the
    student that pairs of stages are chosen with, for a cell that has a warm-up.
    """

    def __init__(
        self,
        cell: Cell,
        shared: SharedInputs,
        first_weights: Path | None = None,
        layout: Layout | None = None,
        warmed_up: Student | None = None,
    ) -> None:
        self.cell, self.shared = cell, shared
        self.failure: Failure | None = None
        self._build_student(first_weights)
        # Drawn on the CPU, so that a seed's weights at the start are the same on every device.
        self.device = torch.device(cell.numeric.device)
        with own_code():
            self._place(layout)
            self._build_method(warmed_up)
        self.history = TrainingHistory()
        self._step_flops: dict[str, int] = {}
        """FLOPs of a step, by phase and whether it transfers."""
        self._looked: set[str] = set()
        """Parts of the training in which the balance of the loss has been looked at."""
        self._avoids_onednn = False
        """True once a layer of the method met the fault that `layout` works around."""
        self._average: WeightAverage | None = None
        """The average of the weights, once a first step is near, if there is to be one."""
        self._clock = Clock(self.device)
        self.student.train()
        modules = (self.student, self.method)
        self._tensors = [t for m in modules for t in chain(m.parameters(), m.buffers())]
        self._writes: int | None = None

    def _build_student(self, first_weights: Path | None) -> None:
        data, cell = self.shared.dataset, self.cell
        seed_all(derived_seed(cell.seed, FIRST_WEIGHTS))
        with own_code():
            self.student = catalogue.build_student(
                cell.student.name,
                cell.student.settings,
                base=str(self.shared.base),
                **data.dimensions,
            )
        claim(self.student, cell.student.label)
        self.begun: Begun | None = None
        """The part of the first weights that another training gave."""
        if cell.from_file is not None:
            self.begun = begin_from_file(self.student, self.shared.base, cell.from_file)
        elif first_weights is not None and cell.pretrained is not None:
            self.begun = begin_from(self.student, first_weights)
        elif first_weights is not None:
            load_weights(self.student, first_weights)
        elif cell.pretrained is not None:
            raise KtbenchError(f"{cell.label}: the weights that it begins from are not there")
        elif cell.start is not None:
            raise KtbenchError(f"{cell.label}: its first weights, from blocks, are not there")

    def _place(self, layout: Layout | None) -> None:
        """Put the student on its device, in the layout that it is trained in."""
        numeric, data = self.cell.numeric, self.shared.dataset
        # Equal where networks are built alike, so that one compiled form serves them all.
        built = f"{self.cell.student.canonical} {self.student.structure}".rstrip()
        self._architecture = architecture = f"{built} {data.signature}"
        inputs = self.shared.probe.inputs
        self.layout = layout or choose(
            self.student, each(inputs, Tensor.clone), numeric, architecture=architecture
        )
        self.layout.place(self.student, self.device)
        self.probe_inputs = self.layout.inputs(inputs)
        self._run = Runner(self.student, numeric, architecture=architecture, layout=self.layout)
        self._scales: Mapping[str, float] = {}
        """Factors of the learning rate by parameter, where they are not 1."""
        if self.cell.from_file is not None:
            probe = each(self.probe_inputs, Tensor.clone)
            with Guard(), self.layout.running():
                learning = learning_of(self.student, probe, self.cell.from_file)
            hold(self.student, learning.frozen)
            self._scales = learning.scales

    def _build_method(self, warmed_up: Student | None) -> None:
        inputs, teacher = self.shared.probe.inputs, self.shared.teacher_features
        probed = compared = self._probed(self.student, self._run, inputs)
        if self.cell.warmup is not None:
            if warmed_up is None:
                raise KtbenchError(f"{self.cell.label}: its warm-up is not there")
            self.layout.place(warmed_up, self.device)
            numeric, architecture = self.cell.numeric, self._architecture
            run = Runner(warmed_up, numeric, architecture=architecture, layout=self.layout)
            if self.shared.comparison is not None:
                batch, teacher = self.shared.comparison()
                inputs = batch.inputs
            compared = self._probed(warmed_up, run, inputs, COMPARED)
        setup = set_up_method(self.cell, self.shared, self.student, probed, (teacher, compared))
        self.pairing = setup.pairing
        self.method, self._student_needs = setup.method, setup.student_needs
        placed = self.student, self.layout, self.probe_inputs
        self.phases = PhaseSchedule(self.cell, setup, *placed, self._scales)

    def _probed(
        self, network: Student, run: Runner, inputs: Inputs, needs: Needs = EVERYTHING
    ) -> Features:
        network.eval()
        with torch.no_grad():
            return run(each(inputs, Tensor.clone), needs, eager=True)

    @property
    def epoch(self) -> int:
        """Index of the next epoch to be trained."""
        return self.history.epoch

    # ------------------------------------------------------------ one step

    def needs(self, progress: float) -> Needs:
        """Return what a step reads of the teacher."""
        return self.phases.teacher_needs(progress)

    def step(self, batch: Batch, teacher: Features | None) -> None:
        """Train on a batch; raises Diverged when a term was not finite, some steps later too."""
        losses = self.history.losses
        with self._clock:
            try:
                self._begin_average()
                self._step(batch, teacher)
                if self._average is not None:
                    self._average.update(batch.step)
            except Exception:
                losses.check()  # what fails after a term was not finite fails because of it
                raise
        if losses.due:
            losses.check()

    def _begin_average(self) -> None:
        decay = self.cell.train.ema
        if decay is not None and self._average is None:
            self._average = WeightAverage(self.student, decay)

    def _step(self, batch: Batch, teacher: Features | None) -> None:
        phase = self.phases.enter(batch.progress)
        # Networks and methods may work in place on what they are given.
        batch = copied(batch.in_phase(phase.name))
        rate = learning_rate(self.cell.train, epoch=batch.epoch, progress=batch.progress)
        # Dropout and the like draw from the global generators: seeded per step, they do not
        # depend on who else is in the cohort or on where a run was resumed.
        seed_all(derived_seed(batch.seed, STEP))
        transfers = self.phases.transfers(phase, batch.progress)
        kind = phase.name if transfers else f"{phase.name} without transfer"
        if kind in self._step_flops:
            self._update(batch, teacher, rate, transfers=transfers)
        else:  # A phase's first step is counted, by operations that a compiler would hide.
            with Guard() as guard, FlopCounter() as counter:
                self._update(batch, teacher, rate, transfers=transfers, eager=True)
            self._step_flops[kind] = int(counter.get_total_flops())
            self._avoids_onednn |= guard.hit
        self.history.flops += self._step_flops[kind]

    def _update(
        self,
        batch: Batch,
        teacher: Features | None,
        rate: float,
        *,
        transfers: bool,
        eager: bool = False,
    ) -> None:
        """Compute the loss and move the parameters of the phase's updates."""
        features = self._run(batch.inputs, self._student_needs, eager=eager)
        updates, method = self.phases.updates, self.cell.method.name
        if transfers:
            terms = self.method.loss(features, teacher, batch)
            check_terms(terms, method)
            if self.cell.distill is not None and any(u.update.terms is None for u in updates):
                require_ce(terms, method)
            chosen = [running.update.terms for running in updates]
        else:
            weight = self.phases.weight_outside_window
            terms = {"ce": weight * batch.supervised(features.logits)}
            updates = [running for running in updates if carries_ce(running.update)]
            chosen = [("ce",)] * len(updates)
        self.history.losses.add(terms, step=batch.step, epoch=batch.epoch)
        # Not in a step whose operations are counted, nor through a compiled backward pass, which
        # may run once only.
        looks = len(terms) > 1 and not eager and not self.cell.numeric.compile
        if looks and due(batch.phase, batch.progress, self._looked):
            modules = self.student, self.method
            with self._clock.paused(), self._running():
                look = look_at(terms, updates, chosen, *modules)
            self.history.looks += [{"epoch": batch.epoch + 1, "phase": batch.phase, **look}]
        gradients = []
        for number, (running, names) in enumerate(zip(updates, chosen, strict=True)):
            total = total_of(terms, names, method=method, phase=batch.phase)
            if not total.requires_grad:
                place = f"method {method}: phase {batch.phase!r}"
                raise KtbenchError(f"{place}: its loss depends on nothing that is trained")
            with self._running():
                gradients.append(
                    torch.autograd.grad(
                        total,
                        running.parameters,
                        allow_unused=True,
                        retain_graph=number + 1 < len(updates),
                    )
                )
        # Every gradient was taken at the same weights; only now does anything move.
        for running, its_gradients in zip(updates, gradients, strict=True):
            running.step(its_gradients, rate)

    def _running(self) -> AbstractContextManager[None]:
        return without_onednn() if self._avoids_onednn else self.layout.running()

    # ------------------------------------------------------------ writes by others

    def remember_writes(self) -> None:
        """Remember how often the student's and the method's tensors have been written into."""
        self._writes = self._count_writes()

    @property
    def touched(self) -> bool:
        """True where anyone has written into them since."""
        return self._writes is not None and self._writes != self._count_writes()

    def _count_writes(self) -> int:
        return sum([tensor._version for tensor in self._tensors])

    # ------------------------------------------------------------ epochs

    def end_epoch(self, *, step: int, progress: float) -> None:
        """Validate, and close the epoch's account.

        Raises Diverged when a term of the epoch was not finite.
        """
        losses = self.history.losses.means()
        self.history.seconds += self._clock.read()
        with nullcontext() if self._average is None else self._average.shown():
            self.history.add_epoch(
                self.student,
                losses,
                step=step,
                phase=self.phases.current.name,
                judged=self.judged("validation"),
                rate=learning_rate(self.cell.train, epoch=self.epoch, progress=progress),
            )

    def take_average(self) -> None:
        """Give the student its averaged weights for good, where the training asks for them."""
        if self._average is not None:
            self._average.take()

    def end_without_training(self) -> None:
        """Stand where a training would have ended, at no cost: for weights that were brought."""
        self.phases.finish()
        self.end_epoch(step=0, progress=1.0)

    def unfit(self) -> str | None:
        """Return why the trained network is of no use, or None: it must give finite logits.

        The last step's loss is taken before its update, and in train mode, so that it can be
        finite where the network no longer is.
        """
        self.student.eval()
        with torch.inference_mode():
            finite = bool(self.logits(each(self.probe_inputs, Tensor.clone)).isfinite().all())
        self.student.train()
        return None if finite else "the trained network's logits are not finite: lower the rate"

    def judged(self, split: Split) -> Judged:
        """Return the task's metric on a split, in eval mode; the student is left in train mode.

        Always single precision and not compiled: this is the network that is exported. Raises
        Diverged for figures that cannot be.
        """
        data = self.shared.dataset
        task = data.task
        labels = data.labels(split).to(self.device)
        seed_all(derived_seed(self.cell.seed, EVALUATION))  # a network may draw here, too
        self.student.eval()
        each_sample: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, data.size(split), EVALUATION_BATCH):
                chosen = slice(start, start + EVALUATION_BATCH)
                inputs = data.some(split, chosen)
                inputs = each(inputs, lambda part: part.to(self.device))
                its_labels = data.labels(split, chosen).to(self.device)
                each_sample.append(task.per_sample(self.logits(inputs), its_labels))
        self.student.train()
        per_sample = torch.cat(each_sample)
        judged = Judged(
            task.metric, task.score(per_sample, labels), task.beside(per_sample, labels)
        )
        if judged.objection:
            step = self.history.rows[-1]["step"] if self.history.rows else 0
            raise Diverged(f"{split} set: {judged.objection}", step)
        return judged

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the plain network's logits (B, K), in the layout that it is trained in."""
        with self.layout.running():
            logits: Tensor = self.student(self.layout.inputs(inputs))
        return logits

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, as plain values."""
        history = self.history
        return {
            "cell": self.cell.key,
            "torch": str(torch.__version__),
            "epoch": history.epoch,
            "phase": self.phases.number,
            "rows": history.rows,
            "student": self.student.state_dict(),
            "average": None if self._average is None else self._average.state(),
            "method": self.method.state_dict(),
            "optimisers": self.phases.optimiser_states(),
            "step_flops": self._step_flops,
            "looked": sorted(self._looked),
            "looks": history.looks,
            "layout": self.layout.record.model_dump(),
            "guarded": self._avoids_onednn,
            "costs": [history.seconds, history.teacher_seconds, history.shared_seconds],
            "flops": [history.flops, history.teacher_flops],
            "best": [history.best_validation, history.best_epoch],
            "best_state": history.best_state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same cell."""
        if state["cell"] != self.cell.key or state["torch"] != str(torch.__version__):
            raise KtbenchError("written for another cell or another version of torch")
        self.student.suit(state["student"])
        self.student.load_state_dict(state["student"])
        if (average := state.get("average")) is not None:
            self._begin_average()
            assert self._average is not None  # the cell is the same
            self._average.restore(average)
        self.method.load_state_dict(state["method"])
        self.phases.restore(state["phase"], state["optimisers"])
        self._step_flops = state["step_flops"]
        self._looked = set(state.get("looked", ()))
        self._avoids_onednn = bool(state.get("guarded"))
        self.history.restore(state)
