"""What is lost or altered in a results folder is told, and made again by the next run alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ktbench.records import Cell
from ktbench.results import ResultsFolder
from ktbench.results.verification import verify
from ktbench.runner import cohort_jobs, teacher_wave
from ktbench.train import TrainingContext
from tests.support.running import Commands, digests, results, write_matrix

pytestmark = pytest.mark.slow

ONNX = {"formats": "onnx", "precisions": "fp32"}
KD = "resnet8(width=0.25) / kd ← T / seed 0"


@pytest.fixture
def trained(ktbench: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Labels of every cell that is given to the training loop, in order."""
    ktbench.here = True
    labels: list[str] = []
    real = cohort_jobs.train_cohort

    def spy(cells: list[Cell], context: TrainingContext) -> Any:
        labels.extend(cell.label for cell in cells)
        return real(cells, context)

    monkeypatch.setattr(cohort_jobs, "train_cohort", spy)
    monkeypatch.setattr(teacher_wave, "train_cohort", spy)
    yield labels


@pytest.fixture
def finished(
    ktbench: Commands, tmp_path: Path, trained: list[str], kept: Path
) -> tuple[Path, Path]:
    """A matrix and its finished folder, with exports; it is run once for all tests."""
    matrix = write_matrix(tmp_path / "m.yaml", exports=ONNX)
    if not kept.exists():
        assert ktbench("run", matrix, "--results", "r").code == 0
        for name in ("r", "cache"):
            shutil.copytree(tmp_path / name, kept / name)
    else:
        for name in ("r", "cache"):
            shutil.copytree(kept / name, tmp_path / name)
    trained.clear()
    return matrix, tmp_path / "r"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "kept"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES: list[Callable[[Path], None]] = [Path.unlink, _truncate, _alter, _empty, _link]


def _places(folder: Path) -> dict[str, str]:
    """A file of each kind that belongs to the distilled cell."""
    result = results(folder)[KD]
    assert result.checkpoint and result.teacher
    artifact = result.artifacts[0].path
    return {
        "weights": result.checkpoint.path,
        "curves": result.checkpoint.curves,
        "artifact": artifact,
        "sidecar": f"{artifact}.json",
        "record": f"cells/{result.cell.key}.json",
        "teacher": result.teacher.path,
    }


def test_verify_names_every_file_that_is_missing_or_altered(
    ktbench: Commands, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = finished[1]
    assert verify(folder).problems == []
    for part, place in _places(folder).items():
        for damage in DAMAGES:
            if (part, damage) == ("record", Path.unlink):
                continue  # That is a cell that has not run.
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            damage(copy / place)
            assert [p.path for p in verify(copy).problems] == [place], (part, damage)
            shutil.rmtree(copy)
    (folder / _places(folder)["weights"]).unlink()
    answer = ktbench("verify", folder)
    assert answer.code == 1 and "is missing: run again to train the cell again" in answer.out
    answer = ktbench("verify", folder, "--json")
    assert answer.code == 1 and len(json.loads(answer.out)["problems"]) == 1
    assert ktbench("verify", folder, "--partial").code == 0
    answer = ktbench("verify", tmp_path)
    assert answer.code == 2 and "no results folder" in answer.error


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("weights", _truncate),
        ("curves", Path.unlink),
        ("artifact", _empty),
        ("sidecar", Path.unlink),
        ("record", _alter),
        ("teacher", _link),
    ],
)
def test_what_is_lost_of_a_finished_cell_is_made_again_and_nothing_else(
    ktbench: Commands,
    finished: tuple[Path, Path],
    trained: list[str],
    part: str,
    damage: Callable[[Path], None],
) -> None:
    matrix, folder = finished
    before, place = digests(folder), _places(folder)[part]
    damage(folder / place)
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0, answer.err
    assert place in answer.err
    assert trained == ([KD] if part in ("weights", "curves", "record") else [])
    assert verify(folder).problems == [] and digests(folder) == before
    trained.clear()
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0 and "2 there already" in answer.err and "lost" not in answer.err
    assert trained == []


