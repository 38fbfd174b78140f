"""The methods on probabilities and on relations against their papers' formulas, by loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ktbench.transfer_methods import correlation, dist, dkd, nst, pkt, rkd, similarity, vid
from tests.support import method_cases as cases
from tests.support.method_cases import possible
from tests.support.method_formulas import LABELS, ce, flat, run, softmax, squares


def normalised(row: list[float]) -> list[float]:
    norm = math.sqrt(sum(v * v for v in row))
    return [v / norm for v in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def rows(x: Tensor) -> list[list[float]]:
    return [flat(row) for row in x]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_dkd_parts_are_the_divergences_of_the_target_and_of_the_others() -> None:
    _, student, teacher, terms = run("dkd", {"alpha": 0.5, "beta": 6.0, "warmup": 0.0})
    tckd = nckd = 0.0
    for s, t, label in zip(rows(student.logits), rows(teacher.logits), LABELS, strict=True):
        q, p = softmax(s, 4.0), softmax(t, 4.0)
        tckd += kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = [i for i in range(5) if i != label]
        nckd += kl(softmax([t[i] for i in rest], 4.0), softmax([s[i] for i in rest], 4.0))
    assert terms["ce"] == pytest.approx(ce(student, LABELS))
    assert terms["target"] == pytest.approx(0.5 * 16 * tckd / 6, rel=1e-4)
    assert terms["others"] == pytest.approx(6.0 * 16 * nckd / 6, rel=1e-4)


def test_dkd_with_both_parts_in_the_teachers_proportion_is_kd() -> None:
    """Equation 6 of the paper: KD = TCKD + (1 - p_target) NCKD."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, 5, generator=draw), torch.randn(1, 5, generator=draw)
    tckd, nckd = dkd.target_and_others(student, teacher, torch.tensor([2]), 2.0)
    rest = 1 - (teacher / 2).softmax(1)[0, 2]
    whole = 4 * kl(softmax(flat(teacher), 2.0), softmax(flat(student), 2.0))
    assert (tckd + rest * nckd).item() == pytest.approx(whole, rel=1e-4)


def test_dkd_grows_linearly_over_its_warm_up() -> None:
    full = run("dkd", {"warmup": 0.0})[-1]
    for progress, share in ((0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.7, 1.0)):
        terms = run("dkd", {"warmup": 0.2}, progress=progress)[-1]
        assert terms["ce"] == full["ce"]
        for part in ("target", "others"):
            assert terms[part] == pytest.approx(share * full[part], rel=1e-5)


def test_dkd_is_finite_where_the_teacher_is_certain() -> None:
    certain = torch.tensor([[200.0, 0.0, -200.0]])
    for student, teacher in ((certain, -certain), (-certain, certain)):
        leaf = student.clone().requires_grad_()
        tckd, nckd = dkd.target_and_others(leaf, teacher, torch.tensor([0]), 1.0)
        (gradient,) = torch.autograd.grad(tckd + nckd, leaf)
        assert torch.isfinite(tckd + nckd)
        assert torch.isfinite(gradient).all()


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    a, b = [v - mean_a for v in a], [v - mean_b for v in b]
    return dot(normalised(a), normalised(b))


def test_dist_is_one_minus_the_correlation_of_rows_and_of_columns() -> None:
    _, student, teacher, terms = run("dist", {"inter": 2.0, "intra": 3.0})
    q = [softmax(row, 4.0) for row in rows(student.logits)]
    p = [softmax(row, 4.0) for row in rows(teacher.logits)]
    inter = sum(1 - pearson(a, b) for a, b in zip(q, p, strict=True)) / 6
    columns = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    intra = sum(1 - pearson(list(a), list(b)) for a, b in columns) / 5
    assert terms["inter"] == pytest.approx(2 * 16 * inter, rel=1e-4)
    assert terms["intra"] == pytest.approx(3 * 16 * intra, rel=1e-4)


def test_dist_costs_nothing_where_probabilities_agree_up_to_shift_and_scale() -> None:
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    p = teacher.softmax(1)
    student = (0.5 * p + 0.1).log()
    inter, _ = dist.inter_intra(student, teacher, 1.0)
    assert inter.item() == pytest.approx(0, abs=1e-5)


def test_similarity_is_the_square_between_row_normalised_gram_matrices() -> None:
    _, student, teacher, terms = run("similarity", {}, "larger maps")
    grams = []
    for stage in (student.stages[2], teacher.stages[2]):
        samples = rows(stage)
        grams.append([normalised([dot(a, b) for b in samples]) for a in samples])
    expected = sum(squares(a, b) for a, b in zip(*grams, strict=True)) / 36
    assert terms["transfer"] == pytest.approx(3000 * expected, rel=1e-4)


def test_correlation_of_neighbours_is_the_mean_product_of_their_differences() -> None:
    method, student, teacher, terms = run("correlation", {}, "wider")
    ours = rows(method.student_embedding(student.embedding))
    theirs = rows(method.teacher_embedding(teacher.embedding))
    assert len(ours[0]) == 128
    d = [[abs(a - b) for a, b in zip(s, t, strict=True)] for s, t in zip(ours, theirs, strict=True)]
    expected = sum(dot(a, b) for a, b in pairwise(d)) / 5
    assert terms["transfer"] == pytest.approx(0.02 * expected, rel=1e-4)


def test_correlation_kernels_are_near_the_gaussian_that_they_expand() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 6, generator=draw), torch.randn(4, 6, generator=draw)
    kernels, exact = [], []
    for side in (student, teacher):
        samples = [normalised(row) for row in rows(side)]
        kernels.append(
            [
                math.exp(-0.8) * (1 + 0.8 * dot(a, b) + 0.32 * dot(a, b) ** 2)
                for a in samples
                for b in samples
            ]
        )
        exact += [math.exp(-0.4 * squares(a, b)) for a in samples for b in samples]
    loss = correlation.kernel_loss(student, teacher, 0.4).item()
    assert loss == pytest.approx(squares(*kernels) / 16, rel=1e-4)
    assert kernels[0] + kernels[1] == pytest.approx(exact, abs=0.1)


