"""The CIFAR-100 comparison's losses and adaptors, written once more from their formulas.

Classes and their arguments have the names of that comparison's code (RepDistiller), so that its own
can stand in their place. Batches are small: clearness before speed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = Sequence[int]
Maps = Sequence[Tensor]


def smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average pooling of the larger of two square maps."""
    side = min(a.shape[2], b.shape[2])
    pooled = (functional.adaptive_avg_pool2d(x, side) if x.shape[2] > side else x for x in (a, b))
    first, second = pooled
    return first, second


# ---------------------------------------------------------------- on logits and embeddings


class DistillKL(nn.Module):
    def __init__(self, T: float) -> None:  # noqa: N803 - the comparison's name
        super().__init__()
        self.T = T

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        p = torch.softmax(teacher / self.T, 1)
        q = torch.softmax(student / self.T, 1)
        return self.T**2 * (p * (p / q).log()).sum(1).mean()


class Correlation(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        d = (student - teacher).abs()
        return torch.stack([d[i] @ d[i + 1] for i in range(len(d) - 1)]).mean()


class RKDLoss(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        distances = functional.smooth_l1_loss(self.distances(student), self.distances(teacher))
        return 25 * distances + 50 * functional.smooth_l1_loss(
            self.cosines(student), self.cosines(teacher)
        )

    @staticmethod
    def distances(x: Tensor) -> Tensor:
        """Other samples are 1e-6 away at least, and all of them count in the mean."""
        far = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-6)
        far = far.masked_fill(torch.eye(len(x), dtype=torch.bool), 0)
        return far / (far.sum() / (far > 0).sum())

    @staticmethod
    def cosines(x: Tensor) -> Tensor:
        ways = functional.normalize(x[None] - x[:, None], dim=2)
        return torch.einsum("ijd,ikd->ijk", ways, ways)


class PKT(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        q, p = self.shares(student), self.shares(teacher)
        return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()

    @staticmethod
    def shares(x: Tensor) -> Tensor:
        rows = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-7)
        similar = (rows @ rows.T + 1) / 2
        return similar / similar.sum(1, keepdim=True)


class LinearEmbed(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


class CRDLoss(nn.Module):
    """Embeddings, two memories and the noise-contrastive estimate with given negatives."""

    def __init__(self, opt: Any) -> None:
        super().__init__()
        self.embed_s = LinearEmbed(opt.s_dim, opt.feat_dim)
        self.embed_t = LinearEmbed(opt.t_dim, opt.feat_dim)
        self.size, self.temperature, self.momentum = opt.n_data, opt.nce_t, opt.nce_m
        self.contrast = nn.Module()
        for i in (1, 2):  # 1: the student's
            memory = torch.rand(opt.n_data, opt.feat_dim) * 2 - 1
            self.contrast.register_buffer(f"memory_v{i}", memory * math.sqrt(3 / opt.feat_dim))
        self.constants: list[Tensor] = []

    def forward(
        self, student: Tensor, teacher: Tensor, idx: Tensor, contrast_idx: Tensor
    ) -> Tensor:
        """`contrast_idx` (B, 1 + K) begins with the sample itself."""
        memories = [self.contrast.memory_v2, self.contrast.memory_v1]
        anchors = [functional.normalize(self.embed_s(student)),
                   functional.normalize(self.embed_t(teacher))]  # fmt: skip
        scores = [
            (torch.einsum("bd,bkd->bk", anchor, memory[contrast_idx]) / self.temperature).exp()
            for anchor, memory in zip(anchors, memories, strict=True)
        ]
        self.constants = self.constants or [s.mean().detach() * self.size for s in scores]
        noise = (contrast_idx.shape[1] - 1) / self.size
        total = student.new_zeros(())
        for score, constant in zip(scores, self.constants, strict=True):
            share = score / constant
            total = total - (share[:, 0] / (share[:, 0] + noise + 1e-7)).log().sum()
            total = total - (noise / (share[:, 1:] + noise + 1e-7)).log().sum()
        for memory, anchor in zip(memories, reversed(anchors), strict=True):
            mixed = self.momentum * memory[idx] + (1 - self.momentum) * anchor.detach()
            memory[idx] = functional.normalize(mixed)
        return total / len(student)


# ---------------------------------------------------------------- on stages


class HintLoss(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


class Grouped(nn.Module):
    """Base: one loss per pair of stages, in order; the longer list's last stages are left out."""

    def forward(self, student: Maps, teacher: Maps) -> list[Tensor]:
        return [self.one(s, t) for s, t in zip(student, teacher, strict=False)]

    def one(self, student: Tensor, teacher: Tensor) -> Tensor:
        raise NotImplementedError


class Attention(Grouped):
    def one(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (
            functional.normalize(x.square().mean(1).flatten(1)) for x in smaller(student, teacher)
        )
        return (ours - theirs).square().mean()


class NSTLoss(Grouped):
    def one(self, student: Tensor, teacher: Tensor) -> Tensor:
        a, b = (functional.normalize(x.flatten(2), dim=2) for x in smaller(student, teacher))

        def kernel(x: Tensor, y: Tensor) -> Tensor:
            return torch.einsum("bip,bjp->bij", x, y).square().mean()

        return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


class Similarity(Grouped):
    def one(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (functional.normalize(x.flatten(1) @ x.flatten(1).T)
                        for x in (student, teacher))  # fmt: skip
        return (ours - theirs).square().sum() / len(student) ** 2


class VIDLoss(nn.Module):
    def __init__(self, num_input_channels: int, num_mid_channel: int, num_target_channels: int):
        super().__init__()
        widths = [num_input_channels, num_mid_channel, num_mid_channel, num_target_channels]
        first, second, third = (
            nn.Conv2d(a, b, 1, bias=False) for a, b in itertools.pairwise(widths)
        )
        start = math.log(math.exp(5 - 1e-5) - 1)
        self.log_scale = nn.Parameter(torch.full((num_target_channels,), start))
        self.regressor = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = smaller(student, teacher)
        variance = (functional.softplus(self.log_scale) + 1e-5)[:, None, None]
        square = (self.regressor(student) - teacher).square()
        return 0.5 * (square / variance + variance.log()).mean()


class ABLoss(nn.Module):
    def __init__(self, feat_num: int) -> None:
        super().__init__()
        self.count = feat_num

    def forward(self, student: Maps, teacher: Maps) -> list[Tensor]:
        losses = []
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            below = (s + 1).square() * ((s > -1) & (t <= 0))
            above = (s - 1).square() * ((s <= 1) & (t > 0))
            losses.append(3 / 1000 * 2.0 ** (i + 1 - self.count) * (below + above).sum() / len(s))
        return losses


class FSP(nn.Module):
    def __init__(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape]) -> None:
        super().__init__()
        if [s[1] for s in s_shapes] != [t[1] for t in t_shapes]:
            raise ValueError("widths differ")

    def forward(self, student: Maps, teacher: Maps) -> list[Tensor]:
        pairs = zip(self.flows(student), self.flows(teacher), strict=True)
        return [(s - t).square().mean() for s, t in pairs]

    @staticmethod
    def flows(maps: Maps) -> list[Tensor]:
        flows = []
        for before, after in itertools.pairwise(maps):
            a, b = smaller(before, after)
            flows.append(torch.einsum("bihw,bjhw->bij", a, b) / (a.shape[2] * a.shape[3]))
        return flows


class KDSVD(nn.Module):
    """One vector per stage, with the sign that the decomposition gives it."""

    def forward(self, student: Maps, teacher: Maps) -> list[Tensor]:
        ours, theirs = [], []
        for s, t in zip(student, teacher, strict=False):
            target = torch.linalg.svd(t.flatten(2).transpose(1, 2), full_matrices=False).Vh[:, :1]
            several = torch.linalg.svd(s.flatten(2).transpose(1, 2), full_matrices=False).Vh[:, :4]
            cosine = several @ target.transpose(1, 2)  # (B, 4, 1)
            best = cosine.abs().argmax(1, keepdim=True)
            sign = cosine.gather(1, best).sign()
            chosen = several.gather(1, best.expand(-1, -1, several.shape[2]))
            ours.append((chosen * sign).squeeze(1))
            theirs.append(target.squeeze(1))
        losses = []
        for i in range(1, len(ours)):
            s, t = (self.radial(side[i], side[i - 1]) for side in (ours, theirs))
            losses.append((s - t).square().sum() / len(student[0]))
        return losses

    @staticmethod
    def radial(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, :, None] - b[:, None]).square() / 8).exp()


class FactorTransfer(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (
            functional.normalize(x.square().mean(1).flatten(1)) for x in smaller(student, teacher)
        )
        return (ours - theirs).abs().mean()


# ---------------------------------------------------------------- adaptors


class ConvReg(nn.Module):
    def __init__(self, s_shape: Shape, t_shape: Shape, use_relu: bool = True) -> None:
        super().__init__()
        (ours, height), (theirs, target) = s_shape[1:3], t_shape[1:3]
        self.conv: nn.Module
        if height == 2 * target:
            self.conv = nn.Conv2d(ours, theirs, 3, stride=2, padding=1)
        elif 2 * height == target:
            self.conv = nn.ConvTranspose2d(ours, theirs, 4, stride=2, padding=1)
        elif height >= target:
            self.conv = nn.Conv2d(ours, theirs, 1 + height - target)
        else:
            raise ValueError("no regressor")
        self.bn, self.use_relu = nn.BatchNorm2d(theirs), use_relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return functional.relu(x) if self.use_relu else x


class Connector(nn.Module):
    def __init__(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape]) -> None:
        super().__init__()
        if len(s_shapes) != len(t_shapes):
            raise ValueError("numbers of stages differ")
        self.connectors = nn.ModuleList(
            nn.Sequential() if s[1:] == t[1:] else ConvReg(s, t, use_relu=False)
            for s, t in zip(s_shapes, t_shapes, strict=True)
        )

    def forward(self, stages: Maps) -> list[Tensor]:
        return [connect(x) for connect, x in zip(self.connectors, stages, strict=True)]


def _three(widths: list[int], kind: Any, *, normed: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [kind(a, b, 3, 1, 1), *([nn.BatchNorm2d(b)] if normed else []), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    def __init__(self, t_shape: Shape) -> None:
        super().__init__()
        width, factors = t_shape[1], t_shape[1] // 2
        there, back = [width, width, factors, factors], [factors, factors, width, width]
        self.encoder = _three(there, nn.Conv2d, normed=False)
        self.decoder = _three(back, nn.ConvTranspose2d, normed=False)

    def forward(self, x: Tensor, is_factor: bool = False) -> Any:
        factor = self.encoder(x)
        return factor if is_factor else (factor, self.decoder(factor))


class Translator(nn.Module):
    def __init__(self, s_shape: Shape, t_shape: Shape) -> None:
        super().__init__()
        width, factors = s_shape[1], t_shape[1] // 2
        self.encoder = _three([width, width, factors, factors], nn.Conv2d, normed=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)  # type: ignore[no-any-return]
