"""The verdict in words, and the table of the best choice per student and device.

What is best is chosen on validation accuracy; the test accuracy and its gain are then read.
"""

from __future__ import annotations

import pandas as pd

from ktbench import stats
from ktbench.records import ACCURACY
from ktbench.report import doubt, gain_words, numbers, scores
from ktbench.report.analysis import GROUP, Analysis, by_origin
from ktbench.report.best_techniques import best_sentences
from ktbench.report.document import Box, Column, Row, Table, rows_of
from ktbench.report.efficiency import view_reuse
from ktbench.report.efficiency.summary import saving_sentences

_TOGETHER = f"at {100 * stats.LEVEL:.0f}\u00a0% for all together"


def best_methods(analysis: Analysis) -> pd.DataFrame:
    """Per student the group with the highest mean validation accuracy; the first of equals."""
    gains = analysis.gains
    trained = gains[gains["trained"] > 0]
    order = trained.sort_values("validation", ascending=False, kind="stable")
    best = order.drop_duplicates("student").set_index("student")
    return best.reindex([s for s in analysis.students if s in best.index]).reset_index()


def sentences(analysis: Analysis) -> list[str]:
    """Headline sentences: what is best, what gains, what hurts, what to deploy, what it costs."""
    gains = analysis.gains
    methods = gains[~gains["is_baseline"]]
    if not (gains["trained"] > 0).any():
        return ["No cell has been trained yet, so there is nothing to compare."]
    lines = [*best_sentences(analysis), _gain_sentence(methods)]
    lines += _loss_sentence(methods)
    lines += _failure_sentence(methods) + _unjudged_sentence(methods)
    lines += _deploy_sentences(analysis)
    lines += saving_sentences(analysis) or _speed_sentence(analysis)
    lines += _views_sentences(analysis)
    lines += _doubtful_teachers(analysis)
    return lines


def _doubtful_teachers(analysis: Analysis) -> list[str]:
    """Name the teachers whose own weights may not do here what they did elsewhere."""
    frame = analysis.results.teachers
    names = list(frame.loc[frame["doubt"] != "", "name"])
    if not names:
        return []
    several = f"teachers {', '.join(names[:3])}" if len(names) > 1 else f"teacher {names[0]}"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    have = "have" if len(names) > 1 else "has"
    return [
        f"The {several}{more} {have} far less {scores.word()} than such weights should: every "
        "figure of what they teach is in doubt (see the training costs)."
    ]


def _gain_sentence(methods: pd.DataFrame) -> str:
    compared = methods[methods["n"] > 0]
    if compared.empty:
        return "No method can be compared with no transfer yet: no pair of cells is complete."
    clear = compared[compared["sign"] == "positive"]
    judged = compared[compared["sign"] != "unknown"]
    if judged.empty:
        return (
            f"There is no verdict, as that takes at least {stats.LEAST_SEEDS} seeds that differ: "
            f"{_run_more(compared)}."
        )
    if clear.empty:
        return (
            f"No method gains clearly over no transfer in any of "
            f"{numbers.count(len(judged), 'comparison')}, {_TOGETHER}{_alone(judged)}."
        )
    top = _top(clear)
    return (
        f"{_bold(top['label'])} gains {_gain(top)} over no transfer{_likewise(top)} on "
        f"{top['student']}; "
        f"{len(clear)} of {numbers.count(len(judged), 'comparison')} "
        f"{'is a clear gain' if len(clear) == 1 else 'are clear gains'}, {_TOGETHER}."
    )


def _run_more(rows: pd.DataFrame) -> str:
    """Advice on how to get the seeds that a verdict lacks."""
    missing = stats.FIRST_SEEDS - int(rows["n"].min())
    return (
        f"run {numbers.count(max(missing, 1), 'more seed')}, by `seeds: {stats.FIRST_SEEDS}` in "
        "the matrix or by `ktbench plan MATRIX.yaml --settle DIR`, which writes a matrix of them"
    )


