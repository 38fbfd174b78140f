"""A batch is augmented and normalised at least 5 times as fast as image by image with Pillow.

64 images of 32 x 32: a random crop after 4 pixels of padding, a mirror, normalisation; one thread.
Ours is `Stream.inputs`, which also draws what it does from the counter. The other side is told
each image's crop and mirror, cuts it with Pillow, makes it a tensor in [0, 1], normalises it and
stacks the batch. Both start from images in memory. Rounds interleave both sides.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks._claim import Outcome
from benchmarks._networks import Pair, images_of
from ktbench.data import Dataset, Stream
from ktbench.students._contract import parts
from ktbench.tasks.image_classification import Images

BAR = 5.0
ROUNDS = 40
PADDING = 4
Change = tuple[int, int, bool]
"""The crop's top and left, and whether it is mirrored."""


def shown(stream: Stream) -> Images:
    """Return the stream's images."""
    assert isinstance(stream.samples, Images)
    return stream.samples


def changes_of(stream: Stream, indices: Tensor, epoch: int) -> list[Change]:
    """Find what ours does to each image, by sending coordinates through it in place of pixels."""
    rows, columns = shown(stream).windows(indices.numpy(), epoch)
    return [
        (int(r[0]), int(c.min()), bool(c[0] > c[-1])) for r, c in zip(rows, columns, strict=True)
    ]


def cut(image: Image.Image, change: Change, padding: int = PADDING) -> Image.Image:
    """One image after its crop and mirror."""
    top, left, mirrored = change
    width, height = image.size
    image = ImageOps.expand(image, border=padding, fill=0) if padding else image
    image = image.crop((left, top, left + width, top + height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def one_by_one(
    pixels: np.ndarray, indices: list[int], changes: list[Change], mean: Tensor, std: Tensor
) -> Tensor:
    """The batch (B, C, H, W), from images (N, H, W, C)."""
    made = []
    for index, change in zip(indices, changes, strict=True):
        image = cut(Image.fromarray(pixels[index]), change)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        made.append(tensor.sub_(mean).div_(std))
    return torch.stack(made)


def same_pixels(data: Dataset, stream: Stream, pixels: np.ndarray, indices: Tensor) -> bool:
    """Return whether both sides show the same raw pixels."""
    ours = shown(stream).augmented(indices, 0)
    changes = changes_of(stream, indices, 0)
    theirs = [
        np.array(cut(Image.fromarray(pixels[i]), c))
        for i, c in zip(indices.tolist(), changes, strict=True)
    ]
    return torch.equal(ours, torch.from_numpy(np.stack(theirs)))


def run() -> Outcome:
    """Time both sides on the same batches in turn."""
    torch.set_num_threads(1)
    data = images_of(Pair())
    stream = Stream(data, 0, 64)
    pixels = parts(data.raw("train"))[0].permute(0, 2, 3, 1).contiguous().numpy()
    mean, std = (side.view(3, 1, 1) / 255 for side in data.statistics)
    first = stream.order(0)[0]
    assert same_pixels(data, stream, pixels, first), "both sides must show the same pixels"
    torch.testing.assert_close(
        parts(stream.inputs(first, 0))[0].contiguous(),
        one_by_one(pixels, first.tolist(), changes_of(stream, first, 0), mean, std),
        rtol=1e-4,
        atol=1e-5,
    )
    ours, theirs = list[float](), list[float]()
    for epoch in range(ROUNDS):
        indices = stream.order(epoch)[0]
        told, numbers = changes_of(stream, indices, epoch), indices.tolist()
        start = time.perf_counter()
        stream.inputs(indices, epoch)
        middle = time.perf_counter()
        one_by_one(pixels, numbers, told, mean, std)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    fast, slow = statistics.median(ours), statistics.median(theirs)
    print(f"ours   {1e3 * fast:8.3f} ms a batch")
    print(f"Pillow {1e3 * slow:8.3f} ms a batch, the same pixels")
    return Outcome(f"{slow / fast:.1f}x", f">= {BAR:g}x", slow / fast >= BAR)
