"""Devices in trouble, and what the check says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktbench import catalogue
from ktbench.devices._contract import AnswerError, Blob, DeviceError, Profile
from ktbench.devices.agent import power
from ktbench.devices.transport.fake import FakeTransport, made_up
from ktbench.measure import BoardAccuracy, Job, check, evaluate, measure
from ktbench.measure.target import Target
from ktbench.records import (
    DeviceSpec,
    ExportSpec,
    Failure,
    Measurement,
)
from tests.support.boards import SHORT, agent_of, job, write_onnx

HERE = DeviceSpec(profile="local", name="here", repeats=2)
FAKE = DeviceSpec(profile="fake", name="fake", repeats=3)


# ---------------------------------------------------------------- devices in trouble


class Played:
    """A fake device whose answers are changed on their way."""

    def __init__(self, **changes: Any) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.changes = changes

    def __call__(self, task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        self.tasks.append(task)
        answer = made_up(task, blobs)
        return {**answer, **self.changes} if task["task"] == "bench" else answer


def played(jobs: list[Job], folder: Path, device: DeviceSpec = FAKE, **changes: Any) -> list[Any]:
    way = FakeTransport(Played(**changes))
    return list(measure(device, jobs, folder, transport=way))


@pytest.fixture
def two(tmp_path: Path) -> list[Job]:
    names = ("a", "b")
    return [job(write_onnx(tmp_path / f"{name}.onnx", name)) for name in names]


def test_figures_of_no_device_are_labelled_emulated(two: list[Job], tmp_path: Path) -> None:
    found = played(two, tmp_path)
    assert [m.origin for m in found] == ["emulated", "emulated"]
    again = played(two, tmp_path)
    assert [m.p50_ms for m in found] == [m.p50_ms for m in again]


def test_artifacts_take_turns_and_results_keep_their_order(two: list[Job], tmp_path: Path) -> None:
    device = FAKE.model_copy(update={"threads": (1, 2)})
    player, steps = Played(), []
    found = list(
        measure(
            device,
            two,
            tmp_path,
            transport=FakeTransport(player),
            progress=lambda done, total: steps.append((done, total)),
        )
    )
    turns = [(t["artifact"], t["threads"], t["repeat"]) for t in player.tasks if "repeat" in t]
    assert len(set(turns[:4])) == 4 and turns[4:8] == [(a, t, 1) for a, t, _ in turns[:4]]
    assert [(m.cell_key, m.threads) for m in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert steps == [(n, 12) for n in range(1, 13)]


def test_a_full_measurement_tells_the_99th_percentile(two: list[Job], tmp_path: Path) -> None:
    full = FAKE.model_copy(update={"mode": "full"})
    player = Played()
    found = next(measure(full, two, tmp_path, transport=FakeTransport(player)))
    assert isinstance(found, Measurement) and found.p99_ms is not None
    task = player.tasks[-1]
    assert (task["runs"], task["seconds"], task["warm_s"]) == (662, 10.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provider": "CPU"}, "fallback: fake was requested, CPU ran"),
        ({"state_after": {"governor": "ondemand"}}, "the governor changed"),
        ({"state_before": {"throttled": 0}, "state_after": {"throttled": 0x4}}, "throttled"),
        ({"state_before": {"throttled": 0}, "state_after": {"throttled": 0x40000}}, "throttled"),
        ({"state_before": {"cooling": {"c": 0}}, "state_after": {"cooling": {"c": 1}}}, "throttle"),
        ({"outputs_differing": 1}, "1 of 0 outputs of the timed runs differ"),
        ({"outputs_finite": False}, "not finite"),
        ({"samples_ns": [0] * 64}, "64 of 64 timed runs took 0 ns"),
        ({"samples_ns": [0] + [10**6, 10**6 + 1] * 31 + [5]}, "1 of 64 timed runs took 0 ns"),
        ({"samples_ns": [123_456] * 64}, "all 64 timed runs took exactly 123,456 ns"),
        ({"samples_ns": [10**6, 10**6 + 1] * 30}, "60 timed runs were received, 64 were requested"),
        (
            {"samples_ns": [10**6, 10**6 + 1] * 99},
            "198 timed runs were received, 64 were requested",
        ),
        ({"load_ns": 0}, "loading took 0 ns"),
        ({"first_ns": 0}, "the first inference took 0 ns"),
        ({"steady": [5.0, 5.001]}, "the board's clocks contradict each other"),
        ({"clock_jump_s": -3600.0}, "the clock jumped by -3600.0 s"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_invalid_with_its_reason(
    two: list[Job], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    first = played(two, tmp_path, **changes)[0]
    assert not first.validity.valid
    assert any(said in reason for reason in first.validity.reasons), first.validity


@pytest.mark.slow
def test_work_that_takes_longer_than_the_host_waited_is_not_believed(
    two: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_of(
        "import agent.bench as b\n"
        "real = b.time_steadily\n"
        "def slower(*given):\n"
        "    found = real(*given)\n"
        "    return dict(found, samples=[10**9 + n for n, _ in enumerate(found['samples'])])\n"
        "b.time_steadily = slower\n",
        monkeypatch,
    )
    here = DeviceSpec(profile="local", name="here", repeats=2)
    found = list(measure(here, two, tmp_path, budget=SHORT))
    for each in found:
        assert isinstance(each, Measurement) and not each.validity.valid
        assert any("passed here: its clock is wrong" in r for r in each.validity.reasons)


@pytest.mark.slow
def test_an_honest_device_is_believed(two: list[Job], tmp_path: Path) -> None:
    here = DeviceSpec(profile="local", name="here", repeats=3)
    for each in measure(here, two, tmp_path, budget=SHORT):
        assert isinstance(each, Measurement) and each.validity.valid, each


def test_a_throttling_of_before_the_run_proves_nothing(two: list[Job], tmp_path: Path) -> None:
    state = {"throttled": 0x50000, "cooling": {"c": 2}}
    first = played(two, tmp_path, state_before=state, state_after=state)[0]
    assert first.validity.valid


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples_ns": [10**6] * 50 + [3 * 10**6] * 14}, "unsteady"),
        ({"samples_ns": [50_000, 50_001] * 32}, "below 0.1 ms"),
        ({"cpu_share": 0.5}, "had the processor 50% of the time"),
        ({"repeat_ratio": 0.5}, "again and again took 50%"),
        ({"state_after": {"overcurrent_events": {"oc1": 2}}}, "over-current"),
    ],
)
def test_an_unsteady_run_is_warned_of(
    two: list[Job], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    first = played(two, tmp_path, **changes)[0]
    assert first.validity.valid
    assert any(said in warning for warning in first.validity.warnings), first.validity


def test_bounds_hold_every_repeats_own_percentile(two: list[Job], tmp_path: Path) -> None:
    def drifting(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        answer = made_up(task, blobs)
        if task["task"] == "bench":
            answer["samples_ns"] = [10**6 * (1 + task["repeat"])] * 64
        return answer

    (found,) = measure(FAKE, two[:1], tmp_path, transport=FakeTransport(drifting))
    assert isinstance(found, Measurement)
    assert found.p50_ms.model_dump() == {"value": 2.0, "low": 1.0, "high": 3.0}
    assert any("medians differ by 200%" in w for w in found.validity.warnings)


def test_repeats_on_different_boards_are_not_pooled(two: list[Job], tmp_path: Path) -> None:
    def swapped(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        answer = made_up(task, blobs)
        return {**answer, "facts": {"model": f"board {task.get('repeat')}"}}

    (found,) = measure(FAKE, two[:1], tmp_path, transport=FakeTransport(swapped))
    assert isinstance(found, Measurement)
    assert found.validity.reasons == ("the repeats ran on different boards or runtimes",)


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ns": []},
        {"samples_ns": [10**6]},
        {"samples_ns": [10**6] * 63 + [-1]},
        {"samples_ns": [10**6] * 63 + [1e6]},
        {"cpu_share": float("inf")},
        {"cpu_share": float("nan")},
        {"clock_jump_s": float("inf")},
        {"waited_s": -1.0},
        {"batch": 10**9},
        {"samples_ns": [-1]},
        {"samples_ns": ["1"]},
        {"samples_ns": [10**40]},
        {"provider": None},
        {"provider": "x" * 10_000},
        {"batch": 0},
    ],
)
def test_a_malformed_answer_is_a_failure(
    two: list[Job], tmp_path: Path, changes: dict[str, Any]
) -> None:
    first = played(two, tmp_path, **changes)[0]
    assert isinstance(first, Failure)
    assert first.reason.startswith("malformed answer: ") and len(first.reason) < 300


def test_a_lost_board_is_waited_for(
    two: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.measure.retry.WAITS_S", (0.0,) * 3)
    failures = [True, True, True]

    def shaky(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        if task["task"] == "bench" and task["repeat"] == 1 and failures:
            failures.pop()
            raise DeviceError("the connection broke", lost=True)
        return made_up(task, blobs)

    found = list(measure(FAKE, two, tmp_path, transport=FakeTransport(shaky)))
    assert [m.repeats for m in found if isinstance(m, Measurement)] == [3, 3]


def test_answers_that_leave_nothing_to_go_on_with_cost_the_artifact_at_work_and_no_other(
    two: list[Job], tmp_path: Path
) -> None:
    lying, asked = Blob.read(two[0].path).digest, []

    class Liar(FakeTransport):
        """Tells of one artifact in a way that ends the talk."""

        def series(self, task: Any, blobs: Any, limits: Any) -> Any:
            for part in task["tasks"]:
                asked.append((part["artifact"] == lying, part["repeat"]))
                if part["artifact"] == lying and part["repeat"] == 1:
                    raise AnswerError("malformed answer: a message is over the limit")
                yield made_up(part, blobs)

    told: list[int] = []
    liar, honest = measure(
        FAKE, two, tmp_path, transport=Liar(), progress=lambda done, _: told.append(done)
    )
    assert isinstance(liar, Failure) and "over the limit" in liar.reason
    assert isinstance(honest, Measurement) and honest.repeats == 3
    assert asked == [(True, 0), (False, 0), (True, 1), (False, 1), (False, 2)]
    assert told == [1, 2, 3, 4, 5, 6]


def test_the_test_set_is_run_by_each_artifact_alone_where_one_takes_the_others_with_it(
    two: list[Job],
) -> None:
    killer = Blob.read(two[0].path).digest

    def dies(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        if killer in task.get("artifacts", ()):
            raise AnswerError("the agent ended without an answer (signal 9)")
        if task["task"] == "look":
            return {}
        answer = made_up(task, blobs)
        return {**answer, "artifacts": [{**each, "top1": [0, 1]} for each in answer["artifacts"]]}

    labels, stack = np.array([0, 2]), np.zeros((2, 1, 4, 4), np.uint8)
    dead, alive = evaluate(FAKE, two, stack, labels, transport=FakeTransport(dies))
    assert isinstance(dead, Failure) and "signal 9" in dead.reason
    assert isinstance(alive, BoardAccuracy) and alive.accuracy == 0.5


@pytest.mark.parametrize("turns", [1, 16])
def test_a_lost_device_fails_what_is_left_with_its_reason_and_nothing_that_was_done(
    two: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr("ktbench.measure.retry.WAITS_S", (0.0,) * 3)
    monkeypatch.setattr("ktbench.measure.repeats.TURNS", turns)

    def unplugged(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        if task["task"] == "bench" and task["artifact"] == Blob.read(two[1].path).digest:
            raise DeviceError("cannot reach fake", lost=True)
        return made_up(task, blobs)

    once = FAKE.model_copy(update={"repeats": 1})
    first, second = measure(once, two, tmp_path, transport=FakeTransport(unplugged))
    assert isinstance(first, Measurement)
    assert isinstance(second, Failure) and second.reason == "cannot reach fake"


def test_what_was_complete_when_a_device_was_lost_is_kept(
    two: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.measure.retry.WAITS_S", ())

    def unplugged(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        last = task["task"] == "bench" and task["repeat"] == 2
        if last and task["artifact"] == Blob.read(two[1].path).digest:
            raise DeviceError("cannot reach fake", lost=True)
        return made_up(task, blobs)

    first, second = measure(FAKE, two, tmp_path, transport=FakeTransport(unplugged))
    assert isinstance(first, Measurement) and first.repeats == 3
    assert isinstance(second, Failure) and second.reason == "cannot reach fake"


def test_a_board_of_another_architecture_is_refused(two: list[Job], tmp_path: Path) -> None:
    pi = DeviceSpec(profile="raspberry_pi_4", name="pi", host="pi")
    first, second = measure(pi, two, tmp_path, transport=FakeTransport())
    assert isinstance(first, Failure) and isinstance(second, Failure)
    assert "it is a fake machine, but profile 'raspberry_pi_4' is for aarch64" in first.reason


def test_an_opset_that_a_boards_runtime_cannot_read_is_refused_with_the_one_to_take() -> None:
    old = Profile(title="old board", transport="fake", architectures=(), max_opset=15)
    target = Target(FAKE, old, FakeTransport())
    newer, older, other = (
        Job(Path("a"), export, "g", "c", "d")
        for export in (
            ExportSpec(format="onnx"),
            ExportSpec(format="onnx", opset=15),
            ExportSpec(format="tflite"),
        )
    )
    assert "not 18: export with `opset: 15`" in str(target.refusal(newer))
    assert target.refusal(older) is None and target.refusal(other) is None


# ---------------------------------------------------------------- check


@pytest.mark.slow
def test_this_machine_passes_its_check() -> None:
    found = check(HERE)
    assert found.ok and found.facts and found.facts["cores"]
    assert [name.partition(" ")[0] for name in found.runtimes] == ["onnxruntime", "tflite"]


@pytest.mark.slow
def test_a_check_says_what_is_missing_in_plain_words(bare_python: Path) -> None:
    bare = HERE.model_copy(update={"python": str(bare_python), "threads": (999,)})
    found = check(bare)
    assert not found.ok
    text = "; ".join(found.problems)
    assert "numpy is not installed for" in text
    assert "`pip install` onnxruntime" in text
    assert "999 threads are requested" in text


def test_a_check_shows_the_commands_that_steady_a_board_and_runs_none() -> None:
    def pi(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        state = {"governor": "ondemand", "throttled": 0x1, "load": 3.5}
        runtimes = {"onnxruntime": {"version": "1", "formats": ["onnx"], "install": "x"}}
        facts = {"machine": "aarch64", "cores": 4}
        return {**made_up(task, blobs), "facts": facts, "state": state, "runtimes": runtimes}

    device = DeviceSpec(profile="raspberry_pi_4", name="pi", host="pi")
    found = check(device, FakeTransport(pi))
    assert found.ok
    assert "`governor: performance` in the device's entry" in found.advice[0]
    assert found.advice[1:] == ("by hand: sudo cpufreq-set -r -g performance",)
    text = "; ".join(found.warnings)
    for words in ("throttled now", "busy", "does not report its temperatures: no thermal zone"):
        assert words in text, text


def test_a_check_holds_a_board_against_what_its_profile_knows_of_the_kind() -> None:
    def other(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
        facts = {"machine": "aarch64", "cores": 4, "python": "3.10.12"}
        state = {"power_mode": "MAXN SUPER", "power_w": {"VDD_IN": 4.0}, "governor": "performance"}
        return {**made_up(task, blobs), "facts": facts, "state": state}

    def told(profile: str, **settings: str) -> tuple[str, str]:
        device = DeviceSpec.model_validate(
            {"profile": profile, "name": "j", "host": "j"} | settings
        )
        found = check(device, FakeTransport(other))
        return "; ".join(found.warnings), "; ".join(found.advice)

    warnings, advice = told("jetson_nano")
    for words in (
        "power mode MAXN SUPER is none of a Jetson Nano's (MAXN, 5W)",
        "Python is 3.10.12, but the systems of a Jetson Nano come with 3.6",
        "POM_5V_IN, POM_5V_GPU, POM_5V_CPU of its power rails cannot be read",
    ):
        assert words in warnings, warnings
    assert "opsets up to 15" in advice and "`power_mode` in the device's entry" in advice
    warnings, advice = told("jetson_orin_nano", power_mode="15W")
    assert "none of" not in warnings and "Python" not in warnings and advice == ""
    assert "VDD_CPU_GPU_CV, VDD_SOC of its power rails" in warnings


@pytest.mark.parametrize("name", catalogue.devices())
@pytest.mark.slow
def test_every_profile_keeps_the_contract(name: str) -> None:
    profile = catalogue.device(name)
    assert profile.title and profile.runtimes
    assert len(profile.setup) == 0 or profile.restore
    for command in (*profile.setup, *profile.restore):
        assert command and all(isinstance(word, str) for word in command)
    assert bool(profile.rails) == ("power_w" in profile.sensors)
    assert bool(profile.power_modes) == ("power_mode" in profile.sensors)
    versions = [tuple(map(int, text.split("."))) for text in profile.pythons]
    assert versions == sorted(versions) and all(version >= (3, 6) for version in versions)
    needs_host = profile.transport == "ssh"
    found = check(DeviceSpec(profile=name, name=name))
    assert found.ok != needs_host
    if needs_host:
        assert "no host is given" in found.problems[0]
    else:
        refused = check(DeviceSpec(profile=name, name=name, host="pi"))
        assert "takes no host" in refused.problems[0]


def test_every_board_that_is_named_has_a_profile() -> None:
    assert set(catalogue.devices()) >= {
        *("local", "ssh", "fake", "emulated_aarch64", "generic_aarch64", "generic_armv7"),
        *(f"raspberry_pi_{name}" for name in ("3", "4", "5", "zero_2_w")),
        *(f"jetson_{name}" for name in ("nano", "xavier_nx", "orin_nano", "orin_nx", "agx_orin")),
    }


def test_every_total_of_a_profile_is_one_that_the_agent_adds_up() -> None:
    for name in catalogue.devices():
        rails = catalogue.device(name).rails
        if rails:
            assert power.total_of(rails, "pmic" if "HDMI" in rails else "ina3221"), name
