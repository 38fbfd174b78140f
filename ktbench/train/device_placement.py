"""Batches on the device that trains, and the data set too where it fits there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ktbench.data import Dataset, Stream
from ktbench.networks.layout import FIRST
from ktbench.students._contract import Features, Inputs, each
from ktbench.transfer_methods._contract import Batch

PROBED = 16
COMPARED = 256
"""Samples that stages are compared on: with so many, their similarities hardly depend on which."""
COMPARED_BYTES = 512 * 2**20
"""Most that a network's outputs for these samples may take; networks beyond it are given fewer."""
CPU = torch.device("cpu")
SHARE = 0.25
"""Most of a GPU's free memory that a data set may take, as raw samples."""


def placed(dataset: Dataset, device: torch.device) -> Dataset:
    """Return the data set with its splits on a GPU where they fit, and as it is otherwise."""
    if device.type == "cpu":
        return dataset
    # Training samples are held twice, images once with their padding.
    if 2 * dataset.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return dataset
    splits = {
        name: (_on(raw, device), labels.to(device))
        for name, (raw, labels) in dataset.splits.items()
    }
    moved = replace(dataset, splits=splits)
    # Worked out once, on the CPU, so that inputs do not depend on where the data lies.
    moved.__dict__["digest"] = dataset.digest
    moved.__dict__["statistics"] = tuple(part.to(device) for part in dataset.statistics)
    return moved


def make_batch(
    stream: Stream, indices: Tensor, *, epoch: int, step: int, steps: int, device: torch.device
) -> Batch:
    """Make a step's batch on the device; `steps` counts those of the whole training."""
    targets = stream.targets(indices, epoch)
    return Batch(
        inputs=each(stream.inputs(indices, epoch), lambda part: _moved(part, device)),
        labels=_moved(stream.labels(indices, epoch), device),
        indices=_moved(indices, device),
        epoch=epoch,
        step=step,
        progress=step / steps,
        seed=stream.step_seed(step),
        loss=stream.dataset.task.loss,
        targets=None if targets is None else _moved(targets, device),
    )


def copied(batch: Batch) -> Batch:
    """Copy a batch's tensors, so that they can be written into."""
    return replace(
        batch,
        inputs=each(batch.inputs, Tensor.clone),
        labels=batch.labels.clone(),
        indices=batch.indices.clone(),
        targets=None if batch.targets is None else batch.targets.clone(),
    )


def make_probe(stream: Stream, device: torch.device = CPU, count: int = PROBED) -> Batch:
    """Return the first training samples as they are, to find shapes."""
    return _plain(stream.dataset, stream.step_seed(0), device, count)


def comparison_batch(dataset: Dataset, probe: Batch, probed: Features) -> Batch:
    """Return the first training samples as they are, to compare stages on; the same for all seeds.

    `probed` are the teacher's outputs for the probe, which tell how many samples are affordable.
    """
    size = sum(stage.nbytes for stage in probed.stages)
    affordable = COMPARED_BYTES * len(probe.indices) // max(1, size)
    count = max(len(probe.indices), min(COMPARED, affordable))
    return _plain(dataset, probe.seed, probe.labels.device, count)


def _plain(dataset: Dataset, seed: int, device: torch.device, count: int) -> Batch:
    indices = torch.arange(min(count, dataset.size("train")))
    inputs = FIRST.inputs(dataset.some("train", slice(len(indices))))
    return Batch(
        inputs=_on(inputs, device),
        labels=dataset.labels("train", slice(len(indices))).to(device),
        indices=indices.to(device),
        epoch=0,
        step=0,
        progress=0.0,
        seed=seed,
        loss=dataset.task.loss,
    )


def _on(inputs: Inputs, device: torch.device) -> Inputs:
    return each(inputs, lambda part: part.to(device))


def _moved(value: Tensor, device: torch.device) -> Tensor:
    if value.device.type == device.type:
        return value
    # From pinned memory the copy runs beside the work that is queued already.
    return value.pin_memory().to(device, non_blocking=True)
