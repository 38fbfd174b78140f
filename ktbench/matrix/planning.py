"""Expand a matrix into a plan: every cell once, every impossible pair with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ktbench import catalogue
from ktbench.catalogue.transfer_window import misfit
from ktbench.data import DataInfo, describe
from ktbench.matrix.axes import Axes, AxesResolver
from ktbench.matrix.cell_settings import numeric_of, with_warmup
from ktbench.matrix.equal_budget import EqualBudget
from ktbench.matrix.exports import dynamic
from ktbench.matrix.file_problems import KeyPath, Problem
from ktbench.matrix.include_rules import Draft, Rules
from ktbench.matrix.models import Matrix
from ktbench.matrix.size_limits import batch_problems, sample_problems, size_problems
from ktbench.matrix.starts import Starts
from ktbench.networks.first_weights import look_at_file
from ktbench.networks.outline import Outline, begun_from, outline, own_names
from ktbench.records import (
    OWN_ERRORS,
    Begun,
    Cell,
    DataSpec,
    Ensemble,
    Item,
    KtbenchError,
    Plan,
    Preprocessing,
    SeedRace,
    Skip,
    Start,
    Teacher,
    WeightsFile,
    one_line,
)
from ktbench.records.printable import folder_objection
from ktbench.supervision import mark
from ktbench.tasks._contract import Signature
from ktbench.transfer_methods._contract import Needs, Setting, Shapes, TransferMethod


def find_problems(matrix: Matrix) -> list[Problem]:
    """Find all problems of a matrix that show before its data is read."""
    return [*_name_problems(matrix), *_expanded(matrix)[0].problems]


def _name_problems(matrix: Matrix) -> Iterator[Problem]:
    """Refuse the file's name as the matrix's where it cannot name a folder."""
    if matrix.name is None and (reason := folder_objection(name_of(matrix))) is not None:
        message = f"is the file's name when not given, and that {reason.partition(':')[0]}"
        yield Problem(("name",), f"{message}: give the matrix a name")


def name_of(matrix: Matrix) -> str:
    """Name of the report and its folder: the matrix's own, or the file's."""
    return matrix.name or Path(matrix.origin.file).stem


def _expanded(matrix: Matrix) -> tuple[AxesResolver, Axes, list[Draft]]:
    resolver = AxesResolver(matrix, size_problems(matrix))
    if resolver.problems:
        return resolver, Axes((), (), (), (), ()), []
    axes = resolver.axes()
    drafts = [] if resolver.problems else Rules(resolver, axes).drafts()
    return resolver, axes, drafts


def plan(matrix: Matrix) -> Plan:
    """Expand a matrix into its cells, in the order of the file, and its skips.

    Reads the labels and a few images of the data set. Raises MatrixError.
    """
    resolver, axes, drafts = _expanded(matrix)
    if not resolver.problems:
        feasibility = _Feasibility(matrix)
        resolver.problems += feasibility.data_problems(axes.teachers, resolver.places)
    if resolver.problems:
        raise matrix.origin.error(resolver.problems)
    starts = Starts.of(matrix, plan)
    if lacking := list(starts.problems(matrix, drafts)):
        raise matrix.origin.error(lacking)
    cells: list[Cell] = []
    skips: list[Skip] = []
    begun = ((draft, start) for draft in drafts for start in starts.of_draft(draft))
    for draft, start in begun:
        cell = Cell(
            data=matrix.data,
            student=draft.student,
            method=draft.method,
            teacher=draft.teacher,
            seed=draft.seed,
            train=draft.train,
            numeric=numeric_of(matrix.numeric, draft.teacher),
            start=resolver.start(draft.student),
            distill=draft.window,
            pretrained=start,
            from_file=draft.start if isinstance(draft.start, WeightsFile) else None,
        )
        cell = with_warmup(cell, feasibility.base)
        reason = feasibility.reason(cell)
        if reason is None:
            controlled = resolver.controlled_start(draft.student)
            if controlled is not None and not draft.has_own_epochs:
                cell = feasibility.controlling(cell, controlled)
            cells.append(cell)
        else:
            skips.append(Skip(cell=cell, reason=reason))
    return Plan(
        name=name_of(matrix),
        base=feasibility.base,
        cells=tuple(cells),
        skips=tuple(skips),
        exports=dynamic(axes.exports) if feasibility.reads_numbers() else axes.exports,
        devices=axes.devices,
        source=matrix.teacher.spec,
        blockwise=matrix.blockwise.run,
        limits=matrix.limits,
        pretrained_in=tuple(name_of(other) for other in matrix.others.values()),
        race=matrix.seeds if isinstance(matrix.seeds, SeedRace) else None,
        taken=feasibility.taken,
    )


@dataclass
class _Feasibility:
    """Decides whether cells can be trained, and answers each question once."""

    matrix: Matrix
    _reasons: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    _outlines: dict[tuple[str, str, bool], Outline | str] = field(default_factory=dict)
    _teachers: dict[str, str | None] = field(default_factory=dict)
    _epochs: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Epochs of controls."""
    _begun: dict[tuple[str, str, str], Begun | str] = field(default_factory=dict)
    """Tensors that a network takes of a file, by student, file and data; or why it takes none."""

    @property
    def taken(self) -> tuple[str, ...]:
        """Lines on what each network takes of a file."""
        told = {(student, file): begun for (student, file, _), begun in self._begun.items()}
        return tuple(
            f"{student} from {WeightsFile.model_validate_json(file).label}: {begun.line}"
            for (student, file), begun in told.items()
            if isinstance(begun, Begun)
        )

    @property
    def base(self) -> str:
        """Absolute folder of the matrix file."""
        return str(Path(self.matrix.origin.base).absolute())

    def data_problems(
        self, teachers: Sequence[Teacher | Ensemble], where: Mapping[str, KeyPath]
    ) -> list[Problem]:
        """Check the data of the students and of the teachers."""
        places: list[tuple[KeyPath, DataSpec]] = [(("data",), self.matrix.data)]
        single = [one for t in teachers for one in (t.of if isinstance(t, Ensemble) else (t,))]
        places += [(where[one.name], one.cell.data) for one in single]
        problems = []
        for path, data in places:
            try:
                info = self._info(data)
            except KtbenchError as error:
                problems.append(Problem(path, str(error).removeprefix("data: ")))
                if data == self.matrix.data:
                    break
            except OSError as error:
                problems.append(Problem(path, f"{error.filename}: {error.strerror}"))
                break
            else:
                if path == ("data",) or data != self.matrix.data:
                    problems += [p.under(*path) for p in sample_problems(data, info)]
        return (
            problems
            or list(batch_problems(self.matrix, self._info(self.matrix.data)))
            or [p for one in single for p in self._preprocess_problems(one, where[one.name])]
        )

    def _preprocess_problems(self, teacher: Teacher, path: KeyPath) -> Iterator[Problem]:
        """Refuse inputs that cannot be made of the data, or for networks that read no images."""
        try:
            self._signature(teacher.preprocess)
        except KtbenchError as error:
            yield Problem((*path, "preprocess"), str(error))

    def reads_numbers(self) -> bool:
        """Tell if networks read whole numbers, so that their int8 files are dynamic."""
        inputs = self._info(self.matrix.data).signature.inputs
        return any(each.below is not None for each in inputs)

    def reason(self, cell: Cell) -> str | None:
        """Say in one sentence why a cell cannot be trained, or None."""
        question = _about(cell)
        if question not in self._reasons:
            self._reasons[question] = self._reason(cell)
        return self._reasons[question]

    def controlling(self, cell: Cell, start: Start) -> Cell:
        """Return a cell trained for as long as the student that it controls."""
        question = _about(cell)
        if question not in self._epochs:
            budget = EqualBudget(self.matrix.blockwise.control, self.base)
            self._epochs[question] = budget.epochs(cell, start, self._info(cell.data))
        train = cell.train.model_copy(update={"epochs": self._epochs[question]})
        return cell.model_copy(update={"train": train})

    def _reason(
        self, cell: Cell, *, trained: bool = True, own: Preprocessing | None = None
    ) -> str | None:
        """Say why a cell cannot be trained, or a file's network not be run on its `own` inputs."""
        if reason := _unseen_code(cell):
            return reason
        for teacher in cell.teachers:
            if reason := self._teacher(teacher):
                return f"teacher {teacher.name}: {reason}"
        if cell.start is not None and (reason := self._teacher(cell.start.teacher)):
            return f"teacher {cell.start.teacher.name}: {reason}"
        student = self._outline(cell.student, own, trained=trained)
        if isinstance(student, str):
            return student
        if reason := catalogue.refused(cell.method.label):
            return f"{cell.method.label} cannot be asked: {reason}"
        mark(cell.method.label, "asking the method", cell.method.label)
        try:
            return self._method_objection(cell, student)
        except OWN_ERRORS as error:  # a user's own method may raise anything
            if not catalogue.is_own(cell.method.name):
                raise
            return f"method {cell.method.name} failed: {one_line(error)}"

    def _method_objection(self, cell: Cell, student: Outline) -> str | None:
        """Say in one sentence why the method does not suit the pair, or None."""
        kind = catalogue.method(cell.method.name, self.base)
        config = catalogue.method_config(cell.method.name, cell.method.settings, self.base)
        info = self._info(cell.data)
        teachers = [self._shapes(teacher) for teacher in cell.teachers]
        alone = Setting(
            student=student.shapes,
            teacher=None,
            num_classes=info.num_classes,
            train_size=info.train_size,
            batch_size=cell.train.batch_size,
        )
        settings = [replace(alone, teacher=shapes) for shapes in teachers] or [alone]
        reasons = (kind.incompatible(config, setting) for setting in settings)
        return (
            next((reason for reason in reasons if reason is not None), None)
            or _training_objection(cell)
            or _sampling_objection(cell, kind, config)
            or _ensemble_objection(cell, kind.needs(config), teachers)
            or _warmup_objection(cell)
            or _blocks_objection(cell)
            or _pretrained_objection(cell, self._info, self.base)
            or self._file_objection(cell)
            or _window_objection(cell, kind, config, settings[0])
        )

    def _file_objection(self, cell: Cell) -> str | None:
        """Say why a cell cannot begin from a user's file of weights, or None."""
        given = cell.from_file
        if given is None:
            return None
        if catalogue.teacher_setting(cell.student.name) is not None:
            return f"start: {given.label}: a student made of blocks begins from them"
        question = (cell.student.label, given.model_dump_json(), cell.data.canonical)
        if question not in self._begun:
            mark(cell.student.label, "looking at its first weights", given.label)
            signature = self._info(cell.data).signature
            try:
                begun: Begun | str = look_at_file(cell.student, signature, self.base, given)
            except KtbenchError as error:
                begun = f"start: {error}"
            self._begun[question] = begun
        begun = self._begun[question]
        return begun if isinstance(begun, str) else None

    def _shapes(self, teacher: Teacher) -> Shapes:
        """Shapes of a teacher that can be trained."""
        outlined = self._outline(teacher.cell.student, teacher.preprocess, trained=False)
        assert isinstance(outlined, Outline)
        return outlined.shapes

    def _teacher(self, teacher: Teacher) -> str | None:
        """Say why a teacher cannot be used, its own training included, or None."""
        if teacher.canonical not in self._teachers:
            trained = teacher.checkpoint is None
            reason = self._reason(teacher.cell, trained=trained, own=teacher.preprocess)
            self._teachers[teacher.canonical] = reason
        return self._teachers[teacher.canonical]

    def _outline(
        self, item: Item, own: Preprocessing | None = None, *, trained: bool = True
    ) -> Outline | str:
        signature = self._signature(own)
        question = (item.label, signature.size, trained)
        if question not in self._outlines:
            try:
                self._outlines[question] = outline(item, signature, self.base, trained=trained)
            except KtbenchError as error:
                self._outlines[question] = str(error)
        return self._outlines[question]

    def _info(self, data: DataSpec) -> DataInfo:
        return describe(data, Path(self.base))

    def _signature(self, own: Preprocessing | None) -> Signature:
        """Signature of the matrix's data, as a network of its own preprocessing sees it."""
        return self._info(self.matrix.data).for_network(self.matrix.data, own).signature


