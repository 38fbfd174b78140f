"""Functions of the methods on logits: temperature, standardisation, divergence."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional


def standardised(logits: Tensor) -> Tensor:
    """Each sample's logits (B, K) with mean 0 and deviation 1 over the classes.

    Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, algorithm 1, as their
    code computes it: the deviation of a sample (K - 1), where the paper writes that of the
    population (K), plus 1e-7. Equal logits become zeros.
    """
    centred = logits - logits.mean(1, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred / (norm / sqrt(max(1, logits.shape[1] - 1)) + 1e-7)


def prepared(logits: Tensor, standardise: bool) -> Tensor:
    """The logits, standardised if so wished."""
    return standardised(logits) if standardise else logits


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits (B, K) softened by T, summed over classes, mean over B.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015: T^2 keeps the gradient's
    size independent of T (section 2). Classes at -inf in the teacher count nothing.
    """
    target = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        target.clamp(min=torch.finfo(target.dtype).min),  # 0 * -inf would be NaN
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence
