"""A training step on a GPU: nothing on the wrong device, nothing waited for, and no GPU at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ktbench import catalogue
from ktbench.records import Checkpoint, KtbenchError, NumericSpec
from ktbench.students._contract import Features, Heads
from ktbench.teacher.live import Live
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.loss_log import LossLog
from ktbench.transfer_methods._contract import TransferMethod
from ktbench.transfer_methods.crd import Method as Contrastive
from tests.support import method_cases as cases
from tests.support.running import Commands, write_matrix
from tests.support.training import HERE, cell, digits, places_in, teacher, train

CUDA = NumericSpec(device="cuda")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")

# ---------------------------------------------------------------- as if there were a GPU


THERE = torch.device("meta")


class Pretended:
    """Tensors on another device than the CPU that hold no values, as if it were a GPU.

    An operation across devices raises, and so does whatever asks for a value: on a GPU that would
    wait for all the work before it.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode()

    def tensor(self, value: Tensor) -> Tensor:
        placed: Tensor = FakeTensor(self.mode, value.detach().to("meta"), THERE)
        return placed.requires_grad_(value.requires_grad)

    def module(self, module: nn.Module) -> None:
        """Move a module's parameters and buffers."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self.tensor(parameter))
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.tensor(buffer)

    def features(self, of: Features) -> Features:
        return Features(
            logits=self.tensor(of.logits),
            stages=tuple(map(self.tensor, of.stages)),
            embedding=None if of.embedding is None else self.tensor(of.embedding),
            preacts=tuple(map(self.tensor, of.preacts)),
            stem=None if of.stem is None else self.tensor(of.stem),
            attentions=tuple(Heads(*map(self.tensor, heads)) for heads in of.attentions),
            mask=None if of.mask is None else self.tensor(of.mask),
        )


def settings_of(name: str) -> dict[str, Any]:
    return {"parts": [{"method": "crd"}, "kd"]} if name == "combined" else {}


def stepped(method: TransferMethod, at: Any) -> set[torch.device]:
    """The devices of a method's terms after a loss in each phase."""
    pretended = Pretended()
    taught = at.teacher is not None
    for part in method.modules():
        if isinstance(part, Contrastive):
            part._normed = [True, True]  # which its first step asks the device for, once
    found = set[torch.device]()
    pretended.module(method)
    student = pretended.features(cases.features(at.student))
    theirs = pretended.features(cases.features(at.teacher, seed=1)) if taught else None
    for batch in cases.phase_batches(method):
        moved = replace(
            batch,
            inputs=pretended.tensor(batch.inputs),
            labels=pretended.tensor(batch.labels),
            indices=pretended.tensor(batch.indices),
        )
        with pretended.mode:
            terms = method.loss(student, theirs, moved)
            LossLog().add(terms, step=0, epoch=0)
            moves = [p for p in method.parameters() if p.requires_grad] + cases.tensors(student)
            total = torch.stack(list(terms.values())).sum()
            gradients = torch.autograd.grad(total, moves, allow_unused=True)
        found |= {x.device for x in (*terms.values(), *gradients) if x is not None}
    return found


@pytest.mark.parametrize("name", catalogue.methods())
@pytest.mark.slow
def test_a_methods_step_stays_on_the_gpu_and_waits_for_nothing(
    name: str,
) -> None:
    method, at = cases.possible(name, settings_of(name))
    assert stepped(method, at) == {THERE}


def test_a_step_that_waits_or_strays_is_found_out() -> None:
    """The pretence itself: a value asked for, and a tensor on the CPU."""
    pretended = Pretended()
    there = pretended.tensor(torch.ones(3))
    with pretended.mode:
        with pytest.raises(Exception, match="_local_scalar_dense"):
            float(there.sum())
        with pytest.raises(Exception, match="two devices"):
            _ = there + torch.ones(3)


# ---------------------------------------------------------------- no GPU, and a real one


@no_gpu
def test_a_gpu_that_is_not_there_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(tmp_path, monkeypatch, capsys)
    matrix = write_matrix(tmp_path / "gpu.yaml", numeric={"device": "cuda"})
    answer = commands("run", matrix, "--results", tmp_path / "out")
    assert answer.code == 2
    *_, last = answer.err.splitlines()
    assert last.startswith("ktbench: numeric.device: cuda, but torch sees no GPU here")
    assert not (tmp_path / "out").exists()
    with pytest.raises(KtbenchError, match="sees no GPU here"):
        train([cell("none", numeric=CUDA)], tmp_path)


def _on_gpu(names: list[str], root: Path, **numeric: Any) -> list[dict[str, Tensor]]:
    """The weights of cells trained as one cohort on the GPU."""
    spec = NumericSpec(device="cuda", **numeric)
    source = Live(teacher(root)._network.cpu(), trained_on=digits(), dataset=digits(), numeric=spec)
    made = train_cohort(
        [cell(name, numeric=spec) for name in names],
        TrainingContext(
            dataset=digits(),
            teacher=source,
            places=places_in(root),
            base=HERE,
        ),
    )
    assert all(isinstance(one, Checkpoint) for one in made), made
    paths = [root / one.path for one in made if isinstance(one, Checkpoint)]
    return [torch.load(path, weights_only=True) for path in paths]


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpus_weights_are_alike_alone_and_in_a_cohort(precision: str, tmp_path: Path) -> None:
    names = ["kd", "fitnet", "crd"]
    together = _on_gpu(names, tmp_path / "together", precision=precision)
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    for name, weights in zip(names, together, strict=True):
        [alone] = _on_gpu([name], tmp_path / name, precision=precision)
        for key, value in alone.items():
            torch.testing.assert_close(weights[key], value, rtol=tolerance, atol=tolerance)


@needs_gpu
def test_every_method_trains_on_a_gpu(tmp_path: Path) -> None:
    names = [n for n in cases.for_maps() if n not in ("fsp", "kdsvd")]
    names = [n for n in names if catalogue.method(n).needs(catalogue.method_config(n, {}))]
    for weights in _on_gpu(names, tmp_path):
        assert all(value.device.type == "cpu" for value in weights.values())
        assert all(value.isfinite().all() for value in weights.values())
