"""One run: a plan, a results folder, and the waves of jobs between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ktbench.engine.contract import Engine, Lost, Workers
from ktbench.networks.layout import Layout
from ktbench.records import (
    Assembly,
    Cell,
    DeviceSpec,
    Failure,
    KtbenchError,
    Measurement,
    NumericSpec,
    Plan,
    Provenance,
    Result,
    Teacher,
    digest_of,
)
from ktbench.results import ResultsFolder
from ktbench.runner.arithmetic_wave import arithmetic_wave
from ktbench.runner.blockwise.wave import block_wave
from ktbench.runner.cohort_jobs import (
    CellOutcome,
    CellTask,
    CohortJob,
    narrowed,
    saved_work,
    stage_of,
    train_and_export,
)
from ktbench.runner.cohort_split import cohorts
from ktbench.runner.context import Checked, Run, Summary, Teachers, clocked
from ktbench.runner.measurement_wave import (
    ReferenceJob,
    References,
    measure_all,
    reference,
    reference_jobs,
    unmeasured,
)
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.parallel_devices import measure_devices
from ktbench.runner.preflight import refuse_unready
from ktbench.runner.progress import Shares, Watcher
from ktbench.runner.resuming import mark_again, open_tasks
from ktbench.runner.teacher_jobs import (
    DataJob,
    TeacherJob,
    TrainedTeacher,
    digest_data,
    make_teacher,
)
from ktbench.system.provenance import collect
from ktbench.train import checkpoint_interval


def run(
    plan: Plan,
    *,
    matrix_text: str,
    folder: Path,
    engine: Engine,
    watcher: Watcher,
    write_report: Callable[[Path], Path] | None,
    fresh: bool = False,
    memory: int | None = None,
    strict: bool = False,
) -> Summary:
    """Carry out a plan into a results folder; what is already there is not done again.

    A process that trains holds `memory` bytes at most; when not given, half of what is free where
    it runs, divided by the number of the engine's processes there.
    Raises KtbenchError when the run cannot begin or its folder cannot be written; `strict`: also
    when a device cannot be measured now, which is else a note and a failure at the end. A cell or a
    device that fails is a record in the folder and in the summary; the others go on.
    """
    if plan.skips and not plan.cells:
        raise KtbenchError(f"{plan.name}: no cell can be trained: {plan.skips[0].reason}")
    began = time.perf_counter()
    summary = Summary(folder)
    checkpoint_interval()  # A wrong setting is told now, not once per cell.
    with clocked(summary, "data"):
        for warning in refuse_unready(plan, engine, folder, fresh=fresh, strict=strict):
            watcher.note(f"warning: {warning}")
        provenance, tested_on = _provenance(plan, engine)
    results = ResultsFolder(folder)
    ours = collect(tested_on)
    with results.open(plan, matrix_text, ours, fresh=fresh, data_digest=tested_on):
        this = Run(plan, results, provenance, engine, watcher, summary, memory)
        for skip in plan.skips:
            results.write_result(
                Result(cell=skip.cell, status="skipped", reason=skip.reason, provenance=ours)
            )
        summary.skipped = len(plan.skips)
        for note in results.notes:
            watcher.note(note)
        teachers, references = _engine_waves(this)
        # Once the engine is gone: a measurement wants a quiet machine.
        _measuring_wave(this, references)
        results.write_failures(
            [f for f in teachers.values() if isinstance(f, Failure)] + summary.unmeasured
        )
        if write_report is not None:
            with clocked(summary, "report"):
                summary.report = write_report(folder)
    summary.seconds["total"] = time.perf_counter() - began
    return summary


def _engine_waves(this: Run) -> tuple[Teachers, References]:
    """Everything that the engine's jobs do, in order; the engine is started only for work."""
    opened = open_tasks(this)
    todo = [*opened.tasks, *opened.restored]
    if not todo and not unmeasured(this.plan, this.results):
        return {}, {}
    teachers: Teachers = {}
    with this.engine.at(this.plan, this.results.path) as workers, _pool_let_go(this.plan):
        if todo:
            this.checked.layouts.update(_arithmetic_wave(this, todo).layouts)
            teachers = _teacher_wave(this, todo)
            this.starts.update(block_wave(this, todo, teachers, workers))
            _cohort_wave(this, opened.tasks, teachers, workers)
            mark_again(this, opened)
        return teachers, _reference_wave(this)


