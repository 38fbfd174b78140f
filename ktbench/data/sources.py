"""Where images come from: scikit-learn's digits, parquet files, the Hugging Face hub, a folder.

A source knows its labels at once and decodes images when their rows are asked for, so that
planning reads no images and a small training set does not decode a large one.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.files import MOST_WEIGHTS, check_regular
from ktbench.records import DataSpec, KtbenchError

Pixels = NDArray[np.uint8]
_IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Source:
    """Labels per split, and a reader of images by split and rows: (n, C, H, W) uint8."""

    name: str
    classes: tuple[str, ...]
    labels: dict[str, NDArray[np.int64]]
    read: Callable[[str, NDArray[np.int64]], Pixels]


def open_source(spec: DataSpec, base: Path) -> Source:
    """The source that a spec names; raises KtbenchError with what to do when it is not there."""
    opener = {"digits": _digits, "parquet": _parquet, "hub": _hub, "folder": _folder}[spec.source]
    return opener(spec, base)


def resolve(spec: DataSpec, base: Path) -> Path:
    """The folder or file of a spec: `${NAME}` replaced, relative to the matrix file."""
    if not spec.path:
        raise KtbenchError(f"data: source {spec.source!r} needs a path")
    text = os.path.expanduser(os.path.expandvars(spec.path))  # noqa: PTH111 - after expandvars
    if "${" in text:
        name = text.partition("${")[2].partition("}")[0]
        raise KtbenchError(
            f"data: path {spec.path!r} needs the environment variable {name}: export {name}=FOLDER"
        )
    path = Path(base, text)
    if not path.exists():
        raise KtbenchError(f"data: no such file or folder {path}: give data.path where it lies")
    if not path.is_dir():
        check_regular(path, MOST_WEIGHTS)
    return path


# ---------------------------------------------------------------- digits


def _digits(spec: DataSpec, base: Path) -> Source:
    """1,797 handwritten digits of 8×8 pixels (Alpaydin and Kaynak, UCI, 1998)."""
    table = _digits_table()
    pixels: Pixels = np.rint(table[:, :64] * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 1, 8, 8)

    def read(_: str, rows: NDArray[np.int64]) -> Pixels:
        if spec.image_size is None:
            return pixels[rows]
        return _stack([_resized(_pillow_image(pixels[row, 0]), spec.image_size) for row in rows])

    labels = {"train": table[:, 64].astype(np.int64)}
    return Source("digits", tuple(str(i) for i in range(10)), labels, read)


def _digits_table() -> NDArray[np.float64]:
    """64 pixels and the class of each digit, (1797, 65).

    Read from scikit-learn's own file: importing scikit-learn takes longer than everything else
    that planning does.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return np.column_stack([bundle.data, bundle.target]).astype(np.float64)


# ---------------------------------------------------------------- parquet and hub


def _parquet(spec: DataSpec, base: Path) -> Source:
    """Files `train*.parquet`, `test*.parquet`, `validation*.parquet` in hub layout."""
    import pyarrow
    import pyarrow.parquet

    path = resolve(spec, base)
    tables = {}
    for split, patterns in _SPLIT_PATTERNS.items():
        found = [path] if path.is_file() and split == "train" else _matching(path, patterns)
        if found:
            try:
                tables[split] = pyarrow.concat_tables(
                    [pyarrow.parquet.read_table(f) for f in found]
                )
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise KtbenchError(f"data: cannot read {found[0]}: {_line(error)}") from error
    if "train" not in tables:
        raise KtbenchError(f"data: {path} has no train*.parquet")
    return _from_tables(spec, str(path), tables)


_SPLIT_PATTERNS = {
    "train": ("train*.parquet",),
    "validation": ("validation*.parquet", "valid*.parquet", "val-*.parquet"),
    "test": ("test*.parquet",),
}


def _matching(path: Path, patterns: Sequence[str]) -> list[Path]:
    if not path.is_dir():
        return []
    for pattern in patterns:
        found = sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
        if found:
            return found
    return []


def _hub(spec: DataSpec, base: Path) -> Source:
    """Any image classification data set of the Hugging Face hub, from its cache when offline."""
    import datasets

    if not spec.path:
        raise KtbenchError("data: source 'hub' needs a path: the data set's name on the hub")
    name, _, configuration = spec.path.partition(":")
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the hub client raises many kinds
        raise KtbenchError(
            f"data: cannot load {spec.path!r} from the hub ({_line(error)}): without network, "
            "download it elsewhere and give `source: parquet` with `path: FOLDER`"
        ) from error
    tables = {
        split: loaded[split].with_format("arrow")[:]
        for split in ("train", "validation", "test")
        if split in loaded
    }
    if "train" not in tables:
        raise KtbenchError(f"data: {spec.path!r} has no split 'train', only {sorted(loaded)}")
    features = {k: f for k, f in loaded["train"].features.items() if hasattr(f, "names")}
    return _from_tables(spec, spec.path, tables, {k: list(f.names) for k, f in features.items()})


