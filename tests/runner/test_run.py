"""A run from matrix to report: what is done once, what is done again, and what a failure costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktbench.export.exporter import Exporter
from ktbench.records import Cell, Result
from ktbench.results import ResultsFolder, load_results
from ktbench.runner import cohort_jobs, teacher_wave
from ktbench.train import TrainingContext
from tests.support.running import Commands, digests, results, write_matrix

ONNX = {"formats": "onnx", "precisions": "fp32"}
OWN_METHOD = """
from pathlib import Path
from ktbench.transfer_methods.kd import Config, Method

class Fragile(Method):
    Config = Config

    def loss(self, student, teacher, batch):
        if batch.epoch == 1 and Path({flag!r}).exists():
            raise IndexError("it is broken today")
        return super().loss(student, teacher, batch)
"""


@pytest.fixture
def trained(ktbench: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Labels of every cell that is given to the training loop, teachers included, in order."""
    ktbench.here = True
    labels: list[str] = []
    real = cohort_jobs.train_cohort

    def spy(cells: list[Cell], context: TrainingContext) -> Any:
        labels.extend(cell.label for cell in cells)
        return real(cells, context)

    monkeypatch.setattr(cohort_jobs, "train_cohort", spy)
    monkeypatch.setattr(teacher_wave, "train_cohort", spy)
    yield labels


def _student(method: str, seed: int = 0) -> str:
    teacher = "" if method == "none" else " ← T"
    return f"resnet8(width=0.25) / {method}{teacher} / seed {seed}"


TEACHER = "resnet8 / none / seed 0"


# ---------------------------------------------------------------- what is done once


@pytest.mark.slow
def test_cells_run_alone_have_the_weights_that_they_have_in_one_matrix(
    ktbench: Commands, tmp_path: Path
) -> None:
    methods = ["none", "kd", "fitnet"]
    matrix = write_matrix(tmp_path / "all.yaml", methods=methods, seeds=2)
    assert ktbench("run", matrix, "--results", "all").code == 0
    together = digests(tmp_path / "all")
    assert len(set(together.values())) == 6
    for method in methods[1:]:
        matrix = write_matrix(tmp_path / "one.yaml", methods=[method], seeds=[1])
        assert ktbench("run", matrix, "--results", method).code == 0
        alone = digests(tmp_path / method)
        assert alone == {label: together[label] for label in alone}
        assert _student(method, 1) in alone


@pytest.mark.slow
def test_a_teacher_is_trained_once_and_used_again_by_later_runs(
    ktbench: Commands, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", methods=["kd", "fitnet"], seeds=2)
    assert ktbench("run", matrix, "--results", "first").code == 0
    assert trained.count(TEACHER) == 1
    assert ktbench("run", matrix, "--results", "second").code == 0
    assert trained.count(TEACHER) == 1
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "other"))
    assert ktbench("run", matrix, "--results", "third").code == 0
    assert trained.count(TEACHER) == 2
    assert (
        digests(tmp_path / "first") == digests(tmp_path / "second") == digests(tmp_path / "third")
    )
    names = [
        sorted(p.name for p in (tmp_path / r / "teachers").glob("*.pt")) for r in ("first", "third")
    ]
    assert names[0] == names[1] and len(names[0]) == 1


