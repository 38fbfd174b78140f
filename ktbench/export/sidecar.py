"""An artifact on disk and the JSON beside it that describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ktbench.data import Dataset
from ktbench.export.writer import Writer
from ktbench.records import SCHEMA, Artifact, Cell, KtbenchError
from ktbench.system.files import write_atomically


def describe(
    artifact: Artifact, cell: Cell, dataset: Dataset, writer: Writer, calibration: int
) -> dict[str, Any]:
    """Return the sidecar: all that is needed by whoever has nothing but these two files."""
    batch = 1 if artifact.export.batch == "1" else None
    return {
        "schema_version": SCHEMA,
        "file": Path(artifact.path).name,
        "sha256_16": artifact.digest,
        "format": artifact.export.format,
        "precision": artifact.export.precision,
        "labels": list(dataset.classes),
        "input": {
            "name": "image",
            "layout": writer.layout,
            "shape": [batch, *artifact.input_shape],
            "dtype": "float32",
            "range": [0, 255],
            "normalisation": "inside the graph",
            "mean": dataset.mean.tolist(),
            "std": dataset.std.tolist(),
        },
        "output": {
            "name": "logits",
            "shape": [batch, len(dataset.classes)],
            "dtype": "float32",
            "meaning": "one logit per label, before softmax",
        },
        "provenance": {
            "cell_key": cell.key,
            "cell": cell.model_dump(mode="json"),
            "export": artifact.export.model_dump(mode="json"),
            "graph_key": artifact.graph_key,
            "data_digest": dataset.digest,
            "calibration": {"split": "train", "images": calibration},
            "versions": writer.versions(),
        },
        "integrity": {
            "runtime": artifact.runtime,
            "agreement": artifact.agreement,
            "max_difference": artifact.max_difference,
            "tolerance": artifact.tolerance.model_dump(mode="json"),
            "validation_accuracy": artifact.validation_accuracy,
            "test_accuracy": artifact.test_accuracy,
        },
    }


def sidecar_path(path: Path) -> Path:
    """Return `model.onnx.json` for `model.onnx`."""
    return path.with_name(path.name + ".json")


def write(path: Path, model: bytes, sidecar: dict[str, Any]) -> None:
    """Write both files, the artifact last, or neither; `KtbenchError` on a full disk."""
    beside = sidecar_path(path)
    write_atomically(beside, json.dumps(sidecar, indent=2, sort_keys=True, allow_nan=False) + "\n")
    try:
        write_atomically(path, model)
    except KtbenchError:
        beside.unlink(missing_ok=True)
        raise
