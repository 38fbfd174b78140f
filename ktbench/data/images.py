"""Images with a class each: in class folders, in tables, or on the Hugging Face hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ktbench.data import encoded_tables
from ktbench.data.columns import files_among
from ktbench.data.encoded import Encoded
from ktbench.data.file_kinds import IMAGES
from ktbench.data.folders import folder
from ktbench.data.image_headers import survey
from ktbench.data.pixels import Pixels, decode, stack
from ktbench.data.sources import resolve
from ktbench.data.split_names import has_tables
from ktbench.data.tables import parquet_tables
from ktbench.records import DataSpec
from ktbench.tasks._contract import Labels, Source


def image_folder(spec: DataSpec, base: Path) -> Source:
    """Open `FOLDER/class/*.png`, `FOLDER/split/class/*.png` or `FOLDER/class/split/*.png`."""
    return _source(spec, folder(spec, base, IMAGES))


def parquet(spec: DataSpec, base: Path) -> Source:
    """Open images in a folder of files named by split, or in one file."""
    return _source(spec, encoded_tables.parquet(spec, base, IMAGES, spec.image_column))


def hub(spec: DataSpec, base: Path) -> Source:
    """Open an image classification data set of the Hugging Face hub; offline, from its cache."""
    return _source(spec, encoded_tables.hub(spec, base, IMAGES, spec.image_column))


def holds_images(spec: DataSpec, base: Path) -> bool | None:
    """Return True for tables of pictures, False for other tables, None where there are none."""
    if not has_tables(resolve(spec, base)):
        return None
    opened = parquet_tables(spec, base)
    train = opened.by_split["train"]
    types = {column: type_ for column, (type_, _) in opened.features.items()}
    return bool(files_among(list(train.schema), types, train.column, IMAGES))


def _source(spec: DataSpec, images: Encoded) -> Source:
    def read(split: str, rows: Labels) -> Pixels:
        def one(data: bytes, where: str) -> Pixels:
            return decode(data, where, spec.image_size, spec.fit)

        decoded = images.decoded(split, rows, one)
        return stack(decoded, lambda place: images.row_name(split, int(rows[place])))

    return Source(
        images.name, images.classes, images.labels, read, images.row_name, images.notes,
        images.about, survey=partial(survey, spec, images), identity=images.identity,
    )  # fmt: skip
