"""Metrics of tasks: figures, their direction and words, and runs that are judged by them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ktbench import catalogue
from ktbench.export import LAYOUTS, export_student, raw_samples
from ktbench.measure import BoardAccuracy, Judge, evaluate, job_of
from ktbench.networks.weights import load_student
from ktbench.records import (
    ACCURACY,
    Accuracies,
    Artifact,
    Checkpoint,
    DeviceSpec,
    ExportSpec,
    Item,
    KtbenchError,
    Metric,
)
from ktbench.report import scores
from ktbench.results import load_results
from ktbench.tasks._classification import MATTHEWS, matthews
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.history import Judged
from tests.support.running import Commands, write_matrix
from tests.support.texts import loaded, text_cell, text_data, write_texts
from tests.support.training import HERE, places_in

LOSS = Metric(name="loss on masked tokens", word="loss", better="less", high=None, digits=3)


# ---------------------------------------------------------------- figures


def test_matthews_correlation_is_that_of_its_table() -> None:
    """Matthews' formula of two classes: (TP · TN - FP · FN) over the root of the four sums."""
    draw = torch.Generator().manual_seed(3)
    said, right = (torch.randint(0, 2, (500,), generator=draw) for _ in range(2))
    tp, tn = (int(((said == k) & (right == k)).sum()) for k in (1, 0))
    fp, fn = int(((said == 1) & (right == 0)).sum()), int(((said == 0) & (right == 1)).sum())
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert matthews(said, right) == pytest.approx((tp * tn - fp * fn) / root, abs=1e-12)
    assert matthews(right, right) == 1.0 and matthews(1 - right, right) == -1.0
    assert matthews(torch.zeros(500, dtype=torch.int64), right) == 0.0


def test_matthews_correlation_of_more_classes_is_the_correlation_of_indicators() -> None:
    draw = torch.Generator().manual_seed(5)
    said, right = (torch.randint(0, 4, (800,), generator=draw) for _ in range(2))
    said[:300] = right[:300]
    x, y = (np.eye(4)[each.numpy()] for each in (said, right))
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert matthews(said, right) == pytest.approx(expected, abs=1e-12)


def test_the_better_figure_is_the_one_in_the_metrics_direction() -> None:
    assert Judged(ACCURACY, 0.9, {}).better_than(0.8) and Judged(LOSS, 0.8, {}).better_than(0.9)
    assert not Judged(LOSS, 0.9, {}).better_than(0.9)
    assert Judged(LOSS, float("nan"), {}).objection == "loss on masked tokens is not finite"
    assert Judged(LOSS, -0.1, {}).objection == "loss on masked tokens is below 0"
    assert Judged(ACCURACY, 0.5, {"b": float("inf")}).objection == "b is not finite"
    with pytest.raises(ValidationError, match="the figure of a guess is above 1"):
        Metric(chance=1.2)


@pytest.mark.parametrize(
    ("metric", "figure", "gain", "words"),
    [
        (ACCURACY, "92.4 % [91.8, 100.0]", "+2.1", ("accuracies", "points", "0.5 points")),
        (MATTHEWS, "0.924 [0.918, 1.000]", "+0.021", ("MCCs", "MCC", "0.005 MCC")),
        (LOSS, "0.924 [0.918, 1.020]", "+0.021", ("losses", "loss", "0.005 loss")),
    ],
)
def test_a_page_writes_figures_and_gains_as_its_metric_does(
    metric: Metric, figure: str, gain: str, words: tuple[str, ...]
) -> None:
    """Intervals go no further than figures can, and a quality is a loss with the other sign."""
    with scores.of(metric):
        assert scores.figure_interval(*map(metric.quality, (0.924, 0.918, 1.02))) == figure
        assert scores.gain(0.021) == gain and scores.gain(None) == "–"
        assert (scores.words(), scores.unit(), scores.smallest_gain()) == words
    assert scores.word() == "accuracy"


def test_figures_that_a_metric_cannot_have_are_damage() -> None:
    figures = {"validation_last": 0.5, "best_epoch": 1, "test_last": 0.4, "test_best": 0.4}
    rising = Accuracies(validation_best=0.6, **figures)  # type: ignore[arg-type]
    falling = Accuracies(validation_best=0.3, **figures)  # type: ignore[arg-type]
    assert rising.objection(ACCURACY) is None and falling.objection(LOSS) is None
    assert falling.objection(ACCURACY) == "the best validation accuracy is worse than the last one"
    assert rising.objection(LOSS) == "the best validation loss is worse than the last one"
    assert "beside_last" not in rising.model_dump()


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(KtbenchError, match="metric must be one of accuracy, matthews, not f1"):
        catalogue.task(Item(name="text_classification", settings={"metric": "f1"}))


