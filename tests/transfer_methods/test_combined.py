"""Sums of methods: weights, schedules, the parts' own phases, and wrong parts."""

from __future__ import annotations

import pytest

from ktbench import catalogue
from ktbench.records import KtbenchError
from ktbench.transfer_methods._contract import ALL, Scope
from tests.support import method_cases as cases
from tests.support.method_cases import possible
from tests.support.method_formulas import LABELS, ce, run


def test_a_sum_is_one_cross_entropy_and_the_weighted_terms_of_its_parts() -> None:
    parts = [{"method": "kd", "weight": 2.0}, {"method": "attention", "weight": 0.5}]
    _, student, _, terms = run("combined", {"parts": parts}, phase="segment0")
    kd = run("kd", {}, phase="transfer")[-1]["kd"]
    attention = run("attention", {})[-1]["attention"]
    assert terms == {
        "ce": pytest.approx(ce(student, LABELS)),
        "part0_0": pytest.approx(2 * kd),
        "part1_0": pytest.approx(0.5 * attention),
    }


def test_a_part_counts_in_its_own_time_with_a_weight_that_changes_linearly() -> None:
    part = {"method": "last_layer", "start": 0.25, "end": 0.75, "weight": 4.0, "last_weight": 0.0}
    method, at = possible("combined", {"parts": [part]})
    phases = method.phases()
    assert [(p.until, p.teacher) for p in phases] == [(0.25, False), (0.75, True), (1.0, False)]
    assert len({p.updates for p in phases}) == 1, "one optimiser serves throughout"
    full = run("last_layer", {})[-1]["logits"]
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    for progress, share in ((0.25, 4.0), (0.5, 2.0), (0.625, 1.0)):
        batch = cases.batch(phase="segment1", progress=progress)
        term = method.loss(student, teacher, batch)["part0_0"].item()
        assert term == pytest.approx(share * full)
    assert set(method.loss(student, None, cases.batch(phase="segment2"))) == {"ce"}


def test_parts_keep_their_phases_and_their_own_updates() -> None:
    parts = [{"method": "fitnet", "settings": {"hint_until": 0.3}}, "kd"]
    method, _ = possible("combined", {"parts": parts})
    first, second = method.phases()
    assert (first.until, second.until) == (0.3, 1.0)
    joint, hint = first.updates
    assert (joint.terms, joint.student) == (("ce", "part1_0"), ALL)
    assert (hint.terms, hint.student) == (("part0_0",), Scope.upto_stage(1))
    assert hint.adaptors == ("parts.0.regressor.",)


def test_a_sum_says_which_part_does_not_fit() -> None:
    parts = ["kd", {"method": "intermediate_last", "settings": {"adapt": "none"}}]
    config = catalogue.method_config("combined", {"parts": parts})
    reason = catalogue.method("combined").incompatible(
        config, cases.setting(cases.TEACHERS["wider"])
    )
    assert reason is not None
    assert reason.startswith("intermediate_last: teacher stage stage1 has width 8")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "parts must be a list of methods"),
        (["kdd"], "parts: kdd: unknown method 'kdd': did you mean kd"),
        ([{"method": "kd", "weigth": 1}], "parts: unknown key 'weigth': did you mean weight"),
        ([{"weight": 1}], "parts: each part must name its method"),
        ([3], "parts must hold a method's name or a mapping, not 3"),
        ([{"method": "kd", "settings": {"temp": 1}}], "parts: kd: unknown setting 'temp'"),
        ([{"method": "kd", "settings": 1}], "parts: settings of kd must be a mapping, not 1"),
        ([{"method": "kd", "start": 0.5, "end": 0.5}], "parts: kd: start must be below end"),
        ([{"method": "kd", "weight": -1}], "parts: kd: weight must be a number of at least 0"),
        ([{"method": "kd", "last_weight": -1}], "parts: kd: last_weight must be a number of"),
        (["none"], "parts cannot hold combined or none"),
    ],
)
def test_a_wrong_part_is_told_in_one_line(parts: object, message: str) -> None:
    with pytest.raises(KtbenchError) as caught:
        catalogue.method_config("combined", {"parts": parts})  # type: ignore[dict-item]
    assert str(caught.value).startswith(f"method combined: {message}")
