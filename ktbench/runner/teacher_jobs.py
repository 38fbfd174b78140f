"""The teacher job: one teacher trained or adopted into the store, and copied beside the results."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from ktbench.data import Dataset, Stream, load
from ktbench.networks.layout import Layout
from ktbench.networks.weights import load_student
from ktbench.records import (
    OWN_ERRORS,
    Cell,
    Checkpoint,
    DataSpec,
    Ensemble,
    Failure,
    KtbenchError,
    NumericSpec,
    SourceSpec,
    StorageError,
    Teacher,
    digest_of,
)
from ktbench.supervision import mark
from ktbench.system.files import write_atomically
from ktbench.system.provenance import host
from ktbench.teacher.build import served
from ktbench.teacher.cache.source import Account, Cached
from ktbench.teacher.compressed import Reduced
from ktbench.teacher.live import Live
from ktbench.teacher.sampled import Sampled
from ktbench.teacher.source import TeacherSource
from ktbench.teacher.store import TeacherStore
from ktbench.train import Places, adopt, train_cohort

Report = Callable[[float], None]


@lru_cache(maxsize=4)
def _dataset(spec_json: str, base: Path) -> Dataset:
    return load(DataSpec.model_validate_json(spec_json), base)


def dataset(spec: DataSpec, base: Path) -> Dataset:
    """A data set, loaded once per process."""
    return _dataset(spec.model_dump_json(), base)


def same_dataset(spec: DataSpec, base: Path, digest: str | None) -> Dataset:
    """`dataset`; raises KtbenchError where it is not the one that the run was started with."""
    data = dataset(spec, base)
    if digest is not None and data.digest != digest:
        raise KtbenchError(
            f"data: digest {data.digest} on {host()}, {digest} where the run was started: give "
            "every node the same files"
        )
    return data


@dataclass(frozen=True)
class DataJob:
    """Load the data sets of a run, where its trainings will need them."""

    specs: tuple[DataSpec, ...]
    base: Path
    numeric: NumericSpec


@dataclass(frozen=True)
class DataDigests:
    """The digests of a data set: of all its images, and of those for the test alone."""

    whole: str
    test: str


def digest_data(job: DataJob, _: Report) -> dict[str, DataDigests]:
    """The digests of every data set by its canonical text; raises KtbenchError for a bad one."""
    digests = {}
    for spec in job.specs:
        mark(stage="reading the data", what=spec.source)
        data = dataset(spec, job.base)
        digests[spec.canonical] = DataDigests(data.digest, data.test_digest)
    return digests


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher that is there: its record, and the file of its weights."""

    teacher: Teacher
    checkpoint: Checkpoint
    weights: Path
    notes: tuple[str, ...] = ()
    """Lines that the user should see."""


@dataclass(frozen=True)
class TeacherJob:
    """Train (or adopt) one teacher into the store and copy it beside the results."""

    teacher: Teacher
    taught_by: tuple[TrainedTeacher, ...]
    """That of its cell: one, none, or an ensemble's members."""
    base: Path
    root: Path
    """The results folder."""
    data_digest: str | None = None
    """What the run found its data to be: another, on another node, is refused."""
    layout: Layout | None = None
    """How it is run while it is trained; None: its own layers decide."""

    @property
    def numeric(self) -> NumericSpec:
        """What the training computes with."""
        return self.teacher.cell.numeric


def make_teacher(job: TeacherJob, report: Report) -> TrainedTeacher | Failure:
    """The teacher from the store, or trained into it; always copied beside the results."""
    try:
        data = same_dataset(job.teacher.cell.data, job.base, job.data_digest)
        return _adopted(job, data) if job.teacher.checkpoint else _stored(job, data, report)
    except (StorageError, OSError):
        raise
    except KtbenchError as error:
        return Failure(stage="teacher", reason=str(error), what=job.teacher.name)
    except OWN_ERRORS as error:  # a user's own network may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Failure(stage="teacher", reason=reason, what=job.teacher.name)


