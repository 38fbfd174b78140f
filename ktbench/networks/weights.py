"""Weights on disk and in memory: load them safely, fit them to a network, name them by digest."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.networks.checkpoint_files import ADVICE, Inert, read_checkpoint
from ktbench.records import Begun, Cell, KtbenchError
from ktbench.students._contract import Student
from ktbench.students._own import INNER
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


# ---------------------------------------------------------------- state dicts of users' checkpoints

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "student",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Keys under which trainings save a state dict; the first that fits is taken."""
PUT_BETWEEN = ("_orig_mod", "module")
"""Names that `torch.compile` and data parallelism insert among those of a network's modules."""
_DEEPEST, _NAMED = 3, 3


@dataclass(frozen=True)
class Candidate:
    """A mapping of names to tensors in a file, and the key that holds it."""

    where: str
    tensors: dict[str, Tensor]
    others: dict[str, str]
    """Types of the values that are not tensors, by name."""


def find_candidates(loaded: Any, path: Path) -> list[Candidate]:
    """Return the state dicts in a file's contents, the likeliest first; KtbenchError without any.

    A file that holds a pickled network is refused, as only its code can interpret it.
    """
    candidates = list(_within(loaded, "", 0))
    if candidates:
        return candidates
    for inner in [loaded, *(_mapping(loaded) or {}).values()]:
        if isinstance(inner, Inert) and inner.is_network:
            raise KtbenchError(
                f"{path}: holds a whole pickled network ({inner.origin}), whose code is not run: "
                "load it where its class is, then torch.save(model.state_dict(), path)"
            )
    kind = loaded.origin or "object" if isinstance(loaded, Inert) else type(loaded).__name__
    keys = [str(key) for key in _mapping(loaded) or {}]
    holds = f"a mapping of {_listed(keys)}" if keys else f"a {kind}"
    raise KtbenchError(f"{path}: not a readable checkpoint (holds {holds}, no weights): {ADVICE}")


def _within(value: Any, where: str, depth: int) -> Iterator[Candidate]:
    mapping = _mapping(value)
    if mapping is None or depth > _DEEPEST:
        return
    tensors = {str(k): v for k, v in mapping.items() if isinstance(v, Tensor)}
    if tensors:
        others = {str(k): _kind(v) for k, v in mapping.items() if not isinstance(v, Tensor)}
        yield Candidate(where, tensors, others)
    for key in WRAPPERS:
        if key in mapping:
            yield from _within(mapping[key], f"{where}{key}.", depth + 1)


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Inert):
        return value.items or None
    return value if isinstance(value, Mapping) else None


def _kind(value: Any) -> str:
    return value.origin if isinstance(value, Inert) else type(value).__name__


def fit(
    candidates: Sequence[Candidate], network: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of a network; KtbenchError that says what differs.

    A prefix is removed only where the names below it are exactly the network's. Names outside the
    prefix (a loss, a teacher) are ignored.
    """
    for candidate in candidates:
        names = _fitting(candidate, list(network), path)
        if names is not None:
            return {name: candidate.tensors[source] for name, source in names.items()}
    raise KtbenchError(
        f"{path}: not weights of this network: {_difference(candidates, list(network))}"
    )


def _fitting(candidate: Candidate, network: list[str], path: Path) -> dict[str, str] | None:
    """Return the file's name for each of the network's, or None where they do not match."""
    for names in _cleaned(candidate.tensors):
        for head in _heads(network):
            bare = {name: name.removeprefix(head) for name in network}
            prefixes = [p for p in _prefixes(names, bare) if _is_exact(p, names, bare)]
            if len(prefixes) > 1 and "" not in prefixes:
                raise KtbenchError(
                    f"{path}: holds weights of this network under {_listed(sorted(prefixes))}: "
                    "save those that are meant alone"
                )
            if prefixes:
                prefix = "" if "" in prefixes else prefixes[0]
                return {name: names[prefix + short] for name, short in bare.items()}
    return None


def _cleaned(tensors: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield mappings to the file's names, from themselves and from shorter forms of them."""
    for dropped in ((), *((name,) for name in PUT_BETWEEN), PUT_BETWEEN):
        names = {
            ".".join(part for part in name.split(".") if part not in dropped): name
            for name in tensors
        }
        if len(names) == len(tensors):
            yield names


def _heads(network: list[str]) -> list[str]:
    """Return possible prefixes of the network's own names: none, and that of a wrapper."""
    first = {name.partition(".")[0] for name in network if "." in name}
    single = len(first) == 1 and all("." in name for name in network)
    return ["", f"{first.pop()}."] if single else [""]


def _prefixes(names: Mapping[str, str], bare: Mapping[str, str]) -> list[str]:
    """Return possible prefixes of the file's names."""
    longest = max(bare.values(), key=len, default="")
    ends = (name.removesuffix(longest) for name in names if name.endswith(longest))
    return [prefix for prefix in ends if not prefix or prefix.endswith(".")]


def _is_exact(prefix: str, names: Mapping[str, str], bare: Mapping[str, str]) -> bool:
    below = sum(name.startswith(prefix) for name in names)
    return below == len(bare) and all(prefix + short in names for short in bare.values())


def _difference(candidates: Sequence[Candidate], network: list[str]) -> str:
    """Say what the closest reading of a file lacks of the network, and what it has beside it."""
    best: tuple[int, set[str], set[str], Candidate] | None = None
    for candidate in candidates:
        for names in _cleaned(candidate.tensors):
            firsts = {f"{name.partition('.')[0]}." for name in names if "." in name}
            for head in _heads(network):
                bare = {name.removeprefix(head) for name in network}
                for prefix in ("", *sorted(firsts)):
                    below = {n.removeprefix(prefix) for n in names if n.startswith(prefix)}
                    common = len(below & bare)
                    if best is None or common > best[0]:
                        best = (common, bare - below, below - bare, candidate)
    assert best is not None
    _, missing, unknown, candidate = best
    for name in sorted(missing):
        if name in candidate.others:
            kind = candidate.others[name]
            return f"{name} is a {kind}, not a tensor: convert it with torch.as_tensor"
    return f"{len(missing)} missing{_first(missing)}, {len(unknown)} unknown{_first(unknown)}"


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


def _first(names: set[str]) -> str:
    return f" (first: {_listed(sorted(names))})" if names else ""


def _listed(names: Sequence[str]) -> str:
    """List the first few names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
