"""Quality against what it cost to train, with and without transfer, as frames.

Costs are those of a cell alone: its own and the teacher's forward passes. A teacher's own training
(and its teachers') is added where a column says so. Cells that begin from a teacher's blocks are
left out, as the FLOPs of those blocks are not counted. A cell that begins from another training
stands for both: transfer, window and budget are those of the first, and costs are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.records import BASELINE, Cell, Checkpoint, Result, Teacher, Window
from ktbench.results import Results
from ktbench.results.membership import taught
from ktbench.results.setting_names import FRESH, settings_text, start_of
from ktbench.stats import speedup

KINDS = ("flops", "seconds")
"""Kinds of cost; FLOPs first, as no other work on the machine changes them."""
SHARED_BY = (1, 2, 5, 10, 100)
"""Numbers of students that a teacher's training is divided among."""

_SAME = ["student", "method", "teacher", "window", "rest"]
_Weights = tuple[str, ...]
"""A `Teacher.weights_key`."""


@dataclass(frozen=True)
class Comparison:
    """One student with one kind of transfer beside no transfer, each with several budgets."""

    student: str
    label: str
    method: str
    teacher: str
    window: str
    seeds: tuple[int, ...]
    """Seeds that have every budget on both sides."""
    budgets: tuple[int, ...]
    """Epochs of no transfer's trainings, rising."""
    baseline: Mapping[str, speedup.Runs]
    """Runs by kind of cost."""
    treated: Mapping[str, speedup.Runs]
    training: Mapping[str, float]
    """Cost of the teachers' own training by kind; NaN where it is not known."""

    @property
    def name(self) -> dict[str, str]:
        """The columns that name the comparison in a frame."""
        return {name: getattr(self, name) for name in ("student", "label", "method", "teacher")} | {
            "window": self.window
        }


def window_label(window: Window | None) -> str:
    """`0–30 %`, with `, kept scale` where it is kept; empty for the whole training."""
    if window is None or window.whole:
        return ""
    scale = ", kept scale" if window.scale == "keep" else ""
    return f"{100 * window.start:g}–{100 * window.end:g} %{scale}"


def trainings(results: Results) -> pd.DataFrame:
    """One row per cell of the matrix: what it is, its accuracy, its costs and its teachers'.

    `flops` and `seconds` include the teacher's forward passes, `teacher_...` is their part;
    `training_...` is the teachers' own training. `rest` names every other setting that is not the
    usual one, `alike` those of them that change no transfer too. NaN where there is no figure.
    """
    checkpoints = dict(_teachers(results))
    cells = [cell for cell in results.lock.plan.cells if cell.start is None]
    several = any(cell.pretrained is not None or cell.from_file is not None for cell in cells)
    rows = [
        _named(cell, results.differences[cell.key], several_starts=several)
        | {f"training_{kind}": _training(_taught_by(cell), checkpoints, kind) for kind in KINDS}
        for cell in cells
    ]
    costs = [column for kind in KINDS for column in (kind, f"teacher_{kind}")]
    figures = results.cells[["key", "accuracy", *costs]].astype(dict.fromkeys(costs, float))
    frame = pd.DataFrame(rows, columns=None if rows else _COLUMNS).merge(figures, on="key")
    for kind in KINDS:
        for part in (f"teacher_{kind}", kind):
            frame[part] += [_before(results.by_key.get(key), part) for key in frame["key"]]
        frame[kind] += frame[f"teacher_{kind}"]
    return frame


def _before(result: Result | None, part: str) -> float:
    """Return what the trainings cost that a cell began from."""
    total, pretrained = 0.0, result.pretrained if result is not None else None
    while pretrained is not None:
        total += getattr(pretrained.checkpoint.cost, part)
        pretrained = pretrained.before
    return total


def _taught_by(cell: Cell) -> tuple[Teacher, ...]:
    """Return the teachers of a cell, and of the trainings that it begins from."""
    before = cell.pretrained.cell if cell.pretrained is not None else None
    return cell.teachers + (_taught_by(before) if before is not None else ())


_COLUMNS = (
    *("key", "student", "method", "teacher", "window", "rest", "alike", "epochs", "seed"),
    *("is_baseline", "training_flops", "training_seconds"),
)


def _named(cell: Cell, odd: Mapping[str, str], *, several_starts: bool) -> dict[str, object]:
    axes = ("epochs", "distill", "start") if cell.pretrained is None else ("start",)
    rest = {n: v for n, v in odd.items() if n.partition(".")[0] not in axes}
    first = cell
    if cell.pretrained is not None:
        first = cell.pretrained.cell
        rest |= {"then": cell.method.label} if cell.method != BASELINE else {}
        rest |= {"start": start_of(first)} if start_of(first) != FRESH else {}
    elif several_starts:
        rest["start"] = start_of(cell)
    return {
        "key": cell.key,
        "student": cell.student.label,
        "method": first.method.label,
        "teacher": first.teacher.name if first.teacher else "",
        "window": window_label(first.distill),
        "rest": settings_text(rest),
        "alike": settings_text({n: v for n, v in rest.items() if not n.startswith("outputs.")}),
        "epochs": first.train.epochs,
        "seed": cell.seed,
        "is_baseline": first.method == BASELINE,
    }


