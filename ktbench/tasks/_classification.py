"""Loss and quality of tasks whose labels are classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.records import ACCURACY, Metric
from ktbench.tasks._contract import Task

MATTHEWS = Metric(name="Matthews' correlation", word="MCC", low=-1.0, chance=0.0, digits=3)


class Classification(Task):
    """A task whose labels are classes: cross-entropy, and one of the `METRICS`."""

    metric = ACCURACY
    top_class = True
    takes_shares = True

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy with classes (B,), or with their shares (B, K)."""
        return functional.cross_entropy(outputs, labels)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the class with the largest logit, (B,)."""
        return outputs.argmax(1)

    def score(self, per_sample: Tensor, labels: Tensor) -> float:
        """Return the share of samples whose class is named, or their Matthews' correlation."""
        if self.metric == MATTHEWS:
            return matthews(per_sample, labels)
        return int((per_sample == labels).sum()) / len(labels)


METRICS = {"accuracy": ACCURACY.model_copy(update={"name": "accuracy"}), "matthews": MATTHEWS}
"""Metrics of classes by the names of a task's setting `metric`."""


def matthews(predictions: Tensor, labels: Tensor) -> float:
    """Matthews' correlation of two lists of classes (N,), from -1 to 1.

    Of two classes as Matthews has it (Biochimica et Biophysica Acta 405, 1975), of more Gorodkin's
    R_K (Computational Biology and Chemistry 28, 2004): the covariance of both lists over the root
    of the product of their variances. It is 0 where either names one class alone.
    """
    count = int(torch.maximum(predictions, labels).max()) + 1
    said, right = (torch.bincount(side, minlength=count).tolist() for side in (predictions, labels))
    samples, agreed = len(labels), int((predictions == labels).sum())
    # In whole numbers, which are exact however many samples there are.
    covariance = agreed * samples - sum(s * r for s, r in zip(said, right, strict=True))
    variances = [samples**2 - sum(n * n for n in side) for side in (said, right)]
    if not all(variances):
        return 0.0
    return float(covariance / math.sqrt(variances[0] * variances[1]))
