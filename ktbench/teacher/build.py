"""Builds the teacher source that a matrix asks for: compressed, cached, or live."""

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
from ktbench.teacher.cache.disk_quota import DiskQuota
from ktbench.teacher.cache.source import Cached
from ktbench.teacher.compressed import Compressed, Compression
from ktbench.teacher.source import TeacherSource
from ktbench.transfer_methods._contract import Needs


def build_source(
    live: TeacherSource,
    *,
    taught: Cell,
    stream: Stream,
    teacher: tuple[str, ...],
    spec: SourceSpec,
    note: Callable[[str], None] = lambda _: None,
    root: Path | None = None,
) -> TeacherSource:
    """Return the source for `taught`, whose batches are those of `stream`.

    `teacher` names all that the live teacher's answer to an input depends on, beside the numeric
    settings of `taught`, this program and this machine. Outputs are cached below `root`,
    `cache_folder()/outputs` when not given.
    """
    outputs = taught.numeric.outputs
    seed = int(digest_of(list(teacher)), 16)
    compression = Compression(outputs, seed=seed, view=stream.view)
    if not spec.caches:
        return Compressed(live, compression) if compression.changes else live
    sampled = outputs is not None and outputs.sampled is not None
    needs = Needs() if sampled else Needs(**dict.fromkeys(spec.keep, True))
    root = cache_folder() / "outputs" if root is None else root
    return Cached(
        live,
        compression=compression,
        stream=stream,
        needs=needs,
        folder=root / _folder_name(taught, stream, teacher, needs),
        quota=DiskQuota(root, int(spec.cap_gb * 1e9)),
        note=note,
    )


def _folder_name(taught: Cell, stream: Stream, teacher: tuple[str, ...], needs: Needs) -> str:
    """Digest everything that the bits of the cached outputs depend on."""
    here = collect()
    return digest_of(
        [
            list(teacher),
            stream.described,
            stream.batch_size,
            taught.numeric.canonical,
            [_described(needs), VERSION, torch.__version__],
            [kind(), here.processor, torch.backends.cpu.get_cpu_capability()],
        ]
    )


def _described(needs: Needs) -> str:
    """Name attentions only where they are stored, so that all other folders keep their names."""
    return str(needs).replace(", attentions=False", "")
