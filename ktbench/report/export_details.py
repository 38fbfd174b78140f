"""Exported files of a cell, for its details."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ktbench.records import Artifact, Result
from ktbench.report import numbers, scores


def exports_table(result: Result | None) -> dict[str, Any] | None:
    """Table of a cell's files, with what is odd about them and what failed; None without any."""
    if result is None or not (result.artifacts or result.failures):
        return None
    heads = [
        "export",
        "size",
        "agreement",
        "largest logit difference",
        f"test {scores.word()}",
        "checked in",
    ]
    rows = [
        [
            a.export.label,
            numbers.size(a.bytes),
            f"{numbers.percent(a.agreement)} (≥ {numbers.percent(a.tolerance.agreement)})",
            numbers.small(a.max_difference)
            + (f" (≤ {numbers.small(a.tolerance.difference)} σ)" if a.tolerance.difference else ""),
            scores.metric().written(a.test_accuracy),
            a.runtime,
        ]
        for a in result.artifacts
    ]
    failed = [f"{f.what or f.stage}: {f.reason}" for f in result.failures]
    notes = [note for a in result.artifacts for note in _notes(a)]
    return {"title": "Exports", "heads": heads, "rows": rows, "failed": failed, "notes": notes}


def _notes(artifact: Artifact) -> Iterator[str]:
    """Sentences on an int8 file's layers and remarks."""
    if artifact.layers is not None:
        held = f"{artifact.layers.quantised} of {artifact.layers.all} layers"
        yield f"{artifact.export.label} holds {held} as integers."
    for remark in artifact.remarks:
        yield f"{artifact.export.label}: {remark}."


def sensitivity_tables(result: Result | None) -> Iterator[dict[str, Any]]:
    """Tables of what each layer loses when it alone is quantised, the greatest loss first."""
    for artifact in result.artifacts if result is not None else ():
        losses = sorted(artifact.sensitivity, key=lambda loss: loss.agreement)
        if losses:
            yield {
                "title": f"Sensitivity of {artifact.export.label}",
                "heads": ["layer", "agreement with torch", f"validation {scores.word()}"],
                "rows": [
                    [
                        loss.layer,
                        numbers.percent(loss.agreement),
                        scores.metric().written(loss.validation_accuracy),
                    ]
                    for loss in losses
                ],
                "notes": ["One layer alone is quantised at a time; all others stay in float32."],
            }
