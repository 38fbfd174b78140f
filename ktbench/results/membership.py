"""Rules on what belongs together: a cell and its files, results and their folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ktbench.records import Checkpoint, KtbenchError, Measurement, Result, Teacher
from ktbench.results.lock import Lock


def extended(earlier: Result, result: Result) -> Result:
    """The newer result with the earlier one's origin and remaining artifacts."""
    replaced = {a.export.label for a in result.artifacts} | {f.what for f in result.failures}
    kept = tuple(a for a in earlier.artifacts if a.export.label not in replaced)
    names = ("teacher", "ensemble", "start", "warmup", "pretrained")
    origin = {name: getattr(earlier, name) for name in names}
    return result.model_copy(update={**origin, "artifacts": (*kept, *result.artifacts)})


def beside(result: Result) -> list[Checkpoint]:
    """Return the checkpoints of other trainings that a result's own was made with."""
    made_with = [result.teacher, *result.ensemble, result.warmup]
    pretrained = result.pretrained
    while pretrained is not None:
        made_with.append(pretrained.checkpoint)
        pretrained = pretrained.before
    return [checkpoint for checkpoint in made_with if checkpoint is not None]


def taught(result: Result) -> Iterator[tuple[Teacher, Checkpoint]]:
    """Yield the teachers of a cell, and of what it began from, with their checkpoints."""
    checkpoints = result.ensemble or ((result.teacher,) if result.teacher else ())
    yield from zip(result.cell.teachers, checkpoints, strict=False)
    before, pretrained = result.cell.pretrained, result.pretrained
    while before is not None and pretrained is not None:
        yield from zip(before.cell.teachers, pretrained.taught_by, strict=False)
        before, pretrained = before.cell.pretrained, pretrained.before


def behind(result: Result) -> Iterator[tuple[Teacher, Checkpoint]]:
    """Yield the teachers of a cell and all trainings that it began from, with their checkpoints."""
    yield from taught(result)
    before, pretrained = result.cell.pretrained, result.pretrained
    while before is not None and pretrained is not None:
        yield before, pretrained.checkpoint
        before, pretrained = before.cell.pretrained, pretrained.before


def files_of(result: Result) -> list[str]:
    """Paths of all files that belong to a result, below the results folder."""
    trained = [result.checkpoint, *beside(result)]
    paths = [path for c in trained if c is not None for path in (c.path, c.curves)]
    paths += [path for a in result.artifacts for path in (a.path, f"{a.path}.json")]
    return [*paths, *([result.start.path] if result.start else [])]


def unchanged(earlier: Result, result: Result) -> list[str]:
    """Paths of the files that two results of a cell have in common."""
    same = result.checkpoint == earlier.checkpoint
    kept = result.model_copy(
        update={
            "checkpoint": result.checkpoint if same else None,
            "artifacts": tuple(a for a in result.artifacts if a in earlier.artifacts),
        }
    )
    return files_of(kept)


def belongs(result: Result, key: str) -> str | None:
    """Reason why a result's own parts are not those of the cell, or None."""
    checkpoint = result.checkpoint
    if checkpoint is not None:
        own = (key, f"weights/{key}.pt", f"cells/{key}.curves.parquet")
        if (checkpoint.cell_key, checkpoint.path, checkpoint.curves) != own:
            return "its checkpoint is of another cell"
    for artifact in result.artifacts:
        if artifact.cell_key != key or not artifact.path.startswith(f"artifacts/{key}/"):
            return "an artifact is of another cell"
    return None


def impossible_figure(result: Result, lock: Lock | None) -> str | None:
    """Reason why a result's figures cannot be those of the folder's metric, or None."""
    metric = lock.metric_of(result.cell) if lock is not None else None
    if metric is None:
        return None
    trained = (result.checkpoint, result.teacher, result.warmup, *result.ensemble)
    for checkpoint in trained:
        if checkpoint is not None and (reason := checkpoint.accuracy.objection(metric)):
            return reason
    for artifact in result.artifacts:
        for name in ("validation_accuracy", "test_accuracy"):
            if reason := metric.objection(getattr(artifact, name)):
                return f"{name} of {artifact.export.label} {reason}"
    return None


def impossible_on_board(measurement: Measurement, lock: Lock | None) -> str | None:
    """Reason why a board's figure cannot be one of the folder's metric, or None."""
    if lock is None or measurement.test_accuracy is None:
        return None
    if all(cell.key != measurement.cell_key for cell in lock.plan.cells):
        return None  # of an earlier matrix, which may have had another metric
    reason = lock.task.metric.objection(measurement.test_accuracy)
    return None if reason is None else f"test_accuracy {reason}"


def refuse_to_mix(path: Path, earlier: Lock, now: Lock) -> None:
    """Refuse results of other data, another torch or another kind of processor."""
    facts = (
        ("data (digest)", earlier.data_digest, now.data_digest),
        ("torch", earlier.provenance.versions.get("torch"), now.provenance.versions.get("torch")),
        ("machine", earlier.provenance.machine, now.provenance.machine),
        ("instruction set", earlier.provenance.instruction_set, now.provenance.instruction_set),
    )
    for what, old, new in facts:
        if what == "instruction set" and None in (old, new):
            continue  # not known, as in older folders
        if old != new:
            raise KtbenchError(
                f"{path}: its results were made with {what} {old}, this run has {new}: they are "
                "never mixed; use --fresh or another --results folder"
            )
