"""The schema, the starter, the matrices of the repository and the page on them agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ktbench import catalogue
from ktbench.matrix import Matrix, MatrixError, json_schema, load, loads, plan, starter
from ktbench.matrix.estimate import estimate
from ktbench.matrix.file_problems import Origin
from ktbench.matrix.models import ExportGrid, FileStart, Include, Rule, TeacherEntry, WindowGrid
from ktbench.matrix.preprocess_entry import PreprocessEntry
from ktbench.matrix.yaml_reader import parse
from ktbench.records import (
    Augmentation,
    BlockRun,
    BlockTrain,
    DataSpec,
    DeviceSpec,
    NumericSpec,
    Plan,
    SourceSpec,
    TeacherOutputs,
    TrainSpec,
)
from tests.matrix.test_file import GOOD, ONE_LINE

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "matrix.yaml", *sorted((ROOT / "matrices").glob("*.yaml"))]


def _values(text: str) -> dict[str, Any]:
    return parse(text, Origin())[0]


@pytest.fixture(scope="module")
def validator() -> Any:
    import jsonschema

    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
@pytest.mark.slow
def test_every_matrix_of_the_repository_is_in_order(file: Path, validator: Any) -> None:
    validator.validate(_values(file.read_text()))
    assert load(file).name == file.stem or file.stem == "matrix"


@pytest.mark.slow
def test_the_starter_satisfies_the_schema_and_is_planned_as_it_stands(validator: Any) -> None:
    text = starter()
    assert text.startswith("# yaml-language-server: $schema=matrix.schema.json\n")
    validator.validate(_values(text))
    planned = plan(loads(text))
    assert len(planned.cells) == 27
    assert not planned.skips
    assert planned.exports
    assert planned.devices


@pytest.mark.slow
def test_the_starters_commented_lines_work_too(validator: Any) -> None:
    lines = starter().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# exclude:"))
    opened = lines[:start] + [line.removeprefix("# ") for line in lines[start:]]
    opened = [line.replace("# - ssh", "- ssh") for line in opened]
    text = "\n".join(opened)
    validator.validate(_values(text))
    planned = plan(loads(text))
    assert [device.name for device in planned.devices] == ["local", "Raspberry Pi 4"]
    assert len(planned.cells) == 66  # 3 students untaught, 6 and 2 by kd and attention
    assert {cell.train.epochs for cell in planned.cells} == {20, 40}
    assert {cell.train.lr for cell in planned.cells} == {0.05, 0.02}
    assert {c.student.label for c in planned.cells if c.method.name == "attention"} == {"resnet8"}


def test_the_schema_takes_every_short_form(validator: Any) -> None:
    validator.validate(
        _values(
            """\
data: {source: digits}
teachers:
  - resnet14
  - {student: {resnet20: {width: 2}}, train_size: all, train: {lr: 0.1}, method: kd, teacher: x}
  - {name: g, student: resnet8, seed: [1, 2], train: {epochs: [1, 5]}}
  - {name: a, student: resnet8, checkpoint: a.pt, preprocess: unit, expect: 0.9}
  - {name: b, student: resnet8, checkpoint: b.pt, preprocess: {mean: 0.5, std: [1, 2, 3]}}
  - {name: e, sample: [1, 2], of: ["g*", {student: vgg8, seed: 3}, {resnet8: {width: 2}}]}
