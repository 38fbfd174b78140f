"""Section on what techniques compared: their pairs of stages, and the pull of each loss term."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ktbench.records import Cell, Checkpoint, Look
from ktbench.report import numbers
from ktbench.report.analysis import Analysis
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
from ktbench.report.stage_pairs import chosen_by, named_pairs

LEAST = 0.05
"""Share of the gradient below which a term is said to hardly count."""
_LEAST = f"{100 * LEAST:.0f} %"
_SAID = 3
"""Most techniques that are named in words; the tables have all."""


def terms(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing where no technique compares stages or adds terms."""
    pairs, balance = _pairs(analysis), _balance(analysis)
    lead = (
        "What a technique compared, and whether that moved the student: a term with hardly any "
        "gradient did not take part, whatever the technique's name."
    )
    parts: list[Part] = []
    if len(pairs):
        parts += [*_pair_notes(pairs), _pair_table(pairs)]
    if len(balance):
        parts += [*_balance_notes(balance), _balance_table(balance)]
    return (Section("terms", "Pairs and terms", lead, parts),) if parts else ()


def _trained(analysis: Analysis) -> Iterator[tuple[Row, Cell, Checkpoint]]:
    results = analysis.results
    for row in rows_of(analysis.cells[["key", "student", "label"]]):
        result = results.by_key.get(str(row["key"]))
        if result is not None and result.checkpoint is not None:
            yield row, result.cell, result.checkpoint


# ---------------------------------------------------------------- pairs of stages


def _pairs(analysis: Analysis) -> pd.DataFrame:
    """One row per student, technique and distinct pairs, with the number of seeds."""
    rows = [
        {
            "student": row["student"],
            "label": row["label"],
            "rule": chosen_by(cell, checkpoint.pairing),
            "pairs": named_pairs(checkpoint.pairing),
            "objection": checkpoint.pairing.objection or "",
        }
        for row, cell, checkpoint in _trained(analysis)
        if checkpoint.pairing is not None
    ]
    frame = pd.DataFrame(rows, columns=["student", "label", "rule", "pairs", "objection"])
    by = list(frame.columns)
    return frame.groupby(by, sort=False).size().rename("seeds").reset_index()


def _pair_notes(frame: pd.DataFrame) -> list[Note]:
    odd = frame[frame["objection"] != ""]
    names = list(dict.fromkeys(f"**{r['label']}** in {r['student']}" for r in rows_of(odd)))
    if not names:
        return []
    return [
        Note(
            "Pairs that do not follow depth, so that these do not show what comparing like with "
            f"like would do: {_listed(names)}.",
            "warn",
        )
    ]


def _pair_table(frame: pd.DataFrame) -> Table:
    rows = [
        [
            Box(r["student"]),
            Box(r["label"]),
            Box(r["rule"]),
            Box(r["pairs"]),
            Box(str(r["seeds"])),
            Box(r["objection"] or numbers.NOTHING, "warn" if r["objection"] else "muted"),
        ]
        for r in rows_of(frame)[:ROWS_SHOWN]
    ]
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("pairs chosen by", number=False),
        Column("teacher's stage → student's", number=False),
        Column("seeds"),
        Column("order", number=False),
    ]
    caption = "Pairs of stages that were compared."
    return Table("pairs", caption, columns, rows, frame, total=len(frame))


# ---------------------------------------------------------------- the balance of the loss


def _balance(analysis: Analysis) -> pd.DataFrame:
    """One row per student, technique, phase and term: shares at the first and the last look.

    Means over seeds. `gradient_least` is the least share of any look.
    """
    rows = []
    for row, _, checkpoint in _trained(analysis):
        for phase in dict.fromkeys(look.phase for look in checkpoint.looks):
            looks = [look for look in checkpoint.looks if look.phase == phase]
            for term in looks[-1].gradients if len(looks[-1].gradients) > 1 else ():
                pulls = [_share(look.gradients, term) for look in looks]
                rows.append(
                    {
                        "student": row["student"],
                        "label": row["label"],
                        "phase": phase,
                        "term": term,
                        "loss_share": _loss_share(looks[-1], term),
                        "gradient_first": pulls[0],
                        "gradient_share": pulls[-1],
                        "gradient_least": min(pulls),
                    }
                )
    by = ["student", "label", "phase", "term"]
    shares = ["loss_share", "gradient_first", "gradient_share", "gradient_least"]
    frame = pd.DataFrame(rows, columns=[*by, *shares])
    groups = frame.groupby(by, sort=False)
    return groups[shares].mean().assign(seeds=groups.size()).reset_index()


def _share(values: dict[str, float], name: str) -> float:
    total = sum(values.values())
    return values.get(name, 0.0) / total if total else 0.0


def _loss_share(look: Look, term: str) -> float:
    return _share({name: abs(value) for name, value in look.losses.items()}, term)


def _faint(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["gradient_least"] < LEAST]


def _balance_notes(frame: pd.DataFrame) -> list[Note]:
    faint = _faint(frame)
    names = [
        f"**{label}** in {student} ({', '.join(own['term'])})"
        for (student, label), own in faint.groupby(["student", "label"], sort=False)
    ]
    if not names:
        return []
    return [
        Note(
            f"Terms with less than {_LEAST} of the gradient at some time, which then hardly moved "
            f"the student: {_listed(names)}.",
            "warn",
        )
    ]


def _balance_table(frame: pd.DataFrame) -> Table:
    groups = frame.groupby(["student", "label", "phase"], sort=False)
    rows = []
    for (student, label, phase), own in list(groups)[:ROWS_SHOWN]:
        faint = list(_faint(own)["term"])
        rows.append(
            [
                Box(str(student)),
                Box(str(label)),
                Box(str(phase)),
                Box(", ".join(faint) or numbers.NOTHING, "warn" if faint else "muted"),
                Box(_told(own, "loss_share")),
                Box(_told(own, "gradient_first")),
                Box(_told(own, "gradient_share")),
            ]
        )
    columns = [
        Column("student", number=False),
        Column("method", number=False),
        Column("phase", number=False),
        Column(
            f"below {_LEAST}", number=False, hint="of the gradient at any look, mean over seeds"
        ),
        Column("loss", number=False, hint="at the last look"),
        Column("gradient at first", number=False),
        Column("gradient at last", number=False),
    ]
    caption = (
        "Balance of the loss: each term's percentage of the loss, and of the sum of the norms of "
        "all terms' gradients on the student's parameters that they move, in single steps; means "
        "over seeds. Where a term has an optimiser of its own, its share does not limit it."
    )
    return Table("balance", caption, columns, rows, frame, total=len(groups))


def _told(own: pd.DataFrame, name: str) -> str:
    parts = zip(own["term"], own[name].astype(float), strict=True)
    return " · ".join(f"{term} {_percent(share)}" for term, share in parts)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= LEAST else f"{100 * share:.1f}"


def _listed(names: list[str]) -> str:
    more = len(names) - _SAID
    return ", ".join(names[:_SAID]) + (f" and {more} more (below)" if more > 0 else "")
