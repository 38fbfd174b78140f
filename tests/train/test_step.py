"""The training step: what a loss that is not finite costs, bf16, compiled networks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks._networks import Ours, Pair, Plain, batches, cell_of, images_of, network
from benchmarks.augment import same_pixels
from ktbench import catalogue
from ktbench.data import Stream
from ktbench.networks.weights import load_student
from ktbench.records import Cell, Checkpoint, Failure, Item, NumericSpec, TrainSpec
from ktbench.teacher.live import Live
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.loss_log import READ_EVERY, Diverged, LossLog
from tests.support import method_cases as cases
from tests.support.optional_tools import skip_or_fail
from tests.support.running import ROOT, started, write_matrix
from tests.support.training import HERE, TRAIN, brief, cell, digits, places_in, teacher, train

BF16 = NumericSpec(precision="bf16")

# ---------------------------------------------------------------- terms

FAILING = """
import torch
from dataclasses import dataclass
from torch.nn import functional
from ktbench.transfer_methods._contract import Needs, TransferMethod

@dataclass(frozen=True)
class Config:
    step: int = 4
    raises: bool = False

class Failing(TransferMethod):
    Config = Config

    @classmethod
    def needs(cls, config):
        return Needs()

    def loss(self, student, teacher, batch):
        if self.config.raises and batch.step > self.config.step:
            raise RuntimeError("cannot go on")
        ce = functional.cross_entropy(student.logits, batch.labels)
        wrong = batch.step - self.config.step
        return {"good": ce / 0.0 if wrong == 1 else ce, "bad": ce / 0.0 if wrong == 0 else ce}
"""


def _failing(root: Path, **settings: Any) -> Cell:
    (root / "failing.py").write_text(FAILING)
    return cell(f"{root / 'failing.py'}:Failing", settings=settings, teacher=None)


@pytest.mark.parametrize("raises", [False, True], ids=["goes on", "then raises"])
@pytest.mark.slow
def test_a_term_that_was_not_finite_is_named_with_its_own_step(
    raises: bool, tmp_path: Path
) -> None:
    """Step 4 is the second of the second epoch; it is found when that epoch's terms are read."""
    [failure] = train([_failing(tmp_path, raises=raises)], tmp_path)
    assert isinstance(failure, Failure)
    assert failure.step == 4
    assert failure.reason == (
        "loss term 'bad' became inf at step 4 (epoch 2): "
        "lower the learning rate or the term's weight"
    )


def test_a_diverged_student_goes_on_for_no_more_than_a_few_steps() -> None:
    terms = LossLog()
    values = [1.0, float("nan"), *[float("inf")] * READ_EVERY]
    with pytest.raises(Diverged, match="'a' became nan at step 1") as caught:
        for step, value in enumerate(values):
            terms.add({"a": torch.tensor(value)}, step=step, epoch=0)
            if terms.due:
                terms.check()
    assert (step, caught.value.step) == (READ_EVERY - 1, 1)


def test_terms_are_averaged_over_an_epochs_steps_whatever_phase_they_came_in() -> None:
    terms = LossLog()
    terms.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, step=0, epoch=0)
    terms.add({"b": torch.tensor(4.0)}, step=1, epoch=0)
    terms.add({"b": torch.tensor(0.1), "c": torch.tensor(8.0)}, step=2, epoch=0)
    terms.add({}, step=3, epoch=0)
    tenth = float(torch.tensor(0.1))
    assert terms.means() == {"a": 1 / 3, "b": (6.0 + tenth) / 3, "c": 8 / 3}
    assert terms.means() == {}, "a new epoch begins"


# ---------------------------------------------------------------- shapes

BARE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        super().__init__(
            nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
        )
"""


def _own(root: Path, **settings: Any) -> Item:
    (root / "bare.py").write_text(BARE)
    return Item(name=f"{root / 'bare.py'}:Net", settings={"stages": ["2"], **settings})


@pytest.mark.slow
def test_a_network_without_preactivations_is_refused_where_they_are_read(tmp_path: Path) -> None:
    """On either side, by training as by planning."""
    own = _own(tmp_path)
    [failure] = train([cell("ab", student=own)], tmp_path)
    assert isinstance(failure, Failure)
    assert "the student shows no pre-activations" in failure.reason
    network = catalogue.build_student(own.name, own.settings, num_classes=10, in_channels=1)
    [failure] = train_cohort(
        [cell("ab")],
        TrainingContext(
            dataset=digits(),
            teacher=Live(network, trained_on=digits(), dataset=digits()),
            places=places_in(tmp_path),
            base=HERE,
        ),
    )
    assert isinstance(failure, Failure)
    assert "the teacher shows no pre-activations" in failure.reason


# ---------------------------------------------------------------- bf16


def _under(numeric: NumericSpec, root: Path) -> Live:
    """The shared teacher under other numeric settings; its own statistics."""
    shared = teacher(root)
    made = Live(shared._network, trained_on=digits(), dataset=digits(), numeric=numeric)
    made._moved = shared._moved
    return made


def _trained(cells: Sequence[Cell], root: Path, **options: Any) -> list[Checkpoint]:
    numeric = cells[0].numeric
    taught = any(one.teacher is not None for one in cells)
    made = train_cohort(
        cells,
        TrainingContext(
            dataset=digits(),
            teacher=_under(numeric, root) if taught else None,
            places=places_in(root),
            base=HERE,
            **options,
        ),
    )
    for one, outcome in zip(cells, made, strict=True):
        assert isinstance(outcome, Checkpoint), f"{one.label}: {outcome}"
    return [outcome for outcome in made if isinstance(outcome, Checkpoint)]


def _bf16(name: str) -> Cell:
    return brief(name).model_copy(update={"numeric": BF16})


@pytest.fixture(scope="module")
def in_bf16(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Every method that reads a teacher, trained in bf16 as one cohort."""
    root = tmp_path_factory.mktemp("bf16")
    names = [name for name in cases.for_maps() if brief(name).teacher is not None]
    return dict(zip(names, _trained([_bf16(n) for n in names], root), strict=True))


