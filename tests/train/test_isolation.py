"""Whatever a network or a method does costs its own cell: others' weights stay the same bits."""

from __future__ import annotations

import builtins
import gc
import locale
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ktbench.isolation.functions import Functions
from ktbench.records import Cell, Checkpoint, Failure, Item
from ktbench.train import Progress
from tests.support.own.deeds import FAULTS, REPLACED, SETTINGS, WRITES
from tests.support.training import TRAIN, cell, train

pytestmark = pytest.mark.slow

OWN = str(Path(__file__).parents[1] / "support" / "own" / "deeds.py")
SHORT = TRAIN.model_copy(update={"epochs": 2})
ALLOWED = {"swap", "requires grad"}
"""Done to the tensor object that a method is handed, which is its own."""
PRIVATE = {"labels", "labels in numpy", "indices", "inputs"}
"""Written into what is the cell's own copy."""


def _victims() -> list[Cell]:
    return [cell("kd", train=SHORT), cell("attention", train=SHORT)]


def _net(**arguments: Any) -> Cell:
    own = Item(name=f"{OWN}:Net", settings={"arguments": arguments})
    return cell("kd", student=own, train=SHORT)


def _method(**settings: Any) -> Cell:
    return cell(f"{OWN}:Method", settings=settings, train=SHORT)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the victims, each trained on its own."""
    root = tmp_path_factory.mktemp("alone")
    made = [train([one], root)[0] for one in _victims()]
    assert all(isinstance(one, Checkpoint) for one in made), made
    return [one.digest for one in made if isinstance(one, Checkpoint)]


def _beside(culprit: Cell, root: Path, alone: list[str], **options: Any) -> Checkpoint | Failure:
    """What comes of a culprit between two victims, whose weights must be theirs alone."""
    first, last = _victims()
    before, outcome, after = train([first, culprit, last], root, **options)
    for made, digest in zip((before, after), alone, strict=True):
        assert isinstance(made, Checkpoint), made
        assert made.digest == digest
    return outcome


def _failure(outcome: Checkpoint | Failure) -> str:
    assert isinstance(outcome, Failure), outcome
    reason = outcome.reason
    assert reason.isprintable()
    assert 0 < len(reason) < 800
    reason.encode()
    return reason


def _same(one: Checkpoint | Failure, other: Checkpoint | Failure) -> None:
    """The same weights, or a failure of either."""
    if isinstance(one, Checkpoint):
        assert isinstance(other, Checkpoint), other
        assert one.digest == other.digest
    else:
        assert _failure(one)
        assert _failure(other)


# ---------------------------------------------------------------- what is shared


@pytest.mark.parametrize("deed", sorted(WRITES.keys() - ALLOWED - PRIVATE))
def test_a_method_that_writes_into_what_others_read_fails_alone(
    deed: str, alone: list[str], tmp_path: Path
) -> None:
    reason = _failure(_beside(_method(deed=deed, where="writes"), tmp_path, alone))
    assert "writes into" in reason or deed == "weights", "it writes into its own, too"


@pytest.mark.parametrize("deed", sorted(ALLOWED | PRIVATE))
def test_what_a_method_does_to_its_own_copies_it_does_alone_as_in_a_cohort(
    deed: str, alone: list[str], tmp_path: Path
) -> None:
    culprit = _method(deed=deed, where="writes")
    beside = _beside(culprit, tmp_path / "beside", alone)
    [apart] = train([culprit], tmp_path / "apart")
    _same(beside, apart)


@pytest.mark.parametrize("first", ["relu", "mul", "data", "numpy"])
def test_a_network_that_works_in_place_on_its_inputs_trains_alone_as_in_a_cohort(
    first: str, alone: list[str], tmp_path: Path
) -> None:
    culprit = _net(first=first)
    beside = _beside(culprit, tmp_path / "beside", alone)
    [apart] = train([culprit], tmp_path / "apart")
    assert isinstance(beside, Checkpoint), beside
    assert isinstance(apart, Checkpoint), apart
    assert beside.digest == apart.digest


def test_a_hidden_write_after_a_checkpoint_costs_only_the_steps_since(
    alone: list[str], tmp_path: Path
) -> None:
    told: list[str] = []
    done: list[int] = []

    def report(progress: Progress) -> None:
        done.append(progress.done)

    culprit = _method(deed="one value", where="writes", step=4)
    saving: dict[str, Any] = {"report": report, "checkpoint_seconds": 0.0}
    reason = _failure(_beside(culprit, tmp_path, alone, note=told.append, **saving))
    assert "writes into the teacher's stage 1" in reason
    assert sum("goes back to its last checkpoint" in line for line in told) == 3
    assert done == [3, 6], "the first epoch was not trained again"


def test_a_module_that_two_cells_would_share_is_refused(alone: list[str], tmp_path: Path) -> None:
    one = cell("kd", student=Item(name=f"{OWN}:one_network"), train=SHORT)
    other = cell("none", student=Item(name=f"{OWN}:one_network"), train=SHORT, teacher=None)
    first, second = train([one], tmp_path)[0], train([other], tmp_path)[0]
    assert isinstance(first, Checkpoint)
    assert "belongs to another network already" in _failure(second)


# ---------------------------------------------------------------- the process


def _state() -> dict[str, Any]:
    with warnings.catch_warnings():
        return {
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "device": torch.get_default_device(),
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "anomaly": torch.is_anomaly_enabled(),
            "nondeterministic": torch.are_deterministic_algorithms_enabled(),
            "precision": torch.get_float32_matmul_precision(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "denormals": float(torch.tensor(1e-310, dtype=torch.float64) * 1.0),
            "chdir": str(Path.cwd()),
            "environ": dict(os.environ),
            "path": list(sys.path),
            "stdout": sys.stdout,
            "limit": sys.getrecursionlimit(),
            "gc": gc.isenabled(),
            "locale": locale.setlocale(locale.LC_ALL),
            "sigterm": signal.getsignal(signal.SIGTERM),
            "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
            "seterr": np.geterr(),
            "trace": sys.gettrace(),
        }


@pytest.mark.parametrize("where", ["build", "any pass"])
@pytest.mark.parametrize("deed", sorted(SETTINGS))
def test_a_setting_of_the_process_is_put_back_before_anyone_else_computes(
    deed: str, where: str, alone: list[str], tmp_path: Path
) -> None:
    before, mask = _state(), os.umask(0o022)
    culprit = _net(where=where, deed=deed)
    beside = _beside(culprit, tmp_path / "beside", alone)
    [apart] = train([culprit], tmp_path / "apart")
    assert _state() == before
    assert os.umask(mask) == 0o022
    _same(beside, apart)


def test_a_network_that_draws_from_pythons_or_numpys_generator_has_weights_of_its_own_key(
    alone: list[str], tmp_path: Path
) -> None:
    culprit = _net(draws=True)
    beside = _beside(culprit, tmp_path / "beside", alone)
    random.seed(9)
    np.random.seed(9)
    [apart] = train([culprit], tmp_path / "apart")
    drawn = random.random(), float(np.random.rand())
    random.seed(9)
    np.random.seed(9)
    assert drawn == (random.random(), float(np.random.rand())), "the caller's own go on"
    assert isinstance(beside, Checkpoint)
    assert isinstance(apart, Checkpoint)
    assert beside.digest == apart.digest


def test_what_was_put_back_is_told_once(alone: list[str], tmp_path: Path) -> None:
    told: list[str] = []
    _beside(_net(where="any pass", deed="threads"), tmp_path, alone, note=told.append)
    [line] = [line for line in told if "put back" in line]
    assert "its code changed the number of threads (torch.set_num_threads): put back" in line


@pytest.mark.parametrize("where", ["init", "loss"])
@pytest.mark.parametrize("deed", sorted(REPLACED))
def test_a_replaced_function_fails_the_one_who_replaced_it_and_is_put_back(
    deed: str, where: str, alone: list[str], tmp_path: Path
) -> None:
    watched = (functional.cross_entropy, nn.ReLU.forward, torch.stack, functional.relu.__code__)
    reason = _failure(_beside(_method(deed=deed, where=where), tmp_path, alone))
    assert "puts a function of its own in the place of" in reason
    now = (functional.cross_entropy, nn.ReLU.forward, torch.stack, functional.relu.__code__)
    assert now == watched
    assert "__call__" not in vars(nn.ReLU)


@pytest.mark.ray
def test_the_print_that_ray_installs_in_mid_training_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tqdm_ray = pytest.importorskip("ray.experimental.tqdm_ray")
    monkeypatch.setattr(builtins, "print", print)
    monkeypatch.setattr(tqdm_ray, "_manager", None)
    functions = Functions()
    tqdm_ray.instance()
    assert builtins.print is tqdm_ray.safe_print
    assert functions.replaced() == []
    builtins.print = lambda *_: None
    assert functions.replaced() == ["builtins.print"]


# ---------------------------------------------------------------- whatever is raised


@pytest.mark.parametrize("deed", sorted(FAULTS))
def test_whatever_a_network_raises_is_one_line_of_its_own_cell(
    deed: str, alone: list[str], tmp_path: Path
) -> None:
    _failure(_beside(_net(where="forward", deed=deed), tmp_path, alone))


@pytest.mark.parametrize(
    "culprit",
    [
        *(_net(where=w, deed="exit") for w in ("build", "backward", "validation", "state")),
        *(_method(where=w, deed="exit") for w in ("init", "needs", "incompatible", "phases")),
        _method(where="loss", deed="exit"),
        _method(where="no phases"),
        _method(where="init", deed="missing file"),
        _method(where="init", deed="storage"),
    ],
    ids=lambda one: f"{one.student.label}-{one.method.label}"[-60:],
)
def test_wherever_a_users_code_fails_it_costs_its_own_cell(
    culprit: Cell, alone: list[str], tmp_path: Path
) -> None:
    _failure(_beside(culprit, tmp_path, alone, checkpoint_seconds=0.0))


def test_a_true_signal_stops_a_training_whose_network_swallows_everything(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(
        "import signal\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, num_classes)\n"
        "    def forward(self, x):\n"
        "        try:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "        except BaseException:\n"
        "            pass\n"
        "        return self.head(x.flatten(1))\n"
    )
    own = Item(name=f"{tmp_path / 'deaf.py'}:Net")
    # A process that a shell started in the background ignores this signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train([cell("none", student=own, teacher=None, train=SHORT)], tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
