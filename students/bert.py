"""Small BERTs: encoders that classify texts by the pooled state of [CLS].

Devlin et al., arXiv 1810.04805, in the sizes of Turc et al., arXiv 1908.08962, table 1: heads of
64, and feed-forward layers four times as wide as the states. Weights are freshly drawn. Each layer
is a stage of tokens (B, N, D) that ends in a normalisation, without an activation, so `preacts` and
`stages` are the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from ktbench.students._contract import Features, Student, scaled
from ktbench.students._encoder import Encoder, EncoderShape, Pooler, initialise_as_bert

HEAD = 64
"""Width of a head."""
SIZES = {
    "bert_tiny": (2, 128),
    "bert_mini": (4, 256),
    "bert_small": (4, 512),
    "bert_medium": (8, 512),
    "bert_base": (12, 768),
}
"""Number of layers and width of the states."""
VARIANTS = tuple(SIZES)


def build(
    variant: str,
    *,
    num_classes: int,
    vocabulary: int,
    length: int,
    width: float = 1.0,
    layers: int | None = None,
    heads: int | None = None,
    feed_forward: int = 4,
    dropout: float = 0.1,
) -> Student:
    """An encoder and a classifier; `feed_forward` is a multiple of the states' width.

    `width` multiplies the states' width and leaves the number of heads as it is.
    """
    depth, dim = SIZES[variant]
    heads = dim // HEAD if heads is None else heads
    if heads < 1 or dim % heads:
        raise ValueError(f"heads must divide {dim}, not be {heads}")
    dim = heads * scaled(dim // heads, width)
    depth = depth if layers is None else layers
    shape = EncoderShape(vocabulary, length, depth, dim, heads, feed_forward * dim, dropout)
    return Bert(shape, num_classes)


class Bert(Student):
    """See the file; inputs are ids, mask and, for pairs, segments, each (B, N) whole numbers."""

    def __init__(self, shape: EncoderShape, num_classes: int) -> None:
        super().__init__()
        self.stage_names = tuple(f"layer{number + 1}" for number in range(shape.layers))
        self.encoder = Encoder(shape)
        self.pooler = Pooler(shape.dim)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(shape.dim, num_classes)
        initialise_as_bert(self.head)

    def forward_features(self, inputs: tuple[Tensor, ...], *, preacts: bool = False) -> Features:
        """See `Student.forward_features`; the embedding is what the classifier reads."""
        encoded = self.encoder(*inputs)
        pooled = self.dropout(self.pooler(encoded.hidden[-1]))
        return Features(
            self.head(pooled),
            stages=encoded.hidden,
            embedding=pooled,
            preacts=encoded.hidden if preacts else (),
            stem=encoded.stem,
            attentions=encoded.attentions,
            mask=encoded.mask,
        )
