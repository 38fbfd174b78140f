"""Files of weights as users have them: read without running their code, fitted to a network.

Besides tensors such a file holds whatever a training saved: settings, paths, numpy numbers. Of a
class that is not of torch's tensors nothing is loaded: an inert stand-in takes its place.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ktbench.records import KtbenchError
from ktbench.system.files import MOST_WEIGHTS, check_regular

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
"""Keys that a training's file keeps a state dict under, the first that fits before the others."""
PUT_BETWEEN = ("_orig_mod", "module")
"""Names that `torch.compile` and data parallelism put among those of a network's modules."""
_DEEPEST, _NAMED = 3, 3
_HOW = "save one with torch.save(model.state_dict(), path)"


def require_regular(path: Path) -> None:
    """Raise KtbenchError where reading might never end: a pipe, a device, a folder."""
    try:
        check_regular(path, MOST_WEIGHTS)
    except FileNotFoundError as error:
        raise KtbenchError(f"{path}: no such checkpoint") from error
    except IsADirectoryError as error:
        raise KtbenchError(f"{path}: is a folder, not a regular file: name a file") from error
    except OSError as error:
        raise KtbenchError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error


# ---------------------------------------------------------------- reading


def read(path: Path) -> Any:
    """All that a file of weights holds, tensors on the CPU; KtbenchError in one line.

    torch's files of any age, and safetensors by content.
    """
    require_regular(path)
    try:
        if _is_safetensors(path):
            return dict(safetensors.torch.load_file(path))
        return _read_torch(path)
    except KtbenchError:
        raise
    except Exception as error:  # a damaged file makes the readers fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise KtbenchError(f"{path}: not a readable checkpoint ({reason}): {_HOW}") from error


def _is_safetensors(path: Path) -> bool:
    """By its beginning: the length of a JSON text, and the text."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length <= path.stat().st_size - 8


def _read_torch(path: Path) -> Any:
    """What `torch.save` wrote, by torch's own safe reader where it can."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(Path(member.filename).name == "constants.pkl" for member in members):
            raise KtbenchError(
                f"{path}: holds a TorchScript program, which is not run: torch.jit.load it, then "
                "torch.save(program.state_dict(), path)"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise KtbenchError(f"{path}: not a readable checkpoint (its zip is packed): {_HOW}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of the file's age helps nobody
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Not weights alone. This reader looks every class up in `_KNOWN` and nowhere else, so
            # that no code of the file's choice is imported or called.
            inert = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="inert")
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)


class Inert:
    """Stands for an object that is not loaded; takes what a pickle does to it, and does nothing."""

    origin = ""
    """Dotted name of the class or function that the file names."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """An object of no content."""
        made = object.__new__(cls)
        made.state, made.items = {}, {}
        return made

    state: Any
    items: dict[Any, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Arguments are dropped."""

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """Another stand-in."""
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """A member of a list that is not loaded."""

    def add(self, value: Any) -> None:
        """A member of a set that is not loaded."""

    @property
    def is_network(self) -> bool:
        """Whether it is a module that was pickled whole."""
        return isinstance(self.state, dict) and {"_parameters", "_modules"} <= self.state.keys()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""All that a file can have called, beside the types of torch's storages."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a file names, if it is known; a stand-in for anything else."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# ---------------------------------------------------------------- choosing


@dataclass(frozen=True)
class Candidate:
    """A mapping of names to tensors that a file holds, and the key that it is under."""

    where: str
    tensors: dict[str, Tensor]
    others: dict[str, str]
    """Kinds of what is not a tensor, by name."""


def candidates(loaded: Any, path: Path) -> list[Candidate]:
    """The state dicts in what a file holds, the likeliest first; KtbenchError where there is none.

    A file that holds a pickled network is refused, as only its code knows what it is.
    """
    found = list(_within(loaded, "", 0))
    if found:
        return found
    for inner in [loaded, *(_mapping(loaded) or {}).values()]:
        if isinstance(inner, Inert) and inner.is_network:
            raise KtbenchError(
                f"{path}: holds a whole pickled network ({inner.origin}), whose code is not run: "
                "load it where its class is, then torch.save(model.state_dict(), path)"
            )
    kind = loaded.origin or "object" if isinstance(loaded, Inert) else type(loaded).__name__
    keys = [str(key) for key in _mapping(loaded) or {}]
    holds = f"a mapping of {_listed(keys)}" if keys else f"a {kind}"
    raise KtbenchError(f"{path}: not a readable checkpoint (holds {holds}, no weights): {_HOW}")


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


