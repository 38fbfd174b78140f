"""Samples blended with others of the training set, and labels that are shares of several classes.

The other sample, the shares and the box are functions of the seed, the view and the sample's index.
A blended sample is thus the same in every batch and process, and may be cached or made elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ktbench.data.augmentations.draws import MIXED, Draws
from ktbench.records import TrainSpec, canonical_json
from ktbench.students._contract import Inputs
from ktbench.tasks._contract import Samples


@dataclass(frozen=True)
class Mixing:
    """Parameters of the Beta distributions of both kinds of blends; None for none of a kind."""

    mixup: float | None = None
    cutmix: float | None = None

    @classmethod
    def of(cls, train: TrainSpec) -> Mixing:
        """Return what a training asks for."""
        return cls(train.mixup, train.cutmix)

    def __bool__(self) -> bool:
        """Return True where samples are blended at all."""
        return self != UNMIXED

    @property
    def text(self) -> str:
        """Canonical text; empty where nothing is blended."""
        return canonical_json(asdict(self)) if self else ""


UNMIXED = Mixing()


@dataclass(frozen=True)
class Blend:
    """Partners and shares of some samples' blends."""

    partners: Tensor
    """(B,) int64: the other sample of each."""
    shares: NDArray[np.float64]
    """(B,): the own sample's share of the label."""
    weights: Tensor
    """(B, 1, 1, 1) or (B, 1, H, W), float32: its share of each number of the input."""


@dataclass(frozen=True)
class Mixed:
    """Training images (B, C, H, W) blended with others, as `mixing` says; see `Samples`."""

    samples: Samples
    mixing: Mixing
    seed: int
    count: int
    """Number of training samples."""

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """See `Samples.kept`."""
        return self.samples.kept

    def inputs(self, indices: Tensor, view: int) -> Inputs:
        """Return the blended inputs; both samples are augmented as the view says."""
        own = self.samples.inputs(indices, view)
        assert isinstance(own, Tensor)
        blend = self.blend(indices, view, (own.shape[2], own.shape[3]))
        other = self.samples.inputs(blend.partners, view)
        assert isinstance(other, Tensor)
        weights = blend.weights.to(own.device)
        return own * weights + other * (1 - weights)

    def labels(self, indices: Tensor, view: int) -> Tensor:
        """Return the label with the larger share of each sample, (B,)."""
        blend = self.blend(indices, view, self._size)
        own, other = (self.samples.labels(part, view) for part in (indices, blend.partners))
        return torch.where(torch.from_numpy(blend.shares >= 0.5).to(own.device), own, other)

    def targets(self, indices: Tensor, view: int, classes: int) -> Tensor:
        """Return the classes' shares of each sample's label, (B, K), float32."""
        blend = self.blend(indices, view, self._size)
        own, other = (
            functional.one_hot(self.samples.labels(part, view), classes).float()
            for part in (indices, blend.partners)
        )
        shares = torch.from_numpy(blend.shares).float().to(own.device)[:, None]
        return own * shares + other * (1 - shares)

    def blend(self, indices: Tensor, view: int, size: tuple[int, int]) -> Blend:
        """Draw how samples of a size are blended: by mixup or, likewise often, by cutmix."""
        numbers = Draws(self.seed, view, indices.cpu().numpy()).evenly(MIXED, 5)
        partner, kind, share, row, column = numbers.T
        partners = torch.from_numpy((partner * self.count).astype(np.int64))
        mixup, cutmix = self.mixing.mixup, self.mixing.cutmix
        if cutmix is None:
            assert mixup is not None
            shares = _beta(mixup, share)
            return Blend(partners, shares, torch.from_numpy(shares).float().view(-1, 1, 1, 1))
        boxes = cut_boxes(_beta(cutmix, share), row, column, size)
        outside = 1 - boxes.reshape(len(boxes), -1).mean(1)
        weights = torch.from_numpy(~boxes).float()[:, None]
        if mixup is None:
            return Blend(partners, outside, weights)
        blended, cut = _beta(mixup, share), kind < 0.5
        even = torch.from_numpy(blended).float().view(-1, 1, 1, 1)
        weights = torch.where(torch.from_numpy(cut).view(-1, 1, 1, 1), weights, even)
        return Blend(partners, np.where(cut, outside, blended), weights)

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width of an input."""
        inputs = self.samples.inputs(torch.zeros(1, dtype=torch.int64), 0)
        assert isinstance(inputs, Tensor)
        return inputs.shape[2], inputs.shape[3]


def _beta(parameter: float, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn even numbers into draws from Beta(parameter, parameter)."""
    from scipy.special import betaincinv  # which planning does without

    return np.asarray(betaincinv(parameter, parameter, numbers))


def cut_boxes(
    shares: NDArray[np.float64],
    row: NDArray[np.float64],
    column: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return which pixels (B, H, W) lie in the other sample's box (Yun et al., 2019, eq. 2).

    It covers 1 - share of the image, in the image's shape, about an evenly drawn middle; what
    sticks out is cut off.
    """
    spans = []
    for middle, side in ((row, size[0]), (column, size[1])):
        half = np.floor(side * np.sqrt(1 - shares)).astype(np.int64)[:, None] // 2
        at = np.floor(middle * side).astype(np.int64)[:, None]
        places = np.arange(side)
        spans.append((places >= at - half) & (places < at + half))
    down, across = spans
    return np.asarray(down[:, :, None] & across[:, None, :])


def smoothed(targets: Tensor, share: float) -> Tensor:
    """Spread a share of each label evenly over all classes (Szegedy et al., 2016, section 7)."""
    return targets * (1 - share) + share / targets.shape[1] if share else targets
