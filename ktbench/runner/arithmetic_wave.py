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
from ktbench.runner.context import BATCH, Checked, Run, architecture, clocked
from ktbench.runner.teacher_jobs import same_dataset
from ktbench.students._contract import Student
from ktbench.supervision import mark
from ktbench.system.files import cache_folder, write_atomically
from ktbench.system.provenance import processor

SMALLEST = 4
"""Images of a checked batch, at least."""
WORK = 2e8
"""Forward FLOPs that a checked batch is kept to, as its reference is slow: some 30 times as many in
double precision, by plain kernels."""
KILLS = 3
"""So often a check is taken again whose process somebody killed."""
_VERSION = 1
"""Of what is checked: verdicts of another are not used."""


@dataclass(frozen=True)
class ArithmeticJob:
    """Check one architecture in one layout."""

    cell: Cell
    """One that trains it."""
    base: Path
    layout: LayoutName | None = None
    """None: as its own layers decide."""
    why: str | None = None
    """Why it is not the layout that comes first."""
    data_digest: str | None = None

    @property
    def numeric(self) -> NumericSpec:
        """What it is trained with."""
        return self.cell.numeric


def check_arithmetic(job: ArithmeticJob, _: object = None) -> ArithmeticVerdict:
    """Judge one training step of the job's architecture, on images of its own data."""
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
    classes = len(data.classes)
    flops = forward_flops(item, classes, data.shape, str(job.base))
    most = min(BATCH, max(SMALLEST, int(WORK / max(1, flops))))
    stream = Stream(data, cell.seed, cell.train.batch_size, cell.train.views)
    indices = stream.order(0)[0][:most]

    def build() -> Student:
        return catalogue.build_student(
            item.name,
            item.settings,
            num_classes=classes,
            in_channels=data.shape[0],
            base=str(job.base),
        )

    return Step(build, stream.inputs(indices, 0), stream.labels(indices), job.numeric)


# ---------------------------------------------------------------- the wave


def arithmetic_wave(this: Run, cells: Iterable[Cell]) -> Checked:
    """Check the architecture of each cell, once; what is not as usual is told."""
    wanted = {architecture(c): c for c in cells if c.numeric.device == "cpu"}
    checked, open_jobs = Checked(), dict[str, ArithmeticJob]()
    for name, cell in wanted.items():
        digest = this.provenance_of(cell).data_digest
        open_jobs[name] = ArithmeticJob(cell, this.base, data_digest=digest)
    kills = dict.fromkeys(wanted, 0)
    with clocked(this.summary, "arithmetic"):
        while open_jobs:
            jobs = {id(job): name for name, job in open_jobs.items()}
            following: dict[str, ArithmeticJob] = {}
            for job, outcome in _outcomes(this, list(open_jobs.values())):
                name = jobs[id(job)]
                if isinstance(outcome, Lost) and outcome.killed and kills[name] < KILLS:
                    kills[name] += 1
                    following[name] = replace(job)
                    continue
                then = _concluded(job, outcome)
                if isinstance(then, ArithmeticJob):
                    following[name] = then
                elif then is not None:
                    checked.layouts[name] = then
                    _tell(this, job.cell, then)
            open_jobs = following
    return checked


def _outcomes(
    this: Run, jobs: Sequence[ArithmeticJob]
) -> Iterator[tuple[ArithmeticJob, ArithmeticVerdict | Lost]]:
    """Verdicts that are known already, then those of the engine, which are kept."""
    unknown = []
    for job in jobs:
        known = _kept(job)
        if known is None:
            unknown.append(job)
        else:
            yield job, known
    for job, outcome in this.engine.run(check_arithmetic, unknown, lambda *_: None):
        if not isinstance(outcome, Lost) and outcome.right is not None:
            _keep(job, outcome)
        yield job, outcome


def _concluded(
    job: ArithmeticJob, outcome: ArithmeticVerdict | Lost
) -> Layout | Failure | ArithmeticJob | None:
    """The layout, the next check to make, or that none is right."""
    if isinstance(outcome, Lost):
        wrong: str = outcome.reason
        tried: LayoutName = job.layout or "channels_last"
        hopeless = outcome.mark.stage.startswith("building")
    elif outcome.right is None:
        return None  # the training will tell what the network raised
    elif outcome.right:
        return Layout(outcome.layout, outcome.layout_reason, checked=True)
    else:
        wrong, tried, hopeless = outcome.reason, outcome.layout, False
    asked = job.cell.numeric.layout
    safer = SAFER[tried]
    if asked != "auto" or safer is None or hopeless:
        setting = "" if asked == "auto" else f"numeric.layout: {asked}: "
        return Failure(stage="train", reason=f"{setting}its arithmetic fails here: {wrong}")
    return replace(job, layout=safer, why=f"{Layout(tried).text}: {wrong}")


def _tell(this: Run, cell: Cell, found: Layout | Failure) -> None:
    label = cell.student.label
    if isinstance(found, Failure):
        this.watcher.note(f"arithmetic: {label}: {found.reason}")
    elif found.reason is not None:
        this.watcher.note(f"arithmetic: {label} runs {found.text}: {found.reason}")


# ---------------------------------------------------------------- kept verdicts


def _path(job: ArithmeticJob) -> Path:
    """By all that a verdict depends on: the network and its code, settings, torch, processor."""
    machine = [processor(), instruction_set(), str(torch.__version__)]
    asked = [architecture(job.cell), job.data_digest, job.layout]
    name = digest_of([_VERSION, asked, _catalogue_digest(), machine])
    return cache_folder() / "arithmetic" / f"{name}.json"


@cache
def _catalogue_digest() -> str:
    """Over the code of the catalogue's own networks; a user's own file is in its item."""
    total = hashlib.sha256()
    for folder in students.__path__:
        for file in sorted(Path(folder).rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _kept(job: ArithmeticJob) -> ArithmeticVerdict | None:
    try:
        found = ArithmeticVerdict.model_validate_json(_path(job).read_bytes())
    except (OSError, ValidationError, KtbenchError):
        return None
    return found.model_copy(update={"layout_reason": job.why}) if job.layout else found


def _keep(job: ArithmeticJob, verdict: ArithmeticVerdict) -> None:
    """Only a convenience: a run goes on where it cannot be written."""
    path = _path(job)
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, verdict.model_dump_json(indent=1))
