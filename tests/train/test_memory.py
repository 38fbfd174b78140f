"""How many cells share a batch is measured, and bounded by what the process may hold."""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from ktbench.data import Stream
from ktbench.records import Cell, Checkpoint, Item
from ktbench.runner.cohort_jobs import CellTask
from ktbench.runner.cohort_wave import COHORT, PER_WORKER, cohorts
from ktbench.system.machine import free_in_groups
from ktbench.teacher.live import Live
from ktbench.train import TrainingContext, memory_bytes
from ktbench.train.device_placement import make_probe
from ktbench.train.memory_budget import Budget
from ktbench.train.memory_probe import (
    MemoryBound,
    Need,
    cohort_bytes,
    measure,
    notes_for_user,
    split_by_memory,
)
from ktbench.train.start import TraineeBuilder
from ktbench.train.trainee import Trainee
from ktbench.transfer_methods._contract import Batch
from tests.support.running import Commands, digests, write_matrix
from tests.support.training import HERE, cell, digits, places_in, teacher, train

METHODS = ("none", "kd", "fitnet", "crd")


def _builder(root: Path) -> tuple[TraineeBuilder, Stream]:
    stream = Stream(digits(), 0, 32)
    context = TrainingContext(
        dataset=digits(), teacher=teacher(root), places=places_in(root), base=HERE, note=print
    )
    return TraineeBuilder(context, make_probe(stream)), stream


# ---------------------------------------------------------------- the limit


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("800m", 8 * 10**8), ("1000", 1000)],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "4 XB", "4ib", "nan", "1e9", "0.1"])
def test_a_size_that_is_none_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Commands(tmp_path, monkeypatch, capsys)
    answer = command("run", write_matrix(tmp_path / "m.yaml"), f"--memory={text}")
    assert answer.code == 2
    assert "must be a size such as 4GB" in answer.error
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_without_a_limit_each_of_the_workers_takes_its_share_of_half_of_what_is_free() -> None:
    one, four = Budget.here(None), Budget.here(None, workers=4)
    assert one.room == pytest.approx(4 * four.room, rel=0.2)
    given = Budget.here(10**12)
    assert given.limit == 10**12
    assert 10**12 - 10**11 < given.room < 10**12, "what the program holds counts"


def test_a_control_groups_limit_holds_and_file_pages_count_as_free(tmp_path: Path) -> None:
    inner = tmp_path / "box" / "inner"
    inner.mkdir(parents=True)
    for group, most, used, files in ((inner.parent, "1000", 700, 100), (inner, "max", 600, 0)):
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")
    own = tmp_path / "own"
    own.write_text("0::/box/inner\n")
    assert free_in_groups(tmp_path, own) == [400]
    old = tmp_path / "memory" / "box"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500\n")
    (old / "memory.usage_in_bytes").write_text("450\n")
    (old / "memory.stat").write_text("total_inactive_file 20\n")
    own.write_text("5:cpu:/box\n4:memory:/box\n")
    assert free_in_groups(tmp_path, own) == [70]
    assert free_in_groups(tmp_path, tmp_path / "none") == []


# ---------------------------------------------------------------- splitting


def test_cohorts_are_as_large_as_fits_and_keep_the_order() -> None:
    shared, needs = Need(100, 10), [Need(10, 50)] * 5 + [Need(500, 50)] + [Need(10, 50)]
    room = cohort_bytes(shared, [Need(10, 50)] * 3)
    cohorts = split_by_memory(shared, needs, room)
    assert cohorts == [[0, 1, 2], [3, 4], [5], [6]]
    fitting = [c for c in cohorts if c != [5]]
    assert all(cohort_bytes(shared, [needs[i] for i in c]) <= room for c in fitting)
    cells = [cell("kd", seed=i) for i in range(len(needs))]
    said = notes_for_user(cells, shared, needs, cohorts, Budget(2 * 10**9, room))
    assert said[0] == "memory: cohorts of 3 instead of 7 (limit 2.0 GB)"
    assert said[1].startswith(f"memory: {cells[5].label} takes 2.0 GB with the program itself")
    assert said[1].endswith("trained alone")
    assert len(said) == 2


