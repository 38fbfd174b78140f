"""Frames behind the report: gains, convergence, costs, deployments, integrity.

A *group* is (student, method, teacher) over all seeds. Choices are made on the validation set; the
test set is only reported. What frames call an accuracy is the task's metric as a quality, of which
more is better (`Results.cells`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.records import BASELINE, Augmentation
from ktbench.report.efficiency import frames, view_reuse
from ktbench.report.significance import judged
from ktbench.results import Problem, Results
from ktbench.results.contenders import NO_TRANSFER as NO_TRANSFER
from ktbench.results.lock import TaskWords
from ktbench.results.setting_names import settings_text

GROUP = ["student", "method", "teacher", "label"]
"""Names of a group; `label` is the method, with its teacher where the matrix has several."""

_COSTS = ("epoch", "seconds", "teacher_seconds", "flops", "teacher_flops")


def _names(cells: pd.DataFrame, budget: pd.Series[str]) -> tuple[pd.Series[str], pd.Series[str]]:
    """Names and labels of the cells' methods, with the budget where it is not the usual one."""
    odd = (" [" + budget + "]").where(budget != "", "")
    taught = cells["teacher"] != ""
    label = cells["plain_method"] + odd
    if cells.loc[taught, "teacher"].nunique() > 1:
        label += (" ← " + cells["teacher"]).where(taught, "")
    return cells["plain_method"] + odd, label.where(~cells["is_baseline"], NO_TRANSFER + odd)


_FIGURE = re.compile(r"_ms|_(mj|w|c|per_s)(_low|_high)?$|^slowdown$|^board_[ad]")


def by_origin(frame: pd.DataFrame) -> pd.DataFrame:
    """Split every device figure into one column per origin: `p50_ms_measured`, ..."""
    split = frame.copy()
    origins = list(dict.fromkeys(frame["origin"].dropna()))
    for name in [str(column) for column in frame.columns if _FIGURE.search(str(column))]:
        values = split.pop(name)
        for origin in origins:
            split[f"{name}_{origin}"] = values.where(split["origin"] == origin, np.nan)
    return split


def _bound(frame: pd.DataFrame, values: pd.Series, number: pd.Series[int]) -> None:
    """Add the bounds of the accuracies' t intervals to a frame of groups, in the groups' order."""
    known = values.notna().to_numpy()
    group = number.to_numpy(dtype=np.int64)[known]
    bounds = stats.intervals(values.to_numpy(dtype=float)[known], group, len(frame))
    frame["accuracy_low"], frame["accuracy_high"] = bounds.low, bounds.high


def _within(times: pd.DataFrame) -> dict[str, float]:
    """Figures of one group's epochs to the target, with what is censored."""
    reached, budget = times["epoch"].to_numpy(float), times["budget_epochs"].to_numpy(float)
    late = np.isnan(reached)
    median = stats.median_time(np.where(late, budget, reached), late)
    mean = stats.restricted_mean(reached, budget)
    base = np.fmin(times["base_epoch"].to_numpy(float), times["base_budget"].to_numpy(float))
    ratio = stats.interval(np.log(base / np.fmin(reached, budget)))
    bounds = (ratio.mean, ratio.low, ratio.high)
    figures = {
        "censored": late.sum(),
        "budget": budget.max(),
        "median_epoch": median.value,
        "median_low": median.low,
        "median_high": median.high,
        "within_epoch": mean.mean,
        "within_low": mean.low,
        "within_high": mean.high,
        **{
            f"x_within{end}": None if bound is None else np.exp(bound)
            for end, bound in zip(("", "_low", "_high"), bounds, strict=True)
        },
    }
    return {name: np.nan if value is None else float(value) for name, value in figures.items()}


def _distinct(texts: pd.Series[str]) -> str:
    """Distinct texts of a group, one after the other."""
    return "; ".join(text for text in dict.fromkeys(texts) if text)


def _failures(cells: pd.DataFrame, number: pd.Series[int]) -> pd.DataFrame:
    """By group: cells `trained`, failed by themselves, and the share of these with its bounds."""
    trained = cells["accuracy"].notna().groupby(number).sum().astype(int)
    own = (cells["failed_by"] == "technique").groupby(number).sum().astype(int)
    tried = trained + own
    low, high = stats.wilson(own, tried)
    share = own / tried.where(tried > 0)
    figures = {"failing": share, "failing_low": low, "failing_high": high}
    return pd.DataFrame({"trained": trained, "own_failures": own, "tried": tried, **figures})


