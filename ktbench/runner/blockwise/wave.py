"""The wave of blocks: given to workers, trained, and put together to students' first weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ktbench.blockwise import BlockStore, BlockTask, Execution, assembly_key, tasks_of
from ktbench.blockwise.processor_energy import Energy, Meter, estimated
from ktbench.engine.contract import Lost, Workers
from ktbench.records import BlockResult, Cell, Failure, KtbenchError, digest_of
from ktbench.runner.blockwise.division import divided
from ktbench.runner.blockwise.jobs import (
    BlocksJob,
    BlocksOutcome,
    GatherJob,
    put_together,
    start_of,
    train_some,
)
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import RunContext, Starts, Teachers, clocked
from ktbench.runner.data_jobs import dataset
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.progress import Shares
from ktbench.runner.trained_teacher import TrainedTeacher

PER_WORKER = 2
"""Trainings per worker from which on each stays whole: then one pass of the teacher feeds all of
its blocks, and workers have enough to choose from."""


@dataclass
class _Student:
    """A student whose first weights are needed, and the cells that begin from them."""

    cells: list[Cell]
    taught_by: TrainedTeacher
    tasks: tuple[BlockTask, ...]

    @property
    def training(self) -> str:
        """Digest that is equal for students whose blocks one pass of a teacher can feed."""
        cell, start = self.cells[0], start_of(self.cells[0])
        parts = (start.teacher.canonical, cell.data.canonical, start.train.canonical)
        return digest_of([*parts, cell.numeric.canonical, cell.seed])


@dataclass
class _Trained:
    """Results of blocks by their key, and the time and energy that they took."""

    results: dict[str, BlockResult | Failure] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    """Reasons by the key of blocks that nobody could finish; another run can."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Start and end of the job that trained a block."""
    cpu_seconds: float = 0.0
    energy: Energy | None = None


def block_wave(
    context: RunContext, tasks: Sequence[CellTask], teachers: Teachers, workers: Workers
) -> Starts:
    """Make the first weights of every cell that does not begin from fresh ones."""
    starting = [t.cell for t in tasks if t.cell.start is not None and t.trained is None]
    if not starting:
        return {}
    starts: Starts = {}
    store = BlockStore(context.root)
    students: list[_Student] = []
    with clocked(context.summary, "blocks"):
        for cells in _by_assembly(starting):
            assembly = store.find_assembly(assembly_key(cells[0]))
            start = assembly or _student(context, cells, teachers)
            if isinstance(start, _Student):
                students.append(start)
            else:
                starts.update(dict.fromkeys((cell.key for cell in cells), start))
        if students:
            trained = _train(context, students, store, workers)
            starts.update(_gather(context, students, trained, workers))
    return starts


