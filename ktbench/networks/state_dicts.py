"""State dicts in users' files of weights: found, and read by the names of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ktbench.networks.checkpoint_files import ADVICE, Inert
from ktbench.records import KtbenchError

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
    return list(dict.fromkeys(["", wrapper_of(network)]))


def wrapper_of(network: Sequence[str]) -> str:
    """Return what all names of a network begin with: `network.` of a wrapped one, or nothing."""
    first = {name.partition(".")[0] for name in network if "." in name}
    single = len(first) == 1 and all("." in name for name in network)
    return f"{first.pop()}." if single else ""


def _prefixes(names: Mapping[str, str], bare: Mapping[str, str]) -> list[str]:
    """Return possible prefixes of the file's names."""
    longest = max(bare.values(), key=len, default="")
    ends = (name.removesuffix(longest) for name in names if name.endswith(longest))
    return [prefix for prefix in ends if not prefix or prefix.endswith(".")]


def _is_exact(prefix: str, names: Mapping[str, str], bare: Mapping[str, str]) -> bool:
    below = sum(name.startswith(prefix) for name in names)
    return below == len(bare) and all(prefix + short in names for short in bare.values())


@dataclass(frozen=True)
class Reading:
    """One way to read a file's names as a network's: `head` and `prefix` are left out of both."""

    candidate: Candidate
    head: str
    prefix: str
    names: Mapping[str, str]
    """The file's own names, by the shorter forms that begin with `prefix`."""
    network: Sequence[str]

    @property
    def common(self) -> dict[str, Tensor]:
        """Tensors of the file by the network's names, where it has them."""
        sources = {name: self.prefix + name.removeprefix(self.head) for name in self.network}
        tensors = self.candidate.tensors
        return {n: tensors[self.names[s]] for n, s in sources.items() if s in self.names}

    @property
    def missing(self) -> list[str]:
        """Names of the network that the file lacks."""
        return [
            n for n in self.network if self.prefix + n.removeprefix(self.head) not in self.names
        ]

    @property
    def unexpected(self) -> list[str]:
        """The file's own names that the network lacks, inside and outside the prefix."""
        sources = {self.prefix + name.removeprefix(self.head) for name in self.network}
        return [own for short, own in self.names.items() if short not in sources]


def in_order(
    candidates: Sequence[Candidate], network: Mapping[str, Tensor], head: tuple[str, ...]
) -> Reading | None:
    """Return the reading of a file whose tensors are a network's in their order, or None.

    Number and shapes must be equal; shapes of names that begin with `head` may differ. Counts of
    batches are passed over, as older files lack them.
    """
    ours = [name for name, tensor in network.items() if not _is_count(tensor)]
    for candidate in candidates:
        tensors = candidate.tensors
        theirs = [name for name, tensor in tensors.items() if not _is_count(tensor)]
        if len(ours) == len(theirs) and all(
            tensors[other].shape == network[own].shape or own.startswith(head)
            for own, other in zip(ours, theirs, strict=True)
        ):
            return Reading(candidate, "", "", dict(zip(ours, theirs, strict=True)), ours)
    return None


def _is_count(tensor: Tensor) -> bool:
    return tensor.ndim == 0 and not tensor.is_floating_point()


def closest(candidates: Sequence[Candidate], network: Mapping[str, Tensor], path: Path) -> Reading:
    """Return the reading of a file that has most of a network's tensors, shapes being equal.

    Raises KtbenchError where two parts of the file have equally many.
    """
    best: tuple[tuple[int, int], Reading] | None = None
    rivals: list[str] = []
    for reading in _readings(candidates, list(network)):
        common = reading.common
        fits = sum(tensor.shape == network[name].shape for name, tensor in common.items())
        worth = (fits, len(common))
        if best is None or worth > best[0]:
            best, rivals = (worth, reading), []
        elif worth == best[0] and fits and _rival(reading, best[1]):
            rivals.append(reading.prefix)
    assert best is not None
    if rivals and best[1].prefix:
        places = _listed(sorted({best[1].prefix, *rivals}))
        raise KtbenchError(
            f"{path}: holds weights of this network under {places}: save those that are meant alone"
        )
    return best[1]


def _rival(reading: Reading, best: Reading) -> bool:
    alike = reading.names is best.names and reading.head == best.head
    return alike and reading.prefix != best.prefix


def _readings(candidates: Sequence[Candidate], network: list[str]) -> Iterator[Reading]:
    for candidate in candidates:
        for names in _cleaned(candidate.tensors):
            for head in _heads(network):
                bare = {name.removeprefix(head) for name in network}
                yield from (
                    Reading(candidate, head, prefix, names, network)
                    for prefix in _partial_prefixes(names, bare)
                )


def _partial_prefixes(names: Mapping[str, str], bare: set[str]) -> list[str]:
    """Return the beginnings after which any of the file's names is one of the network's."""
    prefixes = {"": None}
    for name in names:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in bare:
                prefixes[".".join(parts[:cut]) + "."] = None
    return list(prefixes)


def _difference(candidates: Sequence[Candidate], network: list[str]) -> str:
    """Say what the closest reading of a file lacks of the network, and what it has beside it."""
    readings = _readings(candidates, network)
    reading = max(readings, key=lambda one: len(one.common))  # the first of equals
    missing = {name.removeprefix(reading.head) for name in reading.missing}
    inside = {n.removeprefix(reading.prefix) for n in reading.names if n.startswith(reading.prefix)}
    unknown = inside - {name.removeprefix(reading.head) for name in network}
    for name in sorted(missing):
        if name in reading.candidate.others:
            kind = reading.candidate.others[name]
            return f"{name} is a {kind}, not a tensor: convert it with torch.as_tensor"
    return f"{len(missing)} missing{_first(missing)}, {len(unknown)} unknown{_first(unknown)}"


def _first(names: set[str]) -> str:
    return f" (first: {_listed(sorted(names))})" if names else ""


def _listed(names: Sequence[str]) -> str:
    """List the first few names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
