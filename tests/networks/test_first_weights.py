"""First weights from a user's file: wrappings, what does not match, heads, and parts by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.networks.first_weights import begin_from_file
from ktbench.networks.network_parts import hold, learning_of, parts_of
from ktbench.records import Begun, KtbenchError, WeightsFile
from ktbench.students._contract import Student
from ktbench.students._own import wrap
from ktbench.system.files import digest_of_file

State = dict[str, Tensor]


def resnet(name: str = "resnet8", classes: int = 10, seed: int = 0) -> Student:
    torch.manual_seed(seed)
    return catalogue.build_student(
        name, {"width": 0.25}, num_classes=classes, in_channels=1, base="."
    )


def given(path: Path, **settings: Any) -> WeightsFile:
    return WeightsFile(file=path.name, digest=digest_of_file(path)[1], **settings)


def begin(student: Student, content: Any, folder: Path, **settings: Any) -> Begun:
    """Begin from a file of this content."""
    path = folder / "w.pt"
    torch.save(content, path)
    return begin_from_file(student, folder, given(path, **settings))


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


FILE = resnet(seed=1)
STATE = {name: value.clone() for name, value in FILE.state_dict().items()}
OTHER = {name: value + 1 for name, value in STATE.items()}


# ---------------------------------------------------------------- wrappings


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        prefixed(STATE, "module."),
        prefixed(STATE, "_orig_mod."),
        prefixed(STATE, "model."),
        prefixed(STATE, "module.model."),
        prefixed(prefixed(STATE, "_orig_mod."), "module."),
        {"epoch": 3, "state_dict": prefixed(STATE, "module.")},
        {"model": STATE, "optimizer": {"state": {}, "lr": 0.1}},
        {"model_state_dict": STATE, "ema": OTHER},
        {"ema": STATE},
        {**prefixed(STATE, "student."), "centre": torch.zeros(3)},
    ],
    ids=lambda content: next(iter(content))[:30],
)
def test_a_wrapped_state_dict_gives_what_a_plain_one_does(content: Any, tmp_path: Path) -> None:
    student = resnet()
    begun = begin(student, content, tmp_path)
    assert begun.new == () and begun.taken == len(STATE)
    assert all(torch.equal(value, STATE[name]) for name, value in student.state_dict().items())


def test_safetensors_and_half_precision_are_read_as_the_networks_own(tmp_path: Path) -> None:
    half = {n: v.half() if v.is_floating_point() else v for n, v in STATE.items()}
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(half, path)
    student = resnet()
    assert begin_from_file(student, tmp_path, given(path)).new == ()
    for name, value in student.state_dict().items():
        assert value.dtype == STATE[name].dtype
        assert torch.equal(value, half[name].to(value.dtype))


@pytest.mark.slow
def test_two_networks_in_one_file_are_told_apart_by_the_user(tmp_path: Path) -> None:
    both = prefixed(STATE, "student.") | prefixed(OTHER, "teacher.")
    with pytest.raises(KtbenchError, match=r"under student\., teacher\.: save those"):
        begin(resnet(), both, tmp_path)


def test_a_users_own_network_takes_a_bare_files_names(tmp_path: Path) -> None:
    own = own_network()
    bare = {name.removeprefix("network."): v + 1 for name, v in own.state_dict().items()}
    del bare["5.weight"], bare["5.bias"]
    begun = begin(own, bare, tmp_path)
    assert begun.new == ("network.5.weight", "network.5.bias")
    assert torch.equal(own.state_dict()["network.0.weight"], bare["0.weight"])


# ---------------------------------------------------------------- what does not match


@pytest.mark.slow
def test_a_shallower_student_takes_its_part_of_a_deeper_file(tmp_path: Path) -> None:
    deep = resnet("resnet14", seed=1).state_dict()
    student = resnet()
    begun = begin(student, deep, tmp_path)
    assert begun.file is not None and begun.file.tensors == len(deep)
    assert begun.taken == len(STATE) and not begun.file.missing and not begun.file.reshaped
    assert set(begun.file.unexpected) == set(deep) - set(STATE)
    assert begun.line.startswith(f"{len(STATE)} of {len(STATE)} tensors ({len(deep)} in the file)")


@pytest.mark.slow
def test_all_that_does_not_match_is_listed_and_stays_as_drawn(tmp_path: Path) -> None:
    student = resnet()
    drawn = {name: value.clone() for name, value in student.state_dict().items()}
    names = [name for name in STATE if name.endswith("weight") and STATE[name].dim() == 4]
    content = {**STATE, names[0]: torch.zeros(3, 3), "loss.weight": torch.zeros(2)}
    del content[names[1]]
    begun = begin(student, content, tmp_path)
    assert begun.file is not None
    assert begun.file.missing == (names[1],) and begun.file.unexpected == ("loss.weight",)
    shape = tuple(STATE[names[0]].shape)
    assert begun.file.reshaped == {names[0]: f"(3, 3) in the file, {shape} here"}
    assert set(begun.new) == set(names[:2]) and begun.taken == len(STATE) - 2
    assert all(torch.equal(student.state_dict()[name], drawn[name]) for name in begun.new)
    assert begun.line.endswith(
        f"1 missing (first: {names[1]}), 1 unexpected (first: loss.weight), "
        f"1 of another shape (first: {names[0]})"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a.weight": torch.zeros(3)}, "none of its weights fits"),
        ({n: v for n, v in STATE.items() if n.startswith("head.")}, "nothing but its head fits"),
        ({n: v for n, v in STATE.items() if n.endswith("tracked")}, "nothing but its head fits"),
        ({**STATE, "stem.0.weight": STATE["stem.0.weight"] / 0}, "values that are not finite"),
    ],
)
def test_a_file_of_another_network_is_refused(content: State, words: str, tmp_path: Path) -> None:
    with pytest.raises(KtbenchError, match=words) as told:
        begin(resnet(), content, tmp_path)
    assert len(str(told.value).splitlines()) == 1


def test_another_implementations_file_is_taken_in_its_order_as_asked(tmp_path: Path) -> None:
    renamed = {f"layer{n}": value for n, value in enumerate(STATE.values())}
    with pytest.raises(KtbenchError, match=r"none of its names .* give match: order"):
        begin(resnet(), renamed, tmp_path)
    student = resnet()
    begun = begin(student, renamed, tmp_path, match="order")
    assert begun.taken > 0 and begun.file is not None and not begun.file.differences
    for name, value in student.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, STATE[name], rtol=0, atol=0)
    without_counts = {n: v for n, v in STATE.items() if not n.endswith("num_batches_tracked")}
    bare = {f"layer{n}": value for n, value in enumerate(without_counts.values())}
    assert begin(resnet(), bare, tmp_path, match="order").taken == begun.taken
    head = begin(resnet(classes=7), bare, tmp_path, match="order")
    assert head.file is not None and head.file.head.startswith("new: ")
    with pytest.raises(KtbenchError, match="match: order: its 1 tensors have not the shapes"):
        begin(resnet(), {"a": torch.zeros(3)}, tmp_path, match="order")


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    planned = given(tmp_path / "w.pt")
    torch.save(OTHER, tmp_path / "w.pt")
    with pytest.raises(KtbenchError, match="has changed since the matrix was planned"):
        begin_from_file(resnet(), tmp_path, planned)


# ---------------------------------------------------------------- the head


@pytest.mark.slow
def test_the_head_is_kept_where_its_shape_is_the_same_and_new_where_it_is_not(
    tmp_path: Path,
) -> None:
    kept = begin(resnet(), STATE, tmp_path)
    assert kept.new == () and kept.file and kept.file.head == "kept: its shape is the same"
    student = resnet(classes=7, seed=5)
    drawn = student.state_dict()["head.weight"].clone()
    new = begin(student, STATE, tmp_path)
    assert new.new == ("head.weight", "head.bias") and new.file
    assert new.file.head == "new: head.bias is (10,) in the file, (7,) here"
    assert not new.file.missing and not new.file.reshaped
    assert torch.equal(student.state_dict()["head.weight"], drawn)


@pytest.mark.slow
def test_a_head_is_new_as_asked_and_cannot_be_kept_where_it_does_not_fit(tmp_path: Path) -> None:
    begun = begin(resnet(), STATE, tmp_path, head="new")
    assert begun.new == ("head.weight", "head.bias")
    assert begun.file and begun.file.head == "new: as asked"
    assert begin(resnet(), STATE, tmp_path, head="keep").new == ()
    with pytest.raises(KtbenchError, match=r"head: keep: head\.bias is"):
        begin(resnet(classes=7), STATE, tmp_path, head="keep")
    headless = {name: value for name, value in STATE.items() if not name.startswith("head.")}
    with pytest.raises(KtbenchError, match=r"head: keep: the file has no head\.bias"):
        begin(resnet(), headless, tmp_path, head="keep")


# ---------------------------------------------------------------- parts by name


def own_network() -> Student:
    def net(num_classes: int, in_channels: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)),
        )

    return wrap(net, num_classes=10, in_channels=1, stages=["2"])


IMAGES = torch.zeros(2, 1, 8, 8)
ANY = {"file": "w.pt", "digest": "0" * 16}


def test_every_parameter_of_a_staged_network_is_in_one_part() -> None:
    student = resnet()
    parts = parts_of(student, IMAGES)
    assert list(parts) == ["stem", "stage1", "stage2", "stage3", "head"]
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(name for name, _ in student.named_parameters())
    assert all(name.startswith("stages.1.") for name in parts["stage2"])


def test_the_first_stage_of_a_users_own_network_begins_at_its_inputs() -> None:
    parts = parts_of(own_network(), IMAGES)
    assert parts["2"] == {f"network.{n}" for n in ("0.weight", "0.bias", "1.weight", "1.bias")}
    assert parts["head"] == {"network.5.weight", "network.5.bias"}
    learning = learning_of(own_network(), IMAGES, WeightsFile(**ANY, lr_scale={"1.*": 0.5}))
    assert learning.scales == {"network.1.weight": 0.5, "network.1.bias": 0.5}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freeze": ("stages1",)}, r"freeze: 'stages1' names nothing .* did you mean stage1"),
        ({"freeze": ("x.*",)}, "known are stem, stage1, stage2, stage3, head, and patterns"),
        ({"lr_scale": {"nothing": 0.1}}, "lr_scale: 'nothing' names nothing"),
        ({"freeze": ("*",)}, "freeze leaves nothing to train"),
        ({"freeze": ("stem",), "lr_scale": {"stem": 0.1}}, "which freeze leaves untrained"),
        ({"lr_scale": {"stem": 0.1, "stem.*": 0.2}}, "two factors, by stem and"),
    ],
)
def test_parts_that_cannot_be_meant_are_refused_in_one_line(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(KtbenchError, match=words) as told:
        learning_of(resnet(), IMAGES, WeightsFile(**ANY, **settings))
    assert len(str(told.value).splitlines()) == 1


def test_a_frozen_part_stays_in_eval_mode_whatever_the_network_is_set_to() -> None:
    student = resnet()
    learning = learning_of(student, IMAGES, WeightsFile(**ANY, freeze=("stem", "*.weight")))
    hold(student, learning.frozen)
    for _ in range(2):
        student.train()
        norms = {n: m for n, m in student.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert {n for n, m in norms.items() if not m.training} == {
            n for n in norms if n.startswith("stem")
        }
        student.eval()
    assert not any(p.requires_grad for n, p in student.named_parameters() if n.endswith("weight"))
