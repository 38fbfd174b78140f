"""Technique against technique: which may be best for a student, in pairs, and over students.

Techniques contend where only they differ: with the same student and the same training. No transfer
contends too, as it may be the best; pairs of techniques leave it out, since every gain over it is a
comparison of its own family.

Everything here is a function of one frame, a row per cell: `student`, `training`, `technique`,
`is_baseline`, `seed`, `accuracy` and `validation` (NaN where there is none; failures that count
have figures) and `failed` (the figures stand for a failure).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ktbench import stats

MOST_LETTERED = 60
"""Techniques of one student beyond which no letters are made: nobody could read them."""

_STANDINGS = ("not judged", "clearly worse", "may be best", "best")


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
    """Techniques that no seed has for every student."""
    standings: pd.DataFrame
    friedman_p: float
    critical_difference: float


@dataclass(frozen=True)
class Techniques:
    """Every comparison of the techniques of one frame of contenders, each made on first use."""

    frame: pd.DataFrame

    @cached_property
    def _contests(self) -> list[_Contest]:
        """All contests with two techniques or more, in the frame's order."""
        known = self.frame[self.frame["accuracy"].notna()]
        grouped = known.groupby(["student", "training"], sort=False)
        contests = [_contest(str(s), str(t), rows) for (s, t), rows in grouped]
        return [contest for contest in contests if len(contest.techniques) > 1]

    @cached_property
    def _compared(self) -> list[stats.TechniquePairs]:
        """All pairs of techniques with a teacher, all contests one family."""
        failed = [contest.failed[~contest.is_baseline] for contest in self._contests]
        return stats.all_pairs([contest.methods for contest in self._contests], failed)

    @cached_property
    def standings(self) -> pd.DataFrame:
        """One row per student, training and technique, the most accurate first.

        `accuracy`, `validation`: means over `n` seeds, of which `failed` are failures. `standing`:
        best (every other is clearly worse), may be best (not clearly worse than the best), clearly
        worse, or not judged; `p` of being the best and `behind`, at most so far behind the best
        (infinite where it is not known), are `stats.best_set`'s for this student alone. `letters`:
        techniques of a student that share one do not differ clearly, by `pairs`; empty for no
        transfer and where nothing is judged.
        """
        columns = ["student", "training", "technique"]
        if not self._contests:
            return pd.DataFrame(columns=[*columns, *_STANDING_COLUMNS])
        parts = []
        for contest, pairs in zip(self._contests, self._compared, strict=True):
            part = pd.DataFrame({**contest.names, "technique": contest.techniques})
            part["is_baseline"] = contest.is_baseline
            part = pd.concat([part, _standing(contest)], axis=1)
            part["letters"] = ""
            part.loc[~contest.is_baseline, "letters"] = _letters(contest, pairs)
            parts.append(part.sort_values("accuracy", ascending=False, kind="stable"))
        rows = self.frame.groupby(columns, sort=False)
        identity = rows[["method", "teacher", "budget"]].first().reset_index()
        sums = rows.agg(failed=("failed", "sum"), validation=("validation", "mean")).reset_index()
        joined = pd.concat(parts, ignore_index=True).merge(sums, on=columns)
        return joined.merge(identity, on=columns)[[*columns, *_STANDING_COLUMNS]]

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row per student, training and two techniques, `technique` the better by its mean.

        `difference` (technique minus `other`) with its own t interval over `n` shared seeds; `p`,
        and `p_holm` and `sign` among all rows, which are one family. The sign is positive, none, or
        unknown where the pair is not judged. No transfer is in no pair.
        """
        both = zip(self._contests, self._compared, strict=True)
        parts = [_pair_rows(contest, compared) for contest, compared in both]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_PAIR_COLUMNS)

    @cached_property
    def over_students(self) -> list[OverStudents]:
        """Techniques over the students of each training that two or more students share.

        Means over students are compared seed by seed, as one table: the students are those of the
        matrix and no sample of others. Ranks take the students for a sample.
        """
        by_training: dict[str, list[_Contest]] = {}
        for contest in self._contests:
            by_training.setdefault(contest.names["training"], []).append(contest)
        wholes = [
            _over_students(self.frame, training, contests)
            for training, contests in by_training.items()
            if len(contests) > 1
        ]
        return [whole for whole in wholes if len(whole.standings) > 1]


def _contest(student: str, training: str, rows: pd.DataFrame) -> _Contest:
    technique, techniques = pd.factorize(rows["technique"])
    seed, seeds = pd.factorize(rows["seed"], sort=True)
    table = np.full((len(techniques), len(seeds)), np.nan)
    table[technique, seed] = rows["accuracy"].to_numpy(dtype=float)
    marks = np.zeros((2, len(techniques)), dtype=bool)
    for mark, name in zip(marks, ("is_baseline", "failed"), strict=True):
        mark[technique[rows[name].to_numpy(dtype=bool)]] = True
    names = {"student": student, "training": training}
    return _Contest(names, list(techniques), marks[0], table, marks[1])


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


def _letters(contest: _Contest, pairs: stats.TechniquePairs) -> list[str]:
    """Letters of a contest's techniques with a teacher; empty where nothing is judged."""
    count = len(contest.methods)
    if not 1 < count <= MOST_LETTERED or np.isnan(pairs.p).all():
        return [""] * count
    differ = np.zeros((count, count), dtype=bool)
    clear = np.isin(pairs.sign, ("positive", "negative"))
    differ[pairs.first[clear], pairs.second[clear]] = True
    order = np.argsort(-np.nanmean(contest.methods, axis=1), kind="stable")
    return stats.compact_letters(order.tolist(), differ | differ.T) or [""] * count


