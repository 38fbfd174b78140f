"""A chain of workers: one pass of the teacher for all, and the same blocks where it breaks."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench import catalogue
from ktbench.blockwise import BlockStore, BlockTask, tasks_of, train_blocks
from ktbench.blockwise.pipeline import ChainPlace, Cut, cut_before, from_cut
from ktbench.records import BlockResult, BlockTrain
from ktbench.students._blocks import find_blocks
from ktbench.students._contract import StagedNetwork, Student
from tests.support.blockwise_runs import DATA, cell
from tests.support.training import digits

SPEC = BlockTrain(epochs=2, batch_size=16, splice_every=2)
IMAGES = torch.rand(2, 1, 8, 8)
STEPS = 12
"""Of 96 images, twice."""


def network(name: str = "resnet8", width: float = 0.5) -> Student:
    torch.manual_seed(3)
    made = catalogue.build_student(name, {"width": width}, num_classes=10, in_channels=1)
    return made.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def tasks() -> tuple[BlockTask, ...]:
    return tasks_of(cell(), num_classes=10, in_channels=1)


def train(
    pack: list[int], root: Path, place: ChainPlace | None = None
) -> tuple[dict[str, str], int]:
    """Digests of some blocks, and how often the teacher's stem has run."""
    teacher, calls = network(), list[int]()
    assert isinstance(teacher, StagedNetwork) and teacher.stem is not None
    teacher.stem.register_forward_pre_hook(lambda *_: calls.append(1))
    made = train_blocks(
        [tasks()[number] for number in pack],
        teacher=teacher,
        dataset=digits(DATA.model_dump_json()),
        spec=SPEC,
        numeric=cell().numeric,
        seed=0,
        store=BlockStore(root),
        place=place,
    )
    digests = {}
    for result in made:
        assert isinstance(result, BlockResult), result
        assert result.teacher_seconds > 0
        digests[result.block] = result.digest
    return digests, len(calls)


def apart(pack: list[int], root: Path, place: ChainPlace, answers: Any) -> None:
    answers.put((place.number, *train(pack, root, place)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return train(list(range(6)), tmp_path_factory.mktemp("alone"))[0]


@pytest.mark.slow
def test_workers_of_a_chain_run_the_teacher_once_between_them(
    alone: dict[str, str], tmp_path: Path
) -> None:
    """Three processes; those behind the first see its stem only where blocks are tried."""
    packs, folder = [[0, 1, 2], [3], [4, 5]], tmp_path / "handed"
    cuts = [cut_before(network(), tasks()[pack[0]].block, IMAGES) for pack in packs[1:]]
    ends = [(None, cuts[0]), (cuts[0], cuts[1]), (cuts[1], None)]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [
        context.Process(
            target=apart,
            args=(
                pack,
                tmp_path / "run",
                ChainPlace(folder, number, *ends[number], patience=300.0),
                answers,
            ),
        )
        for number, pack in enumerate(packs)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=400) for _ in workers]
    for worker in workers:
        worker.join()
    assert {k: v for _, digests, _ in found for k, v in digests.items()} == alone
    calls = {number: count for number, _, count in found}
    assert calls[0] > STEPS and calls[1] < STEPS and calls[2] < STEPS


@pytest.mark.slow
def test_a_worker_that_waits_in_vain_runs_the_teacher_itself(
    alone: dict[str, str], tmp_path: Path
) -> None:
    place = ChainPlace(tmp_path / "handed", 1, takes=Cut(2, 0), patience=0.2)
    digests, calls = train([4, 5], tmp_path / "run", place)
    assert digests == {name: alone[name] for name in digests}
    assert calls > STEPS


@pytest.mark.slow
def test_a_worker_that_nobody_takes_from_goes_on(alone: dict[str, str], tmp_path: Path) -> None:
    place = ChainPlace(tmp_path / "handed", 0, gives=Cut(2, 0), patience=0.2)
    digests, _ = train([0, 1], tmp_path / "run", place)
    assert digests == {name: alone[name] for name in digests}
    assert not list((tmp_path / "handed").glob("1-*"))


@pytest.mark.parametrize("name", ["vgg13", "resnet20", "wrn_16_2", "mobilenet_v2", "mobilenet_v1"])
@pytest.mark.slow
def test_a_pass_from_a_cut_is_the_whole_pass(name: str) -> None:
    """Bit for bit, wherever a block's segment can begin."""
    whole, images = network(name, 0.5), torch.rand(4, 1, 32, 32)
    blocks = find_blocks(whole, "stages")
    cuts = {cut_before(whole, block, images) for block in blocks} - {None}
    assert len(cuts) > 1
    with torch.no_grad():
        expected = whole(images)
        for cut in cuts:
            assert cut is not None
            seen: list[torch.Tensor] = []
            module = whole.get_submodule(cut.path)
            hook = module.register_forward_pre_hook(lambda _, a, s=seen: s.append(a[0].clone()))
            whole(images)
            hook.remove()
            assert torch.equal(from_cut(whole, cut, seen[0]), expected)


def test_a_network_that_is_no_plain_stages_is_not_cut() -> None:
    plain = network()
    block = find_blocks(plain, "convolutions")[-1]
    assert cut_before(plain, block, IMAGES) is not None
    assert cut_before(plain, find_blocks(plain, "convolutions")[0], IMAGES) is None, "the stem"

    class Other(type(plain)):  # type: ignore[misc]
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(inputs) * 2
            return logits

    plain.__class__ = Other
    assert cut_before(plain, block, IMAGES) is None
