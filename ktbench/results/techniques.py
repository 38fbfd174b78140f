"""Technique against technique: which may be best for a student, in pairs, and over students.

Techniques contend where only they differ: with the same student and the same training. No transfer
contends too, as it may be the best; pairs of techniques leave it out, since every gain over it is a
comparison of its own family.

Everything here is a function of one frame, a row per cell: `student`, `training`, `technique`,
`is_baseline`, `seed`, `accuracy` and `validation` (NaN where there is none; failures that count
have figures) and `failed` (the figures stand for a failure).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ktbench import stats
from ktbench.records import BASELINE
from ktbench.results.setting_names import settings_text

NO_TRANSFER = "no transfer"
"""Name of the technique that has no teacher."""

MOST_LETTERED = 60
"""Techniques of one student beyond which no letters are made: nobody could read them."""

_TEACHING = ("outputs.", "distill.")
"""Beginnings of settings that belong to a technique, not to the training that others share."""

_STANDINGS = ("not judged", "clearly worse", "may be best", "best")


def contenders(cells: pd.DataFrame, differences: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """One row per cell, with what it contends in and as.

    cells, differences: `Results.cells` and `Results.differences`. `training` is what this training
    does differently from most, empty for most; a method with a training that no transfer does not
    have contends in the usual one, with its settings in its name. `method`, `teacher` and `budget`
    are those of `cells`.
    """
    frame = cells[["key", "student", "method", "teacher", "budget", "seed"]].copy()
    frame["epochs"] = cells["budget_epochs"]
    frame["accuracy"] = _counted(cells, "accuracy")
    frame["validation"] = _counted(cells, "validation")
    frame["failed"] = cells["accuracy"].isna() & frame["accuracy"].notna()
    frame["is_baseline"] = frame["method"] == BASELINE.label
    odd = [differences[key] for key in frame["key"]]
    if frame.loc[frame["is_baseline"], "epochs"].nunique() > 1:
        each = zip(odd, frame["epochs"], strict=True)
        odd = [{"epochs": str(epochs), **settings} for settings, epochs in each]
    own = [settings_text(_shared(settings)) for settings in odd]
    bases = frame.assign(training=own)[frame["is_baseline"]]
    has_base = set(zip(bases["student"], bases["training"], strict=True))
    usual = bases.sort_values("training", kind="stable").drop_duplicates("student")
    fallback = dict(zip(usual["student"], usual["training"], strict=True))
    is_own = [pair in has_base for pair in zip(frame["student"], own, strict=True)]
    frame["training"] = [
        training if alone else fallback.get(student, training)
        for student, training, alone in zip(frame["student"], own, is_own, strict=True)
    ]
    several = frame.loc[frame["teacher"] != "", "teacher"].nunique() > 1
    names = zip(frame["method"], frame["teacher"], frame["training"], odd, strict=True)
    frame["technique"] = [_name(m, t if several else "", tr, o) for m, t, tr, o in names]
    return frame


def _counted(cells: pd.DataFrame, name: str) -> pd.Series[float]:
    """Accuracy that counts for each cell, or NaN: the place where failed cells get a figure."""
    by_intention = f"{name}_itt"
    return cells[by_intention if by_intention in cells else name]


def _shared(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: v for name, v in settings.items() if not name.startswith(_TEACHING)}


def _name(method: str, teacher: str, training: str, settings: Mapping[str, str]) -> str:
    """The method with the settings that its rivals do not share, and its teacher."""
    own = settings
    if settings_text(_shared(settings)) == training:
        own = {n: v for n, v in settings.items() if n.startswith(_TEACHING)}
    name = NO_TRANSFER if method == BASELINE.label else method
    return name + (f" [{settings_text(own)}]" if own else "") + (f" ← {teacher}" if teacher else "")


@dataclass(frozen=True)
class _Contest:
    """One student's and training's techniques with figures: (K, S), and (K,) who has failures."""

    names: dict[str, str]
    techniques: list[str]
    is_baseline: stats.Bools
    table: stats.Floats
    failed: stats.Bools

    @property
    def methods(self) -> stats.Floats:
        """Rows of the techniques that have a teacher."""
        return self.table[~self.is_baseline]


def _contests(frame: pd.DataFrame) -> list[_Contest]:
    """All contests with two techniques or more, in the frame's order."""
    known = frame[frame["accuracy"].notna()]
    contests = []
    for (student, training), rows in known.groupby(["student", "training"], sort=False):
        order = list(dict.fromkeys(rows["technique"]))
        table = rows.pivot_table(index="technique", columns="seed", values="accuracy").loc[order]
        each = rows.groupby("technique")[["failed", "is_baseline"]].any().loc[order]
        if len(order) > 1:
            names = {"student": str(student), "training": str(training)}
            contests.append(
                _Contest(
                    names,
                    order,
                    each["is_baseline"].to_numpy(dtype=bool),
                    table.to_numpy(dtype=float),
                    each["failed"].to_numpy(dtype=bool),
                )
            )
    return contests


