"""In which settings the cells of a plan differ, and what such a difference is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import JsonValue

from ktbench.records import Cell, NumericSpec, Plan, Record, TeacherOutputs, Window

_NONE = {
    "views": "fresh",
    "outputs.sampled": "all",
    "train_size": "all",
    **dict.fromkeys(("mixup", "cutmix", "ema"), "none"),
}
"""Words for settings that are None, where there is a better one than `default`."""

Settings = tuple[str, str, str, str]
"""Canonical texts of a cell's data, training and numeric settings, the last without `outputs`, and
the name of what it begins from."""
FRESH = "fresh"
"""Word for weights that nothing has trained before."""


def settings_text(differences: Mapping[str, str]) -> str:
    """`epochs=9, views=4`; empty for none."""
    return ", ".join(f"{name}={value}" for name, value in differences.items())


def differences(plan: Plan) -> dict[str, dict[str, str]]:
    """Settings in which a cell differs from most, with their values, by key.

    How a teacher's outputs are reduced, and when its transfer counts, is compared among the cells
    that have a teacher, as it is of no account for the others. Where the windows of the transfer
    (`distill.`) are not all the same, each is named by what it differs in from the whole training.
    """
    cells = [*plan.cells, *(skip.cell for skip in plan.skips)]
    if not cells:
        return {}
    plain = cache(_without_outputs)
    settings = [(c.data.canonical, c.train.canonical, plain(c.numeric), start_of(c)) for c in cells]
    usual = cells[settings.index(Counter(settings).most_common(1)[0][0])]
    outputs = Counter(c.numeric.outputs for c in cells if c.teacher is not None)
    most = outputs.most_common(1)[0][0] if outputs else None
    windows = {c.distill for c in cells if c.teacher is not None}
    common = windows.pop() if len(windows) == 1 else None
    before = dict(_settings(usual)) | dict(_outputs(most)) | dict(_window(common))

    texts: dict[tuple[Settings, TeacherOutputs | None, Window | None], dict[str, str]] = {}
    by_key = {}
    for cell, own in zip(cells, settings, strict=True):
        reduced = cell.numeric.outputs if cell.teacher is not None else most
        window = cell.distill if cell.teacher is not None else common
        kind = (own, reduced, window)
        if kind not in texts:
            after = dict(_settings(cell)) | dict(_outputs(reduced)) | dict(_window(window))
            texts[kind] = {n: after[n] for n in after if after[n] != before.get(n)}
        by_key[cell.key] = texts[kind]
    return by_key


def start_of(cell: Cell) -> str:
    """Return the name of the training or file that a cell begins from, or `FRESH`."""
    if cell.from_file is not None:
        return cell.from_file.label
    return FRESH if cell.pretrained is None else cell.pretrained.name


def _without_outputs(numeric: NumericSpec) -> str:
    return numeric.model_copy(update={"outputs": None}).canonical


def _settings(cell: Cell) -> Iterator[tuple[str, str]]:
    """Every setting but the teacher's outputs, by name."""
    for part in (cell.data, cell.train, cell.numeric):
        yield from ((name, text) for name, text in _flat(part) if not name.startswith("outputs"))
    yield "start", start_of(cell)


def _outputs(outputs: TeacherOutputs | None) -> Iterator[tuple[str, str]]:
    return _flat(outputs or TeacherOutputs(), "outputs.")


def _window(window: Window | None) -> Iterator[tuple[str, str]]:
    return _flat(window or Window(), "distill.")


def _flat(part: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Record):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _value(prefix + name, value)


def _value(name: str, value: JsonValue) -> str:
    if value is None:
        return _NONE.get(name, "default")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(list(value) if isinstance(value, tuple) else value)
