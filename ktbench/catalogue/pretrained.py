"""Reads a folder of pretrained weights in the layout of Hugging Face's `transformers`."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch

from ktbench.records import KtbenchError
from ktbench.students._contract import Pretrained
from ktbench.system.files import MOST_TEXT, MOST_WEIGHTS, check_regular, read_regular

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_pretrained(folder: Path) -> Pretrained:
    """Return sizes and weights of a folder; KtbenchError, in one line, where it cannot be read."""
    try:
        file = folder / CONFIG
        config = json.loads(read_regular(file, MOST_TEXT))
        if not isinstance(config, dict):
            raise ValueError
        file = folder / WEIGHTS
        check_regular(file, MOST_WEIGHTS)
        return Pretrained(str(folder), config, safetensors.torch.load_file(file))
    except OSError as error:
        raise KtbenchError(f"{file}: {(error.strerror or 'not readable').lower()}") from error
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        kind = "settings of a network as JSON" if file.name == CONFIG else "a safetensors file"
        raise KtbenchError(f"{file}: not readable as {kind}") from error
