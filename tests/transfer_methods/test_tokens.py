"""Methods on tokens: each against its paper's equations, by loops in double precision."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.matrix import loads, plan
from ktbench.records import KtbenchError
from ktbench.students._contract import Features, Heads
from ktbench.transfer_methods import Shapes, TransferMethod, _pairs, minilm
from tests.support import method_cases as cases
from tests.support.method_formulas import softmax

EXACT = 1e-10
DEEP = cases.text_shapes(6, 12, heads=2)
STUDENT = cases.text_shapes(3, 8, heads=2)
PATIENT = cases.text_shapes(6, 8, heads=2)
Rows = list[list[float]]


def doubles(of: Shapes, seed: int) -> Features:
    """Features in double precision, not rectified; texts differ in length from sample to sample."""
    drawn = cases.features(of, seed=seed, dtype=torch.float64)
    return replace(drawn, stages=tuple(x.detach().requires_grad_() for x in drawn.preacts))


def evaluated(
    name: str,
    settings: dict[str, Any],
    teacher: Shapes = DEEP,
    student: Shapes = STUDENT,
) -> tuple[TransferMethod, Features, Features, dict[str, Tensor]]:
    """Return a method in double precision, the features of both sides and its terms."""
    method = cases.build(name, settings, cases.setting(teacher, student))
    assert not isinstance(method, str), method
    method = method.double()
    ours, theirs = doubles(student, 1), doubles(teacher, 2)
    return method, ours, theirs, method.loss(ours, theirs, cases.batch())


def tokens(of: Features, sample: int) -> list[int]:
    """The positions of a sample's tokens that count."""
    assert of.mask is not None
    return [place for place, counts in enumerate(of.mask[sample].tolist()) if counts]


def product(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- patient distillation


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({}, ((1, 0), (3, 1))),  # every second of six layers for a student of three
        ({"pairs": "last"}, ((3, 0), (4, 1))),
        ({"pairs": [[5, 2], ["layer1", 0]]}, ((5, 2), (0, 0))),
    ],
)
def test_patient_distillation_is_the_distance_of_normalised_states_of_the_first_token(
    settings: dict[str, Any], pairs: tuple[tuple[int, int], ...]
) -> None:
    method, ours, theirs, terms = evaluated("patient", settings, PATIENT)
    assert method.paired_stages() == pairs
    expected = 0.0
    for t, s in pairs:
        for sample in range(6):
            a = ours.stages[s][sample, 0].tolist()
            b = theirs.stages[t][sample, 0].tolist()
            a_norm, b_norm = math.sqrt(product(a, a)), math.sqrt(product(b, b))
            expected += sum((x / a_norm - y / b_norm) ** 2 for x, y in zip(a, b, strict=True)) / 6
    assert abs(terms["patience"].item() - expected) < EXACT


def test_skip_and_last_are_the_papers_layers() -> None:
    """Of twelve layers, counted from 1, skip takes 2, 4, ... 10 and last takes 7 to 11."""
    at = cases.setting(cases.text_shapes(12, 8), cases.text_shapes(6, 8))
    found = {}
    for rule in ("skip", "last"):
        method = cases.build("patient", {"pairs": rule}, at)
        assert isinstance(method, TransferMethod)
        found[rule] = [(t + 1, s + 1) for t, s in method.paired_stages()]
    assert found["skip"] == [(2, 1), (4, 2), (6, 3), (8, 4), (10, 5)]
    assert found["last"] == [(7, 1), (8, 2), (9, 3), (10, 4), (11, 5)]


# ---------------------------------------------------------------- hidden states


def mapped(row: list[float], weights: Rows) -> list[float]:
    return [product(row, line) for line in weights]


def states_by_loops(ours: Tensor, theirs: Tensor, weights: Rows, of: Features) -> float:
    total = 0.0
    for sample in range(len(ours)):
        squares = []
        for place in tokens(of, sample):
            here = mapped(ours[sample, place].tolist(), weights)
            there = theirs[sample, place].tolist()
            squares += [(x - y) ** 2 for x, y in zip(here, there, strict=True)]
        total += sum(squares) / len(squares)
    return total / len(ours)


def test_hidden_states_are_mapped_to_the_teachers_width_and_compared_where_tokens_count() -> None:
    method, ours, theirs, terms = evaluated("hidden_states", {"weight": 2.0, "stem_weight": 3.0})
    weights = {name: weight.tolist() for name, weight in method.named_parameters()}
    assert set(weights) == {"maps.8to12.weight", "stem_map.weight"}
    assert method.paired_stages() == ((1, 0), (3, 1), (5, 2))
    expected = sum(
        states_by_loops(ours.stages[s], theirs.stages[t], weights["maps.8to12.weight"], ours)
        for t, s in method.paired_stages()
    )
    assert abs(terms["hidden"].item() - 2 * expected) < EXACT
    assert ours.stem is not None and theirs.stem is not None
    stem = states_by_loops(ours.stem, theirs.stem, weights["stem_map.weight"], ours)
    assert abs(terms["stem"].item() - 3 * stem) < EXACT


