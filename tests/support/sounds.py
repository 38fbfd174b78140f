"""Small sets of sounds, and trainings on them, for tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.io import wavfile

from ktbench.records import Cell, DataSpec, Item, NumericSpec, TrainSpec

RATE = 4000
SMALL = {"rate": RATE, "seconds": 0.5, "bins": 16, "high": 2000.0}
"""Settings with which a training takes a moment."""


def tone(pitch: float, seconds: float = 0.4, seed: int = 0, rate: int = RATE) -> NDArray[np.int16]:
    """Return a tone of 16-bit samples with some noise."""
    draw = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    wave = 6000 * np.sin(2 * np.pi * pitch * times + draw.uniform(0, 6))
    return np.asarray((wave + draw.normal(0, 300, len(times))).astype(np.int16))


def wav(samples: NDArray[Any], rate: int = RATE) -> bytes:
    """Return samples (n,) or (n, channels) as the bytes of a wav file."""
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def tones(count: int, seed: int = 0) -> tuple[list[bytes], list[int]]:
    """Return files of three pitches, of several durations, and their classes."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, count)
    made = [
        wav(tone(300 * 2.0**kind * draw.uniform(0.9, 1.1), draw.uniform(0.2, 0.45), number + seed))
        for number, kind in enumerate(labels)
    ]
    return made, labels.tolist()


def write_sounds(folder: Path, count: int = 200, **columns: Any) -> Path:
    """Write a training table of sounds, with other columns if given; return the folder."""
    files, labels = tones(count)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"audio": files, "label": labels} | columns), folder / "train.parquet")
    return folder


def write_folders(folder: Path, count: int = 40) -> Path:
    """Write the same sounds as wav files in class folders; return the folder."""
    for number, (file, label) in enumerate(zip(*tones(count), strict=True)):
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03}.wav").write_bytes(file)
    return folder


def sound_data(folder: Path, source: str = "parquet", **settings: Any) -> DataSpec:
    """Return the spec of such data, read as short sounds."""
    task = Item(name="sound_classification", settings=SMALL | settings)
    return DataSpec.model_validate({"task": task, "source": source, "path": str(folder)})


def sound_cell(spec: DataSpec, method: str = "none", seed: int = 0, **changes: Any) -> Cell:
    """Return the cell of a small network that reads sounds."""
    fields: dict[str, Any] = {
        "data": spec,
        "student": Item(name="ds_cnn_s", settings={"width": 0.25}),
        "method": Item(name=method),
        "seed": seed,
        "train": TrainSpec(epochs=3, batch_size=32, lr=0.01, optimiser="adam"),
        "numeric": NumericSpec(threads=1),
    }
    return Cell(**{**fields, **changes})
