"""Puts the report together and writes it into the results folder."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from ktbench.report import numbers, sections
from ktbench.report.analysis import Analysis, by_origin
from ktbench.report.cell_details import linked, stories, told_keys
from ktbench.report.document import Page, Section
from ktbench.report.html import html
from ktbench.report.markdown import markdown
from ktbench.report.verdict import sentences, verdict_table
from ktbench.results import load_results, many_objects
from ktbench.system.files import write_atomically


def write_report(folder: Path) -> Path:
    """Write `report/` of a results folder and return its `index.html`.

    The same results give the same bytes. A folder that is not finished gives a report of what is
    there. Raises KtbenchError when the folder cannot be read or the report cannot be written.
    """
    with many_objects():
        analysis = Analysis(load_results(folder))
        page = build_page(analysis)
        return _write(page, analysis, Path(folder) / "report")


def build_page(analysis: Analysis) -> Page:
    """The whole report, before any markup."""
    verdict = Section("verdict", "Verdict", "", [verdict_table(analysis)])
    trained = bool((analysis.gains["trained"] > 0).any())
    plan = analysis.results.lock.plan
    exported = bool(plan.exports) or len(analysis.exported) > 0
    page = Page(
        title=analysis.results.lock.plan.name,
        subtitle=_subtitle(analysis),
        verdict=sentences(analysis),
        tiles=_tiles(analysis),
        sections=(
            *([verdict] if trained else []),
            sections.gains(analysis),
            *sections.published(analysis),
            sections.convergence(analysis),
            *sections.efficiency(analysis),
            *([sections.accuracy_and_cost(analysis)] if exported else []),
            *sections.blocks(analysis),
            *([sections.integrity(analysis)] if exported else []),
            *([sections.devices(analysis)] if plan.devices else []),
            *sections.stability(analysis),
            sections.costs(analysis),
            *sections.views(analysis),
            *sections.pools(analysis),
            sections.troubles(analysis),
            sections.cells(analysis, told_keys(analysis)),
            sections.fairness(analysis),
        ),
    )
    return linked(page, stories(analysis))


def _subtitle(analysis: Analysis) -> str:
    cells = analysis.cells
    parts = [
        numbers.count(len(analysis.students), "student"),
        numbers.count(_methods(analysis), "method") + " and no transfer",
        numbers.count(len(analysis.teachers), "teacher"),
        numbers.count(cells["seed"].nunique(), "seed"),
        numbers.count(len(analysis.results.lock.plan.exports), "export"),
        numbers.count(len(analysis.results.lock.plan.devices), "device"),
    ]
    return " · ".join([*parts, analysis.results.lock.provenance.created[:10]])


def _methods(analysis: Analysis) -> int:
    """Distinct methods; one that was trained with several budgets counts once."""
    cells = analysis.cells
    return int(cells.loc[~cells["is_baseline"], "plain_method"].nunique())


def _tiles(analysis: Analysis) -> list[tuple[str, str, str]]:
    counts = analysis.cells["status"].value_counts()
    done, total = int(counts.get("done", 0)), len(analysis.cells)
    tiles = [(f"{done:,} of {total:,}", "cells done", "")]
    for status, words, kind in (
        ("failed", "failed", "bad"),
        ("damaged", "damaged", "bad"),
        ("skipped", "skipped", ""),
        ("pending", "not run yet", ""),
    ):
        if counts.get(status, 0):
            tiles.append((f"{counts[status]:,}", words, kind))
    compared = ~analysis.gains["is_baseline"] & (analysis.gains["n"] > 0)
    signs = analysis.gains.loc[compared, "sign"].value_counts()
    for sign, one, several, kind in (
        ("positive", "clear gain", "clear gains", "gain"),
        ("none", "no clear difference", "no clear difference", ""),
        ("negative", "clear loss", "clear losses", "loss"),
    ):
        number = int(signs.get(sign, 0))
        tiles.append((f"{number:,}", one if number == 1 else several, kind))
    if unknown := int(signs.get("unknown", 0)):
        tiles.append((f"{unknown:,}", "cannot be judged", ""))
    return tiles


# ---------------------------------------------------------------- files


def _write(page: Page, analysis: Analysis, place: Path) -> Path:
    written = set()
    for figure in page.figures:
        for ending, content in (("svg", figure.svg), ("png", figure.png)):
            path = place / "figures" / f"{figure.name}.{ending}"
            write_atomically(path, content)
            written.add(path)
    frames = {table.name: table.frame for table in page.tables}
    frames |= {"cells": analysis.results.cells, "deployed": by_origin(analysis.results.deployed)}
    for name, frame in frames.items():
        path = place / "tables" / f"{name}.csv"
        write_atomically(path, _csv(frame))
        written.add(path)
    _remove_earlier(place, written)
    write_atomically(place / "report.md", markdown(page))
    index = place / "index.html"
    write_atomically(index, html(page))
    return index


def _csv(frame: pd.DataFrame) -> bytes:
    """Written by Arrow: several times as quick as pandas for tens of thousands of rows."""
    buffer = io.BytesIO()
    csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), buffer)
    return buffer.getvalue()


def _remove_earlier(place: Path, written: set[Path]) -> None:
    """An earlier report's figures and tables that this one does not have would mislead."""
    for pattern in ("figures/*.svg", "figures/*.png", "tables/*.csv"):
        for path in place.glob(pattern):
            if path not in written:
                path.unlink(missing_ok=True)
