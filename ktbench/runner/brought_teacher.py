"""A look at weights that a user brought along, before any student learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ktbench.data import Dataset
from ktbench.isolation import own_code
from ktbench.networks.layout import FIRST, Layout
from ktbench.records import Brought
from ktbench.results.brought_weights import doubt
from ktbench.runner.trained_teacher import TrainedTeacher
from ktbench.tasks._contract import is_of_classes

CHUNK = 256
"""Samples per pass."""
MOST_CLASSES = 4096
"""Classes of which a table of all pairs is counted."""


def examined(trained: TrainedTeacher, base: Path) -> TrainedTeacher:
    """Return a teacher with what is known of its weights, and with a line for the user."""
    teacher, data = trained.teacher, trained.trained_on(base)
    metric, guess = data.task.metric, guessed(data)
    brought = Brought(tested=data.size("test"))
    checkpoint = trained.checkpoint.model_copy(update={"brought": brought})
    reason = doubt(teacher, checkpoint, metric, guess)
    if reason:
        with own_code():
            network = trained.network(base).eval()
            renamed = share_if_renamed(network, data, trained.layout or FIRST)
        brought = brought.model_copy(update={"renamed": renamed})
        checkpoint = checkpoint.model_copy(update={"brought": brought})
        reason = doubt(teacher, checkpoint, metric, guess)
    figure = metric.written(checkpoint.accuracy.test_last)
    line = f"teacher {teacher.name}: {figure} on the test set, with weights of {teacher.checkpoint}"
    if reason:
        line = f"warning: teacher {teacher.name}: {reason}"
    return replace(trained, checkpoint=checkpoint, notes=(*trained.notes, line))


def guessed(data: Dataset) -> float:
    """Return the quality of a guess on a data set."""
    metric, chance = data.task.metric, data.task.chance(data.signature)
    return 1 / data.signature.outputs if chance is None else metric.quality(chance)


def share_if_renamed(network: nn.Module, data: Dataset, layout: Layout) -> float | None:
    """Return the share of test samples that would be right if each class were renamed at best.

    Renaming is one to one, by the assignment of greatest sum in the table of predicted and true
    classes. None for other tasks than of classes.
    """
    labels, classes = data.labels("test"), data.signature.outputs
    if not data.task.top_class or not is_of_classes(labels.numpy()) or classes > MOST_CLASSES:
        return None
    layout.place(network)
    said: list[Tensor] = []
    with torch.inference_mode(), layout.running():
        for start in range(0, len(labels), CHUNK):
            inputs = layout.inputs(data.some("test", slice(start, start + CHUNK)))
            said.append(network(inputs).argmax(1))
    predicted = torch.cat(said)
    if len(predicted) != len(labels):
        return None
    counts = torch.bincount(predicted * classes + labels, minlength=classes**2)
    table = counts.view(classes, classes).numpy()  # (predicted, true)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return int(table[rows, columns].sum()) / len(labels)
