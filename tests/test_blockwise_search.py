"""The search over replacements: the integer programme, and what it finds in a results folder."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from ktbench.blockwise.search import Option, best_choices, choose, total

COSTS = st.one_of(st.integers(0, 10**7).map(float), st.floats(1e-5, 10.0))
OPTIONS = st.builds(Option, cost=COSTS, score=st.floats(-5.0, 1.0).map(lambda v: round(v, 4)))
BLOCKS = st.lists(st.lists(OPTIONS, min_size=1, max_size=4), min_size=1, max_size=5)


def everything(blocks: list[list[Option]], budget: float) -> list[tuple[int, ...]]:
    """All choices within a budget, by falling score."""
    every = product(*(range(len(options)) for options in blocks))
    within = [c for c in every if total(blocks, c).cost <= budget * (1 + 1e-9)]
    return sorted(within, key=lambda c: -total(blocks, c).score)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.floats(0.0, 1.1))
def test_the_choice_is_the_best_of_all_that_a_budget_allows(
    blocks: list[list[Option]], share: float
) -> None:
    budget = share * sum(max(o.cost for o in options) for options in blocks)
    best, found = everything(blocks, budget), choose(blocks, budget)
    if not best:
        assert found is None
        return
    assert found is not None
    ours, theirs = total(blocks, found), total(blocks, best[0])
    assert ours.cost <= budget * (1 + 1e-9)
    assert ours.score >= theirs.score - 1e-5


@settings(max_examples=60, deadline=None)
@given(BLOCKS, st.floats(0.2, 1.0))
def test_the_next_best_choices_follow_in_order_and_none_comes_twice(
    blocks: list[list[Option]], share: float
) -> None:
    budget = share * sum(max(o.cost for o in options) for options in blocks)
    best, found = everything(blocks, budget)[:4], list(best_choices(blocks, budget, 4))
    assert len(found) == len(set(found)) == len(best)
    for ours, theirs in zip(found, best, strict=True):
        assert abs(total(blocks, ours).score - total(blocks, theirs).score) <= 1e-4
