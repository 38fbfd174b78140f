"""A user's own network, named by file or dotted path, is a student like any other."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.records import KtbenchError
from ktbench.students._contract import Student
from ktbench.students._own import wrap

SOURCE = """
import torch
from torch import nn
from ktbench.students._contract import Features, Student


class Net(nn.Module):
    def __init__(self, num_classes, in_channels, channels=4, inplace=False):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(inplace)
        )
        self.second = nn.Sequential(
            nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace)
        )
        self.unused = nn.Conv2d(1, 1, 1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.dropout(self.second(self.first(x)).mean((2, 3))))


class Answer:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(Net):
    def forward(self, x):
        return Answer(super().forward(x))


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x


class Doubt(Net):
    def forward(self, x):
        return {"a": super().forward(x), "b": super().forward(x)}


class Ready(Student):
    stage_names = ("only",)

    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward_features(self, inputs, *, preacts=False):
        return Features(self.fc(inputs.flatten(1)), (inputs,))


def seven(in_channels):
    return Net(7, in_channels)


def broken(num_classes):
    raise RuntimeError("no luck")


def number(num_classes):
    return num_classes


made = Net(10, 1)
"""
STAGES = ["first", "second"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path


def build(folder: Path, attribute: str, **settings: Any) -> Student:
    torch.manual_seed(0)
    return catalogue.build_student(
        f"mine.py:{attribute}", settings, num_classes=10, in_channels=1, base=str(folder)
    )


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_stages_are_the_named_modules_outputs_in_the_order_named(folder: Path) -> None:
    student = build(folder, "Net", stages=STAGES).eval()
    network: Any = student.network
    features = student.forward_features(images())
    assert student.stage_names == ("first", "second")
    assert torch.equal(features.stages[0], network.first(images()))
    assert torch.equal(features.stages[1], network.second(network.first(images())))
    assert torch.equal(features.logits, student(images()))
    assert features.stem is None


def test_the_embedding_is_what_the_last_linear_layer_reads(folder: Path) -> None:
    student = build(folder, "Net")
    features = student.train().forward_features(images())
    network: Any = student.network
    assert features.stages == ()
    assert features.embedding is not None
    assert torch.equal(network.fc(features.embedding), features.logits)


def test_gradients_flow_through_what_the_hooks_kept(folder: Path) -> None:
    student = build(folder, "Net", stages=STAGES).train()
    student.forward_features(images()).stages[0].sum().backward()  # type: ignore[no-untyped-call]
    network: Any = student.network
    assert network.first[0].weight.grad is not None
    assert network.second[0].weight.grad is None


@pytest.mark.parametrize("inplace", [False, True])
def test_named_preactivations_come_from_the_same_single_pass(folder: Path, inplace: bool) -> None:
    student = build(
        folder,
        "Net",
        stages=STAGES,
        preacts=["first.1", "second.1"],
        arguments={"inplace": inplace},
    ).train()
    features = student.forward_features(images(), preacts=True)
    network: Any = student.network
    assert [int(m.num_batches_tracked) for m in (network.first[1], network.second[1])] == [1, 1]
    for before, after in zip(features.preacts, features.stages, strict=True):
        assert (before < 0).any()
        assert torch.equal(before.relu(), after)
    assert student.forward_features(images()).preacts == ()


def test_arguments_reach_the_constructor_and_come_first(folder: Path) -> None:
    student = build(folder, "Net", stages=["first"], arguments={"channels": 5})
    assert student.forward_features(images()).stages[0].shape[1] == 5
    with pytest.raises(ValueError, match="7 logits for 10 classes"):
        build(folder, "Net", arguments={"num_classes": 7})(images())


def test_a_parameter_that_is_not_taken_is_not_given(folder: Path) -> None:
    student = build(folder, "Ready")
    assert student.stage_names == ("only",)
    assert student.forward_features(images()).logits.shape == (3, 10)


def test_logits_may_be_an_attribute_of_the_output(folder: Path) -> None:
    assert build(folder, "Wrapped")(images()).shape == (3, 10)


def test_the_first_of_a_tuple_is_its_logits_where_it_has_their_shape(folder: Path) -> None:
    student = build(folder, "Pair").eval()
    assert torch.equal(student(images()), student.network(images())[0])  # type: ignore[operator]


def test_the_seed_decides_the_weights_also_when_the_file_draws_numbers_on_import(
    folder: Path,
) -> None:
    # The second build finds the file imported; the first must not see what its import drew.
    one, two = build(folder, "Net").state_dict(), build(folder, "Net").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("again", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
def test_copies_read_their_own_stages(folder: Path, again: Any) -> None:
    student = build(folder, "Net", stages=STAGES).eval()
    twin = again(student)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    features = twin.forward_features(images())
    assert not features.stages[0].any()
    assert student.forward_features(images()).stages[0].any()


def test_weights_load_with_and_without_the_wrapper_s_prefix(folder: Path) -> None:
    student, other = (build(folder, "Net", stages=STAGES).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.uniform_(-1, 1)
    network: Any = student.network
    for state in (student.state_dict(), network.state_dict()):
        other.load_state_dict(build(folder, "Net").state_dict())
        assert not torch.equal(other(images()), student(images()))
        other.load_state_dict(state)
        assert torch.equal(other(images()), student(images()))
        assert torch.equal(
            other.forward_features(images()).stages[1],
            student.forward_features(images()).stages[1],
        )


def test_nothing_is_kept_between_passes(folder: Path) -> None:
    student = build(folder, "Net", stages=STAGES)
    student.forward_features(images())
    student(images())
    seen: Any = student._seen
    assert seen._values is None


@pytest.mark.slow
def test_an_own_network_is_one_graph_for_any_batch(folder: Path) -> None:
    student = build(folder, "Net", stages=STAGES).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(student, (images(),), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(graph(images(5)), student(images(5)))


def test_a_dotted_path_names_a_class_too() -> None:
    assert isinstance(wrap(nn.Flatten, num_classes=64, in_channels=1), Student)
    student = catalogue.build_student("torch.nn:Flatten", {}, num_classes=64, in_channels=1)
    assert student(images()).shape == (3, 64)


# ---------------------------------------------------------------- what is wrong, in one line


@pytest.mark.parametrize(
    ("attribute", "settings", "message"),
    [
        ("Net", {"stages": ["frist"]}, "no module 'frist': did you mean first"),
        ("Net", {"stages": ["zzzz"]}, "no module 'zzzz': there are first, second"),
        ("Net", {"stages": "first"}, "stages must be a list of module names, not 'first'"),
        ("Net", {"stages": ["first", "first"]}, "stages name 'first' more than once"),
        ("Net", {"stages": STAGES, "preacts": ["first.1"]}, "1 modules for 2 stages"),
        ("Net", {"layers": ["first"]}, "unknown setting of student mine.py:Net 'layers'"),
        ("Net", {"arguments": {"chanels": 3}}, "unexpected keyword argument 'chanels'"),
        ("broken", {}, "broken failed: RuntimeError: no luck"),
        ("number", {}, "number returned a int, not an nn.Module"),
        ("made", {}, "name its class or a function that returns it"),
        ("Missing", {}, "mine.py defines no Missing"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(
    folder: Path, attribute: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(KtbenchError, match=message) as caught:
        build(folder, attribute, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "settings", "message"),
    [
        ("Net", {"stages": ["unused"]}, "stage 'unused' did not run in the forward pass"),
        ("Net", {"stages": ["fc"]}, r"stage 'fc' must return a map .* not \(3, 10\)"),
        ("Doubt", {}, r"forward must return logits \(B, 10\), not a dict of a: \(3, 10\), b:"),
        ("seven", {}, "7 logits for 10 classes"),
    ],
)
def test_a_pass_that_cannot_be_read_says_why(
    folder: Path, attribute: str, settings: dict[str, Any], message: str
) -> None:
    student = build(folder, attribute, **settings)
    with pytest.raises(ValueError, match=message):
        student.forward_features(images())


def test_preactivations_that_were_not_named_are_refused(folder: Path) -> None:
    student = build(folder, "Net", stages=STAGES)
    with pytest.raises(ValueError, match="name the modules before each activation"):
        student.forward_features(images(), preacts=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "student vgg8: width must be above 0, not 0"),
        ({"width": -1.0}, "student vgg8: width must be above 0, not -1.0"),
        ({"widht": 1}, "unknown setting of student vgg8 'widht': did you mean width"),
        ({"width": "wide"}, "student vgg8: "),
    ],
)
def test_wrong_settings_of_a_catalogue_student_are_refused_in_one_line(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(KtbenchError, match=message) as caught:
        catalogue.build_student("vgg8", settings, num_classes=10, in_channels=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def (", r"bad.py:Net: cannot import bad.py: SyntaxError"),
        ("import nowhere_at_all", r"cannot import bad.py: ModuleNotFoundError: No module named"),
        ("None.x", r"cannot import bad.py: AttributeError"),
        ("1 / 0", r"cannot import bad.py: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_in_one_line(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(KtbenchError, match=message) as caught:
        catalogue.build_student("bad.py:Net", {}, num_classes=2, in_channels=1, base=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_the_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(KtbenchError, match=f"gone.py:Net: no file {tmp_path}/gone.py"):
        catalogue.build_student("gone.py:Net", {}, num_classes=2, in_channels=1, base=str(tmp_path))