@pytest.mark.slow
def test_every_method_trains_in_bf16_to_weights_of_its_own(
    in_bf16: dict[str, Checkpoint], tmp_path: Path
) -> None:
    assert len({made.digest for made in in_bf16.values()}) == len(in_bf16)
    rest = [name for name in cases.for_maps() if name not in in_bf16]
    for name in rest:
        [made] = _trained([_bf16(name)], tmp_path)
        assert made.digest != _trained([brief(name)], tmp_path)[0].digest, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kd", "fitnet", "crd"])
def test_a_bf16_cell_has_the_same_weights_alone_in_a_cohort_and_after_a_stop(
    name: str, in_bf16: dict[str, Checkpoint], tmp_path: Path
) -> None:
    [alone] = _trained([_bf16(name)], tmp_path / "alone")
    assert alone.digest == in_bf16[name].digest
    told: list[object] = []

    def stop_in_the_second_epoch(progress: object) -> None:
        told.append(progress)
        if len(told) == 2:
            raise InterruptedError

    root = tmp_path / "stopped"
    with pytest.raises(InterruptedError):
        _trained([_bf16(name)], root, report=stop_in_the_second_epoch, checkpoint_seconds=0.0)
    [resumed] = _trained([_bf16(name)], root)
    assert resumed.digest == alone.digest


@pytest.mark.slow
def test_bf16_weights_are_single_precision_and_validated_as_they_are_exported(
    tmp_path: Path,
) -> None:
    asked = cell("kd", numeric=BF16)
    [made] = _trained([asked], tmp_path)
    student = load_student(asked, tmp_path / made.path, num_classes=10, in_channels=1, base=HERE)
    kinds = {value.dtype for value in student.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}
    with torch.inference_mode():
        logits = student(digits().inputs(digits().raw("validation")))
    right = (logits.argmax(1) == digits().labels("validation")).float().mean()
    assert made.accuracy.validation_last == pytest.approx(float(right))


def test_a_teacher_in_bf16_answers_in_single_precision_near_its_own(tmp_path: Path) -> None:
    stream = Stream(digits(), 0, 32)
    from ktbench.networks.numeric import EVERYTHING
    from ktbench.train.device_placement import make_probe

    probe = make_probe(stream)
    exact = teacher(tmp_path).outputs(probe, EVERYTHING)
    rounded = _under(BF16, tmp_path).outputs(probe, EVERYTHING)
    assert not torch.equal(exact.logits, rounded.logits)
    for theirs, ours in (
        (exact.logits, rounded.logits),
        *zip(exact.stages, rounded.stages, strict=True),
        *zip(exact.preacts, rounded.preacts, strict=True),
    ):
        assert ours.dtype == torch.float32
        assert ours.stride() == theirs.stride()
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.1)


@pytest.mark.slow
def test_a_transformer_trains_in_bf16(tmp_path: Path) -> None:
    tokens = Item(name="vit_tiny", settings={"width": 0.25, "patch": 4})
    asked = cell("kd", student=tokens, numeric=BF16, train=TRAIN.model_copy(update={"epochs": 1}))
    [made] = _trained([asked], tmp_path)
    [loss] = pq.read_table(tmp_path / made.curves)["loss_kd"].to_pylist()
    assert 0 < loss < 100


# ---------------------------------------------------------------- compiled

COMPILED = NumericSpec(compile=True)
COMPILED_TRAIN = TRAIN.model_copy(update={"batch_size": 16})  # as many as the probe: one shape
OLD_TORCH = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning:torch.*")
"""The compiler's own modules, as they are imported."""
LAYERS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, width=8):
        layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes)
        super().__init__(nn.Flatten(), *layers)
