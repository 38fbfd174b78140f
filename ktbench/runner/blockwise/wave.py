"""The second wave: blocks given to workers, trained, and put together to first weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from pydantic import TypeAdapter

from ktbench import catalogue
from ktbench.blockwise import BlockStore, BlockTask, Made, assembly_key, tasks_of
from ktbench.blockwise.pipeline import PATIENCE_S, Place, cut_before, place_of
from ktbench.blockwise.processor_energy import Energy, Meter, estimated
from ktbench.blockwise.schedule import Load, arranged, handed_on
from ktbench.engine.contract import Lost, Workers
from ktbench.records import BlockResult, Cell, Failure, KtbenchError, digest_of
from ktbench.runner.blockwise.jobs import (
    BlocksJob,
    BlocksOutcome,
    GatherJob,
    put_together,
    start_of,
    time_some,
    train_some,
)
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.context import Run, Starts, Teachers, clocked
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.progress import Shares
from ktbench.runner.teacher_jobs import TrainedTeacher, dataset
from ktbench.system.files import write_atomically

PER_WORKER = 2
"""Trainings per worker from which on each stays whole: then one pass of the teacher feeds all of
its blocks, and workers have enough to choose from."""

_LOADS = TypeAdapter(dict[str, Load])


@dataclass
class _Student:
    """A student whose first weights are wanted, and the cells that begin from them."""

    cells: list[Cell]
    taught_by: TrainedTeacher
    tasks: tuple[BlockTask, ...]

    @property
    def training(self) -> str:
        """Equal for students whose blocks one pass of a teacher can feed."""
        cell, start = self.cells[0], start_of(self.cells[0])
        parts = (start.teacher.canonical, cell.data.canonical, start.train.canonical)
        return digest_of([*parts, cell.numeric.canonical, cell.seed])


@dataclass
class _Trained:
    """What came of blocks, by their key, and what it took."""

    results: dict[str, BlockResult | Failure] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    """Blocks that nobody could finish: another run can."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Start and end of the job that trained a block."""
    cpu_seconds: float = 0.0
    energy: Energy | None = None


def block_wave(
    this: Run, tasks: Sequence[CellTask], teachers: Teachers, workers: Workers
) -> Starts:
    """What every cell that does not begin from fresh weights begins from, or why it cannot."""
    starting = [t.cell for t in tasks if t.cell.start is not None and t.trained is None]
    if not starting:
        return {}
    starts: Starts = {}
    store = BlockStore(this.root)
    students: list[_Student] = []
    with clocked(this.summary, "blocks"):
        for cells in _by_assembly(starting):
            begun = store.find_assembly(assembly_key(cells[0])) or _student(this, cells, teachers)
            if isinstance(begun, _Student):
                students.append(begun)
            else:
                starts.update(dict.fromkeys((cell.key for cell in cells), begun))
        if students:
            trained = _train(this, students, store, workers)
            starts.update(_gather(this, students, trained, workers))
    return starts


