"""A matrix file says what is wrong with it: file, line, key, reason and the nearest names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktbench.matrix import MatrixError, load, loads
from ktbench.matrix.file_problems import MOST_PROBLEMS

GOOD = """\
data: {source: digits, train_size: 100}
teachers: [resnet14]
students: [resnet8]
methods: [none, kd]
train: {epochs: 2}
"""


def _problems(text: str, base: str = ".") -> list[str]:
    with pytest.raises(MatrixError) as caught:
        loads(text, base=base)
    return str(caught.value).splitlines()


def _with(line: str, replacing: str = "methods: [none, kd]") -> str:
    assert replacing in GOOD
    return GOOD.replace(replacing, line)


def test_a_good_file_is_taken() -> None:
    matrix = loads(GOOD)
    assert [entry.name for entry in matrix.methods] == ["none", "kd"]
    assert matrix.train.epochs == 2
    assert matrix.seeds == (0, 1, 2)


# One line of the good file replaced (None: one added at the end), and what is said of it.
ONE_LINE = [
    (
        "methods: [none, kdd]",
        "matrix.yaml:4: methods[1]: unknown method 'kdd': did you mean kd",
    ),
    (
        "students: [resnet8, vgg_thim]",
        "matrix.yaml:3: students[1]: unknown student 'vgg_thim': did you mean vgg_thin",
    ),
    (
        "students: [{resnet8: {widht: 2}}]",
        "matrix.yaml:3: students[0].resnet8.widht: unknown setting of student 'resnet8': "
        "did you mean width?",
    ),
    (
        "students: [{resnet8: {width: wide}}]",
        "matrix.yaml:3: students[0].resnet8.width: must be a number, not 'wide'",
    ),
    (
        "students: [{resnet8: {width: [1.5, 0]}}]",
        "matrix.yaml:3: students[0].resnet8.width[1]: width must be above 0, not 0",
    ),
    (
        "students: resnet8, vgg8",
        "matrix.yaml:3: students: unknown student 'resnet8, vgg8': did you mean",
    ),
    ("students: []", "matrix.yaml:3: students: must not be empty"),
    (
        "students: [nets.py]",
        "matrix.yaml:3: students[0]: unknown student 'nets.py': your own is named with what the "
        "file defines, nets.py:Name",
    ),
    (
        "methods: [{kd: {temperature: hot}}]",
        "matrix.yaml:4: methods[0].kd.temperature: temperature must be a number above 0, not 'hot'",
    ),
    (
        "methods: [{kd: {temperature: [1, -2]}}]",
        "matrix.yaml:4: methods[0].kd.temperature[1]: temperature must be a number above 0, not -2",
    ),
    (
        "methods: [{kd: {temperature: []}}]",
        "matrix.yaml:4: methods[0].kd: an empty list tries nothing",
    ),
    (
        "methods: [{attention: {pairs: stge}}]",
        "matrix.yaml:4: methods[0].attention.pairs: unknown pairs 'stge': did you mean stage?",
    ),
    (
        "methods: [{attention:, weight: 100}]",
        "matrix.yaml:4: methods[0]: must have one name: indent what belongs to 'attention' below "
        "it, or write {name: {setting: value}}",
    ),
    (
        "methods: [{kd: [4]}]",
        "matrix.yaml:4: methods[0]: the settings of 'kd' must be a mapping {setting: value}",
    ),
    ("methods: [~]", "matrix.yaml:4: methods[0]: must be a name, or {name: {setting: value}}"),
    ("methods: [kd, kd]", "matrix.yaml:4: methods[1]: kd is in methods[0] too"),
    (
        "methods: [kd, {kd: {temperature: [4, 8]}}]",
        "matrix.yaml:4: methods[1]: kd is in methods[0] too",
    ),
    ("train: {}", "matrix.yaml:5: train: epochs is missing"),
    (
        "train: {epochs: 2, learning_rate: 1}",
        "matrix.yaml:5: train.learning_rate: unknown key: known are epochs",
    ),
    ("train: {epochs: 2, lr: -1e-3}", "matrix.yaml:5: train.lr: must be above 0, not -0.001"),
    ("train: {epochs: two}", "matrix.yaml:5: train.epochs: must be a whole number, not 'two'"),
    (
        "train: {epochs: 2, optimiser: sdg}",
        "matrix.yaml:5: train.optimiser: must be sgd, adam or adamw, not 'sdg': did you mean sgd?",
    ),
    (
        "train: {epochs: 2, lr: .inf}",
        "matrix.yaml:5: train.lr: must be a finite number, not '.inf'",
    ),
    ("train: 2", "matrix.yaml:5: train: must be a mapping {key: value}, not 2"),
    (
        "data: {source: digits, trainsize: 3}",
        "matrix.yaml:1: data.trainsize: unknown key: did you mean train_size or",
    ),
    (
        "data: {source: digits, augment: {flop: true}}",
        "matrix.yaml:1: data.augment.flop: unknown key: did you mean flip?",
    ),
    (
        "data: {source: digit}",
        "matrix.yaml:1: data.source: must be digits, hub, parquet or folder, not 'digit': "
        "did you mean digits?",
    ),
    (
        "teachers: [{student: resnet14, epochs: 3}]",
        "matrix.yaml:2: teachers[0].epochs: unknown key: did you mean train: {epochs: ...}?",
    ),
    (
        "teachers: [{student: resnet14, train: {epoch: 3}}]",
        "matrix.yaml:2: teachers[0].train.epoch: unknown key: did you mean epochs?",
    ),
    (
        "teachers: [{student: resnet14, method: kd}]",
        "matrix.yaml:2: teachers[0]: method kd needs a teacher: name it in teacher",
    ),
    (
        "teachers: [resnet14, {student: resnet14, train_size: 50}]",
        "matrix.yaml:2: teachers[1]: two teachers are called 'resnet14': give one another name",
    ),
    (
        "teachers: [{student: resnet14, teacher: resnet20}]",
        "matrix.yaml:2: teachers[0].teacher: method none reads no teacher: name one that does in "
        "method",
    ),
    (
        "teachers: [{student: resnet14, method: {kd: {weight: [1, 2]}}, teacher: resnet14}]",
        "matrix.yaml:2: teachers[0].method.kd: a teacher is taught in one way, not 2: one value "
        "per setting",
    ),
    (
        "teachers: [{student: resnet14, seed: [1, 2], checkpoint: a.pt}]",
        "matrix.yaml:2: teachers[0].checkpoint: a file of weights is one teacher, not 2: give one "
        "value each",
    ),
    (
        "teachers: [{student: resnet14, train: {epochs: [1, 0]}}]",
        "matrix.yaml:2: teachers[0].train.epochs: must be at least 1, not 0",
    ),
    (
        "teachers: [{student: resnet14, seed: [1, 1]}]",
        "matrix.yaml:2: teachers[0]: two teachers are called 'resnet14(seed=1)': give one another",
    ),
    ("teachers: [{name: x}]", "matrix.yaml:2: teachers[0]: student is missing"),
    (
        "teachers: {of: [resnet14, resnet20]}",
        "matrix.yaml:2: teachers: sample is missing: {sample: 1, of: [...]} draws one per step",
    ),
    (
        "teachers: {sample: 3, of: [resnet14, resnet20]}",
        "matrix.yaml:2: teachers.sample: must be at most 2, the members of the ensemble",
    ),
    (
        "teachers: {sample: 1, of: resnet14}",
        "matrix.yaml:2: teachers.sample: an ensemble has two members or more: name them in `of`",
    ),
    (
        "teachers: [resnet14, {sample: 1, of: [resnet14, 'resnet1*']}]",
        "matrix.yaml:2: teachers[1].of[1]: resnet14 is listed twice in the ensemble",
    ),
    (
        "teachers: {sample: 1, of: [resnet14, resnet99]}",
        "matrix.yaml:2: teachers.of[1]: unknown student 'resnet99': did you mean",
    ),
    (
        "teachers: {sample: 1, of: [resnet14, resnet20], seed: 1}",
        "matrix.yaml:2: teachers: seed belongs to the members of an ensemble: write it in `of`",
    ),
    (
        "teachers: [{name: e, sample: 1, of: [resnet14, resnet20]}, "
        "{student: resnet8, method: kd, teacher: e}]",
        "matrix.yaml:2: teachers[1].teacher: 'e' is an ensemble, which teaches students",
    ),
    ("budget: [2, 4, 2]", "matrix.yaml:6: budget[2]: 2 is listed twice"),
    ("budget: 0", "matrix.yaml:6: budget: must be at least 1, not 0"),
    ("distill: {end: 1.5}", "matrix.yaml:6: distill.end: must be at most 1, not 1.5"),
    (
        "distill: {start: [0, 0.5], end: [0.5, 1]}",
        "matrix.yaml:6: distill: start must be below end, not 0.5 and 0.5",
    ),
    (
        "distill: [{end: 0.5}, {end: [0.5, 1]}]",
        "matrix.yaml:6: distill[1]: start 0, end 0.5, scale jump is listed twice",
    ),
    (
        "distill: {end: 0.5, scale: kept}",
        "matrix.yaml:6: distill.scale: must be jump or keep, not 'kept': did you mean keep?",
    ),
    ("distill: {until: 0.5}", "matrix.yaml:6: distill.until: unknown key: known are start"),
    (
        "exclude: {budget: 3}",
        "matrix.yaml:6: exclude.budget: '3' matches nothing of this matrix",
    ),
    (
        "teachers: [{name: big, student: resnet14}, {student: resnet8, method: kd, teacher: bug}]",
        "matrix.yaml:2: teachers[1].teacher: no teacher is called 'bug': did you mean big?",
    ),
    (
        "teachers: [{name: a, student: resnet14, method: kd, teacher: a}]",
        "matrix.yaml:2: teachers[0].teacher: teachers teach each other in a circle: a ← a",
    ),
    ("teachers: []", "matrix.yaml:1: kd needs a teacher: name one in teachers"),
    ("seeds: 0", "matrix.yaml:6: seeds: must be a list of seeds or how many (1 to 10000), not 0"),
    ("seeds: true", "matrix.yaml:6: seeds: must be a list of seeds or how many, not true"),
    ("seeds: [0, -1]", "matrix.yaml:6: seeds[1]: must be at least 0, not -1"),
    ("seeds: [3, 1, 3]", "matrix.yaml:6: seeds[2]: 3 is listed twice"),
    ("exclud: []", "matrix.yaml:6: exclud: unknown key: did you mean exclude or include?"),
    (
        "exports: {formats: [onnx, tflight]}",
        "matrix.yaml:6: exports.formats[1]: must be onnx or tflite, not 'tflight': did you mean "
        "tflite?",
    ),
    ("exports: {batch: 2}", "matrix.yaml:6: exports.batch: must be 1 or dynamic, not '2'"),
    ("exports: {opset: 7}", "matrix.yaml:6: exports.opset: must be at least 13, not 7"),
    (
        "exports: [{formats: onnx}, {formats: [onnx, tflite]}]",
        "matrix.yaml:6: exports[1]: onnx-fp32 is listed twice",
    ),
    (
        "devices: local",
        "matrix.yaml:6: devices: there is nothing to measure: say what to export in exports",
    ),
    (
        "devices: [lcal]",
        "matrix.yaml:6: devices[0]: unknown device 'lcal': did you mean local?",
    ),
    (
        "devices: [mars]",
        "matrix.yaml:6: devices[0]: unknown device 'mars': known are emulated_aarch64, ",
    ),
    (
        "devices: [{local: {thread: 2}}]",
        "matrix.yaml:6: devices[0].local.thread: unknown key: did you mean threads?",
    ),
    (
        "devices: [{ssh: {name: board}}]",
        "matrix.yaml:6: devices[0].ssh: needs a host: a name or an alias of your SSH config",
    ),
    (
        "devices: [{local: {host: pi}}]",
        "matrix.yaml:6: devices[0].local.host: local is this machine: it takes no host",
    ),
    (
        "exclude: {student: resnet9}",
        "matrix.yaml:6: exclude.student: 'resnet9' matches nothing of this matrix: did you mean "
        "resnet8?",
    ),
    (
        "exclude: [{seed: 9}]",
        "matrix.yaml:6: exclude[0]: excludes nothing: no cell matches all of its keys",
    ),
    (
        "exclude: [{}]",
        "matrix.yaml:6: exclude[0]: says nothing: give student, method, teacher or seed",
    ),
    ("exclude: {student: resnet8}", "matrix.yaml:1: no cell is left: every one is excluded"),
    (
        "include: [{method: kd}]",
        "matrix.yaml:6: include[0]: changes nothing: its cells are in the matrix as they are",
    ),
    (
        "include: {method: kdd}",
        "matrix.yaml:6: include.method: unknown method 'kdd': did you mean kd",
    ),
    (
        "include: [{method: kd, train: {lr: 0}}]",
        "matrix.yaml:6: include[0].train.lr: must be above 0, not 0",
    ),
]


@pytest.mark.parametrize(("line", "message"), ONE_LINE, ids=[line for line, _ in ONE_LINE])
def test_a_wrong_line_is_told_in_one_line(line: str, message: str) -> None:
    key = line.partition(":")[0]
    old = next((good for good in GOOD.splitlines() if good.startswith(f"{key}:")), None)
    text = _with(line, old) if old else GOOD + line + "\n"
    told = [problem for problem in _problems(text) if problem.startswith(message)]
    assert len(told) == 1, _problems(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "students: [{resnet8: {width: 1e999}}]",
            "matrix.yaml:3: students[0].resnet8.width: must be a finite number",
        ),
        (
            "methods: [{kd: {temperature: 1.0e+999}}, kdd]",
            "matrix.yaml:4: methods[0].kd.temperature: must be a finite number",
        ),
        (
            "methods: [{attention: {weight: [1e999, 1]}}]\nseedz: 1",
            "matrix.yaml:4: methods[0].attention.weight[0]: must be a finite number",
        ),
    ],
)
def test_a_number_beyond_all_others_is_told_whatever_else_is_wrong(line: str, message: str) -> None:
    test_a_wrong_line_is_told_in_one_line(line, message)


def test_all_problems_of_a_file_are_told_at_once_in_its_order() -> None:
    text = """\
