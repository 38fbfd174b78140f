"""What a matrix file may say: one model per section, with what each key means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    model_validator,
)
from pydantic import field_validator as validator

from ktbench.matrix.document import Origin
from ktbench.records import (
    BlockRun,
    BlockTrain,
    DataSpec,
    Format,
    Kept,
    Limits,
    NumericSpec,
    Precision,
    SourceSpec,
    TrainSpec,
)
from ktbench.records.cell import MOST_EPOCHS
from ktbench.records.printable import LARGEST, Count, Flag, FolderName, Line, Name, Number, Whole

MOST_SEEDS = 10_000
MOST_MEMBERS = 1_000
"""Of a list that is no list of seeds."""
MOST_OF_A_GRID = 16
"""Of a list of an export grid."""


class Section(BaseModel):
    """Base of every section: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _as_list(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) or value is None else [value]


OneOrMore = BeforeValidator(_as_list)
Texts = Annotated[tuple[Line, ...], OneOrMore, Field(max_length=MOST_MEMBERS)]
Seed = Annotated[Whole, Field(ge=0, le=LARGEST)]
Seeds = Annotated[tuple[Seed, ...], OneOrMore, Field(max_length=MOST_SEEDS)]
Views = Literal["fresh"] | Count
Epochs = Annotated[Whole, Field(ge=1, le=MOST_EPOCHS)]


class ItemEntry(Section):
    """`name`, or `{name: {setting: value, ...}}`."""

    name: Line
    settings: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            raise ValueError("must be a name, or {name: {setting: value}}")
        if set(value) == {"name", "settings"}:
            return value
        if len(value) != 1:
            first = next(iter(value), "name")
            raise ValueError(
                f"must have one name: indent what belongs to {first!r} below it, "
                "or write {name: {setting: value}}"
            )
        [(name, settings)] = value.items()
        if not isinstance(settings, dict | None):
            raise ValueError(f"the settings of {name!r} must be a mapping {{setting: value}}")
        return {"name": name, "settings": settings or {}}


Items = Annotated[tuple[ItemEntry, ...], OneOrMore, Field(max_length=MOST_MEMBERS)]
Changes = dict[str, JsonValue]