def _from_tables(
    spec: DataSpec,
    name: str,
    tables: dict[str, Any],
    class_names: dict[str, list[str]] | None = None,
) -> Source:
    """A source over Arrow tables whose image column holds `{bytes, path}` or bytes."""
    schema = tables["train"].schema
    image = spec.image_column or _image_column(name, schema)
    label = spec.label_column or _label_column(name, schema, image)
    for column in (image, label):
        if column not in schema.names:
            raise KtbenchError(f"data: {name} has no column {column!r}, only {schema.names}")
    names = (class_names or {}).get(label) or _class_names(schema, label)
    raw = {split: table.column(label).to_numpy() for split, table in tables.items()}
    labels, classes = _as_numbers(name, raw, names)

    def encoded(split: str, row: int) -> bytes:
        value = tables[split].column(image)[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise KtbenchError(f"data: {name}, {split} row {row}: no image bytes in {image!r}")
        return data

    def read(split: str, rows: NDArray[np.int64]) -> Pixels:
        def one(row: np.int64) -> Pixels:
            return _decode(encoded(split, int(row)), f"{name}, {split} row {row}", spec.image_size)

        return _read_all(one, rows, f"{name}, {split} row {rows[0]}")

    return Source(name, classes, labels, read)


def _image_column(name: str, schema: Any) -> str:
    import pyarrow

    for field in schema:
        is_struct = pyarrow.types.is_struct(field.type)
        if is_struct and any(f.name == "bytes" for f in field.type):
            return str(field.name)
        if pyarrow.types.is_binary(field.type):
            return str(field.name)
    raise KtbenchError(f"data: {name} has no image column among {schema.names}")


def _label_column(name: str, schema: Any, image: str) -> str:
    import pyarrow

    usual = [n for n in ("label", "labels", "fine_label", "class", "target") if n in schema.names]
    integers = [f.name for f in schema if pyarrow.types.is_integer(f.type) and f.name != image]
    found = usual or integers
    if not found:
        raise KtbenchError(f"data: {name} has no label column among {schema.names}")
    return str(found[0])


def _class_names(schema: Any, label: str) -> list[str] | None:
    """Class names that the hub writes into a parquet file's metadata."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        names = info["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [names[k] for k in sorted(names, key=int)] if isinstance(names, dict) else list(names)


def _as_numbers(
    name: str, raw: dict[str, NDArray[Any]], names: list[str] | None
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Labels as 0 … K - 1 with one name each."""
    values = np.unique(np.concatenate(list(raw.values())))
    if not len(values):
        raise KtbenchError(f"data: {name} is empty: give a source with images")
    if np.issubdtype(values.dtype, np.integer):
        if values[0] < 0:
            raise KtbenchError(f"data: {name} has the label {values[0]}: labels start at 0")
        count = max(len(names or ()), int(values[-1]) + 1)
        classes = tuple(names) if names and len(names) == count else tuple(map(str, range(count)))
        return {k: v.astype(np.int64) for k, v in raw.items()}, classes
    numbers = {k: np.searchsorted(values, v).astype(np.int64) for k, v in raw.items()}
    return numbers, tuple(map(str, values))


# ---------------------------------------------------------------- image folder


def _folder(spec: DataSpec, base: Path) -> Source:
    """`FOLDER/class/*.png`, or `FOLDER/{train,validation,test}/class/*.png`."""
    path = resolve(spec, base)
    splits = {
        split: path / split for split in ("train", "validation", "test") if (path / split).is_dir()
    }
    if "train" not in splits:
        splits = {"train": path}
    classes = tuple(sorted(p.name for p in splits["train"].iterdir() if p.is_dir()))
    if not classes:
        raise KtbenchError(f"data: {splits['train']} has no sub-folders: one per class is needed")
    files: dict[str, list[Path]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for split, root in splits.items():
        found = [
            (file, number)
            for number, name in enumerate(classes)
            for file in sorted((root / name).rglob("*"))
            if file.suffix.lower() in _IMAGE_FILES
        ]
        if not found:
            raise KtbenchError(f"data: {root} is empty: no image file in any class folder")
        files[split] = [file for file, _ in found]
        labels[split] = np.array([number for _, number in found], dtype=np.int64)

    def read(split: str, rows: NDArray[np.int64]) -> Pixels:
        def one(row: np.int64) -> Pixels:
            file = files[split][int(row)]
            return _decode(file.read_bytes(), str(file), spec.image_size)

        return _read_all(one, rows, str(files[split][int(rows[0])]))

    return Source(str(path), classes, labels, read)


# ---------------------------------------------------------------- decoding


def _read_all(one: Callable[[np.int64], Pixels], rows: NDArray[np.int64], first: str) -> Pixels:
    """Every row decoded, two at a time: Pillow works outside Python's lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        images = list(pool.map(one, rows))
    return _stack(images, first)


def _stack(images: list[Pixels], first: str = "data") -> Pixels:
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        if len({shape[1:] for shape in shapes}) == 1:
            raise KtbenchError(
                f"data: grey and colour images are mixed (first: {first}): convert them to one kind"
            )
        sizes = ", ".join("×".join(map(str, s)) for s in sorted(shapes)[:3])
        raise KtbenchError(
            f"data: images of mixed sizes ({sizes} …; first: {first}): set data.image_size"
        )
    return np.stack(images)


def _decode(data: bytes, where: str, size: int | None) -> Pixels:
    """An encoded image as (C, H, W) uint8: one channel for grey images, else three."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            grey = image.mode in ("1", "L", "I;16", "I", "F")
            plain = image.convert("L" if grey else "RGB")
    except UnidentifiedImageError as error:  # whose text names an object in memory
        raise KtbenchError(f"data: {where}: not a readable image") from error
    except (OSError, ValueError) as error:
        raise KtbenchError(f"data: {where}: not a readable image ({_line(error)})") from error
    return _resized(plain, size)


def _resized(image: Any, size: int | None) -> Pixels:
    from PIL import Image

    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pillow_image(pixels: Pixels) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
