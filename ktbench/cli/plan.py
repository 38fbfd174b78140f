"""`ktbench plan`: what a matrix would do, as text for people or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktbench.cli.options import AsJson, MatrixFile

if TYPE_CHECKING:
    from ktbench.data import DataInfo
    from ktbench.data.storage import Storage
    from ktbench.records import Plan
    from ktbench.runner import Planned

_MOST_CLASSES = 12
"""Longest list of classes that is shown whole."""

Settle = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULTS",
        help="Write a matrix with the additional seeds that would decide the comparisons that this "
        "results folder leaves undecided.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File that --settle writes (default: NAME.settle.yaml beside the matrix)",
    ),
]
NoCode = Annotated[
    bool,
    typer.Option(
        "--no-code",
        help="Import and run no code that the matrix names; mark such cells as not checked.",
    ),
]


def plan(
    matrix: MatrixFile,
    as_json: AsJson = False,
    settle: Settle = None,
    output: Output = None,
    no_code: NoCode = False,
) -> None:
    """Show what a matrix would do: its cells, skips with their reasons, and the estimated cost.

    Imports and tries your own networks and methods, unless --no-code is given.
    """
    from ktbench.records import KtbenchError

    if settle is not None:
        if no_code:
            raise KtbenchError("--no-code: cannot be combined with --settle")
        from ktbench.cli.more_seeds import settle_matrix

        settle_matrix(matrix, settle, output, as_json=as_json)
        return
    if output is not None:
        raise KtbenchError(f"--output {output}: needs --settle RESULTS")
    from ktbench.supervision import Child

    with closing(Child.started()) as child:
        from ktbench.runner import missing_extras, plan_matrix

        planned = plan_matrix(matrix, child=child, estimated=True, no_code=no_code)
    if as_json:
        print(plan_as_json(planned))
    else:
        _print_plan(planned)
    if lacking := missing_extras(planned.plan):
        print(f"warning: {lacking}", file=sys.stderr)
    if problems := _problems(planned.data):
        raise KtbenchError("\n".join(problems))


def _problems(data: Sequence[DataInfo]) -> list[str]:
    """List what a run would be refused for: data that fit neither disk nor memory."""
    storages = [info.contents.storage for info in data if info.contents is not None]
    return [problem for each in storages if each is not None and (problem := each.problem)]


def plan_as_json(planned: Planned) -> str:
    """Return the plan with its data and estimate, for programs."""
    plan, estimate = planned.plan, planned.estimate
    assert estimate is not None
    value = plan.model_dump(mode="json")
    for cell, dumped in zip(plan.cells, value["cells"], strict=True):
        dumped["key"] = cell.key
    value["data"] = [_data_as_json(info) for info in planned.data]
    value["estimate"] = estimate.model_dump(mode="json")
    return json.dumps(value, indent=1)


def _print_plan(planned: Planned) -> None:
    """Print cells by student and method, skips by reason, the data's classes, and the cost."""
    from ktbench.cli.output import print_line

    plan, estimate = planned.plan, planned.estimate
    assert estimate is not None
    _print_cells(plan)
    _print_data(planned.data)
    print()
    exports = ", ".join(e.label for e in plan.exports) or "none"
    devices = ", ".join(d.name for d in plan.devices) or "none"
    print_line(f"teachers: {', '.join(t.name for t in plan.teachers) or 'none'}")
    for line in _protocols(plan):
        print_line(line)
    print_line(f"exports:  {exports}")
    print_line(f"devices:  {devices}")
    print_line(estimate.text)


def _print_cells(plan: Plan) -> None:
    from ktbench.cli.output import print_table

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