data: {source: digits, trainsize: 1}
students: [resnet9]
methods:
  - kdd
  - kd: {temprature: 3}
train: {}
devices: [lcal]
"""
    lines = [problem.split(": ")[0] for problem in _problems(text)]
    assert lines == [f"matrix.yaml:{n}" for n in (1, 2, 4, 5, 6, 7)]


def test_more_problems_than_anyone_reads_are_counted() -> None:
    text = GOOD + "".join(f"wrong{i}: 1\n" for i in range(MOST_PROBLEMS + 7))
    problems = _problems(text)
    assert len(problems) == MOST_PROBLEMS + 1
    assert problems[-1] == "matrix.yaml: and 7 more problems"


# ---------------------------------------------------------------- YAML itself

NOT_YAML = [
    ("", "matrix.yaml: is empty: `ktbench init` writes a starter"),
    ("# nothing\n", "matrix.yaml: is empty: `ktbench init` writes a starter"),
    ("- a\n", "matrix.yaml:1: must be a mapping (key: value), not a list"),
    ("word\n", "matrix.yaml:1: must be a mapping (key: value), not one value"),
    (
        "a:\n\tb: 1\n",
        "matrix.yaml:2: not valid YAML: a tab is used for indentation: use spaces",
    ),
    (
        "a: [1\nb: 2\n",
        "matrix.yaml:2: not valid YAML: expected ',' or ']', but got ':' while parsing a flow "
        "sequence",
    ),
    ("a: b: c\n", "matrix.yaml:1: not valid YAML: mapping values are not allowed here"),
    (
        "a: 1\n---\nb: 2\n",
        "matrix.yaml:2: not valid YAML: expected a single document in the stream, but found "
        "another document",
    ),
    ("a: 1\0\n", "matrix.yaml:1: not valid YAML: special characters are not allowed"),
    ("a: *b\n", "matrix.yaml:1: not valid YAML: found undefined alias 'b'"),
    ("a: &a [*a]\n", "matrix.yaml:1: a[0]: aliases make the file grow without end"),
    ("a: !!python/object:os.system {}\n", "matrix.yaml:1: a: tag tag:yaml.org,2002:python/"),
    ("a: !mine 3\n", "matrix.yaml:1: a: tag !mine is not supported"),
    ("? [x]\n: 1\n", "matrix.yaml:1: a key must be text"),
    (f"a: {'9' * 5000}\n", "matrix.yaml:1: a: is not a number that can be used"),
    ("a: 1e999\n", "matrix.yaml:1: a: must be a finite number"),
    (
        "data: {source: parquet, path: ${HERE}/x}\n",
        "matrix.yaml:1: not valid YAML: expected ',' or '}', but got '{' while parsing a flow "
        "mapping: text with { in it, such as ${NAME}, needs quotes here",
    ),
    (GOOD + "train: {epochs: 3}\n", "matrix.yaml:5: train: is given twice, on lines 5 and 6"),
    (
        "students:\n  - resnet8:\n      width: 1\n      width: 2\n",
        "matrix.yaml:3: students[0].resnet8.width: is given twice, on lines 3 and 4",
    ),
]


@pytest.mark.parametrize(("text", "message"), NOT_YAML)
def test_what_is_no_yaml_mapping_is_told_with_its_line(text: str, message: str) -> None:
    assert any(problem.startswith(message) for problem in _problems(text)), _problems(text)


@pytest.mark.slow
def test_aliases_that_unfold_to_billions_of_values_are_refused_soon() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]
    [problem] = _problems("\n".join(lines))
    assert problem.endswith("aliases make the file grow without end")


def test_only_true_and_false_are_booleans_and_a_rate_may_be_written_1e_3() -> None:
    text = _with("train: {epochs: 2, lr: 1e-3, weight_decay: 5E-4}", "train: {epochs: 2}")
    matrix = loads(f"name: off\n{text}")
    assert matrix.name == "off"
    assert matrix.train.lr == 0.001
    assert matrix.train.weight_decay == 0.0005


def test_anchors_and_merged_keys_are_unfolded() -> None:
    text = _with(
        "teachers:\n"
        "  - &t {name: a, student: resnet14, train: {epochs: 3}}\n"
        "  - {<<: *t, name: b, seed: 1}",
        "teachers: [resnet14]",
    )
    first, second = loads(text).teachers
    assert (first.name, first.seed) == ("a", (0,))
    assert (second.name, second.seed, second.train) == ("b", (1,), {"epochs": 3})


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    for path, reason in (
        (tmp_path / "no.yaml", "no such file: name a matrix, or write a starter"),
        (tmp_path, "is a folder: name the matrix file in it"),
        (latin, "not UTF-8 text (byte 9): save it as UTF-8"),
    ):
        with pytest.raises(MatrixError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- a user's own

OWN = """\
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.body = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)).mean((2, 3)))
"""


def test_an_own_network_is_found_from_the_matrix_file(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    file = tmp_path / "matrix.yaml"
    file.write_text(_with("students: [{'nets.py:Tiny': {stages: [body]}}]", "students: [resnet8]"))
    [entry] = load(file).students
    assert entry.settings == {"stages": ["body"]}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nets.py:Tyni", "nets.py:Tyni: nets.py defines no Tyni"),
        ("net.py:Tiny", "net.py:Tiny: no file "),
        ("broken.py:Tiny", "broken.py:Tiny: cannot import broken.py: SyntaxError: "),
        ("no_such_package.x:Tiny", "no_such_package.x:Tiny: cannot import no_such_package.x: "),
    ],
)
def test_an_own_network_that_cannot_be_had_is_told(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("class:\n")
    text = _with(f"students: ['{name}']", "students: [resnet8]")
    [problem] = _problems(text, str(tmp_path))
    assert problem.startswith(f"matrix.yaml:3: students[0]: {reason}")


def test_a_class_that_is_no_method_is_told(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    [problem] = _problems(_with("methods: ['nets.py:Tiny']"), str(tmp_path))
    assert problem == (
        "matrix.yaml:4: methods[0]: nets.py:Tiny: not a transfer method: it has no dataclass Config"
    )


NO_METHODS = """
from dataclasses import dataclass
from ktbench.transfer_methods._contract import Needs, TransferMethod

