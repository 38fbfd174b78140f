"""Int8 files: which layers are quantised, with what ranges, what it costs, and what is odd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from ktbench.data import Dataset
from ktbench.export.deployed_network import State
from ktbench.export.parity import raw_samples, score
from ktbench.export.ranges import chosen_range
from ktbench.export.template import match
from ktbench.export.writer import Arrays, ExportError, Floats, GraphLayer, Lowering, Writer
from ktbench.records import Calibration, ExportSpec, LayerLoss, Layers

STEM, HEAD = "stem", "head"
_SHOWN = 8


def levels(spec: ExportSpec) -> int:
    """Return the greatest integer that stands for a weight."""
    return 64 if spec.reduce_range else 127


def layer_names(writer: Writer, model: bytes, state: State) -> list[str]:
    """Return a name for each layer of an fp32 graph: its module's path, else its position.

    `state` are the tensors of the network that the graph was made of.
    """
    slots, _ = match(writer.constants(model) or {}, state)
    tensors = {slot.constant: slot.tensor for slot in slots}
    names = []
    for place, layer in enumerate(writer.layers(model)):
        path = tensors.get(layer.constant, f"layer_{place + 1}")
        names.append(path.removeprefix("network.").removesuffix(".weight"))
    return names


def kept_layers(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the layers that stay in floats; ExportError for a name of none.

    A name is a module's path, of one layer or of a part of the network, or one of two places:
    `stem` is the first layer and `head` the last, unless modules have these names.
    """
    kept: set[int] = set()
    for name in wanted:
        places = {n for n, path in enumerate(names) if f"{path}.".startswith(f"{name}.")}
        if not places and names and name in (STEM, HEAD):
            places = {0 if name == STEM else len(names) - 1}
        if not places:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            known = ", ".join(names[:_SHOWN]) + more
            raise ExportError(f"keep: {name!r} is no layer: there are {known}, and stem and head")
        kept |= places
    return tuple(sorted(kept))


def ranges_of(
    writer: Writer, model: bytes, samples: Arrays | None, calibration: Calibration
) -> dict[str, tuple[float, float]]:
    """Return the ranges that replace least and greatest values, by tensor; none for `minmax`."""
    if calibration == "minmax":
        return {}
    if samples is None:
        raise ExportError(
            f"calibration: {calibration} is of no use here: the ranges of texts are found at each"
            " run; leave it out"
        )
    found = writer.histograms(model, samples)
    return {name: chosen_range(histogram, calibration) for name, histogram in found.items()}


def layers_of(found: Sequence[GraphLayer]) -> Layers:
    """Count the layers of an int8 file."""
    return Layers(quantised=sum(layer.quantised for layer in found), all=len(found))


def remarks(layers: Layers, how: Lowering, size: int, half: int) -> Iterator[str]:
    """Yield what is odd about an int8 file; `half` is the size of the same network in fp16."""
    if size > half:
        yield (
            f"larger than in fp16 ({size:,} bytes against {half:,}): its layers are so small that"
            " steps and zero points take more than narrow weights save"
        )
    if layers.all and not layers.quantised:
        yield f"none of its {layers.all} layers is held as integers, so it runs in float"
    elif not how.front and layers.quantised < layers.all - len(how.keep):
        floats = layers.all - layers.quantised - len(how.keep)
        yield f"{floats} of its {layers.all} layers stay in float, though nothing asks for it"


def sensitivity(
    writer: Writer,
    fp32: bytes,
    spec: ExportSpec,
    calibration: Arrays | None,
    how: Lowering,
    *,
    names: Sequence[str],
    dataset: Dataset,
    reference: Floats,
) -> Iterator[LayerLoss]:
    """Quantise one layer at a time and judge each file on the validation set.

    Layers that are kept in floats are left out. `reference` are torch's logits there.
    """
    samples = raw_samples(writer.layout, dataset, "validation")
    task = dataset.task
    right = task.predictions(torch.from_numpy(reference))
    for place, name in enumerate(names):
        if place in how.keep:
            continue
        model = writer.lower(fp32, spec, calibration, replace(how, keep=(), only=place))
        logits = np.asarray(writer.run(model, samples), np.float32)
        yield LayerLoss(
            layer=name,
            validation_accuracy=score(dataset, "validation", logits),
            agreement=task.agreement(task.predictions(torch.from_numpy(logits)), right),
        )
