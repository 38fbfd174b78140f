"""Blocks of a teacher are trained alone, tried in its place and put together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ktbench.blockwise import BlockStore, BlockTask, gather, tasks_of, train_blocks
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.networks.weights import load_student, load_weights, weights_digest
from ktbench.records import (
    Assembly,
    BlockResult,
    BlockTrain,
    Cell,
    Checkpoint,
    DataSpec,
    Failure,
    Item,
    KtbenchError,
    Start,
    Teacher,
)
from ktbench.students._blocks import Replacement, find_blocks
from ktbench.students._contract import StagedNetwork, Student
from ktbench.train import TrainingContext, train_cohort
from tests.support import training
from tests.support.running import ROOT

SPEC = BlockTrain(epochs=4, splice_every=2, batch_size=32)
NETWORK: dict[str, JsonValue] = {"resnet8": {"width": 0.5}}
TAUGHT = training.teacher_cell(
    data=training.DATA, student=Item(name="resnet8", settings={"width": 0.5})
)
CPU = torch.device("cpu")
_FOUND: dict[str, Student] = {}


def teacher() -> Student:
    """A small network that has learnt a little, trained once per process."""
    if "t" not in _FOUND:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            [made] = train_cohort(
                [TAUGHT],
                TrainingContext(
                    dataset=training.digits(),
                    teacher=None,
                    places=training.places_in(root),
                    base=training.HERE,
                ),
            )
            assert isinstance(made, Checkpoint)
            network = load_student(
                TAUGHT, root / made.path, num_classes=10, in_channels=1, base=training.HERE
            )
        _FOUND["t"] = network
    return _FOUND["t"]


def cell(spec: BlockTrain = SPEC, **settings: Any) -> Cell:
    """A student made of the teacher's blocks."""
    item = Item(name="blockwise", settings={"of": "t", "network": NETWORK, **settings})
    start = Start(teacher=Teacher(name="t", cell=TAUGHT), train=spec)
    return training.cell("none", student=item, start=start)


def tasks(of: Cell | None = None) -> tuple[BlockTask, ...]:
    """The blocks of a cell's student."""
    return tasks_of(of or cell(), num_classes=10, in_channels=1)


def train(
    blocks: Sequence[BlockTask], root: Path, spec: BlockTrain = SPEC, **options: Any
) -> list[BlockResult | Failure]:
    """Train blocks of the teacher on digits."""
    chosen: dict[str, Any] = {"teacher": teacher(), "seed": 0, "checkpoint_seconds": 1e9}
    return train_blocks(
        blocks,
        dataset=training.digits(),
        spec=spec,
        numeric=training.NUMERIC,
        store=BlockStore(root),
        **{**chosen, **options},
    )


def done(results: Sequence[BlockResult | Failure]) -> list[BlockResult]:
    """All of them, which must not have failed."""
    assert not [one for one in results if isinstance(one, Failure)], results
    return [one for one in results if isinstance(one, BlockResult)]


def told(results: Sequence[BlockResult | Failure]) -> list[dict[str, Any]]:
    """What must not depend on the way a block was trained: all but its times."""
    times = {"seconds", "teacher_seconds", "shared_seconds"}
    return [one.model_dump(exclude=times) for one in done(results)]


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> list[BlockResult]:
    """Every block, fed by one pass."""
    return done(train(tasks(), tmp_path_factory.mktemp("relay")))


@pytest.mark.slow
def test_a_block_is_the_same_bit_for_bit_from_relay_and_prefix_alone_and_in_any_company(
    relayed: list[BlockResult], tmp_path: Path
) -> None:
    assert len({one.digest for one in relayed}) == len(tasks()) == 6
    assert told(train(tasks(), tmp_path / "prefix", feed="prefix")) == told(relayed)
    some = [tasks()[number] for number in (4, 1)]
    assert told(train(some, tmp_path / "some")) == told([relayed[4], relayed[1]])
    elsewhere = cell(choice=["keep", "keep", *["depthwise_separable"] * 4, "separable"])
    last = tasks(elsewhere)[-1]
    assert last == tasks()[-1], "another student that shares a block shares its training"
    assert told(train([last], tmp_path / "last")) == told(relayed[-1:])


@pytest.mark.slow
def test_the_teacher_stays_as_it_was(tmp_path: Path) -> None:
    network = teacher()
    before = weights_digest(network.state_dict())
    train(tasks()[:2], tmp_path)
    assert weights_digest(network.state_dict()) == before
    assert not network.training and not any(m._forward_hooks for m in network.modules())
    running = network.get_buffer("stages.0.0.residual.1.running_mean")
    kept = running.clone()
    with pytest.raises(KtbenchError, match="changed while"):
        train(tasks()[2:3], tmp_path, report=lambda _: running.add_(1.0))
    running.copy_(kept)


