"""The search over replacements: the integer programme, and what it finds in a results folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktbench.blockwise.budget_search import Option, best_choices, choose, total
from ktbench.engine.inline import Inline
from ktbench.matrix import load, plan
from ktbench.records import BlockSearch, DeviceSpec, KtbenchError
from ktbench.results import ResultsFolder
from ktbench.runner import Silent, run
from ktbench.runner.blockwise.block_costs import latencies, sizes, whole_model
from ktbench.runner.blockwise.candidates import candidates_of
from ktbench.runner.blockwise.finishing_matrix import write_matrix
from ktbench.runner.blockwise.search import SearchRequest, search
from ktbench.students._blocks import KEEP, parameters_of
from tests.support.boards import SshBoard

MATRIX = """\
name: blocks
data: {source: digits, train_size: 256, validation_size: 100, test_size: 100}
teachers: [{student: {resnet8: {width: 0.5}}, name: T, train: {epochs: 8}}]
students:
  - blockwise: {of: T, replace: [separable, {low_rank: {rank: 0.5}}]}
methods: [none]
seeds: [0, 1]
train: {epochs: 1, batch_size: 32}
blockwise: {epochs: 2, batch_size: 32, splice_every: 1, keep_within: 0.5}
"""

COSTS = st.one_of(st.integers(0, 10**7).map(float), st.floats(1e-5, 10.0))
OPTIONS = st.builds(Option, cost=COSTS, score=st.floats(-5.0, 1.0).map(lambda v: round(v, 4)))
BLOCKS = st.lists(st.lists(OPTIONS, min_size=1, max_size=4), min_size=1, max_size=5)


def everything(blocks: list[list[Option]], budget: float) -> list[tuple[int, ...]]:
    """All choices within a budget, by falling score."""
    every = product(*(range(len(options)) for options in blocks))
    within = [c for c in every if total(blocks, c).cost <= budget * (1 + 1e-9)]
    return sorted(within, key=lambda c: -total(blocks, c).score)


@settings(max_examples=150)
@given(BLOCKS, st.floats(0.0, 1.1))
@pytest.mark.slow
def test_the_choice_is_the_best_of_all_that_a_budget_allows(
    blocks: list[list[Option]], share: float
) -> None:
    budget = share * sum(max(o.cost for o in options) for options in blocks)
    best, found = everything(blocks, budget), choose(blocks, budget)
    if not best:
        assert found is None
        return
    assert found is not None
    ours, theirs = total(blocks, found), total(blocks, best[0])
    assert ours.cost <= budget * (1 + 1e-9)
    assert ours.score >= theirs.score - 1e-5


@pytest.mark.slow
@settings(max_examples=60)
@given(BLOCKS, st.floats(0.2, 1.0))
def test_the_next_best_choices_follow_in_order_and_none_comes_twice(
    blocks: list[list[Option]], share: float
) -> None:
    budget = share * sum(max(o.cost for o in options) for options in blocks)
    best, found = everything(blocks, budget)[:4], list(best_choices(blocks, budget, 4))
    assert len(found) == len(set(found)) == len(best)
    for ours, theirs in zip(found, best, strict=True):
        assert abs(total(blocks, ours).score - total(blocks, theirs).score) <= 1e-4


# ---------------------------------------------------------------- in a results folder


def go(matrix: Path, folder: Path) -> ResultsFolder:
    text = matrix.read_text()
    summary = run(
        plan(load(matrix)),
        matrix_text=text,
        folder=folder,
        engine=Inline(),
        watcher=Silent(),
        write_report=None,
    )
    assert summary.ok, summary.failed
    return ResultsFolder(folder)


def trained(folder: ResultsFolder) -> set[str]:
    """The keys of all blocks of a folder."""
    return {path.stem for path in (folder.path / "blocks").glob("?" * 16 + ".json")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResultsFolder]:
    place = tmp_path_factory.mktemp("search")
    (place / "m.yaml").write_text(MATRIX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTBENCH_CACHE", str(place / "cache"))
        yield go(place / "m.yaml", place / "run")


@pytest.fixture(scope="module")
def found(folder: ResultsFolder) -> BlockSearch:
    return search(folder, SearchRequest(budgets=(0.6, 1.0)))


@pytest.mark.slow
def test_a_cost_is_that_of_the_network_which_the_choice_makes(
    folder: ResultsFolder, found: BlockSearch
) -> None:
    """Whatever no choice changes is in it, and no searched network is beyond its budget."""
    assert found.teacher_cost == found.teacher_parameters
    of = candidates_of(folder, folder.lock().plan)
    for network in found.networks:
        assert network.cost == network.parameters
        made = of.network(network.choice, of.cells[0])
        assert parameters_of(made) == network.parameters
        if network.budget is not None:
            assert network.cost <= network.budget * found.teacher_cost * (1 + 1e-9)


@pytest.mark.slow
def test_the_teachers_own_blocks_are_a_choice_that_costs_and_loses_nothing(
    folder: ResultsFolder, found: BlockSearch
) -> None:
    own = (KEEP,) * len(found.blocks)
    of = candidates_of(folder, folder.lock().plan)
    assert of.accuracy(own, "validation") == found.teacher_validation
    assert sum(block.options[0].cost for block in found.blocks) + found.shared == (
        found.teacher_cost
    )
    assert all(block.options[0].score == 0 for block in found.blocks)


@pytest.mark.slow
def test_for_every_uniform_student_there_is_a_choice_no_dearer_and_no_worse(
    found: BlockSearch,
) -> None:
    uniform = [network for network in found.networks if network.kind == "uniform"]
    searched = [network for network in found.networks if network.kind == "searched"]
    assert {network.name for network in uniform} == {"separable", "low_rank(rank=0.5)"}
    for network in uniform:
        within = [s for s in searched if s.cost <= network.cost]
        assert max(s.validation for s in within) >= network.validation


@pytest.mark.slow
def test_scores_are_means_over_seeds_and_none_is_positive(found: BlockSearch) -> None:
    assert found.seeds == (0, 1)
    replaced = [o for block in found.blocks for o in block.options[1:]]
    assert replaced and all(option.score < 0 for option in replaced)
    assert len({option.score for option in replaced}) == len(replaced)


@pytest.mark.slow
def test_the_written_matrix_finishes_the_choices_and_trains_no_block(
    folder: ResultsFolder, found: BlockSearch
) -> None:
    before = trained(folder)
    path = write_matrix(found, folder)
    planned = plan(load(path))
    labels = {cell.student.label for cell in planned.cells}
    assert labels == {network.student.label for network in found.networks}
    go(path, folder.path)
    assert trained(folder) == before
    by_label = {network.student.label: network for network in found.networks}
    for result in folder.results():
        if result.cell in planned.cells:
            assert result.start is not None
            network = by_label[result.cell.student.label]
            assert result.start.parameters == network.parameters
            assert len(result.start.used) == sum(label != KEEP for label in network.choice)
    # The folder's matrix is now the search's: the same blocks are found again.
    assert search(folder, SearchRequest(budgets=(0.6, 1.0))).blocks == found.blocks


@pytest.mark.slow
def test_a_matrix_is_written_over_no_other_file_and_nowhere_else(
    folder: ResultsFolder, found: BlockSearch, tmp_path: Path
) -> None:
    mine = folder.path.parent / "mine.yaml"
    mine.write_text("name: mine\n")
    with pytest.raises(KtbenchError, match="exists already"):
        write_matrix(found, folder, mine)
    with pytest.raises(KtbenchError, match="write it there"):
        write_matrix(found, folder, tmp_path / "m.yaml")


@pytest.mark.slow
def test_what_cannot_be_is_one_line(folder: ResultsFolder) -> None:
    with pytest.raises(KtbenchError, match="--teacher U: the folder has blocks of T"):
        search(folder, SearchRequest(teacher="U"))
    with pytest.raises(
        KtbenchError, match=r"budget 0\.01: no choice is within it; the least costs 0"
    ):
        search(folder, SearchRequest(budgets=(0.01,), teacher="T"))


@pytest.mark.slow
def test_a_latency_is_of_the_graph_and_equal_graphs_are_measured_once(
    folder: ResultsFolder,
) -> None:
    """Two blocks of one shape, and the network around them."""
    of = candidates_of(folder, folder.lock().plan)
    two = replace(of, blocks=of.blocks[1:3], entries=of.entries[1:3])
    told: list[str] = []
    device = DeviceSpec(profile="local", name="desk", repeats=1)
    prices, timings = latencies(two, device, told.append)
    assert timings.origin == "measured" and timings.runtime.startswith("onnxruntime")
    assert prices.options[0] == prices.options[1]
    assert set(prices.options[0]) == {KEEP, *of.entries[1]}
    assert 0 <= prices.options[0][KEEP] < prices.teacher  # less what an empty graph takes
    assert told[-1] == "on desk: repeat 5 of 5", "an empty graph, the teacher, three parts"


@pytest.mark.slow
def test_bytes_of_blocks_add_up_to_the_file_that_is_written(folder: ResultsFolder) -> None:
    """But for digits of names."""
    of = candidates_of(folder, folder.lock().plan)
    choice = (*(KEEP,) * (len(of.blocks) - 2), "low_rank(rank=0.5)", "separable")
    wanted = ({} if c == KEEP else {c: e[c]} for c, e in zip(choice, of.entries, strict=True))
    prices = sizes(replace(of, entries=tuple(wanted)))
    added = prices.shared + sum(c[label] for c, label in zip(prices.options, choice, strict=True))
    assert added == pytest.approx(len(whole_model(of, choice)), abs=100)
    assert abs(added - prices.teacher) > 500


@pytest.mark.slow
def test_blocks_are_timed_on_a_board_over_ssh(folder: ResultsFolder, board: SshBoard) -> None:
    of = candidates_of(folder, folder.lock().plan)
    two = replace(of, blocks=of.blocks[1:3], entries=tuple({} for _ in range(2)))
    told: list[str] = []
    prices, timings = latencies(two, board.spec(), told.append)
    assert timings.origin == "measured" and timings.runtime.startswith("onnxruntime")
    assert told[-1] == "on board: repeat 3 of 3", "an empty graph, the teacher, one part"
    assert 0 <= prices.options[0][KEEP] < prices.teacher