def _protocols(plan: Plan) -> list[str]:
    """List the members of the axes of budgets, windows and ensembles, and an unusual metric."""
    from ktbench import catalogue
    from ktbench.records import ACCURACY, Ensemble

    ensembles = {c.teacher.name: c.teacher for c in plan.cells if isinstance(c.teacher, Ensemble)}
    lines = [
        f"drawn:    {name}: {e.sample} of {', '.join(t.name for t in e.of)} per step"
        for name, e in ensembles.items()
    ]
    metrics = {cell.data.task.canonical: cell.data.task for cell in plan.cells}
    for metric in (catalogue.task(task).metric for task in metrics.values()):
        if metric != ACCURACY:
            less = ", less is better" if metric.better == "less" else ""
            lines.append(f"judged by {metric.name}{less}")
    if plan.race is not None:
        lines.append(
            f"seeds:    {plan.race.start} of each comparison, then one by one up to "
            f"{plan.race.most} as they are needed; cells and costs are of all of them"
        )
    budgets = dict.fromkeys(cell.train.epochs for cell in plan.cells)
    if len(budgets) > 1:
        lines.append(f"budgets:  {', '.join(map(str, budgets))} epochs")
    windows = dict.fromkeys(cell.distill for cell in plan.cells if cell.teacher is not None)
    if set(windows) - {None}:
        texts = [f"{w.start:g} to {w.end:g} ({w.scale})" if w else "throughout" for w in windows]
        lines.append(f"transfer: {', '.join(texts)}")
    return [*lines, *_starts(plan)]


def _starts(plan: Plan) -> list[str]:
    """List what cells begin from, and what each student takes of it."""
    pretrained = dict.fromkeys(cell.pretrained.name for cell in plan.cells if cell.pretrained)
    files = [f"weights:  {line}" for line in plan.taken]
    if not pretrained:
        return files
    from ktbench.data import describe
    from ktbench.networks.outline import begun_from, own_names

    lines = [*files, f"start:    {'; '.join(pretrained)}"]
    for cell in {cell.student.label: cell for cell in plan.cells if cell.pretrained}.values():
        assert cell.pretrained is not None
        if own_names(cell.student):
            continue  # its code is not run here
        before = cell.pretrained.cell
        ours, theirs = (describe(each.data, Path(plan.base)).signature for each in (cell, before))
        begun = begun_from(cell.student, ours, before.student, theirs, plan.base)
        new = ", ".join(begun.new)
        lines.append(f"          {cell.student.label} takes {begun.taken} tensors; new: {new}")
    return lines


# ---------------------------------------------------------------- data


def _data_as_json(info: DataInfo) -> dict[str, Any]:
    """Return a data set for programs: every class with its images in each split."""
    contents = info.contents
    assert contents is not None  # `describe` always has them
    return {
        "name": contents.name,
        "shape": list(info.signature.inputs[0].shape),
        "classes": list(contents.classes),
        "counts": {split: list(counts) for split, counts in contents.counts.items()},
        "about": contents.about,
        "notes": list(contents.notes),
        **({} if contents.storage is None else {"storage": _storage_as_json(contents.storage)}),
    }


def _storage_as_json(storage: Storage) -> dict[str, Any]:
    """Return how images are kept, for programs: sizes in bytes."""
    return {
        "keep": storage.way,
        "bytes": storage.nbytes,
        "missing_bytes": storage.missing_bytes,
        "folder": str(storage.folder),
        "problem": storage.problem,
    }


def _print_data(data: Sequence[DataInfo]) -> None:
    """Print the classes of each data set, and the notes on all of them."""
    from ktbench.cli.output import data_notes, print_line, print_table
    from ktbench.data.sources import shown

    for info in data:
        contents = info.contents
        assert contents is not None
        about = f"; {contents.about}" if contents.about else ""
        told = f"{info.signature.noun}s {info.signature.size}"
        title = f"{shown(contents.name)}: {info.num_classes:,} classes, {told}{about}"
        columns = ["class", "train", "validation", "test"]
        names = [shown(name) for name in contents.classes]
        print()
        print_table(title, columns, _class_rows(names, contents.counts.values()), numbers=True)
    for info in data:
        if info.contents is not None and info.contents.storage is not None:
            print_line(info.contents.storage.text)
    for note in data_notes(data):
        print_line(f"note: {note}")


def _class_rows(names: Sequence[str], counts: Collection[Sequence[int]]) -> list[list[str]]:
    """Return a row per class, the middle ones as one row where there are many, and the sum.

    Columns: class, then images in each split.
    """
    rows = [
        [name, *(f"{split[number]:,}" for split in counts)] for number, name in enumerate(names)
    ]
    if len(rows) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        middle = [split[half:-half] for split in counts]
        ranges = [_range(min(split), max(split)) for split in middle]
        rows[half:-half] = [[f"… {len(middle[0]):,} more", *ranges]]
    return [*rows, ["all", *(f"{sum(split):,}" for split in counts)]]


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
