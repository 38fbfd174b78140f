"""Every method trains real networks, and its cell's weights are a function of the cell alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ktbench import catalogue
from ktbench.data import Stream
from ktbench.networks.weights import load_student
from ktbench.records import Checkpoint, Failure, Item, Teacher, TrainSpec
from ktbench.students._contract import Features
from ktbench.teacher.live import Live
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.device_placement import make_probe
from ktbench.train.method_setup import similarity
from ktbench.train.start import TraineeBuilder
from tests.support import method_cases as cases
from tests.support.training import (
    BRIEF,
    DATA,
    HERE,
    SAME_WIDTH,
    SUM,
    brief,
    cell,
    digits,
    places_in,
    teacher,
    teacher_cell,
    train,
)

pytestmark = pytest.mark.slow

# State between steps beside weights: memories, running figures, schedules, several optimisers.
STATEFUL = ("crd", "factor", "ofd", "combined", "dkd")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Each method's cell trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    found = {}
    for name in cases.for_maps():
        [made] = train([brief(name)], root)
        assert isinstance(made, Checkpoint), f"{name}: {made}"
        found[name] = made
    return found


def test_every_method_trains_a_real_network_to_weights_of_its_own(
    alone: dict[str, Checkpoint],
) -> None:
    assert len({made.digest for made in alone.values()}) == len(alone)
    plain = alone["none"].cost
    for name, made in alone.items():
        assert made.cost.flops > 0
        taught = catalogue.method(name).needs(catalogue.method_config(name, {}))
        assert bool(taught) == (made.cost.teacher_flops > plain.teacher_flops), name


def test_every_method_has_the_same_weights_in_a_cohort(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    together = [name for name in alone if brief(name).teacher is not None]
    made = train([brief(name) for name in together], tmp_path)
    for name, outcome in zip(together, made, strict=True):
        assert isinstance(outcome, Checkpoint)
        assert outcome.digest == alone[name].digest, name


@pytest.mark.parametrize("name", STATEFUL)
def test_a_method_with_a_memory_goes_on_to_the_same_weights(
    name: str, alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    calls = 0

    def stop_in_the_second_epoch(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train([brief(name)], tmp_path, report=stop_in_the_second_epoch, checkpoint_seconds=0.0)
    [made] = train([brief(name)], tmp_path)
    assert isinstance(made, Checkpoint)
    assert made.digest == alone[name].digest


def test_a_phase_without_the_teacher_costs_nothing_of_the_teacher(
    alone: dict[str, Checkpoint],
) -> None:
    always = alone["kd"].cost.teacher_flops
    for name in ("fitnet", "fsp", "ab"):
        assert 0 < alone[name].cost.teacher_flops <= 0.5 * always, name


def test_stages_before_activation_are_paired_by_a_similarity_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tables = []

    def kept(teacher: Features, student: Features) -> tuple[tuple[float, ...], ...]:
        tables.append(similarity(teacher, student))
        return tables[-1]

    monkeypatch.setattr("ktbench.train.method_setup.similarity", kept)
    [made] = train([cell("ab", settings={"pairs": "similarity_untrained"}, train=BRIEF)], tmp_path)
    assert isinstance(made, Checkpoint)
    assert len(tables) == 1


# ---------------------------------------------------------------- networks of other kinds

CONVOLUTIONS = Item(name="resnet8", settings={"width": 0.5})
TOKENS = Item(name="vit_tiny", settings={"width": 0.25, "patch": 4})
FEW = DATA.model_copy(update={"train_size": 40, "validation_size": 20, "test_size": 20})
ONE_STEP = TrainSpec(epochs=1, batch_size=40, lr=0.02)


def live(item: Item) -> Live:
    """An untrained teacher."""
    network = catalogue.build_student(item.name, item.settings, num_classes=10, in_channels=1)
    few = digits(FEW.model_dump_json())
    return Live(network, trained_on=few, dataset=few)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(CONVOLUTIONS, TOKENS), (TOKENS, CONVOLUTIONS), (TOKENS, TOKENS)],
    ids=["transformer teaches convolutions", "convolutions teach a transformer", "transformers"],
)
def test_every_method_trains_across_kinds_of_networks_or_says_why_not(
    ours: Item, theirs: Item, tmp_path: Path
) -> None:
    taught = Teacher(name="t", cell=teacher_cell(student=theirs))
    cells = [
        cell(
            name,
            settings=SUM if name == "combined" else {},
            data=FEW,
            student=ours,
            train=ONE_STEP,
            teacher=taught
            if catalogue.method(name).needs(catalogue.method_config(name, {}))
            else None,
        )
        for name in catalogue.methods()
    ]
    source = live(theirs)
    before = source.digest
    few = digits(FEW.model_dump_json())
    outcomes = train_cohort(
        cells, TrainingContext(dataset=few, teacher=source, places=places_in(tmp_path), base=HERE)
    )
    assert source.digest == before
    for asked, outcome in zip(cells, outcomes, strict=True):
        if not isinstance(outcome, Failure):
            assert outcome.cost.flops > 0
        elif asked.method.name == "patient":
            assert "[CLS]" in outcome.reason
        elif asked.method.name in cases.for_tokens():
            assert CONVOLUTIONS in (ours, theirs), f"{asked.label}: {outcome.reason}"
            assert any(w in outcome.reason for w in ("no tokens", "no attention heads"))
        else:
            assert asked.method.name in SAME_WIDTH, f"{asked.label}: {outcome.reason}"
            assert ours != theirs
            assert "need equal widths" in outcome.reason


def test_building_a_method_leaves_the_teachers_statistics_alone(tmp_path: Path) -> None:
    """Adaptors are sized from shapes; a dummy pass in train mode would move its BatchNorm."""
    source = teacher(tmp_path)
    before = source.digest
    for name in cases.for_maps():
        asked = brief(name)
        probe = make_probe(Stream(digits(), asked.seed, asked.train.batch_size))
        context = TrainingContext(
            dataset=digits(), teacher=source, places=places_in(tmp_path), base=HERE
        )
        trainee = TraineeBuilder(context, probe).open(asked, print)
        assert not isinstance(trainee, Failure), name
        assert source.digest == before, name


@pytest.mark.parametrize("name", ["ab", "ofd", "fsp", "none"])
def test_a_wide_resnets_batchnorms_update_once_a_step_whatever_is_read(
    name: str, tmp_path: Path
) -> None:
    wide = Item(name="wrn_16_1", settings={"width": 0.5})
    asked = cell(name, student=wide, train=BRIEF)
    source = live(wide)
    [made] = train_cohort(
        [asked],
        TrainingContext(dataset=digits(), teacher=source, places=places_in(tmp_path), base=HERE),
    )
    assert isinstance(made, Checkpoint), made
    state = torch.load(tmp_path / made.path, weights_only=True)
    counts = {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")}
    steps = BRIEF.epochs * (96 // BRIEF.batch_size)
    assert counts == {steps}


def test_an_assistant_that_was_taught_itself_teaches_on(tmp_path: Path) -> None:
    """A chain: the assistant is the checkpoint of a cell with a teacher of its own."""
    assistant = cell("kd", train=BRIEF)
    [learnt] = train([assistant], tmp_path)
    assert isinstance(learnt, Checkpoint)
    student = Item(name="resnet8", settings={"width": 0.25})
    last = cell(
        "kd", student=student, train=BRIEF, teacher=Teacher(name="assistant", cell=assistant)
    )
    straight = cell("kd", student=student, train=BRIEF)
    assert last.key != straight.key
    network = load_student(
        assistant, tmp_path / learnt.path, num_classes=10, in_channels=1, base=HERE
    )
    source = Live(network, trained_on=digits(), dataset=digits())
    [made] = train_cohort(
        [last],
        TrainingContext(dataset=digits(), teacher=source, places=places_in(tmp_path), base=HERE),
    )
    [other] = train([straight], tmp_path)
    assert isinstance(made, Checkpoint)
    assert isinstance(other, Checkpoint)
    assert made.digest != other.digest
    assert 0 < made.cost.teacher_flops < other.cost.teacher_flops
