"""Failed trainings are laid to the technique only where it ended them itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._synthetic import PROVENANCE, Shape, plan_of, write_folder
from ktbench.records import Cell, DataSpec, Failure, Stage
from ktbench.results import ResultsFolder, load_results
from ktbench.results.attribution import is_technique_failure, known_classes

NAN = Failure(stage="train", reason="loss term 'hint' became nan at step 31", step=31)


@pytest.mark.parametrize(
    "failure",
    [
        NAN,
        Failure(stage="train", reason="its logits are not finite", step=90),
        Failure(stage="train", reason="ValueError: no such layer (mine.py:3)", step=0),
        Failure(stage="train", reason="the loss diverged"),
    ],
)
def test_divergence_and_its_own_exceptions_are_the_techniques_deed(failure: Failure) -> None:
    assert is_technique_failure(failure)


@pytest.mark.parametrize(
    ("stage", "what", "reason", "step"),
    [
        ("teacher", "big", "loss term 'ce' became nan at step 3", 3),
        ("train", "", "OSError: [Errno 28] No space left on device (files.py:12)", 7),
        ("train", "", "killed by SIGKILL while training, step 12", None),
        ("train", "", "RuntimeError: DefaultCPUAllocator: not enough memory", 4),
        ("train", "", "OutOfMemoryError: CUDA out of memory", 4),
        ("train", "blocks", "a worker was lost", None),
        ("train", "", "its arithmetic fails here: conv2d is off by 3e-2", None),
        ("train", "", "the teacher's weights changed while its students learnt", None),
        ("measure", "pi", "unreachable", None),
        ("data", "", "a table is not there", None),
    ],
)
def test_circumstances_are_not(stage: Stage, what: str, reason: str, step: int | None) -> None:
    assert not is_technique_failure(Failure(stage=stage, what=what, reason=reason, step=step))


def _failing(cell: Cell) -> Failure | None:
    if cell.method.name != "kd":
        return None
    if cell.seed == 0:
        return NAN
    if cell.seed == 1:
        return Failure(stage="train", reason="killed by SIGKILL", step=None)
    if cell.seed == 2:
        return Failure(stage="export", what="onnx-fp32", reason="agreement 0.71 < 0.9")
    return None


def test_the_cells_frame_counts_own_failures_at_chance_and_no_others(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains={"kd": 0.02}, seeds=4, epochs=2, failed=_failing)
    write_folder(tmp_path / "run", shape)
    cells = load_results(tmp_path / "run").cells
    kd = cells[cells["method"] == "kd"].set_index("seed")
    assert kd["failed_by"].tolist() == ["technique", "circumstance", "", ""]
    assert kd["accuracy_itt"][0] == kd["validation_itt"][0] == pytest.approx(0.1)  # ten digits
    assert kd["accuracy_itt"].isna().tolist() == [False, True, False, False]
    assert (kd["accuracy_itt"] == kd["accuracy"]).tolist()[2:] == [True, True]


def test_the_lock_tells_the_classes_and_an_old_one_is_known_by_its_datas_name(
    tmp_path: Path,
) -> None:
    assert known_classes(DataSpec(source="hub", path="someone/birds")) is None
    assert known_classes(DataSpec(source="parquet", path="${KTBENCH_DATA}/cifar100")) == 100
    plan = plan_of(Shape(students=("resnet8",), gains={"kd": 0.0}, seeds=1))
    folder = ResultsFolder(tmp_path / "run")
    with folder.open(plan, "", PROVENANCE, classes=4):
        pass
    assert load_results(tmp_path / "run").cells["chance"].tolist() == [0.25, 0.25]
