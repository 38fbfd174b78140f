"""Frames of technique against technique: who contends with whom, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench import load_results, stats
from ktbench.records import Cell, Failure
from ktbench.results import Results
from ktbench.results.contenders import contenders
from ktbench.results.techniques import Techniques


def results_of(path: Path, shape: Shape) -> Results:
    return load_results(write_folder(path, shape).path)


def frame_of(tables: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Contenders of hand-made tables: student → technique → accuracy by seed."""
    rows = [
        {"student": student, "training": "", "technique": technique, "seed": seed}
        | {"method": technique, "teacher": "", "budget": "", "accuracy": value}
        | {"validation": value, "failed": False, "is_baseline": technique == "no transfer"}
        for student, techniques in tables.items()
        for technique, values in techniques.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_standings_are_the_best_set_of_each_student_alone(tmp_path: Path) -> None:
    shape = Shape(gains={"kd": 0.1, "attention": 0.09, "fitnet": -0.05}, seeds=5, epochs=2)
    results = results_of(tmp_path / "run", shape)
    frame = results.techniques
    assert len(frame) == 3 * 4
    for student, own in frame.groupby("student", sort=False):
        cells = results.cells[results.cells["student"] == student]
        table = cells.pivot_table(index="method", columns="seed", values="accuracy")
        chosen = stats.best_set(table.to_numpy())
        inside = set(table.index[chosen.inside])
        assert set(own.loc[own["standing"] != "clearly worse", "method"]) == inside
        assert own["accuracy"].is_monotonic_decreasing
        by_method = own.set_index("method").loc[list(table.index)]
        assert by_method["p"].to_numpy() == pytest.approx(chosen.p)
        assert by_method["behind"].to_numpy() == pytest.approx(chosen.behind)
    assert frame.loc[frame["is_baseline"], "technique"].unique().tolist() == ["no transfer"]
    assert set(frame["standing"]) >= {"clearly worse"}


@pytest.mark.slow
def test_pairs_are_one_family_over_students_and_leave_no_transfer_out(tmp_path: Path) -> None:
    results = results_of(tmp_path / "run", Shape(seeds=5, epochs=2))
    frame = results.technique_pairs
    assert len(frame) == 3 * 3
    assert "no transfer" not in set(frame["technique"]) | set(frame["other"])
    assert (frame["difference"] >= 0).all() and (frame["low"] <= frame["high"]).all()
    assert frame["p_holm"].to_numpy() == pytest.approx(stats.holm(frame["p"]))
    assert (frame["sign"] == "positive").tolist() == (frame["p_holm"] <= 0.05).tolist()
    letters = results.techniques.set_index(["student", "technique"])["letters"]
    for row in frame.to_dict("records"):
        first, second = (set(letters[row["student"], row[n]]) for n in ("technique", "other"))
        assert bool(first & second) == (row["sign"] != "positive")


@pytest.mark.slow
def test_the_tables_are_plain_enough_for_json(tmp_path: Path) -> None:
    results = results_of(tmp_path / "run", Shape(seeds=3, epochs=2))
    for frame in (results.techniques, results.technique_pairs):
        assert len(json.loads(frame.to_json(orient="records"))) == len(frame) > 0


def test_a_technique_contends_with_those_of_the_same_training(tmp_path: Path) -> None:
    cells = results_of(tmp_path / "run", Shape(students=("resnet8",), seeds=2, epochs=2)).cells
    odd: dict[str, dict[str, str]] = {key: {} for key in cells["key"]}
    for key in cells.loc[cells["method"].isin(["none", "kd"]) & (cells["seed"] == 0), "key"]:
        odd[key] = {"epochs": "9"}  # no transfer has this training too
    for key in cells.loc[cells["method"] == "fitnet", "key"]:
        odd[key] = {"lr": "0.2"}  # no transfer does not
    for key in cells.loc[cells["method"] == "attention", "key"]:
        odd[key] = {"distill.end": "0.5"}  # part of the technique
    frame = contenders(cells, odd)
    seen = {(r.training, r.technique) for r in frame.itertuples()}
    assert seen == {
        *(("", name) for name in ("no transfer", "kd", "fitnet [lr=0.2]")),
        ("", "attention [distill.end=0.5]"),
        *(("epochs=9", name) for name in ("no transfer", "kd")),
    }


def test_trainings_of_several_lengths_are_told_by_their_epochs(tmp_path: Path) -> None:
    cells = results_of(tmp_path / "run", Shape(students=("resnet8",), seeds=2, epochs=2)).cells
    cells["budget_epochs"] = np.where(cells["seed"] == 0, 2, 9)
    frame = contenders(cells, {key: {} for key in cells["key"]})
    assert set(frame["training"]) == {"epochs=2", "epochs=9"}
    assert set(frame["technique"]) == {"no transfer", "kd", "attention", "fitnet"}


def test_several_teachers_are_part_of_a_techniques_name(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), teachers=("big", "half"), seeds=3, epochs=2)
    frame = results_of(tmp_path / "run", shape).techniques
    assert {"kd ← big", "kd ← half", "no transfer"} <= set(frame["technique"])