def _pairs(cells: pd.DataFrame, number: pd.Series[int]) -> stats.Pairs:
    """The cells of each group beside their baselines, where both have an accuracy to count."""
    paired = cells[cells["gain_itt"].notna()]
    columns = paired[["accuracy_itt", "base_itt", "chance"]].to_numpy(dtype=float).T
    failed = [
        (paired[name] == "technique").to_numpy(dtype=bool)
        for name in ("failed_by", "base_failed_by")
    ]
    group = np.asarray(number[paired.index], dtype=np.int64)
    return stats.Pairs(group, columns[0], columns[1], failed[0], failed[1], columns[2])


@dataclass(frozen=True)
class Analysis:
    """Everything computed from a results folder; each frame is made on first use."""

    results: Results

    @property
    def task(self) -> TaskWords:
        """Words of the task that the cells learn."""
        return self.results.lock.task

    @cached_property
    def cells(self) -> pd.DataFrame:
        """`Results.cells` with the budget in the method's name, paired with the baseline.

        Adds `training` (the budget without how a teacher's outputs were reduced and when its
        transfer counted), `baseline` (key of the no-transfer cell of the same student, seed and
        training, or of the usual one where there is none), `gain` and `validation_gain` of the
        pairs in which both were trained, and `gain_itt` and `validation_gain_itt` with failures
        at chance level.
        """
        cells = self.results.cells.copy()
        cells["training"] = [
            self.budget_without(("outputs.", "distill."), key) for key in cells["key"]
        ]
        cells["is_baseline"] = cells["method"] == BASELINE.label
        cells["plain_method"] = cells["method"]
        named = cells["budget"]
        if self.sweeps_epochs:  # a budget without a name would be taken for the only one
            named = pd.Series([self._with_epochs(key) for key in cells["key"]], cells.index)
        cells["method"], cells["label"] = _names(cells, named)
        renamed = {
            "key": "baseline",
            "accuracy": "base",
            "validation": "validation_base",
            "accuracy_itt": "base_itt",
            "validation_itt": "validation_base_itt",
            "failed_by": "base_failed_by",
        }
        base = cells.loc[cells["is_baseline"], ["student", "seed", "training", *renamed]]
        base = base.rename(columns=renamed)
        same = cells.merge(base, on=["student", "seed", "training"], how="left")
        # `base` keeps the usual training first, so that it is what the others fall back to.
        usual = base.sort_values("training", key=lambda b: b != "", kind="stable")
        usual = usual.drop_duplicates(["student", "seed"]).drop(columns="training")
        other = cells.merge(usual, on=["student", "seed"], how="left")
        for name in renamed.values():
            cells[name] = same[name].where(same["baseline"].notna(), other[name])
        cells["gain"] = cells["accuracy"] - cells["base"]
        cells["validation_gain"] = cells["validation"] - cells["validation_base"]
        cells["gain_itt"] = cells["accuracy_itt"] - cells["base_itt"]
        cells["validation_gain_itt"] = cells["validation_itt"] - cells["validation_base_itt"]
        return cells

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """Accuracies by intention to treat: `student`, `technique`, `seed`, `accuracy`.

        One row per cell that was trained or failed by itself, no transfer included: a failure of
        the technique's own counts at chance level, and what is missing otherwise has no row.
        """
        names = {"label": "technique", "accuracy_itt": "accuracy"}
        columns = ["student", "label", "seed", "accuracy_itt"]
        frame = self.cells[columns].rename(columns=names).dropna(subset=["accuracy"])
        return frame.reset_index(drop=True)

    @cached_property
    def sweeps_epochs(self) -> bool:
        """True where no transfer is trained in several budgets, into one student."""
        plain = (c for c in self.results.lock.plan.cells if c.method == BASELINE)
        budgets = {(cell.student.label, cell.train.epochs) for cell in plain}
        return len(budgets) > len({student for student, _ in budgets})

    def _with_epochs(self, key: str) -> str:
        return settings_text({"epochs": str(self._epochs[key])} | self.results.differences[key])

    @cached_property
    def _epochs(self) -> dict[str, int]:
        plan = self.results.lock.plan
        return {c.key: c.train.epochs for c in (*plan.cells, *(s.cell for s in plan.skips))}

    def budget_without(self, prefix: str | tuple[str, ...], key: str) -> str:
        """A cell's budget in words, without the settings that start with `prefix`."""
        odd = self.results.differences[key]
        return settings_text({n: v for n, v in odd.items() if not n.startswith(prefix)})

    @cached_property
    def reused(self) -> pd.DataFrame:
        """`view_reuse.paired` of the cells whose samples are augmented at all.

        Empty unless the matrix has views and fresh augmentations.
        """
        likewise = [self.budget_without("views", key) for key in self.cells["key"]]
        cells = self.cells.assign(likewise=likewise)
        cells["method"], cells["label"] = _names(cells, cells["likewise"])
        plan = self.results.lock.plan
        unchanged = Augmentation() if not self.task.augmentation else None
        same = {
            cell.key
            for cell in plan.cells
            if cell.data.augment == unchanged and not cell.train.mixes
        }
        return view_reuse.paired(cells[~cells["key"].isin(same)], self.curves)

    @cached_property
    def trainings(self) -> pd.DataFrame:
        """`frames.trainings` of the results."""
        return frames.trainings(self.results)

    @cached_property
    def compared(self) -> list[frames.Comparison]:
        """`frames.comparisons`; none, and quickly so, where no budget is swept."""
        budgets = {c.train.epochs for c in self.results.lock.plan.cells if c.teacher is not None}
        return frames.comparisons(self.trainings) if len(budgets) > 1 else []

    @cached_property
    def speedups(self) -> pd.DataFrame:
        """`frames.headlines` of what is `compared`."""
        return frames.headlines(self.compared)

    @cached_property
    def by_budget(self) -> pd.DataFrame:
        """`frames.by_budget` of what is `compared`."""
        return frames.by_budget(self.compared)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """`Results.curves` with the columns that the report needs."""
        return self.results.read_curves(["validation_accuracy", *_COSTS])

    @cached_property
    def problems(self) -> list[Problem]:
        """All damage in the folder among the files that the report reads."""
        _ = self.curves
        for measurement in self.results.all_measurements:
            self.results.samples(measurement)
        return self.results.problems

    @cached_property
    def students(self) -> list[str]:
        """Student labels in the matrix's order."""
        return list(dict.fromkeys(self.cells["student"]))

    @cached_property
    def methods(self) -> list[str]:
        """Method labels in the matrix's order, without the baseline."""
        return list(dict.fromkeys(self.cells.loc[~self.cells["is_baseline"], "method"]))

    @cached_property
    def teachers(self) -> list[str]:
        """Teacher names in the matrix's order."""
        return [name for name in dict.fromkeys(self.cells["teacher"]) if name]

    @cached_property
    def gains(self) -> pd.DataFrame:
        """One row per group: paired gain with interval, accuracies, what failed; `judged` of it.

        Intervals are each group's own; signs are judged among all groups but the baselines. A
        technique's own failures (`own_failures` of `planned` cells) count at chance level in gains
        and in `validation`, by which is chosen; `accuracy` is that of the trained. `failing` with
        its bounds is the share of failures among those `tried`.
        """
        cells = self.cells
        keys, number = self._groups(cells)
        frame = keys.copy()
        for status in ("done", "failed", "skipped", "damaged", "pending"):
            frame[status] = (cells["status"] == status).groupby(number).sum().astype(int)
        frame["reason"] = cells.loc[cells["reason"] != ""].groupby(number)["reason"].first()
        frame["reason"] = frame["reason"].fillna("")
        frame["planned"] = (cells["status"] != "skipped").groupby(number).sum().astype(int)
        means = cells[["accuracy", "validation_itt", "validation_gain_itt", "parameters"]]
        renamed = {"validation_itt": "validation", "validation_gain_itt": "validation_gain"}
        frame = frame.join(means.astype(float).groupby(number).mean().rename(columns=renamed))
        _bound(frame, cells["accuracy"], number)
        frame = frame.join(_failures(cells, number))
        pairs = _pairs(cells, number)
        compared = ~frame["is_baseline"].to_numpy(dtype=bool)
        race = self.results.lock.plan.race
        rule = None if race is None else stats.SeedRule(race.start, race.most)
        return frame.join(judged(pairs, compared, self.task.metric.step / 2, rule))

    @staticmethod
    def _groups(cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[int]]:
        """The distinct groups in order of appearance, and each cell's number among them."""
        number = cells.groupby(GROUP, sort=False).ngroup()
        keys = cells[[*GROUP, "plain_method", "is_baseline", "budget"]].groupby(number).first()
        return keys, number

    @cached_property
    def arrivals(self) -> pd.DataFrame:
        """One row per trained cell: when it first reached the no-transfer's final accuracy.

        The target is the validation accuracy after the last epoch of the baseline with the same
        seed. Costs are cumulative at the end of the first epoch that reaches it, NaN if none does.
        """
        curves = self.curves
        columns = ["key", *GROUP, "seed", "baseline", "is_baseline"]
        cells = self.cells.loc[self.cells["accuracy"].notna(), columns].set_index("key")
        if curves.empty or cells.empty:
            extra = [*_COSTS, "target"]
            return cells.reset_index().reindex(columns=[*columns, *extra])
        keys = curves["key"].astype(object).to_numpy()
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        ends = np.r_[starts[1:], len(keys)]
        accuracy = curves["validation_accuracy"].to_numpy(dtype=float)
        final = pd.Series(accuracy[ends - 1], index=keys[starts])
        cells = cells.reindex(keys[starts])
        target = cells["baseline"].map(final).to_numpy(dtype=float)
        at = stats.first_reaching_each(accuracy, target, np.r_[starts, len(keys)])
        reached = ~np.isnan(at)
        cells["target"] = target
        for name in _COSTS:
            values = np.full(len(cells), np.nan)
            values[reached] = curves[name].to_numpy(dtype=float)[at[reached].astype(int)]
            cells[name] = values
        return cells.rename_axis("key").reset_index()

    @cached_property
    def convergence(self) -> pd.DataFrame:
        """One row per group: cost to the no-transfer's final accuracy, and ratios to no transfer.

        `reached` of `seeds`, failed ones included; the others are `censored` at the end of their
        budget. Costs and `x_...` are over the seeds that reached it: means, and geometric means of
        (no transfer's cost / this one's), above 1 is faster. Over all seeds: `median_epoch` with
        its interval (`stats.median_time`), and `within_epoch`, the mean within the budget, with
        its own (`stats.restricted_mean`); `x_within` is the ratio of no transfer's to it, over the
        same seeds, and a bound where anything is censored. NaN: later than the budget.
        """
        arrivals = self.arrivals.dropna(subset=["target"]).copy()
        arrivals["seconds_all"] = arrivals["seconds"] + arrivals["teacher_seconds"]
        arrivals["flops_all"] = arrivals["flops"] + arrivals["teacher_flops"]
        own = arrivals.set_index("key")
        costs = ["epoch", "seconds", "seconds_all", "flops", "flops_all"]
        for name in costs:
            base = arrivals["baseline"].map(own[name])
            with np.errstate(divide="ignore", invalid="ignore"):
                arrivals[f"x_{name}"] = np.log(base.astype(float) / arrivals[name])
        arrivals = arrivals.replace([np.inf, -np.inf], np.nan)
        by = [*GROUP, "is_baseline"]
        grouped = arrivals.groupby(by, sort=False)
        frame = grouped[[*costs, *(f"x_{name}" for name in costs)]].mean()
        for name in costs:
            frame[f"x_{name}"] = np.exp(frame[f"x_{name}"])
        frame["reached"] = grouped["epoch"].count()
        times = self._times(arrivals)
        within = [_within(rows) for _, rows in times.groupby(by, sort=False)]
        order = times.groupby(by, sort=False).size()
        frame = frame.reindex(order.index)  # a group of which all failed has a row too
        frame["reached"] = frame["reached"].fillna(0).astype(int)
        frame["seeds"] = order
        return frame.join(pd.DataFrame(within, index=order.index)).reset_index()

    def _times(self, arrivals: pd.DataFrame) -> pd.DataFrame:
        """Epochs to the target of every seed, with its budget and no transfer's epochs.

        A technique's own failure never reaches the target of its seed.
        """
        targets = set(arrivals.loc[arrivals["is_baseline"], "key"])
        cells = self.cells[self.cells["baseline"].isin(targets)]
        counted = cells["key"].isin(arrivals["key"]) | (cells["failed_by"] == "technique")
        epochs = arrivals.set_index("key")["epoch"]
        budgets = self.cells.set_index("key")["budget_epochs"]
        times = cells.loc[counted, ["key", *GROUP, "is_baseline", "baseline", "budget_epochs"]]
        return times.assign(
            epoch=times["key"].map(epochs).astype(float),
            base_epoch=times["baseline"].map(epochs).astype(float),
            base_budget=times["baseline"].map(budgets).astype(float),
        )

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row per group: mean training cost alone, the teacher's part, and as really shared."""
        names = ["seconds", "teacher_seconds", "shared_seconds", "flops", "teacher_flops"]
        trained = self.cells.loc[self.cells["accuracy"].notna(), [*GROUP, "is_baseline", *names]]
        trained = trained.astype({name: float for name in names})
        grouped = trained.groupby([*GROUP, "is_baseline"], sort=False)
        frame = grouped[names].mean()
        frame["n"] = grouped.size()
        return frame.reset_index()

    @cached_property
    def exported(self) -> pd.DataFrame:
        """One row per group × export: size, and accuracy of the artifact over the seeds."""
        joined = self.cells[["key", *GROUP, "accuracy"]].merge(self.results.artifacts, on="key")
        joined["change"] = joined["test_accuracy"] - joined["accuracy"]
        grouped = joined.groupby([*GROUP, "export"], sort=False)
        frame = grouped.agg(
            n=("key", "size"),
            bytes=("bytes", "mean"),
            accuracy=("test_accuracy", "mean"),
            validation=("validation_accuracy", "mean"),
            change=("change", "mean"),
            remarks=("remarks", _distinct),
        )
        _bound(frame, joined["test_accuracy"], grouped.ngroup())
        return self._with_planned(frame)

    @cached_property
    def deployed(self) -> pd.DataFrame:
        """One row per group × export × comparable measurement: accuracy beside latency.

        `p50_ms` is the median over the group's measurements; one graph's is the same for all. With
        `accuracy` stands its t interval over the seeds. `doubtful`: a measurement has a warning or
        is not valid.
        """
        joined = self.results.deployed.drop(columns=GROUP[:3])
        joined = self.cells[["key", *GROUP]].merge(joined, on="key")
        by = [*GROUP, "export", "device", "origin", "threads", "runtime", "comparability"]
        grouped = joined.groupby(by, sort=False)
        frame = grouped.agg(
            n=("key", "size"),
            accuracy=("artifact_accuracy", "mean"),
            validation=("validation_accuracy", "mean"),
            bytes=("bytes", "mean"),
            p50_ms=("p50_ms", "median"),
            p90_ms=("p90_ms", "median"),
            valid=("valid", "all"),
            reasons=("reasons", _distinct),
            warnings=("warnings", _distinct),
        )
        _bound(frame, joined["artifact_accuracy"], grouped.ngroup())
        frame["doubtful"] = ~frame["valid"].astype(bool) | (frame["warnings"] != "")
        return self._with_planned(frame)

    def _with_planned(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame of groups with the seeds that were planned, and those that failed by the way."""
        seeds = self.gains.set_index(GROUP)[["planned", "own_failures"]]
        return frame.reset_index().merge(seeds, left_on=GROUP, right_index=True, how="left")

    @cached_property
    def integrity(self) -> pd.DataFrame:
        """One row per student × export: agreement of the artifacts with torch."""
        joined = self.cells[["key", "student", "accuracy"]].merge(self.results.artifacts, on="key")
        joined["change"] = joined["test_accuracy"] - joined["accuracy"]
        return (
            joined.groupby(["export", "student"], sort=False)
            .agg(
                artifacts=("key", "size"),
                agreement_mean=("agreement", "mean"),
                agreement_least=("agreement", "min"),
                agreement_required=("least_agreement", "max"),
                difference_largest=("max_difference", "max"),
                change_mean=("change", "mean"),
                change_least=("change", "min"),
                change_most=("change", "max"),
                bytes=("bytes", "mean"),
                runtime=("runtime", "first"),
                remarks=("remarks", _distinct),
            )
            .reset_index()
        )

    @cached_property
    def noise(self) -> pd.DataFrame:
        """One row per graph that was measured more than once in comparable conditions.

        Such measurements differ in weights alone, which cannot change latency: `spread` is noise.
        """
        measured = self.results.measurements
        measured = measured[measured["valid"]] if len(measured) else measured
        by = ["device", "origin", "threads", "runtime", "export", "graph_key", "comparability"]
        grouped = measured.groupby(by, sort=False)
        frame = grouped.agg(
            n=("p50_ms", "size"), least=("p50_ms", "min"), most=("p50_ms", "max")
        ).reset_index()
        frame = frame[frame["n"] > 1].reset_index(drop=True)
        frame["spread"] = frame["most"] / frame["least"] - 1
        return frame
