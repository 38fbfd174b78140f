"""The files of an export: the model, and the JSON that says all that its user needs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ktbench.data import Dataset
from ktbench.export.writer import Writer
from ktbench.records import SCHEMA, Artifact, Cell, KtbenchError
from ktbench.system.files import write_atomically


def described(
    artifact: Artifact, cell: Cell, dataset: Dataset, writer: Writer, calibration: int
) -> dict[str, Any]:
    """Return the sidecar: all that is needed by whoever has nothing but these two files."""
    batch = 1 if artifact.export.batch == "1" else None
    signature = dataset.signature
    told = dataset.task.sidecar(signature, dataset.statistics, dataset.facts)
    others = {
        name: {"bytes": len(text.encode()), "sha256_16": file_digest(text.encode())}
        for name, text in dataset.task.files_beside(dataset.facts).items()
    }
    inputs = [
        {
            "name": each.name,
            **({"layout": writer.layout} if len(each.shape) == 3 else {}),
            "shape": [batch, *each.shape_in(writer.layout)],
            "dtype": each.file_type,
            **told.get(each.name, {}),
        }
        for each in signature.file_inputs
    ]
    return {
        "schema_version": SCHEMA,
        "file": Path(artifact.path).name,
        "sha256_16": artifact.digest,
        "format": artifact.export.format,
        "precision": artifact.export.precision,
        "labels": list(dataset.classes),
        **({"beside": others} if others else {}),
        **({"input": inputs[0]} if len(inputs) == 1 else {"inputs": inputs}),
        "output": {
            "name": "logits",
            "shape": [batch, signature.outputs],
            "dtype": "float32",
            **(
                {"meaning": "one logit per label, before softmax"}
                if dataset.task.top_class
                else {"meaning": "as the metric reads them", "reduction": "none"}
            ),
        },
        "provenance": {
            "cell_key": cell.key,
            "cell": cell.model_dump(mode="json"),
            "export": artifact.export.model_dump(mode="json"),
            "graph_key": artifact.graph_key,
            "data_digest": dataset.digest,
            **_ranges(artifact, calibration),
            "versions": writer.versions(),
        },
        "integrity": {
            "runtime": artifact.runtime,
            "agreement": artifact.agreement,
            "max_difference": artifact.max_difference,
            "tolerance": artifact.tolerance.model_dump(mode="json"),
            "validation_accuracy": artifact.validation_accuracy,
            "test_accuracy": artifact.test_accuracy,
            "metric": dataset.task.metric.name,
        },
    }


def _ranges(artifact: Artifact, calibration: int) -> dict[str, Any]:
    """Say where an int8 file's ranges come from."""
    if artifact.quantisation == "dynamic":
        return {"quantisation": "dynamic"}
    told: dict[str, Any] = {"split": "train", "images": calibration}
    if artifact.export.calibration != "minmax":
        told["method"] = artifact.export.calibration
    return {"calibration": told}


def file_digest(content: bytes) -> str:
    """Return 16 digits that name a file by its bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def sidecar_path(path: Path) -> Path:
    """Return `model.onnx.json` for `model.onnx`."""
    return path.with_name(path.name + ".json")


def write(path: Path, model: bytes, sidecar: dict[str, Any], others: dict[str, str]) -> None:
    """Write all files, the artifact last, or neither it nor its sidecar.

    `others` are those that all of a cell's files share. Raises KtbenchError on a full disk.
    """
    beside = sidecar_path(path)
    for name, text in others.items():
        write_atomically(path.with_name(name), text)
    write_atomically(beside, json.dumps(sidecar, indent=2, sort_keys=True, allow_nan=False) + "\n")
    try:
        write_atomically(path, model)
    except KtbenchError:
        beside.unlink(missing_ok=True)
        raise
