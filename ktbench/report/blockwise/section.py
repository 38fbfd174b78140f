"""Blockwise students: each block's replacement, the assembled network, the finished one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ktbench import stats
from ktbench.records import Assembly, BlockResult
from ktbench.report import gain_words, numbers, scores
from ktbench.report.analysis import Analysis
from ktbench.report.blockwise.comparison import comparison
from ktbench.report.blockwise.figure import STUDENTS_SHOWN, BlockLine, block_figure
from ktbench.report.blockwise.search_section import searches
from ktbench.report.document import (
    ROWS_SHOWN,
    Box,
    Column,
    Note,
    Part,
    Row,
    Section,
    Table,
    rows_of,
)

_BLOCK = ["student", "block", "replacement"]


def blocks(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing where no student was made from blocks."""
    started = {key: result.start for key, result in analysis.results.by_key.items() if result.start}
    if not started:
        return ()
    assemblies = list({start.key: start for start in started.values()}.values())
    tried = pd.DataFrame([_block_row(a, b) for a in assemblies for b in a.blocks])
    lead = (
        "Each block of a teacher was replaced by a cheaper one that was trained alone to give the "
        "block's output from the block's input; those that do it well enough were put in the "
        "teacher's place, and the network was then trained as a whole by the cell's method. The "
        "loss is the mean squared error over the variance of the target about its channels' means: "
        "1 is what the best constant reaches. Blocks are chosen on the validation set."
    )
    parts = comparison(analysis)
    if len(tried):
        by_block = _by_block(tried)
        parts += [_figure(by_block), _block_table(by_block)]
    parts.append(_finish_table(_finished(analysis, started)))
    parts += searches(analysis)
    parts += [Note(line, "muted") for line in _how(assemblies)]
    parts += [
        Note(f"{a.student}, seed {a.seed}: {f.what} stayed the teacher's own: {f.reason}", "warn")
        for a in assemblies
        for f in a.failures
    ]
    return (Section("blocks", "Blocks", lead, parts),)


# ---------------------------------------------------------------- each block


def _block_row(assembly: Assembly, block: BlockResult) -> Row:
    return {
        "student": assembly.student,
        "block": block.block,
        "replacement": block.replacement,
        "seed": assembly.seed,
        "before": block.parameters_before,
        "after": block.parameters,
        "loss": block.loss,
        "lost": assembly.teacher_validation - block.validation_accuracy,
        "spliced": block.validation_accuracy,
        "used": block.block in assembly.used,
        "epochs": block.epochs,
        "seconds": block.seconds,
        "teacher_seconds": block.teacher_seconds,
    }


