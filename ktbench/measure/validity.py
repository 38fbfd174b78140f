"""Validity of a measurement: reasons not to trust its repeats; pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from ktbench.measure.agent_schema import Bench, Facts
from ktbench.measure.energy_per_inference import energy_of, temperature
from ktbench.measure.job import Job
from ktbench.measure.time_budget import MAX_RUNS, Budget
from ktbench.records import Kernels, Validity

SPREAD = 0.10
"""Limit of standard deviation over mean, and of the repeats' medians, on a CPU."""
GPU_SPREAD = 0.025
"""The same limit on a GPU, which no other process shares."""
GPUS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
SHORT_MS = 0.1
CLOCK_DRIFT = 0.02
"""Share by which two machines' clocks may differ in speed."""
CLOCK_SLACK_S = 0.05
CLOCK_JUMP_S = 1.0
"""Seconds by which the wall clock may be adjusted during a repeat."""
ENERGY_S = 5.0
"""Seconds of steady state from which missing energy is worth a warning."""
BUSY_SHARE = 0.9
_SETTINGS = {
    "governor": "governor",
    "gpu_governor": "GPU's governor",
    "power_mode": "power mode",
}
REPEAT_RATIO = 0.9
"""Least time share of repeating one input: at most 10 % faster (MLPerf LoadGen's TEST04)."""


def judge(
    repeats: Sequence[Bench],
    job: Job,
    threads: int,
    *,
    gate_c: float | None = None,
    sustained: bool = False,
    budget: Budget | None = None,
    kernels: Kernels | None = None,
) -> Validity:
    """Return the reasons that make a measurement invalid, and warnings to read it with.

    `budget` is what was asked for, `gate_c` the temperature below which a repeat should start. In a
    `sustained` measurement throttling is a finding: a warning, and no reason. `kernels` is the
    arithmetic that an int8 file ran in.
    """
    slowed = ["the board throttled during the run"] if any(map(throttled, repeats)) else []
    reasons = [
        *_board_reasons(repeats),
        *_time_reasons(repeats),
        *(_count_reasons(repeats, budget) if budget is not None else ()),
        *_clock_and_heat_reasons(repeats, gate_c),
        *([] if sustained else slowed),
        *_output_reasons(repeats),
        *_expected_reasons(repeats, job),
    ]
    warnings = [
        *(slowed if sustained else []),
        *_warnings(repeats, threads),
        *_side_warnings(repeats),
        *(int8_warnings(job, kernels) if kernels is not None else ()),
    ]
    return Validity(reasons=tuple(dict.fromkeys(reasons)), warnings=tuple(dict.fromkeys(warnings)))


def agreement(answer: Bench, job: Job) -> tuple[float, int] | None:
    """Return the share of inputs with the expected answer, and their number; None if unknown."""
    if job.expected is None or answer.outputs is None:
        return None
    count = min(len(answer.outputs), len(job.expected))
    outputs = np.asarray(answer.outputs[:count])
    if outputs.shape != job.expected[:count].shape:
        return 0.0, count
    return job.agreement(outputs, job.expected[:count]), count


def _board_reasons(repeats: Sequence[Bench]) -> Iterator[str]:
    first = repeats[0]
    for answer in repeats:
        before, after = answer.state_before, answer.state_after
        if answer.provider != answer.wanted_provider:
            yield f"fallback: {answer.wanted_provider} was requested, {answer.provider} ran"
        beside = answer.telemetry.states if answer.telemetry else []
        for key, name in _SETTINGS.items():
            states = (first.state_before, before, *beside, after)
            values = {str(s[key]) for s in states if key in s}
            if len(values) > 1:
                yield f"the {name} changed during the run: {' and '.join(sorted(values))}"
        if answer.board != first.board or _software(answer) != _software(first):
            yield "the repeats ran on different boards or runtimes"