# ---------------------------------------------------------------- runs


@pytest.mark.slow
def test_sentences_are_judged_by_matthews_correlation_to_their_report(
    ktbench: Commands, tmp_path: Path
) -> None:
    write_texts(tmp_path / "texts")
    data = text_data(tmp_path / "texts", metric="matthews").model_dump(mode="json")
    student = {"embedding_bag": {"width": 0.25}}
    matrix = write_matrix(
        tmp_path / "m.yaml",
        data=data,
        teachers=[{"student": "embedding_bag", "name": "T"}],
        students=[student],
        seeds=3,
        train={"epochs": 2, "batch_size": 32, "lr": 0.003, "optimiser": "adam"},
    )
    ktbench.report = True
    folder = tmp_path / "results"
    assert "judged by Matthews' correlation\n" in ktbench("plan", matrix).out
    assert ktbench("run", matrix, "--results", folder).code == 0
    results = load_results(folder)
    assert results.metric == MATTHEWS and not results.problems
    texts = loaded(text_data(tmp_path / "texts", metric="matthews").model_dump_json())
    plain = []
    for key, result in results.by_key.items():
        assert result.checkpoint is not None
        path = folder / result.checkpoint.path
        network = load_student(result.cell, path, base=HERE, **texts.dimensions)
        with torch.inference_mode():
            said = network(texts.some("test", slice(None))).argmax(1)
        figure = matthews(said, texts.labels("test"))
        assert result.checkpoint.accuracy.test_last == figure, key
        plain += [figure] if result.cell.method.name == "none" else []
    text = (folder / "report/report.md").read_text()
    assert "test MCC" in text and "gain, MCC" in text and "judged by: Matthews' corr" in text
    assert f"{np.mean(plain):.3f}" in (folder / "report/figures/gains.svg").read_text()
    assert "accurac" not in text and not re.search(r", points|[0-9] points \[", text)
    assert "`${+(100 * v)" not in (folder / "report/index.html").read_text()
    same = ktbench("compare", folder, folder)
    assert same.code == 0 and "Test MCC: same 2" in same.out and "0 MCC or 10 % of" in same.out


@pytest.mark.slow
def test_a_device_sends_whole_outputs_where_the_top_class_does_not_do(tmp_path: Path) -> None:
    spec = text_data(write_texts(tmp_path / "texts"))
    data, cell = loaded(spec.model_dump_json()), text_cell(spec)
    context = TrainingContext(dataset=data, places=places_in(tmp_path), base=HERE, teacher=None)
    [made] = train_cohort([cell], context)
    assert isinstance(made, Checkpoint)
    student = load_student(cell, tmp_path / made.path, base=HERE, **data.dimensions)
    asked = ExportSpec(format="onnx", batch="1")
    artifact = export_student(student, cell, asked, data, tmp_path / "artifacts", tmp_path)
    assert isinstance(artifact, Artifact), artifact
    described = json.loads((tmp_path / f"{artifact.path}.json").read_text())
    assert "reduction" not in described["output"]  # the top class, as ever
    labels = data.labels("test").numpy()
    with torch.inference_mode():
        outputs = student(data.some("test", slice(None))).numpy()

    def loss(answers: np.ndarray, right: np.ndarray) -> float:
        return float(data.task.loss(torch.from_numpy(answers), torch.from_numpy(right)))

    def near(answers: np.ndarray, expected: np.ndarray) -> float:
        return float(np.isclose(answers, expected, atol=1e-4).all(axis=1).mean())

    [answer] = evaluate(
        DeviceSpec(profile="local", name="here"),
        [job_of(artifact, tmp_path)],
        raw_samples(LAYOUTS["onnx"], data, "test"),
        labels,
        [outputs],
        judge=Judge(loss, near, "none"),
    )
    assert isinstance(answer, BoardAccuracy), answer
    assert answer.accuracy == pytest.approx(loss(outputs, labels), rel=1e-5)
    assert answer.agreement == 1.0
