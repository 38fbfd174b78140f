"""Schedules of blocks are what they say they are, and energy is counted without losing a joule."""

from __future__ import annotations

import threading
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktbench.blockwise import schedule
from ktbench.blockwise.processor_energy import Meter, counters, estimated
from ktbench.blockwise.schedule import BestSchedule, Load, Way

SECONDS = st.floats(0.01, 10.0)
LOADS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=6).map(
    lambda pairs: [
        Load(own, sum(step for _, step in pairs[: number + 1]))
        for number, (own, _) in enumerate(pairs)
    ]
)
WORKERS = st.integers(1, 4)
WAYS: tuple[Way, ...] = ("relay", "prefix")


def _every_schedule(count: int, workers: int) -> set[schedule.Packs]:
    found = set()
    for places in product(range(workers), repeat=count):
        packs = [[i for i, p in enumerate(places) if p == w] for w in range(workers)]
        found.add(tuple(sorted(tuple(pack) for pack in packs if pack)))
    return found


@given(LOADS, WORKERS)
@settings(max_examples=60)
def test_every_schedule_gives_each_block_to_one_worker(loads: list[Load], workers: int) -> None:
    """And to no more workers than there are."""
    times = [load.own for load in loads]
    found = [
        schedule.longest_first(times, workers),
        schedule.longest_first_relay(loads, workers),
        schedule.contiguous(times, workers),
        schedule.queue(times, workers),
    ]
    for packs in found:
        assert sorted(block for pack in packs for block in pack) == list(range(len(loads)))
        assert len(packs) <= workers


@given(LOADS, WORKERS)
@settings(max_examples=40)
def test_longest_first_is_within_a_third_of_the_best(loads: list[Load], workers: int) -> None:
    """Graham's bound, against every schedule there is."""
    times = [load.own for load in loads]
    slowest = max(sum(times[i] for i in p) for p in schedule.longest_first(times, workers))
    optimum = min(
        max(sum(times[i] for i in pack) for pack in packs)
        for packs in _every_schedule(len(times), workers)
    )
    assert slowest <= (4 / 3 - 1 / (3 * workers)) * optimum * (1 + 1e-9)


@given(LOADS, WORKERS, st.sampled_from(WAYS))
@settings(max_examples=40)
@pytest.mark.slow
def test_the_best_schedule_is_that_of_all(loads: list[Load], workers: int, way: Way) -> None:
    """Its bound is never above what it reached."""
    optimum = min(
        schedule.makespan(packs, loads, way) for packs in _every_schedule(len(loads), workers)
    )
    found = schedule.best(loads, workers, way)
    assert isinstance(found, BestSchedule)
    assert found.seconds == pytest.approx(optimum, rel=1e-4)
    assert found.bound <= found.seconds
    assert found.seconds == pytest.approx(schedule.makespan(found.packs, loads, way))


@given(st.lists(SECONDS, min_size=1, max_size=8), st.integers(2, 5))
@settings(max_examples=60)
def test_cuts_by_programme_are_as_good_as_trying_every_cut(
    times: list[float], workers: int
) -> None:
    """What a large network gets is what a small one would."""

    def slowest(packs: schedule.Packs) -> float:
        return max(sum(times[i] for i in pack) for pack in packs)

    workers = min(workers, len(times))
    bounds = [0, *schedule.cut_by_programme(times, workers), len(times)]
    programme = tuple(tuple(range(a, b)) for a, b in pairwise(bounds))
    assert slowest(programme) == pytest.approx(slowest(schedule.contiguous(times, workers)))


def test_a_replay_counts_the_teacher_as_each_worker_runs_it() -> None:
    """Blocks of 1, 2 and 3 s; the teacher takes a second from each block's end to the next's."""
    loads = [Load(1.0, 1.0), Load(2.0, 2.0), Load(3.0, 3.0)]
    packs = ((0, 1), (2,))
    assert schedule.busy(packs, loads, "relay") == [1 + 2 + 2, 3 + 3]
    assert schedule.busy(packs, loads, "prefix") == [1 + 1 + 2 + 2, 3 + 3]
    assert schedule.busy(packs, loads, "handed_on") == [1 + 2 + 2, 3 + 1]
    assert schedule.speedup(packs, loads, "handed_on") == pytest.approx(9 / 5)
    assert schedule.speedup(packs, loads, "prefix") == pytest.approx(12 / 6)


def test_a_queue_gives_the_next_block_to_whoever_is_free() -> None:
    """The first worker takes the long block; the other one all the rest."""
    assert schedule.queue([10.0, 1.0, 2.0, 3.0], 2) == ((0,), (1, 2, 3))


# ---------------------------------------------------------------- energy


def _domain(powercap: Path, name: str, what: str, count: int, most: int = 1_000_000) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{what}\n")
    (folder / "energy_uj").write_text(f"{count}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_energy_is_that_of_packages_and_memory_over_the_block_even_where_a_counter_starts_again(
    tmp_path: Path,
) -> None:
    """Two packages: one wraps around at a joule; the cores in it are not counted twice."""
    first = _domain(tmp_path, "intel-rapl:0", "package-0", 900_000)
    memory = _domain(tmp_path, "intel-rapl:0:1", "dram", 0)
    cores = _domain(tmp_path, "intel-rapl:0:0", "core", 0)
    second = _domain(tmp_path, "intel-rapl:1", "package-1", 0)
    with Meter(powercap=tmp_path, idle=0.0, sample=60.0) as meter:
        first.write_text("200000\n")  # 0.1 J to its end, 0.2 J since
        memory.write_text("50000\n")
        cores.write_text("70000\n")
        second.write_text("500000\n")
    assert meter.energy is not None
    assert meter.energy.origin == "measured"
    assert meter.energy.joules == pytest.approx(0.3 + 0.05 + 0.5)


@pytest.mark.slow
def test_the_idle_share_is_what_was_drawn_before_the_work_and_is_part_of_the_whole(
    tmp_path: Path,
) -> None:
    """A steady half joule while it waits, then as much again within the block."""
    counter = _domain(tmp_path, "intel-rapl:0", "package-0", 0)
    timer = threading.Timer(0.1, lambda: counter.write_text("500000\n"))
    timer.start()
    with Meter(powercap=tmp_path, idle=0.4, sample=60.0) as meter:
        counter.write_text("900000\n")
    timer.join()
    assert meter.energy is not None
    assert meter.energy.joules == pytest.approx(0.4)
    assert meter.energy.idle_joules is not None and meter.energy.idle_joules > 0


def test_where_nothing_can_be_read_nothing_is_said_to_be_measured(tmp_path: Path) -> None:
    """No domains, or one whose count is missing: half of a machine is not its energy."""
    assert counters(tmp_path) == []
    _domain(tmp_path, "intel-rapl:0", "package-0", 0)
    _domain(tmp_path, "intel-rapl:1", "package-1", 0).unlink()
    with Meter(powercap=tmp_path, idle=0.0) as meter:
        pass
    assert meter.energy is None
    guess = estimated(30.0, watts=10.0)
    assert (guess.joules, guess.origin, guess.watts) == (300.0, "estimated", 10.0)
