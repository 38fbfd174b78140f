"""Contrastive distillation: embeddings of one sample are drawn together, of different ones apart.

Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, equations 14 to 19, and
Wu et al., CVPR 2018, for the memory of embeddings and the noise-contrastive estimate.

The memory holds both networks' embeddings of the whole training set: 8 * train_size * dimension
bytes (51 MB for 50,000 samples at 128, 1.3 GB for 1.28 million), which the checkpoint holds too. A
step compares the batch with all of it: 8 * batch * train_size * dimension operations, gradients
included, and 8 * batch * train_size bytes at a time.

Differences from the authors' code. It draws negatives without repeats from the samples of other
classes, whose labels it knows from the start, and it estimates the normalising constant from its
first draws. Here negatives may repeat, those of the sample's own class are ignored, and the
constant is computed from all scores, because the step has them anyway. `compatible: repdistiller`
draws and normalises as that code does, using the labels seen so far (all of them after one epoch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import OneTerm, View, Weights
from ktbench.transfer_methods._compatible import Compatible, check_compatible, is_compatible
from ktbench.transfer_methods._contract import Batch, Needs, Setting, batch_generator

_TINY = 1e-7


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published settings: weight 0.8, 16384 negatives, T 0.07, momentum 0.5, dimension 128."""

    weight: float = 0.8
    """Weight of the contrastive loss of both sides."""
    negatives: int = 16384
    """Negatives drawn per sample and step; all other samples, once each, if there are no more."""
    temperature: float = 0.07
    """T of the comparison."""
    momentum: float = 0.5
    """Share of a remembered embedding that remains when its sample comes again."""
    dimension: int = 128
    """Size of the linear embeddings on both sides, which are trained."""
    compatible: Compatible = "none"
    """`repdistiller`: draws and norming constant as the comparison's code has them; see above."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.whole(self, "negatives", "dimension", least=1)
        _checks.number(self, "temperature", above=0)
        _checks.number(self, "momentum", least=0, most=1)
        check_compatible(self)


def contrast_loss(positive: Tensor, negative: Tensor, counted: Tensor, noise: float) -> Tensor:
    """Noise-contrastive estimate of a batch: equation 17 with its h(x) = x / (x + noise).

    positive (B,) and negative (B, K) are the scores by their norming constant; counted (B, K) says
    which negatives count; noise is the number of negatives over the size of the training set.
    """
    same = (positive / (positive + noise + _TINY)).log()
    other = (noise / (negative + noise + _TINY)).log() * counted
    return -(same.sum() + other.sum()) / positive.shape[0]


class _Known(torch.autograd.Function):
    """A value whose gradient has been worked out before: what that took can be let go."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """`value`, whose gradient by `source` is `gradient`."""
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> tuple[Tensor, None, None]:
        """The gradient by `source` alone."""
        (gradient,) = ctx.saved_tensors
        return outgoing[0] * gradient, None, None


def _ask_again(method: nn.Module, _: object) -> None:
    """Other norms have been loaded: whether they are there is not known any more."""
    assert isinstance(method, Method)
    method._normed = [False, False]


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * (student among teachers + teacher among students).

    Negatives of a sample's own class are left out once their labels have been seen, which is
    after the first epoch; as published, the sampler knows the labels from the start.
    """

    Config = Config
    student_memory: Tensor
    teacher_memory: Tensor
    norms: Tensor
    seen_labels: Tensor

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        assert setting.teacher.embedding is not None
        assert setting.student.embedding is not None
        size, dimension = setting.train_size, config.dimension
        self.student_embedding = nn.Linear(setting.student.embedding, dimension)
        self.teacher_embedding = nn.Linear(setting.teacher.embedding, dimension)
        bound = (3 / dimension) ** 0.5
        for side in ("student", "teacher"):
            memory = torch.empty(size, dimension).uniform_(-bound, bound)
            self.register_buffer(f"{side}_memory", memory)
        self.register_buffer("norms", torch.zeros(2))
        self.register_buffer("seen_labels", torch.full((size,), -1))
        self._normed = [False, False]
        self.register_load_state_dict_post_hook(_ask_again)  # type: ignore[no-untyped-call]

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """The embedding."""
        return Needs(embedding=True)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """Both sides' losses; then the memory takes the batch in."""
        ours = functional.normalize(self.student_embedding(student.embedding), dim=1)
        theirs = functional.normalize(self.teacher_embedding(teacher.embedding), dim=1)
        drawn = self._negatives(batch)
        counted = (drawn != batch.indices[:, None]) & (
            self.seen_labels[drawn] != batch.labels[:, None]
        )
        loss = self._side(0, ours, self.teacher_memory, batch.indices, drawn, counted)
        loss = loss + self._side(1, theirs, self.student_memory, batch.indices, drawn, counted)
        self._remember(ours.detach(), theirs.detach(), batch)
        return loss

    def _negatives(self, batch: Batch) -> Tensor:
        """(B, K): positions in the training set."""
        size, count = len(self.seen_labels), self.config.negatives
        device, rows = self.seen_labels.device, len(batch.indices)
        compatible = is_compatible(self.config)
        possible = self._others(batch) if compatible else None
        if possible is not None and possible.any(1).all():
            repeats = count > int(possible.sum(1).min())
            generator = batch_generator(batch)
            return torch.multinomial(possible, count, repeats, generator=generator).to(device)
        if count >= size or compatible:
            return torch.arange(size, device=device).expand(rows, size)
        drawn = torch.randint(size, (rows, count), generator=batch_generator(batch))
        return drawn.to(device)

    def _others(self, batch: Batch) -> Tensor:
        """(B, N): 1 for samples of other classes, or not seen yet, and 0 for the rest."""
        possible = self.seen_labels.cpu() != batch.labels.cpu()[:, None]
        return possible.float().scatter_(1, batch.indices.cpu()[:, None], 0.0)

    def _side(
        self,
        side: int,
        anchor: Tensor,
        memory: Tensor,
        positives: Tensor,
        drawn: Tensor,
        counted: Tensor,
    ) -> Tensor:
        """One network's embeddings (B, D) among the other's remembered ones (N, D).

        The gradient is taken at once, while the memory is as it was: so it may change in place.
        """
        with torch.enable_grad():
            leaf = anchor.detach().requires_grad_()
            scores = leaf @ memory.T / self.config.temperature  # (B, N)
            chosen = scores.gather(1, torch.cat((positives[:, None], drawn), 1))
            if not self._normed[side]:  # asked of the device once, as asking waits for it
                if self.norms[side] == 0:
                    over = chosen if is_compatible(self.config) else scores
                    self.norms[side] = over.detach().exp().mean() * len(memory)
                self._normed[side] = True
            shares = chosen.exp() / self.norms[side]
            noise = drawn.shape[1] / len(memory)
            loss = contrast_loss(shares[:, 0], shares[:, 1:], counted, noise)
            (gradient,) = torch.autograd.grad(loss, leaf)
        result: Tensor = _Known.apply(anchor, loss.detach(), gradient)  # type: ignore[no-untyped-call]
        return result

    def _remember(self, ours: Tensor, theirs: Tensor, batch: Batch) -> None:
        momentum = self.config.momentum
        for memory, fresh in ((self.student_memory, ours), (self.teacher_memory, theirs)):
            mixed = momentum * memory[batch.indices] + (1 - momentum) * fresh
            memory[batch.indices] = functional.normalize(mixed, dim=1)
        self.seen_labels[batch.indices] = batch.labels
