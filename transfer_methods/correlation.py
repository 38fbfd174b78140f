"""Correlation congruence: the student reproduces how the samples of a batch are related.

Peng et al.: Correlation Congruence for Knowledge Distillation, ICCV 2019. Two forms:

`kernel`      the paper's equation 6: the squared difference of the two matrices of Gaussian
              kernels between samples, by a Taylor series of order 2 (equation 9), gamma 0.4.
`neighbours`  the loss that the standard CIFAR-100 comparison (Tian et al., ICLR 2020) computes
              under this name with a weight of 0.02. With d the absolute difference between the
              two networks' embeddings of a sample, it is the mean, over neighbours in the batch,
              of the inner product of their d. It equals the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, factorial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import OneTerm, View, Weights, mean_square, sum_of
from ktbench.transfer_methods._contract import Batch, Needs, Setting


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The comparison's settings; with `kernel` a weight near 100 gives a term of CE's size."""

    weight: float = 0.02
    """Weight of the correlation's difference."""
    dimension: int = 128
    """Size of the linear embeddings on both sides, which are trained."""
    form: Literal["neighbours", "kernel"] = "neighbours"
    """The figure that is computed; see above."""
    gamma: float = 0.4
    """Coefficient of the Gaussian kernel."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.whole(self, "dimension", least=1)
        _checks.choice(self, "form", ("neighbours", "kernel"))
        _checks.number(self, "gamma", above=0)


def neighbours_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over i of <|s_i - t_i|, |s_(i+1) - t_(i+1)|>, (B, D); 0 for a single sample."""
    difference = (student - teacher).abs()
    products = (difference[:-1] * difference[1:]).sum(1)
    return products.sum() / max(1, len(products))


def kernel_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """Mean squared difference of the kernel matrices (B, B) of normalised embeddings (B, D)."""
    return mean_square(_kernel(student, gamma), _kernel(teacher, gamma))


def _kernel(embedding: Tensor, gamma: float) -> Tensor:
    rows = functional.normalize(embedding, dim=1)
    cosine = rows @ rows.T
    series = [cosine.pow(p) * ((2 * gamma) ** p / factorial(p)) for p in (0, 1, 2)]
    return exp(-2 * gamma) * sum_of(series)


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * the loss between linear embeddings of the two embeddings."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        assert setting.teacher.embedding is not None
        assert setting.student.embedding is not None
        self.student_embedding = nn.Linear(setting.student.embedding, config.dimension)
        self.teacher_embedding = nn.Linear(setting.teacher.embedding, config.dimension)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """The embedding."""
        return Needs(embedding=True)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """Return the figure that `form` names."""
        ours = self.student_embedding(student.embedding)
        theirs = self.teacher_embedding(teacher.embedding)
        if self.config.form == "kernel":
            return kernel_loss(ours, theirs, self.config.gamma)
        return neighbours_loss(ours, theirs)