@pytest.mark.slow
def test_the_signed_replacement_reaches_a_target_that_the_studys_cannot(tmp_path: Path) -> None:
    """What is negative of the target is the least that a replacement closed by a ReLU can miss."""
    spec = BlockTrain(epochs=60, splice_every=20, batch_size=32, lr=3e-3, decay_steps=60, decay=0.7)
    block = find_blocks(teacher(), "convolutions")[1]
    targets: list[Tensor] = []
    hook = (
        teacher()
        .get_submodule(block.end)
        .register_forward_hook(lambda _, __, output: targets.append(output))
    )
    with torch.no_grad():
        for images, _ in TeacherInputs(training.digits(), training.digits(), CPU).held_out(
            "validation"
        ):
            teacher()(images)
    hook.remove()
    target = torch.cat(targets)
    variance = (target - target.mean((0, 2, 3), keepdim=True)).square().mean()
    negative = float(target.clamp(max=0).square().mean() / variance)
    both = [BlockTask(block, name, f"{name:0<16}") for name in ("separable", "depthwise_separable")]
    signed, study = done(train(both, tmp_path, spec))
    assert signed.tries[-1].loss < 0.75 * negative
    assert min(one.loss for one in study.tries) >= negative > 0.2


@pytest.mark.slow
def test_a_block_that_can_be_reproduced_exactly_is(tmp_path: Path) -> None:
    """Of full rank, a low-rank replacement begins as its block, but for BatchNorm's figures."""
    spec = BlockTrain(epochs=1, batch_size=32, lr=1e-9)
    whole: Replacement = {"low_rank": {"rank": 1.0}}
    half: Replacement = {"low_rank": {"rank": 0.5}}
    pairs = [(task.block, entry) for task in tasks() for entry in (whole, half)]
    both = [BlockTask(block, entry, f"{n:016}") for n, (block, entry) in enumerate(pairs)]
    found = done(train(both, tmp_path, spec))
    for exact, approximate in zip(found[::2], found[1::2], strict=True):
        assert exact.loss < 0.05 and exact.loss < 0.5 * approximate.loss


def _fresh_student(replacement: str) -> Student:
    from ktbench import catalogue

    settings = {"network": NETWORK, "replace": replacement}
    return catalogue.build_student("blockwise", settings, num_classes=10, in_channels=1)


@pytest.mark.slow
def test_a_block_without_a_gain_stops_and_keeps_the_weights_of_its_best_epoch(
    tmp_path: Path,
) -> None:
    spec = BlockTrain(epochs=40, splice_every=1, patience=2, batch_size=32, lr=0.05)
    [long] = done(train(tasks()[3:4], tmp_path / "long", spec))
    assert long.stopped == "patience" and long.epochs < 40
    assert long.epochs == long.best_epoch + 2 == len(long.tries)
    best = max(long.tries, key=lambda t: (t.accuracy, -t.loss))
    assert (long.best_epoch, long.validation_accuracy, long.loss) == (
        best.epoch,
        best.accuracy,
        best.loss,
    )
    short = spec.model_copy(update={"epochs": long.best_epoch})
    [again] = done(train(tasks()[3:4], tmp_path / "short", short))
    assert again.digest == long.digest


# ---------------------------------------------------------------- put together


@pytest.mark.slow
def test_a_block_alone_in_the_assembled_network_has_the_accuracy_of_its_try(
    relayed: list[BlockResult], tmp_path: Path
) -> None:
    for number in (1, 4):
        choice = ["keep"] * 7
        choice[number + 1] = "separable"
        one = cell(SPEC.model_copy(update={"keep_within": 1.0}), choice=choice)
        results = train(tasks(one), tmp_path)
        made = gathered(one, results, tmp_path)
        assert made.used == (tasks()[number].name,)
        assert made.validation == done(results)[0].validation_accuracy
        assert made.validation == relayed[number].validation_accuracy
        saved = relayed[number].parameters_before - relayed[number].parameters
        assert made.teacher_parameters - made.parameters == saved > 0


def gathered(of: Cell, results: Sequence[BlockResult | Failure], root: Path) -> Assembly:
    """The student's first weights."""
    store = BlockStore(root)
    return gather(of, results, teacher=teacher(), dataset=training.digits(), store=store)


@pytest.mark.slow
def test_what_loses_too_much_stays_the_teachers_own(tmp_path: Path) -> None:
    results = done(train(tasks(), tmp_path))
    wide = gathered(cell(), results, tmp_path)
    losses = sorted(wide.teacher_validation - one.validation_accuracy for one in results)
    assert losses[0] < losses[-1]
    strict = cell(SPEC.model_copy(update={"keep_within": max(losses[2], 1e-6)}))
    made = gathered(strict, train(tasks(strict), tmp_path), tmp_path)
    for one in results:
        lost = made.teacher_validation - one.validation_accuracy
        assert (one.block in made.used) == (lost <= max(losses[2], 1e-6) + 1e-9)
    student = _fresh_student("separable")
    load_weights(student, tmp_path / made.path)
    assert weights_digest(student.state_dict()) == made.digest
    state, own = student.state_dict(), teacher().state_dict()
    used = tuple(f"network.{name}." for name in made.used)
    same = [k for k in own if torch.equal(own[k], state.get(f"network.{k}", own[k] + 1))]
    theirs = [k for k in state if k.startswith("network.") and not k.startswith(used)]
    assert len(same) >= len(theirs) > 0
    assert gathered(strict, results, tmp_path) == made, "what was gathered is found again"


