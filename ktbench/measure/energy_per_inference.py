"""Energy per inference from power that was sampled beside a run; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktbench.measure.agent_schema import Bench, Telemetry

LEAST_SAMPLES = 5
"""Fewest readings of power within a span that is integrated."""
LONGEST_GAP = 10
"""Most intervals between two readings; a longer gap leaves too much to guess."""
SUSTAINED_PART = 0.1

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one repeat: millijoules per inference, and mean power in watts."""

    energy_mj: float
    net_mj: float | None
    power_w: float
    idle_w: float | None


def energy_of(answer: Bench) -> Energy | None:
    """Return the energy per inference of a repeat, or None if power was not read well enough.

    Energy is the integral of the whole board's power over the steady state (trapezoids between
    readings, the line between two of them at the ends), divided by its runs. What the board takes
    idle, read before the model was loaded, is subtracted for the net figure.
    """
    if answer.telemetry is None or answer.steady is None:
        return None
    series = total_power(answer.telemetry)
    joules = integral(series, answer.steady, answer.telemetry.interval_s)
    if joules is None:
        return None
    seconds, runs = answer.steady[1] - answer.steady[0], len(answer.samples_ns)
    idle_w = None
    if answer.idle is not None:
        idle = integral(series, answer.idle, answer.telemetry.interval_s)
        idle_w = None if idle is None else idle / (answer.idle[1] - answer.idle[0])
    return Energy(
        energy_mj=joules / runs * 1e3,
        net_mj=None if idle_w is None else (joules - idle_w * seconds) / runs * 1e3,
        power_w=joules / seconds,
        idle_w=idle_w,
    )


def total_power(telemetry: Telemetry) -> Series:
    """Return times (N,) in seconds and the whole board's power (N,) in watts.

    Readings that lack a rail are left out; none remain if no rails add up to the whole board.
    """
    columns = [1 + telemetry.rails.index(name) for name in telemetry.total]
    rows = [
        (row[0], sum(v for v in values if v is not None))
        for row in telemetry.watts
        if (values := [row[column] for column in columns]) and None not in values
    ]
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def integral(series: Series, span: Sequence[float], interval_s: float) -> float | None:
    """Return joules over a span (trapezoidal rule); None for too few readings or too wide gaps."""
    times, watts = series
    begin, end = span
    inside = (times >= begin) & (times <= end)
    if inside.sum() < LEAST_SAMPLES:
        return None
    grid = np.concatenate([[begin], times[inside], [end]])
    if np.diff(grid).max() > LONGEST_GAP * interval_s:
        return None
    return float(np.trapezoid(np.interp(grid, times, watts), grid))


def slowdown(answer: Bench) -> float:
    """Return the median of the last tenth of the steady state over that of the first tenth."""
    ends = np.cumsum(answer.milliseconds)
    edge = SUSTAINED_PART * ends[-1]
    first = answer.milliseconds[ends <= max(edge, ends[0])]
    last = answer.milliseconds[ends > ends[-1] - edge]
    return float(np.median(last) / max(float(np.median(first)), 1e-12))


def hottest(answer: Bench) -> float | None:
    """Return the highest temperature that was seen before, during and after the run."""
    temperatures = [temperature(answer.state_before), temperature(answer.state_after)]
    for state in answer.telemetry.states if answer.telemetry else ():
        value = state.get("temperature_c")
        temperatures.append(value if isinstance(value, float) else None)
    return max((value for value in temperatures if value is not None), default=None)


def temperature(state: object) -> float | None:
    """Return the hottest sensor of a board's state, in degrees Celsius."""
    sensors = state.get("temperatures_c") if isinstance(state, dict) else None
    values = sensors.values() if isinstance(sensors, dict) else ()
    return max((float(v) for v in values if isinstance(v, (int, float))), default=None)