class TeacherEntry(Section):
    """A teacher: a student that is trained first, or a user's own weights; or several, of which
    some are drawn at every step.

    A network's name alone stands for `{student: NAME}`. Lists for settings of the network, of
    `train` and for `seed` are as many teachers, each named by what it differs in.
    """

    student: ItemEntry | None = None
    """The network."""
    name: Name | None = None
    """What the report calls it; the network's name with its settings when not given."""
    of: Annotated[tuple[TeacherEntry, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """In place of a network: the teachers of an ensemble, by name or pattern, or written here as in
    `teachers` (then they teach in this ensemble alone)."""
    sample: Annotated[tuple[Count, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Of an ensemble: how many are drawn at every step, to average their logits; a list tries
    each."""
    train_size: Count | None = None
    """Training images that it sees: as many as the students when not given; `all` (or null) for
    all that validation and test leave."""
    train: Changes = Field(default_factory=dict)
    """What its training does differently from `train`."""
    seed: Annotated[Seeds, Field(min_length=1)] = (0,)
    """Of its initial weights and data order; a list is as many teachers."""
    method: ItemEntry = ItemEntry(name="none", settings={})
    """How it is taught itself, when `teacher` is given."""
    teacher: str | None = None
    """The name of the teacher that teaches it: a chain of assistants."""
    checkpoint: Line | None = None
    """A file of the network's weights (a `state_dict`), relative to the matrix file; then nothing
    is trained."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"student": value}
        if isinstance(value, dict):
            _one_kind(value)
        return value

    @validator("train_size", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return None if value == "all" else value


def _one_kind(entry: dict[str, Any]) -> None:
    """Refuse an entry that is neither a network nor an ensemble, or both."""
    if "of" not in entry and "sample" not in entry:
        if "student" not in entry and set(entry) <= set(TeacherEntry.model_fields):
            raise ValueError("student is missing")
        return
    missing = [key for key in ("sample", "of") if entry.get(key) in (None, [])]
    if missing:
        raise ValueError(f"{missing[0]} is missing: {{sample: 1, of: [...]}} draws one per step")
    more = [key for key in entry if key in TeacherEntry.model_fields]
    more = [key for key in more if key not in ("name", "sample", "of")]
    if more:
        raise ValueError(f"{more[0]} belongs to the members of an ensemble: write it in `of`")


class WindowGrid(Section):
    """Windows of the training in which the transfer counts: every combination of the lists."""

    start: Annotated[
        tuple[Annotated[Number, Field(ge=0, lt=1)], ...], OneOrMore, Field(max_length=MOST_MEMBERS)
    ] = (0.0,)
    """Share of the training after which the transfer begins to count."""
    end: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=1)], ...], OneOrMore, Field(max_length=MOST_MEMBERS)
    ] = (1.0,)
    """Share of the training after which it counts no more."""
    scale: Annotated[
        tuple[Literal["jump", "keep"], ...], OneOrMore, Field(max_length=MOST_MEMBERS)
    ] = ("jump",)
    """The cross-entropy outside the window: at the weight that it has in the method (`jump`: the
    loss gets smaller), or at that of all terms together (`keep`)."""


class ExportGrid(Section):
    """Formats times precisions, written down in the same way."""

    formats: Annotated[tuple[Format, ...], OneOrMore, Field(max_length=MOST_OF_A_GRID)] = ("onnx",)
    """`onnx`, `tflite`, or both."""
    precisions: Annotated[tuple[Precision, ...], OneOrMore, Field(max_length=MOST_OF_A_GRID)] = (
        "fp32",
    )
    """`fp32`, `fp16`, `int8` (static, calibrated on training images)."""
    batch: Annotated[
        tuple[Literal["1", "dynamic"], ...], OneOrMore, Field(max_length=MOST_OF_A_GRID)
    ] = ("1",)
    """`1`, `dynamic`, or both."""
    opset: Annotated[
        tuple[Annotated[Whole, Field(ge=13, le=23)], ...],
        OneOrMore,
        Field(max_length=MOST_OF_A_GRID),
    ] = (18,)
    """Of ONNX only: 18 by default, 13 to 15 for old boards."""

    @validator("batch", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [str(v) if type(v) is int else v for v in _as_list(value) or ()]


class TeacherSection(SourceSpec):
    """Where a teacher's outputs come from while its students learn."""

    keep: Annotated[tuple[Kept, ...], OneOrMore, Field(max_length=MOST_OF_A_GRID)] = ("logits",)
    """What a cache keeps: `logits`, `embedding`, `stages`; methods that read more are served
    live."""

    @property
    def spec(self) -> SourceSpec:
        """As a plan has it."""
        return SourceSpec.model_validate(self.model_dump())


class BlockwiseSection(BlockTrain, BlockRun):
    """How blocks of students that are made of a teacher's network are trained, and where."""

    @property
    def train(self) -> BlockTrain:
        """What weights depend on."""
        return BlockTrain.model_validate(self.model_dump(include=set(BlockTrain.model_fields)))

    @property
    def run(self) -> BlockRun:
        """What no weight depends on."""
        return BlockRun.model_validate(self.model_dump(include=set(BlockRun.model_fields)))


class Rule(Section):
    """Cells that are left out: those that match every key given here.

    Each value is a pattern or a list of them (`vgg_*`), compared with an item's name and with its
    label (`attention(weight=100)`).
    """

    student: Texts = ()
    """Patterns of students."""
    method: Texts = ()
    """Patterns of methods."""
    teacher: Texts = ()
    """Patterns of teachers' names; cells without a teacher never match."""
    seed: Seeds = ()
    """Seeds."""
    budget: Annotated[tuple[Epochs, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Members of the matrix's `budget`."""
    windowed: Flag | None = None
    """True: cells whose transfer counts for a part of the training only (`distill`); false: those
    that are taught throughout, or not at all."""


class Include(Section):
    """A block of cells: the product of the axes named here; an axis not named is the matrix's.

    Cells that are not there yet are added, those that are take on `train`.
    """

    student: Items = ()
    """Patterns of the matrix's students, or students beside them."""
    method: Items = ()
    """Patterns of the matrix's methods, or methods beside them."""
    teacher: Texts = ()
    """Patterns of teachers' names."""
    seed: Seeds = ()
    """Seeds, the matrix's or others."""
    budget: Annotated[tuple[Epochs, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Members of the matrix's `budget`."""
    views: Annotated[tuple[Views, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Members of the matrix's `views`."""
    distill: Annotated[tuple[WindowGrid, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Members of the matrix's `distill`."""
    train: Changes = Field(default_factory=dict)
    """What the training of these cells does differently from `train`; the report says so."""


class Matrix(Section):
    """The axes of a benchmark: every student learns by every method from every teacher."""

    name: FolderName | None = None
    """What the report and its folder are called; the file's name when not given."""
    data: DataSpec
    """The data set, its splits and its augmentation."""
    teachers: Annotated[tuple[TeacherEntry, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Networks to learn from."""
    students: Annotated[Items, Field(min_length=1)]
    """Networks to train; `{vgg_thin: {width: [0.25, 0.5]}}` tries each value."""
    methods: Items = ()
    """Ways to learn; `{attention: {weight: [100, 1000]}}` tries each value. The baseline `none` is
    always one of them."""
    seeds: Annotated[Seeds, Field(min_length=1)] = (0, 1, 2)
    """A list of seeds, or how many."""
    views: Annotated[tuple[Views, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Numbers of augmentations per image that epochs take turns with, and `fresh` for new ones in
    every epoch: each is tried, by every method. `train.views` when not given."""
    budget: Annotated[tuple[Epochs, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Numbers of epochs, each a whole training of its own: every cell is there once per number,
    with a learning-rate schedule that ends there. `train.epochs` when not given."""
    distill: Annotated[tuple[WindowGrid, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Windows of the training in which the transfer counts, each tried by every method that reads a
    teacher: `{end: [0.2, 0.5, 1]}`. The whole training when not given."""
    train: TrainSpec
    """Training budget and optimiser, the same for every cell."""
    teacher: TeacherSection = TeacherSection()
    """How a teacher's outputs reach the students; no weight depends on it."""
    blockwise: BlockwiseSection = BlockwiseSection()
    """How the blocks of blockwise students are trained, before `train` finishes them."""
    numeric: NumericSpec = NumericSpec()
    """What decides the bits of a result beside the maths."""
    exports: Annotated[tuple[ExportGrid, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """What students are exported to: one grid or a list of them; nothing when not given."""
    devices: Items = ()
    """Where exports are measured: `local`, or `{profile: {host: ..., threads: [1, 4]}}`."""
    limits: Limits = Limits()
    """When a training that hangs is ended."""
    include: Annotated[tuple[Include, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Blocks of cells to add, or to train differently."""
    exclude: Annotated[tuple[Rule, ...], OneOrMore, Field(max_length=MOST_MEMBERS)] = ()
    """Cells to leave out, those of `include` too: this has the last word."""

    _origin: Origin = PrivateAttr(default=Origin())

    @validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be a list of seeds or how many, not {str(value).lower()}")
        if isinstance(value, int):
            if not 1 <= value <= MOST_SEEDS:
                raise ValueError(
                    f"must be a list of seeds or how many (1 to {MOST_SEEDS}), not {value}"
                )
            return list(range(value))
        return value

    @property
    def origin(self) -> Origin:
        """Where the matrix came from."""
        return self._origin

    def at(self, origin: Origin) -> Matrix:
        """The same matrix, told where it came from."""
        self._origin = origin
        return self