def _teachers(results: Results) -> Iterator[tuple[_Weights, Checkpoint]]:
    """Every teacher's checkpoint that the results know, by what tells its weights from others'."""
    for result in results.by_key.values():
        for teacher, checkpoint in taught(result):
            yield teacher.weights_key, checkpoint


def _training(
    teachers: Sequence[Teacher], checkpoints: Mapping[_Weights, Checkpoint], kind: str
) -> float:
    """Training cost of the teachers and their own teachers; NaN where one is not known.

    Weights that the user brought along were trained elsewhere, so their cost is not known, nor
    that of a teacher that began from them.
    """
    every: dict[_Weights, Teacher] = {}
    waiting = list(teachers)
    while waiting:
        teacher = waiting.pop()
        every[teacher.weights_key] = teacher
        waiting += teacher.cell.teachers
    brought = any(t.checkpoint is not None or t.cell.from_file is not None for t in every.values())
    if brought or any(key not in checkpoints for key in every):
        return float("nan")
    costs = [checkpoints[key].cost for key in every]
    return float(sum(getattr(c, kind) + getattr(c, f"teacher_{kind}") for c in costs))


# ---------------------------------------------------------------- speedups


def comparisons(frame: pd.DataFrame) -> list[Comparison]:
    """Every kind of transfer that has several budgets, as no transfer has, in the matrix's order.

    `frame`: as `trainings`. A budget that nobody has finished is left out, and then a seed that
    lacks one of the others; nothing is compared where no seed or only one budget is left.
    """
    taught = frame[frame["teacher"] != ""]
    several = taught["teacher"].nunique() > 1
    transfers = []
    for _, own in taught.groupby(_SAME, sort=False):
        first = own.iloc[0]
        usual = frame["is_baseline"] & (frame["student"] == first["student"])
        base = frame[usual & (frame["rest"] == first["alike"])]
        tables = [_tables(side) for side in (base, own)]
        if any(table is None for table in tables):
            continue
        transfers += _compared(first, *tables, several=several)  # type: ignore[arg-type]
    return transfers


def _tables(side: pd.DataFrame) -> pd.DataFrame | None:
    """Seeds by (figure, budget), whole rows alone; None unless it has two budgets and a seed."""
    done = side[side["accuracy"].notna()]
    if done["epochs"].nunique() < 2:
        return None
    table = done.pivot(index="seed", columns="epochs", values=["accuracy", *KINDS]).dropna()
    return table if len(table) else None


def _compared(
    first: pd.Series, baseline: pd.DataFrame, treated: pd.DataFrame, *, several: bool
) -> list[Comparison]:
    seeds = baseline.index.intersection(treated.index)
    if seeds.empty:
        return []
    runs = [
        {
            kind: speedup.Runs(
                side.loc[seeds, kind].to_numpy(float), side.loc[seeds, "accuracy"].to_numpy(float)
            )
            for kind in KINDS
        }
        for side in (baseline, treated)
    ]
    names = {name: str(first[name]) for name in ("student", "method", "teacher", "window")}
    return [
        Comparison(
            **names,
            label=label_of(first, several=several),
            seeds=tuple(int(seed) for seed in seeds),
            budgets=tuple(int(epochs) for epochs in baseline["accuracy"].columns),
            baseline=runs[0],
            treated=runs[1],
            training={kind: float(first[f"training_{kind}"]) for kind in KINDS},
        )
    ]


def label_of(row: Mapping[str, str] | pd.Series, *, several: bool) -> str:
    """`kd ← T, 0–30 % [lr=0.1]`: the method with what sets it apart within the matrix."""
    label = str(row["method"])
    label += f" ← {row['teacher']}" if several and row["teacher"] else ""
    label += f", {row['window']}" if row["window"] else ""
    return label + (f" [{row['rest']}]" if row["rest"] else "")


