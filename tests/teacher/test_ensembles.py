"""Several teachers: who is drawn, what is averaged, what it costs; nothing else changes."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench import catalogue
from ktbench.data import Stream
from ktbench.networks.numeric import EVERYTHING
from ktbench.networks.weights import weights_digest
from ktbench.records import (
    Cell,
    Checkpoint,
    Ensemble,
    Item,
    SourceSpec,
    Teacher,
    TeacherOutputs,
)
from ktbench.results import load_results
from ktbench.runner.teacher_sources import account_of, source_of
from ktbench.runner.trained_teacher import SourceRequest, TrainedTeacher
from ktbench.students._contract import Features
from ktbench.teacher.live import Live
from ktbench.teacher.sampled import Sampled, draw_members
from ktbench.teacher.source import TeacherSource
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.device_placement import make_batch
from ktbench.transfer_methods._contract import Batch, Needs
from tests.support.running import Commands, digests, results, write_matrix
from tests.support.training import HERE, NUMERIC, TRAIN, cell, digits, places_in, teacher_cell

VIEWS = TRAIN.model_copy(update={"views": 1, "epochs": 4})
STEPS = 12
WIDTHS = (0.5, 0.25, 0.5)
LOGITS = Needs(logits=True)


# ---------------------------------------------------------------- the draw


@pytest.mark.slow
def test_every_subset_is_drawn_equally_often_and_by_the_steps_seed_alone() -> None:
    for sample in (1, 2, 3, 4):
        found = Counter(draw_members(seed, 4, sample) for seed in range(6000))
        subsets = list(combinations(range(4), sample))
        assert set(found) == set(subsets)
        each = 6000 / len(subsets)
        # Five standard deviations of a binomial count.
        assert all(abs(n - each) <= 5 * each**0.5 for n in found.values())
    assert [draw_members(seed, 9, 3) for seed in range(50)] == [
        draw_members(seed, 9, 3) for seed in range(50)
    ]


# ---------------------------------------------------------------- the source


def _network(number: int) -> Any:
    torch.manual_seed(number)
    settings = {"width": WIDTHS[number]}
    return catalogue.build_student("resnet8", settings, num_classes=10, in_channels=1)


class Asked(Live):
    """A teacher that counts what it is asked."""

    passes = 0

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """As the live one's."""
        self.passes += 1
        return super().outputs(batch, needs)


def _members(count: int = 3) -> list[Asked]:
    return [Asked(_network(n), trained_on=digits(), dataset=digits()) for n in range(count)]


def _batch(step: int) -> Batch:
    stream = Stream(digits(), 0, 32)
    epoch, number = divmod(step, stream.steps_per_epoch)
    at: dict[str, Any] = {"epoch": epoch, "step": step, "steps": STEPS}
    return make_batch(stream, stream.order(epoch)[number], **at, device=torch.device("cpu"))


def test_logits_of_the_drawn_teachers_are_averaged_and_no_other_is_run() -> None:
    members = _members()
    alone = [Live(_network(n), trained_on=digits(), dataset=digits()) for n in range(3)]
    for sample in (2, 3):
        source = Sampled(members, sample=sample)
        for step in range(6):
            batch = _batch(step)
            before = [member.passes for member in members]
            chosen = draw_members(batch.seed, 3, sample)
            given = source.outputs(batch, EVERYTHING)
            asked = tuple(i for i in range(3) if members[i].passes > before[i])
            assert asked == chosen and len(chosen) == sample
            theirs = [alone[i].outputs(batch, LOGITS).logits.double() for i in chosen]
            torch.testing.assert_close(given.logits.double(), sum(theirs) / sample)
            assert not given.stages and given.embedding is None
            assert source.flops() == sum(members[i].flops() for i in chosen)
            assert source.seconds() == sum(members[i].seconds() for i in chosen)


@pytest.mark.slow
def test_a_single_drawn_teacher_is_heard_whole_at_the_price_of_one_pass() -> None:
    members = _members()
    source = Sampled(members, sample=1)
    for step in range(STEPS):
        batch = _batch(step)
        (chosen,) = draw_members(batch.seed, 3, 1)
        given = source.outputs(batch, EVERYTHING)
        right = Live(_network(chosen), trained_on=digits(), dataset=digits())
        expected = right.outputs(batch, EVERYTHING)
        assert torch.equal(given.logits, expected.logits)
        assert [s.shape for s in given.stages] == [s.shape for s in expected.stages]
        assert source.flops() == members[chosen].flops()
    assert sum(member.passes for member in members) == STEPS
    assert all(member.passes for member in members)


def test_an_ensembles_digest_is_that_of_all_its_members() -> None:
    members = _members()
    before = Sampled(members, sample=1).digest
    with torch.no_grad():
        next(members[2]._network.parameters()).add_(1.0)
    assert Sampled(members, sample=1).digest != before


# ---------------------------------------------------------------- invariant 1


@lru_cache
def _ensemble(sample: int, members: int = 3) -> Ensemble:
    of = [
        Teacher(
            name=f"t{n}",
            cell=teacher_cell(student=Item(name="resnet8", settings={"width": WIDTHS[n]}), seed=n),
        )
        for n in range(members)
    ]
    return Ensemble(name=f"{sample} of {members}", sample=sample, of=tuple(of))