def _about(cell: Cell) -> tuple[str, ...]:
    """Return what sets a cell apart from others of the matrix, its seed left out."""
    return (
        cell.student.label,
        cell.method.label,
        cell.teacher.canonical if cell.teacher else "",
        cell.train.canonical,
        cell.distill.canonical if cell.distill else "",
        cell.pretrained.name if cell.pretrained else "",
        cell.from_file.canonical if cell.from_file else "",
    )


def _unseen_code(cell: Cell) -> str | None:
    """Say which user's code keeps a cell from being looked at within `catalogue.no_code`."""
    for name in (*own_names(cell.student), cell.method.name):
        if catalogue.unseen(name):
            return f"{name}: {catalogue.NOT_LOOKED_AT}"
    return None


def _training_objection(cell: Cell) -> str | None:
    """Say why the cell's samples cannot be trained on as its `train` says, or None."""
    problem = catalogue.task(cell.data.task).training_problem(cell.train)
    return None if problem is None else f"train.{problem[0]} {problem[1]}"


def _sampling_objection(cell: Cell, kind: type[TransferMethod], config: object) -> str | None:
    """Say why a method cannot learn from a sample of the teacher's softened logits, or None."""
    outputs = cell.numeric.outputs
    if outputs is None or outputs.sampled is None:
        return None
    if not kind.needs(config).only_logits:
        return "numeric.outputs.sampled leaves logits alone, and the method reads more"
    softened = kind.soft_targets(config)
    if softened is None:
        return (
            "numeric.outputs.sampled is unbiased only for methods that are linear in the teacher's "
            "softened probabilities, and this one is not"
        )
    if softened != outputs.temperature:
        return (
            f"the teacher is sampled at temperature {outputs.temperature:g} (numeric.outputs), and "
            f"the method softens with {softened:g}"
        )
    return None


