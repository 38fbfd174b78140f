"""What the smaller commands print."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ktbench import catalogue
from ktbench.records import DeviceSpec, Ensemble, Plan, printable

if TYPE_CHECKING:
    from ktbench.runner import Planned

KINDS = ("students", "replacements", "methods", "devices", "datasets")
DATASETS = {
    "digits": "1,797 handwritten digits of 8×8 pixels; ships with scikit-learn",
    "hub": "any image classification set of the Hugging Face hub, by name",
    "parquet": "local tables, such as train*.parquet and test*.parquet in hub layout; or CSV",
    "folder": "a folder of images, one sub-folder per class, in folders per split where it has any",
}


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = False,
    whole: Collection[str] = (),
) -> None:
    """Print a table. `numbers`: every column but the first holds figures, and stands right.

    `whole`: columns that are not broken on a narrow terminal, as the first never is.
    """
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if numbers and i else "left"
        unbroken = not i or column in whole
        table.add_column(
            printable(column), header_style="bold", overflow="fold", justify=side, no_wrap=unbroken
        )
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(emoji=False, markup=False)  # a name's `:key:` or `[x]` is text
    # Not the table's own title, which is broken to the table's width.
    console.print(Text(printable(title), style="bold"), soft_wrap=not console.is_terminal)
    console.print(table, highlight=False)


def print_line(text: str) -> None:
    """A line that a terminal breaks between words, and nothing else breaks."""
    console = Console()
    console.print(printable(text), highlight=False, markup=False, soft_wrap=not console.is_terminal)


# ---------------------------------------------------------------- plan


def plan_as_json(planned: Planned) -> str:
    """The plan with its estimate, for programs."""
    from ktbench.cli.data_summary import data_as_json

    plan, estimate = planned.plan, planned.estimate
    assert estimate is not None
    value = plan.model_dump(mode="json")
    for cell, shown in zip(plan.cells, value["cells"], strict=True):
        shown["key"] = cell.key
    value["data"] = [data_as_json(info) for info in planned.data]
    value["estimate"] = estimate.model_dump(mode="json")
    return json.dumps(value, indent=1)


def plan_as_text(planned: Planned) -> None:
    """Cells by student and method, skips by reason, the data's classes, and what it will cost."""
    from ktbench.cli.data_summary import data_notes, data_rows, data_title

    plan, estimate = planned.plan, planned.estimate
    assert estimate is not None
    counts = Counter((c.student.label, c.method.label) for c in plan.cells)
    students = list(dict.fromkeys(c.student.label for c in plan.cells))
    methods = list(dict.fromkeys(c.method.label for c in plan.cells))
    rows = [[m, *(str(counts[s, m] or "–") for s in students)] for m in methods]
    print_table(f"{plan.name}: {len(plan.cells)} cells", ["method", *students], rows, numbers=True)
    reasons = Counter((s.cell.student.label, s.cell.method.label, s.reason) for s in plan.skips)
    if reasons:
        print()
        print_table(
            f"{len(plan.skips)} skipped",
            ["student", "method", "cells", "why"],
            [[s, m, str(n), why] for (s, m, why), n in reasons.items()],
        )
    for info in planned.data:
        print()
        columns = ["class", "train", "validation", "test"]
        print_table(data_title(info), columns, data_rows(info), numbers=True)
    for note in data_notes(planned.data):
        print_line(f"note: {note}")
    print()
    exports = ", ".join(e.label for e in plan.exports) or "none"
    devices = ", ".join(d.name for d in plan.devices) or "none"
    print_line(f"teachers: {', '.join(t.name for t in plan.teachers) or 'none'}")
    for line in _protocols(plan):
        print_line(line)
    print_line(f"exports:  {exports}")
    print_line(f"devices:  {devices}")
    print_line(estimate.text)