def _unjudged_sentence(methods: pd.DataFrame) -> list[str]:
    """Sentence on comparisons with too few seeds, where others have a verdict."""
    compared = methods[methods["n"] > 0]
    few = compared[compared["n"] < stats.LEAST_SEEDS]
    if few.empty or (compared["sign"] == "unknown").all():
        return []
    return [
        f"{numbers.count(len(few), 'comparison')} with fewer than {stats.LEAST_SEEDS} seeds "
        f"{'has' if len(few) == 1 else 'have'} no verdict: {_run_more(few)}."
    ]


def _failure_sentence(methods: pd.DataFrame) -> list[str]:
    """Sentence on the technique whose seeds fail most often, and how failures are counted."""
    failing = methods[methods["own_failures"] > 0]
    if failing.empty:
        return []
    order = failing.sort_values(["failing", "own_failures"], ascending=False, kind="stable")
    top = _first(order)
    more = "" if len(failing) == 1 else f" ({numbers.count(len(failing), 'such comparison')})"
    told = top["sign"] == "negative"  # in the sentence on losses, as likely as not
    gain = f": {_gain(top)}" if top["n"] and not told else ""
    return [
        f"{_bold(top['label'])} fails in {top['own_failures']} of "
        f"{numbers.count(top['tried'], 'seed')} on {top['student']}{more}{gain}. Failed seeds "
        "count at chance level."
    ]


def _alone(judged: pd.DataFrame) -> str:
    """Clause on how many gains would be clear, were each the only comparison."""
    alone = int((judged["alone"] == "positive").sum())
    if not alone:
        return ""
    return f"; on {'its own, 1' if alone == 1 else f'their own, {alone}'} would"


def _loss_sentence(methods: pd.DataFrame) -> list[str]:
    clear = methods[methods["sign"] == "negative"]
    if clear.empty:
        return []
    top = _top(clear, worst=True)
    many = "" if len(clear) == 1 else f" ({len(clear)} clear losses in all)"
    return [
        f"{_bold(top['label'])} hurts on {top['student']}: {_gain(top)} against no "
        f"transfer{_likewise(top)}{many}."
    ]


def _likewise(row: Row) -> str:
    """Clause that the baseline has the same unusual training, where there is one."""
    return " with the same training" if "[" in row["label"] else ""


def _top(rows: pd.DataFrame, *, worst: bool = False) -> Row:
    """The row with the largest difference on validation."""
    order = rows.sort_values("validation_gain", ascending=worst, kind="stable")
    return rows_of(order.head(1))[0]


def _gain(row: Row) -> str:
    bounds = scores.gain_interval(row["gain_low"], row["gain_high"])
    words = f"{scores.gain(row['gain'])} {scores.unit()} {bounds} ({gain_words.counted(row)})"
    return gain_words.with_arrived(words.replace("  ", " "), row)


def _bold(words: str) -> str:
    return f"**{words}**"


def _deploy_sentences(analysis: Analysis) -> list[str]:
    """Per device: the most accurate deployment, and a quicker one that is nearly as good."""
    lines = []
    deployed = analysis.deployed[analysis.deployed["valid"]]
    for (device, origin), rows in list(deployed.groupby(["device", "origin"], sort=False))[:3]:
        best = _first(rows.sort_values(["validation", "p50_ms"], ascending=[False, True]))
        near = rows[rows["validation"] >= best["validation"] - scores.metric().step]
        quick = _first(near.sort_values(["p50_ms", "validation"], ascending=[True, False]))
        sentence = (
            f"On {_bold(str(device))} the {_best()} is {_deployment(best)}: "
            f"{_over_seeds(best)} at {_latency(best, str(origin))}"
        )
        if quick["p50_ms"] < best["p50_ms"]:
            same = quick["student"] == best["student"] and quick["label"] == best["label"]
            sentence += (
                f"; within {scores.small()} of it on validation, the fastest is "
                f"{f'the same {_file(quick)}' if same else _deployment(quick)}: "
                f"{_over_seeds(quick)} at {_latency(quick)}, {numbers.size(quick['bytes'])}"
            )
        lines.append(sentence + ".")
    return lines


