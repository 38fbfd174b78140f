"""The metric of a task: which way is better, its range, and how its figures are written."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ktbench.records.base import Record
from ktbench.records.bounds import Figure, Name


class Metric(Record):
    """Figure that a task's networks are judged by. The default is top-1 accuracy.

    Records hold a metric's own figures. Whatever compares them (frames, statistics, report) takes
    them as *qualities*, of which more is better: the figures themselves, or their negatives where
    less is better.
    """

    name: Name = "top-1 accuracy"
    """Whole name for people."""
    word: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 '@._-]{0,30}$")] = "accuracy"
    """Short name, which stands in the report's sentences, heads, drawings and script."""
    better: Literal["more", "less"] = "more"
    low: Figure | None = 0.0
    """Least figure that there can be; None where there is none."""
    high: Figure | None = 1.0
    """Greatest figure that there can be; None where there is none."""
    chance: Figure | None = None
    """Figure of a guess, at which a failed training counts; None for 1 / classes."""
    digits: Annotated[int, Field(ge=0, le=9)] | None = None
    """Decimals of a plain number; None for a share, which is written in percent."""

    @model_validator(mode="after")
    def _chance_can_be(self) -> Self:
        if self.chance is not None and (reason := self.objection(self.chance)):
            raise ValueError(f"{self.name}: the figure of a guess {reason}")
        return self

    # ------------------------------------------------------------ figures

    @property
    def sign(self) -> int:
        """1 where more is better, else -1: what turns figures into qualities, and back."""
        return 1 if self.better == "more" else -1

    def quality(self, figure: float) -> float:
        """Return a figure as a quality, and a quality as a figure."""
        return self.sign * figure

    def objection(self, figure: float) -> str | None:
        """Say what is wrong with a figure, or None."""
        if not math.isfinite(figure):
            return "is not finite"
        if self.low is not None and figure < self.low:
            return f"is below {self.low:g}"
        if self.high is not None and figure > self.high:
            return f"is above {self.high:g}"
        return None

    @property
    def step(self) -> float:
        """Difference that hardly counts: a percentage point, or ten units of the last decimal."""
        return 0.01 if self.digits is None else 10.0 ** (1 - self.digits)

    # ------------------------------------------------------------ words

    @property
    def words(self) -> str:
        """Plural of the short name."""
        if self.word.endswith("y"):
            return f"{self.word[:-1]}ies"
        return f"{self.word}{'es' if self.word.endswith('s') else 's'}"

    @property
    def title(self) -> str:
        """Short name with a capital letter."""
        return self.word[:1].upper() + self.word[1:]

    @property
    def unit(self) -> str:
        """Unit of a difference: `points` of shares, or the short name."""
        return "points" if self.digits is None else self.word

    @property
    def decimals(self) -> int:
        """Decimals of a written figure."""
        return 1 if self.digits is None else self.digits

    @property
    def scale(self) -> int:
        """Factor between a figure and the number that is written: 100 for shares."""
        return 100 if self.digits is None else 1

    def bare(self, figure: float) -> str:
        """Write a figure without its sign of percent: `92.4`, `0.512`."""
        return f"{self.scale * figure:.{self.decimals}f}".replace("-", "−")

    def written(self, figure: float) -> str:
        """Write a figure: `92.4 %` of a share, `0.512` of a plain number."""
        return f"{self.bare(figure)} %" if self.digits is None else self.bare(figure)

    def difference(self, qualities: float) -> str:
        """Write a difference of qualities in its unit, always with its sign: `+2.1`."""
        text = f"{abs(self.scale * qualities):.{self.decimals}f}"
        if float(text) == 0:
            return text
        return f"{'+' if qualities > 0 else '−'}{text}"


ACCURACY = Metric()
"""Share of samples whose class is named, as image classification has it."""
