"""Sections of a matrix file: one model each, with the meaning of every key."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PrivateAttr,
    Tag,
    model_validator,
)
from pydantic import field_validator as validator

from ktbench.matrix.file_problems import Origin
from ktbench.matrix.preprocess_entry import PreprocessEntry
from ktbench.records import (
    BlockRun,
    BlockTrain,
    Calibration,
    Correction,
    DataSpec,
    Format,
    Kept,
    LayerName,
    Limits,
    NumericSpec,
    Precision,
    SeedRace,
    SourceSpec,
    TrainSpec,
)
from ktbench.records.cell import MOST_EPOCHS
from ktbench.records.printable import LARGEST, Count, Flag, FolderName, Line, Name, Number, Whole
from ktbench.records.run_options import MOST_SEEDS

MOST_MEMBERS = 1_000
"""Longest list that is not one of seeds."""
MOST_OF_A_GRID = 16
"""Longest list of an export grid."""


class Section(BaseModel):
    """Base of every section: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _as_list(value: Any) -> Any:
    """Wrap a single value in a list."""
    return value if isinstance(value, list | tuple) or value is None else [value]


Value = TypeVar("Value")
OneOrMore = BeforeValidator(_as_list)
Several = Annotated[tuple[Value, ...], OneOrMore, Field(max_length=MOST_MEMBERS)]
"""A list, or its one member."""
Few = Annotated[tuple[Value, ...], OneOrMore, Field(max_length=MOST_OF_A_GRID)]
"""A list of an export grid, or its one member."""
Seed = Annotated[Whole, Field(ge=0, le=LARGEST)]
Seeds = Annotated[tuple[Seed, ...], OneOrMore, Field(max_length=MOST_SEEDS)]
Measure = Literal["flops", "images"]
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


Changes = dict[str, JsonValue]


class FileStart(Section):
    """A file of weights that a training begins from, and how the network's parts learn then.

    `stem`, a stage's name, `head` and patterns of parameters' names (`stages.0.*`) name parts.
    """

    file: Line
    """The file: a `state_dict`, safetensors, or what a training saved, relative to the matrix."""
    head: Literal["new", "keep"] | None = None
    """`new`: draw the head from the cell's seed; `keep`: take the file's. When not given, it is new
    where its shape is another."""
    freeze: Several[Line] = ()
    """Parts that are not trained; the statistics of their BatchNorms stay still."""
    lr_scale: dict[Line, Annotated[Number, Field(gt=0)]] = Field(default_factory=dict)
    """Factors of the learning rate, by part: `{stem: 0.1}`."""
    match: Literal["names", "order"] = "names"
    """`order`: the file's tensors are the network's one after the other, under other names, as of
    another implementation of the same architecture. Their number and shapes must be equal, the
    head's shapes excepted."""


def _kind_of_start(value: Any) -> str:
    return "a file" if isinstance(value, dict | FileStart) else "a name"


StartEntry = Annotated[
    Annotated[Line, Tag("a name")] | Annotated[FileStart, Tag("a file")],
    Discriminator(_kind_of_start),
]
"""Another matrix's file or `fresh`, or `{file: weights.pt}`."""


