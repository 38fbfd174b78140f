"""Batches on the device that trains, and the data set too where it fits there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ktbench.data import Dataset, Stream
from ktbench.networks.layout import FIRST
from ktbench.students._contract import Features
from ktbench.transfer_methods._contract import Batch

PROBE_IMAGES = 16
COMPARED_IMAGES = 256
"""Images that stages are compared on: with so many, their similarities hardly depend on which."""
COMPARED_BYTES = 512 * 2**20
"""Most that a network's outputs for these images may take; networks beyond it are given fewer."""
CPU = torch.device("cpu")
SHARE = 0.25
"""Most of a GPU's free memory that a data set may take, as raw images of one byte a value."""


def placed(dataset: Dataset, device: torch.device) -> Dataset:
    """Return the data set with its splits on a GPU where they fit, and as it is otherwise."""
    if device.type == "cpu":
        return dataset
    size = sum(images.nbytes + labels.nbytes for images, labels in dataset.splits.values())
    # Training images are held twice, once with their padding.
    if 2 * size > SHARE * torch.cuda.mem_get_info(device)[0]:
        return dataset
    splits = {
        name: (images.to(device), labels.to(device))
        for name, (images, labels) in dataset.splits.items()
    }
    moved = replace(dataset, splits=splits)
    # Worked out once, on the CPU, so that inputs do not depend on where the data lies.
    moved.__dict__["mean"] = dataset.mean.to(device)
    moved.__dict__["std"] = dataset.std.to(device)
    return moved


def make_batch(
    stream: Stream, indices: Tensor, *, epoch: int, step: int, steps: int, device: torch.device
) -> Batch:
    """Make a step's batch on the device; `steps` counts those of the whole training."""
    return Batch(
        inputs=_moved(stream.inputs(indices, epoch), device),
        labels=_moved(stream.labels(indices), device),
        indices=_moved(indices, device),
        epoch=epoch,
        step=step,
        progress=step / steps,
        seed=stream.step_seed(step),
    )


def copied(batch: Batch) -> Batch:
    """Copy a batch's tensors, so that they can be written into."""
    return replace(
        batch,
        inputs=batch.inputs.clone(),
        labels=batch.labels.clone(),
        indices=batch.indices.clone(),
    )


def make_probe(stream: Stream, device: torch.device = CPU, count: int = PROBE_IMAGES) -> Batch:
    """Return the first training images as they are, to find shapes."""
    return _plain(stream.dataset, stream.step_seed(0), device, count)


def comparison_batch(dataset: Dataset, probe: Batch, probed: Features) -> Batch:
    """Return the first training images as they are, to compare stages on; the same for all seeds.

    `probed` are the teacher's outputs for the probe, which tell how many images are affordable.
    """
    size = sum(stage.nbytes for stage in probed.stages)
    affordable = COMPARED_BYTES * len(probe.indices) // max(1, size)
    count = max(len(probe.indices), min(COMPARED_IMAGES, affordable))
    return _plain(dataset, probe.seed, probe.inputs.device, count)


def _plain(dataset: Dataset, seed: int, device: torch.device, count: int) -> Batch:
    indices = torch.arange(min(count, dataset.size("train")))
    inputs = FIRST.inputs(dataset.normalise(dataset.images("train")[: len(indices)]))
    return Batch(
        inputs=inputs.to(device),
        labels=dataset.labels("train")[: len(indices)].to(device),
        indices=indices.to(device),
        epoch=0,
        step=0,
        progress=0.0,
        seed=seed,
    )


def _moved(value: Tensor, device: torch.device) -> Tensor:
    if value.device.type == device.type:
        return value
    # From pinned memory the copy runs beside the work that is queued already.
    return value.pin_memory().to(device, non_blocking=True)
