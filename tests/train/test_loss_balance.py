"""What each term of a loss pulls is looked at during a training, and nothing is changed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench.records import Checkpoint, TrainSpec
from ktbench.train import loss_balance, trainee
from ktbench.train.loss_balance import gradient_norms
from ktbench.train.phases import RunningUpdate
from ktbench.transfer_methods import Update
from tests.support.training import cell, train

SIX = TrainSpec(epochs=6, batch_size=40, lr=0.02)


@pytest.mark.parametrize("method", ["intermediate_last_per_layer", "factor", "kd", "none"])
@pytest.mark.slow
def test_weights_and_costs_are_the_same_with_and_without_looking(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [looked] = train([cell(method, train=SIX)], tmp_path / "looked")
    monkeypatch.setattr(trainee, "due", lambda *_: False)
    [plain] = train([cell(method, train=SIX)], tmp_path / "plain")
    assert isinstance(looked, Checkpoint) and isinstance(plain, Checkpoint)
    assert looked.digest == plain.digest
    assert (looked.cost.flops, looked.accuracy) == (plain.cost.flops, plain.accuracy)
    assert bool(looked.looks) == (method != "none") and not plain.looks


@pytest.mark.slow
def test_each_part_of_the_training_is_looked_at_once_resumed_or_not(tmp_path: Path) -> None:
    one = cell("intermediate_last", train=SIX)
    [whole] = train([one], tmp_path / "whole")
    calls = 0

    def stop(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train([one], tmp_path / "cut", report=stop, checkpoint_seconds=0.0)
    [cut] = train([one], tmp_path / "cut")
    assert isinstance(whole, Checkpoint) and isinstance(cut, Checkpoint)
    assert whole.looks == cut.looks
    assert [look.epoch for look in whole.looks] == [1, 3, 5]
    terms = {"ce", "rmse_0_0", "rmse_1_1", "rmse_2_2", "logits"}
    assert all(look.gradients.keys() == look.losses.keys() == terms for look in whole.looks)


class Doubled(torch.autograd.Function):
    """A user's own operation whose backward pass changes the network."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, buffer: Tensor) -> Tensor:
        ctx.buffer = buffer
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.buffer += torch.rand(1)
        return 2 * gradients[0], None


def test_norms_are_those_of_the_parameters_that_a_term_moves_and_leave_no_trace() -> None:
    network, adaptor = nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)
    network.register_buffer("seen", torch.zeros(1))
    x = torch.tensor([[3.0, 4.0]])
    out = Doubled.apply(network(x), network.seen)
    terms = {"a": out.sum(), "b": adaptor(out).sum(), "c": torch.tensor(1.0)}
    optimiser = torch.optim.SGD(network.parameters())
    updates = [
        RunningUpdate(Update(("a", "c")), [*network.parameters()], optimiser),
        RunningUpdate(Update(("b",)), [*adaptor.parameters()], optimiser),
    ]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    norms = gradient_norms(terms, updates, [("a", "c"), ("b",)], network, adaptor)
    assert norms == {"a": pytest.approx(10.0), "c": 0.0}
    assert torch.equal(network.seen, torch.zeros(1)) and torch.equal(torch.rand(1), expected)
    terms["a"].backward()  # the graph is still there


def test_a_kind_of_step_is_due_once_in_each_part() -> None:
    looked: set[str] = set()
    due = [loss_balance.due("train", step / 10, looked) for step in range(10)]
    assert [step for step, is_due in enumerate(due) if is_due] == [0, 4, 7]
    assert loss_balance.due("task", 0.9, looked)


@pytest.mark.slow
def test_a_pair_of_embeddings_does_not_fade_and_its_term_says_so(tmp_path: Path) -> None:
    """The study's own embeddings do; every term of the normalised ones keeps its share."""
    longer = TrainSpec(epochs=30, batch_size=32, optimiser="adam", lr=0.003)
    shares = {}
    for normalise in ("batch", "none"):
        one = cell("intermediate_embedding", settings={"normalise": normalise}, train=longer)
        [made] = train([one], tmp_path)
        assert isinstance(made, Checkpoint), made
        look = made.looks[-1]
        pairs = sum(value for name, value in look.losses.items() if name.startswith("rmse"))
        norms = look.gradients
        shares[normalise] = (
            pairs / sum(look.losses.values()),
            {name: norm / sum(norms.values()) for name, norm in norms.items()},
        )
    assert min(shares["batch"][1].values()) > 0.05
    assert shares["none"][0] < 0.05 < 0.1 < shares["batch"][0]
    assert max(norm for name, norm in shares["none"][1].items() if "rmse" in name) < 0.05