@contextmanager
def _pool_let_go(plan: Plan) -> Iterator[None]:
    """What a pool of teachers holds in this process goes before anything is measured here."""
    try:
        yield
    finally:
        if plan.source.source == "pool":
            from ktbench.runner.teacher_pool import close  # Ray is large, and not everybody has it

            close()


def _provenance(plan: Plan, engine: Engine) -> tuple[dict[str, Provenance], str]:
    """Provenance by data set, and the digest of what all cells are tested on.

    A folder's results must be tested on the same images; what a cell learnt from is its own, so
    that a teacher or a cell with more training images can be added to a matrix.
    """
    ours = collect()
    cells = [*plan.cells, *(teacher.cell for teacher in plan.teachers)]
    specs = {cell.data.canonical: cell.data for cell in cells}
    numeric = plan.cells[0].numeric if plan.cells else NumericSpec()
    job = DataJob(tuple(specs.values()), Path(plan.base), numeric)
    digests = engine.ahead(digest_data, job)
    if isinstance(digests, Lost):
        raise KtbenchError(f"data: {digests.reason}")
    found = {name: ours.model_copy(update={"data_digest": digests[name].whole}) for name in specs}
    return found, digest_of(sorted({digests[name].test for name in specs}))


# ---------------------------------------------------------------- before all: arithmetic


def _arithmetic_wave(this: Run, tasks: Sequence[CellTask]) -> Checked:
    """Check every architecture that is trained now, of teachers too."""
    trained = [task.cell for task in tasks if task.trained is None]
    teachers = this.plan.model_copy(update={"cells": tuple(trained)}).teachers
    taught = [teacher.cell for teacher in teachers if teacher.checkpoint is None]
    return arithmetic_wave(this, [*taught, *trained])


# ---------------------------------------------------------------- first wave: teachers


def _teacher_wave(this: Run, tasks: Sequence[CellTask]) -> Teachers:
    """Every teacher that a training needs, each after those that taught it."""
    trained_now = tuple(task.cell for task in tasks if task.trained is None)
    needed = this.plan.model_copy(update={"cells": trained_now}).teachers
    ready: Teachers = {}
    if not needed:
        return ready
    this.watcher.begin("teachers", sum(t.cell.train.epochs for t in needed))
    shares = Shares(this.watcher)
    with clocked(this.summary, "teachers"):
        for depth in sorted({_depth(t) for t in needed}):
            _ready_teachers(this, [t for t in needed if _depth(t) == depth], ready, shares)
    this.watcher.end()
    return ready


def _depth(teacher: Teacher) -> int:
    """How many teachers come before this one: those of one depth can be trained at once."""
    return max((1 + _depth(before) for before in teacher.cell.teachers), default=0)


def _ready_teachers(
    this: Run, teachers: Sequence[Teacher], ready: Teachers, shares: Shares
) -> None:
    """Add some teachers, or why there are none: that of its own teacher, where that one failed."""
    jobs = []
    for teacher in teachers:
        taught_by = _ready(teacher.cell, ready)
        if isinstance(taught_by, Failure):
            ready[teacher.canonical] = taught_by
            continue
        layout = None if teacher.checkpoint else this.checked.of(teacher.cell)
        if isinstance(layout, Failure):
            unable = layout.model_copy(update={"stage": "teacher", "what": teacher.name})
            ready[teacher.canonical] = unable
            this.watcher.note(f"failed: teacher {teacher.name}: {unable.reason}")
        else:
            digest = this.provenance_of(teacher.cell).data_digest
            jobs.append(TeacherJob(teacher, taught_by, this.base, this.root, digest, layout))

    def tell(job: TeacherJob, share: float) -> None:
        shares.tell(job, job.teacher.cell.train.epochs, share, job.teacher.name)

    def again(job: TeacherJob, lost: Lost) -> list[TeacherJob]:
        shares.drop(job)
        return [job for _ in deaths.again([job.teacher.canonical], lost)]

    deaths = Narrowing()
    for job, outcome in run_narrowing(this.engine, make_teacher, jobs, tell, again):
        shares.finish(job, job.teacher.cell.train.epochs)
        if isinstance(outcome, Lost):
            outcome = Failure(stage="teacher", reason=outcome.reason, what=job.teacher.name)
        ready[job.teacher.canonical] = outcome
        if isinstance(outcome, Failure):
            this.watcher.note(f"failed: teacher {job.teacher.name}: {outcome.reason}")
        else:
            for note in outcome.notes:
                this.watcher.note(note)


