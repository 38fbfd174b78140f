"""Budgets, windows of the transfer and ensembles of teachers as axes of a matrix."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import yaml

from ktbench.matrix import MatrixError, loads, plan
from ktbench.matrix.estimate import estimate
from ktbench.records import BASELINE, Cell, Ensemble, Plan, Window
from ktbench.results.lock import Lock, LockFile
from ktbench.results.setting_names import differences
from ktbench.system.provenance import collect


def _planned(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "data": {"source": "digits", "train_size": 100},
        "teachers": ["resnet14"],
        "students": ["resnet8"],
        "methods": ["none", "kd"],
        "seeds": 1,
        "train": {"epochs": 2, "batch_size": 20},
    }
    return plan(loads(yaml.safe_dump(values | changes, sort_keys=False)))


def _names(planned: Plan) -> list[str]:
    """Names of the teachers on the axis, in order."""
    return list(dict.fromkeys(c.teacher.name for c in planned.cells if c.teacher))


def _windows(cells: Any) -> list[Window | None]:
    return [cell.distill for cell in cells]


# ---------------------------------------------------------------- budgets


def test_every_cell_is_there_once_per_budget_and_teachers_keep_their_own() -> None:
    planned = _planned(budget=[5, 2])
    assert [(c.method.name, c.train.epochs) for c in planned.cells] == [
        ("none", 5), ("none", 2), ("kd", 5), ("kd", 2),
    ]  # fmt: skip
    assert [t.cell.train.epochs for t in planned.teachers] == [2]
    plain = {cell.key for cell in _planned().cells}
    assert {c.key for c in planned.cells if c.train.epochs == 2} == plain
    with pytest.raises(MatrixError, match="budget is an axis of this matrix already"):
        _planned(budget=[2, 4], include={"method": "kd", "train": {"epochs": 3}})


# ---------------------------------------------------------------- windows


@pytest.mark.slow
def test_windows_are_tried_by_methods_that_read_a_teacher_and_the_whole_is_no_window() -> None:
    planned = _planned(distill=[{"end": [0.25, 1]}, {"start": 0.5, "scale": ["jump", "keep"]}])
    taught = [cell for cell in planned.cells if cell.teacher]
    assert _windows(taught) == [
        Window(end=0.25), None, Window(start=0.5), Window(start=0.5, scale="keep"),
    ]  # fmt: skip
    assert _windows(c for c in planned.cells if not c.teacher) == [None]
    assert {cell.key for cell in _planned().cells} < {cell.key for cell in planned.cells}
    assert len({cell.label for cell in planned.cells}) == len(planned.cells) == 5
    assert [c.key for c in _planned(distill={"end": 1}).cells] == [c.key for c in _planned().cells]


def test_a_method_that_cannot_be_kept_to_a_window_is_a_skip_with_the_reason() -> None:
    methods = ["hard_logits", "fitnet", "factor", "self_distillation", "attention"]
    planned = _planned(methods=methods, distill=[{"end": [0.1, 0.3, 1]}, {"start": 0.05}])

    def reasons(name: str) -> list[str | None]:
        skips = {s.cell.key: s.reason for s in planned.skips}
        cells = [*planned.cells, *(skip.cell for skip in planned.skips)]
        found = [cell for cell in cells if cell.method.name == name]
        found.sort(key=lambda c: (c.distill.start, c.distill.end) if c.distill else (0.0, 1.0))
        return [skips.get(cell.key) for cell in found]

    assert reasons("attention") == [None] * 4
    assert reasons("self_distillation") == [None]
    short, enough, whole, late = reasons("hard_logits")
    assert whole is None and short == enough == late and short is not None
    assert short == "distill: the method has no cross-entropy to continue with outside the window"
    for name, words in (("fitnet", "trains no cross-entropy"), ("factor", "prepares the transfer")):
        short, enough, whole, late = reasons(name)
        assert enough is whole is None
        assert short is not None and late is not None and words in short and words in late


def test_rules_leave_out_budgets_and_windows() -> None:
    planned = _planned(
        budget=[2, 4, 8],
        distill={"end": [0.2, 0.5, 1]},
        exclude=[{"budget": [2, 4], "windowed": True}, {"budget": 8, "windowed": False}],
    )
    assert [(c.method.name, c.train.epochs, c.distill) for c in planned.cells] == [
        ("none", 2, None), ("none", 4, None), ("kd", 2, None), ("kd", 4, None),
        ("kd", 8, Window(end=0.2)), ("kd", 8, Window(end=0.5)),
    ]  # fmt: skip


# ---------------------------------------------------------------- teachers


@pytest.mark.slow
def test_lists_in_a_teachers_entry_are_as_many_teachers_named_by_what_differs() -> None:
    graded = {"student": {"resnet8": {"width": [1, 2]}}, "train": {"epochs": [1, 5]}}
    planned = _planned(teachers=[graded, {"name": "T", "student": "resnet14", "seed": [3, 4]}])
    assert _names(planned) == [
        "resnet8(epochs=1)", "resnet8(epochs=5)", "resnet8(width=2, epochs=1)",
        "resnet8(width=2, epochs=5)", "T(seed=3)", "T(seed=4)",
    ]  # fmt: skip
    teachers = {teacher.name: teacher.cell for teacher in planned.teachers}
    assert teachers["resnet8(width=2, epochs=5)"].train.epochs == 5
    assert teachers["resnet8(width=2, epochs=5)"].student.settings == {"width": 2.0}
    assert teachers["T(seed=4)"].seed == 4
    sized = {"name": "T", "student": {"resnet8": {"width": [0.5, 2]}}}
    assert _names(_planned(teachers=sized)) == ["T(width=0.5)", "T(width=2)"]
    steps = {"student": "resnet8", "train": {"milestones": [0.5], "schedule": ["step", "cosine"]}}
    planned = _planned(teachers=steps)
    assert _names(planned) == ["resnet8(schedule=step)", "resnet8(schedule=cosine)"]
    assert {t.cell.train.milestones for t in planned.teachers} == {(0.5,)}


POOL = [
    {"name": "T", "student": "resnet8", "seed": [0, 1, 2]},
    {"name": "pool", "sample": [1, 3], "of": "T*"},
]


def test_an_ensemble_is_a_teacher_whose_members_are_all_trained() -> None:
    planned = _planned(teachers=POOL)
    assert _names(planned)[3:] == ["pool(sample=1)", "pool(sample=3)"]
    ensembles = [c.teacher for c in planned.cells if isinstance(c.teacher, Ensemble)]
    assert [(e.sample, [t.name for t in e.of]) for e in ensembles] == [
        (k, ["T(seed=0)", "T(seed=1)", "T(seed=2)"]) for k in (1, 3)
    ]
    assert [t.name for t in planned.teachers] == ["T(seed=0)", "T(seed=1)", "T(seed=2)"]
    copy = Plan.model_validate_json(planned.model_dump_json())
    assert copy == planned and [c.key for c in copy.cells] == [c.key for c in planned.cells]


def test_members_may_be_written_where_they_are_used_and_teach_there_alone() -> None:
    planned = _planned(teachers={"sample": 1, "of": ["resnet8", {"student": "vgg8", "seed": 4}]})
    assert _names(planned) == ["1 of resnet8, vgg8"]
    assert {t.name: t.cell.seed for t in planned.teachers} == {"resnet8": 0, "vgg8": 4}


@pytest.mark.slow
def test_a_key_covers_every_member_and_how_many_are_drawn() -> None:
    def key(**changes: Any) -> str:
        first, second = ({**POOL[0], **changes.get("first", {})}, {**POOL[1], "sample": 1})
        second |= changes.get("second", {})
        [found] = [
            cell.key
            for cell in _planned(teachers=[first, second]).cells
            if isinstance(cell.teacher, Ensemble)
        ]
        return found

    plain = key()
    assert key() == plain
    assert key(second={"sample": 2}) != plain
    assert key(first={"train": {"lr": 0.01}}) != plain
    assert key(second={"of": ["T(seed=0)", "T(seed=2)"]}) != plain
    assert key(second={"of": ["T(seed=1)", "T(seed=0)", "T(seed=2)"]}) != plain  # order of sums


def test_methods_that_read_stages_learn_from_one_drawn_teacher_of_equal_shapes_alone() -> None:
    mixed = {"name": "mixed", "sample": 1, "of": ["T*", "vgg8"]}
    planned = _planned(teachers=[*POOL, mixed], methods=["kd", "attention"])
    reasons = {(s.cell.method.name, s.cell.label.split(" / ")[1]): s.reason for s in planned.skips}
    assert reasons == {
        ("attention", "attention ← pool(sample=3)"): "teacher pool(sample=3): logits of 3 are "
        "averaged, and the method reads more",
        ("attention", "attention ← mixed"): "teacher mixed: its members differ in shape, and the "
        "method reads their stages",
    }


def test_a_pool_of_workers_refuses_an_ensemble_in_one_line() -> None:
    with pytest.raises(MatrixError) as caught:
        _planned(teachers=POOL, teacher={"source": "pool", "workers": 1})
    assert str(caught.value).endswith(
        "teacher.source: a pool serves one teacher, and pool(sample=1) is several: set source: "
        "live or cached"
    )


# ---------------------------------------------------------------- what results know of it


@pytest.mark.slow
def test_a_lock_gives_back_windows_ensembles_and_starts() -> None:
    students = ["resnet8", {"blockwise": {"of": "T(seed=0)"}}]
    planned = _planned(
        teachers=POOL, students=students, budget=[2, 4], distill={"end": [0.5, 1]}, seeds=2
    )
    assert any(c.start and c.distill for c in planned.cells)
    lock = Lock(plan=planned, provenance=collect())
    file = LockFile.model_validate_json(LockFile.of(lock).model_dump_json())
    assert file.lock() == lock
    assert [c.key for c in file.lock().plan.cells] == [c.key for c in planned.cells]


@pytest.mark.slow
def test_cells_are_told_apart_by_their_windows_as_the_matrix_writes_them() -> None:
    """Against the whole training, whichever window is the commonest; the baseline has none."""

    def told(**changes: Any) -> list[tuple[str, dict[str, str]]]:
        planned = _planned(**changes)
        found = differences(planned)
        return [(cell.method.name, found[cell.key]) for cell in planned.cells]

    windows = [{"end": [0.2, 0.5, 1]}, {"start": 0.5, "scale": "keep"}]
    assert told(distill=windows, seeds=1, budget=[2, 4])[2:6] == [
        ("kd", {"distill.end": "0.2"}),
        ("kd", {"distill.end": "0.5"}),
        ("kd", {}),
        ("kd", {"distill.start": "0.5", "distill.scale": "keep"}),
    ]
    assert told(distill=windows, budget=[2, 4])[6] == ("kd", {"epochs": "4", "distill.end": "0.2"})
    assert told(distill={"end": 0.3}) == [("none", {}), ("kd", {})], "all alike"


# ---------------------------------------------------------------- what it will cost


@cache
def _one_pass() -> float:
    return estimate(_planned(methods=[], teachers=[])).flops / 3


def _teaching(**changes: Any) -> float:
    """The estimated FLOPs of teachers' passes, in passes of one teacher over a whole training."""
    values: dict[str, Any] = {"teachers": ["resnet8"], "methods": ["kd"]}
    planned = _planned(**values | changes)
    ours: list[Cell] = [c for c in planned.cells if c.method != BASELINE]
    students = [*ours, *(c for c in planned.cells if c.method == BASELINE)]
    own = len(students) + len(planned.teachers)
    return round(estimate(planned).flops / _one_pass() - 3 * own, 6)


@pytest.mark.slow
def test_the_estimate_knows_the_share_of_a_window_and_the_teachers_per_step() -> None:
    assert _teaching() == 1
    assert _teaching(distill={"end": 0.2}) == 0.2
    assert _teaching(distill={"start": 0.25, "end": 0.75}) == 0.5
    # Students of a cohort share its passes, so that it takes the union of their windows.
    assert _teaching(distill=[{"end": [0.2, 0.5]}, {"start": 0.8}]) == 0.7
    assert _teaching(distill={"end": [0.2, 1]}) == 1
    pool = {"name": "T", "student": "resnet8", "seed": [0, 1, 2, 3]}
    for sample in (1, 2, 4):
        assert _teaching(teachers={"sample": sample, "of": [pool]}) == sample
