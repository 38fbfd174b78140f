"""Which stages are paired, how they are made comparable, and what is said when they cannot be."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch

from ktbench import catalogue
from ktbench.records import KtbenchError
from ktbench.transfer_methods import _adapt, _pairs
from tests.support import method_cases as cases

DEEPER = cases.TEACHERS["deeper"]


def reason(name: str, settings: dict[str, object], teacher: str = "same") -> str | None:
    config = catalogue.method_config(name, settings)
    return catalogue.method(name).incompatible(config, cases.setting(cases.TEACHERS[teacher]))


def test_stages_are_paired_in_order_by_the_nearest_sizes_and_the_later_of_equals() -> None:
    assert _pairs.stage_pairs("stage", cases.setting(DEEPER)) == ((1, 0), (2, 1), (4, 2))
    shallow = cases.setting(cases.TEACHERS["shallower"])
    assert _pairs.stage_pairs("stage", shallow) == ((0, 1), (1, 2))


def test_stages_of_equal_depth_are_paired_one_to_one_whatever_their_sizes() -> None:
    for name in ("larger maps", "smaller maps", "tokens"):
        at = cases.setting(cases.TEACHERS[name])
        assert _pairs.stage_pairs("stage", at) == ((0, 0), (1, 1), (2, 2))


def test_networks_of_other_depth_and_pace_meet_where_their_sizes_do() -> None:
    vgg = cases.shapes((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4))
    shallow = cases.shapes(*vgg.stages[:4], (512, 2, 2), (512, 1, 1))
    resnet = cases.shapes((16, 32, 32), (32, 16, 16), (64, 8, 8))
    tokens = cases.shapes((64, 12), (64, 12), (64, 12), (64, 12))
    one_to_one = tuple((i, i) for i in range(5))
    assert _pairs.stage_pairs("stage", cases.setting(vgg, shallow)) == one_to_one
    assert _pairs.stage_pairs("stage", cases.setting(vgg, resnet)) == one_to_one[:3]
    assert _pairs.stage_pairs("stage", cases.setting(resnet, vgg)) == one_to_one[:3]
    assert _pairs.stage_pairs("stage", cases.setting(tokens, resnet)) == ((1, 0), (2, 1), (3, 2))


@pytest.mark.parametrize("seed", range(20))
def test_the_pairing_in_order_is_the_best_of_all(seed: int) -> None:
    draw = random.Random(seed)
    few = [(1, 2 ** draw.randrange(6), 1) for _ in range(draw.randrange(1, 4))]
    many = [(1, 2 ** draw.randrange(6), 1) for _ in range(len(few) + draw.randrange(4))]
    costs = {
        chosen: sum(abs(math.log2(a[1] / many[j][1])) for a, j in zip(few, chosen, strict=True))
        for chosen in itertools.combinations(range(len(many)), len(few))
    }
    least = min(costs.values())
    latest = max(chosen for chosen, cost in costs.items() if cost == least)
    at = cases.setting(cases.shapes(*many), cases.shapes(*few))
    assert tuple(t for t, _ in _pairs.stage_pairs("stage", at)) == latest


def test_middle_and_last_are_one_pair() -> None:
    assert _pairs.stage_pairs("middle", cases.setting(DEEPER)) == ((2, 1),)
    assert _pairs.stage_pairs("last", cases.setting(DEEPER)) == ((4, 2),)


def test_by_similarity_each_student_stage_has_its_most_similar_teacher_stage() -> None:
    table = ((0.1, 0.9, 0.2), (0.5, 0.9, 0.1), (0.4, 0.0, 0.1), (0.5, 0.3, 0.8), (0.0, 0.0, 0.0))
    at = cases.setting(DEEPER, similarity=table)
    assert _pairs.stage_pairs("similarity_untrained", at) == ((1, 0), (0, 1), (3, 2))
    after_warmup: _pairs.Pairs = {"similarity": {"warmup_epochs": 3}}
    assert _pairs.stage_pairs(after_warmup, at, same_width=True) == ((1, 0), (2, 1), (3, 2))


def test_only_pairs_by_similarity_ask_for_a_warm_up() -> None:
    def asked(name: str, settings: dict[str, Any]) -> int | None:
        return catalogue.method(name).warmup_epochs(catalogue.method_config(name, settings))

    after = {"pairs": {"similarity": {"warmup_epochs": 3}}}
    parts = [{"method": "attention", "settings": after}, "kd"]
    assert asked("attention", after) == asked("combined", {"parts": parts}) == 3
    assert asked("attention", {"pairs": "similarity_untrained"}) == 0
    assert asked("attention", {}) is asked("kd", {}) is asked("combined", {}) is None
    other = {"method": "hint", "settings": {"pairs": "similarity_untrained"}}
    assert reason("combined", {"parts": [*parts, other]}) == (
        "the parts compare stages after different warm-ups: give all the same"
    )


def test_named_pairs_take_names_and_numbers_from_either_end() -> None:
    pairs = (("stage5", -1), (0, "stage1"), (-2, 1))
    assert _pairs.stage_pairs(pairs, cases.setting(DEEPER)) == ((4, 2), (0, 0), (3, 1))


def test_a_stage_that_is_not_there_is_told_with_the_nearest_names() -> None:
    assert reason("attention", {"pairs": [["stage1", "stag2"]]}) == (
        "the student has no stage 'stag2': did you mean stage2 or stage3 or stage1?"
    )
    assert reason("attention", {"pairs": [["zzz", 0]]}) == (
        "the teacher has no stage 'zzz': it has stage1, stage2, stage3"
    )
    assert reason("fitnet", {"pairs": [[0, 3]]}) == (
        "the student has stages 0 to 2, and pairs names stage 3"
    )
    assert reason("hint", {"pairs": [[0, 0], ["stage1", "stage1"]]}) == (
        "pairs names the same pair twice, once by name and once by number"
    )


def test_widths_that_nothing_adapts_are_told_with_what_to_set() -> None:
    assert reason("intermediate_last", {"adapt": "none"}, "wider") == (
        "teacher stage stage1 has width 8 and student stage stage1 4: "
        "set adapt to regressor or embedding"
    )
    settings = {"adapt": "none", "pairs": {"similarity": {"warmup_epochs": 1}}}
    assert reason("intermediate_last", settings, "shallower") == (
        "student stage stage1 has width 4 and no teacher stage has: "
        "set adapt to regressor or embedding"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": "stages"}, "method attention: unknown pairs 'stages': did you mean stage?"),
        (
            {"pairs": []},
            "method attention: pairs must be stage, uniform, similarity_untrained, middle, last",
        ),
        (
            {"pairs": "similarity"},
            "method attention: pairs by similarity need a student that has learnt: write "
            "{similarity: {warmup_epochs: N}}, or similarity_untrained for what similarity was",
        ),
        (
            {"pairs": {"stage": {}}},
            "method attention: pairs must be {similarity: {warmup_epochs: N",
        ),
        ({"pairs": {"similarity": {}}}, "method attention: pairs: similarity must say warmup_epoc"),
        (
            {"pairs": {"similarity": {"warmup_epochs": 0}}},
            "method attention: pairs: similarity must say warmup_epochs, a whole number from 1 to",
        ),
        ({"pairs": [[0]]}, "method attention: pairs must hold [teacher stage, student stage], not"),
        ({"pairs": [[0, 0], [0, 0]]}, "method attention: pairs names the same pair twice"),
        ({"weight": 0}, "method attention: weight must be a number above 0, not 0"),
        ({"weight": "1e3"}, "method attention: weight must be a number above 0, not '1e3'"),
        ({"power": 0.5}, "method attention: power must be a number of at least 1, not 0.5"),
        ({"ce_weight": True}, "method attention: ce_weight must be a number of at least 0, not"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(KtbenchError) as caught:
        catalogue.method_config("attention", settings)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_settings_that_contradict_each_other_are_told() -> None:
    for name, settings, message in (
        ("kd", {"start": 0.5, "end": 0.5}, "start must be below end, not 0.5 and 0.5"),
        ("fitnet", {"hint_until": 1.0}, "hint_until must be below 1, not 1"),
        ("fitnet", {"pairs": "stage"}, "pairs must be one pair: middle, last or"),
        ("fitnet", {"pairs": [[0, 0], [1, 1]]}, "pairs must be one pair: middle, last or"),
        ("fitnet", {"distance": "l1"}, "distance must be rmse or half_squared, not 'l1'"),
    ):
        with pytest.raises(KtbenchError, match=message):
            catalogue.method_config(name, settings)


def test_tokens_become_the_map_that_they_were_cut_from() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    tokens = image.flatten(2).transpose(1, 2)
    assert torch.equal(_adapt.as_map(tokens), image)
    assert _adapt.as_map(torch.zeros(2, 17, 5)).shape == (2, 5, 17, 1)
    assert _adapt.as_map(torch.zeros(2, 5)).shape == (2, 5, 1, 1)


@pytest.mark.parametrize(
    ("a", "b", "size"),
    [
        ((2, 3, 8, 8), (2, 5, 4, 4), (4, 4)),
        ((2, 3, 6, 6), (2, 5, 4, 4), (4, 4)),
        ((2, 3, 8, 4), (2, 5, 4, 8), (4, 4)),
        ((2, 3, 8, 8), (2, 16, 5), (4, 4)),
        ((2, 3, 8, 8), (2, 17, 5), (17, 1)),
        ((2, 3, 2, 2), (2, 17, 5), (4, 1)),
        ((2, 9, 3), (2, 16, 5), (3, 3)),
        ((2, 3, 8, 8), (2, 5), (1, 1)),
    ],
)
def test_a_pair_of_stages_meets_at_the_smaller_size(
    a: tuple[int, ...], b: tuple[int, ...], size: tuple[int, int]
) -> None:
    for first, second in ((a, b), (b, a)):
        left, right = _adapt.aligned(torch.rand(first), torch.rand(second))
        assert left.shape[2:] == right.shape[2:] == size
        sizes = [_adapt.size_of(tuple(shape[1:])) for shape in (first, second)]
        assert _adapt.common_size(*sizes) == size


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (5, 3), (8, 8)])
def test_the_mean_of_an_embedding_is_that_of_its_convolution(size: tuple[int, int]) -> None:
    embedding = _adapt.ConvEmbedding((3, *size), (5, *size), units=7, normalise="none")
    torch.nn.init.normal_(embedding.student.weight)
    torch.nn.init.normal_(embedding.student.bias)
    x = torch.rand(2, 3, *size)
    ours, _ = embedding(x, torch.rand(2, 5, *size))
    assert torch.allclose(ours, embedding.student(x).mean((2, 3)), atol=1e-5)


def test_pooling_keeps_the_mean_where_windows_fit() -> None:
    x = torch.rand(2, 3, 8, 8)
    pooled = _adapt.pooled(x, (4, 2))
    assert pooled[0, 0, 1, 1].item() == pytest.approx(x[0, 0, 2:4, 4:8].mean().item())


def test_attention_is_refused_where_every_pair_meets_at_one_position() -> None:
    """A normalised map of one position is the constant 1: the method would be `none` unawares."""
    from ktbench import catalogue
    from ktbench.transfer_methods._contract import Setting, Shapes

    def reason(teacher: tuple[int, ...]) -> str | None:
        ours = Shapes(10, ((8, 1, 1), (8, 1, 1)), ("a", "b"), 8)
        theirs = Shapes(10, ((8, 4, 4), teacher), ("a", "b"), 8)
        student = ours if teacher == (8, 1, 1) else theirs
        setting = Setting(
            student=student, teacher=theirs, num_classes=10, train_size=8, batch_size=4
        )
        kind = catalogue.method("attention")
        return kind.incompatible(catalogue.method_config("attention", {}), setting)

    assert "one position" in (reason((8, 1, 1)) or "")
    assert reason((8, 2, 2)) is None