class TeacherEntry(Section):
    """A teacher: a network trained first, a user's own weights, or an ensemble of several.

    A network's name alone stands for `{student: NAME}`. Lists for settings of the network, of
    `train` and for `seed` make as many teachers, each named by what it differs in.
    """

    student: ItemEntry | None = None
    """The network."""
    name: Name | None = None
    """Name in the report; the network's name with its settings when not given."""
    of: Several[TeacherEntry] = ()
    """The teachers of an ensemble, in place of a network: by name or pattern, or written here as in
    `teachers` (then they teach in this ensemble alone)."""
    sample: Several[Count] = ()
    """Teachers of an ensemble drawn at every step, to average their logits; a list tries each."""
    train_size: Count | None = None
    """Training images that it sees: as many as the students when not given; `all` (or null) for
    all that validation and test leave."""
    train: Changes = Field(default_factory=dict)
    """Changes of its training to `train`."""
    seed: Annotated[Seeds, Field(min_length=1)] = (0,)
    """Seed of its initial weights and data order; a list makes as many teachers."""
    method: ItemEntry = ItemEntry(name="none", settings={})
    """Method by which it learns itself, when `teacher` is given."""
    teacher: str | None = None
    """Name of the teacher that teaches it: a chain of assistants."""
    checkpoint: Line | None = None
    """A file of the network's weights (a `state_dict`), relative to the matrix file; then nothing
    is trained."""
    preprocess: PreprocessEntry | None = None
    """What the weights in `checkpoint` were trained on, where that is not the data's own
    normalisation and size: `imagenet`, or `{mean: 0.5, std: 0.25, size: 64}`."""
    expect: Number | None = None
    """Figure of the metric that `checkpoint` should reach on the test set, such as 0.95: the run
    warns where it is far below."""
    start: FileStart | None = None
    """A file of weights that its training begins from."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"student": value}
        if isinstance(value, dict):
            _one_kind(value)
        return value

    @model_validator(mode="after")
    def _of_a_file(self) -> Self:
        for key in ("preprocess", "expect"):
            if getattr(self, key) is not None and self.checkpoint is None:
                raise ValueError(f"{key} is for weights of your own: it needs a checkpoint")
        return self

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

    start: Several[Annotated[Number, Field(ge=0, lt=1)]] = (0.0,)
    """Share of the training after which the transfer begins to count."""
    end: Several[Annotated[Number, Field(gt=0, le=1)]] = (1.0,)
    """Share of the training after which it no longer counts."""
    scale: Several[Literal["jump", "keep"]] = ("jump",)
    """Weight of the cross-entropy outside the window: its weight in the method (`jump`: the loss
    gets smaller), or that of all terms together (`keep`)."""


class ExportGrid(Section):
    """Formats times precisions, exported in the same way."""

    formats: Few[Format] = ("onnx",)
    """`onnx`, `tflite`, or both."""
    precisions: Few[Precision] = ("fp32",)
    """`fp32`, `fp16`, `int8` (static, calibrated on training images)."""
    batch: Few[Literal["1", "dynamic"]] = ("1",)
    """`1`, `dynamic`, or both."""
    opset: Few[Annotated[Whole, Field(ge=13, le=23)]] = (18,)
    """Opset of ONNX files: 18 by default, 13 to 15 for old boards."""
    activations: Literal["auto", "signed", "unsigned"] = "auto"
    """Activations of int8 ONNX files; `auto`: `unsigned` where a device may be an x86 processor."""
    reduce_range: Flag = False
    """Weights of 7 bits in int8 ONNX files, for x86 processors without VNNI."""
    calibration: Calibration = "minmax"
    """Origin of int8 ranges: `minmax`, `percentile` (all but one value in 10,000) or `mse` (the
    least mean squared error)."""
    correct: Few[Correction] = ()
    """Changes before int8: `equalise` the channels of successive layers, correct the `bias`."""
    keep: Few[LayerName] = ()
    """Layers that int8 leaves in float32: `stem`, `head`, or a module's path."""
    sensitivity: Flag = False
    """Measure on the validation set what each layer loses when it alone is quantised."""

    @validator("batch", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [str(v) if type(v) is int else v for v in _as_list(value) or ()]


class TeacherSection(SourceSpec):
    """Source of the teacher's outputs while its students learn."""

    keep: Few[Kept] = ("logits",)
    """Outputs that a cache stores: `logits`, `embedding`, `stages`, `stem`, `attentions`; methods
    that read more are served live."""

    @property
    def spec(self) -> SourceSpec:
        """Record of these settings for a plan."""
        return SourceSpec.model_validate(self.model_dump())


class BlockwiseSection(BlockTrain, BlockRun):
    """Training of the blocks of students made of a teacher's network, and its distribution."""

    control: Measure = "flops"
    """Measure in which a student with `start: random` is trained for as long as blocks and finish
    together: `flops`, the teacher's passes included, or `images`."""

    @property
    def train(self) -> BlockTrain:
        """Settings on which weights depend."""
        return BlockTrain.model_validate(self.model_dump(include=set(BlockTrain.model_fields)))

    @property
    def run(self) -> BlockRun:
        """Settings on which no weight depends."""
        return BlockRun.model_validate(self.model_dump(include=set(BlockRun.model_fields)))


class Rule(Section):
    """Cells to leave out: those that match every key given here.

    Each value is a pattern or a list of them (`vgg_*`), compared with an item's name and with its
    label (`attention(weight=100)`).
    """

    student: Several[Line] = ()
    """Patterns of students."""
    method: Several[Line] = ()
    """Patterns of methods."""
    teacher: Several[Line] = ()
    """Patterns of teachers' names; cells without a teacher never match."""
    seed: Seeds = ()
    """Seeds."""
    budget: Several[Epochs] = ()
    """Members of the matrix's `budget`."""
    windowed: Flag | None = None
    """True: cells whose transfer counts for a part of the training only (`distill`); false: cells
    that are taught throughout, or not at all."""
    start: Several[Line] = ()
    """Patterns of what cells begin from: `fresh`, a matrix, a file of weights."""


class Include(Section):
    """A block of cells: the product of the axes named here; an axis not named is the matrix's.

    Cells that are not there yet are added, those that are take on `train`.
    """

    student: Several[ItemEntry] = ()
    """Patterns of the matrix's students, or students beside them."""
    method: Several[ItemEntry] = ()
    """Patterns of the matrix's methods, or methods beside them."""
    teacher: Several[Line] = ()
    """Patterns of teachers' names."""
    seed: Seeds = ()
    """Seeds, the matrix's or others."""
    budget: Several[Epochs] = ()
    """Members of the matrix's `budget`."""
    views: Several[Views] = ()
    """Members of the matrix's `views`."""
    distill: Several[WindowGrid] = ()
    """Members of the matrix's `distill`."""
    start: Several[StartEntry] = ()
    """Members of the matrix's `start`, `fresh`, or files of weights beside them."""
    train: Changes = Field(default_factory=dict)
    """Changes of these cells' training to `train`; the report says so."""


def _kind_of_seeds(value: Any) -> str:
    """Tag of a value of `seeds`."""
    return "race" if isinstance(value, dict | SeedRace) else "list"


class Matrix(Section):
    """The axes of a benchmark: every student learns by every method from every teacher."""

    name: FolderName | None = None
    """Name of the report and its folder; the file's name when not given."""
    data: DataSpec
    """The data set, its splits and its augmentation."""
    teachers: Several[TeacherEntry] = ()
    """Networks to learn from."""
    students: Annotated[Several[ItemEntry], Field(min_length=1)]
    """Networks to train; `{vgg_thin: {width: [0.25, 0.5]}}` tries each value."""
    methods: Several[ItemEntry] = ()
    """Ways to learn; `{attention: {weight: [100, 1000]}}` tries each value. The baseline `none` is
    always one of them."""
    seeds: (
        Annotated[Annotated[Seeds, Field(min_length=1)], Tag("list")]
        | Annotated[SeedRace, Tag("race")]
    ) = Field(default=(0, 1, 2), discriminator=Discriminator(_kind_of_seeds))
    """A list of seeds, or how many; `{start: 3, most: 20}` adds seeds one by one to the comparisons
    that they may decide."""
    views: Several[Views] = ()
    """Numbers of augmentations per image through which epochs cycle, and `fresh` for new ones in
    every epoch: each is tried by every method. `train.views` when not given."""
    budget: Several[Epochs] = ()
    """Numbers of epochs: every cell is trained once per number, with a learning-rate schedule that
    ends there. `train.epochs` when not given."""
    distill: Several[WindowGrid] = ()
    """Windows of the training in which the transfer counts, each tried by every method that reads a
    teacher: `{end: [0.2, 0.5, 1]}`. The whole training when not given."""
    start: Several[StartEntry] = ()
    """Weights that cells begin from: the file of another matrix, of which each cell with the same
    student and seed is tried, with a new head; a file of weights, `{file: weights.pt}`; `fresh` is
    for weights that nothing has trained."""
    train: TrainSpec
    """Training budget and optimiser, the same for every cell."""
    teacher: TeacherSection = TeacherSection()
    """Source of the teacher's outputs; weights do not depend on it."""
    blockwise: BlockwiseSection = BlockwiseSection()
    """Training of the blocks of blockwise students, before `train` finishes them."""
    numeric: NumericSpec = NumericSpec()
    """Numeric settings that decide the bits of a result."""
    exports: Several[ExportGrid] = ()
    """Exports of the students: one grid or a list of them; none when not given."""
    devices: Several[ItemEntry] = ()
    """Devices that measure exports: `local`, or `{profile: {host: ..., threads: [1, 4]}}`."""
    limits: Limits = Limits()
    """Limits at which a training that hangs is ended."""
    include: Several[Include] = ()
    """Blocks of cells to add, or to train differently."""
    exclude: Several[Rule] = ()
    """Cells to leave out, those of `include` too."""

    _origin: Origin = PrivateAttr(default=Origin())
    _others: dict[str, Matrix] = PrivateAttr(default_factory=dict)

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
    def all_seeds(self) -> tuple[int, ...]:
        """All seeds that may be needed."""
        return tuple(range(self.seeds.most)) if isinstance(self.seeds, SeedRace) else self.seeds

    @property
    def origin(self) -> Origin:
        """Source of the matrix, to locate its problems."""
        return self._origin

    @property
    def others(self) -> dict[str, Matrix]:
        """The matrices that `start` names, by the name of the file."""
        return self._others

    def beside(self, others: dict[str, Matrix]) -> Matrix:
        """Set the matrices that `start` names, and return the matrix."""
        self._others = others
        return self

    def at(self, origin: Origin) -> Matrix:
        """Set the matrix's source, and return the matrix."""
        self._origin = origin
        return self
