"""Cells and all that their keys hash: items, data, budgets, numeric settings; and the plan."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ktbench.records.augmentation import Augmentation
from ktbench.records.base import Composed, Record, canonical_json, digest_of, without_unset
from ktbench.records.bounds import Facts, Figure, Name, Words
from ktbench.records.preprocessing import LARGEST_IMAGE, Preprocessing
from ktbench.records.printable import LARGEST, Count, Flag, Line, Number, Whole, printable
from ktbench.records.run_options import (
    MOST_THREADS,
    BlockRun,
    DeviceSpec,
    ExportSpec,
    Limits,
    SeedRace,
    SourceSpec,
)
from ktbench.records.weights_file import WeightsFile

LARGEST_BATCH = 1 << 20
MOST_EPOCHS = 10_000_000
MOST_MILESTONES = 1000


class Item(Record):
    """A catalogue item (student or method) with the settings that differ from its defaults."""

    added_later: ClassVar = frozenset({"code", "implied"})

    name: Name
    """The item's name in the catalogue, or `path/to/file.py:Class` or `package.module:Class`."""
    settings: Facts = Field(default_factory=dict)
    """Settings of the item, as its own `Config` (method) or `build` (student) names them."""
    code: str | None = None
    """SHA-256 (16 digits) of the file of a user's own network or method: other code is another
    cell. None for the catalogue's own; `revision N` of a method whose settings or defaults have
    come to mean something else (`TransferMethod.revision`); `SETTING: SHA-256` (16 digits) of what
    the files hold that a setting names. Then keys leave out where these lie."""
    implied: tuple[str, ...] = ()
    """Settings that follow from others within a matrix; the label omits them."""

    @property
    def file_setting(self) -> str | None:
        """Setting that names files, whose content `code` names."""
        setting, separator, _ = (self.code or "").partition(": ")
        return setting if separator else None

    def _named(self) -> dict[str, Any]:
        fields = super()._named()
        fields["settings"].pop(self.file_setting, None)
        return fields

    @property
    def label(self) -> str:
        """`name(setting=value, ...)`: unique within a matrix, short enough for a table."""
        shown = {k: v for k, v in sorted(self.settings.items()) if k not in self.implied}
        if not shown:
            return self.name
        text = f"{self.name}({', '.join(f'{k}={_short(v)}' for k, v in shown.items())})"
        if len(text) > _LONGEST_LABEL:
            text = f"{text[:_LONGEST_LABEL]}… {digest_of(self.settings)[:6]})"
        return printable(" ".join(text.splitlines()))


_LONGEST = 6
"""Longest list that a label writes out."""
_LONGEST_LABEL = 1_000


def _short(value: JsonValue) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list) and len(value) > _LONGEST:
        return f"[{len(value)}: {digest_of(value)[:6]}]"
    if isinstance(value, dict) and len(value) == 1:  # a rule with settings: as an item's label
        [(name, settings)] = value.items()
        if isinstance(settings, dict):
            return f"{name}({', '.join(f'{k}={_short(v)}' for k, v in sorted(settings.items()))})"
    return canonical_json(value).strip('"')


BASELINE = Item(name="none")
"""Training without transfer, with which every method is compared."""


IMAGES = Item(name="image_classification")
"""The task of a data set that names none."""


