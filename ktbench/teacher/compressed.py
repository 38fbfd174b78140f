"""Compresses a teacher's outputs before any student sees them: rounded, or sampled.

Both change what students learn, and so are part of a cell's key. They are done here, for every
source alike, so that a cached source gives what a live one gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.data import counter_hash
from ktbench.records import TeacherOutputs
from ktbench.students._contract import Features
from ktbench.teacher.cache.feature_layout import MASK, Parts, features_of, parts_of
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Batch, Needs

_LARGEST = torch.finfo(torch.float16).max


class Compression:
    """Packs features into their compressed form, and unpacks that into what students see.

    `outputs` None keeps everything as it is. Draws are a function of `seed`, the sample and its
    view, and the same in any batch.
    """

    def __init__(
        self, outputs: TeacherOutputs | None, *, seed: int, view: Callable[[int], int]
    ) -> None:
        self._outputs = outputs
        self._seed = seed
        self._view = view
        self._classes = 0

    @property
    def changes(self) -> bool:
        """True where students see anything else than the teacher's own outputs."""
        return self._outputs is not None

    def pack(self, features: Features, batch: Batch, needs: Needs) -> Parts:
        """Compress the needed parts; sampled logits become drawn classes and their counts."""
        if self._outputs is None:
            return parts_of(features, needs)
        if self._outputs.sampled is not None:
            self._classes = features.logits.shape[1]
            each = len(features.logits) // len(batch.indices)
            words = self._words(batch, each, self._outputs.sampled)
            return draw_classes(features.logits, self._outputs.temperature, words)
        parts = parts_of(features, needs)
        return {name: part if name == MASK else _half(part) for name, part in parts.items()}

    def unpack(self, packed: Parts, device: torch.device) -> Features:
        """Return what students see on their device, in single precision if compressed."""
        if self._outputs is not None and self._outputs.sampled is not None:
            return Features(log_counts(packed, self._classes, self._outputs).to(device))
        parts = {name: part.to(device) for name, part in packed.items()}
        if self._outputs is not None:
            parts = {n: part if n == MASK else part.float() for n, part in parts.items()}
        return features_of(parts)

    def _words(self, batch: Batch, each: int, count: int) -> NDArray[np.uint64]:
        """Return random words (B * each, count) for the samples' predictions, `each` of them."""
        samples = batch.indices.cpu().numpy().astype(np.uint64)
        drawn = np.arange(each * count, dtype=np.uint64)
        counters = samples[:, None] * np.uint64(each * count) + drawn
        return counter_hash(self._seed, self._view(batch.epoch), counters).reshape(-1, count)


def _half(part: Tensor) -> Tensor:
    return part.float().clamp(-_LARGEST, _LARGEST).half()


def draw_classes(
    logits: Tensor, temperature: float, words: NDArray[np.uint64]
) -> dict[str, Tensor]:
    """Draw classes from softmax(logits / temperature) with replacement; count each of them.

    logits (B, K), words (B, M); classes (B, P) and counts (B, P) int16 (int32 for many classes),
    by class, with P = min(M, K) and entries of count 0 after the last.

    The proposal is the distribution itself, so every importance weight is 1 and counts / M is an
    unbiased estimate of it that sums to 1: Anshumann et al., Sparse Logit Sampling, 2025.
    """
    samples, classes = logits.shape
    softened = (logits.detach().cpu().double() / temperature).softmax(1)
    uniform = torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    edges = softened.cumsum(1)
    drawn = torch.searchsorted(edges, uniform * edges[:, -1:], right=True).clamp(max=classes - 1)
    flat = drawn.numpy() + np.arange(samples)[:, None] * classes
    once, counts = np.unique(flat, return_counts=True)
    rows, columns = once // classes, once % classes
    places = np.arange(len(once)) - np.searchsorted(rows, rows)
    width = min(words.shape[1], classes)
    numbers = np.zeros((2, samples, width), dtype=np.int32)
    numbers[0, rows, places], numbers[1, rows, places] = columns, counts
    wide = torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32
    both = torch.from_numpy(numbers)
    return {"classes": both[0].to(wide), "counts": both[1].to(torch.int16)}


def log_counts(packed: Parts, classes: int, outputs: TeacherOutputs) -> Tensor:
    """Return (B, K) logits whose softmax at the temperature is counts / M; -inf for none."""
    assert outputs.sampled is not None
    counts = packed["counts"].long()
    whole = torch.zeros(len(counts), classes, dtype=torch.int64)
    whole.scatter_add_(1, packed["classes"].long(), counts)
    # From a table, so that a count has one logarithm, wherever in memory it stands.
    shares = torch.arange(outputs.sampled + 1, dtype=torch.float64) / outputs.sampled
    table = (outputs.temperature * shares.log()).float()
    return table[whole]


class Compressed:
    """A source whose outputs are compressed."""

    def __init__(self, source: TeacherSource, compression: Compression) -> None:
        self.source = source
        self._compression = compression

    @property
    def digest(self) -> str:
        """Digest of the teacher's weights."""
        return self.source.digest

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the teacher's stages."""
        return self.source.stage_names

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """Return the needed features, compressed."""
        features = self.source.outputs(batch, needs)
        packed = self._compression.pack(features, batch, needs)
        return self._compression.unpack(packed, features.logits.device)

    def flops(self) -> int:
        """Return the teacher's FLOPs."""
        return self.source.flops()

    def seconds(self) -> float:
        """Return the teacher's seconds."""
        return self.source.seconds()
