"""A network of a user's own that reads texts and shows its heads and which tokens count."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import Features, Heads, Student


class Reader(Student):
    """Layers of self-attention, each added and normalised; the first token is classified."""

    def __init__(
        self, num_classes: int, vocabulary: int, length: int, *, layers: int = 2, dim: int = 8
    ) -> None:
        super().__init__()
        self.stage_names = tuple(f"layer{number + 1}" for number in range(layers))
        self.pieces = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(0.1 * self.pieces.weight.new_ones(length, dim).cumsum(0))
        self.layers = nn.ModuleList(Layer(dim) for _ in range(layers))
        self.head = nn.Linear(dim, num_classes)

    def forward_features(self, inputs: tuple[Tensor, Tensor], *, preacts: bool = False) -> Features:
        """See `Student.forward_features`."""
        ids, counts = inputs
        mask = counts.bool()
        states = stem = self.pieces(ids) + self.places
        stages, attentions = list[Tensor](), list[Heads]()
        for layer in self.layers:
            states, heads = layer(states, mask)
            stages.append(states)
            attentions.append(heads)
        shown = tuple(stages)
        return Features(
            self.head(states[:, 0]),
            shown,
            states[:, 0],
            shown if preacts else (),
            stem,
            attentions=tuple(attentions),
            mask=mask,
        )


class Layer(nn.Module):
    """Self-attention of two heads; padding is not attended to."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, 3 * dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Heads]:
        """(B, N, D) to the same shape, and the heads."""
        parts = self.project(states).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        heads = Heads(*parts)
        scores = heads.query @ heads.key.transpose(2, 3) * heads.query.shape[3] ** -0.5
        weights = scores.masked_fill(~mask[:, None, None], -1e4).softmax(3)
        mixed = (weights @ heads.value).transpose(1, 2).flatten(2)
        return self.norm(states + functional.gelu(mixed)), heads
