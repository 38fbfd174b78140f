"""Log-mel spectra and cepstra as convolutions, which every format can hold.

The recipe is that of MLPerf Tiny's keyword network (Banbury et al., arXiv 2106.07597; Zhang et al.,
"Hello Edge", arXiv 1711.07128): a periodic Hann window of 30 ms every 20 ms, a discrete Fourier
transform of the next power of two, triangular filters of equal width on the mel scale between 20
and 4000 Hz, the logarithm of their sums plus 1e-6, and for cepstra a discrete cosine transform. In
one point it differs: the filters sum powers, as Kaldi's do, and not magnitudes. So 1e-6 is far
above what float32 rounds, and a file gives the same values as torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

FLOOR = 1e-6
"""Power that is added to each filter's sum before the logarithm."""
FULL_SCALE = 32768.0
"""Amplitude, as a 16-bit number, that counts as 1."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """All that decides the values, with times in samples and frequencies in Hz."""

    rate: int
    length: int
    window: int
    hop: int
    bins: int
    low: float
    high: float
    coefficients: int | None
    """Number of cepstral coefficients; None for the log-mel spectrum itself."""

    @property
    def frames(self) -> int:
        """Windows that fit into a sound."""
        return 1 + (self.length - self.window) // self.hop

    @property
    def points(self) -> int:
        """Points of the Fourier transform: the next power of two."""
        return int(2 ** np.ceil(np.log2(self.window)))

    @property
    def values(self) -> int:
        """Values per frame."""
        return self.coefficients or self.bins


def kernels(recipe: Recipe) -> tuple[Floats, Floats]:
    """Return the windowed cosines and sines (K, window) of the transform, K = points / 2 + 1."""
    places = np.arange(recipe.window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * places / recipe.window)
    turns = np.outer(np.arange(recipe.points // 2 + 1), places) * (2 * np.pi / recipe.points)
    return np.cos(turns) * hann / FULL_SCALE, np.sin(turns) * hann / FULL_SCALE


def filters(recipe: Recipe) -> Floats:
    """Return the weights (bins, K) of triangles of equal width on the mel scale.

    HTK's scale, 1127 ln(1 + f / 700); the triangles are straight on it, and the transform's first
    point, of no frequency, has no weight (TensorFlow's `linear_to_mel_weight_matrix`).
    """

    def mel(frequency: float | Floats) -> Floats:
        return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)

    points = mel(np.arange(recipe.points // 2 + 1) * recipe.rate / recipe.points)
    edges = np.linspace(mel(recipe.low), mel(recipe.high), recipe.bins + 2)
    left, centre, right = (edges[i : i + recipe.bins, None] for i in range(3))
    rising, falling = (points - left) / (centre - left), (right - points) / (right - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[:, 0] = 0.0
    return np.asarray(weights)


def cosines(recipe: Recipe) -> Floats:
    """Return the rows (coefficients, bins) of the orthonormal cosine transform of type II."""
    assert recipe.coefficients is not None
    angles = np.outer(np.arange(recipe.coefficients), np.arange(recipe.bins) + 0.5)
    rows = np.cos(angles * (np.pi / recipe.bins)) * np.sqrt(2.0 / recipe.bins)
    rows[0] /= np.sqrt(2.0)
    return np.asarray(rows)


class LogMel(nn.Module):
    """Turns 16-bit sounds (B, length) into maps (B, 1, frames, values), before normalisation.

    Windows and hops are whole numbers of blocks, the samples of a block are channels, so that the
    transform is a plain convolution over blocks, which runtimes compute fast.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.block = math.gcd(recipe.window, recipe.hop)
        self.blocks = recipe.length // self.block
        self.stride = (1, recipe.hop // self.block)
        for name, table in zip(("real", "imaginary"), kernels(recipe), strict=True):
            taps = table.reshape(len(table), -1, self.block).transpose(0, 2, 1)
            self._keep(name, taps[:, :, None, :])  # (K, block, 1, blocks of a window)
        self._keep("filters", filters(recipe)[:, :, None, None])
        self.has_cepstra = recipe.coefficients is not None
        if self.has_cepstra:
            self._keep("cosines", cosines(recipe)[:, :, None, None])

    def _keep(self, name: str, table: Floats) -> None:
        self.register_buffer(name, torch.from_numpy(table.astype(np.float32, order="C")))

    def forward(self, sounds: Tensor) -> Tensor:
        """See the class."""
        whole = self.blocks * self.block
        waves = sounds if sounds.shape[1] == whole else sounds[:, :whole]
        blocks = waves.reshape(-1, 1, self.blocks, self.block).permute(
            0, 3, 1, 2
        )  # (B, block, 1, blocks)
        real = functional.conv2d(blocks, self.get_buffer("real"), stride=self.stride)
        imaginary = functional.conv2d(blocks, self.get_buffer("imaginary"), stride=self.stride)
        powers = real * real + imaginary * imaginary  # (B, K, 1, frames)
        values = torch.log(functional.conv2d(powers, self.get_buffer("filters")) + FLOOR)
        if self.has_cepstra:
            values = functional.conv2d(values, self.get_buffer("cosines"))
        return values.permute(0, 2, 3, 1)  # (B, 1, frames, values)

    @torch.no_grad()
    def of_one(self, sound: Tensor) -> Tensor:
        """Turn one sound (length,) into its map (1, frames, values)."""
        maps: Tensor = self(sound[None])
        return maps[0]


class Front(nn.Module):
    """Front of an exported file: `LogMel`, and the normalisation of each value."""

    def __init__(self, recipe: Recipe, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.log_mel = LogMel(recipe)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", 1 / std)

    def forward(self, sounds: Tensor) -> Tensor:
        """Turn 16-bit sounds (B, length) into a network's inputs (B, 1, frames, values)."""
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        maps: Tensor = (self.log_mel(sounds) - mean) * scale
        return maps
