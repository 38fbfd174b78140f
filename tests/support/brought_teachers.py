"""Small networks trained by hand, outside ktbench's loop, on images prepared in several ways."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ktbench import catalogue
from ktbench.data import Dataset, load
from ktbench.records import DataSpec

IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SPEC = {"source": "parquet", "path": "colours", "validation_size": 60, "test_size": 150}


def coloured_digits(folder: Path, count: int = 600) -> Dataset:
    """Write digits in three channels as a table of PNG files, and load them."""
    digits = load(DataSpec(source="digits", validation_size=1, test_size=1), folder)
    raw, labels = digits.raw("train"), digits.labels("train")
    assert isinstance(raw, Tensor)
    ink = torch.tensor([1.0, 0.7, 0.4]).view(1, 3, 1, 1)
    pixels = (raw[:count].float() * ink).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    files = [{"bytes": _png(image), "path": None} for image in pixels]
    (folder / "colours").mkdir()
    table = pa.table({"image": files, "label": labels[:count].tolist()})
    pq.write_table(table, folder / "colours" / "train.parquet")
    return load(DataSpec.model_validate(SPEC), folder)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# Each takes raw pixels (B, 3, H, W), uint8; none uses ktbench's own arithmetic.


def unit(raw: Tensor) -> Tensor:
    """Pixels from 0 to 1."""
    return raw.float() / 255


def as_bytes(raw: Tensor) -> Tensor:
    """Pixels from 0 to 255."""
    return raw.float()


def imagenet(raw: Tensor) -> Tensor:
    """Pixels under ImageNet's mean and deviation."""
    mean, std = (values.view(1, 3, 1, 1) for values in IMAGENET)
    return (raw.float() / 255 - mean) / std


def larger(raw: Tensor) -> Tensor:
    """Pixels from -1 to 1, of 16 × 16 cut from 18 × 18, by Pillow."""
    images = [Image.fromarray(image) for image in raw.permute(0, 2, 3, 1).numpy()]
    made = [
        image.resize((18, 18), Image.Resampling.BICUBIC).crop((1, 1, 17, 17)) for image in images
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in made])).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1


@dataclass(frozen=True)
class Brought:
    """A network trained by hand: its file, and its accuracy on the test set by hand."""

    file: str
    accuracy: float


def trained(
    data: Dataset, prepared: Callable[[Tensor], Tensor], file: Path, *, epochs: int = 25
) -> Brought:
    """Train a resnet8 on images prepared so, by a plain loop, and write its weights."""
    torch.manual_seed(0)
    network = catalogue.build_student("resnet8", {}, num_classes=10, in_channels=3)
    images, labels = prepared(data.raw("train")), data.labels("train")  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels))[: len(labels) // 65 * 65].view(-1, 65):
            loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    torch.save(network.state_dict(), file)
    with torch.no_grad():
        said = network.eval()(prepared(data.raw("test"))).argmax(1)  # type: ignore[arg-type]
    return Brought(file.name, float((said == data.labels("test")).double().mean()))


def with_other_order(file: Path, order: list[int], target: Path) -> str:
    """Write the weights of a file with the classes of its last layer in another order."""
    state = torch.load(file, weights_only=True)
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][order]
    torch.save(state, target)
    return target.name
