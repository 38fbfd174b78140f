"""Details of each cell, as the page shows them on a click: data for `page.js`, and the links.

Texts are written here, so that a figure reads the same in a table and in the details; the page's
script only lays them out and draws the curves. What many cells share is kept once (`shared`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ktbench.records import Cell, Checkpoint, Ensemble, Pairing, Result, Teacher, canonical_json
from ktbench.report import gain_words, numbers, scores
from ktbench.report.analysis import GROUP, Analysis
from ktbench.report.brought_weights import file_facts
from ktbench.report.document import Box, Page, Row, Table, rows_of
from ktbench.report.export_details import exports_table, sensitivity_tables
from ktbench.report.measured_details import measured_tables
from ktbench.report.stage_pairs import chosen_by, named_pairs

CELLS_DETAILED = 500
"""Limit of cells with details on the page; each takes some 4 kB."""
POINTS_SHOWN = 60
"""Limit of points of a curve; the Parquet files have every epoch."""

Facts = list[list[str]]
"""Pairs of a name and a text."""


def detailed_keys(analysis: Analysis) -> list[str]:
    """Keys of the cells with details: all, or each group's first seeds, in matrix order."""
    cells = analysis.cells
    if len(cells) <= CELLS_DETAILED:
        return [str(key) for key in cells["key"]]
    rank = cells.groupby(["student", "method", "teacher"], sort=False)["seed"].rank("first")
    chosen = cells.loc[rank.sort_values(kind="stable").index[:CELLS_DETAILED]].sort_index()
    return [str(key) for key in chosen["key"]]


def page_data(analysis: Analysis) -> dict[str, Any]:
    """Everything that `page.js` needs: `cells` by key, `groups` of keys, and `shared` parts."""
    keys = detailed_keys(analysis)
    shared = _Shared()
    rows = {str(r["key"]): r for r in rows_of(analysis.cells[analysis.cells["key"].isin(keys)])}
    plan = analysis.results.lock.plan
    cells_by_key = {c.key: c for c in (*plan.cells, *(skip.cell for skip in plan.skips))}
    by_group = {tuple(r[n] for n in GROUP): r for r in rows_of(analysis.gains)}
    curves = _curves(analysis, keys)
    measured = measured_tables(analysis, keys)
    groups: dict[tuple[str, str], list[str]] = {}
    details = {}
    for key in keys:
        row, cell, result = rows[key], cells_by_key[key], analysis.results.by_key.get(key)
        groups.setdefault((row["student"], row["label"]), []).append(key)
        details[key] = {
            "title": f"{row['student']} / {row['label']}",
            "seed": cell.seed,
            "status": row["status"],
            "reason": row["reason"],
            "facts": [*_over_seeds(by_group[tuple(row[n] for n in GROUP)]), *_outcome(row, result)],
            "base": row["baseline"]
            if row["baseline"] in rows and row["gain"] == row["gain"]
            else "",
            "curves": curves.get(key),
            "exports": exports_table(result),
            "parts": [
                shared.add(part)
                for part in (
                    *measured.get(key, ()),
                    *sensitivity_tables(result),
                    *_shared_facts(analysis, cell, result),
                )
            ],
            "again": _again(analysis, cell, result),
        }
    return {"cells": details, "groups": list(groups.values()), "shared": shared.parts}


