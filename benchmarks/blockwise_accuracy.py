"""Blockwise students come within a point of their teacher, finished likewise, at 40 % of its size.

The study's own matrix at a size that two cores carry (matrices/blockwise-small.yaml; CIFAR-10), or
a results folder of it that `$KTBENCH_RESULTS` names: every 3 x 3 convolution of a teacher replaced
by two separable ones, trained alone, put together, and finished by cross-entropy and by
distillation from the whole teacher. The corrected block ends in a signed layer, the study's in a
ReLU, which cannot reach a target from before an activation. Test accuracies, means over seeds with
Student's t interval at 95 %; nothing was chosen by them. What is lost is counted, by seed, against
the teacher after the same further training by cross-entropy, which makes it better too.
"""

from __future__ import annotations

from statistics import mean

from benchmarks import _study
from benchmarks._claim import Outcome
from benchmarks._study import TEACHER, Row, Study
from ktbench import stats

POINTS, SHARE, FAR = 0.01, 0.40, 0.05
CORRECTED, PLAIN = "separable", "depthwise_separable"


def run() -> Outcome:
    """Tell every step from the teacher to the finish; judge the corrected block."""
    with _study.results_folder() as folder:
        found = _study.study(folder)
    for line in lines(found):
        print(line)
    return judged(found)


def lines(found: Study) -> list[str]:
    """A row per student and finish."""
    told = []
    for student, method in dict.fromkeys((row.student, row.method) for row in found.rows):
        rows = _of(found, student, method)
        told.append(
            f"{student:<20} {share(rows):>4.0%} of the parameters: teacher "
            f"{mean(r.start.teacher_test for r in rows):.1%}, assembled {assembled(rows):.1%}, "
            f"after {method} {finished(rows):.1%} (n = {len(rows)})"
        )
    return told


def judged(found: Study) -> Outcome:
    """The corrected block's better finish by validation; its assembled accuracy and the study's."""
    own = [row for row in found.rows if row.student == CORRECTED]
    methods = {row.method: _of(found, CORRECTED, row.method) for row in own}
    if not methods:
        raise RuntimeError(f"no student of {CORRECTED} blocks")
    best = max(methods.values(), key=lambda rows: mean(_validation(r) for r in rows))
    teacher = {r.seed: _accuracy(r, "test") for r in _of(found, TEACHER, "none")}
    lost = stats.paired_gain(teacher, {row.seed: _accuracy(row, "test") for row in best})
    if lost is None:
        raise RuntimeError("the teacher was not finished likewise by any seed of the students")
    kept = share(best)
    # The blocks do not depend on the finish: one row per seed.
    theirs = {row.seed: row.start.test for row in found.rows if row.student == PLAIN}
    ahead = stats.paired_gain({row.seed: row.start.test for row in best}, theirs)
    against = points(ahead, sign=True) if ahead else "no figure"
    return Outcome(
        f"{points(lost)} points below the teacher finished likewise, after {best[0].method}, at "
        f"{kept:.0%} of the parameters; "
        f"assembled {against} points against the study's block",
        f"<= {100 * POINTS:g} point at <= {SHARE:.0%}, >= {100 * FAR:+g} points",
        lost.mean <= POINTS and kept <= SHARE and ahead is not None and ahead.mean >= FAR,
    )


def points(found: stats.Interval, *, sign: bool = False) -> str:
    """`0.7 [0.5, 1.0]`, in hundredths; without an interval where one seed has none."""
    plus = "+" if sign else ""
    told = f"{100 * found.mean:{plus}.1f}"
    if found.low is None or found.high is None:
        return told
    return f"{told} [{100 * found.low:{plus}.1f}, {100 * found.high:{plus}.1f}]"


def share(rows: list[Row]) -> float:
    """Return the mean share of the teacher's parameters."""
    return mean(row.start.parameters / row.start.teacher_parameters for row in rows)


def assembled(rows: list[Row]) -> float:
    """Test accuracy before the finish."""
    return mean(row.start.test for row in rows)


def finished(rows: list[Row]) -> float:
    """Test accuracy of the weights that are exported."""
    return mean(_accuracy(row, "test") for row in rows)


def _validation(row: Row) -> float:
    return _accuracy(row, "validation")


def _accuracy(row: Row, split: str) -> float:
    found = row.checkpoint.accuracy
    value: float = getattr(found, f"{split}_{row.result.cell.train.keep}")
    return value


def _of(found: Study, student: str, method: str) -> list[Row]:
    return [row for row in found.rows if (row.student, row.method) == (student, method)]