def test_without_the_embeddings_no_stem_is_read_and_none_is_needed() -> None:
    bare = cases.text_shapes(3, 8, stem=False)
    method = cases.build("hidden_states", {"stem_weight": 0.0}, cases.setting(bare, bare))
    assert isinstance(method, TransferMethod)
    assert not type(method).needs(method.config).stem
    assert set(method.loss(cases.features(bare), cases.features(bare), cases.batch())) == {
        "ce",
        "hidden",
    }


# ---------------------------------------------------------------- attention


def scores(heads: Heads, sample: int, head: int, row: int, columns: list[int]) -> list[float]:
    query = heads.query[sample, head, row].tolist()
    keys = (heads.key[sample, head, column].tolist() for column in columns)
    return [product(query, key) / math.sqrt(len(query)) for key in keys]


@pytest.mark.parametrize("pairs", ["uniform", [["layer6", 0], [0, "layer3"]]])
def test_attention_maps_are_compared_before_their_softmax_where_both_tokens_count(
    pairs: Any,
) -> None:
    method, ours, theirs, terms = evaluated("attention_maps", {"pairs": pairs})
    chosen = ((1, 0), (3, 1), (5, 2)) if pairs == "uniform" else ((5, 0), (0, 2))
    assert method.layers == chosen
    expected = 0.0
    for t, s in chosen:
        for sample in range(6):
            there, squares = tokens(ours, sample), []
            for head in range(2):
                for row in there:
                    a = scores(ours.attentions[s], sample, head, row, there)
                    b = scores(theirs.attentions[t], sample, head, row, there)
                    squares += [(x - y) ** 2 for x, y in zip(a, b, strict=True)]
            expected += sum(squares) / len(squares) / 6
    assert abs(terms["attention"].item() - expected) < EXACT


def whole(part: Tensor, sample: int, place: int) -> list[float]:
    """A token's states of all heads, side by side."""
    return [v for head in part[sample] for v in head[place].tolist()]


def relation_by_loops(
    ours: Heads, theirs: Heads, names: tuple[str, str], heads: int, of: Features
) -> float:
    """Mean over samples of 1 / (heads * tokens) times the sum of divergences."""
    total = 0.0
    for sample in range(len(ours.query)):
        places, divergence = tokens(of, sample), 0.0
        for head in range(heads):
            for row in places:
                sides = []
                for layer in (theirs, ours):
                    first, second = (getattr(layer, name) for name in names)
                    width = first.shape[1] * first.shape[3] // heads
                    here = slice(head * width, (head + 1) * width)
                    a = whole(first, sample, row)[here]
                    products = [product(a, whole(second, sample, c)[here]) for c in places]
                    sides.append(softmax([p / math.sqrt(width) for p in products]))
                divergence += sum(p * math.log(p / q) for p, q in zip(*sides, strict=True))
        total += divergence / (heads * len(places))
    return total / len(ours.query)


@pytest.mark.parametrize(
    ("settings", "layer", "heads"),
    [
        ({}, 5, 2),
        ({"layer": 3, "weight": 0.5}, 3, 2),
        ({"relations": ["query", "key", "value"], "heads": 4, "layer": -2}, 4, 4),
        ({"relations": ["value", "attention"], "heads": 1}, 5, 1),
    ],
)
def test_minilm_is_the_divergence_of_relations_between_tokens_that_count(
    settings: dict[str, Any], layer: int, heads: int
) -> None:
    _, ours, theirs, terms = evaluated("minilm", settings)
    relations = settings.get("relations", ["attention", "value"])
    assert set(terms) == {"ce", *relations}
    for name in relations:
        expected = settings.get("weight", 1.0) * relation_by_loops(
            ours.attentions[-1], theirs.attentions[layer], minilm.RELATIONS[name], heads, ours
        )
        assert abs(terms[name].item() - expected) < EXACT


# ---------------------------------------------------------------- padding

ALL = [
    ("patient", {}),
    ("hidden_states", {}),
    ("attention_maps", {}),
    ("minilm", {}),
    ("minilm", {"relations": ["query", "key", "value"], "heads": 4}),
]
each_method = pytest.mark.parametrize(("name", "settings"), ALL)


def teacher_of(name: str) -> Shapes:
    return PATIENT if name == "patient" else DEEP


