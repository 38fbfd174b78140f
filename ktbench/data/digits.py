"""Handwritten digits of 8×8 pixels, from scikit-learn's own file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ktbench.data.pixels import Pixels, resized, stack
from ktbench.records import DataSpec
from ktbench.tasks._contract import Labels, Source


def digits(spec: DataSpec, base: Path) -> Source:
    """1,797 handwritten digits of 8×8 pixels (Alpaydin and Kaynak, UCI, 1998)."""
    table = _digits_table()
    pixels: Pixels = np.rint(table[:, :64] * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 1, 8, 8)

    def read(_: str, rows: Labels) -> Pixels:
        if spec.image_size is None:
            return pixels[rows]
        from PIL import Image

        images = [resized(Image.fromarray(pixels[row, 0]), spec.image_size) for row in rows]
        return stack(images, str)

    def identity(_: str, rows: Labels) -> Iterator[str]:
        return (pixels[row].tobytes().hex() for row in rows.tolist())

    labels = {"train": table[:, 64].astype(np.int64)}
    names = tuple(str(i) for i in range(10))
    return Source("digits", names, labels, read, identity=identity)


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