def _by_assembly(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(assembly_key(cell), []).append(cell)
    return list(groups.values())


def _student(context: RunContext, cells: list[Cell], teachers: Teachers) -> _Student | Failure:
    teacher = teachers[start_of(cells[0]).teacher.canonical]
    if isinstance(teacher, Failure):
        return teacher
    data = dataset(cells[0].data, context.base)
    try:
        return _Student(cells, teacher, tasks_of(cells[0], base=context.base, **data.dimensions))
    except KtbenchError as error:
        failure = Failure(stage="train", reason=str(error))
        _note_failure(context, cells[0], failure)
        return failure


# ---------------------------------------------------------------- training


def _train(
    context: RunContext, students: Sequence[_Student], store: BlockStore, workers: Workers
) -> _Trained:
    """Train every block that is not there yet, once, however many students use it."""
    trained = _Trained()
    jobs = list(_whole_jobs(context, students, store, trained))
    if not jobs:
        return trained
    if workers.all > 1 and len(jobs) < PER_WORKER * workers.all:
        jobs = divided(context, jobs, workers.all)
    context.watcher.begin("blocks", sum(job.units for job in jobs))
    shares = Shares(context.watcher)

    def tell(job: BlocksJob, share: float) -> None:
        shares.tell(job, job.units, share, job.label)

    deaths = Narrowing()

    def again(job: BlocksJob, lost: Lost) -> list[BlocksJob]:
        shares.drop(job)
        if job.place is not None:  # part of a chain, whose members wait for each other
            return [job for _ in deaths.again([job.label], lost)]
        groups = deaths.again([task.key for task in job.tasks], lost)
        return [replace(job, tasks=tuple(job.tasks[n] for n in group)) for group in groups]

    with Meter() as meter:
        for job, outcome in run_narrowing(context.engine, train_some, jobs, tell, again):
            shares.finish(job, job.units)
            _add(trained, context, job, outcome)
    for place in {job.place.folder for job in jobs if job.place is not None}:
        shutil.rmtree(place, ignore_errors=True)
    # Another node's energy is not read here.
    one_machine = workers.all == workers.per_machine
    trained.energy = meter.energy if one_machine else None
    if trained.energy is None:
        trained.energy = estimated(trained.cpu_seconds, context.plan.blockwise.watts)
    context.watcher.end()
    return trained


def _whole_jobs(
    context: RunContext, students: Sequence[_Student], store: BlockStore, trained: _Trained
) -> Iterator[BlocksJob]:
    """Give one job per training, with the blocks that no earlier run has finished."""
    groups: dict[str, list[_Student]] = {}
    for student in students:
        groups.setdefault(student.training, []).append(student)
    for group in groups.values():
        untrained: dict[str, BlockTask] = {}
        for task in (task for student in group for task in student.tasks):
            result = trained.results.get(task.key) or store.find(task.key)
            if result is None:
                untrained.setdefault(task.key, task)
            else:
                trained.results[task.key] = result
        if untrained:
            first = group[0]
            digest = context.provenance_of(first.cells[0]).data_digest
            whole = (first.cells[0], tuple(untrained.values()), first.taught_by)
            yield BlocksJob(*whole, context.plan.blockwise, context.base, context.root, digest)


def _add(
    trained: _Trained, context: RunContext, job: BlocksJob, outcome: BlocksOutcome | Lost
) -> None:
    if isinstance(outcome, Lost):
        trained.lost.update(dict.fromkeys((task.key for task in job.tasks), outcome.reason))
        return
    trained.cpu_seconds += outcome.cpu_seconds
    for note in outcome.notes:
        context.watcher.note(note)
    for task, result in zip(job.tasks, outcome.results, strict=True):
        trained.results[task.key] = result
        trained.spans[task.key] = (outcome.began, outcome.ended)


# ---------------------------------------------------------------- assembling


def _gather(
    context: RunContext, students: Sequence[_Student], trained: _Trained, workers: Workers
) -> Starts:
    starts: Starts = {}
    jobs, keys = [], {}
    for student in students:
        cell = student.cells[0]
        lost = [trained.lost[task.key] for task in student.tasks if task.key in trained.lost]
        if lost:
            failure = Failure(stage="train", what="blocks", reason=lost[0])
            starts.update(dict.fromkeys((c.key for c in student.cells), failure))
            _note_failure(context, cell, failure)
            continue
        results = tuple(trained.results[task.key] for task in student.tasks)
        execution = _execution(context, student, trained, workers)
        taught_by, base, root = student.taught_by, context.base, context.root
        jobs.append(GatherJob(cell, results, taught_by, base, root, execution))
        keys[cell.key] = [c.key for c in student.cells]
    deaths = Narrowing()

    def again(job: GatherJob, lost: Lost) -> list[GatherJob]:
        return [job for _ in deaths.again([job.cell.key], lost)]

    for job, outcome in run_narrowing(context.engine, put_together, jobs, lambda *_: None, again):
        if isinstance(outcome, Lost):
            outcome = Failure(stage="train", what="assembling", reason=outcome.reason)
        if isinstance(outcome, Failure):
            _note_failure(context, job.cell, outcome)
        else:
            for failure in outcome.failures:
                kept = f"{outcome.student}: {failure.what} stays the teacher's own"
                context.watcher.note(f"{kept}: {failure.reason}")
        starts.update(dict.fromkeys(keys[job.cell.key], outcome))
    return starts


def _execution(
    context: RunContext, student: _Student, trained: _Trained, workers: Workers
) -> Execution:
    """Return how a student's blocks were trained; time and energy only if all were trained now.

    Students that were trained together share the energy by what their blocks took; a block that
    several use counts for each.
    """
    how = context.plan.blockwise
    spans = [trained.spans[t.key] for t in student.tasks if t.key in trained.spans]
    if len(spans) < len(student.tasks) or not spans or trained.energy is None:
        return Execution(how, workers.all)
    own_seconds = sum(_seconds(trained.results[task.key]) for task in student.tasks)
    all_seconds = sum(_seconds(trained.results[key]) for key in trained.spans)
    return Execution(
        how,
        workers.all,
        elapsed_seconds=max(end for _, end in spans) - min(begin for begin, _ in spans),
        joules=trained.energy.joules * (own_seconds / all_seconds if all_seconds else 1.0),
        joules_origin=trained.energy.origin,
    )


def _seconds(result: BlockResult | Failure) -> float:
    return result.shared_seconds if isinstance(result, BlockResult) else 0.0


def _note_failure(context: RunContext, cell: Cell, failure: Failure) -> None:
    what = f"{failure.what}: " if failure.what else ""
    context.watcher.note(
        f"failed: blocks of {cell.student.label} / seed {cell.seed}: {what}{failure.reason}"
    )
