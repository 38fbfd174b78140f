"""A plan holds every cell once, keeps what its matrix says, and skips what cannot be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ktbench.matrix import MatrixError, loads, plan
from ktbench.matrix.exports import dynamic
from ktbench.records import BASELINE, Cell, ExportSpec, Item, Plan, TrainSpec, Window, digest_of


def _planned(base: str = ".", **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "data": {"source": "digits", "train_size": 100},
        "teachers": ["resnet14"],
        "students": ["resnet8"],
        "methods": ["none", "kd"],
        "seeds": 1,
        "train": {"epochs": 2},
    }
    return plan(loads(yaml.safe_dump(values | changes, sort_keys=False), base=base))


def _labels(planned: Plan) -> list[str]:
    return [cell.label for cell in planned.cells]


# ---------------------------------------------------------------- the product


def test_the_plan_is_the_product_of_the_axes_in_the_order_of_the_file() -> None:
    planned = _planned(
        students=["resnet14", "resnet8"], methods=["kd", "none"], teachers=["vgg8"], seeds=[5, 2]
    )
    assert _labels(planned) == [
        f"{student} / {method} / seed {seed}"
        for student in ("resnet14", "resnet8")
        for method in ("kd ← vgg8", "none")
        for seed in (5, 2)
    ]


@pytest.mark.slow
def test_the_baseline_is_always_there_and_stands_once_not_once_per_teacher() -> None:
    for methods in (["kd"], ["none", "kd"], ["kd", {"none": {}}]):
        planned = _planned(methods=methods, teachers=["resnet14", "vgg8"])
        baseline = [cell for cell in planned.cells if cell.method == BASELINE]
        assert [cell.teacher for cell in baseline] == [None]
        assert len(planned.cells) == 3


def test_no_methods_at_all_is_the_baseline_alone() -> None:
    assert _labels(_planned(methods=[], teachers=[])) == ["resnet8 / none / seed 0"]


def test_a_count_of_seeds_is_that_many_seeds_from_zero() -> None:
    assert [cell.seed for cell in _planned(methods=[], seeds=4).cells] == [0, 1, 2, 3]


def test_a_list_for_a_setting_tries_each_value() -> None:
    planned = _planned(
        students=[{"resnet8": {"width": [0.5, 2]}}],
        methods=[{"attention": {"weight": [10, 1000], "power": [1, 2]}}],
    )
    assert {cell.student.label for cell in planned.cells} == {
        "resnet8(width=0.5)",
        "resnet8(width=2)",
    }
    assert {cell.method.label for cell in planned.cells} - {"none"} == {
        "attention(power=1, weight=10)",
        "attention(weight=10)",
        "attention(power=1)",
        "attention",
    }


def _pairs(value: Any) -> list[Any]:
    planned = _planned(methods=[{"attention": {"pairs": value}}])
    return [
        cell.method.settings.get("pairs", "default")
        for cell in planned.cells
        if cell.method != BASELINE
    ]


@pytest.mark.slow
def test_a_list_that_is_itself_a_value_of_the_setting_is_one_value() -> None:
    assert _pairs([[0, 0], [1, 1]]) == [[[0, 0], [1, 1]]]
    assert _pairs([[[0, 0]], [[1, 1]]]) == [[[0, 0]], [[1, 1]]]
    assert _pairs(["stage", "last"]) == ["default", "last"]
    assert _pairs(["last", [[0, 0]]]) == ["last", [[0, 0]]]


def test_settings_that_are_the_items_own_defaults_change_no_key() -> None:
    plain = _planned(students=["resnet8"], methods=["none", "kd"])
    spelt = _planned(
        students=[{"resnet8": {"width": 1}}],
        methods=[{"none": None}, {"kd": {"temperature": 4, "weight": 0.9, "standardise": False}}],
    )
    assert [cell.key for cell in plain.cells] == [cell.key for cell in spelt.cells]


def test_a_whole_number_and_the_same_with_a_fraction_are_one_value() -> None:
    one = _planned(methods=[{"kd": {"temperature": 2}}])
    other = _planned(methods=[{"kd": {"temperature": 2.0}}])
    assert [cell.key for cell in one.cells] == [cell.key for cell in other.cells]


def test_two_values_that_differ_in_the_last_digit_have_two_labels() -> None:
    planned = _planned(methods=[{"kd": {"temperature": [1.0000001, 1.0000002]}}])
    assert len(set(_labels(planned))) == len(planned.cells) == 3


def test_exports_are_the_grid_and_the_opset_concerns_onnx_alone() -> None:
    planned = _planned(
        exports=[
            {
                "formats": "onnx",
                "precisions": ["fp32", "int8"],
                "opset": [13, 18],
                "activations": "signed",
            },
            {"formats": "tflite", "batch": [1, "dynamic"], "opset": 13},
        ],
        devices=["local", {"local": {"name": "two threads", "threads": 2}}],
    )
    assert [export.label for export in planned.exports] == [
        "onnx-fp32-opset13",
        "onnx-fp32",
        "onnx-int8-opset13",
        "onnx-int8",
        "tflite-fp32",
        "tflite-fp32-dynamic",
    ]
    assert [(device.name, device.threads) for device in planned.devices] == [
        ("local", (1,)),
        ("two threads", (2,)),
    ]


INT8 = {"formats": ["onnx", "tflite"], "precisions": ["fp32", "int8"]}
PI = {"raspberry_pi_4": {"host": "pi"}}


@pytest.mark.parametrize(
    ("devices", "form"),
    [
        ([], "signed"),
        ([PI], "signed"),
        (["local"], "unsigned"),
        ([PI, "local"], "unsigned"),
        ([{"ssh": {"host": "any"}}], "unsigned"),
        ([{"ssh": {"host": "any", "provider": "cuda"}}], "signed"),
        (["fake"], "signed"),
    ],
)
def test_the_devices_of_a_matrix_decide_the_form_of_its_int8_onnx_files(
    monkeypatch: pytest.MonkeyPatch, devices: list[Any], form: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    forms = {e.label: e.activations for e in _planned(exports=[INT8], devices=devices).exports}
    name = "onnx-int8" if form == "signed" else "onnx-int8-unsigned"
    assert list(forms) == ["onnx-fp32", name, "tflite-fp32", "tflite-int8"]
    assert forms[name] == form and forms["tflite-int8"] == "signed"


def test_settings_of_int8_are_said_of_int8_files_alone_and_name_them() -> None:
    settings = {"calibration": "mse", "correct": ["bias", "equalise"], "keep": "head"}
    planned = _planned(exports=[INT8 | settings | {"sensitivity": True}])
    plain, onnx, _, tflite = planned.exports
    assert plain == ExportSpec(format="onnx")
    assert onnx.label == "onnx-int8-mse-equalise-bias-keep-head"
    assert tflite.label == "tflite-int8-mse-equalise-bias-keep-head"
    without = onnx.model_copy(update={"sensitivity": False})
    assert onnx.file_settings() == without.file_settings()


def test_an_export_of_before_is_what_it_was() -> None:
    written = {"format": "onnx", "precision": "int8", "batch": "1", "opset": 18}
    assert ExportSpec.model_validate(written).model_dump(mode="json") == written


def test_texts_have_no_type_of_activations_as_their_files_are_dynamic() -> None:
    given = ExportSpec(format="onnx", precision="int8", activations="unsigned")
    assert dynamic([given]) == (ExportSpec(format="onnx", precision="int8"),)


def test_a_device_is_called_by_its_host_unless_it_is_named() -> None:
    planned = _planned(
        exports={},
        devices=[{"ssh": {"host": "pi4"}}, {"ssh": {"host": "pi4", "name": "slow"}}],
    )
    assert [device.name for device in planned.devices] == ["pi4", "slow"]
    assert {device.profile for device in planned.devices} == {"ssh"}


# ---------------------------------------------------------------- teachers


def test_a_teacher_sees_its_own_training_images_and_budget() -> None:
    planned = _planned(
        teachers=[
            {"name": "all", "student": "resnet14", "train_size": "all", "train": {"epochs": 9}},
            {"name": "null", "student": "resnet14", "train_size": None},
            {"name": "some", "student": "resnet14", "train_size": 500, "seed": 7},
            {"name": "same", "student": "resnet14"},
        ]
    )
    cells = {teacher.name: teacher.cell for teacher in planned.teachers}
    assert {name: cell.data.train_size for name, cell in cells.items()} == {
        "all": None,
        "null": None,
        "some": 500,
        "same": 100,
    }
    assert [cell.train.epochs for cell in cells.values()] == [9, 2, 2, 2]
    assert [cell.seed for cell in cells.values()] == [0, 0, 7, 0]


def test_a_chain_of_teachers_is_planned_from_its_first_to_its_last() -> None:
    planned = _planned(
        teachers=[
            {"name": "assistant", "student": "resnet14", "method": "kd", "teacher": "big"},
            {"name": "big", "student": "resnet20"},
        ],
        exclude={"teacher": "big"},
    )
    assert [teacher.name for teacher in planned.teachers] == ["big", "assistant"]
    [taught] = [cell for cell in planned.cells if cell.teacher]
    assert taught.teacher is not None
    assert taught.teacher.cell.teacher is not None
    assert taught.teacher.cell.teacher.name == "big"
    assert taught.teacher.cell.method == Item(name="kd")


def test_other_weights_behind_the_same_path_are_another_teacher(tmp_path: Path) -> None:
    keys = []
    for weights in (b"one", b"two"):
        (tmp_path / "own.pt").write_bytes(weights)
        teachers = [{"student": "resnet14", "checkpoint": "own.pt"}]
        planned = _planned(str(tmp_path), teachers=teachers)
        keys.append({cell.key for cell in planned.cells if cell.teacher})
    assert keys[0].isdisjoint(keys[1])


# ---------------------------------------------------------------- rules


@pytest.mark.slow
def test_exclude_leaves_out_what_matches_all_keys_of_a_rule() -> None:
    axes: dict[str, Any] = {
        "students": ["resnet8", {"resnet8": {"width": 0.5}}, "vgg8"],
        "methods": ["none", "kd", "attention"],
        "teachers": ["resnet14", "vgg11"],
        "seeds": 2,
    }
    whole = set(_labels(_planned(**axes)))
    for rule, gone in (
        ({"student": "vgg*"}, lambda s, m, t, n: s == "vgg8"),
        ({"student": "resnet8"}, lambda s, m, t, n: s.startswith("resnet8")),
        ({"student": "resnet8(*"}, lambda s, m, t, n: s == "resnet8(width=0.5)"),
        ({"student": "resnet8(width=0.5)"}, lambda s, m, t, n: s == "resnet8(width=0.5)"),
        ({"teacher": "vgg11"}, lambda s, m, t, n: t == "vgg11"),
        (
            {"method": ["kd", "attention"], "seed": 1},
            lambda s, m, t, n: m != "none" and n == "1",
        ),
        (
            {"student": "vgg8", "teacher": "resnet*", "seed": [0, 1]},
            lambda s, m, t, n: s == "vgg8" and t == "resnet14",
        ),
    ):
        left = set(_labels(_planned(**axes, exclude=rule)))
        expected = {label for label in whole if gone(*_parts(label))}
        assert expected
        assert whole - left == expected, rule
        assert left <= whole


def _parts(label: str) -> tuple[str, str, str | None, str]:
    student, method, seed = label.split(" / ")
    name, _, teacher = method.partition(" ← ")
    return student, name, teacher or None, seed.removeprefix("seed ")


def test_include_adds_cells_beside_the_product() -> None:
    before = _labels(_planned())
    after = _labels(_planned(include=[{"student": "vgg8", "method": {"kd": {"temperature": 2}}}]))
    assert after == [*before, "vgg8 / kd(temperature=2) ← resnet14 / seed 0"]


def test_exclude_has_the_last_word_on_what_include_adds() -> None:
    planned = _planned(
        seeds=2,
        include={"student": ["resnet8", "vgg8"], "method": "kd", "train": {"epochs": 5}},
        exclude=[{"student": "vgg8", "seed": 1}, {"student": "vgg*", "seed": 1}],
    )
    assert [(c.student.name, c.seed) for c in planned.cells if c.train.epochs == 5] == [
        ("resnet8", 0),
        ("resnet8", 1),
        ("vgg8", 0),
    ]


def test_include_gives_matching_cells_another_training_and_leaves_the_others() -> None:
    planned = _planned(
        students=["resnet8", "vgg8"],
        include=[{"student": "vgg*", "method": "kd", "train": {"epochs": 40, "lr": 1}}],
    )
    changed = {cell.label: cell.train for cell in planned.cells if cell.train.epochs == 40}
    expected = TrainSpec(epochs=40, lr=1.0)
    assert changed == {"vgg8 / kd ← resnet14 / seed 0": expected}
    assert len(planned.cells) == 4


@pytest.mark.slow
def test_include_names_members_of_the_other_axes() -> None:
    axes = {"budget": [2, 4], "views": ["fresh", 3], "distill": {"end": [0.5, 1.0]}}
    before = {cell.key for cell in _planned(**axes).cells}
    block = {"method": "kd", "seed": 7, "budget": 4, "views": "fresh", "distill": {"end": 0.5}}
    after = _planned(**axes, include=block).cells
    [added] = [cell for cell in after if cell.key not in before]
    assert (added.train.epochs, added.train.views, added.seed) == (4, None, 7)
    assert added.distill == Window(end=0.5)
    for wrong in ({"budget": 3}, {"views": 2}, {"distill": {"end": 0.2}}):
        [key] = wrong
        with pytest.raises(MatrixError, match=f"names what is not in the matrix's {key}"):
            _planned(**axes, include={"seed": 7, **wrong})


# ---------------------------------------------------------------- skips


def test_an_impossible_pair_is_a_skip_with_its_reason_and_the_others_stay() -> None:
    planned = _planned(
        students=["resnet8", "vgg8"],
        methods=["none", "kd", {"intermediate_last": {"pairs": [[0, 4]]}}],
        seeds=2,
    )
    assert {skip.cell.student.name for skip in planned.skips} == {"resnet8"}
    assert {skip.reason for skip in planned.skips} == {
        "the student has stages 0 to 2, and pairs names stage 4"
    }
    assert len(planned.skips) == 2
    assert len(planned.cells) == 10


BROKEN = """\
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))
"""


def test_a_network_that_cannot_take_the_images_is_a_skip(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(BROKEN)
    planned = _planned(str(tmp_path), students=["resnet8", "nets.py:net"])
    assert {cell.student.name for cell in planned.cells} == {"resnet8"}
    assert {skip.cell.student.name for skip in planned.skips} == {"nets.py:net"}
    assert all(
        skip.reason.startswith("nets.py:net cannot take images of 1×8×8: ")
        for skip in planned.skips
    )


def test_students_of_a_teacher_that_cannot_be_had_are_skips(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(BROKEN)
    planned = _planned(
        str(tmp_path), teachers=[{"name": "t", "student": "nets.py:net"}, "resnet14"]
    )
    [skip] = planned.skips
    assert skip.reason.startswith("teacher t: nets.py:net cannot take images of 1×8×8: ")
    assert len(planned.cells) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"source": "digits", "train_size": 5000}},
            "matrix.yaml:1: data: train_size is 5000, but only 1294 images are there for it",
        ),
        (
            {"teachers": ["vgg8", {"student": "resnet14", "train_size": 5000}]},
            "matrix.yaml:6: teachers[1]: train_size is 5000, but only 1294 images are there for it",
        ),
        (
            {"data": {"source": "parquet", "path": "nowhere"}},
            "matrix.yaml:1: data: no such file or folder BASE/nowhere: give the path of one",
        ),
    ],
)
def test_data_that_cannot_be_had_is_told_while_planning(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MatrixError) as caught:
        _planned(str(tmp_path), **changes)
    assert str(caught.value) == message.replace("BASE", str(tmp_path))


# ---------------------------------------------------------------- keys

STUDENTS: list[Any] = ["resnet8", "resnet14", {"resnet8": {"width": [0.5, 2.0]}}, "vgg_thin"]
METHODS: list[Any] = ["none", "kd", {"kd": {"temperature": [1, 2]}}, "attention", "last_layer"]
TEACHERS: list[Any] = ["resnet20", {"student": "vgg8", "train_size": "all"}]


def _subset(items: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(range(len(items))), unique=True, min_size=1).map(
        lambda chosen: [items[i] for i in chosen]
    )


@pytest.mark.slow
@settings(max_examples=25)
@given(
    students=_subset(STUDENTS),
    methods=_subset(METHODS),
    teachers=_subset(TEACHERS),
    seeds=st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=4),
    shuffle=st.randoms(use_true_random=False),
)
def test_keys_are_unique_repeatable_and_independent_of_the_order_of_the_axes(
    students: list[Any],
    methods: list[Any],
    teachers: list[Any],
    seeds: list[int],
    shuffle: random.Random,
) -> None:
    axes = {"students": students, "methods": methods, "teachers": teachers, "seeds": seeds}
    first, second = _planned(**axes), _planned(**axes)
    assert first == second
    keys = [cell.key for cell in first.cells]
    assert len(set(keys)) == len(keys)
    shuffled = {axis: shuffle.sample(values, len(values)) for axis, values in axes.items()}
    assert {cell.key for cell in _planned(**shuffled).cells} == set(keys)
    assert {cell.label for cell in _planned(**shuffled).cells} == set(_labels(first))


UNSAID = (
    ("code", None), ("implied", []), ("views", None), ("compile", False), ("outputs", None),
    ("start", None), ("distill", None), ("layout", "auto"), ("warmup", None),
)  # fmt: skip
"""Settings that came after the first version: at their default they are in no key."""


def _said(value: Any) -> Any:
    """A dumped record as the first version would have written it."""
    if isinstance(value, dict):
        return {k: _said(v) for k, v in value.items() if (k, v) not in UNSAID}
    return value


def test_a_key_is_a_digest_of_all_that_a_cell_says() -> None:
    planned = _planned(teachers=[{"student": "resnet14", "train": {"epochs": 3}}])
    for cell in planned.cells:
        assert cell.key == digest_of(_said(cell.model_dump(mode="json")))
        assert Cell.model_validate_json(cell.model_dump_json()).key == cell.key


def test_a_changed_copy_of_a_cell_has_the_key_of_what_it_now_says() -> None:
    [cell] = _planned(methods=[]).cells
    before = cell.key
    changed = cell.model_copy(update={"seed": 9})
    assert changed.key != before
    assert changed.key == Cell.model_validate(changed.model_dump()).key
    assert cell.key == before


def test_where_a_matrix_lies_is_in_no_key(tmp_path: Path) -> None:
    here, there = _planned(), _planned(str(tmp_path))
    assert [cell.key for cell in here.cells] == [cell.key for cell in there.cells]
    assert there.base == str(tmp_path)


@pytest.mark.slow
def test_planning_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    _planned(students=["vgg_thin", "vit_tiny"], methods=["kd"])
    assert torch.equal(torch.rand(1), expected)


def test_a_users_network_is_another_cell_when_its_code_changes(tmp_path: Path) -> None:
    """Else a later run would show the old code's results as the new one's."""
    keys = []
    for folder, code in (("a", BROKEN), ("b", BROKEN), ("c", BROKEN + "\n# changed\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nets.py").write_text(code.replace("3 * 32 * 32", "64"))
        planned = _planned(str(tmp_path / folder), students=["nets.py:net"], methods=["none"])
        keys.append([cell.key for cell in planned.cells])
    assert keys[0] == keys[1] != keys[2]


# ---------------------------------------------------------------- pairs of stages


def test_a_warm_up_is_part_of_the_cells_that_ask_for_it_and_of_no_other() -> None:
    pairs = ["stage", {"similarity": {"warmup_epochs": 3}}, {"similarity": {"warmup_epochs": 4}}]
    methods = ["none", {"hint": {"pairs": pairs}}]
    planned = _planned(methods=methods, seeds=2, students=["resnet8", "resnet14"])
    warming = {cell.label: cell.warmup for cell in planned.cells if cell.warmup is not None}
    assert len(warming) == 8 and len(planned.cells) == 16
    assert all("pairs=similarity(warmup_epochs=" in label for label in warming)
    assert [warmup.name for warmup in planned.warmups] == [
        f"{student} after {epochs} epochs"
        for student in ("resnet8", "resnet14")
        for epochs in (3, 4)
    ]
    for warmup in planned.warmups:
        assert (warmup.cell.method, warmup.cell.teacher, warmup.cell.seed) == (BASELINE, None, 0)
    assert len({cell.key for cell in planned.cells}) == 16


def test_a_warm_up_takes_one_teacher() -> None:
    planned = _planned(
        teachers=[
            "resnet14",
            "resnet20",
            {"name": "both", "sample": 1, "of": ["resnet14", "resnet20"]},
        ],
        methods=[{"hint": {"pairs": {"similarity": {"warmup_epochs": 1}}}}],
    )
    assert [skip.reason for skip in planned.skips] == [
        "teacher both: pairs by similarity need one teacher, for all seeds"
    ]


# ---------------------------------------------------------------- a changed meaning


def _method(**settings: Any) -> Item:
    [name] = settings
    planned = _planned(students=["resnet14"], methods=[settings])
    items = [cell.method for cell in (*planned.cells, *(skip.cell for skip in planned.skips))]
    return next(item for item in items if item.name == name)


@pytest.mark.slow
def test_settings_that_have_come_to_mean_something_else_are_another_cell() -> None:
    """Flow at weight 1 is not the cell of the same settings when their weight was 50."""
    assert _method(kd={}) == Item(name="kd")
    assert _method(kd={"temperature": 2}).code is None
    assert _method(kd={"standardise": True}).code == "revision 1"
    assert _method(fsp={}) == Item(name="fsp", code="revision 1")
    parts = [{"method": "kd", "settings": {"standardise": True}}, "fsp", "attention"]
    assert _method(combined={"parts": parts}).code == "revision 2"
    assert _method(combined={"parts": ["attention"]}).code is None
    changed = _method(ab={})
    assert changed.model_copy(update={"code": None}).canonical != changed.canonical
    assert changed.label == "ab"
