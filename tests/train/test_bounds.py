"""What a training must not depend on, and what a user's own code in it may do wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import get_num_threads as threads

from ktbench.data import Dataset
from ktbench.records import Checkpoint, Failure, Item, NumericSpec
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.trainee import Trainee
from tests.support.training import HERE, TRAIN, cell, digits, places_in, train

# ---------------------------------------------------------------- the test set chooses nothing


def _trained(data: Dataset, root: Path) -> tuple[Checkpoint, list[float]]:
    """A training whose best epoch is kept, and its validation accuracies."""
    budget = TRAIN.model_copy(
        update={"epochs": 6, "lr": 0.3, "schedule": "constant", "keep": "best"}
    )
    [made] = train_cohort(
        [cell("none", train=budget)],
        TrainingContext(dataset=data, teacher=None, places=places_in(root), base=HERE),
    )
    assert isinstance(made, Checkpoint), made
    return made, pq.read_table(root / made.curves)["validation_accuracy"].to_pylist()


@pytest.mark.slow
def test_other_test_images_choose_no_other_epoch_and_no_other_weights(tmp_path: Path) -> None:
    data = digits()
    images, labels = data.splits["test"]
    other = replace(data, splits=data.splits | {"test": (255 - images, labels.roll(1))})
    (ours, curve), (theirs, same) = _trained(data, tmp_path / "a"), _trained(other, tmp_path / "b")
    assert curve == same
    assert ours.digest == theirs.digest
    assert ours.accuracy.best_epoch == theirs.accuracy.best_epoch < 6
    assert ours.accuracy.test_best != theirs.accuracy.test_best


@pytest.mark.slow
def test_the_test_set_is_read_after_the_last_epoch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    plain = Trainee.judged

    def noting(self: Trainee, split: Any) -> Any:
        read.append(split)
        return plain(self, split)

    monkeypatch.setattr(Trainee, "judged", noting)
    train([cell("none")], tmp_path)
    assert read == ["validation"] * TRAIN.epochs + ["test", "test"], "the last and the best weights"


@pytest.mark.slow
def test_a_training_runs_on_the_threads_that_its_key_names(tmp_path: Path) -> None:
    used = []
    numeric = NumericSpec(threads=2)
    train([cell("none", numeric=numeric)], tmp_path, report=lambda _: used.append(threads()))
    train([cell("none")], tmp_path, report=lambda _: used.append(threads()))
    assert used == [2] * TRAIN.epochs + [1] * TRAIN.epochs


# ---------------------------------------------------------------- a user's own code

DROPPING = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, num_classes))
"""


@pytest.mark.slow
def test_dropout_draws_the_same_alone_in_a_cohort_and_after_a_stop(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(DROPPING)
    dropping = cell("kd", student=Item(name=f"{tmp_path / 'net.py'}:Net"))

    def digest(root: str, *before: Any, **options: Any) -> str:
        made = train([*before, dropping], tmp_path / root, **options)[-1]
        assert isinstance(made, Checkpoint), made
        return made.digest

    def stop(_: object) -> None:
        raise InterruptedError

    alone = digest("alone")
    drawing_too = dropping.model_copy(update={"method": Item(name="soft_logits")})
    assert digest("together", drawing_too) == alone
    # The first epoch is told before it is saved, so the second attempt stops after one saved epoch.
    told = iter([lambda _: None, stop])
    with pytest.raises(InterruptedError):
        digest("stopped", report=lambda p: next(told)(p), checkpoint_seconds=0.0)
    torch.rand(3)  # whatever a new process has drawn by then
    assert digest("stopped") == alone


BAD_LOSSES = """
from dataclasses import dataclass
from torch.nn import functional
from ktbench.transfer_methods._contract import Needs, TransferMethod

@dataclass(frozen=True)
class Config:
    kind: str = "tensor"

class Bad(TransferMethod):
    Config = Config

    @classmethod
    def needs(cls, config):
        return Needs(logits=True)

    def loss(self, student, teacher, batch):
        ce = functional.cross_entropy(student.logits, batch.labels, reduction="none")
        if self.config.kind == "raises":
            raise RuntimeError("no such thing")
        return {"tensor": ce.mean(), "vector": {"ce": ce}, "number": {"ce": 1.0}}[self.config.kind]
"""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("tensor", "loss must return a dict of scalar tensors, not Tensor"),
        ("vector", "loss must return a dict of scalar tensors, not a Tensor (32,) as 'ce'"),
        ("number", "loss must return a dict of scalar tensors, not a float as 'ce'"),
        ("raises", "RuntimeError: no such thing (bad.py:20)"),
    ],
)
def test_what_is_wrong_with_an_own_methods_loss_is_told_with_its_place(
    tmp_path: Path, kind: str, reason: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD_LOSSES)
    [failure] = train([cell(f"{path}:Bad", settings={"kind": kind})], tmp_path)
    assert isinstance(failure, Failure) and failure.step == 0
    assert failure.reason.endswith(reason)


@pytest.mark.slow
def test_the_whole_method_of_the_contributing_page_trains(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    [code] = [block for block in blocks if block.startswith("# transfer_methods/")]
    (tmp_path / "my_method.py").write_text(code)
    name = f"{tmp_path / 'my_method.py'}:Method"
    [made] = train([cell(name)], tmp_path)
    assert isinstance(made, Checkpoint), made
    columns = set(pq.read_table(tmp_path / made.curves).column_names)
    assert {"loss_ce", "loss_sharpened"} <= columns