def standings(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per student, training and technique, the most accurate first.

    `accuracy`, `validation`: means over `n` seeds, of which `failed` are failures. `standing`: best
    (every other is clearly worse), may be best (not clearly worse than the best), clearly worse, or
    not judged; `p` of being the best and `behind`, at most so far behind the best (infinite where
    it is not known), are `stats.best_set`'s for this student alone. `letters`: techniques of a
    student that share one do not differ clearly, by `pairs`; empty for no transfer and where
    nothing is judged.
    """
    contests = _contests(frame)
    lettered = _letters(contests)
    parts = []
    for number, contest in enumerate(contests):
        part = pd.DataFrame({**contest.names, "technique": contest.techniques})
        part["is_baseline"] = contest.is_baseline
        part = pd.concat([part, _standing(contest)], axis=1)
        part["letters"] = ""
        part.loc[~contest.is_baseline, "letters"] = lettered[number]
        parts.append(part.sort_values("accuracy", ascending=False, kind="stable"))
    rows = frame.groupby(["student", "training", "technique"], sort=False)
    identity = rows[["method", "teacher", "budget"]].first().reset_index()
    sums = rows.agg(failed=("failed", "sum"), validation=("validation", "mean")).reset_index()
    columns = ["student", "training", "technique"]
    if not parts:
        return pd.DataFrame(columns=[*columns, *_STANDING_COLUMNS])
    joined = pd.concat(parts, ignore_index=True).merge(sums, on=columns).merge(identity, on=columns)
    return joined[[*columns, *_STANDING_COLUMNS]]


_STANDING_COLUMNS = (
    *("method", "teacher", "budget", "is_baseline", "accuracy", "validation"),
    *("n", "failed", "standing", "p", "behind", "letters"),
)


def _standing(contest: _Contest) -> pd.DataFrame:
    chosen = stats.best_set(contest.table, contest.failed)
    alone = chosen.inside & (chosen.inside.sum() == 1)
    kinds = [~chosen.judged, ~chosen.inside, ~alone]
    return pd.DataFrame(
        {
            "accuracy": np.nanmean(contest.table, axis=1),
            "n": (~np.isnan(contest.table)).sum(axis=1),
            "standing": np.select(kinds, _STANDINGS[:3], _STANDINGS[3]),
            "p": np.where(chosen.judged, chosen.p, np.nan),
            "behind": chosen.behind,
        }
    )


def _compared(contests: list[_Contest]) -> list[stats.TechniquePairs]:
    """All pairs of techniques with a teacher, all contests one family."""
    failed = [contest.failed[~contest.is_baseline] for contest in contests]
    return stats.all_pairs([contest.methods for contest in contests], failed)


def _letters(contests: list[_Contest]) -> list[list[str]]:
    """Letters of each contest's techniques with a teacher; empty where nothing is judged."""
    letters = []
    for contest, pairs in zip(contests, _compared(contests), strict=True):
        count = len(contest.methods)
        made = None
        if 1 < count <= MOST_LETTERED and not np.isnan(pairs.p).all():
            differ = np.zeros((count, count), dtype=bool)
            clear = np.isin(pairs.sign, ("positive", "negative"))
            differ[pairs.first[clear], pairs.second[clear]] = True
            order = np.argsort(-np.nanmean(contest.methods, axis=1), kind="stable")
            made = stats.compact_letters(order.tolist(), differ | differ.T)
        letters.append(made or [""] * count)
    return letters


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per student, training and pair of techniques, `technique` the better by its mean.

    `difference` (technique minus `other`) with its own t interval over `n` shared seeds; `p`, and
    `p_holm` and `sign` among all rows of the frame, which are one family. The sign is positive,
    none, or unknown where the pair is not judged.
    """
    contests = _contests(frame)
    parts = []
    for contest, compared in zip(contests, _compared(contests), strict=True):
        techniques = np.array(contest.techniques, dtype=object)[~contest.is_baseline]
        first, second = techniques[compared.first], techniques[compared.second]
        apart = compared.interval
        is_turned = apart.mean < 0
        part = pd.DataFrame({"technique": np.where(is_turned, second, first)})
        part["other"] = np.where(is_turned, first, second)
        part["difference"] = np.abs(apart.mean)
        part["low"] = np.where(is_turned, -apart.high, apart.low)
        part["high"] = np.where(is_turned, -apart.low, apart.high)
        part["n"], part["p"], part["p_holm"] = apart.n, compared.p, compared.adjusted
        part["sign"] = [sign.replace("negative", "positive") for sign in compared.sign]
        for at, (name, value) in enumerate(contest.names.items()):
            part.insert(at, name, value)
        parts.append(part)
    columns = ["student", "training", "technique", "other", "difference", "low", "high"]
    columns += ["n", "p", "p_holm", "sign"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


@dataclass(frozen=True)
class OverStudents:
    """Techniques over the students of one training that have all of them.

    `standings`: one row per technique, the most accurate first: `accuracy` (mean over students and
    seeds), `n` (seeds), `standing`, `p` and `behind` as of one student, for the mean of these
    students; `rank` (mean, 1 the best) and `letters` of Nemenyi's test. `friedman_p`: that
    techniques rank alike; it, ranks and letters are missing below `stats.LEAST_RANKED` students.
    """

    training: str
    students: list[str]
    left_out: list[str]
    """Techniques that some student lacks."""
    standings: pd.DataFrame
    friedman_p: float
    critical_difference: float


def over_students(frame: pd.DataFrame) -> Iterator[OverStudents]:
    """Compare techniques over the students of each training that two or more students share.

    Means over students are compared seed by seed, as one table: the students are those of the
    matrix and no sample of others. Ranks take the students for a sample.
    """
    for training, contests in _by_training(frame).items():
        if len(contests) < 2:
            continue
        common = [t for t in contests[0].techniques if all(t in c.techniques for c in contests)]
        every = dict.fromkeys(t for c in contests for t in c.techniques)
        if len(common) > 1:
            left_out = [t for t in every if t not in common]
            yield _over_students(frame, training, contests, common, left_out)


def _by_training(frame: pd.DataFrame) -> dict[str, list[_Contest]]:
    by_training: dict[str, list[_Contest]] = {}
    for contest in _contests(frame):
        by_training.setdefault(contest.names["training"], []).append(contest)
    return by_training


def _over_students(
    frame: pd.DataFrame,
    training: str,
    contests: list[_Contest],
    techniques: list[str],
    left_out: list[str],
) -> OverStudents:
    students = [contest.names["student"] for contest in contests]
    rows = frame[(frame["training"] == training) & frame["student"].isin(students)]
    rows = rows[rows["technique"].isin(techniques)]
    wide = rows.pivot_table(
        index=["student", "technique"], columns="seed", values="accuracy", dropna=False
    )
    index = pd.MultiIndex.from_product([students, techniques])
    values = wide.reindex(index).to_numpy(dtype=float)
    cube = values.reshape(len(students), len(techniques), -1)  # (N, K, S)
    each = rows.groupby("technique")[["failed", "is_baseline"]].any().loc[techniques]
    together = _Contest(
        {"training": training},
        techniques,
        each["is_baseline"].to_numpy(dtype=bool),
        cube.mean(axis=0),  # NaN where a student lacks the seed
        each["failed"].to_numpy(dtype=bool),
    )
    part = pd.DataFrame({"technique": techniques, "is_baseline": together.is_baseline})
    part = pd.concat([part, _standing(together)], axis=1)
    part["rank"], part["letters"] = np.nan, ""
    p = critical = float("nan")
    if min(len(students), len(techniques)) >= stats.LEAST_RANKED:
        ranks = stats.mean_ranks(np.nanmean(cube, axis=2))
        order = np.argsort(ranks.rank, kind="stable").tolist()
        part["rank"] = ranks.rank
        letters = stats.compact_letters(order, ranks.p_pairs <= 1 - stats.LEVEL)
        part["letters"] = letters or ""
        p, critical = ranks.p, ranks.critical_difference
    part = part.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)
    return OverStudents(training, students, left_out, part, p, critical)