@pytest.mark.slow
def test_a_damaged_stored_teacher_is_noted_and_trained_again(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", matrix, "--results", "first").code == 0
    [stored] = (tmp_path / "cache" / "teachers").glob("*/weights.pt")
    stored.write_bytes(stored.read_bytes()[:1000])
    answer = ktbench("run", matrix, "--results", "second")
    assert answer.code == 0 and "stored teacher is damaged" in answer.err
    assert trained.count(TEACHER) == 2
    assert digests(tmp_path / "second") == digests(tmp_path / "first")


@pytest.mark.slow
def test_no_transfer_is_trained_once_for_all_teachers(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    both = [{"student": "resnet8", "name": "T"}, {"student": "resnet8", "name": "U", "seed": 1}]
    matrix = write_matrix(tmp_path / "m.yaml", teachers=both, seeds=2)
    assert ktbench("run", matrix, "--results", "r").code == 0
    assert [trained.count(_student("none", seed)) for seed in (0, 1)] == [1, 1]
    assert [trained.count(_student("kd", seed)) for seed in (0, 1)] == [1, 1]
    assert len(results(tmp_path / "r")) == 6


@pytest.mark.slow
def test_an_extended_matrix_does_only_what_is_new(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "m.yaml"
    steps: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [TEACHER, _student("none"), _student("kd")]),
        ({"methods": ["none", "kd", "fitnet"]}, [_student("fitnet")]),
        ({"methods": ["none", "kd"], "seeds": 2}, [_student("none", 1), _student("kd", 1)]),
        ({"seeds": 2, "exports": ONNX}, []),
    ]
    for changes, new in steps:
        write_matrix(path, **changes)
        before = {p: p.read_bytes() for p in (tmp_path / "r").glob("weights/*.pt")}
        trained.clear()
        assert ktbench("run", path, "--results", "r").code == 0
        assert sorted(trained) == sorted(new)
        assert all(p.read_bytes() == content for p, content in before.items())
    frames = load_results(tmp_path / "r")
    assert set(frames.cells["status"]) == {"done"} and len(frames.artifacts) == 4
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 0 and "4 reused" in answer.err and "students" not in answer.err


@pytest.mark.slow
def test_a_teacher_with_more_training_images_can_be_added_to_a_finished_matrix(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    path = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", path, "--results", "r").code == 0
    trained.clear()
    more = {"student": "resnet8", "name": "U", "train_size": 120}
    write_matrix(path, teachers=[{"student": "resnet8", "name": "T"}, more])
    assert ktbench("run", path, "--results", "r").code == 0
    assert sorted(trained) == sorted([TEACHER, _student("kd").replace("T", "U")])
    assert len(digests(tmp_path / "r")) == 3


@pytest.mark.slow
def test_a_new_export_of_a_trained_cell_needs_no_teacher(
    ktbench: Commands, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", path, "--results", "r").code == 0
    taught = results(tmp_path / "r")[_student("kd")].teacher
    trained.clear()
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "empty"))
    write_matrix(path, exports=ONNX)
    assert ktbench("run", path, "--results", "r").code == 0
    assert trained == []
    found = results(tmp_path / "r")[_student("kd")]
    assert taught is not None and found.teacher == taught and len(found.artifacts) == 1


@pytest.mark.slow
def test_weights_that_were_deleted_are_trained_again_to_the_same_record(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    path = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", path, "--results", "r").code == 0
    before = results(tmp_path / "r")
    key = before[_student("kd")].cell.key
    (tmp_path / "r" / "weights" / f"{key}.pt").unlink()
    trained.clear()
    write_matrix(path, exports=ONNX)
    assert ktbench("run", path, "--results", "r").code == 0
    assert trained == [_student("kd")]
    assert {k: r.checkpoint for k, r in results(tmp_path / "r").items()} == {
        k: r.checkpoint for k, r in before.items()
    }


@pytest.mark.slow
def test_weights_that_were_swapped_are_not_exported_but_trained_again(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", path, "--results", "r").code == 0
    found = results(tmp_path / "r")
    before = digests(tmp_path / "r")
    mine, other = (
        tmp_path / "r" / "weights" / f"{found[_student(m)].cell.key}.pt" for m in ("kd", "none")
    )
    mine.write_bytes(other.read_bytes())
    write_matrix(path, exports=ONNX)
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 0 and f"lost: weights/{mine.name}" in answer.err
    assert {r.status for r in results(tmp_path / "r").values()} == {"done"}
    assert digests(tmp_path / "r") == before


@pytest.mark.slow
def test_exports_of_a_run_that_was_stopped_before_its_result_are_not_made_again(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_matrix(tmp_path / "m.yaml", methods=["none"], teachers=[], exports=ONNX)
    with monkeypatch.context() as patch:

        def stop(_: ResultsFolder, result: Result) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(ResultsFolder, "write_result", stop)
        answer = ktbench("run", path, "--results", "r", "--quiet")
        assert (answer.code, answer.error) == (2, "ktbench: Input/output error")
    ktbench.here = True
    exported: list[str] = []
    real = Exporter.export

    def spy(*arguments: Any) -> Any:
        exported.append("again")
        return real(*arguments)

    monkeypatch.setattr(Exporter, "export", spy)
    assert ktbench("run", path, "--results", "r").code == 0
    assert exported == [] and len(results(tmp_path / "r")[_student("none")].artifacts) == 1
    [artifact] = (tmp_path / "r" / "artifacts").rglob("*.onnx")
    artifact.unlink()
    assert ktbench("run", path, "--results", "r").code == 0
    assert exported == ["again"]


@pytest.mark.slow
def test_fresh_does_everything_again_and_resume_nothing(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    path = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", path, "--results", "r").code == 0
    first = digests(tmp_path / "r")
    trained.clear()
    assert ktbench("run", path, "--results", "r", "--resume").code == 0
    assert trained == []
    assert ktbench("run", path, "--results", "r", "--fresh").code == 0
    assert trained == [_student("none"), _student("kd")]
    assert digests(tmp_path / "r") == first


# ---------------------------------------------------------------- failures


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_tried_again_by_the_next_run(
    ktbench: Commands, trained: list[str], tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    (tmp_path / "own.py").write_text(OWN_METHOD.format(flag=str(flag)))
    path = write_matrix(tmp_path / "m.yaml", methods=["none", "kd", "own.py:Fragile"])
    answer = ktbench("run", path, "--results", "r")
    label = _student("own.py:Fragile")
    assert answer.code == 1
    assert f"failed: {label}: train (step 2): IndexError: it is broken today" in answer.err
    found = results(tmp_path / "r")
    assert found[label].status == "failed" and found[label].failures[0].step == 2
    assert {found[_student(m)].status for m in ("none", "kd")} == {"done"}
    trained.clear()
    flag.unlink()
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 0 and trained == [label]
    assert results(tmp_path / "r")[label].status == "done"


@pytest.mark.slow
def test_a_teacher_that_fails_fails_its_cells_with_its_reason_and_no_others(
    ktbench: Commands, tmp_path: Path
) -> None:
    (tmp_path / "own.pt").write_bytes(b"no weights at all")
    both = [
        {"student": "resnet8", "name": "T"},
        {"student": "resnet8", "name": "broken", "checkpoint": "own.pt"},
    ]
    path = write_matrix(tmp_path / "m.yaml", teachers=both)
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 1
    found = results(tmp_path / "r")
    broken = found.pop(_student("kd").replace("T", "broken"))
    assert broken.status == "failed"
    [failure] = broken.failures
    assert (failure.stage, failure.what) == ("teacher", "broken")
    assert "own.pt: not a readable checkpoint" in failure.reason
    assert {r.status for r in found.values()} == {"done"} and len(found) == 2
    assert failure in ResultsFolder(tmp_path / "r").failures()


@pytest.mark.slow
def test_quiet_prints_nothing_but_failures(ktbench: Commands, tmp_path: Path) -> None:
    path = write_matrix(tmp_path / "m.yaml")
    answer = ktbench("run", path, "--results", "r", "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    (tmp_path / "own.pt").write_bytes(b"")
    broken = {"student": "resnet8", "name": "broken", "checkpoint": "own.pt"}
    write_matrix(path, teachers=[broken])
    answer = ktbench("run", path, "--results", "s", "--quiet")
    assert (answer.code, answer.out) == (1, "")
    [line] = answer.err.splitlines()
    assert line.startswith("  failed: ") and "own.pt" in line


# ---------------------------------------------------------------- what the folder holds


@pytest.mark.slow
def test_a_pair_that_cannot_be_is_in_the_results_with_its_reason(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write_matrix(tmp_path / "m.yaml", methods=["none", "kd", "fsp"])
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 0, answer.err
    skipped = [r for r in results(tmp_path / "r").values() if r.status == "skipped"]
    assert [r.cell.method.name for r in skipped] == ["fsp"]
    assert skipped[0].reason and "skipped" in answer.err


@pytest.mark.slow
def test_each_distinct_graph_is_measured_once_and_its_cells_share_it(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write_matrix(
        tmp_path / "m.yaml", exports=ONNX, devices=[{"local": {"repeats": 1}}], seeds=2
    )
    ktbench.report = True
    answer = ktbench("run", path, "--results", "r")
    assert answer.code == 0, answer.err
    folder = tmp_path / "r"
    [measurement] = ResultsFolder(folder).measurements()
    graphs = {a.graph_key for r in results(folder).values() for a in r.artifacts}
    assert graphs == {measurement.graph_key}
    assert measurement.checked_inputs == 16 and measurement.agreement == 1.0
    assert measurement.p50_ms.low <= measurement.p50_ms.value <= measurement.p50_ms.high
    frames = load_results(folder)
    assert len(frames.deployed) == 4 and frames.deployed["p50_ms"].nunique() == 1
    for file in folder.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert (folder / "report" / "index.html").is_file()
