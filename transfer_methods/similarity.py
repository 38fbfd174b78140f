"""Similarity-preserving distillation: the student reproduces how similar a batch's samples are.

Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, equations 1 to 4.

Difference from the standard comparison (Tian et al., ICLR 2020). Its code reads a wide ResNet's
last sum before BatchNorm and ReLU; here the stage counts after its activation, as in the paper.
`compatible: repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods._common import View, mean_square, sum_of
from ktbench.transfer_methods._contract import Batch
from ktbench.transfer_methods._paired import ComparedWeights, Paired
from ktbench.transfer_methods._pairs import Pairs


@dataclass(frozen=True, slots=True)
class Config(ComparedWeights):
    """The published settings: weight 3000, the last stage."""

    weight: float = 3000.0
    """Weight of the sum over pairs."""
    pairs: Pairs = "last"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`."""


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised Gram matrices (B, B) of flattened stages.

    Neither width nor size need agree. Grows with B^2 and linearly with the stage.
    """
    return mean_square(_gram(student), _gram(teacher))


def _gram(stage: Tensor) -> Tensor:
    rows = stage.flatten(1)
    return functional.normalize(rows @ rows.T, dim=1)


class Method(Paired[Config]):
    """ce_weight * CE + weight * sum over pairs of the similarity loss."""

    Config = Config
    compared = "last"

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = self.maps(student), self.maps(teacher)
        return sum_of([similarity_loss(ours[s], theirs[t]) for t, s in self.pairs])