class _Shared:
    """Parts that several cells' details have in common, each kept once."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._places: dict[str, int] = {}

    def add(self, part: Any) -> int:
        """Add a part and return its place."""
        name = canonical_json(part)
        if name not in self._places:
            self._places[name] = len(self.parts)
            self.parts.append(part)
        return self._places[name]


# ---------------------------------------------------------------- what came of a cell


def _over_seeds(group: Row) -> Facts:
    """Means of all seeds with their intervals: what a single seed is to be read beside."""
    bounds = (group[f"accuracy{end}"] for end in ("", "_low", "_high"))
    n = f"n = {group['trained']}" + ("" if group["trained"] == 1 else ", mean")
    facts = [[f"test {scores.word()}, all seeds", f"{scores.figure_interval(*bounds)} ({n})"]]
    if not group["is_baseline"] and group["n"]:
        interval = scores.gain_interval(group["gain_low"], group["gain_high"])
        gain = f"{scores.gain(group['gain'])} {interval}".strip()
        words = gain_words.with_arrived(
            f"{gain} {scores.unit()} ({gain_words.counted(group)})", group
        )
        facts.append(["gain over no transfer, all seeds", words])
    if group["own_failures"]:
        facts.append(["failed seeds", gain_words.failed_box(group, bounded=True).text])
    return facts


def _outcome(row: Row, result: Result | None) -> Facts:
    facts = [["cell", str(row["key"])]]
    checkpoint = result.checkpoint if result else None
    if checkpoint is None:
        return facts
    accuracy, cost = checkpoint.accuracy, checkpoint.cost
    gain = scores.gain(row["gain"])
    facts += [[f"test {scores.word()}, this seed", scores.figure(row["accuracy"])]]
    if row["gain"] == row["gain"] and not row["is_baseline"]:
        facts.append(["gain over no transfer, this seed", f"{gain} {scores.unit()}"])
    return [
        *facts,
        ["validation", scores.figure(row["validation"])],
        [
            "validation, best",
            f"{scores.metric().written(accuracy.validation_best)}, {_epoch(checkpoint)}",
        ],
        ["parameters", f"{checkpoint.parameters:,}"],
        ["training", f"{numbers.seconds(cost.seconds)} alone, {checkpoint.epochs} epochs"],
        ["teacher's share", numbers.seconds(cost.teacher_seconds)],
        ["really took", numbers.seconds(cost.shared_seconds)],
        ["FLOPs", f"{numbers.scaled(cost.flops)}; teacher's {numbers.scaled(cost.teacher_flops)}"],
        *_beside(checkpoint),
        *_layout(checkpoint),
        ["weights' digest", checkpoint.digest],
    ]


def _beside(checkpoint: Checkpoint) -> Facts:
    """Second figures of the test set, after the last epoch and after the best."""
    last, best = checkpoint.accuracy.beside_last, checkpoint.accuracy.beside_best
    return [
        [f"test {name}", f"{numbers.significant(last[name], 4)}; after the best epoch "
         f"{numbers.significant(best.get(name), 4)}"]
        for name in last
    ]  # fmt: skip


def _layout(checkpoint: Checkpoint) -> Facts:
    """Memory layout of the network, whether its arithmetic was checked, and why it is unusual."""
    used = checkpoint.layout
    if used is None:
        return []
    words = [used.name.replace("_", " "), "arithmetic checked" if used.checked else "not checked"]
    return [["layout", ", ".join([*words, *([used.reason] if used.reason else [])])]]


def _epoch(checkpoint: Checkpoint) -> str:
    return f"epoch {checkpoint.accuracy.best_epoch}"


def _again(analysis: Analysis, cell: Cell, result: Result | None) -> list[str]:
    """The command that trains this cell again, and the digest that it must give."""
    folder = shlex.quote(f"results/{analysis.results.lock.plan.name}")
    command = (
        f"cp -r {folder} again && rm -f again/cells/{cell.key}.json && "
        "ktbench run matrix.yaml --results again"
    )
    checkpoint = result.checkpoint if result else None
    must = f": its weights must have the digest {checkpoint.digest} again" if checkpoint else ""
    words = (
        f"Trains this cell alone, in a copy of the results folder{must} (same torch, same kind of "
        "processor). matrix.yaml is the file that the run was given."
    )
    return [command, words]


# ---------------------------------------------------------------- what it was made with


def _shared_facts(
    analysis: Analysis, cell: Cell, result: Result | None
) -> Iterator[dict[str, Any]]:
    odd = analysis.results.differences[cell.key]
    differs = ", ".join(f"{n}={v}" for n, v in odd.items()) or "nothing"
    training = [["unlike most cells", differs], *_flat(cell.train)]
    yield {"title": "Training", "facts": training}
    if cell.distill is not None:
        yield {"title": "Window of the transfer", "facts": [*_flat(cell.distill)]}
    yield {"title": "Data", "facts": [*_flat(cell.data)]}
    yield {"title": "Numeric settings", "facts": [*_flat(cell.numeric)]}
    for title, item in (("Student", cell.student), ("Method", cell.method)):
        facts = [["name", item.name], *([n, _value(v)] for n, v in sorted(item.settings.items()))]
        facts += [["code", item.code]] if item.code else []
        yield {"title": title, "facts": facts}
    if cell.teacher is not None:
        yield from _taught(analysis, cell.teacher, result)
    if result is not None and result.checkpoint is not None:
        yield from _paired(result, result.checkpoint.pairing)
    if result is not None and result.start is not None:
        start = result.start
        facts = [
            ["replaced blocks", ", ".join(start.used) or "none"],
            ["as assembled", f"test {scores.metric().written(start.test)}"],
            ["training of the blocks", numbers.seconds(start.seconds)],
        ]
        yield {"title": "First weights", "facts": facts}
    if cell.pretrained is not None:
        yield {"title": "Begins from", "facts": _begun(cell.pretrained, result)}
    if cell.from_file is not None:
        begun = result.checkpoint.begun if result and result.checkpoint else None
        yield {"title": "Begins from", "facts": file_facts(cell.from_file, begun)}
    if result is not None:
        p = result.provenance
        facts = [
            ["ktbench", p.ktbench + (f", commit {p.commit}" if p.commit else "")],
            ["processor", f"{p.processor}, {numbers.count(p.cores, 'core')} ({p.machine})"],
            *([["instruction set", p.instruction_set]] if p.instruction_set else []),
            ["system", f"{p.system}, Python {p.python}"],
            ["versions", ", ".join(f"{n} {v}" for n, v in sorted(p.versions.items()))],
            [
                "data's digest",
                p.data_digest or analysis.results.lock.data_digest or numbers.NOTHING,
            ],
            ["run of", p.created[:16].replace("T", " ") + " UTC"],
        ]
        yield {"title": "Provenance", "facts": facts}


def _taught(
    analysis: Analysis, by: Teacher | Ensemble, result: Result | None
) -> Iterator[dict[str, Any]]:
    if isinstance(by, Teacher):
        facts = _teacher(analysis, by, result.teacher if result else None)
        yield {"title": "Teacher", "facts": facts}
        return
    drawn = [["name", by.name], ["per step", f"{by.sample} of {len(by.of)}, logits averaged"]]
    yield {"title": "Teachers", "facts": drawn}
    nothing: tuple[None, ...] = (None,) * len(by.of)
    checkpoints = (result.ensemble if result else ()) or nothing
    for member, checkpoint in zip(by.of, checkpoints, strict=True):
        yield {"title": f"Teacher {member.name}", "facts": _teacher(analysis, member, checkpoint)}


def _paired(result: Result, pairing: Pairing | None) -> Iterator[dict[str, Any]]:
    """Give the pairs of stages that were compared, and the training that chose them."""
    if pairing is None:
        return
    facts = [["chosen by", chosen_by(result.cell, pairing)], ["pairs", named_pairs(pairing)]]
    facts += [["order", pairing.objection]] if pairing.objection else []
    if result.warmup is not None:
        cost = result.warmup.cost
        words = f"{numbers.seconds(cost.seconds)}, {numbers.scaled(cost.flops)} FLOPs"
        facts += [["training before", f"{words}, once for all seeds"]]
    yield {"title": "Pairs of stages", "facts": facts}


def _begun(pretrained: Teacher, result: Result | None) -> Facts:
    """Give the training before, its cost, and what of its weights was taken."""
    facts = [["training", pretrained.name], ["cell", pretrained.cell.key]]
    if result is None or result.pretrained is None or result.checkpoint is None:
        return facts
    made = result.pretrained.checkpoint
    seconds = numbers.seconds(made.cost.seconds + made.cost.teacher_seconds)
    flops = numbers.scaled(made.cost.flops + made.cost.teacher_flops)
    facts += [
        ["its cost", f"{seconds}, {flops} FLOPs, its teacher's passes included"],
        ["its test accuracy", numbers.percent(made.accuracy.test_last)],
        ["weights' digest", made.digest],
    ]
    begun = result.checkpoint.begun
    if begun is not None:
        facts += [["tensors taken", str(begun.taken)], ["new", ", ".join(begun.new) or "none"]]
    return facts


def _teacher(analysis: Analysis, teacher: Teacher, checkpoint: Checkpoint | None) -> Facts:
    facts = [["name", teacher.name], ["network", teacher.cell.student.label]]
    given, begun = teacher.cell.from_file, checkpoint.begun if checkpoint else None
    facts += [["own weights", teacher.checkpoint]] if teacher.checkpoint else []
    facts += [["trained on", teacher.preprocess.words]] if teacher.preprocess else []
    facts += [[f"begins from: {n}", text] for n, text in file_facts(given, begun)] if given else []
    facts += [["taught by", teacher.cell.teacher.name]] if teacher.cell.teacher else []
    if checkpoint is None:
        return facts
    doubt = analysis.results.doubt(teacher, checkpoint)
    return [
        *facts,
        [f"test {scores.word()}", scores.metric().written(checkpoint.accuracy.test_last)],
        *([["in doubt", doubt]] if doubt else []),
        ["parameters", f"{checkpoint.parameters:,}"],
        ["training", f"{numbers.seconds(checkpoint.cost.seconds)}, {checkpoint.epochs} epochs"],
        ["weights' digest", checkpoint.digest],
    ]


def _flat(record: Any) -> Iterator[list[str]]:
    """Settings as given or by default, without those that are None."""
    for name, value in record.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            yield [name, ", ".join(f"{n} {_value(v)}" for n, v in value.items())]
        else:
            yield [name, _value(value)]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- curves


def _curves(analysis: Analysis, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Curves by key: `epoch`, `accuracy`, `losses` by term, `phases`; thinned to `POINTS_SHOWN`."""
    results = analysis.results
    own = {key: results.by_key[key] for key in keys if key in results.by_key}
    frame = replace(results, by_key=own).read_curves()
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    names = columns["key"].astype(str)
    if not len(names):
        return {}
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    bounds = zip(starts, [*starts[1:], len(names)], strict=True)
    return {
        str(names[first]): _curve({name: values[first:end] for name, values in columns.items()})
        for first, end in bounds
    }


