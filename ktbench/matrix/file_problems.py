"""Problems of a matrix file, each with its line and key path, and pydantic's put into words."""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ktbench.catalogue import nearest
from ktbench.records import KtbenchError, TrainSpec

KeyPath = tuple[str | int, ...]
MOST_PROBLEMS = 20
_LONGEST_KEY = 60
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping {key: value}",
    "model": "a mapping {key: value}",
}


@dataclass(frozen=True)
class Problem:
    """An error at a key path, which has a key per mapping and a position per list."""

    path: KeyPath
    message: str

    def under(self, *prefix: str | int) -> Problem:
        """Return the same problem with a longer path."""
        return Problem((*prefix, *self.path), self.message)


@dataclass(frozen=True)
class Branch:
    """Line of a value, and the branches below it."""

    line: int
    below: dict[str | int, Branch] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Source of a matrix, to locate its problems."""

    file: str = "matrix"
    base: str = "."
    """Folder that the matrix's relative paths start from."""
    root: Branch | None = None
    text: str = ""
    """Text of the file, as it was read."""

    def error(self, problems: Sequence[Problem]) -> MatrixError:
        """Join problems into one error of bounded length, a line each in the order of the file."""
        located = [(*self.place(p.path), p.message) for p in problems]
        located.sort(key=lambda problem: problem[0])
        lines = []
        for line, where, message in located[:MOST_PROBLEMS]:
            at = f"{self.file}:{line}" if line else self.file
            lines.append(": ".join(part for part in (at, where, message) if part))
        if len(located) > MOST_PROBLEMS:
            lines.append(f"{self.file}: and {len(located) - MOST_PROBLEMS} more problems")
        return MatrixError("\n".join(dict.fromkeys(lines)))

    def place(self, path: KeyPath) -> tuple[int, str]:
        """Line and key path of the nearest value in the file.

        Short forms omit parts of a path, and so does this: the position in a list of one member
        without brackets, and `settings` below an item's name.
        """
        if self.root is None:
            return 0, _written(path)
        branch, in_file = self.root, []
        for part in path:
            if part == "settings" and part not in branch.below and len(branch.below) == 1:
                part = next(iter(branch.below))
            if part in branch.below:
                in_file.append(part)
                branch = branch.below[part]
        return branch.line, _written(in_file)


class MatrixError(KtbenchError):
    """All problems of a matrix: one line each, with file, line and key."""


def _written(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        key = part if len(part) <= _LONGEST_KEY else f"{part[: _LONGEST_KEY - 1]}…"
        text += f".{key}" if text else key
    return " ".join(text.split())


# ---------------------------------------------------------------- pydantic's findings


def problems_of(error: ValidationError, model: type[BaseModel] | None = None) -> list[Problem]:
    """Turn each finding into a problem; the validated `model` tells which keys exist."""
    findings = error.errors(include_url=False)
    parents = {finding["loc"][:-1] for finding in findings}
    return [
        _problem(finding, model)
        for finding in findings
        # A list whose members are all wrong counts as empty, too: that is no second problem.
        if finding["type"] != "too_short" or finding["loc"] not in parents
    ]


def _problem(finding: Any, model: type[BaseModel] | None) -> Problem:
    path: KeyPath = tuple(finding["loc"])
    if finding["type"] == "extra_forbidden" and model is not None:
        return Problem(path, unknown_key(str(path[-1]), _keys(model, path[:-1])))
    if finding["type"] == "missing":
        return Problem(path[:-1], f"{path[-1]} is missing")
    return Problem(path, phrase(finding))


def unknown_key(key: str, keys: list[str]) -> str:
    """Suggest the nearest keys, or that the key belongs under `train`."""
    if "train" in keys and key in TrainSpec.model_fields:
        return f"unknown key: did you mean train: {{{key}: ...}}?"
    close = nearest(key, keys)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(keys)}"
    return f"unknown key: {hint}"


def phrase(finding: Any) -> str:
    """Put one finding into words."""
    kind, value = finding["type"], shown(finding["input"])
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {_plain(finding['ctx'][bound])}, not {value}"
    if kind == "literal_error":
        options = finding["ctx"]["expected"].replace("'", "")
        close = nearest(str(finding["input"]), options.replace(" or ", ", ").split(", "))
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        return f"must be {options}, not {value}{hint}"
    if kind == "value_error":
        return str(finding["ctx"]["error"])
    if kind == "too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"must have at most {finding['ctx']['max_length']} members"
    if kind == "string_too_long":
        return f"must be at most {finding['ctx']['max_length']} characters long"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return f"must match {finding['ctx']['pattern']}, not {value}"
    if kind == "sequence_str":
        return f"must be a list, not {value}"
    for stem, expected in _EXPECTED.items():
        if kind == stem or kind.startswith(f"{stem}_"):
            return f"must be {expected}, not {value}"
    return f"{finding['msg'][:1].lower()}{finding['msg'][1:]}, not {value}"


def _plain(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) or bound < 10**6 else f"{bound:,}"


def shown(value: Any) -> str:
    """Write a value as the file would, shortened."""
    if value is None:
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text if len(text) <= 40 else f"{text[:37]}..."
    return repr(text) if isinstance(value, str) else text


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that exist where a path leads."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model inside an annotation: optional, or in a tuple."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (tuple, Union, types.UnionType, Annotated):
        models = (_model_in(inner) for inner in get_args(annotation))
        return next((model for model in models if model is not None), None)
    return None
