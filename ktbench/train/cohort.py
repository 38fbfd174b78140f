"""The training loop: every student of a cohort steps on one batch and one teacher output."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ktbench.data import Dataset, Stream
from ktbench.isolation import Guard, noting_signals, own_code
from ktbench.networks.layout import Layout
from ktbench.networks.numeric import prepare
from ktbench.networks.weights import load_weights, require_planned, weights_digest
from ktbench.records import Accuracies, Cell, Checkpoint, Failure, KtbenchError, Look
from ktbench.system.files import write_atomically
from ktbench.train.cohort_steps import CohortTraining
from ktbench.train.context import Places, Progress, SharedInputs, TrainingContext
from ktbench.train.device_placement import make_probe, placed
from ktbench.train.history import Judged
from ktbench.train.loss_log import Diverged
from ktbench.train.memory_budget import Budget
from ktbench.train.start import TraineeBuilder, cohorts
from ktbench.train.trainee import Trainee


def train_cohort(cells: Sequence[Cell], context: TrainingContext) -> list[Checkpoint | Failure]:
    """Train cells that share teacher, data, seed and budget; one result per cell, in order.

    A cell's weights do not depend on the others. One that diverges, or whose method fails, leaves
    with a Failure; the others continue. A killed training resumes from its last checkpoint. The
    cells are trained together as far as this process stays within the context's memory.
    """
    first = cells[0]
    device = prepare(first.numeric)
    context = replace(
        context,
        dataset=placed(context.dataset, device),
        checkpoint_seconds=context.interval,
    )
    stream = Stream.of(context.dataset, first)
    budget = partial(
        Budget.here, context.memory, device=first.numeric.device, workers=context.workers
    )
    outcomes: list[Checkpoint | Failure] = []
    with noting_signals(), Guard() as guard:  # in this order: the guard keeps those handlers
        builder = TraineeBuilder(context, make_probe(stream, device), guard)
        for cohort in cohorts(cells, builder, stream, budget):
            failed = sum(isinstance(trainee, Failure) for trainee in cohort.trainees)
            before = (len(outcomes) + failed) * first.train.epochs

            def report(progress: Progress, before: int = before) -> None:
                total = len(cells) * first.train.epochs
                context.report(Progress(before + progress.done, total))

            training = CohortTraining(cohort, builder, stream, report)
            outcomes += _train(training)
            del cohort, training  # before the next one is opened
    return outcomes


def _train(training: CohortTraining) -> list[Checkpoint | Failure]:
    """Train those that could be opened; return the outcomes of all, in order."""
    teacher = training.context.teacher
    digest = teacher.digest if teacher is not None else None
    training.train()
    if teacher is not None and teacher.digest != digest:
        raise KtbenchError("the teacher's weights or buffers changed while its students learnt")
    return [
        trainee if isinstance(trainee, Failure) else _finish(trainee, training)
        for trainee in training.cohort.trainees
    ]


# ---------------------------------------------------------------- finished trainings


def _finish(trainee: Trainee, training: CohortTraining) -> Checkpoint | Failure:
    """Return the checkpoint of a trainee at its end, or why it has none.

    The saved work stays until the caller has written the cell's result, so that a run killed in
    between does not train again.
    """
    places = training.context.places(trainee.cell)
    if trainee.failure is None:
        training.save(trainee)
    closed: list[Closed] = []
    if trainee.failure is None:
        training.isolated(
            trainee, lambda: closed.append(_close(trainee)), doing="reading the test set"
        )
    if trainee.failure is not None:
        places.work.unlink(missing_ok=True)
        return trainee.failure
    return _written(trainee, places, *closed)


@dataclass(frozen=True)
class Closed:
    """A trained network: the weights to keep, and how it does on the test set."""

    weights: dict[str, Tensor]
    parameters: int
    test_last: Judged
    test_best: Judged


def _close(trainee: Trainee) -> Closed:
    """Read the test set, once; raises Diverged for a network of no use."""
    student, history = trainee.student, trainee.history
    trainee.take_average()
    if reason := trainee.unfit():
        raise Diverged(reason, max(0, history.rows[-1]["step"] - 1))
    last = {name: value.clone() for name, value in student.state_dict().items()}
    test_last = trainee.judged("test")
    student.load_state_dict(history.best_state)
    test_best = trainee.judged("test")
    weights = last if trainee.cell.train.keep == "last" else history.best_state
    weights = {name: value.cpu().contiguous() for name, value in weights.items()}
    return Closed(weights, sum(p.numel() for p in student.parameters()), test_last, test_best)


def _written(trainee: Trainee, places: Places, closed: Closed) -> Checkpoint:
    """Write a trained network's weights and curve, and return its record."""
    history, buffer = trainee.history, io.BytesIO()
    best = history.best_validation
    assert best is not None  # a training has an epoch at least
    torch.save(closed.weights, buffer)
    write_atomically(places.weights, buffer.getvalue())
    history.write_curve(places.curves)
    return Checkpoint(
        cell_key=trainee.cell.key,
        path=str(places.weights.relative_to(places.root)),
        digest=weights_digest(closed.weights),
        curves=str(places.curves.relative_to(places.root)),
        parameters=closed.parameters,
        epochs=history.epoch,
        accuracy=Accuracies(
            validation_last=history.rows[-1]["validation_accuracy"],
            validation_best=best,
            best_epoch=history.best_epoch,
            test_last=closed.test_last.figure,
            test_best=closed.test_best.figure,
            beside_last=closed.test_last.beside,
            beside_best=closed.test_best.beside,
        ),
        cost=history.cost,
        layout=trainee.layout.record,
        pairing=trainee.pairing,
        looks=tuple(look for look in map(Look.of, history.looks) if look is not None),
        begun=trainee.begun,
        data_digest=trainee.shared.dataset.digest,
    )


def adopt(
    cell: Cell,
    checkpoint: Path,
    *,
    dataset: Dataset,
    places: Places,
    base: Path,
    layout: Layout | None = None,
    digest: str | None = None,
) -> Checkpoint:
    """Make a user's own weights the checkpoint of a cell that was never trained here.

    Raises KtbenchError when the file does not hold weights of the cell's network, or is not the one
    of the `digest` any more.
    """
    device = prepare(cell.numeric)
    dataset = placed(dataset, device)
    probe = make_probe(Stream(dataset, cell.seed, cell.train.batch_size), device)
    trainee = Trainee(cell, SharedInputs(dataset, base, probe), layout=layout)
    if digest is not None:
        require_planned(checkpoint, digest)
    load_weights(trainee.student, checkpoint, finite=True)
    with own_code():
        trainee.end_without_training()
        if trainee.unfit():
            problem = "with these weights the network's logits are not finite"
            raise KtbenchError(f"{checkpoint}: {problem}")
        closed = _close(trainee)
    return _written(trainee, places, closed)
