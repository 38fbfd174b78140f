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
from ktbench.networks.checkpoint_files import read_checkpoint
from ktbench.networks.state_dicts import check_values, find_candidates, fit
from ktbench.records import Cell, KtbenchError
from ktbench.students._contract import Student
from ktbench.system.files import MOST_WEIGHTS, UnsuitableFileError, check_regular


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Digest names, types, shapes and bytes: equal exactly where every bit is."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def read_torch(path: Path) -> Any:
    """Read a `torch.save` file of tensors and plain values; KtbenchError for anything else."""
    try:
        check_regular(path, MOST_WEIGHTS)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise KtbenchError(f"{path}: no such checkpoint") from error
    except UnsuitableFileError:
        raise
    except Exception as error:  # a damaged file makes the reader fail in any way
        # torch answers a pickle of objects with a page of advice, partly to run its code.
        objects = isinstance(error, pickle.UnpicklingError)
        reason = "damaged, or not weights alone" if objects else " ".join(str(error).split())[:120]
        raise KtbenchError(
            f"{path}: not a readable checkpoint ({reason}): save one with "
            "torch.save(model.state_dict(), path)"
        ) from error


def load_weights(module: nn.Module, path: Path, *, finite: bool = False) -> None:
    """Load a checkpoint's weights into a network of the same shape.

    Accepts a state dict, or a training's file that holds one, with or without the prefixes that
    trainings add to names. `finite` refuses values that are not.
    """
    candidates = find_candidates(read_checkpoint(path), path)
    if isinstance(module, Student):
        _suit(module, candidates[0].tensors, path)
    fresh = module.state_dict()
    state = fit(candidates, fresh, path)
    check_values(state, fresh, path, finite=finite)
    module.load_state_dict(state)


def _suit(student: Student, state: Mapping[str, Tensor], path: Path) -> None:
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        student.suit(bare)
    except ValueError as error:
        raise KtbenchError(f"{path}: not weights of this network: {error}") from error


def load_student(
    cell: Cell, path: Path, *, num_classes: int, in_channels: int, base: Path
) -> Student:
    """Load the trained student of a cell, in eval mode."""
    student = catalogue.build_student(
        cell.student.name,
        cell.student.settings,
        num_classes=num_classes,
        in_channels=in_channels,
        base=str(base),
    )
    load_weights(student, path)
    return student.eval()