def _by_block(tried: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, in the network's order; `used` counts seeds."""
    grouped = tried.groupby(_BLOCK, sort=False)
    means = ["before", "after", "loss", "lost", "spliced", "epochs", "seconds", "teacher_seconds"]
    frame = grouped[means].mean()
    frame["used"], frame["n"] = grouped["used"].sum().astype(int), grouped.size()
    return frame.reset_index()


def _figure(by_block: pd.DataFrame) -> Part:
    lines = [
        BlockLine(
            str(student),
            own["loss"].tolist(),
            own["lost"].tolist(),
            (2 * own["used"] >= own["n"]).tolist(),
        )
        for student, own in by_block.groupby("student", sort=False)
    ]
    caption = (
        "Each replacement alone, means over seeds: its loss, and what the teacher's validation "
        "accuracy loses with it. Hollow: not used by most seeds."
    )
    if len(lines) > STUDENTS_SHOWN:
        caption += f" First {STUDENTS_SHOWN} of {len(lines)} students."
    return block_figure(lines, name="blocks", caption=caption)


def _block_table(by_block: pd.DataFrame) -> Table:
    columns = [
        Column("student", number=False),
        Column("block", number=False),
        Column("replacement", number=False),
        Column("parameters before"),
        Column("after"),
        Column("loss", hint="normalised; on the validation set"),
        Column(
            "accuracy, spliced", hint="of the teacher with this block alone replaced, validation"
        ),
        Column("lost, points"),
        Column("used", hint="seeds that use it, of all"),
        Column("epochs"),
        Column("seconds alone"),
        Column("teacher's seconds"),
    ]
    rows = [_block_boxes(row) for row in rows_of(by_block)[:ROWS_SHOWN]]
    caption = "Each block's replacement, trained alone: means over seeds."
    return Table("blocks", caption, columns, rows, by_block, total=len(by_block))


def _block_boxes(row: Row) -> list[Box]:
    used = Box(f"{row['used']} of {row['n']}", "" if row["used"] else "warn")
    return [
        Box(row["student"]),
        Box(row["block"]),
        Box(row["replacement"]),
        Box(numbers.scaled(row["before"])),
        Box(numbers.scaled(row["after"])),
        Box(numbers.small(row["loss"]), "bad" if row["loss"] >= 1 else ""),
        Box(scores.figure(row["spliced"])),
        Box(scores.gain(row["lost"])),
        used,
        Box(f"{row['epochs']:.3g}"),
        Box(numbers.seconds(row["seconds"])),
        Box(numbers.seconds(row["teacher_seconds"])),
    ]


# ---------------------------------------------------------------- assembled and finished


def _finished(analysis: Analysis, started: dict[str, Assembly]) -> pd.DataFrame:
    """One row per student and method: means over seeds, from the teacher to after the finish."""
    cells = analysis.cells[analysis.cells["key"].isin(list(started))]
    rows = []
    for row in rows_of(cells):
        start = started[row["key"]]
        own = start.seconds + start.teacher_seconds
        finish = [row[name] for name in ("seconds", "teacher_seconds")]
        rows.append(
            {
                "student": row["student"],
                "label": row["label"],
                "teacher_accuracy": start.teacher_test,
                "assembled": start.test,
                "accuracy": row["accuracy"],
                "share": start.parameters / start.teacher_parameters,
                "used": len(start.used),
                "blocks": len(start.blocks) + len(start.failures),
                "blocks_seconds": own,
                "blocks_really": start.shared_seconds,
                "finish_seconds": sum(finish) if all(map(numbers.known, finish)) else float("nan"),
            }
        )
    table = pd.DataFrame(rows)
    table["against"] = table["accuracy"] - table["teacher_accuracy"]
    grouped = table.groupby(["student", "label"], sort=False)
    frame = grouped.mean().assign(n=grouped["accuracy"].count(), planned=grouped.size())
    group = grouped.ngroup().to_numpy()
    for name in ("accuracy", "against"):
        known = table[name].notna().to_numpy()
        bounds = stats.intervals(table.loc[known, name], group[known], len(frame))
        frame[f"{name}_low"], frame[f"{name}_high"] = bounds.low, bounds.high
    return frame.reset_index()


def _finish_table(frame: pd.DataFrame) -> Table:
    columns = [
        Column("student", number=False),
        Column("finished by", number=False),
        Column("n"),
        Column("parameters", hint="of the teacher's"),
        Column("blocks replaced"),
        Column("teacher", hint="test accuracy"),
        Column("assembled", hint="test accuracy, before the finish"),
        Column("finished", hint="test accuracy"),
        Column("against teacher, points", hint="the teacher before the finish"),
        Column("blocks alone", hint="seconds, the teacher's passes included, as if each alone"),
        Column("blocks really", hint="seconds of all workers together"),
        Column("finish alone", hint="seconds, the teacher's passes included"),
    ]
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            gain_words.seeds_box(r),
            Box(numbers.percent(r["share"])),
            Box(f"{r['used']:.3g} of {r['blocks']:.3g}"),
            Box(scores.figure(r["teacher_accuracy"])),
            Box(scores.figure(r["assembled"])),
            Box(scores.figure_interval(r["accuracy"], r["accuracy_low"], r["accuracy_high"])),
            Box(
                f"{scores.gain(r['against'])} "
                f"{scores.gain_interval(r['against_low'], r['against_high'])}".strip()
            ),
            Box(numbers.seconds(r["blocks_seconds"])),
            Box(numbers.seconds(r["blocks_really"])),
            Box(numbers.seconds(r["finish_seconds"])),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    caption = (
        "From the teacher to the finished student: means over seeds with Student's t "
        "interval. What the blocks took stands in no other cost of this report; students that "
        "share a block share its training."
    )
    return Table("assembled", caption, columns, rows, frame, total=len(frame))


def _how(assemblies: Sequence[Assembly]) -> list[str]:
    """Sentences on how the blocks were trained, one per distinct way."""
    return list(dict.fromkeys(filter(None, (_way(a) for a in assemblies))))


def _way(assembly: Assembly) -> str:
    feed = {
        "relay": "one pass of the teacher feeds all blocks of a worker",
        "prefix": "each block runs the teacher up to itself",
    }[assembly.feed]
    schedule = assembly.schedule.replace("_", " ")
    workers = numbers.count(assembly.workers, "worker")
    words = f"{assembly.student}, seed {assembly.seed}: {workers}, {schedule}; {feed}"
    if assembly.elapsed_seconds is None:
        return f"{words}; blocks of an earlier run were used again."
    words += f"; {numbers.seconds(assembly.elapsed_seconds)} by the clock"
    if assembly.joules is not None:
        idle = ", idle share included" if assembly.joules_origin == "measured" else ""
        shown = numbers.scaled(assembly.joules)
        words += f"; {shown}{'' if ' ' in shown else ' '}J {assembly.joules_origin}{idle}"
    return words + "."
