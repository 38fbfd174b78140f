"""The methods on features and in phases against their papers' formulas, by loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ktbench import catalogue
from ktbench.students._contract import Features
from ktbench.transfer_methods import ab, crd, factor, fsp, kdsvd, ofd, reviewkd
from ktbench.transfer_methods._contract import ALL, Scope
from tests.support import method_cases as cases
from tests.support.method_cases import possible
from tests.support.method_formulas import LABELS, ce, divergence, flat, mse, run


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flow_by_loops(a: Tensor, b: Tensor) -> list[float]:
    """Maps (B, C, H, W), the first at least as large, by whole windows."""
    step = a.shape[2] // b.shape[2]
    found = []
    for one, other in zip(a.detach().double(), b.detach().double(), strict=True):
        for first in one:
            for second in other:
                total = 0.0
                for y in range(b.shape[2]):
                    for x in range(b.shape[3]):
                        window = first[y * step : (y + 1) * step, x * step : (x + 1) * step]
                        total += float(window.mean() * second[y, x])
                found.append(total / (b.shape[2] * b.shape[3]))
    return found


@pytest.mark.slow
def test_fsp_compares_how_channels_go_together_from_stage_to_stage() -> None:
    _, student, teacher, terms = run("fsp", {}, phase="flow")
    expected = 0.0
    ways = [(of.stem, *of.stages) for of in (student, teacher)]
    for ours, theirs in zip(pairwise(ways[0]), pairwise(ways[1]), strict=True):
        a, b = flow_by_loops(*ours), flow_by_loops(*theirs)
        expected += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    assert terms == {"transfer": pytest.approx(expected, rel=1e-4)}
    assert set(run("fsp", {}, phase="task")[-1]) == {"ce"}


def test_fsp_needs_equal_widths_and_says_which_are_not() -> None:
    at = cases.setting(cases.TEACHERS["wider"])
    config = catalogue.method_config("fsp", {})
    assert catalogue.method("fsp").incompatible(config, at) == (
        "flow matrices need equal widths, and teacher stage stage1 has 8, student stage stage1 4"
    )
    single = cases.shapes((4, 8, 8), stem=False)
    assert catalogue.method("fsp").incompatible(config, cases.setting(single, single)) == (
        "flow matrices need two stages, and the networks share only one"
    )


def test_initial_phases_move_the_stages_first_and_need_no_teacher_afterwards() -> None:
    for name in ("fsp", "ab"):
        method, _ = possible(name, {})
        first, second = method.phases()
        assert first.until == pytest.approx(30 / 240)
        assert [update.student for update in first.updates] == [Scope.upto_stage(2)]
        assert not second.teacher
        assert [update.student for update in second.updates] == [ALL]


def boundary_by_loops(student: Tensor, teacher: Tensor, margin: float) -> float:
    total = 0.0
    for s, t in zip(flat(student), flat(teacher), strict=True):
        if t > 0 and s < margin:
            total += (margin - s) ** 2
        if t <= 0 and s > -margin:
            total += (margin + s) ** 2
    return total / len(student)


def test_ab_charges_responses_on_the_wrong_side_of_zero_or_within_the_margin() -> None:
    student, teacher = drawn(3, 4, 2, 2, seed=1) * 2, drawn(3, 4, 2, 2, seed=2)
    for margin in (0.5, 1.0, 2.0):
        expected = boundary_by_loops(student, teacher, margin)
        assert ab.boundary_loss(student, teacher, margin).item() == pytest.approx(expected)
    assert ab.boundary_loss(teacher.sign() * 2, teacher, 1.0).item() == 0


def test_ab_counts_each_stage_half_of_the_next() -> None:
    method, student, teacher, terms = run("ab", {}, phase="boundary")
    expected = 0.0
    for i, connector in enumerate(method.connectors):
        ours = connector(student.preacts[i])
        expected += 2.0 ** (i - 2) * boundary_by_loops(ours, teacher.preacts[i], 1.0)
    assert terms == {"transfer": pytest.approx(0.003 * expected, rel=1e-4)}


def test_ofd_leaves_out_what_the_teacher_does_not_say() -> None:
    student, teacher = drawn(3, 4, 2, 2, seed=1), drawn(3, 4, 2, 2, seed=2)
    total = 0.0
    for s, t in zip(flat(student), flat(teacher), strict=True):
        total += 0.0 if s <= t <= 0 else (s - t) ** 2
    loss = ofd.partial_distance(student, teacher).item()
    assert loss == pytest.approx(total / 3, rel=1e-5)


def test_ofds_margin_is_the_mean_negative_response_of_a_channel_so_far() -> None:
    margin = ofd.Margin(2)
    seen: list[list[float]] = [[], []]
    for seed in range(3):
        maps = drawn(2, 2, 3, 3, seed=seed) - 0.3
        raised = margin(maps)
        for channel in range(2):
            seen[channel] += [v for v in flat(maps[:, channel]) if v < 0]
            floor = sum(seen[channel]) / len(seen[channel])
            expected = [max(v, floor) for v in flat(maps[:, channel])]
            assert flat(raised[:, channel]) == pytest.approx(expected, rel=1e-5)


def test_ofd_weighs_the_last_stage_most() -> None:
    method, student, teacher, terms = run("ofd", {})
    method.load_state_dict(possible("ofd", {})[0].state_dict())
    expected = 0.0
    for i, (connector, margin) in enumerate(zip(method.connectors, method.margins, strict=True)):
        ours, theirs = connector(student.preacts[i]), margin(teacher.preacts[i])
        expected += 2.0 ** (i - 2) * ofd.partial_distance(ours, theirs).item()
    assert terms["ce"] == pytest.approx(ce(student, LABELS))
    assert terms["transfer"] == pytest.approx(0.001 * expected, rel=1e-4)


def test_factors_are_compared_by_direction_with_the_mean_absolute_difference() -> None:
    ours, theirs = drawn(3, 4, 2, 2, seed=1), drawn(3, 4, 2, 2, seed=2)
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        norms = [math.sqrt(sum(v * v for v in flat(side))) for side in (a, b)]
        pairs = zip(flat(a), flat(b), strict=True)
        total += sum(abs(x / norms[0] - y / norms[1]) for x, y in pairs)
    assert factor.factor_loss(ours, theirs).item() == pytest.approx(total / ours.numel(), rel=1e-5)


def test_the_paraphraser_learns_first_and_then_stands_still() -> None:
    method, at = possible("factor", {}, "wider")
    student = cases.features(at.student, seed=1)
    assert at.teacher is not None
    teacher = cases.features(at.teacher, seed=2)
    assert method.paraphraser.encoder[-3].out_channels == 16
    first, second = method.phases()
    task, words = first.updates
    assert (task.terms, task.adaptors) == (("ce",), ())
    assert (words.terms, words.student) == (("paraphrase",), Scope.nothing())
    terms = method.loss(student, teacher, cases.batch(phase="paraphrase"))
    rebuilt = method.paraphraser(teacher.stages[2])
    assert terms["paraphrase"].item() == pytest.approx(mse(rebuilt, teacher.stages[2]), rel=1e-4)
    before = {n: b.clone() for n, b in method.paraphraser.state_dict().items()}
    sum(method.loss(student, teacher, cases.batch(phase=second.name)).values()).backward()
    after = method.paraphraser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in method.paraphraser.parameters())


def test_crd_is_the_noise_contrastive_estimate_over_the_memory() -> None:
    method, at = possible("crd", {}, "wider")
    student = cases.features(at.student, seed=1)
    assert at.teacher is not None
    teacher = cases.features(at.teacher, seed=2)
    memories = [flat_rows(method.teacher_memory), flat_rows(method.student_memory)]
    anchors = [
        flat_rows(torch.nn.functional.normalize(embed(of.embedding), dim=1))
        for embed, of in ((method.student_embedding, student), (method.teacher_embedding, teacher))
    ]
    batch = cases.batch()
    size, expected = cases.TRAIN_SIZE, 0.0
    for anchor, memory in zip(anchors, memories, strict=True):
        scores = [
            [math.exp(sum(a * b for a, b in zip(v, m, strict=True)) / 0.07) for m in memory]
            for v in anchor
        ]
        norm = sum(map(sum, scores)) / (6 * size) * size
        for row, own in zip(scores, batch.indices.tolist(), strict=True):
            for other, score in enumerate(row):
                share = score / norm
                if other == own:
                    expected -= math.log(share / (share + 1)) / 6
                else:
                    expected -= math.log(1 / (share + 1)) / 6
    terms = method.loss(student, teacher, batch)
    assert terms["transfer"].item() == pytest.approx(0.8 * expected, rel=1e-3)


def flat_rows(x: Tensor) -> list[list[float]]:
    return [flat(row) for row in x]


def test_crd_remembers_the_batch_with_momentum_and_leaves_out_its_class() -> None:
    method, at = possible("crd", {"negatives": 30, "momentum": 0.5})
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    batch = cases.batch()
    before = method.student_memory.clone()
    method.loss(student, teacher, batch)
    fresh = torch.nn.functional.normalize(method.student_embedding(student.embedding), dim=1)
    mixed = torch.nn.functional.normalize(0.5 * before[batch.indices] + 0.5 * fresh, dim=1)
    assert torch.allclose(method.student_memory[batch.indices], mixed, atol=1e-6)
    others = [i for i in range(cases.TRAIN_SIZE) if i not in batch.indices.tolist()]
    assert torch.equal(method.student_memory[others], before[others])
    assert method.seen_labels[batch.indices].tolist() == batch.labels.tolist()
    assert (method.seen_labels[others] == -1).all()


def test_crd_lets_no_sample_of_the_same_known_class_count_as_a_negative() -> None:
    positive, negative = torch.tensor([0.5]), torch.tensor([[0.2, 0.3]])
    both = crd.contrast_loss(positive, negative, torch.tensor([[True, True]]), 0.1).item()
    one = crd.contrast_loss(positive, negative, torch.tensor([[True, False]]), 0.1).item()
    assert both - one == pytest.approx(-math.log(0.1 / (0.3 + 0.1)), rel=1e-4)


def test_reviewkds_context_is_the_mean_square_at_halving_weights() -> None:
    ours, theirs = drawn(2, 3, 8, 8, seed=1), drawn(2, 3, 8, 8, seed=2)
    expected, weights = 0.0, 0.0
    for side, weight in ((8, 1.0), (4, 0.5), (2, 0.25), (1, 0.125)):
        step = 8 // side
        a, b = (
            x.reshape(2, 3, side, step, side, step).double().mean((3, 5)) for x in (ours, theirs)
        )
        expected += weight * mse(a, b)
        weights += weight
    assert reviewkd.context_loss(ours, theirs).item() == pytest.approx(expected / weights, rel=1e-5)
    single = reviewkd.context_loss(ours[:, :, :1, :1], theirs[:, :, :1, :1]).item()
    assert single == pytest.approx(mse(ours[:, :, :1, :1], theirs[:, :, :1, :1]))


def test_reviewkd_lets_a_stage_learn_from_deeper_ones_through_the_attention() -> None:
    method, at = possible("reviewkd", {"warmup": 0.0})
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    fused, onward = method.fusions[0](student.stages[0], torch.zeros(6, 16, 4, 4))
    alone = method.fusions[0].enter(student.stages[0])
    gate = method.fusions[0].attention(torch.cat((alone, torch.zeros_like(alone)), 1)).sigmoid()
    assert torch.allclose(onward, alone * gate[:, :1], atol=1e-5)
    assert fused.shape == teacher.stages[0].shape


def test_self_distillation_teaches_each_exit_by_the_deepest_output() -> None:
    method, student, _, terms = run("self_distillation", {})
    labels = soft = distance = 0.0
    for stage, way_out in zip(student.stages[:-1], method.exits, strict=True):
        pooled = torch.stack([torch.stack([c.mean() for c in sample]) for sample in stage])
        early = way_out.embed(pooled)
        guess = way_out.head(early)
        labels += ce(Features(logits=guess), LABELS)
        soft += 9 * divergence(guess, student.logits, 3.0)
        distance += mse(early, student.embedding) * early.shape[1]
    assert terms["ce"] == pytest.approx(ce(student, LABELS))
    assert terms["exits_ce"] == pytest.approx(0.7 * labels, rel=1e-4)
    assert terms["exits_kd"] == pytest.approx(0.3 * soft, rel=1e-4)
    assert terms["exits_features"] == pytest.approx(0.03 * distance, rel=1e-4)


def test_the_deepest_output_is_not_pulled_towards_its_exits() -> None:
    method, at = possible("self_distillation", {})
    student = cases.features(at.student, seed=1)
    terms = method.loss(student, None, cases.batch())
    assert student.logits.grad is None
    (terms["exits_kd"] + terms["exits_features"]).backward()
    assert student.logits.grad is None
    assert student.embedding is not None
    assert student.embedding.grad is None
    assert student.stages[0].grad is not None


def test_missing_pre_activations_are_told_not_met_as_a_crash_later() -> None:
    method, at = possible("ab", {})
    bare = Features(logits=cases.features(at.student).logits)
    with pytest.raises(RuntimeError, match="shows no pre-activations"):
        method.loss(bare, cases.features(at.student), cases.batch(phase="boundary"))


def test_fsp_flow_is_by_position_whatever_the_sizes() -> None:
    a, b = drawn(2, 3, 8, 8, seed=1), drawn(2, 5, 4, 4, seed=2)
    assert flat(fsp.flow(a, b)) == pytest.approx(flow_by_loops(a, b), abs=1e-5)


def test_the_leading_vector_is_that_of_the_decomposition() -> None:
    stage = drawn(3, 5, 4, 4, seed=3).relu()
    vectors, values = kdsvd.leading(stage, 2)
    for sample, found, value in zip(stage, vectors, values, strict=True):
        _, exact, right = torch.linalg.svd(sample.flatten(1).T.double(), full_matrices=False)
        for i in range(2):
            cosine = float(found[:, i].double() @ right[i])
            assert abs(cosine) == pytest.approx(1, abs=1e-4)
            assert found[:, i].abs().max() == found[:, i].max()
            assert float(value[i]) == pytest.approx(float(exact[i]), rel=1e-4)


def test_a_leading_vectors_derivative_is_near_that_of_the_decomposition() -> None:
    rows = torch.diag(torch.tensor([9.0, 1.0, 0.5])) + 0.05 * drawn(3, 3)
    direction = drawn(3, seed=5)

    def through(vector: Tensor) -> Tensor:
        return (vector * vector[vector.abs().argmax()].sign()) @ direction

    ours = rows.clone().requires_grad_()
    vectors, _ = kdsvd.leading(ours.T.reshape(1, 3, 3, 1), 1)
    (near,) = torch.autograd.grad(through(vectors[0, :, 0]), ours)
    exact_rows = rows.clone().double().requires_grad_()
    right = torch.linalg.svd(exact_rows, full_matrices=False)[2][0]
    (exact,) = torch.autograd.grad(through(right.float()), exact_rows)
    assert torch.allclose(near, exact.float(), atol=0.02 * float(exact.abs().max()))


def test_kdsvd_is_the_square_between_radial_correlations_of_consecutive_stages() -> None:
    _, student, teacher, terms = run("kdsvd", {})
    expected = 0.0
    for b in range(6):
        sides = []
        for of in (teacher, student):
            found = []
            for number, stage in enumerate(of.stages):
                rows = stage[b].detach().flatten(1).T.double()
                right = torch.linalg.svd(rows, full_matrices=False)[2]
                if not sides:
                    vector = right[0] * right[0][right[0].abs().argmax()].sign()
                else:
                    cosine = right[:4] @ sides[0][number]
                    best = int(cosine.abs().argmax())
                    vector = right[best] * cosine[best].sign()
                found.append(vector)
            sides.append(found)
        theirs, ours = sides
        for i in range(2):
            for one, target in zip(ours[i].tolist(), theirs[i].tolist(), strict=True):
                for two, aim in zip(ours[i + 1].tolist(), theirs[i + 1].tolist(), strict=True):
                    a, c = math.exp(-((one - two) ** 2) / 8), math.exp(-((target - aim) ** 2) / 8)
                    expected += (a - c) ** 2 / 6
    assert terms["transfer"] == pytest.approx(expected, rel=1e-3)
