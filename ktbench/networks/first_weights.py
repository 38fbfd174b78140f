"""First weights of a network from a user's file: what fits is taken, what does not is listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ktbench.isolation import own_code
from ktbench.networks.checkpoint_files import read_checkpoint
from ktbench.networks.network_parts import learning_of
from ktbench.networks.outline import built, sample
from ktbench.networks.state_dicts import Reading, closest, find_candidates, in_order
from ktbench.networks.weights import check_values, require_planned
from ktbench.records import Begun, FileMatch, Item, KtbenchError, WeightsFile, printable
from ktbench.students._contract import Student
from ktbench.system.files import named_path
from ktbench.tasks._contract import Signature


def begin_from_file(student: Student, base: Path, given: WeightsFile) -> Begun:
    """Take what fits of a file into a freshly drawn network, which keeps the rest as drawn.

    Raises KtbenchError where nothing fits but the head, and where the file is another than planned.
    """
    path = named_path(given.file, base)
    require_planned(path, given.digest)
    state = student.state_dict()
    reading = _reading(student, state, given, path)
    common = reading.common
    alike = {name: value for name, value in common.items() if value.shape == state[name].shape}
    head, reason = _head(student, state, common, given, path)
    taken = {name: value for name, value in alike.items() if name not in head}
    _require_more_than_head(student, taken, path)
    check_values(taken, {name: state[name] for name in taken}, path, finite=True)
    student.load_state_dict(state | taken)
    reshaped = {
        name: f"{tuple(value.shape)} in the file, {tuple(state[name].shape)} here"
        for name, value in common.items()
        if name not in alike and name not in head
    }
    match = FileMatch(
        tensors=len(reading.candidate.tensors),
        head=reason,
        missing=tuple(name for name in reading.missing if name not in head),
        unexpected=tuple(printable(name)[:1000] for name in reading.unexpected),
        reshaped=reshaped,
    )
    new = tuple(name for name in state if name not in taken)
    return Begun(taken=len(taken), new=new, file=match)


def _reading(
    student: Student, state: Mapping[str, Tensor], given: WeightsFile, path: Path
) -> Reading:
    """Return how the file's tensors are read as the network's: by their names, or in order."""
    candidates = find_candidates(read_checkpoint(path), path)
    ordered = in_order(candidates, state, tuple(student.head_names))
    if given.match == "order":
        if ordered is None:
            most = max(candidates, key=lambda one: len(one.tensors))
            raise KtbenchError(
                f"{path}: match: order: its {len(most.tensors)} tensors have not the shapes of the "
                f"network's {len(state)}, one after the other"
            )
        return ordered
    reading = closest(candidates, state, path)
    if not reading.common and ordered is not None:
        raise KtbenchError(
            f"{path}: none of its names is the network's, but its tensors have the same shapes in "
            "the same order: give match: order if they are the same network's"
        )
    return reading


def _head(
    student: Student,
    state: Mapping[str, Tensor],
    common: Mapping[str, Tensor],
    given: WeightsFile,
    path: Path,
) -> tuple[set[str], str]:
    """Return the names of the head where it is drawn anew, else none, and the reason."""
    head = {name for name in state if name.startswith(student.head_names)}
    if given.head == "new":
        return head, "new: as asked"
    missing = sorted(head - set(common))
    other = [n for n in sorted(head & set(common)) if common[n].shape != state[n].shape]
    if not (missing or other):
        return set(), "kept: as asked" if given.head else "kept: its shape is the same"
    reason = f"the file has no {missing[0]}" if missing else ""
    if other:
        theirs, ours = (tuple(each[other[0]].shape) for each in (common, state))
        reason = f"{other[0]} is {theirs} in the file, {ours} here"
    if given.head == "keep":
        raise KtbenchError(f"{path}: head: keep: {reason}: leave head out for a new one")
    return head, f"new: {reason}"


def _require_more_than_head(student: Student, taken: Mapping[str, Tensor], path: Path) -> None:
    body = [
        name
        for name, _ in student.named_parameters()
        if name in taken and not name.startswith(student.head_names)
    ]
    if not body:
        what = "nothing but its head fits" if taken else "none of its weights fits"
        raise KtbenchError(f"{path}: {what}: these are weights of another network")


def look_at_file(item: Item, signature: Signature, base: str, given: WeightsFile) -> Begun:
    """Say what a network takes of a file, without keeping it.

    Raises KtbenchError where it could not begin from the file, or has no such parts.
    """
    student = built(item, signature.dimensions, base)
    begun = begin_from_file(student, Path(base), given)
    with torch.random.fork_rng(devices=[]), own_code():
        learning_of(student, sample(item, signature), given)
    return begun
