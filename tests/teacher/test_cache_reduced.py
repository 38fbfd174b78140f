"""A teacher's outputs made smaller: rounded and sampled, the same live and from a cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ktbench import catalogue
from ktbench.data import counter_hash
from ktbench.records import NumericSpec, TeacherOutputs
from ktbench.students._contract import Features
from ktbench.teacher.compressed import Compressed, Compression, draw_classes, log_counts
from ktbench.transfer_methods._contract import Batch, Needs, Setting, Shapes
from tests.support.caching import HALF, SAMPLED, VIEWS, batch_of, files, source, trial
from tests.support.training import NUMERIC, cell, teacher

EVERYTHING = Needs(logits=True, stages=True, embedding=True, preacts=True, stem=True)


# ---------------------------------------------------------------- live = cached


@pytest.mark.slow
@pytest.mark.parametrize("numeric", [HALF, SAMPLED], ids=["fp16", "sampled"])
def test_reduced_outputs_train_the_same_weights_live_cold_warm_and_for_another_seed(
    numeric: NumericSpec, tmp_path: Path
) -> None:
    first, second = (cell(seed=seed, train=VIEWS, numeric=numeric) for seed in (0, 1))
    live = [trial(of, tmp_path, source="live").digest for of in (first, second)]
    cold, warm, other = (trial(of, tmp_path) for of in (first, first, second))
    assert [cold.digest, warm.digest, other.digest] == [live[0], *live]
    assert warm.shares[1] == other.shares[1] == 32
    whole = cell(train=VIEWS)
    assert trial(whole, tmp_path, own=teacher(tmp_path)).digest != cold.digest


@pytest.mark.slow
def test_rounded_stages_train_the_same_weights_live_and_cached(tmp_path: Path) -> None:
    of = cell("fitnet", train=VIEWS, numeric=HALF)
    live = trial(of, tmp_path, source="live").digest
    for _ in range(2):
        assert trial(of, tmp_path, keep=("logits", "stages")).digest == live


@pytest.mark.slow
def test_reduced_rows_are_smaller(tmp_path: Path) -> None:
    sizes = []
    for numeric in (NUMERIC, HALF):
        trial(cell(train=VIEWS, numeric=numeric), tmp_path / str(len(sizes)))
        sizes.append(files(tmp_path / str(len(sizes)))[0].stat().st_size - 64)
    assert sizes == [96 * (10 * 4 + 4), 96 * (10 * 2 + 4)]


# ---------------------------------------------------------------- fp16


def test_half_precision_is_the_live_outputs_rounded(tmp_path: Path) -> None:
    of = cell(train=VIEWS, numeric=HALF)
    live, batch = teacher(tmp_path), batch_of(of)
    whole = live.outputs(batch, EVERYTHING)
    reduced = source(of, tmp_path, source="live").outputs(batch, EVERYTHING)
    assert isinstance(source(of, tmp_path, source="live"), Compressed)
    pairs = [(reduced.logits, whole.logits), (reduced.embedding, whole.embedding)]
    pairs += zip(reduced.stages + reduced.preacts, whole.stages + whole.preacts, strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.half().float())
        assert ours.stride() == theirs.stride()
    assert not torch.equal(reduced.logits, whole.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_half_precision_cannot_hold_is_its_largest_number(dtype: torch.dtype) -> None:
    compression = Compression(TeacherOutputs(precision="fp16"), seed=0, view=lambda epoch: 0)
    features = Features(torch.tensor([[1e9, -1e9, 1.0]], dtype=dtype))
    packed = compression.pack(features, None, Needs())  # type: ignore[arg-type]
    found = compression.unpack(packed, torch.device("cpu")).logits
    assert found.tolist() == [[65504.0, -65504.0, 1.0]]


# ---------------------------------------------------------------- sampling


def _sampled(logits: torch.Tensor, draws: int, temperature: float, view: int = 0) -> torch.Tensor:
    """The logits that students see of a batch's."""
    count, classes = logits.shape
    words = counter_hash(5, view, np.arange(count * draws).reshape(count, draws))
    outputs = TeacherOutputs(sampled=draws, temperature=temperature)
    return log_counts(draw_classes(logits, temperature, words), classes, outputs)


@pytest.mark.parametrize(("draws", "temperature"), [(1, 4.0), (8, 1.0), (50, 2.0)])
def test_a_sample_is_an_unbiased_estimate_of_the_softened_probabilities(
    draws: int, temperature: float
) -> None:
    """z-scores of 4,000 estimates' mean: of 7 × 3 classes none is beyond 4 deviations."""
    logits = 3 * torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    true = (logits / temperature).softmax(1)
    repeats = 4000
    found = (_sampled(logits.repeat(repeats, 1), draws, temperature) / temperature).softmax(1)
    mean = found.view(repeats, 3, 7).double().mean(0)
    deviation = (true * (1 - true) / (draws * repeats)).sqrt()
    assert ((mean - true) / deviation).abs().max() < 4
    torch.testing.assert_close(found.sum(1), torch.ones(3 * repeats))
    shares = found * draws
    torch.testing.assert_close(shares, shares.round(), rtol=0, atol=1e-3)


