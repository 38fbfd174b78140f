"""One block in training: its replacement, optimiser and history."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.blockwise.blocks import BlockTask
from ktbench.data import counter_hash
from ktbench.networks.layout import Layout, safe
from ktbench.networks.weights import weights_digest
from ktbench.records import (
    BlockResult,
    BlockTrain,
    Failure,
    KtbenchError,
    NumericSpec,
    Try,
)
from ktbench.students._blocks import adopt, build_replacement, parameters_of
from ktbench.students._contract import Student

_INIT, _STEP = 301, 302


class DivergedError(KtbenchError):
    """Raised for a loss that was not finite before the first try."""


@dataclass(frozen=True)
class TryResult:
    """Results of a replacement on the validation set, in the block's place."""

    accuracy: float
    error: float
    """Mean squared error of its output."""
    variance: float
    """Variance of the target about its channels' means, averaged over channels."""


@dataclass
class BlockTraining:
    """A replacement in training; everything that it draws depends on its seed and block alone.

    `epoch` is the next one to be trained, `steps` the number in an epoch.
    """

    task: BlockTask
    teacher: Student
    train: BlockTrain
    seed: int
    steps: int
    device: torch.device
    epoch: int = 0
    failure: Failure | None = None
    stopped: Literal["epochs", "patience", "diverged"] | None = None
    """Reason why it has ended (see `BlockResult.stopped`); None while it goes on."""
    seconds: float = 0.0
    teacher_seconds: float = 0.0
    shared_seconds: float = 0.0
    tries: list[Try] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """Mean squared errors on the training images, by epoch."""
    numeric: NumericSpec = field(default_factory=NumericSpec)
    layout: Layout | None = None
    """Layout that the replacement runs in, chosen at its first input."""

    def __post_init__(self) -> None:
        """Build the replacement from its own seed."""
        block = self.task.block
        torch.manual_seed(self._seeded(_INIT, 0))
        # Drawn on the CPU, so that a seed's weights at the start are the same on every device.
        self.module: nn.Module = build_replacement(block, self.task.entry)
        adopt(block, self.task.entry, self.module, self.teacher)
        self.module.to(self.device)
        self.module.train()
        self._optimiser = make_optimiser(self.train, list(self.module.parameters()))
        self._sum, self._count = torch.zeros((), dtype=torch.float64, device=self.device), 0
        self.best_state: dict[str, Tensor] = {}
        self.variance = math.nan

    @property
    def open(self) -> bool:
        """True while there is something to train."""
        return self.failure is None and self.stopped is None

    @property
    def steps_done(self) -> int:
        """Steps since the training's start."""
        return self.epoch * self.steps + self._count

    def _seeded(self, purpose: int, counter: int) -> int:
        name = int.from_bytes(hashlib.sha256(self.task.name.encode()).digest()[:8], "big")
        return int(counter_hash(self.seed ^ name, purpose, counter)) >> 1

    # ------------------------------------------------------------ training

    def step(self, given: Tensor, target: Tensor) -> None:
        """Step towards `target` (B, C', H', W') from `given` (B, C, H, W); changes neither."""
        layout = self._laid_out(given)
        number = self.steps_done
        torch.manual_seed(self._seeded(_STEP, number))  # of dropout and the like
        version = given._version
        with torch.enable_grad(), layout.running():
            loss = functional.mse_loss(self.module(layout.inputs(given)), target)
            loss.backward()  # type: ignore[no-untyped-call]
        if given._version != version:
            raise KtbenchError(f"{self.task.replacement} changes its input, which others read")
        train = self.train
        for group in self._optimiser.param_groups:
            group["lr"] = train.lr * train.decay ** (number // train.decay_steps)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._sum += loss.detach()
        self._count += 1

    def _laid_out(self, given: Tensor) -> Layout:
        """Return the layout for inputs such as these, with the weights laid out in it."""
        if self.layout is None:
            self.layout = safe(self.module, given, self.numeric)
            self.layout.place(self.module, self.device)
        return self.layout

    def replacement(self, given: Tensor) -> Tensor:
        """Return the replacement's output (B, C', H', W') in eval mode, for a try."""
        layout = self._laid_out(given)
        self.module.eval()
        with layout.running():
            output: Tensor = self.module(layout.inputs(given))
        self.module.train()
        return output

    def end_epoch(self) -> None:
        """Close an epoch; a loss that was not finite ends the training with the best weights.

        Raises DivergedError where there are none.
        """
        if self._count != self.steps:
            raise KtbenchError("the teacher does not run this block in every pass")
        error = float(self._sum) / self._count
        self._sum.zero_()
        self._count = 0
        self.epoch += 1
        if math.isfinite(error):
            self.errors.append(error)
        else:
            self._diverged()

    @property
    def due(self) -> bool:
        """True where the epoch that has just ended is followed by a try."""
        last = self.epoch == self.train.epochs
        return self.open and (last or self.epoch % self.train.splice_every == 0)

    def judge(self, result: TryResult) -> None:
        """Keep the weights if they are the best so far; end when there is no gain any more."""
        loss = result.error / max(result.variance, 1e-12)
        if not math.isfinite(loss):
            self._diverged()
            return
        self.variance = result.variance
        now = Try(epoch=self.epoch, accuracy=result.accuracy, loss=loss)
        self.tries.append(now)
        if self._best is now:
            self.best_state = {k: v.clone() for k, v in self.module.state_dict().items()}
        since = len(self.tries) - 1 - self.tries.index(self._best)  # tries without a gain
        if self.epoch == self.train.epochs:
            self.stopped = "epochs"
        elif since >= self.train.patience:
            self.stopped = "patience"

    @property
    def _best(self) -> Try:
        """The best try; the first of equal ones."""
        return max(self.tries, key=lambda t: (t.accuracy, -t.loss))

    def _diverged(self) -> None:
        if not self.best_state:
            raise DivergedError(f"loss is not finite in epoch {self.epoch}: lower blockwise.lr")
        self.stopped = "diverged"

    def result(self, path: str) -> BlockResult:
        """Return the record of a training that has ended; its weights lie at `path`."""
        assert self.stopped is not None
        best, variance = self._best, max(self.variance, 1e-12)
        return BlockResult(
            key=self.task.key,
            block=self.task.name,
            replacement=self.task.replacement,
            parameters_before=parameters_of(self.task.block.modules(self.teacher)),
            parameters=parameters_of(self.module),
            epochs=self.epoch,
            stopped=self.stopped,
            best_epoch=best.epoch,
            validation_accuracy=best.accuracy,
            loss=best.loss,
            losses=tuple(error / variance for error in self.errors),
            tries=tuple(self.tries),
            seconds=self.seconds,
            teacher_seconds=self.teacher_seconds,
            shared_seconds=self.shared_seconds,
            digest=weights_digest(self.best_state),
            path=path,
        )

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, at the end of an epoch."""
        return {
            "key": self.task.key,
            "torch": str(torch.__version__),
            "epoch": self.epoch,
            "module": self.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "best_state": self.best_state,
            "variance": self.variance,
            "errors": self.errors,
            "tries": [each.model_dump() for each in self.tries],
            "costs": [self.seconds, self.teacher_seconds, self.shared_seconds],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same training."""
        if state["key"] != self.task.key or state["torch"] != str(torch.__version__):
            raise KtbenchError("written for another block or another version of torch")
        self.module.load_state_dict(state["module"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.variance = state["epoch"], state["variance"]
        self.best_state, self.errors = state["best_state"], state["errors"]
        self.tries = [Try.model_validate(each) for each in state["tries"]]
        self.seconds, self.teacher_seconds, self.shared_seconds = state["costs"]


def make_optimiser(train: BlockTrain, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make RMSprop with the decay of the study's library (0.9; torch's is 0.99), Adam, or SGD."""
    if train.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=train.lr, alpha=0.9, eps=1e-7)
    if train.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=train.lr)
    return torch.optim.SGD(parameters, lr=train.lr, momentum=0.9)