class DataSpec(Record):
    """A data set, its splits and its augmentation."""

    added_later: ClassVar = frozenset({"task", "fit"})

    task: Item = IMAGES
    """Task that its samples are for: a name, or `{name: {setting: value}}`."""
    source: Literal["digits", "hub", "parquet", "folder"]
    """`digits` of scikit-learn, a Hugging Face `hub` name, local tables (`parquet`, CSV, TSV or
    JSON lines), or an image `folder` with one sub-folder per class."""
    path: Line | None = None
    """Hub name, or folder (relative to the matrix file; `${NAME}` takes the environment's)."""
    image_column: Line | None = None
    """Column of the images; chosen automatically where it is unambiguous."""
    label_column: Line | None = None
    """Column of the labels; chosen automatically where it is unambiguous."""
    image_size: Annotated[Whole, Field(ge=4, le=LARGEST_IMAGE)] | None = None
    """Resize every image to this many pixels a side."""
    fit: Literal["crop", "stretch", "pad"] = "crop"
    """Treatment of images that are not square by `image_size`: `crop` keeps the middle of the long
    side, `stretch` changes the shape of what they show, `pad` adds black."""
    train_size: Count | None = None
    """Training images used, drawn class by class; all that remain when not given."""
    validation_size: Count | None = None
    """Images held out to choose by; a tenth of the training images when not given."""
    test_size: Count | None = None
    """Test images: a fifth of the data where the source has no test split, else all of it."""
    split_seed: Annotated[Whole, Field(ge=-LARGEST, le=LARGEST)] = 0
    """Seed of the splits; the same for every cell of a matrix."""
    augment: Augmentation = Augmentation()
    keep: Literal["auto", "memory", "store"] = "auto"
    """Place of the decoded images: in `memory`, or in a `store` on the disk that is read batch by
    batch; `auto`: in memory up to 512 MB. No weight depends on it, so it is in no key."""
    decoders: Annotated[Whole, Field(ge=1, le=MOST_THREADS)] | None = None
    """Processes that decode images for a store; as many as the cores when not given. In no key."""

    held: ClassVar = ("keep", "decoders")
    """Fields on which no weight depends; records leave them out at their default."""

    def _named(self) -> dict[str, Any]:
        fields = super()._named()
        for name in self.held:
            fields.pop(name, None)
        if "task" in fields:
            fields["task"]["settings"].pop(self.task.file_setting, None)
        return fields

    def __hash__(self) -> int:
        """Hash the canonical text: a task's settings are a dict."""
        return hash(self.canonical)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Take a task as its name, or as `{name: {setting: value}}`."""
        if not isinstance(value, dict) or "task" not in value:
            return value
        task = value["task"]
        if isinstance(task, str):
            task = {"name": task}
        elif isinstance(task, dict) and len(task) == 1 and "name" not in task:
            [(name, settings)] = task.items()
            task = {"name": name, "settings": settings or {}}
        elif isinstance(task, dict) and "name" not in task:
            named = ", ".join(sorted(map(str, task))) or "none"
            raise ValueError(f"task: give one as NAME or {{NAME: settings}}, not {named}")
        return {**value, "task": task}

    @model_serializer(mode="wrap")
    def _without_images(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the task of images and its usual fit unsaid, as records did without others."""
        fields: dict[str, Any] = plain(self)
        if self.task == IMAGES:
            fields.pop("task", None)
        for name in self.held:
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        if self.fit == "crop":
            fields.pop("fit", None)
        return fields