def _ready(cell: Cell, teachers: Teachers) -> tuple[TrainedTeacher, ...] | Failure:
    """All that a cell's teacher is made of, or why one of them is not there."""
    found = [teachers[teacher.canonical] for teacher in cell.teachers]
    failed = [outcome for outcome in found if isinstance(outcome, Failure)]
    return failed[0] if failed else tuple(o for o in found if not isinstance(o, Failure))


# ---------------------------------------------------------------- third wave: cohorts


def _cohort_wave(
    this: Run, tasks: Sequence[CellTask], teachers: Teachers, workers: Workers
) -> None:
    jobs = []
    for group in cohorts(_that_can_start(this, tasks), workers.all):
        first = group[0]
        teacher = _ready(first.cell, teachers) if first.trained is None else ()
        if isinstance(teacher, Failure):
            for task in group:
                _keep(this, CellOutcome(task.cell, None, failures=(teacher,)), (), tell=False)
        else:
            digest = this.provenance_of(first.cell).data_digest
            exports = this.plan.exports
            source, where = this.plan.source, (this.base, this.root)
            share = (this.memory, workers.per_machine)
            starts = _weights_of_starts(this, group)
            whole = (tuple(group), teacher, exports, *where, source, *share, digest, starts)
            jobs.append(CohortJob(*whole, layouts=_layouts(this, group)))
    if not jobs:
        return
    this.watcher.begin("students", sum(job.units for job in jobs))
    shares = Shares(this.watcher)

    def tell(job: CohortJob, share: float) -> None:
        shares.tell(job, job.units, share, job.label)

    def again(job: CohortJob, lost: Lost) -> list[CohortJob]:
        shares.drop(job)
        narrower = narrowed(job, deaths.again([t.cell.key for t in job.tasks], lost), lost)
        if narrower:
            labels = {task.cell.key: task.cell.label for task in job.tasks}
            label = labels.get(lost.mark.subject, job.label)
            then = "it runs again alone" if len(job.tasks) == 1 else "the others go on without it"
            this.watcher.note(f"ended: {label}: {lost.reason}; {then}")
        return narrower

    deaths = Narrowing(lambda key: saved_work(this.results.work(key)))
    for job, cohort in run_narrowing(this.engine, train_and_export, jobs, tell, again):
        shares.finish(job, job.units)
        if isinstance(cohort, Lost):
            _keep_lost(this, job, cohort)
            continue
        for stage, seconds in cohort.seconds.items():
            this.summary.seconds[stage] += seconds
        for note in cohort.notes:
            this.watcher.note(note)
        for outcome in cohort.cells:
            _keep(this, outcome, job.taught_by, provenance=cohort.provenance)
    this.watcher.end()


def _that_can_start(this: Run, tasks: Sequence[CellTask]) -> list[CellTask]:
    """The tasks but for those that have failed already.

    Their first weights could not be made, or their arithmetic is wrong in every layout.
    """
    able = []
    for task in tasks:
        reasons = this.starts.get(task.cell.key), this.checked.of(task.cell)
        failed = [reason for reason in reasons if isinstance(reason, Failure)]
        if failed and task.trained is None:
            _keep(this, CellOutcome(task.cell, None, failures=(failed[0],)), (), tell=False)
        else:
            able.append(task)
    return able


