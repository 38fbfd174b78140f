"""Texts and sounds on an emulated 64-bit ARM board: deployed, measured, judged by their metric."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ktbench.results import ResultsFolder
from tests.support.emulated import EmulatedBoard
from tests.support.running import Commands, write_matrix
from tests.support.sounds import SMALL, write_sounds
from tests.support.texts import write_texts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TESTED = 40
"""Samples that are judged on the board."""
EXPORTS = {"formats": ["onnx", "tflite"], "precisions": ["fp32", "int8"]}
BRIEF = {"epochs": 1, "batch_size": 32, "lr": 0.003, "optimiser": "adam", "weight_decay": 0.0}
"""Enough to do better than a guess."""


def _place(name: str) -> Path | None:
    """Return a folder of `$KTBENCH_DATA`, where it is there."""
    folder = Path(os.environ.get("KTBENCH_DATA", "")) / name
    return folder if folder.is_dir() else None


def texts(root: Path) -> dict[str, Any]:
    """Film reviews (SST-2), or a few made up, judged by Matthews' correlation: no share."""
    return {
        "data": {
            "task": {
                "text_classification": {"length": 24, "vocabulary": 500, "metric": "matthews"}
            },
            "source": "parquet",
            "path": str(_place("text/sst2") or write_texts(root / "texts")),
            **{"train_size": 200, "validation_size": 100, "test_size": TESTED},
        },
        "students": [{"bert_tiny": {"width": 0.25, "layers": 1}}],
    }


def sounds(root: Path) -> dict[str, Any]:
    """Spoken digits, or tones, as raw samples: the files compute the spectrum on the board."""
    spoken = _place("audio/spoken_digits")
    settings = {"rate": 8000, "seconds": 0.5, "coefficients": 10} if spoken else SMALL
    return {
        "data": {
            "task": {"sound_classification": settings},
            "source": "parquet",
            "path": str(spoken or write_sounds(root / "sounds")),
            **{"train_size": 100, "validation_size": 40, "test_size": TESTED},
        },
        "students": [{"ds_cnn_s": {"width": 0.25}}],
    }


@pytest.mark.parametrize("task", [texts, sounds])
def test_files_of_a_task_are_fed_and_judged_on_the_board_as_they_are_here(
    reached: EmulatedBoard, ktbench: Commands, tmp_path: Path, task: Any
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        teachers=[],
        methods=["none"],
        train=BRIEF,
        exports=EXPORTS,
        devices=[{"emulated_aarch64": {"name": "arm", "host": "board", "repeats": 1}}],
        **task(tmp_path),
    )
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == 0 and not answer.err, answer.err
    results = ResultsFolder(tmp_path / "r")
    [result] = results.results()
    measured = {m.export: m for m in results.measurements()}
    assert len(measured) == len(result.artifacts) == 4
    for artifact in result.artifacts:
        one = measured[artifact.export]
        assert one.origin == "emulated" and one.validity.valid, one.validity
        assert one.test_inputs == TESTED
        assert one.test_agreement is not None and one.test_accuracy is not None
        if artifact.export.precision == "fp32":
            assert one.test_agreement == 1.0 and one.test_accuracy == artifact.test_accuracy
        else:
            assert one.test_agreement >= artifact.agreement - 2 / TESTED
            assert abs(one.test_accuracy - artifact.test_accuracy) < 0.12
