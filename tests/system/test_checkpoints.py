"""Files of weights as users have them are read safely, fitted to the network, or refused."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ktbench.networks.weights import load_weights
from ktbench.records import KtbenchError
from tests.support.running import Commands, write_matrix


class Part(nn.Module):
    """A network whose parts are called as trainings call what they wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 4)
        self.model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))


def state(network: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(value.shape, generator=generator).to(value.dtype)
        for name, value in network.state_dict().items()
    }


def loaded(content: Any, path: Path, network: nn.Module | None = None) -> dict[str, Tensor]:
    network = network or Part()
    torch.save(content, path)
    load_weights(network, path, finite=True)
    return network.state_dict()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Settings:
    """A class that only the training knows."""

    def __init__(self) -> None:
        self.rate = 0.1


class Munch(dict[str, Any]):
    """A dict of a class that only the training knows."""


def put_before(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state(Part()).items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "student.",
        "net.",
        "backbone.",
        "model._orig_mod.",
        "module.module.",
        "_orig_mod.module.",
        "a.b.c.",
    ],
)
def test_a_prefix_of_any_kind_is_taken_off(tmp_path: Path, prefix: str) -> None:
    assert_same(loaded(put_before(prefix), tmp_path / "w.pt"), state(Part()))


def test_what_is_put_between_the_names_is_taken_out(tmp_path: Path) -> None:
    network = nn.Sequential(OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 1)))
    expected = state(network)
    wrapped = {name.replace("body.", "body._orig_mod."): v for name, v in expected.items()}
    assert_same(loaded(wrapped, tmp_path / "w.pt", network), expected)


def test_what_lies_beside_the_network_s_own_names_is_not_looked_at(tmp_path: Path) -> None:
    beside = {"loss.weight": torch.ones(5), "teacher.model.0.weight": torch.ones(9, 9)}
    assert_same(loaded(put_before("student.") | beside, tmp_path / "w.pt"), state(Part()))


def test_weights_that_fit_twice_are_refused_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(KtbenchError, match=r"under student\., teacher\.: save those") as caught:
        loaded(put_before("student.") | put_before("teacher."), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "net", "state_dict_ema", "weights"]
)
def test_a_training_s_file_is_looked_through_for_the_weights(tmp_path: Path, key: str) -> None:
    optimiser = torch.optim.SGD(Part().parameters(), lr=0.1, momentum=0.9)
    saved = {
        "epoch": 3,
        "best": np.float64(0.5),
        "loss": np.float32(1.5),
        "seed": np.random.default_rng(0).integers(5),
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("a/b")),
        "settings": Settings(),
        "more": Munch(a=1, b=[Settings()]),
        "counts": defaultdict(int, a=1),
        "names": {"a", "b"},
        "curve": np.arange(3.0),
        "optimiser": optimiser.state_dict(),
        key: OrderedDict(put_before("module.")),
    }
    assert_same(loaded(saved, tmp_path / "w.pt"), state(Part()))


@pytest.mark.parametrize("options", [{"pickle_protocol": 4}, {"_use_new_zipfile_serialization": 0}])
def test_older_and_newer_ways_of_saving_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    network, path = Part(), tmp_path / "w.pt"
    torch.save({"args": Settings(), "model": state(network)}, path, **options)
    load_weights(network, path)
    assert_same(network.state_dict(), state(network))


def test_a_mapping_of_an_unknown_class_is_a_mapping(tmp_path: Path) -> None:
    assert_same(loaded(Munch(state(Part())), tmp_path / "w.pt"), state(Part()))


def test_safetensors_are_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.bin"):
        network = Part()
        safetensors.torch.save_file(put_before("model."), tmp_path / name)
        load_weights(network, tmp_path / name)
        assert_same(network.state_dict(), state(network))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_the_network_s(
    tmp_path: Path, kind: torch.dtype
) -> None:
    given = {n: v.to(kind) if v.is_floating_point() else v for n, v in state(Part()).items()}
    found = loaded(given, tmp_path / "w.pt")
    assert found["module.weight"].dtype is torch.float32
    assert torch.equal(found["module.weight"], given["module.weight"].float())