def test_a_cell_of_another_training_takes_the_place_of_one_whose_weights_are_lost(
    ktbench: Commands, finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another processor, where the same training ends with other bits."""
    matrix, folder = finished
    result = results(folder)[KD]
    assert result.checkpoint
    (folder / result.checkpoint.path).unlink()
    real = cohort_jobs.train_cohort

    def otherwise(cells: list[Cell], context: TrainingContext) -> Any:
        moved = [c.model_copy(update={"seed": 7}) for c in cells]
        by_moved = {m.key: c for m, c in zip(moved, cells, strict=True)}
        elsewhere = replace(context, places=lambda cell: context.places(by_moved[cell.key]))
        return [
            c.model_copy(update={"cell_key": cell.key})
            for c, cell in zip(real(moved, elsewhere), cells, strict=True)
        ]

    monkeypatch.setattr(cohort_jobs, "train_cohort", otherwise)
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0, answer.err
    again = results(folder)[KD]
    assert again.checkpoint and again.checkpoint.digest != result.checkpoint.digest
    assert again.artifacts[0].digest != result.artifacts[0].digest
    assert verify(folder).problems == []


def test_a_damaged_lock_is_written_again_from_the_matrix_and_the_results_are_kept(
    ktbench: Commands, finished: tuple[Path, Path], trained: list[str]
) -> None:
    matrix, folder = finished
    _truncate(folder / "lock.json")
    ktbench.report = True
    answer = ktbench("report", "r")
    assert answer.code == 2 and "run its matrix again" in answer.error
    ktbench.report = False
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0 and "damaged: lock.json" in answer.err
    assert trained == [] and "2 there already" in answer.err


def test_a_damaged_measurement_or_its_samples_are_measured_again(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml", methods=["none"], teachers=[], exports=ONNX, devices=["local"]
    )
    assert ktbench("run", matrix, "--results", "r").code == 0
    [record] = (tmp_path / "r" / "measurements").glob("*.json")
    [samples] = (tmp_path / "r" / "measurements").glob("*.parquet")
    for path in (record, samples):
        _alter(path)
        assert [p.path for p in verify(tmp_path / "r").problems] == [f"measurements/{path.name}"]
        answer = ktbench("run", matrix, "--results", "r")
        assert answer.code == 0 and "1 measurement " in answer.err, answer.err
        assert verify(tmp_path / "r").problems == []


@pytest.mark.parametrize("how", ["renamed", "deleted", "taken over"])
def test_a_folder_that_goes_away_under_a_run_stops_it_and_is_not_made_anew(
    ktbench: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    matrix, folder = write_matrix(tmp_path / "m.yaml"), tmp_path / "r"
    ktbench.here = True
    real = cohort_jobs.train_cohort

    def removed(cells: list[Cell], context: TrainingContext) -> Any:
        if how == "renamed":
            folder.rename(tmp_path / "elsewhere")
        elif how == "deleted":
            shutil.rmtree(folder)
        else:
            (folder / "running").unlink()
            (folder / "running").write_text("{}")
        return real(cells, context)

    with monkeypatch.context() as patch:
        patch.setattr(cohort_jobs, "train_cohort", removed)
        answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 2
    assert "was renamed, deleted or taken over" in answer.err.splitlines()[-1]
    assert how == "taken over" or not folder.exists()
    assert how != "taken over" or (folder / "running").read_text() == "{}"
    (folder / "running").unlink(missing_ok=True)
    place = "elsewhere" if how == "renamed" else "r"
    assert ktbench("run", matrix, "--results", place).code == 0
    assert verify(tmp_path / place).problems == []


def test_what_a_run_left_in_a_folder_that_was_taken_away_is_used_by_the_next(
    ktbench: Commands, tmp_path: Path
) -> None:
    """As older versions left it: files of a run, and no lock."""
    matrix = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", matrix, "--results", "r").code == 0
    for name in ("lock.json", "matrix.yaml", "failures.json"):
        (tmp_path / "r" / name).unlink()
    assert ktbench("run", matrix, "--results", "r").code == 0
    (tmp_path / "r" / "lock.json").unlink()
    for name in ("report/figures/costs.svg", "logs/a-1.log", "damaged/cells-a.json"):
        (tmp_path / "r" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "r" / name).touch()
    assert ktbench("run", matrix, "--results", "r").code == 0
    (tmp_path / "r" / "lock.json").unlink()
    (tmp_path / "r" / "weights" / "mine.pt").write_text("precious")
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 2 and "no lock.json" in answer.err.splitlines()[-1]


def test_a_run_whose_folder_is_another_runs_now_leaves_that_runs_hold_alone(
    tmp_path: Path,
) -> None:
    from ktbench.results.run_lock import run_lock

    mine, other = tmp_path / "mine", tmp_path / "other"
    for place in (mine, other):
        place.mkdir()
    with run_lock(mine):
        mine.rename(tmp_path / "away")
        other.rename(mine)
        (mine / "running").write_text(json.dumps({"process": os.getpid()}))
    assert (mine / "running").exists()


def test_a_record_of_a_newer_version_stops_the_run_and_stays(
    ktbench: Commands, finished: tuple[Path, Path]
) -> None:
    matrix, folder = finished
    path = ResultsFolder(folder).cell(results(folder)[KD].cell.key)
    newer = json.loads(path.read_text()) | {"schema_version": 99}
    path.write_text(json.dumps(newer))
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 2 and "newer ktbench" in answer.err.splitlines()[-1]
    assert json.loads(path.read_text()) == newer