def _by_assembly(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(assembly_key(cell), []).append(cell)
    return list(groups.values())


def _student(this: Run, cells: list[Cell], teachers: Teachers) -> _Student | Failure:
    teacher = teachers[start_of(cells[0]).teacher.canonical]
    if isinstance(teacher, Failure):
        return teacher
    data = dataset(cells[0].data, this.base)
    shape = {"num_classes": len(data.classes), "in_channels": data.shape[0]}
    try:
        return _Student(cells, teacher, tasks_of(cells[0], **shape, base=this.base))
    except KtbenchError as error:
        failure = Failure(stage="train", reason=str(error))
        _tell(this, cells[0], failure)
        return failure


# ---------------------------------------------------------------- training


def _train(
    this: Run, students: Sequence[_Student], store: BlockStore, workers: Workers
) -> _Trained:
    """Every block that is not there yet, once, however many students want it."""
    trained = _Trained()
    jobs = list(_whole_jobs(this, students, store, trained))
    if not jobs:
        return trained
    if workers.all > 1 and len(jobs) < PER_WORKER * workers.all:
        jobs = _divided(this, jobs, workers.all)
    this.watcher.begin("blocks", sum(job.units for job in jobs))
    shares = Shares(this.watcher)

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
        for job, outcome in run_narrowing(this.engine, train_some, jobs, tell, again):
            shares.finish(job, job.units)
            _note(this, job, outcome, trained)
    for place in {job.place.folder for job in jobs if job.place is not None}:
        shutil.rmtree(place, ignore_errors=True)
    # Another node's energy is not read here.
    one_machine = workers.all == workers.per_machine
    trained.energy = meter.energy if one_machine else None
    if trained.energy is None:
        trained.energy = estimated(trained.cpu_seconds, this.plan.blockwise.watts)
    this.watcher.end()
    return trained


def _whole_jobs(
    this: Run, students: Sequence[_Student], store: BlockStore, trained: _Trained
) -> Iterator[BlocksJob]:
    """One job per training, with the blocks that no earlier run has finished."""
    groups: dict[str, list[_Student]] = {}
    for student in students:
        groups.setdefault(student.training, []).append(student)
    for group in groups.values():
        wanted: dict[str, BlockTask] = {}
        for task in (task for student in group for task in student.tasks):
            found = trained.results.get(task.key) or store.find(task.key)
            if found is None:
                wanted.setdefault(task.key, task)
            else:
                trained.results[task.key] = found
        if wanted:
            first = group[0]
            digest = this.provenance_of(first.cells[0]).data_digest
            whole = (first.cells[0], tuple(wanted.values()), first.taught_by)
            yield BlocksJob(*whole, this.plan.blockwise, this.base, this.root, digest)


def _note(this: Run, job: BlocksJob, outcome: BlocksOutcome | Lost, trained: _Trained) -> None:
    if isinstance(outcome, Lost):
        trained.lost.update(dict.fromkeys((task.key for task in job.tasks), outcome.reason))
        return
    trained.cpu_seconds += outcome.cpu_seconds
    for note in outcome.notes:
        this.watcher.note(note)
    for task, result in zip(job.tasks, outcome.results, strict=True):
        trained.results[task.key] = result
        trained.spans[task.key] = (outcome.began, outcome.ended)


# ---------------------------------------------------------------- schedules


def _divided(this: Run, jobs: Sequence[BlocksJob], workers: int) -> list[BlocksJob]:
    """Every training in packs for the workers, by what its blocks take here."""
    how = this.plan.blockwise
    divided = []
    for job in jobs:
        if how.schedule == "queue":
            packs: Sequence[Sequence[int]] = [(number,) for number in range(len(job.tasks))]
        else:
            loads = _loads(this, job)
            if loads and len(jobs) == 1 and (how.schedule, how.feed) == ("contiguous", "relay"):
                chain = chained(job, loads, workers)
                if chain:
                    return chain
                name = job.taught_by.teacher.name
                this.watcher.note(
                    f"teacher {name} cannot be cut: every worker runs it from its input"
                )
            packs = arranged(loads, workers, how.schedule, how.feed) if loads else [()]
        for pack in packs:
            tasks = tuple(job.tasks[number] for number in pack) or job.tasks
            divided.append(replace(job, tasks=tasks))
    return divided


def chained(job: BlocksJob, loads: Sequence[Load], workers: int) -> list[BlocksJob]:
    """Neighbours that share one pass of the teacher; all of these jobs have to run at once.

    Empty where the teacher cannot be cut between them.
    """
    data = dataset(job.taught_by.teacher.cell.data, job.base)
    item = job.taught_by.teacher.cell.student
    with torch.random.fork_rng(devices=[]):
        network = catalogue.build_student(
            item.name,
            item.settings,
            num_classes=len(data.classes),
            in_channels=data.shape[0],
            base=str(job.base),
        )
    # Students that share a pass may replace the same block: in the network's order, all of them.
    order = sorted(
        range(len(loads)), key=lambda n: (*place_of(job.tasks[n].block), loads[n].prefix)
    )
    along = handed_on([loads[n] for n in order], workers)
    packs = [tuple(job.tasks[order[n]] for n in pack) for pack in along]
    images = torch.rand(2, *data.shape, generator=torch.Generator().manual_seed(0))
    network.eval()
    cuts = [cut_before(network, pack[0].block, images) for pack in packs[1:]]
    if None in cuts:
        return []
    folder = job.root / "work" / f"handed-{digest_of([task.key for task in job.tasks])}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    ends = pairwise([None, *cuts, None])
    return [
        replace(job, tasks=tasks, place=Place(folder, number, takes, gives, PATIENCE_S))
        for number, (tasks, (takes, gives)) in enumerate(zip(packs, ends, strict=True))
    ]


def _loads(this: Run, job: BlocksJob) -> list[Load]:
    """In the order of the tasks; those of an earlier run where they are there, else measured.

    Nothing but who trains which block depends on them. Empty where they cannot be measured.
    """
    key = digest_of([task.key for task in job.tasks])
    path = this.root / "blocks" / f"times-{key}.json"
    try:
        found = _LOADS.validate_json(path.read_bytes())
    except (OSError, ValueError):
        found = {}
    if set(found) != {task.key for task in job.tasks}:
        [(_, measured)] = this.engine.run(time_some, [job], lambda *_: None)
        if isinstance(measured, Lost | Failure):
            return []
        found = measured
        write_atomically(path, _LOADS.dump_json(found))
    return [found[task.key] for task in job.tasks]


# ---------------------------------------------------------------- assembling


def _gather(this: Run, students: Sequence[_Student], trained: _Trained, workers: Workers) -> Starts:
    starts: Starts = {}
    jobs, keys = [], {}
    for student in students:
        cell = student.cells[0]
        lost = [trained.lost[task.key] for task in student.tasks if task.key in trained.lost]
        if lost:
            failure = Failure(stage="train", what="blocks", reason=lost[0])
            starts.update(dict.fromkeys((c.key for c in student.cells), failure))
            _tell(this, cell, failure)
            continue
        results = tuple(trained.results[task.key] for task in student.tasks)
        made = _made(this, student, trained, workers)
        jobs.append(GatherJob(cell, results, student.taught_by, this.base, this.root, made))
        keys[cell.key] = [c.key for c in student.cells]
    deaths = Narrowing()

    def again(job: GatherJob, lost: Lost) -> list[GatherJob]:
        return [job for _ in deaths.again([job.cell.key], lost)]

    for job, outcome in run_narrowing(this.engine, put_together, jobs, lambda *_: None, again):
        if isinstance(outcome, Lost):
            outcome = Failure(stage="train", what="assembling", reason=outcome.reason)
        if isinstance(outcome, Failure):
            _tell(this, job.cell, outcome)
        else:
            for failure in outcome.failures:
                told = f"{outcome.student}: {failure.what} stays the teacher's own"
                this.watcher.note(f"{told}: {failure.reason}")
        starts.update(dict.fromkeys(keys[job.cell.key], outcome))
    return starts


def _made(this: Run, student: _Student, trained: _Trained, workers: Workers) -> Made:
    """How a student's blocks were trained; time and energy only where all were trained now.

    Students that were trained together share the energy by what their blocks took; a block that
    several use counts for each.
    """
    how = this.plan.blockwise
    spans = [trained.spans[t.key] for t in student.tasks if t.key in trained.spans]
    if len(spans) < len(student.tasks) or not spans or trained.energy is None:
        return Made(how, workers.all)
    mine = sum(_took(trained.results[task.key]) for task in student.tasks)
    everybody = sum(_took(trained.results[key]) for key in trained.spans)
    return Made(
        how,
        workers.all,
        elapsed_seconds=max(end for _, end in spans) - min(begin for begin, _ in spans),
        joules=trained.energy.joules * (mine / everybody if everybody else 1.0),
        joules_origin=trained.energy.origin,
    )


def _took(result: BlockResult | Failure) -> float:
    return result.shared_seconds if isinstance(result, BlockResult) else 0.0


def _tell(this: Run, cell: Cell, failure: Failure) -> None:
    what = f"{failure.what}: " if failure.what else ""
    this.watcher.note(
        f"failed: blocks of {cell.student.label} / seed {cell.seed}: {what}{failure.reason}"
    )
