"""Sounds with a class each: wav files in class folders, in tables, or on the Hugging Face hub.

Every sound becomes one channel of 16-bit numbers of one rate and length. What is changed on the way
(channels, rate, length, full scale) is counted and said; what is no whole wav file is refused.
"""

from __future__ import annotations

import io
import math
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ktbench.data import encoded_tables
from ktbench.data.encoded import Encoded
from ktbench.data.file_kinds import SOUNDS
from ktbench.data.folders import folder
from ktbench.data.sources import counted, one_line_of
from ktbench.records import DataSpec, KtbenchError
from ktbench.tasks._contract import Labels, Source

Samples = NDArray[np.int16]
Floats = NDArray[np.float64]
LOUDEST = 32767
LOUDEST_FLOAT = 1e9
"""Bound of floats, whose full scale is 1, up to which sums are exact enough."""
FASTEST = 1_000_000
"""Most samples a second: the filter that resamples from a rate may be as long as 20 seconds."""
UNKNOWN = 0xFFFFFFFF
"""Size that programs write which do not know it yet: all that follows is meant."""
RESAMPLING = "scipy.signal.resample_poly with its Kaiser window (beta 5)"
PLACING = "the middle: silence on both sides of shorter sounds, both ends of longer ones cut off"


@dataclass(frozen=True)
class Sound:
    """A decoded file: samples (n, channels) on the scale of 16-bit numbers."""

    rate: int
    samples: Floats

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / self.rate


def sounds(
    spec: DataSpec, base: Path, *, rate: int, length: int, column: str | None = None
) -> Source:
    """Open a data set's sounds as `length` samples at `rate` a second; `column` may name theirs.

    Looks at every sound. Raises KtbenchError with the first that cannot be read.
    """
    if spec.source == "folder":
        files = folder(spec, base, SOUNDS)
    elif spec.source == "parquet":
        files = encoded_tables.parquet(spec, base, SOUNDS, column)
    elif spec.source == "hub":
        files = encoded_tables.hub(spec, base, SOUNDS, column)
    else:
        raise KtbenchError(
            f"data: source {spec.source!r} holds images: sounds are in a folder, parquet or hub"
        )
    notes = (*files.notes, *changes(_surveyed(files), rate, length / rate))

    def read(split: str, rows: Labels) -> Samples:
        def one(data: bytes, where: str) -> Samples:
            return formed(decode(data, where), rate, length)

        made = files.decoded(split, rows, one)
        return np.stack(made) if made else np.zeros((0, length), np.int16)

    return Source(files.name, files.classes, files.labels, read, files.row_name, notes, files.about)


# ---------------------------------------------------------------- one file


def decode(data: bytes, where: str) -> Sound:
    """Decode a wav file: whole numbers of 8, 16, 24 or 32 bits, or floats from -1 to 1.

    Raises KtbenchError that names `where` for anything that is not one whole wav file.
    """
    from scipy.io import wavfile

    if data[:4] not in (b"RIFF", b"RIFX", b"RF64"):
        raise KtbenchError(f"data: {where}: not a wav file: convert it to wav")
    _refuse_cut_off(data, where)
    try:
        rate, values = wavfile.read(io.BytesIO(data))
    except Exception as error:  # damaged headers raise many kinds
        reason = one_line_of(error) if isinstance(error, ValueError) else "its header is damaged"
        raise KtbenchError(f"data: {where}: not a readable wav file ({reason})") from error
    if not values.size:
        raise KtbenchError(f"data: {where}: holds no sound: remove it")
    if not 1 <= rate <= FASTEST:
        raise KtbenchError(f"data: {where}: its rate of {rate:,} Hz is not 1 to {FASTEST:,}")
    samples = _on_scale(values, where)
    return Sound(int(rate), samples[:, None] if samples.ndim == 1 else samples)


