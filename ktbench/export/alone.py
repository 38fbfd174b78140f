"""A network, or a part of one, as an ONNX file of its own, to be measured and not to be kept."""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.export.deployed_network import deploy, plan_folding
from ktbench.export.onnx_writer import OnnxWriter
from ktbench.records import ExportSpec


def onnx_alone(
    module: nn.Module,
    shape: tuple[int, int, int],
    moments: tuple[Tensor, Tensor] | None = None,
) -> bytes:
    """fp32, for one input of `shape` (C, H, W), batch normalisation folded as in an artifact.

    `moments`, the mean and deviation (C,) of raw images, belong to a whole network.
    """
    folded = deploy(module, plan_folding(module, shape), shape, moments, "NCHW")
    return OnnxWriter().convert(folded, ExportSpec(format="onnx"))
