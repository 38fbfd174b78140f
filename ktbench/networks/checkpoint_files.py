"""Read users' files of weights without running their code.

Besides tensors such a file holds whatever a training saved: settings, paths, numpy numbers. Objects
of other classes than torch's tensors are not loaded: inert stand-ins take their place.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch

from ktbench.records import KtbenchError
from ktbench.system.files import MOST_WEIGHTS, check_regular

ADVICE = "save one with torch.save(model.state_dict(), path)"
"""Advice for users whose file cannot be used."""


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


def read_checkpoint(path: Path) -> Any:
    """Read everything in a file of weights, tensors on the CPU; KtbenchError in one line.

    Takes torch's files of any age, and safetensors, recognised by content.
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
        raise KtbenchError(f"{path}: not a readable checkpoint ({reason}): {ADVICE}") from error


def _is_safetensors(path: Path) -> bool:
    """Recognise safetensors by its beginning: the length of a JSON text, and the text."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length <= path.stat().st_size - 8


def _read_torch(path: Path) -> Any:
    """Read a file of `torch.save`, by torch's own safe reader where it can."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(Path(member.filename).name == "constants.pkl" for member in members):
            raise KtbenchError(
                f"{path}: holds a TorchScript program, which is not run: torch.jit.load it, then "
                "torch.save(program.state_dict(), path)"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise KtbenchError(f"{path}: not a readable checkpoint (its zip is packed): {ADVICE}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on the file's age help nobody
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Not weights alone. This reader looks every class up in `_ALLOWED` and nowhere else, so
            # that no code of the file's choice is imported or called.
            inert = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="inert")
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)


class Inert:
    """Stand-in for an object that is not loaded: a pickle may do anything to it, without effect."""

    origin = ""
    """Dotted name of the class or function that the file names."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Create an empty object."""
        stand_in = object.__new__(cls)
        stand_in.state, stand_in.items = {}, {}
        return stand_in

    state: Any
    items: dict[Any, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Drop the arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """Return another stand-in."""
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Drop a member of a list that is not loaded."""

    def add(self, value: Any) -> None:
        """Drop a member of a set that is not loaded."""

    @property
    def is_network(self) -> bool:
        """True for a module that was pickled whole."""
        return isinstance(self.state, dict) and {"_parameters", "_modules"} <= self.state.keys()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""All that a file can call, beside the types of torch's storages."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what a file names if it is allowed; a stand-in for anything else."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()
