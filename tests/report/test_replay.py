"""Finished studies replayed as a race of seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ktbench import stats
from ktbench.records import KtbenchError
from ktbench.report.analysis import GROUP, Analysis
from ktbench.report.replay import replay
from ktbench.results import load_results
from tests.support.running import Commands

STUDY = Path(__file__).parents[2] / "results" / "reference" / "elastic-small.ktb"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return Analysis(load_results(STUDY))


@pytest.mark.slow
def test_a_race_asks_for_seeds_until_nothing_is_open(analysis: Analysis) -> None:
    raced = replay(analysis, start=3)
    cells = analysis.cells
    assert raced.rule == stats.SeedRule(3, 5)
    for one in raced.comparisons:
        rows = cells[(cells["student"] == one.student) & (cells["label"] == one.method)]
        gains = rows.sort_values("seed")["gain_itt"].to_numpy(float)
        assert one.gain == pytest.approx(gains[: one.spent].mean())
        assert one.seeds == len(gains) == 5
        before = stats.intervals(gains[: one.spent - 1], np.zeros(one.spent - 1, dtype=int), 1)
        if one.spent > 3:
            assert stats.standing(before, raced.rule).states == ["open"]
    assert raced.trainings == 10 >= raced.spent
    assert raced.seconds == pytest.approx(
        float((cells["seconds"] + cells["teacher_seconds"].fillna(0)).sum())
    )
    assert {name[0] for name in cells.groupby(GROUP).groups} == {
        one.student for one in raced.comparisons
    }


@pytest.mark.slow
def test_more_seeds_than_there_are_cannot_be_raced(analysis: Analysis) -> None:
    with pytest.raises(KtbenchError, match="has at most 5 seeds, and a race begins with 6"):
        replay(analysis, start=6)


@pytest.mark.slow
def test_the_command_prints_the_race_and_its_json(ktbench: Commands) -> None:
    said = ktbench("replay", str(STUDY))
    assert "1 comparison with no transfer, 3 to 5 seeds" in said.out
    assert "of 10 trainings" in said.out
    raced = json.loads(ktbench("replay", str(STUDY), "--json").out)
    assert raced["trainings"] == 10 and len(raced["comparisons"]) == 1
    refused = ktbench("replay", str(STUDY), "--most", "2")
    assert refused.code == 2
    assert refused.error == "ktbench: --most 2: must not be below --start 3"