@dataclass(frozen=True)
class Config:
    weight: float = 1.0

class Alone:
    Config = Config

class Lossless(TransferMethod):
    Config = Config

    @classmethod
    def needs(cls, config):
        return Needs(logits=True)

class Needless(TransferMethod):
    Config = Config

    def loss(self, student, teacher, batch):
        return {}

class OfOne(Needless):
    def needs(self, config):
        return Needs(logits=True)
"""


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("Alone", "it is no class that derives from ktbench.transfer_methods.TransferMethod"),
        ("Lossless", "it defines no loss(self, student, teacher, batch)"),
        ("Needless", "it defines no class method needs(cls, config)"),
        ("OfOne", "it defines no class method needs(cls, config)"),
    ],
)
def test_what_an_own_method_lacks_is_told_before_anything_is_trained(
    tmp_path: Path, name: str, lacks: str
) -> None:
    (tmp_path / "mine.py").write_text(NO_METHODS)
    [problem] = _problems(_with(f"methods: ['mine.py:{name}']"), str(tmp_path))
    assert problem == f"matrix.yaml:4: methods[0]: mine.py:{name}: not a transfer method: {lacks}"


def test_stages_that_are_no_list_are_told(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    text = _with("students: [{'nets.py:Tiny': {stages: a}}]", "students: [resnet8]")
    [problem] = _problems(text, str(tmp_path))
    assert problem.endswith(".stages: must be a list, not 'a'")


def test_own_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    text = _with("teachers: [{student: resnet14, checkpoint: no.pt}]", "teachers: [resnet14]")
    [problem] = _problems(text, str(tmp_path))
    assert problem == (
        f"matrix.yaml:2: teachers[0].checkpoint: {tmp_path / 'no.pt'}: no such file or directory"
    )
