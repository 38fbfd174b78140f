"""The report shows the pairs that were compared, and every term that hardly moved the student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench.records import Look, Pairing, Result
from ktbench.report.analysis import Analysis
from ktbench.report.document import Note, Table
from ktbench.report.sections import terms
from ktbench.results import load_results
from tests.support.report_page import outline
from tests.support.running import Commands, write_matrix

IN_ORDER = Pairing(
    teacher=("a", "b"), student=("x", "y"), pairs=((0, 0), (1, 1)), rule="stage", similarity=None
)
CROSSED = IN_ORDER.model_copy(update={"pairs": ((1, 0), (0, 1)), "rule": "named"})


def looks(*gradients: dict[str, float]) -> tuple[Look, ...]:
    return tuple(
        Look(epoch=i, phase="train", losses={name: 1.0 for name in each}, gradients=each)
        for i, each in enumerate(gradients)
    )


def changed(folder: Path, **checkpoints: dict[str, Any]) -> Analysis:
    """A synthetic folder, with fields of the checkpoints of the named methods replaced."""
    write_folder(folder, Shape(epochs=6))
    results = load_results(folder)

    def of(result: Result) -> Result:
        fields = checkpoints.get(result.cell.method.name)
        if fields is None or result.checkpoint is None:
            return result
        return result.model_copy(update={"checkpoint": result.checkpoint.model_copy(update=fields)})

    return Analysis(replace(results, by_key={k: of(r) for k, r in results.by_key.items()}))


def notes(analysis: Analysis) -> str:
    [section] = terms(analysis)
    return " ".join(part.text for part in section.parts if isinstance(part, Note))


def tables(analysis: Analysis) -> dict[str, Table]:
    [section] = terms(analysis)
    return {part.name: part for part in section.parts if isinstance(part, Table)}


@pytest.mark.slow
def test_results_without_pairs_and_terms_have_no_such_section(tmp_path: Path) -> None:
    assert terms(changed(tmp_path / "run")) == ()


@pytest.mark.slow
def test_pairs_are_shown_by_technique_and_student_and_disorder_is_said(tmp_path: Path) -> None:
    shown = changed(tmp_path / "run", attention={"pairing": IN_ORDER}, fitnet={"pairing": CROSSED})
    frame = tables(shown)["pairs"].frame
    assert set(frame["label"]) == {"attention", "fitnet"}
    assert set(frame.loc[frame["label"] == "attention", "pairs"]) == {"a → x, b → y"}
    assert set(frame.loc[frame["label"] == "fitnet", "pairs"]) == {"b → x, a → y"}
    assert set(frame.loc[frame["label"] == "fitnet", "rule"]) == {"the matrix, which names them"}
    assert "Pairs that do not follow depth" in notes(shown)
    assert "**fitnet** in " in notes(shown) and "**attention**" not in notes(shown)


@pytest.mark.slow
def test_shares_are_means_over_seeds_and_a_faint_term_is_said(tmp_path: Path) -> None:
    kept = looks({"ce": 3.0, "kd": 1.0}, {"ce": 1.0, "kd": 1.0})
    faded = looks({"ce": 1.0, "hint": 1.0}, {"ce": 99.0, "hint": 1.0}, {"ce": 9.0, "hint": 1.0})
    shown = changed(tmp_path / "run", kd={"looks": kept}, attention={"looks": faded})
    frame = tables(shown)["balance"].frame.set_index(["label", "term"])
    [first] = set(frame.loc[("kd", "kd"), "gradient_first"])
    [last] = set(frame.loc[("kd", "kd"), "gradient_share"])
    [least] = set(frame.loc[("attention", "hint"), "gradient_least"])
    assert (first, last, least) == (pytest.approx(0.25), pytest.approx(0.5), pytest.approx(0.01))
    assert "**attention** in " in notes(shown) and "(hint)" in notes(shown)
    assert "**kd**" not in notes(shown)


@pytest.mark.slow
def test_no_term_of_a_sum_falls_below_a_twentieth_of_the_gradient_unsaid(
    ktbench: Commands, tmp_path: Path
) -> None:
    methods = [
        "none",
        {"intermediate_last": {"pairs": ["stage", "similarity_untrained"]}},
        "intermediate_last_per_layer",
        {"intermediate_embedding": {"normalise": ["batch", "none"]}},
        {"combined": {"parts": ["kd", "attention"]}},
        "factor",
    ]
    train = {"epochs": 6, "batch_size": 30, "lr": 0.01, "optimiser": "adam"}
    ktbench.report = True
    assert ktbench("run", write_matrix(tmp_path / "m.yaml", methods=methods, train=train)).code == 0
    results = load_results("results/small")
    faint, words = set(), " ".join(outline(Path("results/small")).words)
    for result in results.by_key.values():
        assert result.checkpoint is not None
        for look in result.checkpoint.looks:
            total = sum(look.gradients.values())
            below = {name for name, norm in look.gradients.items() if norm < 0.05 * total}
            faint |= {(result.cell.method.label, name) for name in below}
    said = tables(Analysis(results))["balance"].frame
    said = said[said["gradient_least"] < 0.05]
    assert faint == set(zip(said["label"], said["term"], strict=True)) != set()
    assert "Terms with less than 5 % of the gradient at some time" in words
    assert not any(label == "intermediate_embedding" for label, _ in faint)