def _refuse_cut_off(data: bytes, where: str) -> None:
    """Raise KtbenchError where the file ends before its samples do."""
    order = ">I" if data[:4] == b"RIFX" else "<I"
    place = 12
    while place + 8 <= len(data):
        (size,) = struct.unpack(order, data[place + 4 : place + 8])
        end = place + 8 + size
        if data[place : place + 4] == b"data":
            if end > len(data) and size != UNKNOWN:
                raise KtbenchError(
                    f"data: {where}: cut off: {len(data) - place - 8:,} of {size:,} bytes of "
                    "samples are there"
                )
            return
        place = end + size % 2
    raise KtbenchError(f"data: {where}: not a readable wav file (it has no samples)")


def _on_scale(values: NDArray[np.generic], where: str) -> Floats:
    """Return samples on the scale of 16-bit numbers."""
    kind, bits = values.dtype.kind, 8 * values.dtype.itemsize
    plain = values.astype(np.float64)
    if kind == "f":
        if not (np.abs(plain) < LOUDEST_FLOAT).all():  # of NaN, too
            raise KtbenchError(
                f"data: {where}: has values that are no sound (NaN, infinite or beyond "
                f"{LOUDEST_FLOAT:g})"
            )
        return plain * (LOUDEST + 1)
    if bits == 8:
        return (plain - 128) * 256
    return np.asarray(plain / 2.0 ** (bits - 16))  # 24 bits come as the upper ones of 32


def formed(sound: Sound, rate: int, length: int) -> Samples:
    """Return a sound as one channel (length,) at a rate: the mean of its channels, resampled.

    Shorter ones lie in the middle of silence, of longer ones the middle is kept.
    """
    wave = sound.samples.mean(1)
    if sound.rate != rate:
        from scipy.signal import resample_poly

        shared = math.gcd(rate, sound.rate)
        wave = resample_poly(wave, rate // shared, sound.rate // shared)
    start = abs(len(wave) - length) // 2
    if len(wave) < length:
        wave = np.pad(wave, (start, length - len(wave) - start))
    else:
        wave = wave[start : start + length]
    return np.asarray(np.rint(wave).clip(-LOUDEST - 1, LOUDEST), np.int16)


# ---------------------------------------------------------------- what is changed


@dataclass(frozen=True)
class Look:
    """Facts in the header of a sound's file."""

    seconds: float
    rate: int
    channels: int
    loud: bool
    """True where it is louder than 16 bits can say."""


def _surveyed(files: Encoded) -> list[Look]:
    def look(data: bytes, where: str) -> Look:
        sound = decode(data, where)
        loud = bool(np.abs(sound.samples.mean(1)).max() > LOUDEST + 1)
        return Look(sound.seconds, sound.rate, sound.samples.shape[1], loud)

    splits = files.labels.items()
    return [
        each
        for split, labels in splits
        for each in files.decoded(split, np.arange(len(labels), dtype=np.int64), look)
    ]


def changes(looks: Sequence[Look], rate: int, seconds: float) -> Iterator[str]:
    """List what is done to sounds to make them alike, a line each, with how many there are."""
    every = counted(len(looks), "sound")
    durations = [each.seconds for each in looks]
    shorter = sum(each < seconds for each in durations)
    longer = sum(each > seconds for each in durations)
    others = Counter(each.rate for each in looks if each.rate != rate)
    mixed, loud = sum(each.channels > 1 for each in looks), sum(each.loud for each in looks)
    if shorter:
        yield (
            f"{shorter:,} of {every} last less than {seconds:g} s (the shortest "
            f"{min(durations):.2f} s): silence is added on both sides"
        )
    if longer:
        yield (
            f"{longer:,} of {every} last more than {seconds:g} s (the longest "
            f"{max(durations):.2f} s): both ends are cut off"
        )
    for other, count in sorted(others.items()):
        yield f"{count:,} of {every} are resampled from {other:,} to {rate:,} Hz"
    if mixed:
        yield f"{mixed:,} of {every} have several channels: their mean is read"
    if loud:
        yield f"{loud:,} of {every} are louder than full scale: they are clipped there"