def with_other_padding(of: Features) -> Features:
    """The same features with other values wherever a token does not count."""
    assert of.mask is not None
    mask = of.mask

    def changed(part: Tensor) -> Tensor:
        away = ~(mask[:, :, None] if part.dim() == 3 else mask[:, None, :, None])
        return part.detach().masked_fill(away, 7.0).requires_grad_()

    return replace(
        of,
        stages=tuple(map(changed, of.stages)),
        stem=None if of.stem is None else changed(of.stem),
        attentions=tuple(Heads(*map(changed, heads)) for heads in of.attentions),
    )


@each_method
def test_padding_has_no_part_in_a_loss_and_gets_no_gradient(
    name: str, settings: dict[str, Any]
) -> None:
    method, ours, theirs, terms = evaluated(name, settings, teacher_of(name))
    others = with_other_padding(ours), with_other_padding(theirs)
    again = method.loss(*others, cases.batch())
    assert {n: t.item() for n, t in again.items()} == {n: t.item() for n, t in terms.items()}
    sum(again.values()).backward()
    assert ours.mask is not None
    read = [*others[0].stages, *([others[0].stem] if others[0].stem is not None else [])]
    heads = [part for layer in others[0].attentions for part in layer]
    reached = [part for part in (*read, *heads) if part.grad is not None]
    assert reached
    for part in reached:
        assert part.grad is not None
        away = ~(ours.mask[:, :, None] if part.dim() == 3 else ours.mask[:, None, :, None])
        assert (part.grad.masked_select(away) == 0).all()
        assert (part.grad != 0).any()


@each_method
def test_a_text_without_any_token_costs_nothing_and_breaks_nothing(
    name: str, settings: dict[str, Any]
) -> None:
    method, ours, theirs, _ = evaluated(name, settings, teacher_of(name))
    assert ours.mask is not None
    gone = ours.mask.clone()
    gone[2:] = False
    terms = method.loss(replace(ours, mask=gone), replace(theirs, mask=gone), cases.batch())
    sum(terms.values()).backward()
    gradients = [x.grad for x in cases.tensors(ours) if x.grad is not None]
    assert all(t.isfinite() for t in terms.values())
    assert all(g.isfinite().all() for g in gradients)
    if name != "patient":  # whose first token is read whether it counts or not
        states = [*ours.stages, *(part for layer in ours.attentions for part in layer)]
        assert all((x.grad[2:] == 0).all() for x in states if x.grad is not None)


@pytest.mark.parametrize("name", ["hidden_states", "attention_maps", "minilm"])
def test_without_a_mask_every_token_counts(name: str) -> None:
    open_student, open_teacher = replace(STUDENT, mask=None), replace(DEEP, mask=None)
    method, ours, theirs, terms = evaluated(name, {}, open_teacher, open_student)
    everywhere = torch.ones(6, 7, dtype=torch.bool)
    for masks in ((everywhere, None), (None, everywhere), (everywhere, everywhere)):
        sides = [replace(of, mask=mask) for of, mask in zip((ours, theirs), masks, strict=True)]
        again = method.loss(*sides, cases.batch())
        for term, value in terms.items():
            assert again[term].item() == pytest.approx(value.item(), abs=1e-12)


# ---------------------------------------------------------------- sums with other methods


def test_a_sum_with_softened_logits_weighs_each_term() -> None:
    settings: dict[str, Any] = {"temperature": 10.0, "weight": 0.5}
    parts = [
        {"method": "kd", "settings": settings},
        {"method": "patient", "weight": 100.0},
        {"method": "minilm", "weight": 2.0, "end": 0.6},
    ]
    method, ours, theirs, terms = evaluated("combined", {"parts": parts}, PATIENT)
    del method, ours, theirs
    patience = evaluated("patient", {}, PATIENT)[-1]["patience"]
    relations = evaluated("minilm", {}, PATIENT)[-1]
    kd = evaluated("kd", settings, PATIENT)[-1]["kd"]
    assert terms["part0_0"].item() == pytest.approx(kd.item())
    assert terms["part1_0"].item() == pytest.approx(100 * patience.item())
    both = relations["attention"] + relations["value"]
    assert terms["part2_0"].item() == pytest.approx(2 * both.item())


# ---------------------------------------------------------------- pairs and reasons


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        (12, 4, [3, 6, 9, 12]),
        (12, 6, [2, 4, 6, 8, 10, 12]),
        (12, 5, [3, 5, 8, 10, 12]),
        (4, 4, [1, 2, 3, 4]),
        (2, 4, [1, 1, 2, 2]),
    ],
)
def test_uniform_pairs_are_every_so_many_layers_and_end_with_the_last(
    theirs: int, ours: int, expected: list[int]
) -> None:
    at = cases.setting(cases.text_shapes(theirs, 8), cases.text_shapes(ours, 8))
    pairs = _pairs.stage_pairs("uniform", at)
    assert pairs == tuple((t - 1, s) for s, t in enumerate(expected))


