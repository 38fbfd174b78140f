"""A pool of teachers on a real cluster gives what a live teacher gives, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench.data import Stream
from ktbench.records import Augmentation, Checkpoint, DataSpec, Failure, SourceSpec
from ktbench.students._contract import Features
from ktbench.teacher.build import build_source
from ktbench.teacher.pool.scheduler_events import Rules
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.device_placement import make_batch, make_probe
from ktbench.transfer_methods._contract import Needs
from tests.support import pools
from tests.support.optional_tools import OptionalPackage
from tests.support.pools import Garbage, Hangs, Heretic, Nan, Slow, Started, Stranger
from tests.support.running import Commands, started, write_matrix
from tests.support.running import digests as run_digests
from tests.support.training import DATA, HERE, cell, digits, places_in, teacher, train

ray = OptionalPackage("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
]
CPU = torch.device("cpu")
CELLS = [cell("kd"), cell("fitnet"), cell("crd")]
Outcomes = list[Checkpoint | Failure]


def teachers_gone() -> type[Exception]:
    from ktbench.teacher.pool.link import TeachersGone  # imports Ray

    return TeachersGone


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pools.cluster_of(4):
        yield tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def live(root: Path) -> list[str]:
    """The weights that a live teacher leads to."""
    return digests(train(CELLS, root / "live"))


@pytest.fixture(scope="module")
def shared(root: Path) -> Iterator[Started]:
    """One pool for tests that bring their own workers."""
    pool = Started(root, workers=0)
    yield pool
    pool.end()


@pytest.fixture
def pool(shared: Started) -> Iterator[Started]:
    """The shared pool without workers, before and after."""
    shared.notes.clear()
    yield shared
    shared.clear()


def learn(source: Any, root: Path, *cells: Any, **options: Any) -> Outcomes:
    return train_cohort(
        list(cells),
        TrainingContext(
            dataset=digits(), teacher=source, places=places_in(root), base=HERE, **options
        ),
    )


def digests(outcomes: Outcomes) -> list[str]:
    assert all(isinstance(o, Checkpoint) for o in outcomes), outcomes
    return [o.digest for o in outcomes if isinstance(o, Checkpoint)]


@contextmanager
def meanwhile(what: Callable[[], None]) -> Iterator[None]:
    """Something that is done again and again beside the block."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(0.05):
            what()

    beside = threading.Thread(target=again)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


# ---------------------------------------------------------------- the same weights


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_gives_the_weights_of_a_live_teacher(
    pool: Started, live: list[str], tmp_path: Path, workers: int
) -> None:
    for number in range(workers):
        pool.join(f"w{number}")
    pool.wait_for(lambda: len(pool.workers()) == workers)
    made = learn(pool.source(CELLS[0]), tmp_path, *CELLS)
    assert digests(made) == live
    for one in made:
        assert isinstance(one, Checkpoint)
        assert one.cost.teacher_flops > 0 and one.cost.teacher_seconds > 0
    assert all(w["answered"] > 0 for w in pool.workers().values())


def test_weights_are_the_same_while_workers_join_and_are_killed(
    pool: Started, live: list[str], tmp_path: Path
) -> None:
    for number in range(2):
        pool.join(f"w{number}", Slow)
    pool.wait_for(lambda: len(pool.workers()) == 2)
    kills: list[int] = []

    def kill_and_join(progress: Any) -> None:
        at_work = [w for w in pool.workers().values() if w["answered"]]
        if at_work:
            kills.append(at_work[0]["process"])
            with suppress(ProcessLookupError):  # Ray knows of a death a little later.
                os.kill(kills[-1], signal.SIGKILL)
            pool.join(f"late{len(kills)}", Slow)

    made = learn(pool.source(CELLS[0]), tmp_path, *CELLS, report=kill_and_join)
    assert digests(made) == live
    assert kills
    pool.wait_for(lambda: any(w["restarts"] for w in pool.status()["workers"]))
    history = ray.get(pool.coordinator.history.remote())
    assert {"join", "leave"} <= {event["kind"] for event in history["events"]}