def _adopted(job: TeacherJob, data: Dataset) -> TrainedTeacher:
    """A user's own weights; their accuracy is worked out, nothing is trained."""
    assert job.teacher.checkpoint is not None
    cell = job.teacher.cell
    folder = job.root / "work" / f"teacher-{digest_of(job.teacher.canonical)}"
    own = Path(job.base, job.teacher.checkpoint).expanduser()
    try:
        found = adopt(cell, own, dataset=data, places=_places(folder), base=job.base)
        return _copied(job, found, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stored(job: TeacherJob, data: Dataset, report: Report) -> TrainedTeacher | Failure:
    """The store's teacher; it is held while it is trained, so that two runs train it once."""
    cell, store = job.teacher.cell, TeacherStore()
    folder, notes = store.folder(cell, data.digest), list[str]()
    with store.held(cell, data.digest):
        found = store.find(cell, data.digest, notes.append)
        if found is None:
            places = _places(folder)
            [trained] = train_cohort(
                [cell],
                dataset=data,
                teacher=source_of(
                    job.taught_by, cell, base=job.base, wanted=SourceSpec(source="live")
                ),
                places=lambda _: places,
                base=job.base,
                layouts=lambda _: job.layout,
                report=lambda p: report(p.done / p.total),
                note=notes.append,
            )
            if isinstance(trained, Failure):
                return trained.model_copy(update={"stage": "teacher", "what": job.teacher.name})
            store.keep(cell, data.digest, trained)
            places.work.unlink(missing_ok=True)
            found = trained
        return _copied(job, found, folder, tuple(notes))


def _places(folder: Path) -> Places:
    return Places(
        root=folder,
        weights=folder / "weights.pt",
        curves=folder / "curves.parquet",
        work=folder / "work.pt",
    )


def _copied(
    job: TeacherJob, found: Checkpoint, folder: Path, notes: tuple[str, ...] = ()
) -> TrainedTeacher:
    """Teachers lie beside the results too, so that a results folder is whole on its own."""
    target = job.root / "teachers"
    name = f"{job.teacher.cell.key}-{found.digest}"
    weights, curves = target / f"{name}.pt", target / f"{name}.curves.parquet"
    for source, copy in ((folder / found.path, weights), (folder / found.curves, curves)):
        content = source.read_bytes()
        if not copy.is_file() or copy.read_bytes() != content:
            write_atomically(copy, content)
    record = found.model_copy(
        update={
            "path": str(weights.relative_to(job.root)),
            "curves": str(curves.relative_to(job.root)),
        }
    )
    return TrainedTeacher(job.teacher, record, weights, notes)


def source_of(
    taught_by: Sequence[TrainedTeacher],
    taught: Cell,
    *,
    base: Path,
    wanted: SourceSpec,
    note: Callable[[str], None] = lambda _: None,
    history: Path | None = None,
    ending: ExitStack | None = None,
) -> TeacherSource | None:
    """Where `taught`, and what shares its data and budget, gets its teacher's outputs.

    None without a teacher. `taught_by` are all that its teacher is made of. A pool keeps its
    history in the folder `history`, and is let go of by what is put on `ending`.
    """
    if not taught_by:
        return None
    data = dataset(taught.data, base)
    stream = Stream(data, taught.seed, taught.train.batch_size, taught.train.views)
    serve = partial(served, stream=stream, note=note)
    if not isinstance(taught.teacher, Ensemble):
        [teacher] = taught_by
        live = _running(teacher, taught, stream, base, wanted, history, ending)
        return serve(live, taught=taught, teacher=_name(teacher, base), wanted=wanted)
    if wanted.source == "pool":
        raise KtbenchError(
            f"teacher {taught.teacher.name}: a pool serves one teacher: set source: live or cached"
        )
    # What is averaged is as the teachers gave it; what students see of the average is reduced.
    whole = taught.model_copy(
        update={"numeric": taught.numeric.model_copy(update={"outputs": None})}
    )
    members = [
        serve(
            _running(teacher, whole, stream, base, wanted, history, ending),
            taught=whole,
            teacher=_name(teacher, base),
            wanted=wanted,
        )
        for teacher in taught_by
    ]
    names = tuple(part for teacher in taught_by for part in _name(teacher, base))
    sampled = Sampled(members, sample=taught.teacher.sample)
    return serve(sampled, taught=taught, teacher=names, wanted=SourceSpec(source="live"))


def layout_of(checkpoint: Checkpoint) -> Layout | None:
    """That in which a network was trained: it is run in no other. None where it is not known."""
    used = checkpoint.layout
    return None if used is None else Layout(used.name, used.reason, used.checked)


def _name(teacher: TrainedTeacher, base: Path) -> tuple[str, ...]:
    """All that its answer to an input depends on."""
    cell = teacher.teacher.cell
    return cell.key, teacher.checkpoint.digest, dataset(cell.data, base).digest


def _running(
    taught_by: TrainedTeacher,
    taught: Cell,
    stream: Stream,
    base: Path,
    wanted: SourceSpec,
    history: Path | None,
    ending: ExitStack | None,
) -> TeacherSource:
    """One teacher, here or in a pool, as it answers batches of `taught`."""
    cell = taught_by.teacher.cell
    trained_on = dataset(cell.data, base)
    if wanted.source == "pool":
        from ktbench.runner.teacher_pool import pooled  # Ray is large, and not everybody has it

        pool = pooled(
            taught_by.teacher,
            taught_by.checkpoint,
            taught_by.weights.read_bytes(),
            taught=taught,
            stream=stream,
            trained_on=trained_on,
            base=base,
            wanted=wanted,
            history=history,
            layout=layout_of(taught_by.checkpoint),
        )
        if ending is not None:
            ending.callback(pool.close)
        return pool
    network = load_student(
        cell,
        taught_by.weights,
        num_classes=len(trained_on.classes),
        in_channels=trained_on.shape[0],
        base=base,
    )
    return Live(
        network,
        trained_on=trained_on,
        dataset=stream.dataset,
        numeric=taught.numeric,
        layout=layout_of(taught_by.checkpoint),
    )


def account_of(source: TeacherSource | None) -> list[str]:
    """What to tell the user of how a source answered; it lets go of its files."""
    whole = Account()
    for cached in _caches(source):
        cached.close()
        whole.read += cached.account.read
        whole.ran += cached.account.ran
        whole.beyond += cached.account.beyond
    return [whole.text] if whole.text else []


def _caches(source: TeacherSource | None) -> list[Cached]:
    """All that a source reads from."""
    if isinstance(source, Reduced):
        return _caches(source.source)
    if isinstance(source, Sampled):
        return [cached for member in source.members for cached in _caches(member)]
    return [source] if isinstance(source, Cached) else []