class TrainSpec(Record):
    """Training budget and optimiser, the same for every method of a matrix."""

    unsaid: ClassVar = ("warmup", "clip_norm", "label_smoothing", "mixup", "cutmix", "ema")
    """Fields that records leave out at their default, as records did when there were none."""
    added_later: ClassVar = frozenset({"views", *unsaid})

    epochs: Annotated[Whole, Field(ge=1, le=MOST_EPOCHS)]
    batch_size: Annotated[Whole, Field(ge=1, le=LARGEST_BATCH)] = 64
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[Number, Field(gt=0)] = 0.05
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; the Adam family keeps its own betas."""
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    schedule: Literal["constant", "cosine", "step", "exponential"] = "cosine"
    milestones: Annotated[
        tuple[Annotated[Number, Field(gt=0, lt=1)], ...], Field(max_length=MOST_MILESTONES)
    ] = (0.625, 0.75, 0.875)
    """Fractions of the training after which `step` multiplies the rate by `gamma`."""
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """Factor of the rate: per milestone for `step`, per epoch for `exponential`."""
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the training over which the rate rises linearly from 0 to its schedule."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    """Largest Euclidean norm of an update's gradient, which is scaled down to it."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of every label that is spread evenly over all classes (Szegedy et al., CVPR 2016)."""
    mixup: Annotated[Number, Field(ge=0.01, le=1000)] | None = None
    """Each sample is blended with a drawn one, and their labels alike, in shares from Beta(mixup,
    mixup) (Zhang et al., ICLR 2018)."""
    cutmix: Annotated[Number, Field(ge=0.01, le=1000)] | None = None
    """A box of each image is a drawn one's, whose area is drawn from Beta(cutmix, cutmix); labels
    share likewise (Yun et al., ICCV 2019). With `mixup`, each sample is given one of the two."""
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay per step of an average of the weights, which is what is validated and exported."""
    keep: Literal["last", "best"] = "last"
    """Weights that are exported: the last, or the best on the validation set."""
    views: Count | None = None
    """Augmentations per image through which epochs cycle, equal for all seeds, so that a teacher's
    outputs can be reused; None draws new ones in every epoch."""

    @property
    def mixes(self) -> bool:
        """True where samples are blended with others."""
        return self.mixup is not None or self.cutmix is not None

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = plain(self)
        for name in self.unsaid:
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        return fields


class TeacherOutputs(Record):
    """Compression of a teacher's outputs before any student sees them."""

    precision: Literal["fp32", "fp16"] = "fp32"
    """Precision to which they are rounded."""
    sampled: Annotated[Whole, Field(ge=1, le=32767)] | None = None
    """Draws from softmax(logits / temperature), with replacement, whose counts stand for it: an
    unbiased estimate (random sampling distillation, Anshumann et al., 2025); None keeps all."""
    temperature: Annotated[Number, Field(gt=0, le=1e6)] = 4.0
    """Temperature of the draws; a method must soften with the same."""


class NumericSpec(Record):
    """Numeric settings that decide the bits of a result; part of every cell's key."""

    added_later: ClassVar = frozenset({"compile", "outputs", "layout"})

    threads: Annotated[Whole, Field(ge=1, le=MOST_THREADS)] = 1
    """Threads of every process that computes for a cell, as they change the order of sums. A run
    with more threads than cores is refused."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward passes under autocast to bfloat16; weights and sums stay fp32."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device on which cells are trained."""
    compile: Flag = False
    """Run students and teachers through `torch.compile`: slow to start, then quicker per step."""
    outputs: TeacherOutputs | None = None
    """Compression of the teacher's outputs; None for none, and without effect without a teacher."""
    layout: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Memory layout of images and weights. `auto`: channels-last, except for networks with a layer
    that meets a known fault of oneDNN, and where the check of the arithmetic finds it wrong."""


class BlockTrain(Record):
    """Training of the blocks that replace a teacher's, each alone, before they are assembled.

    The defaults are those of the blockwise study (Blakeney et al., arXiv 2012.03096, and its code).
    """

    epochs: Annotated[Whole, Field(ge=1, le=MOST_EPOCHS)] = 30
    """Most passes over the training images, for every block."""
    batch_size: Annotated[Whole, Field(ge=1, le=LARGEST_BATCH)] = 64
    optimiser: Literal["rmsprop", "adam", "sgd"] = "rmsprop"
    lr: Annotated[Number, Field(gt=0)] = 2e-3
    decay: Annotated[Number, Field(gt=0, le=1)] = 0.96
    """Factor of the rate after every `decay_steps` steps."""
    decay_steps: Count = 3000
    splice_every: Count = 5
    """Epochs between two evaluations of a block in the teacher, on the validation set; the best
    weights are kept."""
    patience: Count = 2
    """Evaluations without a gain after which a block is done."""
    keep_within: Annotated[Number, Field(gt=0, le=1)] = 0.15
    """Largest loss of validation accuracy of the teacher with one replacement for that replacement
    to be used; otherwise the block stays the teacher's own."""