def _ensemble_objection(cell: Cell, needs: Needs, shapes: Sequence[Shapes]) -> str | None:
    """Say why a method cannot learn from an ensemble, or None."""
    if not isinstance(cell.teacher, Ensemble) or needs.only_logits:
        return None
    name, sample = cell.teacher.name, cell.teacher.sample
    if sample > 1:
        return f"teacher {name}: logits of {sample} are averaged, and the method reads more"
    if len({(of.stages, of.embedding, of.stem, of.attentions) for of in shapes}) > 1:
        return f"teacher {name}: its members differ in shape, and the method reads their stages"
    return None


def _warmup_objection(cell: Cell) -> str | None:
    """Say why a cell's pairs cannot be chosen after a warm-up, or None."""
    if cell.warmup is None:
        return None
    if isinstance(cell.teacher, Ensemble):
        return f"teacher {cell.teacher.name}: pairs by similarity need one teacher, for all seeds"
    if cell.start is not None or cell.pretrained is not None or cell.from_file is not None:
        origin = "blocks" if cell.start is not None else "another training"
        origin = "a file" if cell.from_file is not None else origin
        return (
            f"pairs by similarity need a student that begins from fresh weights, not from {origin}"
        )
    return None


def _pretrained_objection(
    cell: Cell, info: Callable[[DataSpec], DataInfo], base: str
) -> str | None:
    """Say why a cell cannot begin from another training's weights, or None."""
    if cell.pretrained is None:
        return None
    before = cell.pretrained.cell
    if cell.start is not None or catalogue.teacher_setting(cell.student.name) is not None:
        return f"start: {cell.pretrained.name}: a student made of blocks begins from them"
    ours, theirs = (info(each.data).signature for each in (cell, before))
    if ours.reads and theirs.reads and ours.reads != theirs.reads:
        return (
            f"start: {cell.pretrained.name} reads other word pieces: name its texts in "
            "data.task.vocabulary_of, with the same vocabulary and lowercase"
        )
    if own_names(cell.student):
        return None  # it is seen when its weights are taken
    begun = begun_from(cell.student, ours, before.student, theirs, base)
    if not begun.taken:
        return f"start: {cell.pretrained.name}: none of its weights fits this network"
    return None