def _time_reasons(repeats: Sequence[Bench]) -> Iterator[str]:
    """Compare the times with the device's clock, and with this machine's, which saw the answers."""
    for answer in repeats:
        samples = answer.samples_ns
        if still := samples.count(0):
            yield f"{still} of {len(samples)} timed runs took 0 ns: the board's clock is too coarse"
        elif len(set(samples)) == 1 < len(samples):
            yield (
                f"all {len(samples)} timed runs took exactly {samples[0]:,} ns: the board's clock"
                " does not tell them apart"
            )
        if not answer.load_ns or not answer.first_ns:
            what = "loading" if not answer.load_ns else "the first inference"
            yield f"{what} took 0 ns: the board's clock is too coarse"
        seen = answer.host_s
        if seen is not None and answer.busy_s > seen * (1 + CLOCK_DRIFT) + CLOCK_SLACK_S:
            yield (
                f"the board reports {answer.busy_s:.3g} s of work, but {seen:.3g} s passed here:"
                " its clock is wrong"
            )
        yield from _steady_reasons(answer)


def _count_reasons(repeats: Sequence[Bench], budget: Budget) -> Iterator[str]:
    """Runs that are fewer than asked for, or more where none may come for the time's sake."""
    for answer in repeats:
        count = len(answer.samples_ns)
        if count < budget.runs or (count > budget.runs and not budget.seconds):
            yield f"{count} timed runs were received, {budget.runs} were requested"


def _steady_reasons(answer: Bench) -> Iterator[str]:
    """Compare the sum of the timed runs with the time from the first to the last."""
    if answer.steady is None:
        return
    span, total = answer.steady[1] - answer.steady[0], sum(answer.samples_ns) / 1e9
    if total > span * (1 + CLOCK_DRIFT) + CLOCK_SLACK_S / 10:
        yield (
            f"the timed runs add up to {total:.3g} s, and {span:.3g} s passed from the first to the"
            " last: the board's clocks contradict each other"
        )


def _clock_and_heat_reasons(repeats: Sequence[Bench], gate_c: float | None) -> Iterator[str]:
    for answer in repeats:
        if abs(answer.clock_jump_s) > CLOCK_JUMP_S:
            yield (
                f"the clock jumped by {answer.clock_jump_s:+.1f} s during the run: the board slept,"
                " or its time was set"
            )
        start = temperature(answer.state_before)
        if gate_c is not None and start is not None and start >= gate_c:
            yield (
                f"the board was at {start:.0f} °C at the start, after {answer.waited_s:.0f} s of"
                f" waiting for less than {gate_c:.0f} °C: cool it"
            )


def throttled(answer: Bench) -> bool:
    """Tell if the board was slowed down in a repeat, from its states before, during and after."""
    beside = answer.telemetry.states if answer.telemetry else []
    return any(
        new_throttling(answer.state_before, state) for state in (*beside, answer.state_after)
    )


def _software(answer: Bench) -> tuple[str, ...]:
    return answer.runtime, answer.runtime_version, answer.provider


def new_throttling(before: Facts, after: Facts) -> bool:
    """Tell if the board was slowed down between two states.

    A Raspberry Pi's flags: bits 0 to 3 are now, bits 16 to 19 since it started, so one of the
    latter that was set before proves nothing. Elsewhere: a cooling device of the processor that
    works harder than before.
    """
    old, new = before.get("throttled"), after.get("throttled")
    if isinstance(old, int) and isinstance(new, int) and (new & 0xF or new & ~old & 0xF0000):
        return True
    cooling = after.get("cooling")
    earlier = before.get("cooling")
    if not isinstance(cooling, dict) or not isinstance(earlier, dict):
        return False
    return any(
        cast(int, level) > cast(int, earlier[name])
        for name, level in cooling.items()
        if name in earlier
    )


def _output_reasons(repeats: Sequence[Bench]) -> Iterator[str]:
    for answer in repeats:
        if not answer.outputs_finite:
            yield "an output is not finite"
        if answer.outputs_differing:
            yield (
                f"{answer.outputs_differing} of {answer.outputs_checked} outputs of the timed runs"
                " differ from an untimed run on the same inputs"
            )