def test_students_in_other_processes_share_a_pool(
    pool: Started, live: list[str], root: Path, tmp_path: Path
) -> None:
    pool.join("w0")
    pool.wait_for(lambda: len(pool.workers()) == 1)
    plain = replace_notes(pool)

    def taught(number: int) -> list[str]:
        source = plain.source(CELLS[number])
        return digests(learn(source, tmp_path / str(number), CELLS[number]))

    tasks = [ray.remote(taught).options(num_cpus=1).remote(number) for number in range(2)]
    assert [digest for [digest] in ray.get(tasks)] == live[:2]
    assert sum(w["answered"] for w in pool.workers().values()) > 9 + 1  # more than one asks for


def replace_notes(pool: Started) -> Started:
    """A pool that can travel: without what only this process can hold."""
    travels = Started.__new__(Started)
    travels.__dict__ = {**pool.__dict__, "notes": []}
    return travels


def test_a_cache_in_front_of_a_pool_asks_it_once_per_view(pool: Started, tmp_path: Path) -> None:
    taught = cell("kd", train=CELLS[0].train.model_copy(update={"views": 1}))
    expected = digests(train([taught], tmp_path / "live"))
    pool.join("w0")
    stream = Stream(digits(), taught.seed, taught.train.batch_size, 1)
    source = build_source(
        pool.source(taught),
        taught=taught,
        stream=stream,
        teacher=("t",),
        spec=SourceSpec(source="pool", cache=True),
        root=tmp_path / "cache",
    )
    assert digests(learn(source, tmp_path, taught)) == expected
    # Three epochs of three batches, of which one is asked; and little more ahead, in vain.
    assert pool.workers()["w0"]["answered"] <= 3 + 2 + pools.most_ahead(pool)


# ---------------------------------------------------------------- who is let in


def test_a_worker_that_would_compute_something_else_is_refused(
    pool: Started, live: list[str], tmp_path: Path
) -> None:
    other = DATA.model_copy(update={"train_size": 95})
    pool.join("other-code", Stranger)
    pool.join("other-data", job=replace(pool.job, data=other))
    pool.join("no-data", job=replace(pool.job, data=DataSpec(source="folder", path="nowhere")))
    pool.join("other-teacher", Heretic)

    def refused() -> dict[str, str]:
        events = ray.get(pool.coordinator.history.remote())["events"]
        return {e["worker"]: e["reason"] for e in events if e["kind"] == "refused"}

    pool.wait_for(lambda: len(refused()) == 4)  # each as soon as it has started
    pool.wait_for(lambda: not pool.status()["workers"])
    reasons = refused()
    assert "another code" in reasons["other-code"]
    assert "another data" in reasons["other-data"]
    assert "nowhere" in reasons["no-data"]
    assert "another teacher" in reasons["other-teacher"]
    latest = list(reasons)[-1]  # The four start side by side, so any may come last.
    with pytest.raises(teachers_gone(), match=rf"no worker is there \(refused: {latest} on "):
        learn(pool.source(CELLS[0], wait_seconds=0.5), tmp_path, CELLS[0])


# ---------------------------------------------------------------- workers that fail


def test_a_worker_that_answers_garbage_harms_nobody(
    pool: Started, live: list[str], tmp_path: Path
) -> None:
    pool.join("good")
    pool.join("garbage", Garbage)
    pool.wait_for(lambda: len(pool.workers()) == 2)
    made = learn(pool.source(CELLS[0]), tmp_path, *CELLS)
    assert digests(made) == live
    events = ray.get(pool.coordinator.history.remote())["events"]
    blamed = {e["worker"] for e in events if e["kind"] == "failed"}
    assert blamed == {"garbage"}


def test_a_batch_that_fails_on_every_worker_ends_the_training_with_its_reason(
    pool: Started, tmp_path: Path
) -> None:
    for number in range(2):
        pool.join(f"w{number}", Nan)
    pool.wait_for(lambda: len(pool.workers()) == 2)
    with pytest.raises(Exception, match=r"no worker can answer the batch of step 4.*not finite"):
        learn(pool.source(CELLS[0]), tmp_path, CELLS[0])


