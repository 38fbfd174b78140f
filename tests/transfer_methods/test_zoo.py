"""What the zoo as a whole promises: published settings, equal features, missing pre-activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ktbench import catalogue
from ktbench.matrix import loads, plan
from ktbench.transfer_methods import (
    _common,
    ab,
    crd,
    dist,
    dkd,
    factor,
    fsp,
    kdsvd,
    nst,
    ofd,
    reviewkd,
    vid,
)
from ktbench.transfer_methods._contract import Needs
from tests.support import method_cases as cases
from tests.support.method_cases import possible
from tests.support.method_formulas import LABELS, flat, mse, run, softmax

# Of the CIFAR-100 comparison of Tian et al. (ICLR 2020), of 240 epochs, and of the papers' own.
PUBLISHED: dict[str, dict[str, Any]] = {
    "kd": {"ce_weight": 0.1, "weight": 0.9, "temperature": 4.0},
    "hint": {"weight": 100.0},
    "attention": {"weight": 1000.0, "power": 2.0},
    "similarity": {"weight": 3000.0, "pairs": "last"},
    "correlation": {"weight": 0.02, "dimension": 128},
    "vid": {"weight": 1.0, "variance": 5.0},
    "rkd": {"weight": 1.0, "distance": 25.0, "angle": 50.0},
    "pkt": {"weight": 30000.0},
    "ab": {"initial": 30 / 240, "weight": 3 / 1000},
    "factor": {"weight": 200.0, "initial": 30 / 240, "rate": 0.5},
    "fsp": {"weight": 1.0, "initial": 30 / 240},
    "nst": {"weight": 50.0},
    "crd": {
        "weight": 0.8,
        "negatives": 16384,
        "temperature": 0.07,
        "momentum": 0.5,
        "dimension": 128,
    },
    "kdsvd": {"weight": 1.0, "vectors": 1},
    "dkd": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup": 20 / 240},
    "reviewkd": {"weight": 1.0, "warmup": 20 / 240, "width": 512},
    "dist": {"inter": 2.0, "intra": 2.0, "temperature": 4.0},
    "ofd": {"weight": 1 / 1000},
    "self_distillation": {"weight": 0.3, "feature_weight": 0.03, "temperature": 3.0},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_defaults_are_the_published_settings(name: str) -> None:
    config = catalogue.method_config(name, {})
    for setting, value in PUBLISHED[name].items():
        assert getattr(config, setting) == pytest.approx(value), setting
    if name not in ("kd", "ab", "fsp", "self_distillation"):
        assert getattr(config, "ce_weight", 1.0) == 1.0


# ---------------------------------------------------------------- equal features


def _rows(seed: int = 0) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def _stage(seed: int = 0) -> Tensor:
    return torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


EQUAL: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "last_layer": (_common.mean_square, _rows()),
    "dkd": (lambda a, b: sum(dkd.target_and_others(a, b, LABELS, 4.0), a.new_zeros(())), _rows()),
    "dist": (lambda a, b: sum(dist.inter_intra(a, b, 4.0), a.new_zeros(())), _rows()),
    "fsp": (lambda a, b: fsp.flow_loss([a, a[:, :2]], [b, b[:, :2]]), _stage()),
    "kdsvd": (lambda a, b: kdsvd.svd_loss([a, a[:, :2]], [b, b[:, :2]], 1), _stage()),
    "factor": (factor.factor_loss, _stage()),
    "reviewkd": (reviewkd.context_loss, _stage()),
    "ofd": (ofd.partial_distance, _stage()),
    "ab": (lambda a, b: ab.boundary_loss(a, b, 1.0), 3 * _rows().sign()),
}


@pytest.mark.parametrize("name", EQUAL)
def test_a_student_that_equals_its_teacher_pays_nothing_and_is_pulled_nowhere(name: str) -> None:
    loss, shown = EQUAL[name]
    student = shown.clone().requires_grad_()
    value = loss(student, shown.clone())
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert gradient.abs().max().item() == pytest.approx(0, abs=1e-4)
    assert loss(shown.roll(1, 0), shown).item() > 1e-4, "and one that differs does pay"


def test_a_perfect_prediction_costs_vid_only_what_its_doubt_costs() -> None:
    predictor = vid.Predictor((4, 8, 8), (4, 8, 8), variance=5.0)
    stage = _stage()
    with torch.no_grad():
        taught = predictor.mean(stage)
    assert predictor(stage, taught).item() == pytest.approx(0.5 * math.log(5.0), rel=1e-5)


# ---------------------------------------------------------------- forms and switches


def test_factors_as_maps_are_the_squares_mean_over_channels() -> None:
    method, student, teacher, terms = run("factor", {}, phase="transfer", progress=0.5)
    method.paraphraser.eval()
    with torch.no_grad():
        theirs = method.paraphraser.encoder(teacher.stages[2])
        ours = method.translator(student.stages[2])
    total = 0.0
    for pair in zip(ours, theirs, strict=True):
        maps = []
        for sample in pair:
            channels = [flat(channel) for channel in sample]
            energy = [sum(c[i] ** 2 for c in channels) / len(channels) for i in range(4)]
            norm = math.sqrt(sum(v * v for v in energy))
            maps.append([v / norm for v in energy])
        total += sum(abs(a - b) for a, b in zip(*maps, strict=True))
    assert terms["transfer"] == pytest.approx(200 * total / (6 * 4), rel=1e-4)
    vectors = run("factor", {"form": "vectors"}, phase="transfer", progress=0.5)[-1]
    assert vectors["transfer"] != pytest.approx(terms["transfer"], rel=1e-2)


def test_maps_of_one_position_are_refused_where_they_would_teach_nothing() -> None:
    at = cases.setting(cases.TEACHERS["smaller maps"])
    kind = catalogue.method("factor")
    assert kind.incompatible(catalogue.method_config("factor", {}), at) == (
        "the stages meet at one position, whose map is constant: set form to vectors"
    )
    assert kind.incompatible(catalogue.method_config("factor", {"form": "vectors"}), at) is None


def test_every_method_that_reads_logits_alone_can_standardise_them() -> None:
    found = []
    for name in catalogue.methods():
        config = catalogue.method_config(name, {})
        if name != "combined" and catalogue.method(name).needs(config) == Needs(logits=True):
            assert "standardise" in catalogue.method_settings(name), name
            found.append(name)
    assert {"kd", "dkd", "dist", "last_layer", "soft_logits", "hard_logits"} <= set(found)
    for name in found:
        settings = {"standardise": True}
        method, at = possible(name, settings)
        student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
        moved = replace(teacher, logits=3 * teacher.logits + 5)
        batch = cases.batch()
        plain = {n: t.item() for n, t in method.loss(student, teacher, batch).items()}
        shifted = {n: t.item() for n, t in method.loss(student, moved, batch).items()}
        assert shifted == pytest.approx(plain, rel=1e-3, abs=1e-6), name
        unswitched, _ = possible(name, {})
        other = {n: t.item() for n, t in unswitched.loss(student, teacher, batch).items()}
        assert other != pytest.approx(plain, rel=1e-3), name


def test_hard_logits_standardised_compares_the_students_standardised_probabilities() -> None:
    _, student, teacher, terms = run("hard_logits", {"standardise": True})
    total = 0.0
    for ours, theirs in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        mean = sum(ours) / 5
        deviation = math.sqrt(sum((v - mean) ** 2 for v in ours) / 4)
        guess = softmax([(v - mean) / deviation for v in ours])
        decision = [float(v == max(theirs)) for v in theirs]
        total += sum((a - b) ** 2 for a, b in zip(guess, decision, strict=True))
    assert terms["hard"] == pytest.approx(total / 30, rel=1e-4)


def test_crd_with_kd_is_the_sum_that_was_published() -> None:
    """Cross-entropy, T^2 KL and 0.8 CRD, each once (Tian et al.: r = 1, a = 1, b = 0.8)."""
    parts = [{"method": "kd", "settings": {"weight": 1.0}}, "crd"]
    *_, terms = run("combined", {"parts": parts}, phase="segment0")
    soft, contrast = run("kd", {}, phase="transfer")[-1], run("crd", {})[-1]
    assert terms["part0_0"] == pytest.approx(soft["kd"] / 0.9)
    assert terms["part1_0"] == pytest.approx(contrast["transfer"], rel=1e-4)
    assert terms["ce"] == pytest.approx(run("none", {})[-1]["ce"])


@pytest.mark.parametrize("side", [1, 2, 8])
def test_nst_is_the_same_whether_channels_or_positions_are_fewer(side: int) -> None:
    ours, theirs = _stage(1)[:2, :, :side, :side], torch.rand(2, 7, side, side)
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        sides = []
        for sample in (a, b):
            channels = [flat(c) for c in sample]
            norms = [math.sqrt(sum(v * v for v in c)) for c in channels]
            sides.append([[v / n for v in c] for c, n in zip(channels, norms, strict=True)])
        for one, other, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -2)):
            kernel = sum(
                sum(p * q for p, q in zip(x, y, strict=True)) ** 2
                for x in sides[one]
                for y in sides[other]
            )
            total += sign * kernel / (len(sides[one]) * len(sides[other]))
    assert nst.nst_loss(ours, theirs).item() == pytest.approx(total / 2, abs=1e-6)


def test_crds_gradient_is_that_of_the_loss_over_the_memory_as_it_was() -> None:
    """It is taken before the memory takes the batch in, in place."""
    method, at = possible("crd", {"negatives": 30})
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    batch = cases.batch()
    memory, drawn = method.teacher_memory.clone(), method._negatives(batch)
    method.loss(student, teacher, batch)["transfer"].backward()
    assert not torch.equal(memory, method.teacher_memory)
    leaf = student.embedding.detach().requires_grad_()
    anchor = torch.nn.functional.normalize(method.student_embedding(leaf), dim=1)
    scores = (anchor @ memory.T / 0.07).exp() / method.norms[0]
    kept = drawn != batch.indices[:, None]
    noise = 30 / cases.TRAIN_SIZE
    loss = crd.contrast_loss(
        scores.gather(1, batch.indices[:, None])[:, 0], scores.gather(1, drawn), kept, noise
    )
    (expected,) = torch.autograd.grad(0.8 * loss, leaf)
    assert torch.allclose(student.embedding.grad, expected, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- knowledge review, by loops


def _conv_by_loops(x: Tensor, weight: Tensor) -> Tensor:
    """A padded convolution of x (B, C, H, W) with (O, C, k, k), one output at a time."""
    out, _, kernel, _ = weight.shape
    half = kernel // 2
    padded = torch.zeros(x.shape[0], x.shape[1], x.shape[2] + 2 * half, x.shape[3] + 2 * half)
    padded = padded.double()
    padded[:, :, half : half + x.shape[2], half : half + x.shape[3]] = x
    found = torch.zeros(x.shape[0], out, x.shape[2], x.shape[3], dtype=torch.float64)
    for b in range(x.shape[0]):
        for o in range(out):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    window = padded[b, :, row : row + kernel, column : column + kernel]
                    found[b, o, row, column] = float((window * weight[o]).sum())
    return found


def _normalised_by_loops(x: Tensor) -> Tensor:
    found = torch.empty_like(x)
    for channel in range(x.shape[1]):
        values = flat(x[:, channel])
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        found[:, channel] = (x[:, channel] - mean) / math.sqrt(variance + 1e-5)
    return found


def _context_by_loops(ours: Tensor, theirs: Tensor) -> float:
    total, weights = mse(ours, theirs), 1.0
    for side, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        height = ours.shape[2]
        weight = weight * (2 if height <= 4 else 1) * (2 if height <= 2 else 1)
        if side >= height:
            continue
        step = height // side
        pooled = [
            torch.tensor(
                [
                    float(x[b, c, i * step : (i + 1) * step, j * step : (j + 1) * step].mean())
                    for b in range(x.shape[0])
                    for c in range(x.shape[1])
                    for i in range(side)
                    for j in range(side)
                ]
            )
            for x in (ours.double(), theirs.double())
        ]
        total += weight * mse(*pooled)
        weights += weight
    return total / weights


@pytest.mark.slow
def test_reviewkd_reviews_from_the_embedding_down_to_the_first_stage() -> None:
    """The whole of it: entering, gates, doubling, leaving, contexts, and the sum over levels."""
    method, student, teacher, terms = run("reviewkd", {"width": 3, "warmup": 0.0}, "wider")
    levels = [*zip(student.stages, teacher.stages, strict=True)]
    levels.append((student.embedding[:, :, None, None], teacher.embedding[:, :, None, None]))
    deeper: Tensor | None = None
    expected = 0.0
    for fusion, (mine, other) in zip(reversed(method.fusions), reversed(levels), strict=True):
        weights = {n: p.detach().double() for n, p in fusion.named_parameters()}
        x = _normalised_by_loops(_conv_by_loops(mine.detach().double(), weights["enter.0.weight"]))
        if deeper is not None:
            step = x.shape[2] // deeper.shape[2]
            mixed = torch.empty_like(x)
            gate, bias = weights["attention.weight"][:, :, 0, 0], weights["attention.bias"]
            for b in range(x.shape[0]):
                for row in range(x.shape[2]):
                    for column in range(x.shape[3]):
                        own = x[b, :, row, column]
                        far = deeper[b, :, row // step, column // step]
                        both = torch.cat((own, far))
                        shares = [
                            1
                            / (
                                1
                                + math.exp(-sum(w * v for w, v in zip(line, both, strict=True)) - c)
                            )
                            for line, c in zip(gate, bias.tolist(), strict=True)
                        ]
                        mixed[b, :, row, column] = shares[0] * own + shares[1] * far
            x = mixed
        deeper = x
        fused = _normalised_by_loops(_conv_by_loops(x, weights["leave.0.weight"]))
        expected += _context_by_loops(fused, other.detach())
    assert terms["transfer"] == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- pre-activations not named

NETS = """\
from torch import nn
from ktbench.students._contract import Features, Student

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))

