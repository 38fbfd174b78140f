"""The wave before any training: each architecture's arithmetic is checked on this kind of machine.

A verdict is kept in `$KTBENCH_CACHE/arithmetic`, by everything that it depends on, so that it costs
once. A layout that computes wrongly here, or ends the process, gives way to the next safer one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from pydantic import ValidationError

from ktbench import catalogue, students
from ktbench.data import Stream
from ktbench.engine.contract import Lost
from ktbench.networks.arithmetic import Step, check
from ktbench.networks.instruction_set import instruction_set
from ktbench.networks.layout import SAFER, Layout
from ktbench.networks.outline import forward_flops
from ktbench.records import (
    OWN_ERRORS,
    ArithmeticVerdict,
    Cell,
    Failure,
    KtbenchError,
    LayoutName,
    NumericSpec,
    StorageError,
    digest_of,
    one_line,
)
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import BATCH, Checked, RunContext, architecture, clocked
from ktbench.runner.data_jobs import same_dataset
from ktbench.students._contract import Student
from ktbench.supervision import mark
from ktbench.system.files import cache_folder, write_atomically
from ktbench.system.provenance import processor

SMALLEST = 4
"""Least images of a checked batch."""
WORK = 2e8
"""Forward FLOPs that a checked batch is kept to, as its reference is slow: some 30 times as many in
double precision, by plain kernels."""
KILLS = 3
"""Repetitions of a check whose process somebody killed."""
_VERSION = 2
"""Version of the check: verdicts of another are not used."""


@dataclass(frozen=True)
class ArithmeticJob:
    """Check one architecture in one layout."""

    cell: Cell
    """A cell that trains it."""
    base: Path
    layout: LayoutName | None = None
    """Layout to check; None for the one that its own layers decide."""
    why: str | None = None
    """Reason why it is not the layout that comes first."""
    data_digest: str | None = None

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings of its training."""
        return self.cell.numeric


def check_arithmetic(job: ArithmeticJob, _: object = None) -> ArithmeticVerdict:
    """Judge one training step of the job's architecture, on samples of its own data."""
    cell, subject = job.cell, job.cell.student.label
    mark(subject, "building the network", subject)
    try:
        step = _step(job)
    except (StorageError, OSError):
        raise
    except OWN_ERRORS as error:  # a user's own network may raise anything; its training tells it
        reason = one_line(error)
        name: LayoutName = job.layout or "channels_last"
        return ArithmeticVerdict(layout=name, right=None, reason=reason, images=0, seconds=0.0)
    mark(subject, "checking its arithmetic", cell.student.label)
    return check(step, None if job.layout is None else Layout(job.layout, job.why))


def _step(job: ArithmeticJob) -> Step:
    cell, item = job.cell, job.cell.student
    data = same_dataset(cell.data, job.base, job.data_digest)
    flops = forward_flops(item, data.signature, str(job.base))
    most = min(BATCH, max(SMALLEST, int(WORK / max(1, flops))))
    stream = Stream.of(data, cell)
    indices = stream.order(0)[0][:most]

    def build() -> Student:
        base = str(job.base)
        return catalogue.build_student(item.name, item.settings, base=base, **data.dimensions)

    inputs, labels = stream.inputs(indices, 0), stream.labels(indices, 0)
    return Step(build, inputs, labels, job.numeric, data.task.loss)


# ---------------------------------------------------------------- the wave


def arithmetic_wave(context: RunContext, tasks: Iterable[CellTask]) -> Checked:
    """Check each architecture that is trained now, of teachers too; note unusual layouts."""
    cells = {architecture(c): c for c in _trained_now(context, tasks) if c.numeric.device == "cpu"}
    checked, open_jobs = Checked(), dict[str, ArithmeticJob]()
    for name, cell in cells.items():
        if name in context.checked.layouts:
            continue
        digest = context.provenance_of(cell).data_digest
        open_jobs[name] = ArithmeticJob(cell, context.base, data_digest=digest)
    kills = dict.fromkeys(cells, 0)
    with clocked(context.summary, "arithmetic"):
        while open_jobs:
            jobs = {id(job): name for name, job in open_jobs.items()}
            following: dict[str, ArithmeticJob] = {}
            for job, outcome in _outcomes(context, list(open_jobs.values())):
                name = jobs[id(job)]
                if isinstance(outcome, Lost) and outcome.killed and kills[name] < KILLS:
                    kills[name] += 1
                    following[name] = replace(job)
                    continue
                conclusion = _concluded(job, outcome)
                if isinstance(conclusion, ArithmeticJob):
                    following[name] = conclusion
                elif conclusion is not None:
                    checked.layouts[name] = conclusion
                    _note(context, job.cell, conclusion)
            open_jobs = following
    return checked


