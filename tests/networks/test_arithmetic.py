"""Arithmetic is checked before it is trusted: wrong kernels are found, right ones not refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ktbench.networks.arithmetic import Step, check
from ktbench.networks.layout import Layout
from ktbench.records import Cell, NumericSpec
from ktbench.results import ResultsFolder
from ktbench.runner.arithmetic_wave import ArithmeticJob, check_arithmetic
from ktbench.students._own import wrap
from tests.support import strided_networks as networks
from tests.support import training
from tests.support.instruction_sets import SETS, python
from tests.support.running import Commands, write_matrix

FUZZ = int(os.environ.get("KTBENCH_FUZZ", "25"))
"""Networks of each instruction set; 300 is the full size."""


@pytest.mark.slow
@pytest.mark.parametrize("under", SETS)
def test_random_networks_end_no_process_and_no_wrong_gradient_is_accepted_nor_a_right_one_refused(
    under: str,
) -> None:
    ran = python(["-m", "tests.support.fuzz_networks", "0", str(FUZZ)], under)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"{under}: {found[-1:]} {ran.stderr[-1000:]}"
    taken = [one for one in found if "right" in one]
    assert len(taken) == FUZZ
    assert [one for one in taken if one["right"] is not True] == []
    assert [one for one in taken if one["far"] > 0.02] == []
    assert any(one["layout"] == "contiguous" for one in taken)


class Wrong(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stands for a faulty kernel: the second result of some calls is off in one element."""

    def __init__(self, meets: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._meets = meets

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default and args[1].dtype is torch.float32:
            weight = found[1]
            if weight is not None and weight.shape[1] == 4 and self._meets(args[1]):
                weight[0, 0, 0, 0] += weight.abs().max()
        return found


class WrongNorm(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stands for a faulty kernel: the largest value of each normalisation is twice what it is."""

    def __init__(self, kind: Any, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind, self._number = kind, number

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func.overloadpacket is self._kind and args[0].dtype is torch.float32:
            wrong = outputs[self._number]
            wrong[wrong == wrong.max()] *= 2
        return outputs


def _last(images: torch.Tensor) -> bool:
    return images.stride(1) == 1


def _with_onednn(images: torch.Tensor) -> bool:
    return torch.backends.mkldnn.enabled


class Drawing(networks.Plain):
    """Draws on maps, on channels, and in Python."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout2d(functional.dropout(x, 0.2, self.training), 0.2, self.training)
        return super().run(torch.nn.functional.rrelu(x, training=self.training))


class Edged(networks.Plain):
    """ReLUs whose inputs are often exactly zero, dead channels under batch norm, huge values."""

    def make(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return super().run((1e4 * x.round()) * torch.tensor([0.0, 1, 1, 1]).view(1, 4, 1, 1))


class Centred(networks.Plain):
    """A mean and a gradient that cancel: a centred channel, and two batch norms in a row."""

    def make(self) -> nn.Module:
        self.norms = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        return super().make()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return super().run(self.norms(x - x.mean((0, 2, 3), keepdim=True)))


class Restless(networks.Plain):
    """Draws from a generator of its own: no step is like the one before."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "own"):
            self.own = torch.Generator()
        return super().run(x + torch.rand(x.shape, generator=self.own))


def _step(kind: type[nn.Module], **numeric: Any) -> Step:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return Step(
        lambda: wrap(kind, num_classes=10, in_channels=1),
        images,
        torch.arange(8),
        NumericSpec(**numeric),
    )


@pytest.mark.parametrize("numeric", [{}, {"precision": "bf16"}, {"layout": "contiguous"}])
@pytest.mark.parametrize(
    "kind", [Drawing, Edged, Centred, Restless, *networks.MEETING, *networks.OTHERS]
)
def test_right_arithmetic_is_not_refused_for_draws_edges_or_rounding(
    kind: type[nn.Module], numeric: dict[str, Any]
) -> None:
    verdict = check(_step(kind, **numeric))
    assert verdict.right is True, verdict
    assert verdict.operations >= 6 and verdict.worst <= 1


@pytest.mark.parametrize("kind", [Drawing, Restless, networks.Plain])
def test_one_wrong_element_of_a_gradient_is_found_and_named(kind: type[nn.Module]) -> None:
    with Wrong(lambda _: True):
        verdict = check(_step(kind))
    assert verdict.right is False
    assert "gradient of the weight of a 3x3 convolution with stride 2, 4 to 8" in verdict.reason


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("kind", ["native_batch_norm", "native_batch_norm_backward"])
def test_a_wrong_normalisation_is_found_and_named(kind: str, number: int) -> None:
    with WrongNorm(getattr(torch.ops.aten, kind), number):
        verdict = check(_step(Edged))
    assert verdict.right is False
    assert verdict.reason.startswith(f"wrong result of {kind} (")


def test_a_kernel_that_is_wrong_in_one_layout_alone_is_right_in_the_next() -> None:
    with Wrong(_last):
        assert check(_step(networks.Plain)).right is False
        assert check(_step(networks.Plain), Layout("contiguous")).right is True


def test_what_a_network_raises_is_no_verdict_on_arithmetic() -> None:
    def fails() -> Any:
        raise RuntimeError("no network")

    verdict = check(Step(fails, torch.zeros(2, 1, 8, 8), torch.arange(2), NumericSpec()))
    assert verdict.right is None and "no network" in verdict.reason


def test_the_check_leaves_every_generator_as_it_was() -> None:
    import random

    import numpy as np

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    check(_step(Drawing))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


# ---------------------------------------------------------------- in a run


STUDENT = f"{networks.__file__}:Plain"
DYING = """
import os
from torch import nn
from tests.support.strided_networks import Plain

class Dies(Plain):
    def forward(self, x):
        if not self.stem.weight.is_contiguous() or x.stride(1) == 1:
            os.abort()
        return super().forward(x)

class DiesBuilt(Plain):
    def __init__(self, num_classes, in_channels):
        os.abort()
"""


def _layouts(folder: str) -> dict[str, Any]:
    results = ResultsFolder(Path(folder))
    found = {}
    for cell in results.lock().plan.cells:
        result = results.result(cell.key)
        assert result is not None
        found[cell.method.name] = result
    return found


def _matrix(student: str, **changes: Any) -> Path:
    return write_matrix(Path("m.yaml"), students=[student], methods=["none"], **changes)


@pytest.mark.slow
def test_a_wrong_layout_gives_way_to_the_next_and_the_user_the_record_and_the_cache_know_why(
    ktbench: Commands,
) -> None:
    matrix, ktbench.here = _matrix(STUDENT), True
    with Wrong(_last):
        ran = ktbench("run", matrix, "--results", "r")
    assert ran.code == 0, ran
    assert "runs contiguous: channels-last: wrong gradient of the weight" in ran.out + ran.err
    layout = _layouts("r")["none"].checkpoint.layout
    assert layout.name == "contiguous" and layout.checked and "wrong gradient" in layout.reason
    # The verdict is kept: nothing is wrong any more, and the layout is the same.
    assert ktbench("run", matrix, "--results", "again").code == 0
    assert _layouts("again")["none"].checkpoint.layout == layout
    with Wrong(_with_onednn):
        asked = _matrix(
            STUDENT, numeric={"threads": 1}, data={"source": "digits", "train_size": 61}
        )
        assert ktbench("run", asked, "--results", "third").code == 0
    layout = _layouts("third")["none"].checkpoint.layout
    assert layout.name == "contiguous_without_onednn" and layout.checked


@pytest.mark.slow
def test_a_network_that_is_wrong_in_every_layout_fails_with_the_reason_and_others_go_on(
    ktbench: Commands,
) -> None:
    ktbench.here = True
    matrix = write_matrix(
        Path("m.yaml"), students=[STUDENT, {"resnet8": {"width": 0.5}}], methods=["none"]
    )
    with Wrong(lambda _: True):
        ran = ktbench("run", matrix, "--results", "r")
    assert ran.code == 1, ran
    results = ResultsFolder(Path("r"))
    found = [results.result(cell.key) for cell in results.lock().plan.cells]
    by_student = {r.cell.student.name: r for r in found if r is not None}
    [failure] = by_student[STUDENT].failures
    assert "its arithmetic fails here: wrong gradient" in failure.reason
    assert by_student["resnet8"].status == "done"


@pytest.mark.slow
def test_what_the_matrix_asks_for_is_never_run_otherwise(ktbench: Commands) -> None:
    ktbench.here = True
    matrix = _matrix(STUDENT, numeric={"layout": "channels_last"})
    with Wrong(_last):
        assert ktbench("run", matrix, "--results", "r").code == 1
    [failure] = _layouts("r")["none"].failures
    assert failure.reason.startswith("numeric.layout: channels_last: its arithmetic fails here")


@pytest.mark.slow
def test_a_process_that_dies_of_a_layout_is_no_end_of_the_run(ktbench: Commands) -> None:
    Path("dying.py").write_text(DYING)
    ran = ktbench("run", _matrix("dying.py:Dies"), "--results", "r")
    assert ran.code == 0, ran
    layout = _layouts("r")["none"].checkpoint.layout
    assert layout.name == "contiguous" and "channels-last: " in layout.reason


@pytest.mark.slow
def test_a_job_says_what_a_training_of_its_cell_would_compute() -> None:
    cell: Cell = training.cell("none", student=training.cell("none").student)
    verdict = check_arithmetic(ArithmeticJob(cell, Path()))
    assert verdict.right is True and verdict.images == 32