def test_vid_is_the_likelihood_of_the_teacher_with_a_trained_variance_per_channel() -> None:
    method, student, teacher, terms = run("vid", {"pairs": "last"}, "wider")
    predictor = method.predictors[0]
    assert flat(predictor.variance) == pytest.approx([5.0] * 32, rel=1e-5)
    with torch.no_grad():
        predictor.scale.copy_(torch.linspace(-1, 1, 32))
    variance = [math.log1p(math.exp(v)) + 1e-5 for v in flat(predictor.scale)]
    mean = predictor.mean(student.stages[2])
    total = 0.0
    for sample, target in zip(mean, teacher.stages[2], strict=True):
        for channel in range(32):
            for a, b in zip(flat(sample[channel]), flat(target[channel]), strict=True):
                total += 0.5 * ((a - b) ** 2 / variance[channel] + math.log(variance[channel]))
    loss = predictor(student.stages[2], teacher.stages[2])
    assert loss.item() == pytest.approx(total / mean.numel(), rel=1e-4)
    assert terms["transfer"] != pytest.approx(loss.item())


def test_vid_variances_are_moved_by_training() -> None:
    method, at = possible("vid", {})
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    optimiser = torch.optim.SGD(method.parameters(), lr=1.0)
    before = [predictor.variance.clone() for predictor in method.predictors]
    sum(method.loss(student, teacher, cases.batch()).values()).backward()
    optimiser.step()
    for predictor, old in zip(method.predictors, before, strict=True):
        assert isinstance(predictor, vid.Predictor)
        assert not torch.equal(predictor.variance, old)


def huber(a: float, b: float) -> float:
    d = abs(a - b)
    return 0.5 * d * d if d < 1 else d - 0.5


def test_rkd_distances_are_by_their_mean_and_angles_by_their_cosine() -> None:
    _, student, teacher, terms = run("rkd", {}, "wider")
    distances, angles = [], []
    for side in (student, teacher):
        x = rows(side.embedding)
        n = range(len(x))
        d = [[math.sqrt(squares(x[i], x[j])) for j in n] for i in n]
        mean = sum(map(sum, d)) / (len(x) * (len(x) - 1))
        distances.append([d[i][j] / mean for i in n for j in n])
        cosines = []
        for j in n:
            for i in n:
                for k in n:
                    if i == j or k == j:
                        cosines.append(0.0)
                        continue
                    to_i = normalised([a - b for a, b in zip(x[i], x[j], strict=True)])
                    to_k = normalised([a - b for a, b in zip(x[k], x[j], strict=True)])
                    cosines.append(dot(to_i, to_k))
        angles.append(cosines)
    parts = [
        sum(huber(a, b) for a, b in zip(*pair, strict=True)) / len(pair[0])
        for pair in (distances, angles)
    ]
    assert terms["transfer"] == pytest.approx(25 * parts[0] + 50 * parts[1], rel=1e-4)


def test_rkd_ignores_scale_and_place_of_the_embeddings() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert rkd.distance_loss(x * 7 + 2, x).item() == pytest.approx(0, abs=1e-6)
    assert rkd.angle_loss(x * 7 + 2, x).item() == pytest.approx(0, abs=1e-6)


def test_pkt_is_the_divergence_of_neighbourhoods_from_the_teachers() -> None:
    _, student, teacher, terms = run("pkt", {}, "wider")
    shares = []
    for side in (student, teacher):
        samples = [normalised(row) for row in rows(side.embedding)]
        similar = [[(dot(a, b) + 1) / 2 for b in samples] for a in samples]
        shares.append([[v / sum(row) for v in row] for row in similar])
    q, p = shares
    expected = sum(kl(a, b) for a, b in zip(p, q, strict=True)) / 36
    assert terms["transfer"] == pytest.approx(30000 * expected, rel=1e-3)


def test_nst_is_the_discrepancy_between_channels_under_the_squared_kernel() -> None:
    _, student, teacher, terms = run("nst", {"pairs": "last"}, "wider")
    total = 0.0
    for s, t in zip(student.stages[2], teacher.stages[2], strict=True):
        a = [normalised(c) if any(c) else c for c in rows(s)]
        b = [normalised(c) if any(c) else c for c in rows(t)]
        for one, other, sign in ((a, a, 1), (b, b, 1), (a, b, -2)):
            kernel = sum(dot(x, y) ** 2 for x in one for y in other)
            total += sign * kernel / (len(one) * len(other))
    assert terms["transfer"] == pytest.approx(50 * total / 6, rel=1e-4)


def test_relations_of_equal_features_cost_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    flat_x = torch.randn(6, 4, generator=draw, requires_grad=True)
    maps = torch.rand(6, 4, 3, 3, generator=draw, requires_grad=True)
    for loss, leaf in (
        (similarity.similarity_loss(maps, maps.detach()), maps),
        (nst.nst_loss(maps, maps.detach()), maps),
        (pkt.pkt_loss(flat_x, flat_x.detach()), flat_x),
        (rkd.distance_loss(flat_x, flat_x.detach()), flat_x),
        (rkd.angle_loss(flat_x, flat_x.detach()), flat_x),
        (correlation.kernel_loss(flat_x, flat_x.detach(), 0.4), flat_x),
        (correlation.neighbours_loss(flat_x, flat_x.detach()), flat_x),
    ):
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert gradient.abs().max().item() == pytest.approx(0, abs=1e-4)
