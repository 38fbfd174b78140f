"""Seeds that fail count in the verdict, and everything that is doubtful says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import failing_seeds
from benchmarks._synthetic import (
    EXPORTS,
    LOCAL,
    PROVENANCE,
    Shape,
    measurement_of,
    plan_of,
    result_of,
    slower,
    write_folder,
)
from ktbench import stats
from ktbench.compare import compare
from ktbench.compare.rendering import markdown
from ktbench.records import Cell, Checkpoint, Failure, Plan, Result, Teacher, Validity
from ktbench.report import write_report
from ktbench.report.analysis import Analysis
from ktbench.report.cell_details import page_data
from ktbench.report.verdict import best_methods, sentences
from ktbench.results import ResultsFolder, load_results

NAN = Failure(stage="train", reason="loss term 'hint' became nan at step 31", step=31)
KILLED = Failure(stage="train", reason="killed by SIGKILL while training")
STUDENT = ("resnet8",)


def failing(**seeds: tuple[int, ...]) -> Shape:
    """A matrix of five seeds, of which a method's named ones diverge."""
    return Shape(
        students=STUDENT,
        gains={"kd": 0.03, "attention": 0.03},
        seeds=5,
        epochs=4,
        exports=EXPORTS[:1],
        failed=lambda cell: NAN if cell.seed in seeds.get(cell.method.name, ()) else None,
    )


def _analysis(path: Path, shape: Shape) -> Analysis:
    return Analysis(load_results(write_folder(path, shape).path))


def _group(analysis: Analysis, method: str) -> pd.Series:
    frame = analysis.gains.set_index("method")
    return frame.loc[method]


# ---------------------------------------------------------------- the verdict


def test_a_method_that_diverges_in_two_of_five_seeds_is_judged_on_five(tmp_path: Path) -> None:
    analysis = _analysis(tmp_path / "run", failing(kd=(1, 3)))
    kd, cells = _group(analysis, "kd"), analysis.cells
    base = cells[cells["is_baseline"]].set_index("seed")["accuracy"]
    own = cells[cells["method"] == "kd"].set_index("seed")["accuracy"].fillna(0.1)
    assert kd["gain"] == pytest.approx((own - base).mean())
    assert (kd["n"], kd["planned"], kd["arrived"], kd["own_failures"]) == (5, 5, 3, 2)
    assert kd["gain"] < -0.2 < 0 < kd["protocol_gain"]
    assert kd["sign"] != "positive"
    assert _group(analysis, "attention")["sign"] == "positive"
    assert best_methods(analysis)["method"].tolist() == ["attention"]  # kd's three look as good
    # The heat of other helpers: one row per cell that counts.
    outcomes = analysis.outcomes
    assert list(outcomes) == ["student", "technique", "seed", "accuracy"]
    assert (outcomes["accuracy"] == 0.1).sum() == 2


@pytest.mark.slow
def test_a_failure_that_is_no_deed_of_the_method_is_missing_and_marked(tmp_path: Path) -> None:
    shape = failing()
    killed = {("kd", 2)}
    shape = Shape(
        students=shape.students,
        gains=shape.gains,
        seeds=5,
        epochs=4,
        failed=lambda cell: KILLED if (cell.method.name, cell.seed) in killed else None,
    )
    write_folder(tmp_path / "run", shape)
    write_report(tmp_path / "run")
    analysis = Analysis(load_results(tmp_path / "run"))
    kd = _group(analysis, "kd")
    assert (kd["n"], kd["planned"], kd["own_failures"]) == (4, 5, 0)
    assert kd["gain"] == pytest.approx(kd["protocol_gain"])
    words = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "4 of 5 seeds" in words  # the table of signs
    svg = (tmp_path / "run" / "report" / "figures" / "gains.svg").read_text(encoding="utf-8")
    assert "n = 4 of 5" in svg


