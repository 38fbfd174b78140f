"""Train the networks of `strided_networks` in a separate process, and print the results.

`python -m tests.support.strided_child FOLDER NAME...`: a line of JSON for each,
`CLASS[:setting=value]`, or `block` for a block's replacement.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ktbench.blockwise.block_training as blocks
from ktbench import catalogue
from ktbench.blockwise.block_training import BlockTraining
from ktbench.blockwise.blocks import BlockTask
from ktbench.networks.layout import Layout
from ktbench.networks.numeric import prepare
from ktbench.records import BlockTrain, Checkpoint, Item, NumericSpec
from ktbench.students._blocks import find_blocks
from tests.support import training

NETWORKS = Path(__file__).with_name("strided_networks.py")
REFERENCE = Layout("contiguous_without_onednn")


def _trained(name: str, folder: Path) -> dict[str, Any]:
    """Train a network; return its layout, and how far its weights are from torch's kernels'."""
    network, _, setting = name.partition(":")
    settings = dict([setting.split("=")]) if setting else {}
    method = settings.pop("method", "none")
    numeric = NumericSpec.model_validate({"threads": 1, **settings}, strict=False)
    cell = training.cell("none", student=Item(name=f"{NETWORKS}:{network}"), numeric=numeric)
    if method != "none":
        stages = {"stages": ["stem"]}
        cell = cell.model_copy(
            update={
                "method": Item(name=f"{NETWORKS}:{method}"),
                "student": cell.student.model_copy(update={"settings": stages}),
            }
        )
    states = []
    for layout in (None, REFERENCE):
        [outcome] = training.train([cell], folder, layouts=lambda _, chosen=layout: chosen)
        if not isinstance(outcome, Checkpoint):
            return {"name": name, "failed": outcome.reason}
        states.append((torch.load(folder / outcome.path), outcome))
        (folder / f"{cell.key}.work").unlink()
    (own, made), (right, _) = states
    far = max(float((own[k] - right[k]).abs().max() / right[k].abs().max()) for k in own)
    assert made.layout is not None
    return {"name": name, "layout": made.layout.name, "reason": made.layout.reason, "far": far}


def _block() -> dict[str, Any]:
    """Train a block's replacement for some steps; return the same of it."""
    prepare(training.NUMERIC)
    teacher = catalogue.build_student(
        "resnet8", {"width": 0.25}, num_classes=10, in_channels=1, base="."
    )
    block = next(b for b in find_blocks(teacher, "convolutions") if b.geometry.stride == 2)
    shape = block.geometry.inputs, block.geometry.outputs
    blocks.build_replacement = lambda *_: nn.Conv2d(*shape, 1, 2)
    blocks.adopt = lambda *_: None
    torch.manual_seed(0)
    given, target = torch.randn(16, shape[0], 8, 8), torch.randn(16, shape[1], 4, 4)
    given = given.contiguous(memory_format=torch.channels_last)
    weights, layouts = [], []
    for layout in (None, REFERENCE):
        task = BlockTask(block, "separable", "key")
        how = (BlockTrain(), 0, 4, torch.device("cpu"))
        block_training = BlockTraining(task, teacher, *how, layout=layout)
        for _ in range(8):
            block_training.step(given, target)
        [weight, _] = block_training.module.parameters()
        weights.append(weight.detach())
        layouts.append(block_training.layout)
    far = float((weights[0] - weights[1]).abs().max() / weights[1].abs().max())
    assert layouts[0] is not None
    return {"name": "block", "layout": layouts[0].name, "reason": layouts[0].reason, "far": far}


def main() -> None:
    """Train the networks that the command line names."""
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        outcome = _block() if name == "block" else _trained(name, folder)
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
