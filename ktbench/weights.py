"""Weights on disk and in memory: load them safely, name them by digest."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.files import MOST_WEIGHTS, UnsuitableFileError, check_regular
from ktbench.records import Cell, KtbenchError
from students._contract import Student


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """16 digits over names, types, shapes and bytes: equal exactly when every bit is."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, tensors and plain values only; KtbenchError when it is not that."""
    try:
        check_regular(path, MOST_WEIGHTS)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise KtbenchError(f"{path}: no such checkpoint") from error
    except UnsuitableFileError:
        raise
    except Exception as error:  # a damaged file makes the reader fail in any way
        # What torch says of a pickle of objects is a page of advice, partly to run its code.
        objects = isinstance(error, pickle.UnpicklingError)
        reason = "damaged, or not weights alone" if objects else " ".join(str(error).split())[:120]
        raise KtbenchError(
            f"{path}: not a readable checkpoint ({reason}): save one with "
            "torch.save(model.state_dict(), path)"
        ) from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Put a checkpoint's weights into a network of the same shape.

    Accepts a state dict, or a mapping that holds one under `state_dict`, `model` or `net`.
    """
    loaded = read_torch(path)
    for key in ("state_dict", "model", "net"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise KtbenchError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    state = {name.removeprefix("module."): value for name, value in loaded.items()}
    if isinstance(module, Student):
        _suit(module, state, path)
    wanted = module.state_dict()
    state = _prefixed(state, wanted)
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise KtbenchError(
            f"{path}: not weights of this network: "
            f"{len(missing)} missing{_first(missing)}, {len(extra)} unknown{_first(extra)}"
        )
    for name, value in wanted.items():
        if value.shape != state[name].shape:
            raise KtbenchError(
                f"{path}: {name} is {tuple(state[name].shape)}, "
                f"this network's is {tuple(value.shape)}"
            )
    module.load_state_dict(state)


def _suit(student: Student, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        student.suit(state)
    except ValueError as error:
        raise KtbenchError(f"{path}: not weights of this network: {error}") from error


def _prefixed(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A bare network's names as a wrapper around that network knows them."""
    heads = {name.partition(".")[0] for name in wanted}
    if len(heads) == 1 and not state.keys() & wanted.keys():
        [head] = heads
        return {f"{head}.{name}": value for name, value in state.items()}
    return state


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def load_student(
    cell: Cell, path: Path, *, num_classes: int, in_channels: int, base: Path
) -> Student:
    """The trained student of a cell, in eval mode."""
    student = catalogue.build_student(
        cell.student.name,
        cell.student.settings,
        num_classes=num_classes,
        in_channels=in_channels,
        base=str(base),
    )
    load_weights(student, path)
    return student.eval()