def test_what_has_no_figures_does_not_contend_and_few_seeds_are_not_judged(tmp_path: Path) -> None:
    def failed(cell: Cell) -> Failure | None:
        crash = Failure(stage="train", reason="the machine went away")
        return crash if cell.method.name == "fitnet" else None

    shape = Shape(students=("resnet8",), seeds=2, epochs=2, failed=failed)
    frame = results_of(tmp_path / "run", shape).techniques
    assert set(frame["method"]) == {"none", "kd", "attention"}
    assert set(frame["standing"]) == {"not judged"} and set(frame["letters"]) == {""}
    none = results_of(tmp_path / "empty", Shape(seeds=2, epochs=2, missing=lambda _: True))
    assert none.techniques.empty and none.technique_pairs.empty


def test_a_failure_that_counts_is_told_and_pulls_its_technique_down() -> None:
    frame = frame_of({"s": {"kd": [0.7, 0.71, 0.72, 0.71, 0.7], "at": [0.6, 0.62, 0.6, 0.1, 0.61]}})
    frame["failed"] = frame["accuracy"] == 0.1
    told = Techniques(frame).standings.set_index("technique")
    assert told.loc["at", "failed"] == 1 and told.loc["kd", "failed"] == 0
    assert told.loc["at", "accuracy"] == pytest.approx(0.506)
    short = Techniques(
        frame[frame["seed"] > 0]
    ).standings  # four seeds say nothing of a failing technique
    assert set(short["standing"]) == {"not judged"}
    assert Techniques(frame[frame["seed"] > 0]).pairs["sign"].tolist() == ["unknown"]


def test_techniques_over_students_are_compared_by_their_mean_seed_by_seed() -> None:
    draws = np.random.default_rng(3)
    gains = {"no transfer": 0.0, "kd": 0.02, "at": 0.01, "fitnet": -0.02}
    tables = {
        student: {
            technique: (0.5 + gain + draws.normal(0, 0.004, 5)).tolist()
            for technique, gain in gains.items()
        }
        for student in ("a", "b", "c")
    }
    tables["c"]["extra"] = [0.9] * 5
    [whole] = Techniques(frame_of(tables)).over_students
    assert whole.students == ["a", "b", "c"] and whole.left_out == ["extra"]
    mean = np.mean([[tables[s][t] for t in gains] for s in "abc"], axis=0)
    chosen = stats.best_set(mean)
    told = whole.standings.set_index("technique").loc[list(gains)]
    assert told["p"].to_numpy() == pytest.approx(chosen.p)
    assert told["standing"].tolist() == ["clearly worse", "best", "clearly worse", "clearly worse"]
    assert told["rank"].tolist() == [3.0, 1.0, 2.0, 4.0]
    assert whole.friedman_p <= 0.01 and set(told["letters"]) == {"a", "ab", "b"}


def test_two_students_have_a_mean_and_no_ranks_and_one_has_neither() -> None:
    rows = {"kd": [0.7, 0.71, 0.72], "at": [0.6, 0.62, 0.6], "no transfer": [0.5, 0.51, 0.5]}
    [two] = Techniques(frame_of({"a": rows, "b": rows})).over_students
    assert np.isnan(two.friedman_p) and two.standings["rank"].isna().all()
    assert two.standings["standing"].tolist()[0] in ("best", "may be best")
    assert Techniques(frame_of({"a": rows})).over_students == []
    apart = frame_of({"a": rows, "b": rows})
    is_kd, is_a = apart["technique"] == "kd", apart["student"] == "a"
    apart = apart[~is_kd | ((apart["seed"] == 0) == is_a)]  # kd has no seed on both students
    [without] = Techniques(apart).over_students
    assert without.left_out == ["kd"] and len(without.standings) == 2
