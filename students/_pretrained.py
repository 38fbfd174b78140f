"""Weights of a BERT from a folder in the layout of Hugging Face's `transformers`.

Its sizes and names become those of the encoder here, which computes the same, so that the library
is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ktbench.students._contract import Pretrained
from ktbench.students._encoder import SEGMENTS, EncoderShape

_SIZES = {
    "vocabulary": "vocab_size",
    "length": "max_position_embeddings",
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "eps": "layer_norm_eps",
}
"""Names of sizes in `config.json`."""
_OTHERWISE = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "type_vocab_size": SEGMENTS,
    "is_decoder": False,
}
"""What else `config.json` says, and the values that this encoder has."""
_MODULES = {
    "embeddings.word_embeddings": "encoder.pieces",
    "embeddings.position_embeddings": "encoder.positions",
    "embeddings.token_type_embeddings": "encoder.segments",
    "embeddings.LayerNorm": "encoder.norm",
    "pooler.dense": "pooler.linear",
    "classifier": "head",
}
_IN_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "after_attention",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.2",
    "output.LayerNorm": "after_mlp",
}
_LAYER = "encoder.layer."


def adopt(student: nn.Module, shape: EncoderShape, pretrained: Pretrained) -> None:
    """Give a student the pretrained encoder and pooler; its head stays as it is.

    Positions beyond the student's length are left out. Raises ValueError, in one line, where these
    are not the weights of such a network.
    """
    _check_sizes(shape, pretrained)
    weights = renamed(pretrained.weights)
    if (name := "encoder.positions.weight") in weights:
        weights[name] = weights[name][: shape.length]
    fresh = student.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name in fresh and not name.startswith("head.") and value.shape == fresh[name].shape
    }
    missing = [name for name in fresh if name.startswith("encoder.") and name not in fitting]
    if missing:
        raise ValueError(f"the weights in {pretrained.folder} lack {missing[0]}, or its shape")
    student.load_state_dict({**fresh, **fitting})


def _check_sizes(shape: EncoderShape, pretrained: Pretrained) -> None:
    where, config = pretrained.folder, pretrained.config
    theirs = {ours: config.get(name) for ours, name in _SIZES.items()}
    if not isinstance(theirs["length"], int) or theirs["length"] < shape.length:
        raise ValueError(
            f"the network in {where} reads at most {theirs['length']} pieces: make "
            f"data.task.length, {shape.length}, as short"
        )
    if theirs["vocabulary"] != shape.vocabulary:
        raise ValueError(
            f"the network in {where} knows {theirs['vocabulary']} word pieces and this data has "
            f"{shape.vocabulary}: set data.task.tokenizer to its tokenizer.json"
        )
    differing = [
        name
        for name in ("layers", "dim", "heads", "feed_forward", "eps")
        if theirs[name] != getattr(shape, name)
    ]
    if differing:
        sizes = ", ".join(f"{name} {theirs[name]}" for name in differing)
        ours = ", ".join(f"{name} {getattr(shape, name)}" for name in differing)
        raise ValueError(f"the network in {where} has {sizes}, and this student {ours}")
    for name, expected in _OTHERWISE.items():
        if (value := config.get(name, expected)) != expected:
            raise ValueError(
                f"the network in {where} has {name} {value!r}, and only {expected!r} is built here"
            )


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of `transformers`' BERT by the names of `Bert`, in float32.

    What `Bert` has no place for (a head for masked pieces, numbers of positions) is left out.
    """
    names = {}
    for name in state:
        module, _, leaf = name.removeprefix("bert.").rpartition(".")
        if module in _MODULES:
            names[name] = f"{_MODULES[module]}.{leaf}"
        elif module.startswith(_LAYER):
            number, _, inner = module.removeprefix(_LAYER).partition(".")
            if inner in _IN_LAYER:
                names[name] = f"encoder.layers.{number}.{_IN_LAYER[inner]}.{leaf}"
    return {ours: state[theirs].to(torch.float32) for theirs, ours in names.items()}