@pytest.mark.slow
def test_a_failed_block_is_told_and_stays_the_teachers_own(tmp_path: Path) -> None:
    results: list[BlockResult | Failure] = [*train(tasks(), tmp_path)]
    results[2] = Failure(stage="train", reason="lost", what=tasks()[2].name)
    made = gathered(cell(SPEC.model_copy(update={"keep_within": 1.0})), results, tmp_path)
    assert made.failures == (results[2],)
    assert set(made.used) == {task.name for task in tasks()} - {tasks()[2].name}


# ---------------------------------------------------------------- trouble


class Stopped(Exception):  # noqa: N818 - an interruption, no error
    """Stands for a signal."""


def _interrupt_after(epochs: int) -> Any:
    calls = iter(range(1, 100))

    def report(_: float) -> None:
        if next(calls) == epochs:
            raise Stopped

    return report


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_training_stopped_after_any_epoch_goes_on_to_the_same_bits(
    epochs: int, relayed: list[BlockResult], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(tasks(), tmp_path, checkpoint_seconds=0, report=_interrupt_after(epochs))
    notes: list[str] = []
    assert told(train(tasks(), tmp_path, note=notes.append)) == told(relayed)
    assert len(notes) == 6 and all(f"after epoch {epochs}" in note for note in notes)
    assert not list((tmp_path / "work").iterdir())
    again: list[str] = []
    assert told(train(tasks(), tmp_path, note=again.append)) == told(relayed) and not again


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_the_epochs_since_its_checkpoint(
    relayed: list[BlockResult], tmp_path: Path
) -> None:
    code = "from tests.blockwise.test_training import slowly; slowly()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BLOCKS": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        work = tmp_path / "work"
        until = time.monotonic() + 120
        while len(list(work.glob("*/training.pt"))) < 6 and time.monotonic() < until:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    notes: list[str] = []
    assert told(train(tasks(), tmp_path, note=notes.append)) == told(relayed)
    assert len(notes) == 6 and all("went on after" in note for note in notes)


def slowly() -> None:
    """Train the blocks with time to be killed in."""
    root = Path(os.environ["BLOCKS"])
    train(tasks(), root, checkpoint_seconds=0, report=lambda _: time.sleep(0.5))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_its_epochs_alone(
    relayed: list[BlockResult], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(tasks(), tmp_path, checkpoint_seconds=0, report=_interrupt_after(2))
    BlockStore(tmp_path).work(tasks()[0].key).write_bytes(b"nonsense")
    notes: list[str] = []
    assert told(train(tasks(), tmp_path, note=notes.append)) == told(relayed)
    assert sum("trains from the start" in note for note in notes) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "kept"), [(1, False), (3, True)])
def test_a_block_that_diverges_ends_alone_with_what_was_kept(
    epochs: int, kept: bool, relayed: list[BlockResult], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(tasks(), tmp_path, checkpoint_seconds=0, report=_interrupt_after(epochs))
    work = BlockStore(tmp_path).work(tasks()[3].key)
    state = torch.load(work, weights_only=True)
    next(iter(state["module"].values())).fill_(torch.inf)
    torch.save(state, work)
    results = train(tasks(), tmp_path)
    ended = results.pop(3)
    assert told(results) == told(relayed[:3] + relayed[4:])
    if kept:
        assert isinstance(ended, BlockResult)
        assert (ended.stopped, ended.best_epoch, len(ended.losses)) == ("diverged", 2, 3)
    else:
        assert isinstance(ended, Failure) and ended.what == tasks()[3].name
        assert "not finite" in ended.reason


class Nested(StagedNetwork):
    """A stage that overwrites its input, and an activation that overwrites a block's output."""

    def __init__(self, *, inplace: bool) -> None:
        first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace))
        second = nn.Sequential(nn.ReLU(inplace), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        head = nn.Linear(4, 10)
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        stages = [first, nn.Sequential(nn.Conv2d(4, 4, 1), second)]
        super().__init__(stages=stages, embed=pool, head=head)


@pytest.mark.slow
def test_a_teacher_that_overwrites_its_activations_teaches_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Nested(inplace=False)
    over = Nested(inplace=True)
    over.load_state_dict(plain.state_dict())
    spec = SPEC.model_copy(update={"epochs": 1})
    made = []
    for number, network in enumerate((plain, over)):
        blocks = [*find_blocks(network, "convolutions"), *find_blocks(network, ("stages.1.1",))]
        some = [BlockTask(block, "separable", f"{i:016}") for i, block in enumerate(blocks)]
        made.append(told(train(some, tmp_path / str(number), spec, teacher=network)))
    assert len(made[0]) == 3 and made[0] == made[1]


def test_a_teacher_sees_images_as_it_learnt_them() -> None:
    wide = training.digits(DataSpec(source="digits", train_size=400).model_dump_json())
    few = training.digits()
    assert not torch.equal(wide.statistics[0], few.statistics[0])
    [(seen, _)] = TeacherInputs(few, wide, CPU).held_out("validation")
    expected = wide.inputs(few.raw("validation"))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
