"""Figures are written the same everywhere."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktbench.report import numbers, scores


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.924, "92.4 %"), (1.0, "100.0 %"), (None, "–"), (math.nan, "–"), (pd.NA, "–")],
)
def test_an_accuracy_is_a_percentage_with_one_decimal(value: object, shown: str) -> None:
    assert numbers.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.021, "+2.1"), (-0.0104, "−1.0"), (0.0001, "0.0"), (-0.0001, "0.0")]
)
def test_a_difference_has_its_sign_unless_it_shows_as_zero(value: float, shown: str) -> None:
    assert scores.gain(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.012345, "0.0123"),
        (9.996, "10.0"),
        (123.4, "123"),
        (12345.0, "12,300"),
        (0.0999999, "0.100"),
    ],
)
def test_a_latency_has_three_significant_digits(value: float, shown: str) -> None:
    assert numbers.milliseconds(value) == shown


@given(st.floats(1e-6, 1e9))
def test_three_significant_digits_are_within_half_a_percent(value: float) -> None:
    shown = float(numbers.significant(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.500 s"), (89.0, "89.0 s"), (120.0, "2.0 min"), (7200.0, "2.0 h"), (0.0, "0 s")],
)
def test_seconds_take_the_unit_that_reads_best(value: float, shown: str) -> None:
    assert numbers.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(999, "999 B"), (45_100, "45.1 kB"), (2_000_000, "2.00 MB")]
)
def test_a_size_has_a_decimal_prefix(value: int, shown: str) -> None:
    assert numbers.size(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.31, "0.31"), (1.2e-6, "1.2e−6"), (0.0, "0")])
def test_a_tiny_difference_is_a_power_of_ten(value: float, shown: str) -> None:
    assert numbers.small(value) == shown


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (1.852, 1.2, 2.9, "1.85× [1.20, 2.90]"),
        (0.4233, 0.3171, 0.5649, "0.42× [0.32, 0.56]"),
        (0.0884, 0.0664, 0.118, "0.088× [0.066, 0.12]"),
        (12.34, math.nan, math.nan, "12.3×"),
        (math.nan, 1.0, 2.0, "–"),
    ],
)
def test_a_speedup_has_the_digits_that_its_interval_is_worth(
    value: float, low: float, high: float, shown: str
) -> None:
    assert numbers.speedup(value, low, high) == shown