def _expected_reasons(repeats: Sequence[Bench], job: Job) -> Iterator[str]:
    for answer in repeats:
        agreed = agreement(answer, job)
        if agreed is None or job.expected is None or answer.outputs is None:
            continue
        share, count = agreed
        # A share asked of a whole validation set, held against a few inputs: one more may differ.
        allowed = math.floor((1 - job.tolerance.agreement) * count) + 1
        if round((1 - share) * count) > allowed:
            yield f"only {share:.0%} of {count} outputs agree with the reference"
        limit, expected = job.tolerance.difference, job.expected[:count]
        outputs = np.asarray(answer.outputs[:count])
        if limit is not None and outputs.shape == expected.shape:
            difference = float(np.abs(outputs - expected).max() / max(float(expected.std()), 1e-12))
            if difference > limit:
                yield (
                    f"logits differ from the reference by {difference:.2g} of their standard"
                    f" deviation (allowed {limit:.2g})"
                )


def _warnings(repeats: Sequence[Bench], threads: int) -> Iterator[str]:
    pooled = np.concatenate([answer.milliseconds for answer in repeats])
    medians = np.array([np.median(answer.milliseconds) for answer in repeats])
    spread = float(pooled.std() / max(float(pooled.mean()), 1e-12))
    if spread > (GPU_SPREAD if repeats[0].provider in GPUS else SPREAD):
        yield f"unsteady: the standard deviation is {spread:.0%} of the mean"
    if medians.max() > (1 + SPREAD) * medians.min():
        yield f"the repeats' medians differ by {medians.max() / medians.min() - 1:.0%}"
    if np.median(pooled) < SHORT_MS:
        yield f"below {SHORT_MS} ms the timer's own overhead matters: the median is approximate"
    if any(len(answer.samples_ns) >= MAX_RUNS for answer in repeats):
        yield f"a repeat ended at {MAX_RUNS:,} runs, before its time was over"
    share = min(answer.cpu_share for answer in repeats)
    if threads == 1 and share < BUSY_SHARE:
        yield f"the device was busy: a repeat had the processor {share:.0%} of the time"
    ratios = [answer.repeat_ratio for answer in repeats if answer.repeat_ratio is not None]
    if ratios and float(np.median(ratios)) < REPEAT_RATIO:
        yield f"one input run again and again took {np.median(ratios):.0%} of the time"
    if any(_events(a.state_after) > _events(a.state_before) for a in repeats):
        yield "over-current events were counted during the run"


def _side_warnings(repeats: Sequence[Bench]) -> Iterator[str]:
    """Warn of graphs that ran partly elsewhere, and of energy that could not be measured."""
    for answer in repeats:
        others = {n: c for n, c in (answer.nodes or {}).items() if n != answer.wanted_provider}
        if others and answer.nodes and answer.provider == answer.wanted_provider:
            places = " and ".join(f"{count} on {name}" for name, count in sorted(others.items()))
            yield f"of {sum(answer.nodes.values())} nodes of the graph {places} ran"
        if answer.telemetry is None or answer.telemetry.source is None or answer.steady is None:
            continue
        energy, seconds = energy_of(answer), answer.steady[1] - answer.steady[0]
        if not answer.telemetry.total:
            yield f"no energy: no rails of {answer.telemetry.source} add up to the whole board"
        elif energy is None and seconds >= ENERGY_S:
            yield "no energy: power was read too seldom"
        elif energy is not None and energy.net_mj is not None and energy.net_mj <= 0:
            yield "the board took no more power than idle: the net energy says nothing"


def int8_warnings(job: Job, kernels: Kernels) -> Iterator[str]:
    """Warn of an int8 file that ran partly in float, or whose sums may saturate."""
    export = job.export
    wanted = kernels.layers if job.quantised is None else job.quantised
    advice = ""
    if export.format == "onnx" and export.activations == "signed":
        advice = ": export with `activations: unsigned`"
    if wanted and not kernels.integer:
        yield f"no layer of this int8 file ran as integers here{advice}"
    elif kernels.integer < wanted:
        yield f"{wanted - kernels.integer} of {wanted} int8 layers ran in float here{advice}"
    if export.format == "onnx" and kernels.vnni is False and not export.reduce_range:
        yield (
            "this processor has no VNNI, so sums of 8-bit products may saturate: compare the"
            " accuracy with `reduce_range: true`"
        )


def _events(state: Facts) -> int:
    events = state.get("overcurrent_events")
    return sum(cast(int, n) for n in events.values()) if isinstance(events, dict) else 0