REASONS = [
    ("patient", {}, DEEP, STUDENT, "the teacher's states are 12 wide and the student's 8"),
    ("patient", {}, replace(PATIENT, mask=None), STUDENT, "the teacher shows no mask of a text's"),
    (
        "patient",
        {},
        PATIENT,
        cases.text_shapes(1, 8),
        "the method compares layers before the last, and the networks share none",
    ),
    ("patient", {"pairs": [[0, "layer9"]]}, PATIENT, STUDENT, "the student has no stage 'layer9'"),
    (
        "hidden_states",
        {},
        cases.STUDENT,
        cases.STUDENT,
        "the teacher's stage stage1 holds no tokens",
    ),
    (
        "hidden_states",
        {},
        cases.text_shapes(3, 8, tokens=9),
        STUDENT,
        "the teacher's stage layer1 has 9 tokens and the student's stage layer1 7",
    ),
    (
        "hidden_states",
        {},
        cases.text_shapes(3, 8, stem=False),
        STUDENT,
        "the teacher shows no stem, which holds embeddings: set stem_weight to 0",
    ),
    ("hidden_states", {}, replace(DEEP, mask=9), STUDENT, "the teacher's mask is for 9 tokens"),
    ("attention_maps", {}, cases.STUDENT, cases.STUDENT, "the teacher shows no attention heads"),
    (
        "attention_maps",
        {},
        cases.text_shapes(3, 12, heads=3),
        STUDENT,
        "the teacher's attention has 3 heads and the student's 2, and the method compares head by",
    ),
    (
        "attention_maps",
        {},
        cases.text_shapes(3, 8, tokens=9),
        STUDENT,
        "the teacher attends over 9 tokens and the student over 7",
    ),
    ("attention_maps", {"pairs": [[6, 0]]}, DEEP, STUDENT, "the teacher has stages 0 to 5"),
    ("minilm", {}, cases.text_shapes(3, 12, heads=3), STUDENT, "set heads to relation heads"),
    ("minilm", {"heads": 8}, DEEP, STUDENT, "8 relation heads do not divide the teacher's width"),
    ("minilm", {"layer": 6}, DEEP, STUDENT, "the teacher has attention layers 0 to 5"),
    ("minilm", {"layer": -7}, DEEP, STUDENT, "the teacher has attention layers 0 to 5"),
]


@pytest.mark.parametrize(("name", "settings", "teacher", "student", "reason"), REASONS)
def test_a_pair_that_cannot_be_compared_has_a_reason(
    name: str, settings: dict[str, Any], teacher: Shapes, student: Shapes, reason: str
) -> None:
    given = cases.build(name, settings, cases.setting(teacher, student))
    assert isinstance(given, str)
    assert reason in given
    assert len(given.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("patient", {"pairs": "stage"}, "pairs must be skip, last or a list of pairs, not 'stage'"),
        (
            "attention_maps",
            {"pairs": {"similarity": {"warmup_epochs": 2}}},
            "pairs by similarity are of stages",
        ),
        ("minilm", {"relations": ["values"]}, "relations must be of attention, query, key, value"),
        ("minilm", {"relations": ["value", "value"]}, "relations names the same one twice"),
        ("fitnet", {"pairs": "uniform"}, "pairs must be one pair"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(KtbenchError, match=message):
        catalogue.method_config(name, settings)


@pytest.mark.slow
def test_images_are_skips_with_a_reason_where_there_are_no_tokens_and_no_text() -> None:
    text = """
data: {source: digits, train_size: 60}
teachers: [{student: vit_tiny, name: T}, {student: resnet8, name: C}]
students: [vit_tiny: {width: 0.5}, resnet8]
methods: [patient, hidden_states, attention_maps, minilm]
seeds: 1
train: {epochs: 1}
"""
    planned = plan(loads(text))
    trained = {cell.label.partition(" / seed")[0] for cell in planned.cells if cell.teacher}
    names = ("attention_maps", "hidden_states", "minilm")
    assert trained == {f"vit_tiny(width=0.5) / {name} ← T" for name in names}
    assert len(planned.skips) == 13
    for skip in planned.skips:
        words = ("[CLS]", "holds no tokens", "shows no attention heads")
        assert any(word in skip.reason for word in words), skip.reason


# ---------------------------------------------------------------- the documented examples


@pytest.mark.parametrize("name", cases.for_tokens())
def test_the_examples_of_a_methods_file_are_settings_that_train(name: str) -> None:
    text = sys.modules[catalogue.method(name).__module__].__doc__ or ""
    for block in re.findall(r"\n\n((?:    .*\n?)+)", text):
        [(method, settings)] = yaml.safe_load(textwrap.dedent(block)).items()
        large = cases.text_shapes(12, 384, heads=2)
        assert isinstance(cases.build(method, settings, cases.setting(large, large)), nn.Module)
