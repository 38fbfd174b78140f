"""Doubts about weights that a user brought along: do they do here what they did elsewhere?

A network that is fed other values than it was trained on, or whose classes have another order,
still teaches, and nothing but its figures shows it.
"""

from __future__ import annotations

import math

from ktbench import stats
from ktbench.records import Checkpoint, Metric, Teacher

FAR = 2
"""Steps of the metric (percentage points) that a figure may lie below what is expected."""
NEAR_A_GUESS = 1 / 3
"""Share of the way from a guess to the best figure, below which weights are doubted unasked."""


def doubt(teacher: Teacher, checkpoint: Checkpoint | None, metric: Metric, guess: float) -> str:
    """Say why a teacher's weights are in doubt, and what to do; empty where they are not.

    `guess` is the quality of a guess, NaN where it is not known. With `expect`, a figure is in
    doubt that is worse by more than two points and beyond Wilson's interval of a share; without,
    one near a guess.
    """
    if teacher.checkpoint is None or checkpoint is None:
        return ""
    figure = checkpoint.accuracy.test_last
    if teacher.expect is not None:
        if not _far_below(checkpoint, metric, teacher.expect):
            return ""
        beside = f"and {metric.written(teacher.expect)} was expected"
    elif _near(metric.quality(figure), guess, metric):
        beside = f"where a guess has {metric.written(metric.quality(guess))}"
    else:
        return ""
    told = f"{metric.written(figure)} on the test set, {beside}"
    return f"{told}: {_advice(checkpoint, metric, guess)}"


def _far_below(checkpoint: Checkpoint, metric: Metric, expected: float) -> bool:
    figure, brought = checkpoint.accuracy.test_last, checkpoint.brought
    if metric.quality(expected) - metric.quality(figure) <= FAR * metric.step:
        return False
    if metric.digits is not None or metric.better == "less" or brought is None:
        return True  # no share of samples
    _, high = stats.wilson(figure * brought.tested, brought.tested)
    return expected > float(high)


def _near(quality: float, guess: float, metric: Metric) -> bool:
    best = metric.high if metric.better == "more" else metric.low
    if best is None or math.isnan(guess):
        return False
    return quality - guess < NEAR_A_GUESS * (metric.quality(best) - guess)


def _advice(checkpoint: Checkpoint, metric: Metric, guess: float) -> str:
    renamed = checkpoint.brought.renamed if checkpoint.brought is not None else None
    # Halfway from a guess to certainty: chance alone renames no classes so well.
    if renamed is not None and renamed >= max((1 + guess) / 2, checkpoint.accuracy.test_last + 0.1):
        return (
            f"its classes seem to have another order, as {metric.written(renamed)} would be right "
            "if each were renamed: give its last layer's rows the order in which `ktbench plan` "
            "lists the classes"
        )
    return (
        "say in `preprocess` what it was trained on (unit, bytes, imagenet, ..., a size), and see "
        "that it has the data's classes (num_classes) in the data's order"
    )
