"""Each loss against the formula of its paper, computed by loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ktbench.students._contract import Features
from ktbench.transfer_methods import _logits, attention, fitnet, hard_logits, soft_logits
from ktbench.transfer_methods._contract import Scope
from tests.support import method_cases as cases
from tests.support.method_cases import possible
from tests.support.method_formulas import LABELS, ce, divergence, flat, mse, run, softmax, squares


def test_none_is_cross_entropy_alone() -> None:
    _, student, _, terms = run("none", {})
    assert terms == {"ce": pytest.approx(ce(student, LABELS))}


def test_hard_logits_is_the_square_to_the_teachers_decision_and_ignores_labels() -> None:
    _, student, teacher, terms = run("hard_logits", {})
    expected = 0.0
    for s_row, t_row in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        decision = [float(z == max(t_row)) for z in t_row]
        expected += squares(softmax(s_row), decision)
    assert terms == {"hard": pytest.approx(expected / student.logits.numel())}


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_soft_logits_is_a_fifth_of_ce_and_the_square_of_softened_probabilities(
    temperature: float,
) -> None:
    _, student, teacher, terms = run("soft_logits", {"temperature": temperature})
    soft = sum(
        squares(softmax(s, temperature), softmax(t, temperature))
        for s, t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True)
    )
    assert terms["ce"] == pytest.approx(0.2 * ce(student, LABELS))
    assert terms["soft"] == pytest.approx(soft / student.logits.numel())


def test_last_layer_is_ce_and_the_square_of_logits() -> None:
    _, student, teacher, terms = run("last_layer", {})
    assert terms["ce"] == pytest.approx(ce(student, LABELS))
    assert terms["logits"] == pytest.approx(mse(student.logits, teacher.logits))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_divergence_of_the_student_from_the_teacher_times_t_squared(
    temperature: float,
) -> None:
    _, student, teacher, terms = run("kd", {"temperature": temperature})
    right = divergence(student.logits, teacher.logits, temperature)
    swapped = divergence(teacher.logits, student.logits, temperature)
    assert abs(right - swapped) > 1e-3 * right
    assert terms["kd"] == pytest.approx(0.9 * temperature**2 * right, rel=1e-4)
    assert terms["ce"] == pytest.approx(0.1 * ce(student, LABELS))


def test_kd_weights_hold_with_and_without_standardised_logits() -> None:
    for standardise in (False, True):
        light = run("kd", {"weight": 0.5, "standardise": standardise})[-1]["kd"]
        heavy = run("kd", {"weight": 1.0, "standardise": standardise})[-1]["kd"]
        assert heavy == pytest.approx(2 * light)


def test_outside_its_time_kd_is_plain_training_at_weight_one() -> None:
    settings = {"start": 0.25, "end": 0.75}
    method, _ = possible("kd", settings)
    assert [(p.name, p.until, p.teacher) for p in method.phases()] == [
        ("before", 0.25, False),
        ("transfer", 0.75, True),
        ("after", 1.0, False),
    ]
    for phase in ("before", "after"):
        _, student, _, terms = run("kd", settings, phase=phase)
        assert terms == {"ce": pytest.approx(ce(student, LABELS))}
    assert set(run("kd", settings, phase="transfer")[-1]) == {"ce", "kd"}


def test_standardised_logits_have_mean_zero_deviation_one_and_keep_their_order() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)) * 9 + 3
    z = _logits.standardised(logits)
    for row, before in zip(z.tolist(), logits.tolist(), strict=True):
        mean = sum(before) / 7
        deviation = math.sqrt(sum((v - mean) ** 2 for v in before) / 6)  # of a sample
        assert row == pytest.approx([(v - mean) / deviation for v in before], rel=1e-4)
    assert torch.equal(_logits.standardised(torch.full((2, 3), 5.0)), torch.zeros(2, 3))


def test_standardised_kd_does_not_see_shift_and_scale_of_the_teachers_logits() -> None:
    method, at = possible("kd", {"standardise": True})
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    moved = Features(logits=teacher.logits * 3 + 5)
    batch = cases.batch()
    assert method.loss(student, moved, batch)["kd"].item() == pytest.approx(
        method.loss(student, teacher, batch)["kd"].item(), rel=1e-4
    )


def attention_by_loops(student: Tensor, teacher: Tensor, power: float) -> float:
    """Maps (B, C, H, W) of one size."""
    total, count = 0.0, 0
    for s_sample, t_sample in zip(student, teacher, strict=True):
        maps = []
        for sample in (s_sample, t_sample):
            channels = [flat(channel) for channel in sample]
            sums = [sum(abs(c[i]) ** power for c in channels) for i in range(len(channels[0]))]
            norm = math.sqrt(sum(v * v for v in sums))
            maps.append([v / norm for v in sums])
        total += squares(*maps)
        count += len(maps[0])
    return total / count


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_attention_is_the_square_of_normalised_maps(power: float) -> None:
    _, student, teacher, terms = run("attention", {"power": power}, "wider")
    expected = sum(
        attention_by_loops(s, t, power) for s, t in zip(student.stages, teacher.stages, strict=True)
    )
    assert terms["ce"] == pytest.approx(ce(student, LABELS))
    assert terms["attention"] == pytest.approx(1000 * expected, rel=1e-4)


def test_attention_pools_the_larger_map() -> None:
    draw = torch.Generator().manual_seed(0)
    small, large = torch.rand(2, 3, 4, 4, generator=draw), torch.rand(2, 5, 8, 8, generator=draw)
    pooled = torch.empty(2, 1, 4, 4)
    squared = large.double().square().sum(1)
    for y in range(4):
        for x in range(4):
            pooled[:, 0, y, x] = squared[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
    expected = attention_by_loops(small, pooled.sqrt(), 2)
    assert attention.attention_loss(small, large).item() == pytest.approx(expected, rel=1e-4)
    assert attention.attention_loss(large, small).item() == pytest.approx(expected, rel=1e-4)


def test_attention_of_tokens_is_that_of_the_map_they_come_from() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(2, 5, 4, 4, generator=draw) for _ in range(2))
    tokens = teacher.flatten(2).transpose(1, 2)
    assert attention.attention_loss(student, tokens).item() == pytest.approx(
        attention.attention_loss(student, teacher).item()
    )


def test_fitnets_hint_is_the_distance_after_the_regressor_and_moves_the_lower_layers_only() -> None:
    for distance in ("rmse", "half_squared"):
        method, student, teacher, terms = run(
            "fitnet", {"distance": distance}, "wider", phase="hint", progress=0.1
        )
        weight = method.regressor.conv.weight.detach().double()[:, :, 0, 0]
        bias = method.regressor.conv.bias.detach().double()
        guided, hint = student.stages[1].double(), teacher.stages[1].double()
        regressed = torch.empty_like(hint)
        for y in range(4):
            for x in range(4):
                for b in range(6):
                    regressed[b, :, y, x] = weight @ guided[b, :, y, x] + bias
        square = squares(flat(regressed), flat(hint))
        expected = math.sqrt(square / hint.numel()) if distance == "rmse" else square / 2 / 6
        assert terms == {"hint": pytest.approx(expected, rel=1e-5)}
        first, second = method.phases()
        assert first.updates[0].student == Scope.upto_stage(1)
        assert first.updates[0].adaptors == ("regressor.",)
        assert second.updates[0].student == Scope()
        assert not second.teacher


def test_fitnets_second_phase_may_leave_the_guided_layers_as_they_are() -> None:
    first, second = possible("fitnet", {"second": "rest"})[0].phases()
    assert first.updates[0].student == Scope.upto_stage(1)
    assert second.updates[0].student == Scope.after_stage(1)


def test_fitnets_second_phase_distils_with_a_weight_that_falls_linearly() -> None:
    settings = {"kd_first": 4.0, "kd_last": 1.0, "hint_until": 0.2}
    for progress, weight in ((0.2, 4.0), (0.6, 2.5), (1.0, 1.0)):
        _, student, teacher, terms = run("fitnet", settings, phase="task", progress=progress)
        expected = weight * divergence(student.logits, teacher.logits, 3.0)
        assert terms["kd"] == pytest.approx(expected, rel=1e-4)
        assert terms["ce"] == pytest.approx(ce(student, LABELS))


def test_the_hint_beside_the_task_is_a_hundred_times_the_square() -> None:
    method, student, teacher, terms = run("hint", {})
    (conv, _), _ = method.regressors[0]
    x = conv(student.stages[1]).detach().double()
    regressed = torch.empty_like(x)
    for channel in range(x.shape[1]):
        values = flat(x[:, channel])
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        scaled = (x[:, channel] - mean) / math.sqrt(variance + 1e-5)
        regressed[:, channel] = scaled.clamp(min=0)
    assert terms["hint"] == pytest.approx(100 * mse(regressed, teacher.stages[1]), rel=1e-4)


def test_intermediate_last_is_ce_the_root_squares_of_all_pairs_and_the_logits() -> None:
    for name in ("intermediate_last", "intermediate_last_per_layer"):
        _, student, teacher, terms = run(name, {"adapt": "none"})
        assert terms["ce"] == pytest.approx(ce(student, LABELS))
        assert terms["logits"] == pytest.approx(mse(student.logits, teacher.logits))
        for i in range(3):
            expected = math.sqrt(mse(student.stages[i], teacher.stages[i]))
            assert terms[f"rmse_{i}_{i}"] == pytest.approx(expected, rel=1e-5)


def test_per_layer_each_pair_has_an_optimiser_for_its_own_stage_and_adaptor() -> None:
    method, _ = possible("intermediate_last_per_layer", {}, "wider")
    (phase,) = method.phases()
    last, *pairs = phase.updates
    assert (last.terms, last.student, last.adaptors) == (("ce", "logits"), Scope(), ())
    for i, update in enumerate(pairs):
        assert update.terms == (f"rmse_{i}_{i}",)
        assert update.student == Scope.only_stage(i)
        assert update.adaptors == (f"adaptors.{i}.",)


@pytest.mark.parametrize("normalise", ["batch", "sample", "none"])
def test_embeddings_are_averaged_over_positions_and_compared_by_their_root_square(
    normalise: str,
) -> None:
    settings = {"normalise": normalise}
    method, student, teacher, terms = run("intermediate_embedding", settings, "larger maps")
    pair = method.adaptors[0]
    sides = []
    for conv, stage in ((pair.student, student.stages[0]), (pair.teacher, teacher.stages[0])):
        assert conv.weight.shape[0] == 64
        embedded = conv(stage).double()
        height, width = embedded.shape[2:]
        sides.append(
            sum(embedded[:, :, y, x] for y in range(height) for x in range(width))
            / (height * width)
        )
    if normalise == "batch":
        sides = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-10).sqrt() for x in sides]
    if normalise == "sample":
        sides = [x / x.square().mean(1, keepdim=True).sqrt() for x in sides]
    assert terms["rmse_0_0"] == pytest.approx(math.sqrt(mse(*sides)), rel=1e-4)


@pytest.mark.parametrize("embedding", ["conv", "dense"])
def test_no_scale_and_no_constant_of_an_embedding_makes_its_term_smaller(embedding: str) -> None:
    def terms(normalise: str, scale: float, constant: float) -> list[float]:
        settings = {"normalise": normalise, "embedding": embedding}
        method, at = possible("intermediate_embedding", settings, "wider")
        for pair in method.adaptors:
            for side in (pair.student, pair.teacher):
                side.weight.data.mul_(scale)
                side.bias.data.add_(constant)
        student, teacher = (
            cases.features(s, seed=i) for i, s in enumerate((at.student, at.teacher))
        )
        losses = method.loss(student, teacher, cases.batch())
        return [value.item() for name, value in losses.items() if name.startswith("rmse")]

    usual = terms("batch", 1.0, 0.0)
    assert all(value > 0.5 for value in usual)
    assert terms("batch", 0.1, 0.3) == pytest.approx(usual, rel=0.02)
    assert terms("sample", 0.1, 0.0) == pytest.approx(terms("sample", 1.0, 0.0), rel=1e-3)
    assert terms("none", 0.1, 0.0) == pytest.approx([x / 10 for x in terms("none", 1.0, 0.0)])


def test_an_embedding_that_is_not_trained_gets_no_gradient() -> None:
    for trained, expected in (
        ("both", (True, True)),
        ("student", (True, False)),
        ("none", (False, False)),
    ):
        method, at = possible("intermediate_embedding", {"trained": trained})
        student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
        sum(method.loss(student, teacher, cases.batch()).values()).backward()
        pair = method.adaptors[0]
        moved = tuple(side.weight.grad is not None for side in (pair.student, pair.teacher))
        assert moved == expected


def test_equal_features_cost_nothing_and_pull_nowhere() -> None:
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = x.flatten(1)
    for loss in (
        soft_logits.soft_loss(logits, logits.detach(), 2.0),
        _logits.soft_divergence(logits, logits.detach(), 4.0),
        attention.attention_loss(x, x.detach()),
        fitnet.half_squared(x, x.detach()),
        fitnet.root_mean_square(x, x.detach()),
    ):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert gradient.abs().max().item() == pytest.approx(0, abs=1e-6)


def test_hard_logits_breaks_a_tie_of_the_teacher_in_favour_of_one_class() -> None:
    tied, student = torch.zeros(1, 3), torch.zeros(1, 3)
    expected = (4 / 9 + 1 / 9 + 1 / 9) / 3
    assert hard_logits.hard_loss(student, tied).item() == pytest.approx(expected)