def test_nothing_of_the_file_s_choice_is_run(tmp_path: Path) -> None:
    class Evil:
        def __init__(self, target: Path) -> None:
            self.target = target

        def __reduce__(self) -> Any:
            return os.mkdir, (str(self.target),)

    class Setter(Evil):
        def __reduce__(self) -> Any:
            return eval, ("{}",), None, None, iter([("a", Evil(self.target))])

    for evil in (Evil(tmp_path / "made"), Setter(tmp_path / "made")):
        found = loaded({"args": evil, "model": state(Part())}, tmp_path / "w.pt")
        assert_same(found, state(Part()))
        with pytest.raises(KtbenchError, match="not a readable checkpoint"):
            loaded(evil, tmp_path / "w.pt")
    assert not (tmp_path / "made").exists()


class Whole(nn.Linear):
    """A network that is saved whole."""


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"epoch": 1, "model": net}])
def test_a_whole_network_is_refused_with_what_to_do(tmp_path: Path, wrap: Any) -> None:
    with pytest.raises(KtbenchError) as caught:
        loaded(wrap(Whole(2, 2)), tmp_path / "w.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'}: holds a whole pickled network ({__name__}.Whole), whose code is not "
        "run: load it where its class is, then torch.save(model.state_dict(), path)"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_torchscript_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(KtbenchError, match="holds a TorchScript program, which is not run: "):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.bias": torch.tensor([1, float("nan"), 1, 1])}, "module.bias has 1 values"),
        ({"module.bias": torch.full((4,), float("inf"))}, r"bias has 4 .* finite \(infinite\)"),
        ({"module.bias": torch.ones(5)}, r"module.bias is \(5,\), this network's is \(4,\)"),
        ({"module.bias": torch.ones(4).int()}, "module.bias is torch.int32, this network's is"),
        ({"module.bias": torch.ones(4).to_sparse()}, "module.bias has no plain values"),
        ({"module.bias": torch.ones(4, device="meta")}, "module.bias has no plain values"),
        ({"module.bias": np.ones(4)}, "module.bias is a numpy.*, not a tensor: convert it"),
        ({"more.bias": torch.ones(4)}, r"0 missing, 1 unknown \(first: more.bias\)"),
        ({"module.bias": None}, "module.bias is a NoneType, not a tensor"),
    ],
)
def test_weights_that_do_not_fit_are_told_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(KtbenchError, match=message) as caught:
        loaded(state(Part()) | change, tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_an_infinity_that_the_network_itself_has_is_no_fault(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert_same(loaded(network.state_dict(), tmp_path / "w.pt", network), network.state_dict())


@pytest.mark.parametrize("content", [[1, 2], "text", {"a": 1}, 3.5, {}])
def test_a_file_without_weights_is_told_what_it_holds(tmp_path: Path, content: Any) -> None:
    with pytest.raises(KtbenchError, match=r"no weights\): save one with") as caught:
        loaded(content, tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_what_is_not_a_regular_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(KtbenchError, match="not a regular file"):
            load_weights(Part(), path)


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "."])
def test_a_matrix_that_names_such_a_file_is_refused(
    ktbench: Commands, tmp_path: Path, path: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = write_matrix(
        tmp_path / "m.yaml", teachers=[{"student": "resnet8", "name": "T", "checkpoint": path}]
    )
    error = ktbench("plan", file).error
    assert "not a regular file" in error or "is a directory" in error


@pytest.mark.slow
def test_a_teacher_s_weights_that_are_not_finite_are_named_in_the_failure(
    ktbench: Commands, tmp_path: Path
) -> None:
    from ktbench import catalogue

    network = catalogue.build_student("resnet8", {}, num_classes=10, in_channels=1)
    broken = {name: value.clone() for name, value in network.state_dict().items()}
    name = next(iter(broken))
    broken[name].view(-1)[0] = float("nan")
    torch.save({"args": argparse.Namespace(lr=1), "model": broken}, tmp_path / "w.pt")
    file = write_matrix(
        tmp_path / "m.yaml", teachers=[{"student": "resnet8", "name": "T", "checkpoint": "w.pt"}]
    )
    answer = ktbench("run", file)
    assert answer.code == 1
    assert f"{name} has 1 values that are not finite (NaN)" in " ".join(answer.err.split())
