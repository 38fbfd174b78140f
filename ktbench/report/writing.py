"""Builds the report of a results folder and writes its files."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from ktbench.records import KtbenchError
from ktbench.report import numbers, scores, sections
from ktbench.report.analysis import Analysis, by_origin
from ktbench.report.cell_details import detailed_keys, linked, page_data
from ktbench.report.document import Page, Section
from ktbench.report.html import html
from ktbench.report.markdown import markdown
from ktbench.report.verdict import sentences, verdict_table
from ktbench.results import load_results, many_objects
from ktbench.system.files import write_atomically

_FILES = ("index.html", "report.md")


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the report of a results folder, or of a packed one, and return its `index.html`.

    `output` is the folder to write to: by default `report/` in the folder, or `NAME-report/` beside
    the packed `NAME.ktb`. The same results give the same bytes. A folder that is not finished gives
    a report of what is there. Raises KtbenchError when the results cannot be read or the report
    cannot be written.
    """
    if output is None and not folder.is_file():
        output = folder / "report"
    else:
        output = output or folder.with_name(f"{folder.stem}-report")
        _refuse_foreign(output)
    with many_objects():
        analysis = Analysis(load_results(folder))
        with scores.of(analysis.task.metric):
            page = build_page(analysis)
            return _write(page, analysis, output)


def _refuse_foreign(output: Path) -> None:
    """Refuse a folder with anything but a report in it, as earlier figures are removed there."""
    if output.exists() and not output.is_dir():
        raise KtbenchError(f"{output}: is a file: choose another --output folder")
    if not output.is_dir():
        return
    foreign = {path.name for path in output.iterdir()} - {*_FILES, "figures", "tables"}
    if foreign:
        raise KtbenchError(
            f"{output}: holds {min(foreign)!r}, which is no part of a report: choose another "
            "--output folder"
        )


def build_page(analysis: Analysis) -> Page:
    """Build the whole report, before any markup."""
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
            *sections.techniques(analysis),
            sections.gains(analysis),
            *sections.published(analysis),
            sections.convergence(analysis),
            *sections.terms(analysis),
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
            sections.cells(analysis, detailed_keys(analysis)),
            sections.fairness(analysis),
        ),
    )
    return linked(page, page_data(analysis))


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
    index, text = (place / name for name in _FILES)
    write_atomically(text, markdown(page))
    write_atomically(index, html(page))
    return index


def _csv(frame: pd.DataFrame) -> bytes:
    """CSV by Arrow, several times as fast as pandas for tens of thousands of rows."""
    buffer = io.BytesIO()
    csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), buffer)
    return buffer.getvalue()


def _remove_earlier(place: Path, written: set[Path]) -> None:
    """Remove figures and tables of an earlier report that this one does not have."""
    for pattern in ("figures/*.svg", "figures/*.png", "tables/*.csv"):
        for path in place.glob(pattern):
            if path not in written:
                path.unlink(missing_ok=True)
