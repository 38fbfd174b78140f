"""Every method trains real networks, and its cell's weights are a function of the cell alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktbench import catalogue
from ktbench.records import Cell, Checkpoint, Item, TrainSpec
from ktbench.train.shapes import similarity
from students._contract import Features
from tests.training import cell, train

BRIEF = TrainSpec(epochs=2, batch_size=40, lr=0.02)
# What the teacher's own network is given as student: it needs equal widths.
SAME_WIDTH = ("fsp", "kdsvd")
# State between steps beside weights: memories, running figures, schedules, several optimisers.
STATEFUL = ("crd", "factor", "ofd", "combined", "dkd")
SUM = {"parts": [{"method": "crd", "end": 0.7}, {"method": "fitnet"}, "kd"]}


def brief(name: str) -> Cell:
    taught = catalogue.method(name).needs(catalogue.method_config(name, {}))
    changes = {} if taught else {"teacher": None}
    width = 1.0 if name in SAME_WIDTH else 0.5
    return cell(
        name,
        settings=SUM if name == "combined" else {},
        train=BRIEF,
        student=Item(name="resnet8", settings={"width": width}),
        **changes,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Each method's cell trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    found = {}
    for name in catalogue.methods():
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

    monkeypatch.setattr("ktbench.train.lane.similarity", kept)
    [made] = train([cell("ab", settings={"pairs": "similarity"}, train=BRIEF)], tmp_path)
    assert isinstance(made, Checkpoint)
    assert len(tables) == 1