def _blocks_objection(cell: Cell) -> str | None:
    """Say why a task's students cannot be made of blocks, or None."""
    metric = catalogue.task(cell.data.task).metric
    if cell.start is not None and cell.start.teacher.preprocess is not None:
        return (
            f"teacher {cell.start.teacher.name} has a preprocess, and a student made of its blocks "
            "reads the data's own inputs: finish such a teacher on them first"
        )
    if cell.start is None or (metric.better, metric.digits) == ("more", None):
        return None
    return f"blocks are kept by what share they lose of an accuracy, not of {metric.name}"


def _window_objection(
    cell: Cell, kind: type[TransferMethod], config: object, setting: Setting
) -> str | None:
    """Say why a method's transfer cannot be limited to the cell's window, or None.

    The method is built to learn its phases. The similarity of stages is unknown without weights, so
    all are taken to be alike: no phase depends on it.
    """
    if cell.distill is None or setting.teacher is None:
        return None
    table = ((1.0,) * len(setting.student.stages),) * len(setting.teacher.stages)
    steps = cell.train.epochs * max(1, setting.train_size // setting.batch_size)
    with torch.random.fork_rng(devices=[]):
        try:
            phases = kind(config, replace(setting, similarity=table)).phases()
        except OWN_ERRORS:  # an error of a user's own method is reported when it is trained
            return None
    return misfit(cell.distill, kind.scale(config), phases, steps=steps)
