"""What pydantic found wrong, said in the words of a matrix file."""

from __future__ import annotations

import json
import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ktbench.catalogue import nearest
from ktbench.matrix.document import KeyPath, Problem
from ktbench.records import TrainSpec

_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
_WANTED = {
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


def problems_of(error: ValidationError, model: type[BaseModel] | None = None) -> list[Problem]:
    """One problem per finding; `model` is what was validated, to know the keys that exist."""
    findings = error.errors(include_url=False)
    inside = {found["loc"][:-1] for found in findings}
    return [
        _problem(found, model)
        for found in findings
        # A list whose members are all wrong counts as empty, too: that is no second problem.
        if found["type"] != "too_short" or found["loc"] not in inside
    ]


def _problem(found: Any, model: type[BaseModel] | None) -> Problem:
    path: KeyPath = tuple(found["loc"])
    if found["type"] == "extra_forbidden" and model is not None:
        return Problem(path, unknown_key(str(path[-1]), _keys(model, path[:-1])))
    if found["type"] == "missing":
        return Problem(path[:-1], f"{path[-1]} is missing")
    return Problem(path, phrase(found))


def unknown_key(key: str, known: list[str]) -> str:
    """Says the nearest keys, or that the key belongs under `train`."""
    close = nearest(key, known)
    if not close and "train" in known and key in TrainSpec.model_fields:
        return f"unknown key: did you mean train: {{{key}: ...}}?"
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
    return f"unknown key: {hint}"


def phrase(found: Any) -> str:
    """What one finding says about a value."""
    kind, given = found["type"], shown(found["input"])
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {_plain(found['ctx'][bound])}, not {given}"
    if kind == "literal_error":
        options = found["ctx"]["expected"].replace("'", "")
        close = nearest(str(found["input"]), options.replace(" or ", ", ").split(", "))
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        return f"must be {options}, not {given}{hint}"
    if kind == "value_error":
        return str(found["ctx"]["error"])
    if kind == "too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"must have at most {found['ctx']['max_length']} members"
    if kind == "string_too_long":
        return f"must be at most {found['ctx']['max_length']} characters long"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return f"must match {found['ctx']['pattern']}, not {given}"
    if kind == "sequence_str":
        return f"must be a list, not {given}"
    for stem, wanted in _WANTED.items():
        if kind == stem or kind.startswith(f"{stem}_"):
            return f"must be {wanted}, not {given}"
    return f"{found['msg'][:1].lower()}{found['msg'][1:]}, not {given}"


def _plain(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) or bound < 10**6 else f"{bound:,}"


def shown(value: Any) -> str:
    """A value as the file would write it, shortened."""
    if value is None:
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text if len(text) <= 40 else f"{text[:37]}..."
    return repr(text) if isinstance(value, str) else text


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that exist where a path leads."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            found = _model_in(model.model_fields[part].annotation)
            if found is not None:
                model = found
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model inside an annotation: optional, or in a tuple."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (tuple, Union, types.UnionType):
        models = (_model_in(inner) for inner in get_args(annotation))
        return next((found for found in models if found is not None), None)
    return None
