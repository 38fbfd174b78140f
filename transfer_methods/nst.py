"""Neuron selectivity transfer: channels of both networks should respond at the same positions.

Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017,
equations 5 and 7: the maximum mean discrepancy with the polynomial kernel (x . y)^2.

Differences from the standard comparison (Tian et al., ICLR 2020). Its code leaves out VGG's first
stage and reads a wide ResNet's sums before BatchNorm and ReLU; here every stage counts, after its
activation. `compatible: repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods._adapt import aligned
from ktbench.transfer_methods._common import View, sum_of
from ktbench.transfer_methods._contract import Batch
from ktbench.transfer_methods._paired import ComparedWeights, Paired


@dataclass(frozen=True, slots=True)
class Config(ComparedWeights):
    """The published settings: weight 50, all stages."""

    weight: float = 50.0
    """Weight of the sum over pairs."""


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared discrepancy between the channels of two stages, mean over samples.

    Each channel is a vector over positions, divided by its norm. It takes the lesser of
    B (C_s^2 + C_s C_t + C_t^2) numbers, the kernels between channels, and 2 B (H W)^2: as the sum
    of (x . y)^2 over channels x and y is the product of the two sides' sums of x x^T, the
    discrepancy is also a squared distance between two matrices over positions.
    """
    ours, theirs = (
        functional.normalize(side.flatten(2), dim=2) for side in aligned(student, teacher)
    )  # (B, C, H W)
    mine, other, positions = ours.shape[1], theirs.shape[1], ours.shape[2]
    if 2 * positions**2 < mine**2 + mine * other + other**2:
        return (_moment(ours) - _moment(theirs)).square().flatten(1).sum(1).mean()
    return _kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)


def _moment(x: Tensor) -> Tensor:
    """(B, P, P) of (B, C, P): the mean over channels of their outer products."""
    return x.transpose(1, 2) @ x / x.shape[1]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.transpose(1, 2)).square().mean()


class Method(Paired[Config]):
    """ce_weight * CE + weight * sum over pairs of the squared discrepancy."""

    Config = Config

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = self.maps(student), self.maps(teacher)
        return sum_of([nst_loss(ours[s], theirs[t]) for t, s in self.pairs])