"""


@pytest.fixture
def compiler() -> None:
    """A test that compiles needs a C++ compiler."""
    if shutil.which("g++") is None and not os.environ.get("CXX"):
        skip_or_fail("this test needs a C++ compiler")


RESUMED = """
import sys
from pathlib import Path
from tests.train.test_step import _compiled_outcomes
print(_compiled_outcomes(Path(sys.argv[1]), "alone", ["kd"])[0].digest)
"""


def _compiled_outcomes(
    root: Path, folder: str, methods: list[str], **options: Any
) -> list[Checkpoint]:
    """Cells of a small network of one's own, taught by an untrained one of its kind."""
    own = _own(root)
    torch.manual_seed(0)
    network = catalogue.build_student(own.name, own.settings, num_classes=10, in_channels=1)
    made = train_cohort(
        [cell(method, student=own, numeric=COMPILED, train=COMPILED_TRAIN) for method in methods],
        TrainingContext(
            dataset=digits(),
            teacher=Live(network, trained_on=digits(), dataset=digits(), numeric=COMPILED),
            places=places_in(root / folder),
            base=HERE,
            **options,
        ),
    )
    assert all(isinstance(one, Checkpoint) for one in made), made
    return [one for one in made if isinstance(one, Checkpoint)]


@pytest.mark.slow
@OLD_TORCH
@pytest.mark.usefixtures("compiler")
def test_a_compiled_cell_has_the_same_weights_alone_in_a_cohort_and_resumed_elsewhere(
    tmp_path: Path,
) -> None:
    """A cohort's other methods ask the teacher for more than one alone does."""
    _, together = _compiled_outcomes(tmp_path, "together", ["attention", "kd"])
    told: list[object] = []

    def stop_in_the_second_epoch(progress: object) -> None:
        told.append(progress)
        if len(told) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        _compiled_outcomes(
            tmp_path, "alone", ["kd"], report=stop_in_the_second_epoch, checkpoint_seconds=0.0
        )
    # Another process that writes the code again: what was compiled here must not be needed.
    forgetful = {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}
    answer = subprocess.run(
        [sys.executable, "-c", RESUMED, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **forgetful, "PYTHONPATH": str(ROOT)},
    )
    assert answer.stdout.strip() == together.digest


@pytest.mark.slow
@OLD_TORCH
@pytest.mark.usefixtures("compiler")
def test_a_cohort_of_many_architectures_is_compiled_to_the_last(tmp_path: Path) -> None:
    """The compiler itself gives up, silently, after eight variants of one piece of code."""
    from torch._dynamo.utils import counters

    (tmp_path / "layers.py").write_text(LAYERS)
    cells = [
        cell(
            "none",
            student=Item(
                name=f"{tmp_path / 'layers.py'}:Net", settings={"arguments": {"width": w}}
            ),
            train=TrainSpec(epochs=1, batch_size=48),
            numeric=COMPILED,
        )
        for w in range(3, 12)
    ]
    before = counters["stats"]["unique_graphs"]
    _trained(cells, tmp_path)
    assert counters["stats"]["unique_graphs"] - before == len(cells)


@pytest.mark.slow
def test_a_missing_compiler_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", numeric={"compile": True})
    process = started(
        "run",
        matrix,
        "--results",
        tmp_path / "out",
        cache=tmp_path / "cache",
        environment={"PATH": str(tmp_path), "CXX": ""},
    )
    _, told = process.communicate()
    assert process.returncode == 2, told
    assert told.splitlines()[-1].startswith("ktbench: numeric.compile needs a C++ compiler")
    assert "install g++" in told


# ---------------------------------------------------------------- the benchmarks' own sides


@pytest.mark.slow
def test_the_plain_loop_and_ours_train_to_the_same_weights() -> None:
    """Otherwise their times are not of the same work."""
    pair = Pair(teacher="resnet14", student="resnet8", image=16, batch=16, images=80)
    data = images_of(pair)
    asked = cell_of(pair, data, method=Item(name="kd"), numeric=NumericSpec())
    ours = Ours(asked, data, network(pair.teacher, pair.classes, seed=1))
    student = network(pair.student, pair.classes)
    student.load_state_dict(ours.trainee.student.state_dict())
    plain = Plain(asked, student, network(pair.teacher, pair.classes, seed=1))
    start = {k: v.clone() for k, v in student.state_dict().items()}
    for batch in batches(data, pair, 4):
        ours.step(batch)
        plain.step(batch.inputs.contiguous(), batch.labels)
    for name, value in ours.trainee.student.state_dict().items():
        torch.testing.assert_close(value, student.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert not torch.equal(start["head.weight"], student.state_dict()["head.weight"])


def test_augmenting_image_by_image_gives_the_same_pixels() -> None:
    data = images_of(Pair(images=64))
    pixels = data.raw("train").permute(0, 2, 3, 1).contiguous().numpy()
    stream = Stream(data, 0, 64)
    assert same_pixels(data, stream, pixels, stream.order(0)[0])
