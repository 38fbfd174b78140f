"""Pure statistics of the report: intervals, tests, the best, effects, power, ranks, fronts.

Everything here takes arrays and returns arrays or frozen values; nothing knows of records.
"""

from ktbench.stats.all_pairs import (
    LEAST_PAIRED,
    LEAST_WITH_FAILURES,
    TechniquePairs,
    all_pairs,
    compact_letters,
    paired_differences,
)
from ktbench.stats.best_set import BestSet, best_set
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
from ktbench.stats.mean_ranks import LEAST_RANKED, MeanRanks, mean_ranks
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
    "LEAST_PAIRED",
    "LEAST_RANKED",
    "LEAST_WITH_FAILURES",
    "LEVEL",
    "MOST_FLIPPED",
    "MOST_SEEDS",
    "POWER",
    "SMALLEST_GAIN",
    "Agreement",
    "BestSet",
    "Bools",
    "Differences",
    "Floats",
    "Interval",
    "Intervals",
    "MeanRanks",
    "Ranked",
    "Settling",
    "Sign",
    "TechniquePairs",
    "Unpaired",
    "agreement",
    "all_pairs",
    "bca",
    "best_set",
    "compact_letters",
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
    "mean_ranks",
    "next_alpha",
    "paired_differences",
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