def test_a_worker_that_hangs_is_made_anew(root: Path, live: list[str], tmp_path: Path) -> None:
    rules = Rules(hung_floor=1.0, overdue_floor=10.0)
    pool = Started(root, workers=0, rules=rules)
    pool.join("w0", Hangs)
    made = learn(pool.source(CELLS[0]), tmp_path, CELLS[0])
    assert digests(made) == live[:1]
    events = ray.get(pool.coordinator.history.remote())["events"]
    assert any(e["kind"] == "dismissed" and "no answer" in e["reason"] for e in events)
    pool.end()


def test_without_workers_a_training_waits_and_goes_on_when_one_joins(
    pool: Started, live: list[str], tmp_path: Path
) -> None:
    joined = []

    def join_when_told() -> None:
        if any("waiting up to" in note for note in pool.notes) and not joined:
            joined.append(pool.join("late"))

    with meanwhile(join_when_told):
        source = pool.source(CELLS[0], wait_seconds=60.0, patience=0.2)
        made = learn(source, tmp_path, CELLS[0])
    assert digests(made) == live[:1]
    assert [note.split(": ")[-1] for note in pool.notes][-1].endswith("going on")


def test_a_training_whose_workers_never_come_back_ends_and_can_be_resumed(
    pool: Started, live: list[str], tmp_path: Path
) -> None:
    handle = pool.join("w0", Slow)
    pool.wait_for(lambda: len(pool.workers()) == 1)

    def end_after_an_epoch(progress: Any) -> None:
        ray.kill(handle)

    with pytest.raises(teachers_gone(), match="ktbench teacher serve"):
        learn(
            pool.source(CELLS[0], wait_seconds=0.5),
            tmp_path,
            CELLS[0],
            report=end_after_an_epoch,
            safeguard=True,
        )
    pool.join("w1")
    notes: list[str] = []
    made = learn(pool.source(CELLS[0]), tmp_path, CELLS[0], note=notes.append)
    assert digests(made) == live[:1]
    assert any(note.startswith("went on after epoch") for note in notes)


def test_a_coordinator_that_dies_is_started_again_and_loses_nothing(
    root: Path, live: list[str], tmp_path: Path
) -> None:
    pool = Started(root, workers=1)
    killed = []

    def kill_once(progress: Any) -> None:
        if not killed:
            killed.append(ray.kill(pool.coordinator))

    made = learn(pool.source(CELLS[0]), tmp_path, CELLS[0], report=kill_once)
    assert digests(made) == live[:1]
    assert killed
    pool.end()


# ---------------------------------------------------------------- messages


def test_any_batch_is_answered_as_a_live_teacher_does(
    pool: Started, root: Path, live: list[str]
) -> None:
    pool.join("w0")
    alone, source = teacher(root), pool.source(CELLS[0])
    stream = Stream(digits(), CELLS[0].seed, CELLS[0].train.batch_size)
    needs = Needs(logits=True, stages=True, embedding=True, preacts=True, stem=True)
    order = stream.order(1)
    batches = [
        make_probe(stream),
        make_batch(stream, order[1], epoch=1, step=4, steps=9, device=CPU),
        make_batch(stream, order[1].flip(0), epoch=1, step=4, steps=9, device=CPU),
        make_batch(stream, order[0][:5], epoch=1, step=3, steps=9, device=CPU),
    ]
    for batch in batches:
        ours, theirs = alone.outputs(batch, needs), source.outputs(batch, needs)
        assert source.flops() == alone.flops()
        for name in Features.__dataclass_fields__:
            here, there = getattr(ours, name), getattr(theirs, name)
            here, there = ((x,) if isinstance(x, torch.Tensor) else x for x in (here, there))
            assert (here is None) == (there is None)
            for a, b in zip(here or (), there or (), strict=True):
                assert torch.equal(a, b) and a.stride() == b.stride()
    source.close()