def _over_seeds(row: Row) -> str:
    """`91.2 % [90.8, 91.6] (n = 5)`: the mean over seeds with its interval."""
    mean = scores.figure_interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    failed = f"; {row['own_failures']} failed" if row["own_failures"] else ""
    return f"{mean} (n = {gain_words.seeds(row)}{failed})"


def _latency(row: Row, origin: str = "") -> str:
    return doubt.in_words(f"{numbers.milliseconds(row['p50_ms'])} ms {origin}".strip(), row)


def _deployment(row: Row) -> str:
    return f"{row['student']} with {row['label']} {_file(row)}"


def _file(row: Row) -> str:
    threads = f", {row['threads']} threads" if row["threads"] != 1 else ""
    return f"as {row['export']}{threads}"


def _first(rows: pd.DataFrame) -> Row:
    return rows_of(rows.head(1))[0]


def _speed_sentence(analysis: Analysis) -> list[str]:
    """The best saving of FLOPs with the teacher's part, where every seed finished."""
    frame = analysis.convergence
    whole = frame[(frame["reached"] == frame["seeds"]) & ~frame["is_baseline"]]
    whole = whole[whole["x_flops_all"].notna()]
    if whole.empty:
        return []
    top = _first(whole.sort_values("x_flops_all", ascending=False, kind="stable"))
    where = f"{_bold(top['label'])} on {top['student']}"
    if top["x_flops_all"] <= 1:
        return [
            f"No method reached the final {scores.word()} of no transfer with less compute, the "
            f"teacher's forward passes included: the closest, {where}, takes "
            f"{numbers.ratio(1 / top['x_flops_all'])} the FLOPs."
        ]
    return [
        f"To reach the final {scores.word()} of no transfer, {where} takes "
        f"{numbers.speedup(top['x_within'], top['x_within_low'], top['x_within_high'])} fewer "
        f"epochs (all {top['seeds']} seeds reach it) and, with the teacher's forward passes "
        f"counted, {numbers.ratio(top['x_flops_all'])} fewer FLOPs; the teacher's own training is "
        "not included."
    ]


def _views_sentences(analysis: Analysis) -> list[str]:
    """Sentences on reused augmentations, over everything that has a teacher."""
    return [
        f"Reusing {_bold(numbers.count(row['views'], 'stored view'))} of each "
        f"{analysis.task.noun} in turn, "
        f"instead of fresh augmentations, changes test {scores.word()} by "
        f"{_gain(row)}{_clear(row)} "
        f"over {numbers.count(row['groups'], 'pair')} of student and method, and saves up to "
        f"{numbers.percent(row['saved'])} of the teacher's passes."
        for row in rows_of(view_reuse.overall(analysis.reused))[:2]
    ]


def _clear(row: Row) -> str:
    return ", which is not clear," if row["sign"] == "none" else ""


# ---------------------------------------------------------------- the table