_PAIR_COLUMNS = ["student", "training", "technique", "other", "difference", "low", "high"]
_PAIR_COLUMNS += ["n", "p", "p_holm", "sign"]


def _pair_rows(contest: _Contest, compared: stats.TechniquePairs) -> pd.DataFrame:
    techniques = np.array(contest.techniques, dtype=object)[~contest.is_baseline]
    first, second = techniques[compared.first], techniques[compared.second]
    apart = compared.interval
    is_turned = apart.mean < 0
    columns = {
        "technique": np.where(is_turned, second, first),
        "other": np.where(is_turned, first, second),
        "difference": np.abs(apart.mean),
        "low": np.where(is_turned, -apart.high, apart.low),
        "high": np.where(is_turned, -apart.low, apart.high),
        "n": apart.n,
        "p": compared.p,
        "p_holm": compared.adjusted,
        "sign": [sign.replace("negative", "positive") for sign in compared.sign],
    }
    return pd.DataFrame(columns).assign(**contest.names)[_PAIR_COLUMNS]


def _over_students(frame: pd.DataFrame, training: str, contests: list[_Contest]) -> OverStudents:
    students = [contest.names["student"] for contest in contests]
    every = list(dict.fromkeys(name for contest in contests for name in contest.techniques))
    rows = frame[(frame["training"] == training) & frame["student"].isin(students)]
    wide = rows.pivot_table(
        index=["student", "technique"], columns="seed", values="accuracy", dropna=False
    )
    values = wide.reindex(pd.MultiIndex.from_product([students, every])).to_numpy(dtype=float)
    cube = values.reshape(len(students), len(every), -1)  # (N, K, S)
    mean = cube.mean(axis=0)  # NaN where a student lacks the seed
    is_common = ~np.isnan(mean).all(axis=1)
    techniques = [name for name, common in zip(every, is_common, strict=True) if common]
    each = rows.groupby("technique")[["failed", "is_baseline"]].any().reindex(techniques)
    together = _Contest(
        {"training": training},
        techniques,
        each["is_baseline"].to_numpy(dtype=bool),
        mean[is_common],
        each["failed"].to_numpy(dtype=bool),
    )
    left_out = [name for name in every if name not in techniques]
    return _ranked(together, cube[:, is_common], students, left_out)


def _ranked(
    together: _Contest, cube: stats.Floats, students: list[str], left_out: list[str]
) -> OverStudents:
    """Standings of the students' mean, with ranks where there are students enough."""
    names = {"technique": together.techniques, "is_baseline": together.is_baseline}
    part = pd.concat([pd.DataFrame(names), _standing(together)], axis=1)
    part["rank"], part["letters"] = np.nan, ""
    p = critical = float("nan")
    if min(cube.shape[:2]) >= stats.LEAST_RANKED:
        ranks = stats.mean_ranks(np.nanmean(cube, axis=2))
        order = np.argsort(ranks.rank, kind="stable").tolist()
        part["rank"], part["letters"] = (
            ranks.rank,
            stats.compact_letters(order, ranks.differ) or "",
        )
        p, critical = ranks.p, ranks.critical_difference
    part = part.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)
    return OverStudents(together.names["training"], students, left_out, part, p, critical)