class Quiet(Student):
    stage_names = ("first",)

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.net = Net(num_classes, in_channels)

    def forward_features(self, inputs, *, preacts=False):
        stage = self.net.first(inputs)
        embedding = self.net.second(stage).mean((2, 3))
        return Features(self.net.head(embedding), (stage,), embedding)
"""


def _plan(folder: Path, **axes: Any) -> Any:
    (folder / "nets.py").write_text(NETS)
    asked = {
        "data": {"source": "digits", "train_size": 60},
        "teachers": ["resnet8"],
        "students": ["resnet8"],
        "methods": ["ab", "ofd", "attention"],
        "seeds": 1,
        "train": {"epochs": 1},
    }
    return plan(loads(yaml.safe_dump(asked | axes), base=str(folder)))


STAGED = {"nets.py:Net": {"stages": ["first", "second"]}}
NAMED = {"nets.py:Net": {"stages": ["first", "second"], "preacts": ["first.1", "second.1"]}}


@pytest.mark.parametrize(
    ("axes", "side"),
    [
        ({"students": [STAGED]}, "student"),
        ({"students": ["nets.py:Quiet"]}, "student"),
        ({"teachers": [{"name": "own", "student": STAGED}]}, "teacher"),
    ],
)
def test_a_network_without_pre_activations_is_a_skip_for_methods_that_compare_them(
    tmp_path: Path, axes: dict[str, Any], side: str
) -> None:
    planned = _plan(tmp_path, **axes)
    assert {skip.cell.method.name for skip in planned.skips} == {"ab", "ofd"}
    assert {skip.reason for skip in planned.skips} == {
        f"the {side} shows no pre-activations, and the method compares them: "
        "an own network names their modules as `preacts`"
    }
    assert {cell.method.name for cell in planned.cells} == {"none", "attention"}


@pytest.mark.slow
def test_named_pre_activations_are_enough(tmp_path: Path) -> None:
    own = [{"name": "own", "student": NAMED}]
    assert not _plan(tmp_path, students=[NAMED], teachers=own).skips