def _curve(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    total, phase = len(columns["epoch"]), columns["phase"]
    at = np.unique(np.linspace(0, total - 1, min(total, POINTS_SHOWN)).round().astype(int))
    changes = [i for i in range(total) if i == 0 or phase[i] != phase[i - 1]]
    losses = {n[5:]: _rounded(v[at]) for n, v in columns.items() if n.startswith("loss_")}
    return {
        "epoch": [int(e) for e in columns["epoch"][at]],
        "of": total,
        "accuracy": _rounded(scores.metric().sign * columns["validation_accuracy"][at]),
        "losses": {n: v for n, v in losses.items() if any(x is not None for x in v)},
        "phases": [[int(columns["epoch"][i]), str(phase[i])] for i in changes],
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values.astype(float).tolist()]


# ---------------------------------------------------------------- links


_Keys = dict[str, dict[int, str]]
"""Keys of cells by the title that they share, then by seed."""


def linked(page: Page, details: dict[str, Any]) -> Page:
    """Link each row, or box, of a (student, method) to its cell's details."""
    keys: _Keys = {}
    for key, cell in details["cells"].items():
        keys.setdefault(cell["title"], {})[cell["seed"]] = key
    sections = [
        replace(s, parts=[_linked_table(p, keys) if isinstance(p, Table) else p for p in s.parts])
        for s in page.sections
    ]
    return replace(page, sections=sections, details=details)


def _linked_table(table: Table, keys: _Keys) -> Table:
    """Link rows that name a student and a method, or boxes where a method's row meets a student."""
    titles = [column.title for column in table.columns]
    method = next((n for n in ("method", "best method") if n in titles), None)
    if "student" in titles and method:
        listed = any(c.title == "seeds" and not c.number for c in table.columns)
        places = (titles.index("student"), titles.index(method))
        seeds = titles.index("seeds") if listed else None
        rows = [_linked_row(row, *places, seeds, keys) for row in table.rows]
    elif titles[:1] == ["technique"]:
        rows = [
            [
                replace(b, opens=_key(keys, f"{t} / {row[0].text}"))
                for t, b in zip(titles, row, strict=True)
            ]
            for row in table.rows
        ]
    else:
        return table
    return replace(table, rows=rows)


def _linked_row(
    row: Sequence[Box], student: int, method: int, seeds: int | None, keys: _Keys
) -> list[Box]:
    """Link one row; `student`, `method` and `seeds` are column numbers."""
    first = row[seeds].text if seeds is not None else ""
    key = row[student].opens or _key(keys, f"{row[student].text} / {row[method].text}", first)
    return [replace(box, opens=key) if i == student else box for i, box in enumerate(row)]


def _key(keys: _Keys, title: str, seeds: str = "") -> str:
    """The first cell of a group, or that of the first seed of a list such as `1, 4`."""
    by_seed = keys.get(title, {})
    first = seeds.partition(",")[0]
    named = by_seed.get(int(first), "") if first.isdigit() else ""
    return named or next(iter(by_seed.values()), "")
