"""Sound classification (keywords): short sounds of one length, a class each, judged by accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ktbench.data.counter import counter_hash, numbered
from ktbench.data.sounds import PLACING, RESAMPLING, sounds
from ktbench.records import DataSpec, canonical_json
from ktbench.students._contract import Inputs
from ktbench.tasks._classification import METRICS, Classification
from ktbench.tasks._contract import InputSpec, Reading, Signature, Source, objection_to_image_keys
from ktbench.tasks._log_mel import FLOOR, Front, LogMel, Recipe, filters
from ktbench.tasks._reading import SOUND

SHIFT, VOLUME, NOISE = 1, 2, 3
"""Numbers of the random streams of an augmentation's draws."""
MOST_LEARNT_FROM = 4096
"""Most training sounds, evenly spread, from which the normalisation is learnt."""


@dataclass(frozen=True)
class Config:
    """Settings of sounds; the spectrum's defaults are those of MLPerf Tiny's keyword network."""

    rate: int = 16000
    """Samples per second; sounds of another rate are resampled."""
    seconds: float = 1.0
    """Duration that a network hears: of shorter sounds with silence around them, of longer ones the
    middle."""
    window: float = 0.03
    """Seconds of a frame."""
    hop: float = 0.02
    """Seconds from one frame to the next."""
    bins: int = 40
    """Filters on the mel scale."""
    low: float = 20.0
    """Frequency in Hz at which the filters begin."""
    high: float = 4000.0
    """Frequency in Hz at which the filters end."""
    coefficients: int | None = None
    """Cepstral coefficients (MFCC) that a network reads, 10 in MLPerf Tiny; the logarithms of the
    filters when not given."""
    shift: float = 0.0
    """Augmentation: most seconds by which a training sound is moved, either way."""
    noise: float = 0.0
    """Augmentation: loudest white noise that is added to a training sound, as a share of its root
    mean square."""
    audio_column: str | None = None
    """Column of the sounds; chosen automatically where it is unambiguous."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be the form of a sound or of a spectrum."""
        whole = {"rate": (1000, 192_000), "bins": (2, 512)}
        real = {"seconds": (0.01, 60), "window": (0.001, 1), "hop": (0.001, 1), "low": (0, 96_000)}
        for name, (least, most) in (whole | real | {"high": (1, 96_000), "noise": (0, 10)}).items():
            value = getattr(self, name)
            kinds = (int,) if name in whole else (int, float)
            if type(value) not in kinds or not least <= value <= most:
                raise ValueError(f"{name} must be {least:g} to {most:g}, not {value}")
        if type(self.shift) not in (int, float) or not 0 <= self.shift < self.seconds:
            raise ValueError(f"shift must be 0 to less than {self.seconds:g}, not {self.shift}")
        if not self.low < self.high <= self.rate / 2:
            raise ValueError(
                f"low and high must rise, up to half the rate ({self.rate / 2:g} Hz), not "
                f"{self.low:g} and {self.high:g}"
            )
        if self.recipe.length < self.recipe.window:
            raise ValueError(f"window must be at most {self.seconds:g} seconds, not {self.window}")
        count = self.coefficients
        if count is not None and (type(count) is not int or not 1 <= count <= self.bins):
            raise ValueError(f"coefficients must be 1 to {self.bins}, not {count}")
        if not filters(self.recipe).sum(1).all():
            raise ValueError(
                f"bins must be fewer, or window longer: some of {self.bins} filters between "
                f"{self.low:g} and {self.high:g} Hz lie between two frequencies of the transform"
            )

    @property
    def recipe(self) -> Recipe:
        """The spectrum, in samples."""
        window, hop = (max(1, round(each * self.rate)) for each in (self.window, self.hop))
        return Recipe(
            self.rate, round(self.seconds * self.rate), window, hop, self.bins, self.low, self.high,
            self.coefficients,
        )  # fmt: skip