@pytest.mark.slow
def test_rate_and_gain_of_seeds_that_finish_stand_beside_every_gain(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", failing(kd=(1, 3)))
    place = write_report(tmp_path / "run").parent
    analysis = Analysis(load_results(tmp_path / "run"))
    kd = _group(analysis, "kd")
    told = f"{100 * kd['protocol_gain']:+.1f}"
    words = (place / "report.md").read_text()
    assert "**kd** fails in 2 of 5 seeds on resnet8" in words
    assert f"; {told} [" in words
    assert "among seeds that finished" in words
    low, high = (float(bound[0]) for bound in stats.wilson([2], [5]))
    assert f"2 of 5 [{100 * low:.0f} to {100 * high:.0f} %]" in words
    svg = (place / "figures" / "gains.svg").read_text(encoding="utf-8")
    assert "2 failed" in svg
    assert f"{told} if it finishes" in svg
    for name in ("gains", "failed-seeds", "verdict", "unsettled"):
        frame = pd.read_csv(place / "tables" / f"{name}.csv")
        assert {"own_failures", "planned", "protocol_gain"} <= set(frame.columns), name


@pytest.mark.slow
def test_two_seeds_give_no_verdict_and_the_page_says_what_to_run(tmp_path: Path) -> None:
    shape = Shape(students=STUDENT, gains={"kd": 0.3}, seeds=2, epochs=2)
    analysis = _analysis(tmp_path / "run", shape)
    assert _group(analysis, "kd")["sign"] == "unknown"
    assert np.isnan(_group(analysis, "kd")["p"])
    [told] = [line for line in sentences(analysis) if "no verdict" in line]
    assert "3 more seeds" in told
    assert "ktbench plan MATRIX.yaml --settle" in told


@pytest.mark.slow
def test_compare_counts_failed_seeds_on_their_side(tmp_path: Path) -> None:
    for name, shape in (("a", failing()), ("b", failing(kd=(0, 1, 2, 3, 4)))):
        write_folder(tmp_path / name, shape)
    found = compare(tmp_path / "a", tmp_path / "b")
    [row] = [a for a in found.accuracies if a.group.method == "kd" and not a.export]
    assert (row.failed_before, row.failed_after, row.n_after) == (0, 5, 5)
    assert row.after == pytest.approx(0.1)
    assert row.verdict == "regression"
    assert "0 of 5 → 5 of 5" in markdown(found)
    write_folder(tmp_path / "c", failing(kd=(0, 1)))
    found = compare(tmp_path / "a", tmp_path / "c")
    [row] = [a for a in found.accuracies if a.group.method == "kd" and not a.export]
    assert row.verdict == "no clear change"  # two failures are no proof
    assert row.arrived == pytest.approx(0.0, abs=1e-9)
    assert "0.0 among seeds that finished" in markdown(found)


def test_two_seeds_cannot_be_compared(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.2)):
        write_folder(tmp_path / name, Shape(students=STUDENT, gains={"kd": gain}, seeds=2))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert {a.verdict for a in found.accuracies if a.group.method == "kd"} <= {
        "cannot be judged",
        "same",
    }
    assert "fewer than 3 seeds and no verdict" in markdown(found)


# ---------------------------------------------------------------- the simulation, in small


@pytest.mark.parametrize(
    ("world", "rule"),
    [
        (failing_seeds.BOTH, failing_seeds._shown),
        (failing_seeds.ALONE, failing_seeds._with_risk),
    ],
)
def test_intervals_cover_where_a_fifth_of_the_seeds_fail(
    world: failing_seeds.World, rule: failing_seeds.Rule
) -> None:
    share = failing_seeds.coverage(world, rule, 5, studies=2000)
    assert 0.93 <= share <= 0.97
    assert failing_seeds.coverage(failing_seeds.ALONE, failing_seeds._students_t, 5, 2000) < 0.7


@pytest.mark.slow
def test_few_tables_have_a_false_sign_where_a_fifth_of_the_seeds_fail() -> None:
    assert failing_seeds.false_signs(0.2, 5, tables=60) <= 0.1


# ---------------------------------------------------------------- times to a target


@pytest.mark.slow
def test_seeds_that_never_reach_the_target_are_censored_and_not_left_out(tmp_path: Path) -> None:
    shape = Shape(students=STUDENT, gains={"kd": 0.03, "fitnet": -0.2}, seeds=5, epochs=6)
    failed = failing(kd=(1, 3)).failed
    analysis = _analysis(
        tmp_path / "run",
        Shape(students=STUDENT, gains=shape.gains, seeds=5, epochs=6, failed=failed),
    )
    frame = analysis.convergence.set_index("method")
    kd, fitnet = frame.loc["kd"], frame.loc["fitnet"]
    assert (kd["reached"], kd["seeds"], kd["censored"]) == (3, 5, 2)
    arrived = analysis.arrivals
    own = arrived.loc[arrived["method"] == "kd", "epoch"]
    assert kd["within_epoch"] == pytest.approx((own.sum() + 2 * 6) / 5)
    assert kd["within_epoch"] > kd["epoch"]
    assert kd["x_within"] < kd["x_epoch"]
    assert (fitnet["reached"], fitnet["censored"]) == (0, 5)
    assert np.isnan(fitnet["median_epoch"])


# ---------------------------------------------------------------- means first, marks everywhere


@pytest.mark.slow
def test_a_cells_details_tell_the_mean_and_interval_before_its_own_seed(tmp_path: Path) -> None:
    data = page_data(_analysis(tmp_path / "run", failing(kd=(1, 3))))
    for cell in data["cells"].values():
        names = [name for name, _ in cell["facts"]]
        assert names[0] == "test accuracy, all seeds"
        assert "[" in cell["facts"][0][1]
        if "test accuracy, this seed" in names and "kd" in cell["title"]:
            assert names.index("gain over no transfer, all seeds") < names.index(
                "test accuracy, this seed"
            )