def _protocols(plan: Plan) -> list[str]:
    """What the axes of budgets, windows and ensembles hold, where a plan has them."""
    several = {c.teacher.name: c.teacher for c in plan.cells if isinstance(c.teacher, Ensemble)}
    lines = [
        f"drawn:    {name}: {e.sample} of {', '.join(t.name for t in e.of)} per step"
        for name, e in several.items()
    ]
    budgets = dict.fromkeys(cell.train.epochs for cell in plan.cells)
    if len(budgets) > 1:
        lines.append(f"budgets:  {', '.join(map(str, budgets))} epochs")
    windows = dict.fromkeys(cell.distill for cell in plan.cells if cell.teacher is not None)
    if set(windows) - {None}:
        told = [f"{w.start:g} to {w.end:g} ({w.scale})" if w else "throughout" for w in windows]
        lines.append(f"transfer: {', '.join(told)}")
    return lines


# ---------------------------------------------------------------- list


def list_kind(kind: str, *, as_json: bool) -> None:
    """The catalogue of one kind."""
    if kind not in KINDS:
        raise catalogue.UnknownName("kind", kind, KINDS)
    listings: dict[str, Callable[[], list[dict[str, str]]]] = {
        "students": _students,
        "replacements": _replacements,
        "methods": _methods,
        "devices": _devices,
        "datasets": lambda: [{"name": k, "about": v} for k, v in DATASETS.items()],
    }
    rows = listings[kind]()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = list(rows[0])
    print_table(kind, columns, [[str(row[c]) for c in columns] for row in rows])


def _students() -> list[dict[str, str]]:
    families: dict[str, list[str]] = {}
    for variant, family in catalogue.students().items():
        families.setdefault(family, []).append(variant)
    return [
        {
            "family": family,
            "students": ", ".join(variants),
            "settings": ", ".join(catalogue.student_settings(variants[0])),
        }
        for family, variants in families.items()
    ]


def _replacements() -> list[dict[str, str]]:
    rows = []
    for name, settings in catalogue.replacements().items():
        about = (sys.modules[f"ktbench.students.replacements.{name}"].__doc__ or "").partition(
            "\n"
        )[0]
        shown = ", ".join(f"{setting}={info.default:g}" for setting, info in settings.items())
        rows.append({"replacement": name, "about": about.rstrip("."), "settings": shown})
    return rows


def _methods() -> list[dict[str, str]]:
    rows = []
    for name in catalogue.methods():
        kind = catalogue.method(name)
        settings = []
        for field in fields(kind.Config):
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            settings.append(f"{field.name}={shown}" if default is not MISSING else field.name)
        about = (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0].rstrip(".")
        rows.append({"method": name, "about": about, "settings": ", ".join(settings)})
    return rows


def _devices() -> list[dict[str, str]]:
    rows = []
    for name in catalogue.devices():
        profile = catalogue.device(name)
        machines = ", ".join(profile.architectures) or "any"
        rows.append(
            {"device": name, "about": profile.title, "over": profile.transport, "machine": machines}
        )
    return rows


# ---------------------------------------------------------------- devices


def check_devices(devices: Sequence[DeviceSpec], *, as_json: bool) -> int:
    """The state of each device; exit code 0 when all can be measured."""
    from dataclasses import asdict

    from ktbench.measure import check

    found = [check(device) for device in devices]
    if as_json:
        print(json.dumps([asdict(answer) for answer in found], indent=1))
        return 0 if all(answer.ok for answer in found) else 1
    for answer in found:
        state = "can be measured" if answer.ok else "cannot be measured"
        print_line(f"{answer.device} ({answer.title}): {state}")
        for label, lines in (
            ("problem", answer.problems),
            ("warning", answer.warnings),
            ("runtime", answer.runtimes),
            ("advice", answer.advice),
        ):
            for line in lines:
                print_line(f"  {label}: {line}")
        for facts in (answer.facts, answer.state):
            for key, value in (facts or {}).items():
                shown = value if isinstance(value, str) else json.dumps(value)
                print_line(f"  {key}: {shown}")
    return 0 if all(answer.ok for answer in found) else 1
