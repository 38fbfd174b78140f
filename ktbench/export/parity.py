"""The check that a file is the same network: it runs over the whole validation and test sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ktbench.data import Dataset, Split
from ktbench.export.deployed_network import Layout
from ktbench.export.writer import Arrays, Floats, Writer
from ktbench.records import Format, Precision, Tolerance
from ktbench.students._contract import parts
from ktbench.tasks._contract import InputSpec

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(agreement=0.995, difference=1e-3),
    "fp16": Tolerance(agreement=0.97, difference=0.1),
    "int8": Tolerance(agreement=0.6, difference=None),
}
"""Tolerances, justified in `docs/export.md`; differences relative to the logits' deviation."""

LAYOUTS: dict[Format, Layout] = {"onnx": "NCHW", "tflite": "NHWC"}
"""Layout of maps in each format."""

_BATCH = 256
"""Samples of a writer's batch, too."""
_PIECE_BYTES = 64 << 20
"""Size of the raw samples that a writer gets at a time; it holds them as floats."""


@dataclass(frozen=True)
class Parity:
    """An artifact's results beside those of torch."""

    agreement: float
    max_difference: float
    relative_difference: float
    validation_accuracy: float
    """The task's metric."""
    test_accuracy: float

    def beyond(self, tolerance: Tolerance) -> str | None:
        """Explain in one line why the artifact is not the same network; None if it is."""
        if not np.isfinite(self.max_difference):
            return "its logits are not finite"
        if self.agreement < tolerance.agreement:
            return (
                f"it agrees with torch on {self.agreement:.1%} of the validation "
                f"set; at least {tolerance.agreement:.1%} is required"
            )
        limit = tolerance.difference
        if limit is not None and self.relative_difference > limit:
            return (
                f"its logits differ from torch's by up to {self.relative_difference:.2g} standard "
                f"deviations; at most {limit:g} is allowed"
            )
        return None


def reference_logits(student: nn.Module, dataset: Dataset) -> Floats:
    """Return torch's logits (N, K) over the validation set for a student in eval mode."""
    starts = range(0, dataset.size("validation"), _BATCH)
    with torch.inference_mode():
        runs = [student(dataset.some("validation", slice(i, i + _BATCH))) for i in starts]
    logits: Floats = torch.cat(runs).float().numpy()
    return logits


def check(writer: Writer, model: bytes, dataset: Dataset, reference: Floats) -> Parity:
    """Run a file's bytes over the validation and test sets."""
    validation, test = (answers(writer, model, dataset, s) for s in ("validation", "test"))
    task = dataset.task
    names, ours = (task.predictions(torch.from_numpy(each)) for each in (validation, reference))
    difference = float(np.abs(validation - reference).max())
    spread = max(float(reference.std()), float(np.finfo(np.float32).tiny))
    return Parity(
        agreement=task.agreement(names, ours),
        max_difference=difference,
        relative_difference=difference / spread,
        validation_accuracy=score(dataset, "validation", validation),
        test_accuracy=score(dataset, "test", test),
    )


def answers(writer: Writer, model: bytes, dataset: Dataset, split: Split) -> Floats:
    """Return a file's logits (N, K) over a split, of which few enough samples are read at a time.

    Each piece is a whole number of a writer's batches, so that no bit depends on the pieces.
    """
    pieces = in_pieces(writer.layout, dataset, split)
    return np.concatenate([writer.run(model, piece) for piece in pieces])


def score(dataset: Dataset, split: Split, outputs: Floats) -> float:
    """Return the task's metric of a file's outputs over a whole split."""
    labels = dataset.labels(split)
    return dataset.task.score(dataset.task.per_sample(torch.from_numpy(outputs), labels), labels)


def raw_samples(
    layout: Layout, dataset: Dataset, split: Split, chosen: slice | NDArray[np.int64] = slice(None)
) -> Arrays:
    """Return a split's raw samples in a file's layout by input, all or those chosen."""
    pairs = zip(dataset.signature.file_inputs, parts(dataset.some_raw(split, chosen)), strict=True)
    return {spec.name: _laid_out(spec, part.numpy(), layout) for spec, part in pairs}


def in_pieces(layout: Layout, dataset: Dataset, split: Split) -> Iterator[Arrays]:
    """Yield a split's raw samples in a file's layout, a whole number of batches at a time."""
    size = sum(part[:1].nbytes for part in parts(dataset.raw(split)))
    rows = _BATCH * max(1, _PIECE_BYTES // (size * _BATCH))
    for start in range(0, dataset.size(split), rows):
        yield raw_samples(layout, dataset, split, slice(start, start + rows))


def _laid_out(spec: InputSpec, samples: NDArray[Any], layout: Layout) -> NDArray[Any]:
    if len(spec.shape) == 3 and layout == "NHWC":
        samples = samples.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(samples)