def headlines(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison × kind of cost × sharing of the teacher's training.

    `students`: among how many the training is divided, 0 where it is left out. `speedup` is the
    largest over quality with the bounds of an interval that allows for the choice, at `q`;
    `below` the stretches of quality at which the speedup is under 1, of those from `q_low` to
    `q_high` that both sides reach. Figures are NaN where the sides reach no quality in common.
    `p` is two-sided, of a speedup of 1, and allows for the choice; `p_holm` and `sign` are judged
    among all comparisons of one kind of cost and sharing.
    """
    rows = []
    for one in comparisons:
        for kind in KINDS:
            known = one.training[kind] >= 0
            for students in (0, *(SHARED_BY if known else ())):
                extra = one.training[kind] / students if students else 0.0
                row = one.name | {"n": len(one.seeds), "kind": kind, "students": students}
                rows.append(row | _headline(one.baseline[kind], one.treated[kind].plus(extra)))
    frame = pd.DataFrame(rows, columns=None if rows else list(_HEADLINE))
    for _, own in frame.groupby(["kind", "students"], sort=False):
        adjusted = stats.holm(own["p"])
        frame.loc[own.index, "p_holm"] = adjusted
        frame.loc[own.index, "sign"] = stats.signs_at(np.log(own["speedup"]), adjusted)
    return frame


_NAMES = ("student", "label", "method", "teacher", "window", "n", "kind")
_HEADLINE = (
    *_NAMES,
    *("students", "q", "speedup", "speedup_low", "speedup_high", "p", "q_low", "q_high", "below"),
)


def _headline(baseline: speedup.Runs, treated: speedup.Runs) -> dict[str, object]:
    best = speedup.headline(baseline, treated)
    if best is None:
        nothing = dict.fromkeys(_HEADLINE[8:-1], float("nan"))
        return nothing | {"below": ""}
    q = speedup.qualities(baseline, treated)
    under = speedup.ranges(q, speedup.speedup(baseline, treated, q).value < 1 - 1e-9)
    return {
        "q": best.q,
        "speedup": best.value,
        "speedup_low": best.low,
        "speedup_high": best.high,
        "p": best.p,
        "q_low": float(q[0]),
        "q_high": float(q[-1]),
        "below": "; ".join(f"{a:.4f} to {b:.4f}" for a, b in under),
    }


def by_budget(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison × budget of no transfer: what the same mean accuracy `q` costs.

    By kind: `flops_speedup` with its interval, `flops_p`, and `flops_p_holm` and `flops_sign` among
    all rows; `flops_alone`, the speedup with the teacher's training for one student; `flops_saved`
    per student with its interval, and `flops_pays_from` with `_low` and `_high`: the least number
    of students that repay the training, for the saving and for the bounds of its interval; NaN
    where no number does, and where the training's cost is not known (`flops_training` is NaN).
    `cheapest` and `best`: the qualities that transfer reaches.
    """
    rows = [row for one in comparisons for row in _budget_rows(one)]
    frame = pd.DataFrame(rows, columns=None if rows else [*_NAMES[:-1], "epochs", "q"])
    for kind in KINDS if rows else ():
        adjusted = stats.holm(frame[f"{kind}_p"])
        frame[f"{kind}_p_holm"] = adjusted
        frame[f"{kind}_sign"] = stats.signs_at(np.log(frame[f"{kind}_speedup"]), adjusted)
    return frame


def _budget_rows(one: Comparison) -> list[dict[str, object]]:
    figures = {kind: _at_budgets(one, kind) for kind in KINDS}
    quality = one.baseline[KINDS[0]].quality.mean(axis=0)
    reach = speedup.frontier(one.treated[KINDS[0]])[1]
    return [
        {
            **one.name,
            **{"n": len(one.seeds), "epochs": epochs, "q": float(quality[at])},
            **{"cheapest": float(reach[0]), "best": float(reach[-1])},
            **{f"{k}_{name}": value for k in KINDS for name, value in figures[k][at].items()},
        }
        for at, epochs in enumerate(one.budgets)
    ]


def _at_budgets(one: Comparison, kind: str) -> list[dict[str, float]]:
    baseline, treated, training = one.baseline[kind], one.treated[kind], one.training[kind]
    ratio = speedup.at_budgets(baseline, treated)
    p = speedup.p_of_one(ratio, baseline.seeds)
    saved = speedup.saved_at_budgets(baseline, treated)
    alone = np.full(len(ratio.q), np.nan)
    if training >= 0:
        alone = speedup.at_budgets(baseline, treated.plus(training)).value
    return [
        {
            "speedup": float(ratio.value[at]),
            "speedup_low": float(ratio.low[at]),
            "speedup_high": float(ratio.high[at]),
            "p": float(p[at]),
            "alone": float(alone[at]),
            "training": training,
            "saved": float(saved.value[at]),
            "saved_low": float(saved.low[at]),
            "saved_high": float(saved.high[at]),
            "pays_from": _pays(float(saved.value[at]), training),
            "pays_from_low": _pays(float(saved.high[at]), training),
            "pays_from_high": _pays(float(saved.low[at]), training),
        }
        for at in range(len(ratio.q))
    ]


def _pays(saving: float, training: float) -> float:
    students = speedup.break_even(saving, training) if training >= 0 else None
    return float("nan") if students is None else float(students)
