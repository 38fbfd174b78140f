"""The check that a file is the same network: it runs over the whole validation and test sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ktbench.data import Dataset, Split
from ktbench.export.writer import Floats, Images, Writer
from ktbench.records import Precision, Tolerance

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(agreement=0.995, difference=1e-3),
    "fp16": Tolerance(agreement=0.97, difference=0.1),
    "int8": Tolerance(agreement=0.6, difference=None),
}
"""Tolerances, justified in `docs/export.md`; differences relative to the logits' deviation."""

_BATCH = 256


@dataclass(frozen=True)
class Parity:
    """An artifact's results beside those of torch."""

    agreement: float
    max_difference: float
    relative_difference: float
    validation_accuracy: float
    test_accuracy: float

    def beyond(self, tolerance: Tolerance) -> str | None:
        """Explain in one line why the artifact is not the same network; None if it is."""
        if not np.isfinite(self.max_difference):
            return "its logits are not finite"
        if self.agreement < tolerance.agreement:
            return (
                f"it agrees with torch on {self.agreement:.1%} of the validation "
                f"images; at least {tolerance.agreement:.1%} is required"
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
    images = dataset.images("validation")
    with torch.inference_mode():
        runs = [student(dataset.normalise(part)) for part in torch.split(images, _BATCH)]
    logits: Floats = torch.cat(runs).float().numpy()
    return logits


def check(writer: Writer, model: bytes, dataset: Dataset, reference: Floats) -> Parity:
    """Run a file's bytes over the validation and test sets."""
    validation = writer.run(model, raw_images(writer, dataset, "validation"))
    test = writer.run(model, raw_images(writer, dataset, "test"))
    difference = float(np.abs(validation - reference).max())
    spread = max(float(reference.std()), float(np.finfo(np.float32).tiny))
    return Parity(
        agreement=float((validation.argmax(1) == reference.argmax(1)).mean()),
        max_difference=difference,
        relative_difference=difference / spread,
        validation_accuracy=_accuracy(validation, dataset, "validation"),
        test_accuracy=_accuracy(test, dataset, "test"),
    )


def raw_images(
    writer: Writer, dataset: Dataset, split: Split, indices: NDArray[np.int64] | None = None
) -> Images:
    """Return a split's raw images in the writer's layout, all or those of `indices`."""
    images: Images = dataset.images(split).numpy()
    images = images if indices is None else images[indices]
    return images if writer.layout == "NCHW" else np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _accuracy(logits: Floats, dataset: Dataset, split: Split) -> float:
    return float((logits.argmax(1) == dataset.labels(split).numpy()).mean())
