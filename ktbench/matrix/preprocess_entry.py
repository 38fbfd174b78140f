"""`preprocess` of a matrix file: what a network whose weights are brought along was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ktbench import catalogue
from ktbench.catalogue.own_inputs import own_inputs
from ktbench.matrix.file_problems import problems_of
from ktbench.records import KtbenchError, Preprocessing
from ktbench.records.preprocessing import LARGEST_IMAGE, MOST_CHANNELS, Interpolation
from ktbench.records.printable import Number, Whole

Values = dict[str, Any]
PRESETS: dict[str, Values] = {
    "unit": {"mean": [0.0], "std": [1.0], "range": 1},
    "bytes": {"mean": [0.0], "std": [1.0], "range": 255},
    "half": {"mean": [0.5], "std": [0.5], "range": 1},
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "range": 1},
}
"""Common values of pixels: 0 to 1, 0 to 255, -1 to 1, and those of ImageNet's networks."""
OWN = "own"
PerChannel = Annotated[
    tuple[Number, ...],
    Field(max_length=MOST_CHANNELS),
    BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value),
]


class PreprocessEntry(BaseModel):
    """Inputs that the weights in a file were trained on: a preset's name, or what differs from it.

    `unit`: pixels from 0 to 1; `bytes`: 0 to 255; `half`: -1 to 1; `imagenet`: with ImageNet's mean
    and deviation; `own`: as timm, torchvision or a `preprocessor_config.json` beside the file says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    preset: Literal["unit", "bytes", "half", "imagenet", "own"] | None = None
    """Values that the other keys change."""
    mean: PerChannel = ()
    """Mean that is subtracted from a pixel, per channel or one for all."""
    std: PerChannel = ()
    """Deviation by which the difference is divided, per channel or one for all."""
    range: Literal[1, 255] | None = None
    """Value of the brightest pixel before mean and std: 1 (when not given) or 255."""
    size: Annotated[Whole, Field(ge=4, le=LARGEST_IMAGE)] | None = None
    """Pixels a side; images of another size are resized. The data's own size when not given."""
    interpolation: Interpolation | None = None
    """Interpolation of the resizing; `bilinear` when not given."""
    crop: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Share of a resized image's side that is kept, from its centre; 1 when not given."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"preset": value}
        if value == {}:
            raise ValueError(f"is empty: name a preset ({', '.join([*PRESETS, OWN])}) or a key")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.preset != OWN:
            self.with_defaults({})
        return self

    def with_defaults(self, own: Values) -> Preprocessing:
        """Return the record, `own` being the values of the preset of that name.

        Raises ValueError, in one line.
        """
        fields = self.model_dump(exclude={"preset"})
        given = {name: value for name, value in fields.items() if value not in (None, ())}
        if self.preset is not None:
            values = {**(own if self.preset == OWN else PRESETS[self.preset]), **given}
        elif "range" in given and not {"mean", "std"} & set(given):
            values = {**PRESETS["unit"], **given}
        else:
            values = given
        try:
            return Preprocessing.model_validate(values)
        except ValidationError as error:
            problem = problems_of(error, Preprocessing)[0]
            where = ".".join(map(str, problem.path))
            raise ValueError(f"{where}: {problem.message}" if where else problem.message) from error


def preprocessing(entry: PreprocessEntry, network: str, weights: Path) -> Preprocessing | None:
    """Return what a network's weights were trained on; None where no code may be looked at.

    Raises KtbenchError, in one line.
    """
    own: Values = {}
    if entry.preset == OWN:
        if catalogue.unseen(network):
            return None
        own = own_inputs(network, weights)
    try:
        return entry.with_defaults(own)
    except ValueError as error:
        raise KtbenchError(str(error)) from error
