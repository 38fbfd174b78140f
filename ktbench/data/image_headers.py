"""A look at the headers of images while planning: damaged files, and mixed sizes.

A header takes a tenth of a millisecond from a disk's cache and ten from a slow disk, so that those
of 100,000 files would keep a user waiting for minutes. Up to `MOST` are read; of more, so many that
are spread evenly, which finds what is common and not what is rare. What it misses is found when the
images are decoded, before anything is trained.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import IO

import numpy as np

from ktbench.data.encoded import Encoded, UnreadableError, decode_all
from ktbench.data.pixels import refuse_mixed, shape_in_header
from ktbench.data.sources import counted, one_line_of
from ktbench.records import DataSpec, KtbenchError
from ktbench.supervision import marked
from ktbench.tasks._contract import Labels

MOST = 10_000
"""Most headers of files that are read."""
_RUNS, _RUN = 8, 128
"""Stretches of neighbouring rows of a table, and their length: tables are read group by group."""
_AT_ONCE = 512
"""Headers between two signs of life."""
Shape = tuple[int, ...]
Rows = Mapping[str, tuple[str, Labels]]


def survey(spec: DataSpec, images: Encoded, rows: Rows) -> tuple[str, ...]:
    """Return remarks on the headers of a data set's images, a line each.

    Raises KtbenchError that names damaged files, or the most common of mixed sizes.
    """
    total = sum(len(chosen) for _, chosen in rows.values())
    counts, examples = Counter[Shape](), dict[Shape, str]()
    looked = 0
    unreadable: list[UnreadableError] = []
    for split, chosen in rows.values():
        some = _spread(chosen, images, total)
        for start in range(0, len(some), _AT_ONCE):
            chunk = some[start : start + _AT_ONCE]
            with marked(stage="reading headers of images", what=f"{looked:,} of {total:,}"):
                try:
                    shapes = _shapes(images, split, chunk)
                except UnreadableError as error:
                    unreadable.append(error)
                    shapes = []
            looked += len(chunk)
            counts.update(shapes)
            for shape, row in zip(shapes, chunk.tolist(), strict=False):
                examples.setdefault(shape, images.row_name(split, row))
    if unreadable:
        raise UnreadableError.joined(unreadable)
    return (*_sizes(spec, counts, examples), *_spared(looked, total))


def _sizes(spec: DataSpec, counts: Counter[Shape], examples: dict[Shape, str]) -> tuple[str, ...]:
    """Describe mixed sizes that `image_size` makes one; raises MixedSizesError without it."""
    if len(counts) < 2:
        return ()
    if spec.image_size is None or len({shape[0] for shape in counts}) > 1:
        refuse_mixed(examples, counts)
    common = [
        f"{shape[2]}×{shape[1]} ({counted(count, 'image')})"
        for shape, count in counts.most_common(3)
    ]
    more = f" and {len(counts) - 3:,} more" if len(counts) > 3 else ""
    side = f"{spec.image_size}×{spec.image_size}"
    return (f"images of {len(counts):,} sizes are made {side}: {', '.join(common)}{more}",)


def _spared(looked: int, total: int) -> tuple[str, ...]:
    if looked == total:
        return ()
    return (
        f"the headers of {looked:,} of {total:,} images were read, spread evenly; the others are "
        "read when a run begins",
    )


def _spread(rows: Labels, images: Encoded, total: int) -> Labels:
    """Return the rows of a split whose headers are read."""
    if images.opened is not None:
        count = min(len(rows), max(1, MOST * len(rows) // total))
        spread: Labels = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
        return spread
    if len(rows) <= _RUNS * _RUN:
        return rows
    starts = np.linspace(0, len(rows) - _RUN, _RUNS).astype(np.int64)
    chosen: Labels = rows[(starts[:, None] + np.arange(_RUN)).reshape(-1)]
    return chosen


def _shapes(images: Encoded, split: str, rows: Labels) -> list[Shape]:
    """Return the shape of each row's image; raises UnreadableError."""
    opened = images.opened
    bytes_of = None if opened is not None else images.read(split, rows)

    def file_of(row: int) -> IO[bytes]:
        if opened is None:
            assert bytes_of is not None
            return io.BytesIO(bytes_of(row))
        try:
            return opened(split, row)
        except OSError as error:
            where = images.row_name(split, row)
            raise KtbenchError(f"data: {where}: cannot be read ({one_line_of(error)})") from error

    def one(row: int) -> Shape:
        with file_of(row) as file:
            return shape_in_header(file, images.row_name(split, row))

    return decode_all(one, rows, lambda row: images.row_name(split, row))
