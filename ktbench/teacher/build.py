"""A live teacher as a matrix wants it served: reduced, cached, or as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ktbench.data import Stream
from ktbench.networks.instruction_set import kind
from ktbench.records import Cell, SourceSpec, digest_of
from ktbench.system.files import cache_folder
from ktbench.system.installation import VERSION
from ktbench.system.provenance import collect
from ktbench.teacher.cache.disk_quota import Room
from ktbench.teacher.cache.source import Cached
from ktbench.teacher.compressed import Reduced, Reduction
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Needs


def served(
    live: TeacherSource,
    *,
    taught: Cell,
    stream: Stream,
    teacher: tuple[str, ...],
    wanted: SourceSpec,
    note: Callable[[str], None] = lambda _: None,
    root: Path | None = None,
) -> TeacherSource:
    """The source for `taught`, whose batches are those of `stream`.

    `teacher` is all that the live teacher's answer to an input depends on, beside the numeric
    settings of `taught`, this program and this machine. Outputs are kept below `root`,
    `cache_folder()/outputs` when not given.
    """
    outputs = taught.numeric.outputs
    seed = int(digest_of(list(teacher)), 16)
    reduction = Reduction(outputs, seed=seed, view=stream.view)
    if not wanted.caches:
        return Reduced(live, reduction) if reduction.changes else live
    sampled = outputs is not None and outputs.sampled is not None
    needs = Needs() if sampled else Needs(**dict.fromkeys(wanted.keep, True))
    root = cache_folder() / "outputs" if root is None else root
    return Cached(
        live,
        reduction=reduction,
        stream=stream,
        needs=needs,
        folder=root / _name(taught, stream, teacher, needs),
        room=Room(root, int(wanted.cap_gb * 1e9)),
        note=note,
    )


def _name(taught: Cell, stream: Stream, teacher: tuple[str, ...], needs: Needs) -> str:
    """Of the folder of kept outputs: a digest of all that their bits depend on."""
    ours = collect()
    return digest_of(
        [
            list(teacher),
            stream.described,
            stream.batch_size,
            taught.numeric.canonical,
            [str(needs), VERSION, torch.__version__],
            [kind(), ours.processor, torch.backends.cpu.get_cpu_capability()],
        ]
    )