def _layouts(this: Run, tasks: Sequence[CellTask]) -> dict[str, Layout]:
    """By the cell's key: the layout in which its arithmetic was found right."""
    found = {task.cell.key: this.checked.of(task.cell) for task in tasks}
    return {key: layout for key, layout in found.items() if isinstance(layout, Layout)}


def _weights_of_starts(this: Run, tasks: Sequence[CellTask]) -> dict[str, Path]:
    """By the cell's key: the file of its first weights, where they are not fresh ones."""
    found = {task.cell.key: this.starts.get(task.cell.key) for task in tasks}
    return {k: this.root / start.path for k, start in found.items() if isinstance(start, Assembly)}


def _keep_lost(this: Run, job: CohortJob, lost: Lost) -> None:
    """Every cell of the job failed; its saved work stays, so that the next run goes on from it."""
    failure = Failure(stage=stage_of(lost.mark), reason=lost.reason)
    for task in job.tasks:
        outcome = CellOutcome(task.cell, task.trained, task.exported, (failure,))
        _keep(this, outcome, job.taught_by, drop=False)


def _keep(
    this: Run,
    outcome: CellOutcome,
    taught_by: Sequence[TrainedTeacher],
    *,
    provenance: Provenance | None = None,
    tell: bool = True,
    drop: bool = True,
) -> None:
    """Write a cell's result; only then does the saved work of its training go (`drop`).

    `provenance` is of where it was made: of this process, when not given. `tell` is off for
    failures that the user has heard of already.
    """
    checkpoint = outcome.checkpoint
    heard = tuple(teacher.checkpoint for teacher in taught_by)
    teacher, ensemble = (heard[0], ()) if len(heard) == 1 else (None, heard)
    start = this.starts.get(outcome.cell.key)
    start = start if isinstance(start, Assembly) else None
    earlier = this.results.result(outcome.cell.key)
    if earlier is not None and earlier.checkpoint is not None and checkpoint is not None:
        teacher, start = teacher or earlier.teacher, start or earlier.start
        ensemble = ensemble or earlier.ensemble
        if earlier.checkpoint.digest == checkpoint.digest:
            checkpoint = earlier.checkpoint  # Its weights had been lost: they are the same again.
    result = Result(
        cell=outcome.cell,
        status="failed" if outcome.failures else "done",
        checkpoint=checkpoint,
        teacher=teacher,
        ensemble=ensemble,
        start=start,
        artifacts=outcome.artifacts,
        failures=outcome.failures,
        provenance=provenance or this.provenance_of(outcome.cell),
    )
    if earlier is None or earlier.status != "done" or checkpoint is not None:
        this.results.write_result(result)
    if drop:
        this.results.drop_work(outcome.cell.key)
    if outcome.failures:
        this.summary.failed.append(result)
        first = outcome.failures[0]
        what = f" {first.what}" if first.what else ""
        if tell:
            this.watcher.note(f"failed: {outcome.cell.label}: {first.stage}{what}: {first.reason}")
    else:
        this.summary.done += 1


# ---------------------------------------------------------------- last wave: measurements


def _reference_wave(this: Run) -> References:
    """What torch answers on the validation images, for every graph that is to be measured."""
    jobs = reference_jobs(this.plan, this.results, this.root)
    deaths = Narrowing()

    def again(job: ReferenceJob, lost: Lost) -> list[ReferenceJob]:
        return [job for _ in deaths.again([job.digest], lost)]

    found: References = {}
    for job, outcome in run_narrowing(this.engine, reference, jobs, lambda *_: None, again):
        if isinstance(outcome, Lost):
            outcome = Failure(stage="measure", reason=outcome.reason, what=job.label)
        found[job.digest] = outcome
    return found


def _measuring_wave(this: Run, references: References) -> None:
    def measure(device: DeviceSpec, watcher: Watcher) -> Iterator[Measurement | Failure]:
        return measure_all(this.plan, device, this.results, watcher, references)

    with clocked(this.summary, "measuring"):
        for outcome in measure_devices(this.plan.devices, measure, this.watcher):
            if isinstance(outcome, Failure):
                this.watcher.note(f"not measured: {outcome.what}: {outcome.reason}")
                this.summary.unmeasured.append(outcome)
            else:
                this.summary.measured += 1