@pytest.mark.slow
def test_the_headlines_accuracies_are_means_with_their_interval(tmp_path: Path) -> None:
    lines = sentences(_analysis(tmp_path / "run", failing()))
    [told] = [line for line in lines if "most accurate" in line]
    assert re.search(r"\d\d\.\d % \[\d\d\.\d, \d\d\.\d\] \(n = 5\) at", told)


def _measured(path: Path, validity: Validity, p50: float = 7.77) -> Path:
    shape = Shape(
        students=STUDENT, gains={"kd": 0.03}, seeds=3, epochs=2, exports=EXPORTS[:1], devices=()
    )
    plan = plan_of(shape).model_copy(update={"devices": (LOCAL,)})
    folder = ResultsFolder(path)
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for cell in plan.cells:
            folder.write_result(result_of(folder, cell, shape))
        first = measurement_of(plan.cells[0], EXPORTS[0], LOCAL, validity=validity)
        folder.write_measurement(slower(first, p50))
    return path


@pytest.mark.slow
def test_a_doubtful_latency_carries_its_mark_wherever_it_stands(tmp_path: Path) -> None:
    doubt = Validity(warnings=("the spread is 14 %",))
    run = _measured(tmp_path / "run", doubt)
    place = write_report(run).parent
    words = (place / "report.md").read_text()
    figures = [line for line in words.splitlines() if re.search(r"\b7\.77\b", line)]
    assert len(figures) >= 4  # headline, verdict, front, every measurement
    for line in figures:
        assert (
            "7.77 ms measured (doubtful: the spread is 14 %)" in line
            or "7.77 [" in line
            or ("7.77 †" in line)
        ), line
        assert "†" in line or "doubtful" in line, line
    assert "hollow: doubtful" in (place / "figures" / "latency.svg").read_text(encoding="utf-8")
    for name in ("verdict", "front-latency"):
        assert pd.read_csv(place / "tables" / f"{name}.csv")["doubtful"].any(), name
    for name in ("deployed", "latency"):
        told = pd.read_csv(place / "tables" / f"{name}.csv")["warnings"]
        assert (told == "the spread is 14 %").any(), name
    details = json.dumps(page_data(Analysis(load_results(run))), ensure_ascii=False)
    assert "†" in details
    found = compare(run, _measured(tmp_path / "other", Validity()))
    assert found.latencies[0].doubtful_before
    assert not found.latencies[0].doubtful_after
    assert "7.77 † |" in markdown(found)
    assert "doubtful in A: the spread is 14 %" in markdown(found)


@pytest.mark.slow
def test_a_sound_latency_has_no_mark(tmp_path: Path) -> None:
    place = write_report(_measured(tmp_path / "run", Validity())).parent
    assert "†" not in (place / "report.md").read_text()


# ---------------------------------------------------------------- teachers


def _teacher(name: str, digest: str) -> Teacher:
    [cell, *_] = plan_of(Shape(students=("vgg13",), gains={"kd": 0.0}, seeds=1)).cells
    return Teacher(name=name, cell=cell, checkpoint=f"{name}.pt", checkpoint_digest=digest * 16)


@pytest.mark.slow
def test_teachers_of_one_network_with_other_checkpoints_keep_their_own_figures(
    tmp_path: Path,
) -> None:
    shape = Shape(students=STUDENT, gains={"kd": 0.02}, seeds=1, epochs=2, exports=(), devices=())
    plain, taught = plan_of(shape).cells
    levels = {"early": 0.6, "late": 0.9}
    teachers = {name: _teacher(name, name[0].replace("l", "b")) for name in levels}
    settings = {name: getattr(taught, name) for name in Cell.model_fields}
    cells = tuple(
        Cell.model_validate({**settings, "teacher": teacher}) for teacher in teachers.values()
    )
    plan = Plan(name="two", base="/", cells=(plain, *cells), skips=(), exports=(), devices=())
    folder = ResultsFolder(tmp_path / "run")
    with folder.open(plan, "", PROVENANCE, data_digest="d" * 16):
        for cell in plan.cells:
            folder.write_result(_with_teacher(result_of(folder, cell, shape), levels))
    frame = load_results(tmp_path / "run").teachers.set_index("name")
    assert frame.loc["early", "key"] == frame.loc["late", "key"]
    assert frame["accuracy"].to_dict() == levels
    page = write_report(tmp_path / "run").with_name("report.md").read_text()
    assert re.search(r"\| early \| vgg13[^|]* \| 60\.0 %", page)
    assert re.search(r"\| late \| vgg13[^|]* \| 90\.0 %", page)


def _with_teacher(result: Result, levels: dict[str, float]) -> Result:
    if result.teacher is None or not isinstance(result.cell.teacher, Teacher):
        return result
    level = levels[result.cell.teacher.name]
    accuracy = result.teacher.accuracy.model_copy(
        update=dict.fromkeys(
            ("validation_last", "validation_best", "test_last", "test_best"), level
        )
    )
    teacher: Checkpoint = result.teacher.model_copy(update={"accuracy": accuracy})
    return result.model_copy(update={"teacher": teacher})
