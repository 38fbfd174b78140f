"""Weights on disk and in memory: load them safely, fit them to a network, name them by digest."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.networks.checkpoint_files import read_checkpoint, require_regular
from ktbench.networks.state_dicts import find_candidates, fit
from ktbench.records import Begun, Cell, KtbenchError
from ktbench.students._contract import Student
from ktbench.students._own import INNER
from ktbench.system.files import (
    MOST_WEIGHTS,
    UnsuitableFileError,
    check_regular,
    digest_of_file,
)


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


def read_state(content: bytes, path: Path) -> dict[str, Tensor]:
    """Read a state dict from the bytes of a file of this program's; KtbenchError for another."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return {str(name): tensor.detach() for name, tensor in state.items()}
    except Exception as error:  # a damaged file makes the reader fail in any way
        raise KtbenchError(f"{path}: is damaged: it holds no weights: restore it") from error


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a wrapped network by the bare module's names; others' as they are."""
    wrapped = all(name.startswith(INNER) for name in state)
    return {name.removeprefix(INNER) if wrapped else name: v for name, v in state.items()}


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


def require_planned(path: Path, digest: str) -> None:
    """Raise KtbenchError where a user's file is not the one that a cell's key names."""
    require_regular(path)
    if digest_of_file(path)[1] != digest:
        raise KtbenchError(f"{path}: has changed since the matrix was planned: run again")


def begin_from(student: Student, path: Path) -> Begun:
    """Take what fits of another training's weights into a freshly drawn network, but for its head.

    Raises KtbenchError where nothing fits.
    """
    given: dict[str, Tensor] = read_torch(path)
    begun = fitting(student, {name: tuple(value.shape) for name, value in given.items()})
    if not begun.taken:
        raise KtbenchError(f"{path}: none of its weights fits: it is another network")
    taken = {name: value for name, value in given.items() if name not in begun.new}
    state = student.state_dict()
    student.load_state_dict(state | {name: taken[name] for name in state if name in taken})
    return begun


def fitting(student: Student, shapes: Mapping[str, tuple[int, ...]]) -> Begun:
    """Say which of a network's tensors weights of these shapes, by name, can give.

    Those of equal name and shape can, the head's excepted.
    """
    state = student.state_dict()
    new = [
        name
        for name, value in state.items()
        if name.startswith(student.head_names) or shapes.get(name) != tuple(value.shape)
    ]
    return Begun(taken=len(state) - len(new), new=tuple(new))


def _suit(student: Student, state: Mapping[str, Tensor], path: Path) -> None:
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        student.suit(bare)
    except ValueError as error:
        raise KtbenchError(f"{path}: not weights of this network: {error}") from error


def load_student(cell: Cell, path: Path, *, base: Path, **sizes: int) -> Student:
    """Load the trained student of a cell, in eval mode; `sizes` are those that its data gives."""
    item = cell.student
    student = catalogue.build_student(item.name, item.settings, base=str(base), **sizes)
    load_weights(student, path)
    return student.eval()


def check_values(
    state: Mapping[str, Tensor], fresh: Mapping[str, Tensor], path: Path, *, finite: bool
) -> None:
    """Raise KtbenchError for tensors of another shape or kind than those of a `fresh` network.

    `finite` also refuses infinities and NaN, except where the fresh network has the same (masks).
    """
    shapes = [
        f"{name} is {tuple(state[name].shape)}, this network's is {tuple(value.shape)}"
        for name, value in fresh.items()
        if value.shape != state[name].shape
    ]
    if shapes:
        more = f"; {len(shapes) - 1} more differ" if len(shapes) > 1 else ""
        raise KtbenchError(f"{path}: {shapes[0]}{more}")
    for name, value in fresh.items():
        tensor = state[name]
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise KtbenchError(f"{path}: {name} has no plain values: save it as a dense tensor")
        if tensor.is_complex() != value.is_complex() or (
            value.is_floating_point() and not tensor.is_floating_point()
        ):
            raise KtbenchError(f"{path}: {name} is {tensor.dtype}, this network's is {value.dtype}")
        if finite and tensor.is_floating_point():
            strange = ~tensor.float().isfinite()
            strange &= tensor.float().nan_to_num(9e9) != value.detach().cpu().float().nan_to_num(
                8e9
            )
            if count := int(strange.sum()):
                kind = "NaN" if bool(tensor.float().isnan().any()) else "infinite"
                raise KtbenchError(
                    f"{path}: {name} has {count} values that are not finite ({kind}): "
                    "take a checkpoint from before the training diverged"
                )
