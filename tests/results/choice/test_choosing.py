"""Which file is taken within limits, and how sure that is said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._synthetic import LOCAL, Shape, write_folder
from ktbench import stats
from ktbench.records import ACCURACY, Failure, KtbenchError, Metric
from ktbench.results import Results, load_results
from ktbench.results.choice import Choice, best, limits_of
from ktbench.results.choice.words import as_json, lines
from tests.support.running import Commands

SHAPE = Shape(students=("resnet8", "vgg_thin"), gains={"kd": 0.08, "fitnet": -0.05}, epochs=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load_results(write_folder(tmp_path_factory.mktemp("run") / "r", SHAPE).path)


def chosen(results: Results, device: str | None = None, **limits: Any) -> Choice:
    return best(results, limits_of(results.metric, **limits), device)


def test_the_best_on_validation_within_the_limits_is_taken(results: Results) -> None:
    choice = chosen(results, p90="1ms", size="60kB")
    frame = results.deployed
    small = frame[(frame["p90_ms_high"] <= 1) & (frame["bytes"] <= 60_000)]
    means = small.groupby(["student", "method", "export"])["validation_accuracy"].mean()
    file = choice.file.candidate
    assert (file.contender.student, file.contender.technique) == means.idxmax()[:2]
    rows = small[(small["student"] == file.contender.student) & (small["export"] == file.export)]
    rows = rows[rows["method"] == file.contender.technique].set_index("key")
    assert file.key == rows["validation_accuracy"].idxmax()
    assert file.test.mean == pytest.approx(rows["artifact_accuracy"].mean())
    assert {check.verdict for check in choice.file.checks} == {"held"}
    assert any("size limit missed" in one.kind for one in choice.left_out)


def test_a_limit_is_held_by_the_upper_bound_or_said_to_be_missed_by_it(results: Results) -> None:
    """A p90 of 0.11 × size × ... ms has an upper bound 3 % above it."""
    p90 = float(results.deployed["p90_ms"].min())
    held = chosen(results, p90=p90 * 1.031)
    assert [check.verdict for check in held.file.checks] == ["held"]
    by_bound = chosen(results, p90=p90 * 1.02)
    assert [check.verdict for check in by_bound.file.checks] == ["missed by its bound only"]
    assert "by its bound only" in "\n".join(lines(by_bound))
    with pytest.raises(KtbenchError, match=r"no file of \d+ holds these limits on local; the near"):
        chosen(results, p90=p90 * 0.99)


def test_the_choice_never_depends_on_the_test_set(tmp_path: Path, results: Results) -> None:
    before = chosen(results, size="60kB").file.candidate
    for key, result in results.by_key.items():
        artifacts = tuple(
            a.model_copy(update={"test_accuracy": 1 - a.test_accuracy}) for a in result.artifacts
        )
        results.by_key[key] = result.model_copy(update={"artifacts": artifacts})
    try:
        turned = Results(results.path, results.lock, results.by_key, results.all_measurements, ())
        after = chosen(turned, size="60kB", accuracy=40)
        assert after.file.candidate.path == before.path
        assert after.certainty.standing == "clearly worse"
        assert "doubtful: on the test set" in "\n".join(lines(after))
    finally:
        results.by_key.update(load_results(results.path).by_key)


def test_how_sure_is_the_set_that_holds_the_best_over_those_within_the_limits(
    results: Results,
) -> None:
    choice = chosen(results, size="60kB")
    inside = {choice.file.candidate.contender} | set(choice.certainty.may_be_best)
    assert choice.runner_up is not None and choice.lead is not None
    table = [choice.file.candidate, choice.runner_up.candidate]
    pairs = [[one.test_by_seed[seed] for seed in range(3)] for one in table]
    assert choice.lead.mean == pytest.approx(np.mean(pairs[0]) - np.mean(pairs[1]))
    assert choice.certainty.rivals == 5 and len(inside) <= 6
    assert choice.certainty.level == stats.LEVEL


def test_two_seeds_do_not_judge_and_one_candidate_has_no_rival(tmp_path: Path) -> None:
    few = load_results(write_folder(tmp_path / "few", Shape(seeds=2, epochs=2)).path)
    assert chosen(few).certainty.standing == "not judged"
    shape = Shape(students=("resnet8",), gains={}, epochs=2)
    lone = load_results(write_folder(tmp_path / "lone", shape).path)
    assert chosen(lone).certainty.standing == "the only one" and chosen(lone).runner_up is None


def test_what_failed_or_was_not_measured_is_left_out_with_its_reason(tmp_path: Path) -> None:
    def failed(cell: Any) -> Failure | None:
        if cell.method.name == "fitnet" and cell.seed == 0:
            return Failure(stage="train", reason="the loss is not finite", step=3)
        if cell.method.name == "kd":
            return Failure(stage="export", what="onnx-int8", reason="no operator")
        return None

    folder = write_folder(tmp_path / "run", Shape(students=("resnet8",), epochs=2, failed=failed))
    reasons = {one.kind for one in chosen(load_results(folder.path)).left_out}
    assert {"trainings that are failed", "exports that failed"} <= reasons
    text = "\n".join(lines(chosen(load_results(folder.path))))
    assert "the loss is not finite" in text and "no operator" in text


def test_a_metric_of_which_less_is_better_is_limited_from_above(results: Results) -> None:
    loss = Metric(name="loss", word="loss", better="less", low=0.0, high=None, chance=3.0, digits=3)
    limits = limits_of(loss, accuracy="0.5")
    assert limits.figure == 0.5
    lock = results.lock.model_copy(
        update={"task": results.lock.task.model_copy(update={"metric": loss})}
    )
    turned = Results(results.path, lock, results.by_key, results.all_measurements, ())
    choice = chosen(turned, accuracy=0.9)
    check = choice.file.checks[0]
    assert check.value <= 0.9 and check.verdict in ("held", "missed by its bound only")
    assert as_json(choice)["file"]["test"]["mean"] > 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"p90": "8"}, "--p90 8: must be a time such as 8ms"),
        ({"p90": "-1ms"}, "must be a time"),
        ({"p90": float("nan")}, "must be a time"),
        ({"size": "8 apples"}, "must be a size such as 500kB"),
        ({"size": 0}, "must be a size"),
        ({"accuracy": "0.85"}, "is less than 1 %: write 85 for 85 %"),
        ({"accuracy": "85 percent"}, "must be a number such as 85"),
        ({"accuracy": 850}, "is above 1"),
    ],
)
def test_a_limit_that_is_none_is_told_in_a_line(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(KtbenchError, match=message) as told:
        limits_of(ACCURACY, **limits)
    assert len(str(told.value).splitlines()) == 1


def test_the_command_prints_the_answer_and_json_and_tells_errors_in_a_line(
    ktbench: Commands, tmp_path: Path
) -> None:
    two = (LOCAL, LOCAL.model_copy(update={"name": "pi5", "profile": "raspberry_pi_5"}))
    shape = Shape(students=("resnet8",), gains={"kd": 0.05}, epochs=2, devices=two)
    folder = write_folder(tmp_path / "run", shape).path
    answer = ktbench("best", folder, "--device", "pi5", "--p90", "8ms", "--size", "500kB")
    assert answer.code == 0
    assert answer.out.startswith("synthetic on pi5: take resnet8 with kd as ")
    told = json.loads(ktbench("best", folder, "--device", "pi5", "--p90", "8ms", "--json").out)
    assert told["file"]["latency"]["device"] == "pi5" and told["file"]["limits"][0]["asked"] == 8
    assert "measured were local, pi5" in ktbench("best", folder, "--p90", "8ms").error
    assert "did you mean pi5" in ktbench("best", folder, "--device", "pi4").error
    assert "the nearest is resnet8" in ktbench("best", folder, "--size", "1kB").error
    assert ktbench("best", folder, "--size", "1kB").code == 2
    assert "no lock.json" in ktbench("best", tmp_path).error
    (folder / "lock.json").write_text("{")
    assert "is damaged" in ktbench("best", folder).error
