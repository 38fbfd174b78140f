"""Exports of a matrix: the combinations of a grid, and the form that its devices ask for."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from ktbench import catalogue
from ktbench.matrix.models import ExportGrid
from ktbench.records import DeviceSpec, ExportSpec

_X86 = {"x86_64", "AMD64", "i386", "i686"}


def export_specs(grid: ExportGrid, devices: Sequence[DeviceSpec]) -> Iterator[ExportSpec]:
    """Yield every combination; the opset concerns ONNX alone, later settings int8 alone."""
    unsigned = grid.activations == "unsigned" or (
        grid.activations == "auto" and any(map(runs_on_x86, devices))
    )
    for form, precision, batch in product(grid.formats, grid.precisions, grid.batch):
        for opset in grid.opset if form == "onnx" else (18,):
            spec = ExportSpec(format=form, precision=precision, batch=batch, opset=opset)
            if precision == "int8":
                settings: dict[str, Any] = {
                    "calibration": grid.calibration,
                    "correct": tuple(sorted(set(grid.correct), reverse=True)),
                    "keep": tuple(dict.fromkeys(grid.keep)),
                    "sensitivity": grid.sensitivity,
                }
                if form == "onnx":
                    settings["activations"] = "unsigned" if unsigned else "signed"
                    settings["reduce_range"] = grid.reduce_range
                spec = spec.model_copy(update=settings)
            yield spec


def runs_on_x86(device: DeviceSpec) -> bool:
    """Tell if a device runs models on a processor that is, or may be, one of x86.

    There ONNX Runtime computes part of a file with signed activations in float; unsigned ones are
    integers on ARM too.
    """
    profile = catalogue.device(device.profile)
    if profile.transport == "fake" or device.provider in ("cuda", "tensorrt"):
        return False
    if profile.transport == "local":
        return platform.machine() in _X86
    return not profile.architectures or bool(_X86 & set(profile.architectures))


def dynamic(specs: Sequence[ExportSpec]) -> tuple[ExportSpec, ...]:
    """Return exports of networks whose activations get their ranges at each run.

    Their type is then the runtime's choice, and no setting of the file.
    """
    plain = {"activations": "signed"}
    return tuple(dict.fromkeys(spec.model_copy(update=plain) for spec in specs))
