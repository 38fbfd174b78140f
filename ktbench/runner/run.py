"""One run: a plan, a results folder, and the three waves of jobs between them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ktbench.engine.contract import Engine
from ktbench.provenance import collect
from ktbench.records import (
    Cell,
    Failure,
    KtbenchError,
    Plan,
    Provenance,
    Result,
    Teacher,
    canonical_json,
    digest_of,
)
from ktbench.results import ResultsFolder
from ktbench.runner.jobs import (
    CellOutcome,
    CellTask,
    CohortJob,
    TeacherJob,
    TrainedTeacher,
    dataset,
    make_teacher,
    train_and_export,
)
from ktbench.runner.measuring import measure_all
from ktbench.runner.watch import Watcher

COHORT = 8
"""Most students that share a batch; more would only hold more memory at once."""


@dataclass
class Summary:
    """How a run ended."""

    folder: Path
    done: int = 0
    reused: int = 0
    failed: list[Result] = field(default_factory=list)
    skipped: int = 0
    measured: int = 0
    unmeasured: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By stage; `total` is the whole run, what the stages leave of it is the runner's own."""
    report: Path | None = None

    @property
    def ok(self) -> bool:
        """True when no cell failed and every device answered."""
        return not self.failed and not self.unmeasured


def run(
    plan: Plan,
    *,
    matrix_text: str,
    folder: Path,
    engine: Engine,
    watcher: Watcher,
    write_report: Callable[[Path], Path] | None,
    fresh: bool = False,
) -> Summary:
    """Carry out a plan into a results folder; what is already there is not done again.

    Raises KtbenchError when the run cannot begin or its folder cannot be written. A cell or a
    device that fails is a record in the folder and in the summary; the others go on.
    """
    began = time.perf_counter()
    summary = Summary(folder)
    base = Path(plan.base)
    with _clocked(summary, "data"):
        digest = digest_of(sorted({dataset(c.data, base).digest for c in _with_teachers(plan)}))
    results = ResultsFolder(folder)
    provenance = collect(digest)
    with results.open(plan, matrix_text, provenance, fresh=fresh, data_digest=digest):
        for skip in plan.skips:
            results.write_result(
                Result(cell=skip.cell, status="skipped", reason=skip.reason, provenance=provenance)
            )
        summary.skipped = len(plan.skips)
        tasks = _open_tasks(plan, results, summary)
        teachers = _teacher_wave(plan, tasks, folder, engine, watcher, summary)
        _cohort_wave(plan, tasks, teachers, results, provenance, engine, watcher, summary)
        unmeasured = _measuring_wave(plan, results, watcher, summary)
        results.write_failures(
            [f for f in teachers.values() if isinstance(f, Failure)] + unmeasured
        )
        if write_report is not None:
            with _clocked(summary, "report"):
                summary.report = write_report(folder)
    summary.seconds["total"] = time.perf_counter() - began
    return summary


class _clocked:  # noqa: N801 - used as a statement
    """Adds the seconds of a block to a stage."""

    def __init__(self, summary: Summary, stage: str) -> None:
        self._summary, self._stage = summary, stage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._summary.seconds[self._stage] += time.perf_counter() - self._began


def _with_teachers(plan: Plan) -> list[Cell]:
    return [*plan.cells, *(teacher.cell for teacher in plan.teachers)]


def _open_tasks(plan: Plan, results: ResultsFolder, summary: Summary) -> list[CellTask]:
    """The cells that still want something, with what an earlier run did of them."""
    tasks = []
    wanted = set(plan.exports)
    for cell in plan.cells:
        earlier = results.result(cell.key)
        if earlier is None or earlier.checkpoint is None:
            tasks.append(CellTask(cell))
            continue
        exported = tuple(
            a for a in earlier.artifacts if (results.path / a.path).is_file() and a.export in wanted
        )
        if len(exported) == len(wanted):
            summary.reused += 1
        else:
            there = results.weights(cell.key).is_file()
            tasks.append(CellTask(cell, earlier.checkpoint if there else None, exported))
    return tasks


# ---------------------------------------------------------------- first wave: teachers

_Teachers = dict[str, TrainedTeacher | Failure]


def _name(teacher: Teacher) -> str:
    return canonical_json(teacher.model_dump(mode="json"))


