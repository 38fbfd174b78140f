"""Blended samples and shared labels: the papers' formulas, by counter, one definition of loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from ktbench.data import Stream
from ktbench.data.mixing import Mixed, Mixing, cut_boxes
from ktbench.tasks.image_classification import Images
from ktbench.teacher.pool.messages import StreamKey
from ktbench.train.device_placement import copied, make_batch
from tests.support.caching import VIEWS, batch_of, trial
from tests.support.training import cell, digits, teacher

BOTH = {"mixup": 0.4, "cutmix": 1.0}
MANY = torch.arange(20_000)


def _stream(
    seed: int = 0, views: int | None = None, smoothing: float = 0.0, **kinds: float
) -> Stream:
    return Stream(digits(), seed, 32, views, Mixing(**kinds), smoothing)


def _mixed(stream: Stream, count: int = 96) -> Mixed:
    assert isinstance(stream.samples, Mixed)
    return replace(stream.samples, count=count)


def _inputs(stream: Stream, indices: Tensor, epoch: int = 0) -> Tensor:
    inputs = stream.inputs(indices, epoch)
    assert isinstance(inputs, Tensor)
    return inputs


# ---------------------------------------------------------------- equal to their definitions


def test_mixup_is_a_weighted_mean_of_both_augmented_images_and_of_their_labels() -> None:
    stream, indices = _stream(mixup=0.4), torch.arange(32)
    mixed = _mixed(stream)
    assert isinstance(mixed.samples, Images)
    blend = mixed.blend(indices, 3, (8, 8))
    made, shares = _inputs(stream, indices, 3), stream.targets(indices, 3)
    labels = digits().labels("train")
    assert shares is not None
    for place, (partner, share) in enumerate(zip(blend.partners, blend.shares, strict=True)):
        first = mixed.samples.inputs(indices[place : place + 1], 3)[0]
        second = mixed.samples.inputs(partner[None], 3)[0]
        torch.testing.assert_close(
            made[place], share * first + (1 - share) * second, rtol=0, atol=1e-5
        )
        expected = torch.zeros(10)
        expected[labels[indices[place]]] += share
        expected[labels[partner]] += 1 - share
        torch.testing.assert_close(shares[place], expected)


def test_cutmix_pastes_a_box_and_shares_the_label_by_its_area() -> None:
    stream, indices = _stream(cutmix=1.0), torch.arange(32)
    mixed = _mixed(stream)
    blend = mixed.blend(indices, 1, (8, 8))
    made = _inputs(stream, indices, 1)
    for place, (partner, share) in enumerate(zip(blend.partners, blend.shares, strict=True)):
        own = mixed.samples.inputs(indices[place : place + 1], 1)
        other = mixed.samples.inputs(partner[None], 1)
        assert isinstance(own, Tensor) and isinstance(other, Tensor)
        kept = blend.weights[place, 0].bool()
        assert torch.equal(made[place][:, kept], own[0][:, kept])
        assert torch.equal(made[place][:, ~kept], other[0][:, ~kept])
        assert share == pytest.approx(float(kept.float().mean()))


def test_a_pasted_box_is_the_one_of_the_papers_formula() -> None:
    draws = np.random.default_rng(0)
    shares, row, column = draws.random((3, 200))
    height, width = 20, 33
    boxes = cut_boxes(shares, row, column, (height, width))
    for box, share, y, x in zip(boxes, shares, row, column, strict=True):
        tall, wide = int(height * np.sqrt(1 - share)), int(width * np.sqrt(1 - share))
        middle_y, middle_x = int(y * height), int(x * width)
        expected = np.zeros((height, width), dtype=bool)
        top, left = max(0, middle_y - tall // 2), max(0, middle_x - wide // 2)
        expected[top : middle_y + tall // 2, left : middle_x + wide // 2] = True
        assert (box == expected).all()


@pytest.mark.slow
def test_shares_partners_and_kinds_have_the_distributions_asked_for() -> None:
    blend = _mixed(_stream(mixup=0.4), count=50).blend(MANY, 0, (8, 8))
    assert stats.kstest(blend.shares, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    counts = np.bincount(blend.partners.numpy(), minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-3
    for extreme in (0.01, 1000.0):
        shares = _mixed(_stream(mixup=extreme)).blend(MANY, 0, (8, 8)).shares
        assert np.isfinite(shares).all() and 0 <= shares.min() <= shares.max() <= 1
    both = _mixed(_stream(**BOTH)).blend(MANY, 0, (8, 8)).weights
    cut = ((both == 0) | (both == 1)).flatten(1).all(1).double().mean()
    assert float(cut) == pytest.approx(0.5, abs=0.02)


# ---------------------------------------------------------------- the same in any batch


@pytest.mark.parametrize("kinds", [{"mixup": 0.4}, {"cutmix": 1.0}, BOTH])
def test_a_sample_is_blended_alike_in_every_batch(kinds: dict[str, float]) -> None:
    stream = _stream(smoothing=0.1, **kinds)
    whole, targets = _inputs(stream, torch.arange(96)), stream.targets(torch.arange(96), 0)
    assert targets is not None
    for chosen in (torch.tensor([5]), torch.tensor([9, 2, 95]), torch.arange(95, -1, -1)):
        assert torch.equal(_inputs(stream, chosen), whole[chosen])
        ours = stream.targets(chosen, 0)
        assert ours is not None and torch.equal(ours, targets[chosen])
    assert not torch.equal(_inputs(stream, torch.arange(96), 1), whole)


def test_views_repeat_blends_and_what_describes_inputs_names_them() -> None:
    stream, indices = _stream(views=2, **BOTH), torch.arange(40)
    assert torch.equal(_inputs(stream, indices, 1), _inputs(stream, indices, 3))
    assert torch.equal(_inputs(stream, indices, 1), _inputs(_stream(5, 2, **BOTH), indices, 1))
    descriptions = [
        _stream(**kinds).described for kinds in ({}, {"mixup": 0.4}, {"mixup": 1.0}, BOTH)
    ]
    assert len(set(descriptions)) == 4
    assert _stream(smoothing=0.1).described == _stream().described  # inputs are the same


def test_a_pools_worker_is_told_of_blends_and_not_of_labels() -> None:
    stream = _stream(smoothing=0.1, **BOTH)
    key = StreamKey(stream.seed, stream.batch_size, stream.views, stream.mixing)
    theirs = Stream(digits(), key.seed, key.batch_size, key.views, key.mixing)
    assert torch.equal(_inputs(theirs, torch.arange(32)), _inputs(stream, torch.arange(32)))


# ---------------------------------------------------------------- one definition of the loss


def test_the_loss_of_shared_labels_is_the_shared_loss_and_torchs_smoothing() -> None:
    device, at = torch.device("cpu"), {"epoch": 2, "step": 0, "steps": 9}
    indices, logits = torch.arange(32), torch.randn(32, 10)
    plain = make_batch(_stream(), indices, **at, device=device)
    assert plain.targets is None
    smooth = make_batch(_stream(smoothing=0.1), indices, **at, device=device)
    expected = functional.cross_entropy(logits, smooth.labels, label_smoothing=0.1)
    torch.testing.assert_close(smooth.supervised(logits), expected)
    stream = _stream(smoothing=0.2, mixup=0.4)
    batch = copied(make_batch(stream, indices, **at, device=device))
    blend = _mixed(stream).blend(indices, 2, (8, 8))
    labels, shares = digits().labels("train"), torch.from_numpy(blend.shares).float()
    own, other = (
        functional.cross_entropy(logits, labels[part], label_smoothing=0.2, reduction="none")
        for part in (indices, blend.partners)
    )
    torch.testing.assert_close(
        batch.supervised(logits), (shares * own + (1 - shares) * other).mean()
    )
    larger = torch.where(shares >= 0.5, labels[indices], labels[blend.partners])
    assert torch.equal(batch.labels, larger)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "crd"])
def test_a_cached_teacher_sees_the_blended_images_as_a_live_one_does(
    method: str, tmp_path: Path
) -> None:
    mixed = cell(method, train=VIEWS.model_copy(update=BOTH))
    keep = ("logits", "embedding") if method == "crd" else ("logits",)
    live = trial(mixed, tmp_path, own=teacher(tmp_path)).digest
    cold, warm = (trial(mixed, tmp_path, keep=keep) for _ in range(2))
    assert cold.digest == warm.digest == live
    assert warm.shares[1] == 32  # the first batch alone
    unmixed = trial(cell(method, train=VIEWS), tmp_path, keep=keep)
    assert unmixed.shares[0] == cold.shares[0] and unmixed.digest != live  # a cache of its own
    assert torch.equal(batch_of(mixed).indices, batch_of(cell(method, train=VIEWS)).indices)