students: nets.py:Tiny
methods: [kd, {attention: {weight: [1, 2], pairs: [[0, 0]]}}, {fitnet: }, {"m.py:M": {a: 1}}]
seeds: 3
train: {epochs: 3}
exports: {formats: onnx, batch: 1}
devices: {local: {threads: 2}}
budget: [2, 4]
distill: [{end: [0.2, 1]}, {start: 0.5, scale: keep}]
exclude: {student: "vgg*", seed: 1, budget: 2, windowed: true}
include: {student: "resnet*", method: {kd: {temperature: 3}}, train: {epochs: 2}}
"""
        )
    )


SCHEMA_CANNOT_TELL = (
    "is listed twice", "] too", "reads no teacher", "needs a teacher", "circle", "is called",
    "taught in one way",
    "matches nothing", "changes nothing", "excludes nothing", "says nothing", "no cell",
    "nothing to measure", "needs a host", "takes no host", "are called", "width must be",
    "one teacher, not", "at most 2, the members", "two members or more", "belongs to the members",
    "is an ensemble", "must be below end", "student 'resnet99'",
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (line, message)
        for line, message in ONE_LINE
        if not any(words in message for words in SCHEMA_CANNOT_TELL)
        and "include: {method: kdd}" not in line  # may be a pattern
        and "temperature: [1, -2]" not in line  # a bound of the method's own
    ],
)
def test_an_editor_sees_what_loading_refuses(line: str, message: str, validator: Any) -> None:
    from jsonschema import ValidationError

    key = line.partition(":")[0]
    kept = [good for good in GOOD.splitlines() if not good.startswith(f"{key}:")]
    with pytest.raises(ValidationError):
        validator.validate(_values("\n".join([*kept, line])))


@pytest.mark.slow
def test_the_schema_names_every_student_method_and_device() -> None:
    definitions = json_schema()["$defs"]
    for kind, names in (
        ("student", set(catalogue.students())),
        ("method", set(catalogue.methods())),
        ("device", set(catalogue.devices())),
    ):
        assert set(definitions[kind]["anyOf"][0]["enum"]) == names
        assert set(definitions[kind]["anyOf"][1]["properties"]) == names


@pytest.mark.slow
def test_the_schema_explains_every_key_and_every_setting_that_its_file_explains() -> None:
    schema = json_schema()
    assert all("description" in value for value in schema["properties"].values())
    kd = schema["$defs"]["method"]["anyOf"][1]["properties"]["kd"]["anyOf"][0]["properties"]
    assert kd["temperature"]["description"].startswith("T: both sides' logits")
    assert kd["temperature"]["default"] == 4.0


@pytest.mark.parametrize(
    "model",
    [
        Matrix, DataSpec, Augmentation, TeacherEntry, TrainSpec, NumericSpec, ExportGrid,
        TeacherOutputs, SourceSpec, DeviceSpec, Rule, Include, BlockTrain, BlockRun, WindowGrid,
        PreprocessEntry, FileStart,
    ],
)  # fmt: skip
def test_the_page_on_the_matrix_explains_every_key(model: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "matrix.md").read_text()
    missing = [name for name in model.model_fields if f"`{name}`" not in page]
    assert missing in ([], ["profile"])


def test_the_examples_of_the_page_are_in_order(validator: Any) -> None:
    page = (ROOT / "docs" / "matrix.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    assert len(blocks) >= 6
    smallest = _values(blocks[0])
    plan(loads(blocks[0]))
    for block in blocks[1:]:
        validator.validate(smallest | _values(block))


@pytest.mark.parametrize("page", ["README.md", "docs/devices.md", "docs/cache.md"])
def test_the_examples_of_other_pages_are_in_order(page: str, validator: Any) -> None:
    text = (ROOT / page).read_text()
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        smallest = {"data": {"source": "digits"}, "students": ["resnet8"], "train": {"epochs": 1}}
        values = smallest | {"exports": {"formats": "onnx"}} | _values(block)
        validator.validate(values)
        own = [name for name in values["students"] if ":" in name]
        values["students"] = [name for name in values["students"] if name not in own]
        loads(yaml.safe_dump(values))  # names, settings and devices are there


@pytest.mark.slow
def test_the_default_matrix_is_as_large_as_promised() -> None:
    planned = plan(load(ROOT / "matrix.yaml"))
    cells = planned.cells
    assert len({cell.student.label for cell in cells}) >= 3
    assert len({cell.method.name for cell in cells}) >= 6
    assert len({cell.seed for cell in cells}) >= 3
    assert {(export.format, export.precision) for export in planned.exports} == {
        (form, precision) for form in ("onnx", "tflite") for precision in ("fp32", "int8")
    }
    assert [device.profile for device in planned.devices] == ["local"]
    assert not planned.skips


# ---------------------------------------------------------------- the estimate


def _plan(**changes: Any) -> Plan:
    return plan(loads(yaml.safe_dump(_values(GOOD) | {"seeds": 1} | changes)))


@pytest.mark.slow
def test_the_estimates_flops_are_three_forward_passes_a_step_and_one_of_the_teacher() -> None:
    alone = estimate(_plan(methods=[]))
    taught = estimate(_plan())
    free = estimate(_plan(teachers=["resnet8"], students=["resnet8"]))
    one_pass = alone.flops / 3
    # Two cells of the student, one teacher that was trained, and its pass for one cohort.
    assert free.flops == pytest.approx(one_pass * (3 + 3 + 3 + 1))
    assert taught.flops > free.flops
    assert alone.teacher_seconds == 0


@pytest.mark.slow
def test_students_of_a_cohort_share_the_estimated_teacher_pass() -> None:
    one = estimate(_plan(methods=["kd"]))
    two = estimate(_plan(methods=["kd", "last_layer"]))
    student = estimate(_plan(methods=[])).flops
    assert two.flops - one.flops == pytest.approx(student)


@pytest.mark.slow
def test_an_estimate_says_that_it_is_one() -> None:
    told = estimate(_plan(exports={}, devices="local"))
    assert told.text.startswith("estimate: ")
    assert told.seconds == pytest.approx(
        told.teacher_seconds + told.train_seconds + told.export_seconds + told.measure_seconds
    )
    assert told.export_seconds > 0
    assert told.measure_seconds > 0


def test_a_matrix_error_is_raised_for_a_plan_that_nothing_is_left_of() -> None:
    with pytest.raises(MatrixError, match="no cell is left"):
        loads(GOOD + "exclude: {student: resnet8}\n")
