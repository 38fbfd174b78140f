"""Loss and quality of tasks whose labels are classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ktbench.tasks._contract import Task


class Classification(Task):
    """A task whose labels are classes: cross-entropy, and the share of samples named rightly."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(outputs, labels)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the class with the largest logit, (B,)."""
        return outputs.argmax(1)

    def score(self, predictions: Tensor, labels: Tensor) -> float:
        """Return the share of samples whose class is named."""
        return int((predictions == labels).sum()) / len(labels)