class Learning(Classification):
    """See the file. Raw samples are 16-bit numbers (length,)."""

    noun = "sound"
    metric = METRICS["accuracy"]
    config: Config

    # ------------------------------------------------------------ the data

    def open(self, spec: DataSpec, base: Path) -> Source:
        """See `Task.open`."""
        recipe, column = self.config.recipe, self.config.audio_column
        return sounds(spec, base, rate=recipe.rate, length=recipe.length, column=column)

    def problem(self, spec: DataSpec, signature: Signature) -> tuple[tuple[str, ...], str] | None:
        """See `Task.problem`: what shapes images has no meaning for sounds."""
        return objection_to_image_keys(spec, self.noun)

    def signature(
        self, classes: int, shapes: tuple[tuple[int, ...], ...], facts: Mapping[str, Any]
    ) -> Signature:
        """See `Task.signature`; a network reads a map (1, frames, values)."""
        recipe = self.config.recipe
        return Signature(
            inputs=(InputSpec("features", (1, recipe.frames, recipe.values)),),
            outputs=classes,
            sizes=(("num_classes", classes), ("in_channels", 1), ("bins", recipe.values)),
            noun="sound",
            sized_by="data.task.seconds",
            raw=(InputSpec("sound", (recipe.length,)),),
        )

    # ------------------------------------------------------------ from sounds to maps

    def statistics(self, raw: Inputs, facts: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return mean and deviation of each of a frame's values, (values,), float32."""
        waves = _waves(raw)
        count = min(MOST_LEARNT_FROM, len(waves))
        log_mel = _log_mel(self.config.recipe)
        total = torch.zeros(2, self.config.recipe.values, dtype=torch.float64)
        for place in range(count):
            values = log_mel.of_one(waves[place * len(waves) // count].float())[0].double()
            total += torch.stack([values.sum(0), values.square().sum(0)])
        mean, squares = total / (count * self.config.recipe.frames)
        return mean.float(), (squares - mean.square()).clamp(min=1e-6).sqrt().float()

    def inputs(self, raw: Inputs, statistics: tuple[Tensor, ...]) -> Tensor:
        """Turn sounds (B, length) into maps (B, 1, frames, values), float32."""
        return _maps([wave.float() for wave in _waves(raw)], self.config.recipe, statistics)

    def between(
        self, source: tuple[Tensor, ...], target: tuple[Tensor, ...]
    ) -> Callable[[Inputs], Inputs] | None:
        """See `Task.between`."""
        if all(torch.equal(a, b) for a, b in zip(source, target, strict=True)):
            return None
        (from_mean, from_std), (to_mean, to_std) = source, target
        scale, shift = from_std / to_std, (from_mean - to_mean) / to_std

        def moved(inputs: Inputs) -> Tensor:
            maps = _waves(inputs)
            return maps * scale.to(maps.device) + shift.to(maps.device)

        return moved

    def augmentation(self, spec: DataSpec) -> str:
        """See `Task.augmentation`."""
        c = self.config
        return canonical_json({"shift": c.shift, "noise": c.noise}) if c.shift or c.noise else ""

    @property
    def augments(self) -> str:
        """See `Task.augments`."""
        c = self.config
        words = [f"moved by up to {c.shift:g} s"] if c.shift else []
        words += [f"white noise of up to {c.noise:g} of the sound"] if c.noise else []
        return ", ".join(words)

    def samples(
        self,
        spec: DataSpec,
        raw: Inputs,
        labels: Tensor,
        statistics: tuple[Tensor, ...],
        seed: int,
    ) -> Sounds:
        """See `Task.samples`."""
        return Sounds(_waves(raw), labels, self.config, statistics, seed)

    # ------------------------------------------------------------ the exported file

    def front(self, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]) -> nn.Module:
        """See `Task.front`: the spectrum and its normalisation."""
        return Front(self.config.recipe, *statistics)

    def sidecar(
        self, signature: Signature, statistics: tuple[Tensor, ...], facts: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """See `Task.sidecar`: the sound's form, and what the file computes of it."""
        recipe = self.config.recipe
        mean, std = (each.tolist() for each in statistics)
        spectrum = {
            "computed": "inside the graph",
            "window": f"periodic Hann, {recipe.window} samples, every {recipe.hop} samples",
            "frames": recipe.frames,
            "transform": f"power of a {recipe.points}-point DFT of samples / 32768",
            "filters": f"{recipe.bins} triangles on the mel scale 1127 ln(1 + f / 700), "
            f"{recipe.low:g} to {recipe.high:g} Hz",
            "logarithm": f"ln(sum + {FLOOR:g})",
            "cepstra": recipe.coefficients and f"orthonormal DCT-II, first {recipe.coefficients}",
            "mean": mean,
            "std": std,
        }
        told = {
            "meaning": "16-bit samples of one channel, as numbers",
            "range": [-32768, 32767],
            "rate": recipe.rate,
            "length": PLACING,
            "other rates": RESAMPLING,
            "features": spectrum,
        }
        return {"sound": told}

    def reading(self) -> Reading:
        """See `Task.reading`."""
        return SOUND


@dataclass(frozen=True)
class Sounds:
    """Training sounds (N, length), 16-bit; see `Samples`."""

    waves: Tensor
    classes: Tensor
    config: Config
    statistics: tuple[Tensor, ...]
    seed: int

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """See `Samples.kept`."""
        return (self.waves,)

    def labels(self, indices: Tensor, view: int) -> Tensor:
        """Classes (B,)."""
        return self.classes[indices]

    def inputs(self, indices: Tensor, view: int) -> Tensor:
        """Augmented, normalised maps (B, 1, frames, values), float32."""
        waves = [self.augmented(int(index), view) for index in indices]
        return _maps(waves, self.config.recipe, self.statistics)

    def augmented(self, index: int, view: int) -> Tensor:
        """One sound (length,), float32, after its shift and with its noise."""
        wave = self.waves[index].float()
        most = round(self.config.shift * self.config.rate)
        if most:
            word = counter_hash(self.seed, numbered(SHIFT, view), index)
            wave = shifted(wave, int(word % np.uint64(2 * most + 1)) - most)
        if self.config.noise:
            wave = wave + self._noise(wave, index, view)
        return wave

    def _noise(self, wave: Tensor, index: int, view: int) -> Tensor:
        """White noise, uniform between two bounds, of a volume drawn for the sound."""
        volume = _share(counter_hash(self.seed, numbered(VOLUME, view), index))
        level = wave.double().square().mean().sqrt() * float(volume) * self.config.noise
        counters = np.arange(len(wave), dtype=np.uint64) + np.uint64(index * len(wave))
        shares = _share(counter_hash(self.seed, numbered(NOISE, view), counters))
        plain = torch.from_numpy((2 * shares - 1) * np.sqrt(3.0))  # of deviation 1
        return (plain.to(wave.device) * level).float()


def shifted(wave: Tensor, places: int) -> Tensor:
    """Move a sound by some places, later if above 0; silence comes in at the end that is left."""
    moved = torch.zeros_like(wave)
    if places >= 0:
        moved[places:] = wave[: len(wave) - places]
    else:
        moved[:places] = wave[-places:]
    return moved


def _share(words: Any) -> Any:
    """Turn random words into numbers from 0 to 1."""
    return (words >> np.uint64(11)) * 2.0**-53


def _waves(raw: Inputs) -> Tensor:
    assert isinstance(raw, Tensor)
    return raw


@lru_cache(maxsize=8)
def _log_mel(recipe: Recipe, device: str = "cpu") -> LogMel:
    with torch.inference_mode(False):  # tables made inside it could not be used outside
        return LogMel(recipe).to(device)


def _maps(waves: list[Tensor], recipe: Recipe, statistics: tuple[Tensor, ...]) -> Tensor:
    """Turn sounds into maps (B, 1, frames, values), each alone.

    So its bits are the same in any batch: how sums are grouped depends on a batch's size.
    """
    if not waves:
        return torch.zeros(0, 1, recipe.frames, recipe.values)
    device = waves[0].device
    log_mel = _log_mel(recipe, str(device))
    mean, std = (each.to(device) for each in statistics)
    return (torch.stack([log_mel.of_one(wave) for wave in waves]) - mean) * (1 / std)
