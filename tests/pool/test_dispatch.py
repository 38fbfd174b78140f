"""The dispatcher in simulated time: nothing lost, nothing twice, the right worker."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktbench.teacher.pool.dispatch import Dispatcher
from ktbench.teacher.pool.scheduler_events import (
    Action,
    AskForWorker,
    Deliver,
    Dismiss,
    Drop,
    Poisoned,
    Release,
    Rules,
    Send,
)

RULES = Rules(patience=30.0)


@dataclass
class World:
    """Workers of given speeds, students that take what is ready, and a clock."""

    speeds: dict[str, float] = field(default_factory=dict)
    rules: Rules = RULES
    now: float = 0.0
    wrong: frozenset[str] = frozenset()
    """Workers whose answers are wrong."""
    poison: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.rules)
        self.sent: Counter[str] = Counter()
        self.accepted: Counter[int] = Counter()
        self.poisoned: dict[int, str] = {}
        self.asked = 0
        self.released: set[str] = set()
        self._busy: dict[str, float] = {}
        self._events: list[tuple[float, int, Any]] = []
        self._count = 0
        for name in self.speeds:
            self.act(self.dispatcher.join(name, self.now))

    def act(self, actions: list[Action]) -> None:
        """Carry out what the dispatcher wants."""
        for action in actions:
            match action:
                case Send(_, worker) if worker not in self.speeds:
                    pass  # Dismissed meanwhile: the dispatcher has taken the task back.
                case Send(task, worker):
                    self.sent[worker] += 1
                    start = max(self.now, self._busy.get(worker, 0.0))
                    self._busy[worker] = start + self.speeds[worker]
                    self.at(self._busy[worker], (worker, task))
                case Deliver(task, worker):
                    if worker in self.wrong or task in self.poison:
                        self.act(self.dispatcher.failed(task, worker, "wrong", self.now))
                    else:
                        self.accepted[task] += 1
                        self.delivered(task)
                case Poisoned(task, _, reason):
                    self.poisoned[task] = reason
                case AskForWorker():
                    self.asked += 1
                case Release(worker):
                    self.released.add(worker)
                case Dismiss(worker, _):
                    self.speeds.pop(worker, None)
                case Drop():
                    pass

    def delivered(self, task: int) -> None:
        self.act(self.dispatcher.took(task, self.now))

    def at(self, time: float, what: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what))

    def step(self) -> bool:
        """Go on to the next thing that happens; a worker that is gone does not answer."""
        if not self._events:
            return False
        self.now, _, what = heapq.heappop(self._events)
        if callable(what):
            what()
        elif what[0] in self.speeds:
            self.act(self.dispatcher.answered(what[1], what[0], self.now))
        return True

    def leave(self, worker: str) -> None:
        self.speeds.pop(worker, None)
        self.act(self.dispatcher.leave(worker, self.now))

    def run(self, until: float) -> None:
        """Let time pass, with a tick every tenth of a second."""
        while self.now < until:
            tick = self.now + 0.1
            while self._events and self._events[0][0] <= tick:
                self.step()
            self.now = tick
            self.act(self.dispatcher.tick(self.now))


class Taking(World):
    """A world in which each student takes its answers in order, one every `pace` seconds."""

    def student(self, name: str, pace: float, count: int, start: int = 0) -> list[float]:
        """Take `count` answers; returns the times at which they were taken."""
        times: list[float] = []
        ready: set[int] = set()
        state = {"next": 0, "asked": 0}
        self._ready = getattr(self, "_ready", {})
        for number in range(count):
            self._ready[start + number] = ready

        def look() -> None:
            window = self.dispatcher.window(name)
            while state["asked"] < min(count, state["next"] + window):
                self.act(self.dispatcher.submit(start + state["asked"], name, self.now))
                state["asked"] += 1
            if start + state["next"] in ready:
                self.act(self.dispatcher.took(start + state["next"], self.now))
                times.append(self.now)
                state["next"] += 1
                if state["next"] < count:
                    self.at(self.now + pace, look)
            elif state["next"] < count:
                self.at(self.now + 0.005, look)

        look()
        return times

    def delivered(self, task: int) -> None:
        self._ready[task].add(task)


events = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 5), st.floats(0.01, 3.0)),
        st.tuples(st.just("leave"), st.integers(0, 5), st.none()),
        st.tuples(st.just("submit"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("wait"), st.floats(0.0, 4.0), st.none()),
        st.tuples(st.just("again"), st.integers(0, 40), st.integers(0, 5)),
        st.tuples(st.just("fail"), st.integers(0, 40), st.integers(0, 5)),
        st.tuples(st.just("lost"), st.integers(0, 40), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(events)
@pytest.mark.slow
def test_every_task_is_answered_exactly_once_whatever_happens(happened: list[Any]) -> None:
    world = World({})
    submitted: list[int] = []
    for kind, first, second in happened:
        worker = f"w{second if kind in ('again', 'fail') else first}"
        if kind == "join":
            world.speeds[worker] = second
            world.act(world.dispatcher.join(worker, world.now))
        elif kind == "leave":
            world.leave(worker)
        elif kind == "submit":
            for _ in range(second):
                submitted.append(len(submitted))
                world.act(world.dispatcher.submit(submitted[-1], f"s{first}", world.now))
        elif kind == "wait":
            world.run(world.now + first)
        elif kind == "again":  # An answer that nobody asked for, or the second of a task.
            task = world.dispatcher._tasks.get(first)
            if task is None or worker in task.copies:
                world.act(world.dispatcher.answered(first, worker, world.now))
        elif kind == "fail":
            world.act(world.dispatcher.failed(first, worker, "error", world.now))
        else:
            world.act(world.dispatcher.lost(first, world.now))
    world.speeds["last"] = 0.1
    world.act(world.dispatcher.join("last", world.now))
    world.run(world.now + 200)
    failures = any(kind in ("fail", "leave") for kind, _, _ in happened)
    assert failures or not world.poisoned
    done = Counter(world.accepted) + Counter(world.poisoned.keys())
    assert done == Counter(submitted)
    assert not world.dispatcher._tasks


def test_a_task_goes_to_where_it_is_done_first_and_a_slow_worker_gets_later_ones() -> None:
    world = Taking({"fast": 0.1, "slow": 0.35})
    times = world.student("s", pace=0.0, count=120)
    world.run(60)
    assert len(times) == 120
    # Together they do 1/0.1 + 1/0.35 tasks a second; in order, nobody waits for the slow one.
    ideal = 120 / (1 / 0.1 + 1 / 0.35)
    assert times[-1] < 1.15 * ideal


def test_the_smallest_set_of_workers_that_keeps_up_stays_at_work() -> None:
    world = Taking({"a": 0.1, "b": 0.2, "c": 0.4, "d": 0.4})
    times = world.student("s", pace=0.125, count=600)
    world.run(70)
    active = {n for n, w in world.dispatcher.workers.items() if w.active}
    assert active == {"a"}
    assert {"b", "c", "d"} == world.released
    assert len(times) > 500  # 8 a second: parking cost nothing
    world.leave("a")
    world.run(72)
    assert {n for n, w in world.dispatcher.workers.items() if w.active} >= {"b"}


def test_a_starving_student_calls_parked_workers_and_then_asks_for_more() -> None:
    world = Taking({"a": 0.1, "b": 0.2})
    world.student("s", pace=0.125, count=100)
    world.run(12)
    assert not world.dispatcher.workers["b"].active and not world.asked
    world.student("t", pace=0.02, count=400, start=1000)
    world.run(20)
    assert world.dispatcher.workers["b"].active
    assert world.asked >= 1


def test_a_stragglers_task_is_done_elsewhere_and_its_late_answer_dropped() -> None:
    world = World({"a": 0.1, "b": 0.1})
    for task in range(20):
        world.act(world.dispatcher.submit(task, "s", world.now))
    world.run(2)
    world.speeds["a"] = 8.0
    for task in range(20, 30):
        world.act(world.dispatcher.submit(task, "s", world.now))
    world.run(6)
    assert world.accepted == Counter(range(30))
    world.run(30)
    assert world.accepted == Counter(range(30))
    assert sum(world.sent.values()) > 30


def test_a_worker_that_hangs_is_dismissed() -> None:
    world = World({"a": 0.1, "b": 0.1})
    for task in range(10):
        world.act(world.dispatcher.submit(task, "s", world.now))
    world.run(2)
    world.speeds["a"] = 1e6
    for task in range(10, 20):
        world.act(world.dispatcher.submit(task, "s", world.now))
    world.run(40)
    assert set(world.dispatcher.workers) == {"b"}
    assert world.accepted == Counter(range(20))


def test_a_worker_that_answers_wrongly_is_dismissed_and_poisons_nothing() -> None:
    world = World({"a": 0.1, "b": 0.1}, wrong=frozenset({"a"}))
    for task in range(40):
        world.act(world.dispatcher.submit(task, "s", world.now))
    world.run(20)
    assert set(world.dispatcher.workers) == {"b"}
    assert world.accepted == Counter(range(40)) and not world.poisoned


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_task_that_fails_on_every_worker_is_poisoned_and_no_other(workers: int) -> None:
    world = World({f"w{i}": 0.1 for i in range(workers)}, poison=frozenset({7}))
    for task in range(40):
        world.act(world.dispatcher.submit(task, "s", world.now))
    world.run(20)
    assert world.poisoned == {7: "wrong"}
    assert world.accepted == Counter(set(range(40)) - {7})
    assert len(world.dispatcher.workers) == workers


def test_a_task_over_which_workers_die_is_poisoned_in_the_end() -> None:
    world = World({})
    world.act(world.dispatcher.submit(0, "s", world.now))
    for number in range(RULES.losses):
        world.speeds[f"w{number}"] = 1.0
        world.act(world.dispatcher.join(f"w{number}", world.now))
        world.leave(f"w{number}")
    assert "died" in world.poisoned[0]


def test_students_share_the_workers_evenly_however_much_one_asks_for() -> None:
    world = World({"a": 0.1})
    for task in range(200):
        world.act(world.dispatcher.submit(task, "greedy", world.now))
    for task in range(1000, 1020):
        world.act(world.dispatcher.submit(task, "modest", world.now))
    world.run(4.2)
    modest = sum(1 for task in world.accepted if task >= 1000)
    assert modest == 20
    assert sum(world.accepted.values()) >= 40


def test_a_newcomer_does_not_starve_those_who_were_there() -> None:
    world = World({"a": 0.1})
    for task in range(400):
        world.act(world.dispatcher.submit(task, "old", world.now))
    world.run(20)
    before = sum(world.accepted.values())
    for task in range(1000, 1100):
        world.act(world.dispatcher.submit(task, "new", world.now))
    world.run(25)
    old = sum(1 for t in world.accepted if t < 1000) - before
    assert 20 <= old <= 30


def test_what_is_withdrawn_is_answered_to_nobody() -> None:
    world = World({"a": 0.1})
    for task in range(10):
        world.act(world.dispatcher.submit(task, "s", world.now))
    for task in range(10):
        world.act(world.dispatcher.withdraw(task, world.now))
    world.act(world.dispatcher.submit(10, "s", world.now))
    world.run(5)
    assert world.accepted == Counter([10])


@pytest.mark.slow
def test_students_take_equally_often_though_their_tasks_go_to_workers_of_unequal_speed() -> None:
    speeds = {f"fast{i}": 0.3 for i in range(2)} | {f"slow{i}": 3.75 for i in range(8)}
    world = Taking(speeds)
    took = [world.student(name, pace=0.1, count=400, start=1000 * i) for i, name in enumerate("ab")]
    world.run(60.0)
    for began in range(10, 50, 10):
        counts = [sum(began <= t < began + 10 for t in times) for times in took]
        assert min(counts) >= 0.6 * max(counts), (began, counts)
