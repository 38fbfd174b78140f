"""Sources of teacher outputs for a training: one teacher or an ensemble, here or in a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ktbench.data import Stream
from ktbench.records import Ensemble, KtbenchError, SourceSpec
from ktbench.runner.data_jobs import dataset
from ktbench.runner.trained_teacher import SourceRequest, TrainedTeacher
from ktbench.teacher import Live, Sampled, build_source
from ktbench.teacher.cache.source import Account, Cached
from ktbench.teacher.compressed import Compressed
from ktbench.teacher.source import TeacherSource


def source_of(taught_by: Sequence[TrainedTeacher], request: SourceRequest) -> TeacherSource | None:
    """Return the source of the outputs of `taught_by`, all that the cell's teacher is made of.

    None without a teacher.
    """
    if not taught_by:
        return None
    taught = request.taught
    data = dataset(taught.data, request.base)
    stream = Stream.of(data, taught)
    if not isinstance(taught.teacher, Ensemble):
        [teacher] = taught_by
        return _single(teacher, request, stream)
    if request.spec.source == "pool":
        raise KtbenchError(
            f"teacher {taught.teacher.name}: a pool serves one teacher: set source: live or cached"
        )
    # Members are averaged as they answered; the average is reduced to what students see of it.
    whole = taught.model_copy(
        update={"numeric": taught.numeric.model_copy(update={"outputs": None})}
    )
    members = [_single(teacher, replace(request, taught=whole), stream) for teacher in taught_by]
    return build_source(
        Sampled(members, sample=taught.teacher.sample),
        stream=stream,
        note=request.note,
        taught=taught,
        teacher=tuple(part for t in taught_by for part in t.identity(request.base)),
        spec=SourceSpec(source="live"),
    )


def _single(teacher: TrainedTeacher, request: SourceRequest, stream: Stream) -> TeacherSource:
    """Return one teacher's outputs, reduced and cached as requested."""
    return build_source(
        _running(teacher, request, stream),
        stream=stream,
        note=request.note,
        taught=request.taught,
        teacher=teacher.identity(request.base),
        spec=request.spec,
    )


def _running(teacher: TrainedTeacher, request: SourceRequest, stream: Stream) -> TeacherSource:
    """Return one teacher, here or in a pool, as it answers the stream's batches."""
    if request.spec.source == "pool":
        from ktbench.runner.teacher_pool import pooled  # Ray is large, and not everybody has it

        pool = pooled(teacher, request, stream)
        if request.ending is not None:
            request.ending.callback(pool.close)
        return pool
    return Live(
        teacher.network(request.base),
        trained_on=teacher.trained_on(request.base),
        dataset=stream.dataset,
        numeric=request.taught.numeric,
        layout=teacher.layout,
    )


def account_of(source: TeacherSource | None) -> list[str]:
    """Return lines on how a source's caches answered, and close their files."""
    total = Account()
    for cached in _caches(source):
        cached.close()
        total.read += cached.account.read
        total.ran += cached.account.ran
        total.beyond += cached.account.beyond
    return [total.text] if total.text else []


def _caches(source: TeacherSource | None) -> list[Cached]:
    """Return all caches that a source reads from."""
    if isinstance(source, Compressed):
        return _caches(source.source)
    if isinstance(source, Sampled):
        return [cached for member in source.members for cached in _caches(member)]
    return [source] if isinstance(source, Cached) else []
