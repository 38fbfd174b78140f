"""A small vision transformer: the size of DeiT-tiny, without a class token.

Touvron et al., arXiv 2012.12877 (192 wide, 12 blocks, 3 heads), with the mean over patch tokens
and the fixed two-dimensional sine positions of Beyer et al., arXiv 2205.01580: so a stage's
tokens (B, N, D) are the image's patches row by row, N is the number of patches, and any image
size that `patch` divides will do. Four stages of three blocks; they end in the residual stream,
without an activation, so `preacts` and `stages` are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ktbench.students._contract import Features, Heads, Student, scaled
from ktbench.students._layers import UnactivatedNetwork, attend, initialise, split_heads

VARIANTS = ("vit_tiny",)
WIDTH, HEADS, STAGES, BLOCKS = 192, 3, 4, 3


def build(
    variant: str, *, num_classes: int, in_channels: int, width: float = 1.0, patch: int = 4
) -> Student:
    """A transformer of freshly initialised weights; `patch` is a patch's side in pixels.

    Widths are multiples of 4 per head, as the positions take.
    """
    dim = HEADS * 4 * scaled(WIDTH // HEADS // 4, width)
    network = VisionTransformer(
        stem=Patches(in_channels, dim, patch),
        stages=[nn.Sequential(*(Block(dim) for _ in range(BLOCKS))) for _ in range(STAGES)],
        embed=TokenMean(dim),
        head=nn.Linear(dim, num_classes),
    )
    for module in initialise(network).modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return network


class Patches(nn.Module):
    """Cuts the image into square patches, one token each, and adds where they lie."""

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Conv2d(in_channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, D); raises ValueError where patches do not fill the image."""
        height, width = x.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"patch {self.patch} does not divide images of {height} x {width}")
        tokens: Tensor = self.project(x).flatten(2).transpose(1, 2)  # (B, N, D)
        rows, columns = height // self.patch, width // self.patch
        return tokens + positions(rows, columns, tokens.shape[2], device=x.device)


def positions(rows: int, columns: int, dim: int, *, device: torch.device) -> Tensor:
    """Sines and cosines of row and column at geometric frequencies: (rows · columns, dim).

    Vaswani et al., arXiv 1706.03762, section 3.5, a half of `dim` for each axis.
    """
    quarter = dim // 4
    rates = torch.exp(torch.arange(quarter, device=device) * (-math.log(10_000) / quarter))
    row = torch.arange(rows, device=device).repeat_interleave(columns)[:, None] * rates
    column = torch.arange(columns, device=device).repeat(rows)[:, None] * rates
    return torch.cat((row.sin(), row.cos(), column.sin(), column.cos()), 1)


class VisionTransformer(UnactivatedNetwork):
    """Stages of blocks that show the heads of their attention."""

    def forward_features(self, inputs: Tensor, *, preacts: bool = False) -> Features:
        """See `Student.forward_features`."""
        assert self.stem is not None
        x = stem = self.stem(inputs)
        stages: list[Tensor] = []
        attentions: list[Heads] = []
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                x = block(x, attentions)
            stages.append(x)
        embedding = self.embed(x)
        return Features(
            self.head(embedding),
            stages=tuple(stages),
            embedding=embedding,
            preacts=tuple(stages) if preacts else (),
            stem=stem,
            attentions=tuple(attentions),
        )


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each normalised before and added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim)
        self.before_mlp = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, attentions: list[Heads] | None = None) -> Tensor:
        """(B, N, D) to the same shape; the attention's heads are added to `attentions`."""
        mixed, heads = self.attention(self.before_attention(x))
        if attentions is not None:
            attentions.append(heads)
        x = x + mixed
        summed: Tensor = x + self.mlp(self.before_mlp(x))
        return summed


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Heads]:
        """(B, N, D) to the same shape, and the heads."""
        heads = Heads(*(split_heads(part, HEADS) for part in self.qkv(x).chunk(3, 2)))
        return self.out(attend(heads)), heads


class TokenMean(nn.Module):
    """The mean of the normalised tokens: (B, N, D) to (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        mean: Tensor = self.norm(x).mean(1)
        return mean
