"""Pairs by similarity are chosen with a student that has learnt, and are the same for all seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench.data import Stream
from ktbench.matrix.cell_settings import with_warmup
from ktbench.networks.numeric import EVERYTHING
from ktbench.networks.weights import load_student
from ktbench.records import WARMUP_SEED, Cell, Checkpoint, Failure, Pairing
from ktbench.students._contract import Student
from ktbench.train.device_placement import COMPARED, make_probe
from ktbench.train.method_setup import similarity
from tests.support.running import Commands, results, write_matrix
from tests.support.training import BRIEF, DATA, HERE, cell, digits, teacher, train

PAIRS = {"pairs": {"similarity": {"warmup_epochs": 2}}}


def warm(seed: int = 0, method: str = "intermediate_last", epochs: int = 2) -> Cell:
    settings: dict[str, Any] = {"pairs": {"similarity": {"warmup_epochs": epochs}}}
    return with_warmup(cell(method, seed=seed, settings=settings, train=BRIEF), ".")


def warmed_up(of: Cell, root: Path) -> Student:
    assert of.warmup is not None
    [made] = train([of.warmup.cell], root)
    assert isinstance(made, Checkpoint)
    weights = root / made.path
    return load_student(of.warmup.cell, weights, num_classes=10, in_channels=1, base=HERE)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return warmed_up(warm(), tmp_path_factory.mktemp("warm-up"))


def test_the_warm_up_is_the_cells_own_training_without_transfer_from_one_seed() -> None:
    [first, second] = [warm(seed).warmup for seed in (1, 2)]
    assert first is not None and first == second
    assert first.cell == cell("none", WARMUP_SEED, train=BRIEF.model_copy(update={"epochs": 2}))
    assert len({warm(epochs=epochs).key for epochs in (1, 2)}) == 2
    assert warm(1).key != warm(1).model_copy(update={"warmup": None}).key


@pytest.mark.slow
def test_pairs_are_the_same_for_all_seeds_and_those_of_the_trained_student(
    student: Student, tmp_path: Path
) -> None:
    cells = [warm(seed) for seed in (0, 1, 2)]
    made = train(cells, tmp_path, warmups=lambda _: student)
    pairings = {one.pairing for one in made if isinstance(one, Checkpoint)}
    [pairing] = pairings
    assert pairing is not None and pairing.similarity is not None
    columns = list(zip(*pairing.similarity, strict=True))
    assert pairing.pairs == tuple(
        (column.index(max(column)), s) for s, column in enumerate(columns)
    )
    untrained = [
        cell("intermediate_last", seed, settings={"pairs": "similarity_untrained"}, train=BRIEF)
        for seed in (0, 1, 2)
    ]
    tables = {one.pairing for one in train(untrained, tmp_path) if isinstance(one, Checkpoint)}
    assert len(tables) == 3 and pairing not in tables


@pytest.mark.slow
def test_stages_are_compared_on_more_images_than_shapes_are_found_with(
    student: Student, tmp_path: Path
) -> None:
    big = DATA.model_copy(update={"train_size": 300})
    [made] = train([warm().model_copy(update={"data": big})], tmp_path, warmups=lambda _: student)
    images = make_probe(Stream(digits(big.model_dump_json()), 0, 8), count=COMPARED)
    assert len(images.indices) == COMPARED == 256
    taught = teacher(tmp_path).outputs(images, EVERYTHING)
    with torch.no_grad():
        seen = student.eval().forward_features(images.inputs)
    assert isinstance(made, Checkpoint) and made.pairing is not None
    assert made.pairing.similarity is not None
    for row, expected in zip(made.pairing.similarity, similarity(taught, seen), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_cell_with_a_warm_up_has_the_same_weights_alone_in_a_cohort_and_resumed(
    student: Student, tmp_path: Path
) -> None:
    cells = [warm(1), warm(1, "attention"), warm(1, "intermediate_last_per_layer")]
    options: dict[str, Any] = {"warmups": lambda _: student}
    together = train(cells, tmp_path / "together", **options)
    [alone] = train(cells[:1], tmp_path / "alone", **options)
    calls = 0

    def stop(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(cells[:1], tmp_path / "cut", report=stop, checkpoint_seconds=0.0, **options)
    [resumed] = train(cells[:1], tmp_path / "cut", **options)
    made = [together[0], alone, resumed]
    assert len({one.digest for one in made if isinstance(one, Checkpoint)}) == 1
    assert all(isinstance(one, Checkpoint) for one in together)


def test_a_cell_whose_warm_up_is_not_there_fails_and_says_so(tmp_path: Path) -> None:
    [made] = train([warm()], tmp_path)
    assert isinstance(made, Failure) and "its warm-up is not there" in made.reason


@pytest.mark.slow
def test_a_run_trains_a_warm_up_once_and_restores_it(ktbench: Commands, tmp_path: Path) -> None:
    methods = ["none", {"intermediate_last": PAIRS}, {"attention": PAIRS}, {"hint": PAIRS}]
    path = write_matrix(tmp_path / "m.yaml", methods=methods, seeds=2)
    assert ktbench("run", path).code == 0
    records = [r for r in results(Path("results/small")).values() if r.cell.method.name != "none"]
    assert len(records) == 6
    compared = [r.warmup for r in records]
    assert all(warmup == compared[0] for warmup in compared)
    assert len({r.checkpoint.pairing for r in records if r.checkpoint}) == 1
    warmup = compared[0]
    assert warmup is not None and warmup.epochs == 2
    weights = Path("results/small", warmup.path)
    assert weights.is_file() and ktbench("verify", "results/small").code == 0
    locked = json.loads(Path("results/small/lock.json").read_text())
    assert list(locked["plan"]["parts"]["warmup"]) == ["resnet8(width=0.25) after 2 epochs"]
    content = weights.read_bytes()
    weights.unlink()
    assert ktbench("verify", "results/small").code == 1
    assert ktbench("run", path).code == 0
    assert weights.read_bytes() == content and ktbench("verify", "results/small").code == 0


@pytest.mark.parametrize(
    ("pairs", "objection"),
    [
        (((0, 0), (1, 1), (1, 2)), None),
        (((1, 1), (0, 0)), None),
        (((2, 1),), None),
        (((0, 1), (0, 0)), "every pair names one teacher stage, a"),
        (
            ((2, 0), (1, 1)),
            "out of order: student stage y is paired with an earlier teacher stage (b) than x (c)",
        ),
    ],
)
def test_pairs_that_leave_the_order_of_depth_are_said(
    pairs: tuple[tuple[int, int], ...], objection: str | None
) -> None:
    pairing = Pairing(teacher=("a", "b", "c"), student=("x", "y", "z"), pairs=pairs)
    assert pairing.objection == objection
