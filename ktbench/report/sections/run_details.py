"""Sections on failures, fairness and provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from ktbench import stats
from ktbench.records import BASELINE, Plan, Provenance, TrainSpec
from ktbench.report import numbers, scores
from ktbench.report.analysis import GROUP, Analysis
from ktbench.report.changes_in_words import augmentation_words, regularisation_words
from ktbench.report.document import ROWS_SHOWN, Box, Card, Cards, Column, Note, Part, Section, Table
from ktbench.results import Problem

# ---------------------------------------------------------------- failures and skips


def troubles(analysis: Analysis) -> Section:
    """Build the section: cells without a whole result with their reasons, and device failures."""
    cells = analysis.cells
    odd = cells[cells["status"].isin(["failed", "skipped", "damaged", "pending"])]
    parts: list[Part] = []
    pending = odd[odd["status"] == "pending"]
    if len(pending):
        words = (
            f"{numbers.count(len(pending), 'cell')} not run yet: `ktbench run` resumes from here."
        )
        parts.append(Note(words, "warn"))
    unfinished = odd[odd["status"] != "pending"].sort_values("status", kind="stable")
    if len(unfinished):
        parts.append(_reason_table(unfinished))
    if analysis.results.failures:
        parts.append(_run_failures(analysis))
    if analysis.problems:
        parts.append(_damage(analysis.problems))
    if not parts:
        parts.append(Note("None: every cell of the matrix has been trained and exported.", "good"))
    lead = "Every cell that failed or was skipped is listed with its reason."
    return Section("failures", "Failures and skips", lead, parts)


def _reason_table(unfinished: pd.DataFrame) -> Table:
    columns = [*GROUP, "status", "reason"]
    frame = (
        unfinished.groupby(columns, sort=False)["seed"]
        .agg(lambda seeds: ", ".join(str(s) for s in sorted(seeds)))
        .rename("seeds")
        .reset_index()
    )
    rows = [
        [
            Box(str(row.student)),
            Box(str(row.label)),
            Box(str(row.seeds)),
            Box(str(row.status), "bad" if row.status in ("failed", "damaged") else "muted"),
            Box(str(row.reason)),
        ]
        for row in frame.head(ROWS_SHOWN).itertuples(index=False)
    ]
    heads = ["student", "method", "seeds", "status", "reason"]
    return Table(
        "failures",
        "Cells that failed, were skipped or are damaged. Seeds with the same reason share a row.",
        [Column(head, number=False) for head in heads],
        rows,
        unfinished[["key", "student", "method", "teacher", "seed", "status", "reason"]],
        total=len(frame),
    )


def _run_failures(analysis: Analysis) -> Table:
    failures = analysis.results.failures
    frame = pd.DataFrame([{"stage": f.stage, "what": f.what, "reason": f.reason} for f in failures])
    rows = [[Box(f.stage), Box(f.what), Box(f.reason, "bad")] for f in failures[:ROWS_SHOWN]]
    heads = ("stage", "what", "reason")
    return Table(
        "run-failures",
        "Failures of the last run that belong to no cell.",
        [Column(head, number=False) for head in heads],
        rows,
        frame,
        total=len(failures),
    )


def _damage(problems: Sequence[Problem]) -> Table:
    """Table of damaged files, and the remedy for each."""
    heads = ("file", "what is wrong", "what to do")
    frame = pd.DataFrame(
        [(p.key, p.path, p.reason, p.remedy) for p in problems],
        columns=["key", "path", "reason", "remedy"],
    )
    rows = [[Box(p.path), Box(p.reason, "bad"), Box(p.remedy)] for p in problems[:ROWS_SHOWN]]
    return Table(
        "damaged",
        "Files that are damaged, missing or differ from their records; their content is left out.",
        [Column(head, number=False) for head in heads],
        rows,
        frame,
        total=len(problems),
    )


# ---------------------------------------------------------------- fairness and provenance


def fairness(analysis: Analysis) -> Section:
    """Build the section on fairness, data, training settings and the machine."""
    parts: list[Part] = [*_fair_notes(analysis), *_mixed_notes(analysis)]
    parts += _left_out_notes(analysis)
    parts += [Cards([_data_card(analysis), _training_card(analysis), _machine_card(analysis)])]
    return Section(
        "provenance",
        "How this was made",
        "For each student and seed, every method starts from the same weights and sees the same "
        "batches. Choices use a validation split; the test set is read once, at the end.",
        parts,
    )


def _left_out_notes(analysis: Analysis) -> list[Note]:
    """Notes on sections that are missing because the matrix does not ask for them."""
    plan = analysis.results.lock.plan
    if plan.exports or len(analysis.exported):
        return []
    device = "" if plan.devices else " and no device"
    return [Note(f"Nothing has been exported: the matrix names no export{device}.", "muted")]


def _fair_notes(analysis: Analysis) -> list[Note]:
    whole_cells = analysis.results.cells
    # When a teacher is heard is what is compared, and not another training of the student.
    apart = [analysis.budget_without("distill.", str(key)) for key in whole_cells["key"]]
    cells = whole_cells.assign(budget=apart)
    windowed = bool((cells["budget"] != whole_cells["budget"]).any())
    odd = cells[cells["budget"] != ""]
    whole = _whole_budgets(cells) if len(odd) else []
    odd = odd[~odd["budget"].isin(whole)]
    if len(odd) and not whole:
        return [_odd_note(odd)]
    fair = (
        _axis_words(whole)
        if whole
        else (
            "every cell has the same data, epochs, optimiser, learning-rate schedule and numeric "
            "settings."
        )
    )
    if windowed:
        fair += " Transfer during only a part of the training counts as a transfer of its own."
    return [Note(f"Fair comparison: {fair}", "good"), *([_odd_note(odd)] if len(odd) else [])]


def _whole_budgets(cells: pd.DataFrame) -> list[str]:
    """Budgets that the whole matrix was run with, besides the usual one."""
    columns = ["student", "method", "teacher", "seed"]
    cells_of = {
        str(budget): frozenset(own[columns].itertuples(index=False, name=None))
        for budget, own in cells.groupby("budget", sort=False)
    }
    usual = cells_of.pop("", frozenset())
    return [budget for budget, own in cells_of.items() if own == usual]


def _axis_words(budgets: list[str]) -> str:
    listed = ", ".join(f"[{budget}]" for budget in budgets)
    return (
        f"the whole matrix was trained as usual and again with {listed}. Different trainings are "
        "never pooled, and a method is compared with no transfer in the same training."
    )


def _odd_note(odd: pd.DataFrame) -> Note:
    kinds = Counter(zip(odd["method"], odd["budget"], strict=True))
    listed = [f"{m} [{b}] ({numbers.count(n, 'cell')})" for (m, b), n in kinds.most_common(8)]
    more = f" and {len(kinds) - 8} more" if len(kinds) > 8 else ""
    return Note(
        f"Not every cell has the same training: {'; '.join(listed)}{more}. Such methods have "
        "rows of their own in every table, and are compared with no transfer in the same training "
        "if the matrix has it, else with no transfer in the usual one.",
        "warn",
    )


def _mixed_notes(analysis: Analysis) -> list[Note]:
    """Notes on facts of provenance that are not the same for all results."""
    provenances = [r.provenance for r in analysis.results.by_key.values()]
    notes = []
    for name in ("processor", "commit", "ktbench", "python"):
        values = sorted({str(getattr(p, name)) for p in provenances})
        if len(values) > 1:
            listed = ", ".join(values[:4]) + (", …" if len(values) > 4 else "")
            notes.append(Note(f"Results were made with different {name}s: {listed}.", "warn"))
    return notes


def _data_card(analysis: Analysis) -> Card:
    plan = analysis.results.lock.plan
    if not plan.cells:
        return Card("Data", [("cells", "none")])
    usual = analysis.results.cells["budget"].eq("").to_numpy()[: len(plan.cells)]
    cell = next((c for c, same in zip(plan.cells, usual, strict=False) if same), plan.cells[0])
    data, nouns = cell.data, f"{analysis.task.noun}s"
    changes = augmentation_words(data.augment)
    changes += [analysis.task.augmentation] if analysis.task.augmentation else []
    facts = [
        ("source", data.source + (f" {data.path}" if data.path else "")),
        (f"training {nouns}", str(data.train_size or "all")),
        (f"validation {nouns}", str(data.validation_size or "a tenth of the training pool")),
        (f"test {nouns}", str(data.test_size or "the source's test split, or a fifth")),
        *([("image size", f"{size} × {size} ({data.fit})")] if (size := data.image_size) else []),
        ("judged by", scores.judged_by()),
        ("augmentation", "; ".join(changes) or "none"),
        *([("drawn", _drawn(analysis))] if changes or cell.train.mixes else []),
        *(("remark", remark) for remark in analysis.results.lock.remarks),
        ("digest", analysis.results.lock.data_digest or numbers.NOTHING),
    ]
    return Card("Data", facts)


def _drawn(analysis: Analysis) -> str:
    """Words on how often a sample is augmented freshly."""
    kinds = list(dict.fromkeys(c.train.views for c in analysis.results.lock.plan.cells))
    words = [
        f"{numbers.count(k, 'stored view')} in turn" if k else "new in every epoch" for k in kinds
    ]
    return "; or ".join(words)


def _training_card(analysis: Analysis) -> Card:
    plan = analysis.results.lock.plan
    seeds = sorted({c.seed for c in plan.cells})
    facts = [("seeds", ", ".join(map(str, seeds[:12])) + (", …" if len(seeds) > 12 else ""))]
    if plan.cells:
        usual = Counter(c.train.canonical for c in plan.cells).most_common(1)[0][0]
        train = next(c.train for c in plan.cells if c.train.canonical == usual)
        facts += [*_training_facts(train, plan), *_numeric_facts(plan)]
    facts.append(("intervals", f"Student's t over seeds, {100 * stats.LEVEL:.0f} %"))
    return Card("Training", facts)


def _training_facts(train: TrainSpec, plan: Plan) -> list[tuple[str, str]]:
    budgets = sorted({cell.train.epochs for cell in plan.cells if cell.method == BASELINE})
    optimiser = (
        f"{train.optimiser}, learning rate {train.lr:g}, weight decay {train.weight_decay:g}"
    )
    schedule: str = train.schedule
    schedule += f", warm-up over {100 * train.warmup:g} % of the steps" if train.warmup else ""
    optimiser += f", gradients up to norm {train.clip_norm:g}" if train.clip_norm else ""
    averaged = f", average with decay {train.ema:g}" if train.ema is not None else ""
    labels = regularisation_words(train)
    return [
        ("epochs", ", ".join(map(str, budgets)) or str(train.epochs)),
        ("batch", str(train.batch_size)),
        ("optimiser", optimiser),
        ("schedule", schedule),
        *([("regularisation", ", ".join(labels))] if labels else []),
        ("weights exported", f"{train.keep} epoch{averaged}"),
    ]


def _numeric_facts(plan: Plan) -> list[tuple[str, str]]:
    """Numeric settings of most cells; those of a teacher's outputs of most that have one."""
    numeric = Counter(c.numeric for c in plan.cells).most_common(1)[0][0]
    words = [numeric.precision, numbers.count(numeric.threads, "thread"), numeric.device]
    facts = [("numeric settings", ", ".join([*words, *(["compiled"] if numeric.compile else [])]))]
    outputs = Counter(c.numeric.outputs for c in plan.cells if c.teacher is not None)
    reduced = outputs.most_common(1)[0][0] if outputs else None
    if reduced is not None:
        draws = (
            f"{reduced.sampled:,} draws at T = {reduced.temperature:g}, " if reduced.sampled else ""
        )
        facts.append(("teacher's outputs", draws + reduced.precision))
    return facts


def _machine_card(analysis: Analysis) -> Card:
    p: Provenance = analysis.results.lock.provenance
    names = ("torch", "onnxruntime", "ai-edge-litert", "litert-torch", "numpy")
    versions = [f"{n} {p.versions[n]}" for n in names if n in p.versions]
    facts = [
        ("processor", f"{p.processor}, {numbers.count(p.cores, 'core')} ({p.machine})"),
        *((("instruction set", p.instruction_set),) if p.instruction_set else ()),
        ("system", f"{p.system}, Python {p.python}"),
        ("ktbench", p.ktbench + (f", commit {_short(p.commit)}" if p.commit else "")),
        ("versions", ", ".join(versions) or numbers.NOTHING),
        ("last run", p.created[:16].replace("T", " ") + " UTC"),
    ]
    return Card("Machine", facts)


def _short(commit: str) -> str:
    head, plus, changes = commit.partition("+")
    return head[:10] + plus + changes
