"""Pure statistics of the report: intervals, tests, effects, power, ranks, targets, fronts.

Everything here takes arrays and returns arrays or frozen values; nothing knows of records.
"""

from ktbench.stats.cost_quality import (
    Bools,
    cost_to_reach,
    first_reaching,
    first_reaching_each,
    geometric_mean,
    pareto_front,
)
from ktbench.stats.differences import Differences, Unpaired, differences, effect_size, split, welch
from ktbench.stats.hypothesis_tests import (
    MOST_FLIPPED,
    holm,
    least_sign_flip_p,
    next_alpha,
    sign_flip_test,
    signs_at,
    t_test,
)
from ktbench.stats.intervals import (
    LEAST_FOR_BCA,
    LEVEL,
    Floats,
    Interval,
    Intervals,
    Sign,
    bca,
    interval,
    intervals,
    paired_gain,
    signs,
)
from ktbench.stats.ranks import Agreement, Ranked, agreement, concordance, ranked
from ktbench.stats.statistical_power import (
    FIRST_SEEDS,
    MOST_SEEDS,
    POWER,
    SMALLEST_GAIN,
    Settling,
    seeds_to_settle,
    t_test_power,
)

__all__ = [
    "FIRST_SEEDS",
    "LEAST_FOR_BCA",
    "LEVEL",
    "MOST_FLIPPED",
    "MOST_SEEDS",
    "POWER",
    "SMALLEST_GAIN",
    "Agreement",
    "Bools",
    "Differences",
    "Floats",
    "Interval",
    "Intervals",
    "Ranked",
    "Settling",
    "Sign",
    "Unpaired",
    "agreement",
    "bca",
    "concordance",
    "cost_to_reach",
    "differences",
    "effect_size",
    "first_reaching",
    "first_reaching_each",
    "geometric_mean",
    "holm",
    "interval",
    "intervals",
    "least_sign_flip_p",
    "next_alpha",
    "paired_gain",
    "pareto_front",
    "ranked",
    "seeds_to_settle",
    "sign_flip_test",
    "signs",
    "signs_at",
    "split",
    "t_test",
    "t_test_power",
    "welch",
]
