"""A convolutional network for texts: windows of three to five word pieces, and the most of each.

Kim, arXiv 1408.5882, section 2: vectors of pieces 300 wide, parallel convolutions over 3, 4 and 5
pieces of 100 maps each, a ReLU, the maximum over positions, and a linear classifier behind dropout.
The two stages are the pieces' vectors and the windows' maps, both tokens (B, N, D). Each piece is
near the middle of its window. Padding counts as zeros within a window, and no window stands on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import Features, Student, scaled

VARIANTS = ("text_cnn",)
DIM, MAPS, WINDOWS = 300, 100, (3, 4, 5)


def build(
    variant: str, *, num_classes: int, vocabulary: int, width: float = 1.0, dropout: float = 0.5
) -> Student:
    """A network of freshly drawn weights; `width` multiplies vectors and maps alike."""
    return TextCNN(vocabulary, scaled(DIM, width), scaled(MAPS, width), num_classes, dropout)


class TextCNN(Student):
    """See the file; inputs are ids and mask, each (B, N) whole numbers. Segments are not read."""

    stage_names = ("pieces", "windows")

    def __init__(
        self, vocabulary: int, dim: int, maps: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary, dim)
        self.windows = nn.ModuleList(nn.Conv1d(dim, maps, size) for size in WINDOWS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(maps * len(WINDOWS), num_classes)

    def forward_features(self, inputs: tuple[Tensor, ...], *, preacts: bool = False) -> Features:
        """See `Student.forward_features`; the first stage has no activation."""
        ids, mask, *_ = inputs
        counted = mask.unsqueeze(2).to(self.pieces.weight.dtype)  # (B, N, 1)
        pieces = self.pieces(ids) * counted  # (B, N, D)
        columns = pieces.transpose(1, 2)
        maps = [
            window(functional.pad(columns, ((size - 1) // 2, size // 2)))
            for window, size in zip(self.windows, WINDOWS, strict=True)
        ]
        before = torch.cat(maps, 1).transpose(1, 2)  # (B, N, 3 · maps)
        windows = functional.relu(before) * counted
        most = self.dropout(windows.amax(1))
        return Features(
            self.head(most),
            stages=(pieces, windows),
            embedding=most,
            preacts=(pieces, before) if preacts else (),
            mask=mask.bool(),
        )
