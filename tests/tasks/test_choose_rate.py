"""The script that chooses learning rates: what it trains, and by what it chooses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ktbench import matrix
from ktbench.results import load_results
from scripts.choose_rate import as_student, plain, unused_seed
from tests.support.running import ROOT, write_matrix
from tests.support.texts import write_texts

STUDIES = ("text-edge-*", "efficiency-text-small", "keywords")


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_rates_are_tried_on_a_study_s_own_training_with_a_seed_that_it_does_not_use(
    study: str,
) -> None:
    for path in sorted((ROOT / "matrices").glob(f"{study}.yaml")):
        of_study, seed = matrix.load(path), unused_seed(path)
        made = plain(path, seed)
        alone = matrix.loads(yaml.safe_dump(made), base="/")
        assert alone.seeds == (seed,) and seed not in of_study.seeds
        assert (alone.students, alone.train) == (of_study.students, of_study.train)
        assert alone.data.model_copy(update={"path": None}) == of_study.data.model_copy(
            update={"path": None}
        )
        teacher = matrix.loads(yaml.safe_dump(as_student(path, made)), base="/")
        assert len(teacher.students) == 1 and not teacher.teachers


@pytest.mark.slow
def test_the_rate_with_the_best_validation_figure_is_chosen_from_any_folder(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    write_matrix(
        tmp_path / "study" / "m.yaml",
        data={
            "task": {"text_classification": {"length": 12, "vocabulary": 120}},
            "source": "parquet",
            "path": "../texts",
        },
        students=[{"embedding_bag": {"width": 0.25}}],
        seeds=2,
        train={"epochs": 9, "batch_size": 32, "optimiser": "adam"},
    )
    rates = ("1e-7", "0.01")
    ended = subprocess.run(
        [sys.executable, ROOT / "scripts/choose_rate.py", "study/m.yaml", *rates, "--epochs", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KTBENCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    *tried, last = ended.stdout.splitlines()
    assert last == "best of 1e-07, 0.01 with seed 2: lr 0.01"
    for rate, line in zip(("1e-07", "0.01"), tried, strict=True):
        [result] = load_results(tmp_path / f"results/rates/m/lr-{rate}").by_key.values()
        assert result.checkpoint is not None
        assert (result.cell.seed, result.cell.train.epochs) == (2, 2)
        figure = f"{100 * result.checkpoint.accuracy.validation_last:.1f} %"
        assert line == f"lr {rate}: validation accuracy: {result.cell.student.label} {figure}"