@pytest.mark.slow
def test_however_a_cohort_is_split_its_weights_are_the_same_bits(tmp_path: Path) -> None:
    cells = [cell(method) for method in METHODS]
    said: list[str] = []
    shares: list[float] = []
    together_ = train(cells, tmp_path / "together", note=said.append)
    assert said == [], "with room enough nothing is measured or said"
    alone = train(
        cells,
        tmp_path / "alone",
        note=said.append,
        memory=1,
        report=lambda p: shares.append(p.done / p.total),
    )
    assert said[0] == "memory: cohorts of 1 instead of 4 (limit 0 MB)"
    assert said[1].endswith("more than the limit: trained alone (and 3 more)")
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    for one, other in zip(together_, alone, strict=True):
        assert isinstance(one, Checkpoint)
        assert isinstance(other, Checkpoint)
        assert one.digest == other.digest
        assert one.cost.flops == other.cost.flops
        assert one.cost.teacher_flops == other.cost.teacher_flops


@pytest.mark.slow
def test_each_cohort_is_gone_before_the_next_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainees that live while one takes a step, by the limit that they are trained under."""
    living: set[int] = set()
    seen: list[int] = []
    original = Trainee.step

    def spy(trainee: Trainee, batch: object, features: object) -> None:
        if id(trainee) not in living:
            living.add(id(trainee))
            weakref.finalize(trainee, living.remove, id(trainee))
        seen.append(len(living))
        original(trainee, batch, features)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainee, "step", spy)
    train([cell("none", seed=0), cell("kd"), cell("fitnet")], tmp_path / "a", memory=1)
    assert max(seen) == 1
    train([cell("none", seed=0), cell("kd"), cell("fitnet")], tmp_path / "b")
    assert max(seen) == 3


@pytest.mark.slow
def test_a_cell_that_fails_while_it_is_measured_fails_alone(tmp_path: Path) -> None:
    broken = cell("kd", settings={"temperature": -1.0})
    good, bad, too = train([cell("kd"), broken, cell("none")], tmp_path, memory=1)
    assert isinstance(good, Checkpoint)
    assert isinstance(too, Checkpoint)
    assert "temperature" in bad.reason  # type: ignore[union-attr]


# ---------------------------------------------------------------- measuring


@pytest.mark.slow
def test_every_phase_is_measured_and_equal_pairs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[tuple[str, str]] = []
    original = Trainee.step

    def spy(trainee: Trainee, batch: object, features: object) -> None:
        original(trainee, batch, features)  # type: ignore[arg-type]
        phases.append((trainee.cell.method.name, trainee.phases.current.name))

    monkeypatch.setattr(Trainee, "step", spy)
    builder, stream = _builder(tmp_path)
    state = torch.random.get_rng_state()
    cells = [cell("fitnet"), cell("kd"), cell("kd"), cell("fitnet")]
    shared, needs = measure(cells, builder.build, stream, builder.context.teacher)
    assert torch.equal(state, torch.random.get_rng_state())
    assert needs[0] == needs[3]
    assert needs[1] == needs[2]
    names = [phase for method, phase in phases if method == "fitnet"]
    assert len(names) == 4, "the first and the last step of two phases, once"
    assert len(set(names)) == 2
    assert len(phases) == 6
    assert shared.stays > 0


@pytest.mark.slow
def test_the_teacher_is_only_asked_about_batches_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source may keep what it says under (sample, view): another image would be a lie there."""
    asked: list[Batch] = []
    original = Live.outputs

    def spy(self: Live, batch: Batch, needs: object) -> object:
        asked.append(batch)
        return original(self, batch, needs)  # type: ignore[arg-type]

    monkeypatch.setattr(Live, "outputs", spy)
    builder, stream = _builder(tmp_path)
    assert builder.shared.teacher_features is not None
    asked.clear()
    measure([cell("fitnet"), cell("kd")], builder.build, stream, builder.context.teacher)
    assert {batch.epoch for batch in asked} == {0, 2}
    for batch in asked:
        expected = stream.inputs(batch.indices, batch.epoch)
        assert torch.equal(batch.inputs, expected)
        assert torch.equal(batch.indices, stream.order(batch.epoch)[batch.step % 3])


