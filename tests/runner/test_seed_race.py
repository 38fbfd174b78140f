"""Seeds that are added one by one: `seeds: {start: 3, most: 7}`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktbench.matrix import json_schema, load, plan
from ktbench.results import load_results
from ktbench.runner.seed_race import first_seeds
from tests.support.running import Commands, digests, results, write_matrix

METHODS = ["none", "kd", "hard_logits"]


def _run(ktbench: Commands, folder: Path, seeds: object) -> dict[str, str]:
    matrix = write_matrix(folder / "matrix.yaml", methods=METHODS, seeds=seeds)
    assert ktbench("run", matrix, "--results", folder / "results").code == 0
    return digests(folder / "results")


def test_a_race_begins_with_its_first_seeds(tmp_path: Path) -> None:
    race = {"start": 3, "most": 6}
    whole = plan(load(write_matrix(tmp_path / "m.yaml", methods=METHODS, seeds=race)))
    assert {cell.seed for cell in whole.cells} == set(range(6))
    first = first_seeds(whole)
    assert {cell.seed for cell in first.cells} == {0, 1, 2}
    assert len(first.cells) == 3 * len(METHODS) and first.race == whole.race
    plain = plan(load(write_matrix(tmp_path / "p.yaml", methods=METHODS, seeds=6)))
    assert [cell.key for cell in plain.cells] == [cell.key for cell in whole.cells]
    assert first_seeds(plain) == plain


@pytest.mark.slow
def test_seeds_are_added_to_what_is_open_and_weights_are_those_of_any_run(
    ktbench: Commands, tmp_path: Path
) -> None:
    ours = _run(ktbench, tmp_path / "race", {"start": 3, "most": 5})
    everything = _run(ktbench, tmp_path / "plain", 5)
    assert ours.items() <= everything.items()
    finished = load_results(tmp_path / "race" / "results")
    assert finished.lock.plan.race is not None and finished.lock.plan.race.most == 5
    assert {cell.label for cell in finished.lock.plan.cells} == set(ours)
    from ktbench.report.analysis import Analysis

    gains = Analysis(finished).gains
    compared = gains[~gains["is_baseline"]]
    assert set(compared["race"]) <= {"decided", "hopeless", "exhausted"}
    for row in compared.itertuples():
        cells = finished.cells[finished.cells["method"] == row.method]
        assert list(cells["seed"]) == list(range(row.n)) and 3 <= row.n <= 5
        assert row.n == 5 or row.race in ("decided", "hopeless")
        assert (row.sign != "none") == (row.race == "decided")
    baseline = finished.cells[finished.cells["method"] == "none"]
    assert len(baseline) == compared["n"].max()

    again = ktbench("run", tmp_path / "race" / "matrix.yaml", "--results", finished.path)
    assert again.code == 0 and f"0 cells done, {len(ours)} reused" in again.err
    assert digests(finished.path) == ours


@pytest.mark.slow
def test_a_race_can_wait_after_its_first_seeds_and_go_on(ktbench: Commands, tmp_path: Path) -> None:
    waiting = _run(ktbench, tmp_path, {"start": 3, "most": 4, "decide": False})
    assert len(waiting) == 3 * len(METHODS)
    gone_on = _run(ktbench, tmp_path, {"start": 3, "most": 4})
    assert waiting.items() <= gone_on.items()
    assert len(results(tmp_path / "results")) == len(gone_on)


def test_the_lock_of_other_matrices_is_as_before(ktbench: Commands, tmp_path: Path) -> None:
    _run(ktbench, tmp_path, 1)
    assert "race" not in json.loads((tmp_path / "results" / "lock.json").read_text())["plan"]


@pytest.mark.parametrize(
    "seeds, words",
    [
        ({"start": 5, "most": 3}, "seeds: start must be at most 3 (most), not 5"),
        ({"start": 1}, "seeds.start: must be at least 3, not 1"),
        ({"begin": 3}, "seeds.begin: unknown key: known are start, most, decide"),
        ({"most": 2.5}, "seeds.most: must be a whole number, not 2.5"),
        ("x", "seeds: must be a whole number, not 'x'"),
    ],
)
def test_what_is_no_race_is_one_line(
    ktbench: Commands, tmp_path: Path, seeds: object, words: str
) -> None:
    answer = ktbench("plan", write_matrix(tmp_path / "m.yaml", seeds=seeds))
    assert answer.code == 2 and answer.error.endswith(words)


def test_editors_know_both_forms() -> None:
    forms = json_schema()["properties"]["seeds"]["anyOf"]
    assert {"$ref": "#/$defs/SeedRace"} in forms
    assert any(form.get("type") == "integer" for form in forms)
    assert any(form.get("type") == "array" for form in forms)