def test_without_augmentation_the_first_batch_keeps_its_layout(root: Path) -> None:
    plain = DATA.model_copy(update={"augment": Augmentation()})
    pool = Started(root, workers=0, data=plain)
    pool.join("w0")
    taught = cell("kd", data=plain)
    source = pool.source(taught)
    data = digits(plain.model_dump_json())
    stream = Stream(data, taught.seed, taught.train.batch_size)
    needs = Needs(logits=True, stages=True)
    for batch in (
        make_probe(stream, count=32),
        make_batch(stream, stream.order(0)[0], epoch=0, step=0, steps=9, device=CPU),
    ):
        ours, theirs = pools.live_on(root, data).outputs(batch, needs), source.outputs(batch, needs)
        for a, b in zip(ours.stages, theirs.stages, strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()
    pool.end()


def test_what_lies_ahead_of_a_training_is_bounded_and_withdrawn_when_it_jumps(
    pool: Started,
) -> None:
    pool.join("w0")
    taught = cell("kd", train=CELLS[0].train.model_copy(update={"epochs": 100}))
    source = pool.source(taught)
    stream = Stream(digits(), taught.seed, taught.train.batch_size)

    def ask(step: int) -> None:
        epoch, number = divmod(step, stream.steps_per_epoch)
        indices = stream.order(epoch)[number]
        batch = make_batch(stream, indices, epoch=epoch, step=step, steps=300, device=CPU)
        source.outputs(batch, Needs(logits=True))

    def opened() -> int:
        [student] = pool.status()["students"]
        return int(student["open"])

    for step in range(4):
        ask(step)
    most = pools.most_ahead(pool)
    assert opened() <= most
    ask(150)  # as after a resume
    ask(151)
    pool.wait_for(lambda: opened() <= most)
    assert pool.workers()["w0"]["answered"] <= 6 + 2 * most
    source.close()
    pool.wait_for(lambda: not pool.status()["students"])


# ---------------------------------------------------------------- the command line


def test_a_run_on_a_pool_gives_the_weights_of_a_run_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(tmp_path, monkeypatch, capsys)
    write_matrix(tmp_path / "live.yaml")
    assert commands("run", tmp_path / "live.yaml", "-q").code == 0
    write_matrix(tmp_path / "pool.yaml", teacher={"source": "pool", "workers": 1})
    process = started(
        "run", tmp_path / "pool.yaml", "--results", tmp_path / "p", cache=tmp_path / "cache"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert run_digests(tmp_path / "p") == run_digests(tmp_path / "results" / "small")
    [history] = (tmp_path / "p" / "pool").glob("*.json")
    assert '"kind":"join"' in history.read_text()


def test_teacher_serve_lends_a_worker_that_status_shows(
    pool: Started,
    live: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = ray.get_runtime_context().gcs_address
    server = started(
        "teacher", "serve", "--address", address, "--teacher", pool.job.teacher.name,
        cache=tmp_path,
    )  # fmt: skip
    try:
        pool.wait_for(lambda: len(pool.workers()) == 1)
        made = learn(pool.source(CELLS[0]), tmp_path, CELLS[0])
        assert digests(made) == live[:1]
        commands = Commands(tmp_path, monkeypatch, capsys)
        shown = commands("teacher", "status")
        assert shown.code == 0 and "at work" in shown.out and pool.job.teacher.name in shown.out
    finally:
        server.send_signal(signal.SIGINT)
        try:
            out, errors = server.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()  # so that nothing of it is left for the tests after this one
            out, errors = server.communicate()
    assert server.returncode == 130, errors
    assert f"serving teacher {pool.job.teacher.name}" in out
    assert errors.splitlines() == ["ktbench: stopped"]
    pool.wait_for(lambda: not pool.workers())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"address": "127.0.0.1:1"}, "cannot connect to Ray (127.0.0.1:1): Connection refused"),
        ({}, "neither workers of its own nor a cluster"),
    ],
)
def test_a_pool_that_nobody_could_join_is_refused_with_its_reason(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", teacher={"source": "pool", **settings})
    process = started("run", matrix, "--results", tmp_path / "r", "-q", cache=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said in errors and "Traceback" not in errors