class Start(Composed):
    """Initial weights of a student that is assembled from a teacher's blocks."""

    teacher: Teacher
    train: BlockTrain


class Window(Record):
    """Part of a training in which a method's transfer counts; cross-entropy always does.

    Bounds are shares of the training, as in `Batch.progress`: a step is inside where start <=
    progress < end. Outside, no teacher is run and the loss is the cross-entropy alone (study D:
    Blakeney et al., arXiv 2211.00683).
    """

    start: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    end: Annotated[Number, Field(gt=0, le=1)] = 1.0
    scale: Literal["jump", "keep"] = "jump"
    """Weight of the cross-entropy outside. `jump`: its weight in the method, so that the loss's
    scale falls by the transfer terms; `keep`: the weight of all terms together, which the method's
    `scale` states: the sum of the weights where they weigh like against like, else 1."""

    def holds(self, progress: float) -> bool:
        """Return True where the transfer counts at a step."""
        return self.start <= progress < self.end

    @property
    def whole(self) -> bool:
        """True for the whole training, which is the same as no window."""
        return self.start == 0.0 and self.end == 1.0


WARMUP_SEED = 0
"""Seed of every warm-up: the pairs that are chosen after it are the same for all seeds."""


class Cell(Composed):
    """One training: a student, a method, a teacher (or none), data, a budget and a seed.

    A cell's weights are a function of `key` alone (on one kind of machine and one version of
    torch); exports and devices are not part of it.
    """

    added_later: ClassVar = frozenset({"start", "distill", "warmup", "pretrained", "from_file"})

    data: DataSpec
    student: Item
    method: Item
    teacher: Teacher | Ensemble | None = None
    """Teacher; None for methods that read none, so that they are trained once."""
    seed: Whole
    train: TrainSpec
    numeric: NumericSpec = NumericSpec()
    start: Start | None = None
    """Origin of the initial weights; None draws them from the seed."""
    distill: Window | None = None
    """Window of the transfer; None is the whole training, as for cells without a teacher."""
    warmup: Teacher | None = None
    """Student whose stages are compared with the teacher's to choose the pairs: this cell's own,
    trained without transfer from WARMUP_SEED. None for methods that do not choose so."""
    pretrained: Teacher | None = None
    """Training of the same student whose weights this one begins from, its head excepted; None
    begins from fresh weights, or as `start` says. Its name leaves out the seed."""
    from_file: WeightsFile | None = None
    """A user's file of weights that this training begins from, and how its parts learn."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a training that begins from none has not."""
        return without_unset(plain(self), "pretrained", "from_file")

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Every network that it may learn from."""
        if isinstance(self.teacher, Ensemble):
            return self.teacher.of
        return () if self.teacher is None else (self.teacher,)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name this cell everywhere."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """`student / method / teacher / seed` for people, with views and window if given."""
        teacher = f" ← {self.teacher.name}" if self.teacher else ""
        views = f" / views {self.train.views}" if self.train.views is not None else ""
        if (w := self.distill) is not None:
            views += f" / distill {w.start:g}-{w.end:g}" + (" keep" if w.scale == "keep" else "")
        if self.pretrained is not None:
            views += f" / from {self.pretrained.name}"
        if self.from_file is not None:
            views += f" / from {self.from_file.label}"
        return f"{self.student.label} / {self.method.label}{teacher} / seed {self.seed}{views}"


class Teacher(Composed):
    """A trained cell that others learn from; its method is `none`, or it has a teacher itself."""

    added_later: ClassVar = frozenset({"preprocess"})

    name: Name
    """Short name within the matrix; part of the key, as it names a row of the report."""
    cell: Cell
    checkpoint: str | None = None
    """A user's own weights for `cell.student`; then nothing is trained."""
    checkpoint_digest: str | None = None
    """SHA-256 (16 digits) of that file, so that other weights of the same name are another key."""
    preprocess: Preprocessing | None = None
    """Inputs that those weights were trained on; None for those of the data set's own networks."""
    expect: Figure | None = None
    """Figure of the metric below which the user is warned of the file; in no key, as no weight
    depends on it."""

    def _silent(self) -> set[str]:
        return super()._silent() | {"expect"}

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a teacher without a file has not."""
        return without_unset(plain(self), "preprocess", "expect")

    @property
    def weights_key(self) -> tuple[str, ...]:
        """Identity of its weights and inputs, whatever the teacher's name."""
        inputs = self.preprocess.canonical if self.preprocess else ""
        return self.cell.key, self.checkpoint or "", self.checkpoint_digest or "", inputs