def verdict_table(analysis: Analysis) -> Table:
    """One row per student × device: best method with its gain, the export to take, its latency."""
    best = best_methods(analysis)
    deployed = analysis.deployed[analysis.deployed["valid"]].merge(best[GROUP], on=GROUP)
    picked = _picked(deployed)
    origins = list(dict.fromkeys(picked["origin"])) if len(picked) else []
    gain = ["gain", "gain_low", "gain_high", "protocol_gain", "protocol_low", "protocol_high"]
    seeds = ["n", "planned", "arrived", "pairs_failed", "baseline_failed", "own_failures", "tried"]
    rate = ["failing", "failing_low", "failing_high", "reason"]
    accuracy = ["accuracy", "accuracy_low", "accuracy_high"]
    frame = best[[*GROUP, *accuracy, *gain, *seeds, *rate, "sign", "is_baseline"]]
    frame = frame.rename(columns={name: f"test_{name}" for name in accuracy})
    if len(picked):
        order = {device.name: at for at, device in enumerate(analysis.results.lock.plan.devices)}
        picked = picked.sort_values("device", key=lambda d: d.map(order), kind="stable")
        picked = picked.drop(columns=["planned", "own_failures", "valid", "reasons"])
        renamed = {"n": "measured_cells", "warnings": "doubts"}
        frame = frame.merge(picked.rename(columns=renamed), on=GROUP, how="left")
    failing = bool(analysis.gains["own_failures"].any())
    rows = [_verdict_row(row, origins, failing=failing) for row in rows_of(frame)]
    columns = [
        Column("student", number=False),
        Column("best method", number=False, hint=f"{_most()} mean validation {scores.word()}"),
        Column(f"gain over no transfer, {scores.unit()}"),
        Column("n"),
        *([Column("failed seeds")] if failing else []),
        Column(f"test {scores.word()}"),
    ]
    if origins:
        columns += [Column("device", number=False), Column("export", number=False)]
        columns += [Column(f"p50, ms ({origin})") for origin in origins]
        columns += [Column("size"), Column(f"{scores.word()} as exported")]
    return Table(
        "verdict",
        "The best method per student, and the export to take on each device: the fastest whose "
        f"validation {scores.word()} is within {scores.small()} of the method's best export. "
        f"Chosen on validation; {scores.words()} are of the test set, means over seeds with "
        "Student's t "
        "interval." + (f" {doubt.LEGEND}" if origins and frame["doubtful"].eq(True).any() else ""),
        columns,
        rows[:40],
        by_origin(frame) if origins else frame,
        total=len(rows),
    )


def _picked(deployed: pd.DataFrame) -> pd.DataFrame:
    by = [*GROUP, "device"]
    best = deployed.groupby(by)["validation"].transform("max")
    near = deployed[deployed["validation"] >= best - scores.metric().step]
    return near.sort_values("p50_ms", kind="stable").drop_duplicates(by)


def _most() -> str:
    return "highest" if scores.metric().better == "more" else "least"


def _best() -> str:
    return "most accurate" if scores.word() == ACCURACY.word else "best"


_KINDS = {"positive": "gain", "negative": "loss", "none": "none", "unknown": "none"}


def gain_box(row: Row) -> Box:
    """`+2.1 [+1.0, +3.2]`, styled by its sign; with that of finished seeds where some failed."""
    if row.get("is_baseline"):
        return Box(numbers.NOTHING, "muted", "the comparison itself")
    bounds = scores.gain_interval(row["gain_low"], row["gain_high"])
    words = gain_words.beside(f"{scores.gain(row['gain'])} {bounds}".strip(), row)
    hint = gain_words.with_arrived(gain_words.counted(row), row)
    return Box(words, _KINDS[str(row["sign"])], hint)


def _verdict_row(row: Row, origins: list[str], *, failing: bool) -> list[Box]:
    boxes = [
        Box(str(row["student"])),
        Box(row["label"]),
        gain_box(row),
        gain_words.seeds_box(row),
        *([gain_words.failed_box(row)] if failing else []),
        Box(scores.figure_interval(*(row[f"test_accuracy{end}"] for end in _ENDS))),
    ]
    if not origins:
        return boxes
    if not isinstance(row["device"], str):
        return [*boxes, *(Box(numbers.NOTHING, "muted") for _ in range(4 + len(origins)))]
    threads = f", {int(row['threads'])} threads" if row["threads"] != 1 else ""
    boxes += [Box(row["device"]), Box(f"{row['export']}{threads}", hint=row["runtime"])]
    measured = {"valid": True, "reasons": "", "warnings": row["doubts"]}
    for origin in origins:
        own = row["origin"] == origin
        boxes.append(doubt.latency_box(row["p50_ms"], measured) if own else Box("", "muted"))
    interval = scores.figure_interval(*(row[f"accuracy{end}"] for end in _ENDS))
    accuracy = Box(scores.figure(row["accuracy"]), "", interval)
    return [*boxes, Box(numbers.size(row["bytes"])), accuracy]


_ENDS = ("", "_low", "_high")