# ---------------------------------------------------------------- fitting


def fit(found: Sequence[Candidate], wanted: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a file by the names of a network; KtbenchError that says what differs.

    A prefix is taken off only where what is left are the network's names, all of them and no
    others. What lies outside the prefix (a loss, a teacher) is not looked at.
    """
    for candidate in found:
        names = _fitting(candidate, list(wanted), path)
        if names is not None:
            return {name: candidate.tensors[source] for name, source in names.items()}
    raise KtbenchError(f"{path}: not weights of this network: {_difference(found, list(wanted))}")


def _fitting(candidate: Candidate, wanted: list[str], path: Path) -> dict[str, str] | None:
    """The file's name for each of the network's; None where they are not the same."""
    for names in _cleaned(candidate.tensors):
        for head in _heads(wanted):
            bare = {name: name.removeprefix(head) for name in wanted}
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
    """The file's names as they are, then without what was put between them; to the real ones."""
    for dropped in ((), *((name,) for name in PUT_BETWEEN), PUT_BETWEEN):
        names = {
            ".".join(part for part in name.split(".") if part not in dropped): name
            for name in tensors
        }
        if len(names) == len(tensors):
            yield names


def _heads(wanted: list[str]) -> list[str]:
    """Nothing, and the wrapper's own name where a network is a wrapper around another."""
    first = {name.partition(".")[0] for name in wanted if "." in name}
    single = len(first) == 1 and all("." in name for name in wanted)
    return ["", f"{first.pop()}."] if single else [""]


def _prefixes(names: Mapping[str, str], bare: Mapping[str, str]) -> list[str]:
    """What may stand before every name."""
    longest = max(bare.values(), key=len, default="")
    ends = (name.removesuffix(longest) for name in names if name.endswith(longest))
    return [prefix for prefix in ends if not prefix or prefix.endswith(".")]


def _is_exact(prefix: str, names: Mapping[str, str], bare: Mapping[str, str]) -> bool:
    below = sum(name.startswith(prefix) for name in names)
    return below == len(bare) and all(prefix + short in names for short in bare.values())


def _difference(found: Sequence[Candidate], wanted: list[str]) -> str:
    """What the likest reading of a file lacks of the network, and has beside it."""
    best: tuple[int, set[str], set[str], Candidate] | None = None
    for candidate in found:
        for names in _cleaned(candidate.tensors):
            firsts = {f"{name.partition('.')[0]}." for name in names if "." in name}
            for head in _heads(wanted):
                bare = {name.removeprefix(head) for name in wanted}
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
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, *, finite: bool
) -> None:
    """Raise KtbenchError for tensors of another shape or kind than the network's `own`.

    `finite`: and for values that are not, but where a fresh network has the same, as in a mask.
    """
    shapes = [
        f"{name} is {tuple(state[name].shape)}, this network's is {tuple(value.shape)}"
        for name, value in own.items()
        if value.shape != state[name].shape
    ]
    if shapes:
        more = f"; {len(shapes) - 1} more differ" if len(shapes) > 1 else ""
        raise KtbenchError(f"{path}: {shapes[0]}{more}")
    for name, value in own.items():
        given = state[name]
        if given.is_meta or given.layout != torch.strided or given.is_quantized:
            raise KtbenchError(f"{path}: {name} has no plain values: save it as a dense tensor")
        if given.is_complex() != value.is_complex() or (
            value.is_floating_point() and not given.is_floating_point()
        ):
            raise KtbenchError(f"{path}: {name} is {given.dtype}, this network's is {value.dtype}")
        if finite and given.is_floating_point():
            strange = ~given.float().isfinite()
            strange &= given.float().nan_to_num(9e9) != value.detach().cpu().float().nan_to_num(8e9)
            if count := int(strange.sum()):
                kind = "NaN" if bool(given.float().isnan().any()) else "infinite"
                raise KtbenchError(
                    f"{path}: {name} has {count} values that are not finite ({kind}): "
                    "take a checkpoint from before the training diverged"
                )


def _first(names: set[str]) -> str:
    return f" (first: {_listed(sorted(names))})" if names else ""


def _listed(names: Sequence[str]) -> str:
    """A few names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