def _teacher_wave(
    plan: Plan,
    tasks: Sequence[CellTask],
    folder: Path,
    engine: Engine,
    watcher: Watcher,
    summary: Summary,
) -> _Teachers:
    """Every teacher that an open cell needs, each after those that taught it."""
    needed = plan.model_copy(update={"cells": tuple(task.cell for task in tasks)}).teachers
    ready: _Teachers = {}
    if not needed:
        return ready
    watcher.begin("teachers", sum(t.cell.train.epochs for t in needed))
    done = 0.0
    with _clocked(summary, "teachers"):
        for teacher in needed:
            taught_by = teacher.cell.teacher
            source = ready[_name(taught_by)] if taught_by is not None else None
            if isinstance(source, Failure):
                ready[_name(teacher)] = source
                continue
            job = TeacherJob(teacher, source, Path(plan.base), folder)
            epochs = teacher.cell.train.epochs

            def tell(job: TeacherJob, share: float, before: float = done) -> None:
                watcher.advance(before + share * job.teacher.cell.train.epochs, job.teacher.name)

            for _, outcome in engine.run(make_teacher, [job], tell):
                ready[_name(teacher)] = outcome
                if isinstance(outcome, Failure):
                    watcher.note(f"failed: teacher {teacher.name}: {outcome.reason}")
            done += epochs
    watcher.end()
    return ready


# ---------------------------------------------------------------- second wave: cohorts


def _cohort_wave(
    plan: Plan,
    tasks: Sequence[CellTask],
    teachers: _Teachers,
    results: ResultsFolder,
    provenance: Provenance,
    engine: Engine,
    watcher: Watcher,
    summary: Summary,
) -> None:
    jobs = []
    for group in _cohorts(tasks):
        first = group[0].cell
        teacher = teachers[_name(first.teacher)] if first.teacher is not None else None
        if isinstance(teacher, Failure):
            for task in group:
                outcome = CellOutcome(task.cell, None, failures=(teacher,))
                _keep(outcome, None, results, provenance, summary, watcher)
        else:
            base = Path(plan.base)
            jobs.append(CohortJob(tuple(group), teacher, plan.exports, base, results.path))
    if not jobs:
        return
    watcher.begin("students", sum(job.units for job in jobs))
    finished = 0

    def tell(job: CohortJob, share: float) -> None:
        watcher.advance(finished + share * job.units, job.label)

    for job, cohort in engine.run(train_and_export, jobs, tell):
        finished += job.units
        for stage, seconds in cohort.seconds.items():
            summary.seconds[stage] += seconds
        for outcome in cohort.cells:
            taught_by = job.taught_by
            _keep(outcome, taught_by, results, provenance, summary, watcher)
    watcher.end()


def _cohorts(tasks: Sequence[CellTask]) -> list[list[CellTask]]:
    """Tasks that share teacher, data order, budget and numeric settings, at most COHORT each."""
    groups: dict[str, list[CellTask]] = {}
    for task in tasks:
        cell = task.cell
        shared = cell.model_dump(
            mode="json", include={"data", "teacher", "seed", "train", "numeric"}
        )
        groups.setdefault(canonical_json(shared), []).append(task)
    return [g[i : i + COHORT] for g in groups.values() for i in range(0, len(g), COHORT)]


def _keep(
    outcome: CellOutcome,
    taught_by: TrainedTeacher | None,
    results: ResultsFolder,
    provenance: Provenance,
    summary: Summary,
    watcher: Watcher,
) -> None:
    """Write a cell's result; only then does the saved work of its training go."""
    result = Result(
        cell=outcome.cell,
        status="failed" if outcome.failures else "done",
        checkpoint=outcome.checkpoint,
        teacher=taught_by.checkpoint if taught_by is not None else None,
        artifacts=outcome.artifacts,
        failures=outcome.failures,
        provenance=provenance,
    )
    results.write_result(result)
    results.drop_work(outcome.cell.key)
    if outcome.failures:
        summary.failed.append(result)
        first = outcome.failures[0]
        what = f" {first.what}" if first.what else ""
        watcher.note(f"failed: {outcome.cell.label}: {first.stage}{what}: {first.reason}")
    else:
        summary.done += 1


# ---------------------------------------------------------------- third wave: measurements


def _measuring_wave(
    plan: Plan, results: ResultsFolder, watcher: Watcher, summary: Summary
) -> list[Failure]:
    unmeasured: list[Failure] = []
    with _clocked(summary, "measuring"):
        for device in plan.devices:
            try:
                measured, failures = measure_all(plan, device, results, watcher)
            except KtbenchError as error:
                failures = [Failure(stage="measure", what=device.name, reason=str(error))]
                measured = 0
            summary.measured += measured
            for failure in failures:
                watcher.note(f"not measured: {failure.what}: {failure.reason}")
            unmeasured += failures
    summary.unmeasured = unmeasured
    return unmeasured