class Ensemble(Composed):
    """Several teachers; at every step some are drawn and their logits averaged."""

    name: Name
    """Short name within the matrix; part of the key, as a teacher's is."""
    sample: Count
    """Teachers drawn per step, without replacement: a function of the cell's seed and the step, so
    that the students of a cohort share every pass. All members give the ensemble's average."""
    of: Annotated[tuple[Teacher, ...], Field(min_length=2)]
    """The members, in the order in which their logits are added."""


class Skip(Record):
    """A cell that cannot exist, with the reason; it is shown, not dropped."""

    cell: Cell
    reason: Words


class Plan(Record):
    """An expanded matrix: every cell once, every impossible pair with its reason."""

    name: Name
    base: str
    """Absolute folder that relative paths of the matrix start from; in no key."""
    cells: tuple[Cell, ...]
    skips: tuple[Skip, ...] = ()
    exports: tuple[ExportSpec, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
    source: SourceSpec = SourceSpec()
    blockwise: BlockRun = BlockRun()
    limits: Limits = Limits()
    pretrained_in: tuple[str, ...] = ()
    """Names of the matrices whose cells others begin from; no weight depends on them."""
    race: SeedRace | None = None
    """Race of seeds, if any; then `cells` are those of all seeds that may be needed."""
    taken: tuple[Words, ...] = ()
    """Lines on what each network takes of a user's file of weights; in no lock and no key."""

    @property
    def pretrainings(self) -> tuple[Teacher, ...]:
        """Distinct trainings whose weights others begin from, each after the one before it."""
        ordered: dict[str, Teacher] = {}

        def visit(pretrained: Teacher | None) -> None:
            if pretrained is not None and pretrained.canonical not in ordered:
                visit(pretrained.cell.pretrained)
                ordered[pretrained.canonical] = pretrained

        for cell in self.cells:
            visit(cell.pretrained)
        return tuple(ordered.values())

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Distinct teachers, members of ensembles included, each after those that taught it.

        Those that taught pretrainings are among them.
        """
        ordered: dict[str, Teacher] = {}

        def visit(teacher: Teacher) -> None:
            for above in teacher.cell.teachers:
                visit(above)
            ordered.setdefault(teacher.canonical, teacher)

        starts = [cell.start.teacher for cell in self.cells if cell.start]
        before = [pretrained.cell for pretrained in self.pretrainings]
        taught = [teacher for cell in (*self.cells, *before) for teacher in cell.teachers]
        for teacher in {id(teacher): teacher for teacher in starts + taught}.values():
            visit(teacher)
        return tuple(ordered.values())

    @property
    def warmups(self) -> tuple[Teacher, ...]:
        """Distinct warm-ups of its cells, of teachers that are taught here, and of pretrainings."""
        taught = [teacher.cell for teacher in self.teachers if teacher.checkpoint is None]
        taught += [pretrained.cell for pretrained in self.pretrainings]
        warmups = [cell.warmup for cell in (*self.cells, *taught) if cell.warmup is not None]
        return tuple({warmup.canonical: warmup for warmup in warmups}.values())


for _model in (Start, Cell, Teacher, Ensemble, Plan, Skip):
    _model.model_rebuild()