def test_a_class_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf], [-1e4, 0.0, -1e4, -1e4]])
    found = _sampled(logits.repeat(500, 1), 16, 4.0).view(500, 2, 4)
    assert found[:, 0, [1, 3]].isneginf().all() and found[:, 0, [0, 2]].isfinite().all()
    assert (found[:, 1] == torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf])).all()


@pytest.mark.parametrize("classes", [2, 3, 1000, 40_000])
def test_a_sample_is_kept_in_as_few_numbers_as_it_needs(classes: int) -> None:
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(0))
    packed = draw_classes(logits, 1.0, counter_hash(0, 0, np.arange(4 * 5).reshape(4, 5)))
    assert packed["classes"].shape == packed["counts"].shape == (4, min(5, classes))
    assert packed["classes"].dtype == (torch.int32 if classes > 32767 else torch.int16)
    assert packed["counts"].sum(1).tolist() == [5] * 4
    again = log_counts(packed, classes, TeacherOutputs(sampled=5, temperature=1.0))
    assert (again.isfinite().sum(1) == (packed["counts"] > 0).sum(1)).all()


def test_draws_belong_to_the_teacher_the_sample_and_the_view_and_to_nothing_else() -> None:
    def seen(seed: int = 0, epoch: int = 0, order: Any = slice(None)) -> torch.Tensor:
        compression = Compression(
            TeacherOutputs(sampled=30), seed=seed, view=lambda epoch: epoch % 2
        )
        batch = replace(batch_of(cell(train=VIEWS)), epoch=epoch)
        indices = torch.arange(8)[order]
        batch = Batch(**{**_fields(batch), "indices": indices})
        packed = compression.pack(Features(torch.zeros(8, 10)), batch, Needs())
        return compression.unpack(packed, torch.device("cpu")).logits

    first = seen()
    turned = list(reversed(range(8)))
    assert torch.equal(seen(order=turned)[turned], first)
    assert torch.equal(seen(epoch=2), first)
    assert not torch.equal(seen(epoch=1), first)
    assert not torch.equal(seen(seed=1), first)
    assert len({tuple(row) for row in first.tolist()}) == 8


def _fields(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}


# ---------------------------------------------------------------- methods


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("kd", {}),
    ("kd", {"temperature": 2.0, "weight": 3.0}),
    ("soft_logits", {"temperature": 4.0}),
    ("combined", {"parts": ["kd", {"method": "soft_logits", "settings": {"temperature": 4}}]}),
]


def _gradient(name: str, settings: dict[str, Any], theirs: torch.Tensor) -> torch.Tensor:
    """Of a method's loss with respect to the student's logits."""
    kind = catalogue.method(name, ".")
    config = catalogue.method_config(name, settings, ".")
    shapes = Shapes(theirs.shape[1], (), (), None)
    method = kind(config, Setting(shapes, shapes, theirs.shape[1], 100, len(theirs)))
    generator = torch.Generator().manual_seed(3)
    ours = torch.randn(theirs.shape, generator=generator, dtype=theirs.dtype, requires_grad=True)
    batch = replace(batch_of(cell()), labels=torch.zeros(len(theirs), dtype=torch.int64))
    batch = replace(batch, phase=method.phases()[0].name)
    terms = method.loss(Features(ours), Features(theirs), batch)
    assert all(term.isfinite() for term in terms.values())
    total = torch.stack(list(terms.values())).sum()
    return torch.autograd.grad(total, ours)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_a_method_that_takes_samples_has_on_average_the_gradient_of_the_whole(
    name: str, settings: dict[str, Any]
) -> None:
    """Linear: the gradient at a mixture of one-hot targets is the mixture of their gradients."""
    kind = catalogue.method(name, ".")
    temperature = kind.soft_targets(catalogue.method_config(name, settings, "."))
    assert temperature is not None
    theirs = 3 * torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = _gradient(name, settings, theirs)
    probabilities = (theirs / temperature).softmax(1)
    mixed = torch.zeros_like(expected)
    for first in range(5):
        for second in range(5):
            one_hot = torch.full_like(theirs, -torch.inf)
            one_hot[0, first] = one_hot[1, second] = 0.0
            weight = probabilities[0, first] * probabilities[1, second]
            mixed += weight * _gradient(name, settings, one_hot)
    torch.testing.assert_close(mixed, expected, rtol=1e-9, atol=1e-12)


def test_other_methods_do_not_claim_to_take_samples() -> None:
    claimed = set()
    for name in catalogue.methods():
        kind = catalogue.method(name, ".")
        if kind.soft_targets(kind.Config()) is not None:
            claimed.add(name)
    assert claimed == {"kd", "soft_logits", "combined"}