def _trained_now(context: RunContext, tasks: Iterable[CellTask]) -> list[Cell]:
    """Return the cells of teachers and students that this run trains."""
    students = [task.cell for task in tasks if task.trained is None]
    # A warm-up is of a student's own architecture.
    plan = context.plan.model_copy(update={"cells": tuple(students)})
    before = [one for one in (*plan.teachers, *plan.pretrainings) if one.checkpoint is None]
    return [*(one.cell for one in before), *students]


def _outcomes(
    context: RunContext, jobs: Sequence[ArithmeticJob]
) -> Iterator[tuple[ArithmeticJob, ArithmeticVerdict | Lost]]:
    """Give the verdicts that are known already, then those of the engine, which are kept."""
    unknown = []
    for job in jobs:
        verdict = _kept(job)
        if verdict is None:
            unknown.append(job)
        else:
            yield job, verdict
    for job, outcome in context.engine.run(check_arithmetic, unknown, lambda *_: None):
        if not isinstance(outcome, Lost) and outcome.right is not None:
            _keep(job, outcome)
        yield job, outcome


def _concluded(
    job: ArithmeticJob, outcome: ArithmeticVerdict | Lost
) -> Layout | Failure | ArithmeticJob | None:
    """Return the right layout, the next check, or a failure; None where the training will tell."""
    if isinstance(outcome, Lost):
        wrong: str = outcome.reason
        tried: LayoutName = job.layout or "channels_last"
        hopeless = outcome.mark.stage.startswith("building")
    elif outcome.right is None:
        return None  # what the network raised comes again when it is trained
    elif outcome.right:
        return Layout(outcome.layout, outcome.layout_reason, checked=True)
    else:
        wrong, tried, hopeless = outcome.reason, outcome.layout, False
    setting = job.cell.numeric.layout
    safer = SAFER[tried]
    if setting != "auto" or safer is None or hopeless:
        prefix = "" if setting == "auto" else f"numeric.layout: {setting}: "
        return Failure(stage="train", reason=f"{prefix}its arithmetic fails here: {wrong}")
    return replace(job, layout=safer, why=f"{Layout(tried).text}: {wrong}")


def _note(context: RunContext, cell: Cell, layout: Layout | Failure) -> None:
    label = cell.student.label
    if isinstance(layout, Failure):
        context.watcher.note(f"arithmetic: {label}: {layout.reason}")
    elif layout.reason is not None:
        context.watcher.note(f"arithmetic: {label} runs {layout.text}: {layout.reason}")


# ---------------------------------------------------------------- kept verdicts


def _path(job: ArithmeticJob) -> Path:
    """Name a verdict's file by all it depends on: network, code, settings, torch, processor."""
    machine = [processor(), instruction_set(), str(torch.__version__)]
    check = [architecture(job.cell), job.data_digest, job.layout]
    name = digest_of([_VERSION, check, _catalogue_digest(), machine])
    return cache_folder() / "arithmetic" / f"{name}.json"


@cache
def _catalogue_digest() -> str:
    """Digest the code of the catalogue's networks; a user's own file is digested in its item."""
    total = hashlib.sha256()
    for folder in students.__path__:
        for file in sorted(Path(folder).rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _kept(job: ArithmeticJob) -> ArithmeticVerdict | None:
    try:
        verdict = ArithmeticVerdict.model_validate_json(_path(job).read_bytes())
    except (OSError, ValidationError, KtbenchError):
        return None
    return verdict.model_copy(update={"layout_reason": job.why}) if job.layout else verdict


def _keep(job: ArithmeticJob, verdict: ArithmeticVerdict) -> None:
    """Write a verdict for later runs; this run goes on where it cannot be written."""
    path = _path(job)
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, verdict.model_dump_json(indent=1))
