"""BERT's encoder: word pieces to the hidden states of every layer, without any head.

Devlin et al., arXiv 1810.04805: learnt positions, GELU, and layers that normalise after each sum,
as in Vaswani et al., arXiv 1706.03762. Networks that read texts are this encoder and a head of
their own: a classifier (`bert.py`), the masked pieces, or whatever reads hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from ktbench.students._contract import Heads
from ktbench.students._layers import attend, split_heads

SEGMENTS = 2
"""Kinds of segments: the first text of a pair, and the second."""
FAR = -1e4
"""Added to the scores of padding: its weight is then zero in float32 and in float16."""


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of an encoder. Raises ValueError for sizes of which no encoder can be built."""

    vocabulary: int
    length: int
    """Most pieces of a text."""
    layers: int
    dim: int
    """Width of a hidden state."""
    heads: int
    feed_forward: int
    """Width between the two linear layers that follow the attention."""
    dropout: float = 0.0
    """Of the embeddings, of the attention's weights and of what each sum is given, in training."""
    eps: float = 1e-12

    def __post_init__(self) -> None:
        """See the class."""
        for name in ("vocabulary", "length", "layers", "dim", "heads", "feed_forward"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {value!r}")
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")


class Encoded(NamedTuple):
    """What an encoder says of texts.

    stem (B, N, D): the embeddings, normalised; hidden: the state after each layer, (B, N, D) each;
    attentions: the heads of each layer; mask (B, N): true where a piece counts.
    """

    stem: Tensor
    hidden: tuple[Tensor, ...]
    attentions: tuple[Heads, ...]
    mask: Tensor


class Encoder(nn.Module):
    """See the file; weights are freshly drawn. `pieces.weight` (V, D) are the pieces' vectors."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.pieces = nn.Embedding(shape.vocabulary, shape.dim)
        self.positions = nn.Embedding(shape.length, shape.dim)
        self.segments = nn.Embedding(SEGMENTS, shape.dim)
        self.norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.dropout = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        initialise_as_bert(self)

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Encoded:
        """Read ids, mask and segments, each (B, N) whole numbers, N at most the shape's length.

        Without segments, all pieces belong to the first.
        """
        places = self.positions.weight[: ids.shape[1]]  # (N, D)
        kinds = self.segments.weight[0] if segments is None else self.segments(segments)
        states = stem = self.dropout(self.norm(self.pieces(ids) + kinds + places))
        away = ((1 - mask).to(stem.dtype) * FAR)[:, None, None]  # (B, 1, 1, N)
        hidden, attentions = [], []
        for layer in self.layers:
            states, heads = layer(states, away)
            hidden.append(states)
            attentions.append(heads)
        return Encoded(stem, tuple(hidden), tuple(attentions), mask.bool())


class Layer(nn.Module):
    """Self-attention and two linear layers, each added to what it reads and then normalised."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        dim = shape.dim
        self.heads = shape.heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.after_attention = nn.LayerNorm(dim, eps=shape.eps)
        self.mlp = nn.Sequential(
            nn.Linear(dim, shape.feed_forward), nn.GELU(), nn.Linear(shape.feed_forward, dim)
        )
        self.after_mlp = nn.LayerNorm(dim, eps=shape.eps)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, states: Tensor, away: Tensor) -> tuple[Tensor, Heads]:
        """Return the next states (B, N, D) and the heads; `away` is added to their scores."""
        heads = Heads(
            split_heads(self.query(states), self.heads),
            split_heads(self.key(states), self.heads),
            split_heads(self.value(states), self.heads),
        )
        mixed = attend(heads, away, self.dropout)
        states = self.after_attention(states + self.dropout(self.out(mixed)))
        states = self.after_mlp(states + self.dropout(self.mlp(states)))
        return states, heads


class Pooler(nn.Module):
    """The state of the first piece, [CLS], through a linear layer and tanh: (B, N, D) to (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        initialise_as_bert(self)

    def forward(self, states: Tensor) -> Tensor:
        """See the class."""
        pooled: Tensor = self.linear(states[:, 0]).tanh()
        return pooled


def initialise_as_bert(network: nn.Module) -> None:
    """Draw the weights of linear layers and embeddings as BERT does; biases become zero.

    A normal distribution of deviation 0.02, cut at two deviations.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