def _trained_teachers(root: Path) -> tuple[TrainedTeacher, ...]:
    """Files of untrained networks in place of trained ones."""
    found = []
    for number, teacher in enumerate(_ensemble(1).of):
        network = _network(number)
        path = root / f"{teacher.name}.pt"
        torch.save(network.state_dict(), path)
        checkpoint = Checkpoint.model_construct(digest=weights_digest(network.state_dict()))
        found.append(TrainedTeacher(teacher, checkpoint, path))
    return tuple(found)


def _source(of: Cell, root: Path, kind: str = "live") -> TeacherSource:
    request = SourceRequest(of, SourceSpec.model_validate({"source": kind}), HERE)
    source = source_of(_trained_teachers(root), request)
    assert source is not None
    return source


def _train(cells: list[Cell], root: Path, place: str, **options: Any) -> list[str]:
    made = train_cohort(
        cells,
        TrainingContext(
            dataset=digits(),
            teacher=_source(cells[0], root, options.pop("kind", "live")),
            places=places_in(root / place),
            base=HERE,
            memory=10**12,  # so that no throw-away step is taken to measure what they take
            **options,
        ),
    )
    assert all(isinstance(one, Checkpoint) for one in made), made
    return [one.digest for one in made if isinstance(one, Checkpoint)]


@pytest.mark.slow
@pytest.mark.parametrize("sample", [1, 2])
def test_students_of_an_ensemble_are_the_same_alone_in_a_cohort_stopped_and_cached(
    sample: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    cells = [
        cell(method, teacher=_ensemble(sample), train=VIEWS)
        for method in ("kd", "soft_logits", "last_layer")
    ]
    together = _train(cells, tmp_path, "together")
    assert _train([cells[1]], tmp_path, "alone") == [together[1]]
    for place in ("filling", "reading"):
        assert _train([cells[2]], tmp_path, place, kind="cached") == [together[2]]
    told: list[object] = []

    def stop(progress: object) -> None:
        told.append(progress)
        if len(told) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        _train([cells[0]], tmp_path, "stopped", report=stop, checkpoint_seconds=0.0)
    assert _train([cells[0]], tmp_path, "stopped") == [together[0]]


@pytest.mark.slow
def test_a_cache_keeps_each_members_outputs_whatever_is_drawn_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three teachers of three: the first run fills their caches, the second reads from them."""
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    of = cell("kd", teacher=_ensemble(3), train=VIEWS)
    shares = []
    for _ in range(2):
        source = _source(of, tmp_path, "cached")
        for step in range(STEPS):
            source.outputs(_batch(step), LOGITS)
        shares += account_of(source)
    # One view: three of twelve batches run the first time; a source's first batch always does.
    assert shares == [f"teacher outputs: {share} % from the cache" for share in (75, 92)]


def test_what_students_see_of_an_average_is_reduced_and_not_its_parts(tmp_path: Path) -> None:
    """Draws from the softened average; counts of the draws of its parts would not average."""
    outputs = TeacherOutputs(sampled=500)
    numeric = NUMERIC.model_copy(update={"outputs": outputs})
    plain, reduced = (
        _source(cell("kd", teacher=_ensemble(3), train=VIEWS, numeric=n), tmp_path)
        for n in (NUMERIC, numeric)
    )
    batch = _batch(0)
    shares = (reduced.outputs(batch, LOGITS).logits / 4).softmax(1)
    expected = (plain.outputs(batch, LOGITS).logits / 4).softmax(1)
    assert float((shares - expected).abs().max()) < 0.12
    counts = 500 * shares
    assert float((counts - counts.round()).abs().max()) < 1e-2, "of one draw, not of three"


# ---------------------------------------------------------------- whole runs

POOL: dict[str, Any] = {
    "teachers": [
        {"name": "T", "student": "resnet8", "seed": [0, 1, 2], "train": {"epochs": 1}},
        {"name": "random", "sample": 1, "of": "T*"},
        {"name": "average", "sample": 3, "of": ["T(seed=0)", "T(seed=1)", "T(seed=2)"]},
    ],
    "exclude": {"teacher": ["T(seed=1)", "T(seed=2)"]},
    "methods": ["none", "kd"],
}


@pytest.mark.slow
def test_a_run_trains_every_member_first_and_keeps_the_record_of_each(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", **POOL)
    assert ktbench("run", matrix, "--results", tmp_path / "r").code == 0
    found = {r.cell.teacher.name: r for r in results(tmp_path / "r").values() if r.cell.teacher}
    assert set(found) == {"T(seed=0)", "random", "average"}
    single = found["T(seed=0)"]
    assert single.teacher is not None and single.ensemble == ()
    for name, passes in (("random", 1), ("average", 3)):
        result = found[name]
        assert result.teacher is None and len(result.ensemble) == 3
        assert result.ensemble[0] == single.teacher
        assert [c.cell_key for c in result.ensemble] == [t.cell.key for t in result.cell.teachers]
        assert result.checkpoint is not None and single.checkpoint is not None
        cost, one = result.checkpoint.cost, single.checkpoint.cost
        assert cost.teacher_flops == passes * one.teacher_flops
    whole = load_results(tmp_path / "r")
    assert len(whole.teachers) == 3 and whole.teachers["accuracy"].notna().all()
    cells = whole.cells.set_index("teacher")
    columns = ["teachers_sampled", "teachers_of"]
    assert cells.loc[["T(seed=0)", "random", "average"], columns].to_numpy().tolist() == [
        [1, 1], [1, 3], [3, 3],
    ]  # fmt: skip
    before = digests(tmp_path / "r")
    assert len(set(before.values())) == 4
    again = ktbench("run", matrix, "--results", tmp_path / "r")
    assert again.code == 0 and digests(tmp_path / "r") == before