@pytest.mark.slow
def test_what_a_lane_keeps_is_its_tensors_between_steps(tmp_path: Path) -> None:
    """Weights, momentum, the best weights; a bank that the method keeps is in it too."""
    builder, stream = _builder(tmp_path)
    assert builder.shared.teacher_features is not None, (
        "of the whole cohort, not of its first trainee"
    )
    plain, bank = cell("kd"), cell("crd")
    _, [kd, crd] = measure([plain, bank], builder.build, stream, builder.context.teacher)
    trainee = builder.build(plain)
    weights = sum(t.nbytes for t in trainee.student.state_dict().values())
    assert 2.9 * weights < kd.stays < 3.5 * weights
    extra = sum(t.nbytes for t in builder.build(bank).method.state_dict().values())
    assert crd.stays - kd.stays == pytest.approx(extra, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_crude_bound_lies_above_what_is_measured(method: str, tmp_path: Path) -> None:
    builder, stream = _builder(tmp_path)
    for student in (Item(name="resnet8"), Item(name="vgg_shallow")):
        cells = [cell(method, student=student)] * 3
        bound = MemoryBound(stream)
        crude = [bound.add(builder.build(c)) for c in cells][-1]
        assert crude > cohort_bytes(*measure(cells, builder.build, stream, builder.context.teacher))


_CHILD = """
import resource, sys, torch
from pathlib import Path
from benchmarks import _pair
from ktbench.data import Stream
from ktbench.records import Item
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.device_placement import make_probe
from ktbench.train.memory_budget import give_back, resident
from ktbench.train.memory_probe import cohort_bytes, measure
from ktbench.train.start import TraineeBuilder

torch.set_num_threads(1)
data, root, student = _pair.images(1), Path(sys.argv[1]), Item(name="vgg11")
cells = [c.model_copy(update={"student": student}) for c in _pair.cells(data)[:2]]
teacher, stream = _pair.teacher(data, "resnet20"), Stream(data, 0, _pair.BATCH)
context = TrainingContext(
    dataset=data, teacher=teacher, places=_pair.Below(root), base=Path(), note=print
)
builder = TraineeBuilder(context, make_probe(stream))
estimate = cohort_bytes(*measure(cells, builder.build, stream, teacher))
del builder
give_back()
base = resident()
high = Path("/proc/self/clear_refs")
high.write_text("5")
train_cohort(cells, context)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(estimate, int(status["VmHWM"].split()[0]) * 1024 - base)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_estimate_is_near_what_a_process_really_takes(tmp_path: Path) -> None:
    """Two VGG-11: 115 MB each."""
    answer = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path)], capture_output=True, text=True, check=True
    )
    estimate, real = map(int, answer.stdout.split()[-2:])
    assert 0.6 * real < estimate < 2 * real


# ---------------------------------------------------------------- the runner's part


def _tasks(count: int, seeds: int = 1) -> list[CellTask]:
    widths = range(count)
    made: list[Cell] = [
        cell("kd", seed=seed, student=Item(name="resnet8", settings={"width": 1.0 + w}))
        for seed in range(seeds)
        for w in widths
    ]
    return [CellTask(c) for c in made]


def test_jobs_are_of_like_size_and_leave_no_worker_idle() -> None:
    assert [len(job) for job in cohorts(_tasks(COHORT + 1))] == [16, 17]
    assert [len(job) for job in cohorts(_tasks(8, seeds=2))] == [8, 8]
    for workers in (2, 3, 4):
        jobs = cohorts(_tasks(24), workers)
        assert len(jobs) >= PER_WORKER * workers
        assert sum(len(job) for job in jobs) == 24
    assert [len(job) for job in cohorts(_tasks(3), 4)] == [1, 1, 1]


@pytest.mark.slow
def test_a_run_under_a_limit_says_so_and_trains_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Commands(tmp_path, monkeypatch, capsys)
    export = {"formats": "onnx", "precisions": ["fp32"]}
    matrix = write_matrix(tmp_path / "m.yaml", methods=["kd", "fitnet"], exports=export)
    free = command("run", matrix, "--results", tmp_path / "free")
    tight = command("run", matrix, "--results", tmp_path / "tight", "--memory", "1MB")
    assert free.code == tight.code == 0, tight.err
    assert "memory: cohorts of 1 instead of 2 (limit 1 MB)" in tight.out + tight.err
    assert "memory:" not in free.out + free.err
    assert digests(tmp_path / "free") == digests(tmp_path / "tight")
