"""Weights of a BERT from a folder in the layout of Hugging Face's `transformers`.

The folder has `config.json` with the network's sizes and `model.safetensors` with its weights under
that library's names. Both are read here, without the library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ktbench.students._encoder import SEGMENTS, EncoderShape

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
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
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "type_vocab_size": (SEGMENTS,),
    "is_decoder": (False,),
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


def shape_in(folder: Path, dropout: float) -> EncoderShape:
    """Return the sizes of a folder's network; ValueError where it is no BERT as built here."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        sizes = {ours: config[theirs] for ours, theirs in _SIZES.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not readable as JSON"
        raise ValueError(f"{folder / CONFIG}: {reason.lower()}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} does not give {error}: no network is known") from error
    for name, values in _OTHERWISE.items():
        if (value := config.get(name, values[0])) not in values:
            raise ValueError(
                f"{folder / CONFIG}: {name} is {value!r}, and only {values[0]!r} can be built here"
            )
    return EncoderShape(**sizes, dropout=dropout)


def weights_in(folder: Path) -> dict[str, Tensor]:
    """Return a folder's weights by the names of `Bert`; ValueError where they cannot be read."""
    file = folder / WEIGHTS
    try:
        return renamed(safetensors.torch.load_file(file))
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or "not a readable safetensors file"
        raise ValueError(f"{file}: {reason.lower()}") from error


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
