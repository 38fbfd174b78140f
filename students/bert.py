"""Small BERTs: encoders that classify texts by the pooled [CLS], or name masked pieces.

Devlin et al., arXiv 1810.04805, in the sizes of Turc et al., arXiv 1908.08962, table 1: heads of
64, and feed-forward layers four times as wide as the states; `minilm_l6` is that of Wang et al.,
arXiv 2002.10957, with six layers. Each layer is a stage of tokens (B, N, D) that ends in a
normalisation, without an activation, so `preacts` and `stages` are the same.

Weights are freshly drawn, or those of a folder that holds a network of the same sizes in the layout
of Hugging Face (`config.json`, `model.safetensors`): then only the classifier is drawn.

Masked pieces are named as in the paper's code: the states at their positions go through a linear
layer, GELU and a LayerNorm, and are compared with the vectors of all pieces. The encoder has the
same names in both networks, so that a classifier may start from the other's weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.students._contract import Features, OptionalSize, Pretrained, Student, scaled
from ktbench.students._encoder import Encoder, EncoderShape, Pooler, initialise_as_bert
from ktbench.students._pretrained import adopt

HEAD = 64
"""Width of a head, where `NARROW` has no other."""
NARROW = {"minilm_l6": 32}
SIZES = {
    "bert_tiny": (2, 128),
    "bert_mini": (4, 256),
    "bert_small": (4, 512),
    "bert_medium": (8, 512),
    "bert_base": (12, 768),
    "minilm_l6": (6, 384),
}
"""Number of layers and width of the states."""
VARIANTS = tuple(SIZES)


def build(
    variant: str,
    *,
    num_classes: int,
    vocabulary: int,
    length: int,
    masked: OptionalSize = OptionalSize(0),  # noqa: B008 - a number
    width: float = 1.0,
    layers: int | None = None,
    heads: int | None = None,
    feed_forward: int = 4,
    dropout: float = 0.1,
    pretrained: Pretrained | None = None,
) -> Student:
    """An encoder and a classifier, or what names `masked` pieces of each text.

    `feed_forward` is a multiple of the states' width. `width` multiplies the states' width and
    leaves the number of heads as it is. `pretrained` is a folder of weights to begin from.
    """
    depth, dim = SIZES[variant]
    heads = dim // NARROW.get(variant, HEAD) if heads is None else heads
    if heads < 1 or dim % heads:
        raise ValueError(f"heads must divide {dim}, not be {heads}")
    dim = heads * scaled(dim // heads, width)
    depth = depth if layers is None else layers
    shape = EncoderShape(vocabulary, length, depth, dim, heads, feed_forward * dim, dropout)
    student = MaskedBert(shape) if masked else Bert(shape, num_classes)
    if pretrained is not None:
        adopt(student, shape, pretrained)
    return student


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


class MaskedBert(Student):
    """See the file; inputs are ids and mask (B, N) and positions (B, k), whole numbers.

    Logits (B * k, V) are those of the pieces at these positions. There is no embedding: nothing
    stands for the whole text.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.stage_names = tuple(f"layer{number + 1}" for number in range(shape.layers))
        self.encoder = Encoder(shape)
        self.head = MaskedHead(shape)

    def forward_features(self, inputs: tuple[Tensor, ...], *, preacts: bool = False) -> Features:
        """See `Student.forward_features`."""
        ids, mask, positions = inputs
        encoded = self.encoder(ids, mask)
        return Features(
            self.head(encoded.hidden[-1], positions, self.encoder.pieces.weight),
            stages=encoded.hidden,
            preacts=encoded.hidden if preacts else (),
            stem=encoded.stem,
            attentions=encoded.attentions,
            mask=encoded.mask,
        )


class MaskedHead(nn.Module):
    """States at some positions to logits of all pieces, whose vectors are the encoder's."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.linear = nn.Linear(shape.dim, shape.dim)
        self.norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))
        initialise_as_bert(self)

    def forward(self, states: Tensor, positions: Tensor, pieces: Tensor) -> Tensor:
        """Turn states (B, N, D), positions (B, k) and vectors (V, D) into logits (B * k, V)."""
        places = positions[:, :, None].expand(-1, -1, states.shape[2])
        chosen = states.gather(1, places).flatten(0, 1)  # (B * k, D)
        chosen = self.norm(functional.gelu(self.linear(chosen)))
        return functional.linear(chosen, pieces, self.bias)
