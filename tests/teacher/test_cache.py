"""A cached teacher gives what a live one gives, and runs only where it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cache
from ktbench.records import Augmentation
from ktbench.students._contract import Features
from ktbench.teacher.cache.feature_layout import RowLayout
from ktbench.teacher.cache.source import Cached
from ktbench.teacher.live import Live
from ktbench.transfer_methods._contract import Batch, Needs
from tests.support.caching import HALF, SAMPLED, VIEWS, batch_of, files, source, trial
from tests.support.training import DATA, NUMERIC, TRAIN, cell, teacher, train

STEPS, BATCH = 12, 32
ALL = STEPS * BATCH
KEPT: dict[str, tuple[str, ...]] = {
    "kd": ("logits",),
    "fitnet": ("logits", "stages"),
    "crd": ("embedding",),
}


# ---------------------------------------------------------------- equal, bit for bit


@pytest.mark.slow
@pytest.mark.parametrize("method", KEPT)
def test_a_cached_teacher_trains_the_weights_of_a_live_one_cold_and_warm_and_for_another_seed(
    method: str, tmp_path: Path
) -> None:
    keep = KEPT[method]
    first, second = (cell(method, seed=seed, train=VIEWS) for seed in (0, 1))
    live = [trial(of, tmp_path, own=teacher(tmp_path)).digest for of in (first, second)]
    cold = trial(first, tmp_path, keep=keep)
    warm = trial(first, tmp_path, keep=keep)
    other = trial(second, tmp_path, keep=keep)
    assert [cold.digest, other.digest] == live
    assert warm.digest == cold.digest
    if method != "fitnet":  # whose phases read nothing once the hint is learnt
        assert cold.shares == (ALL / 2, ALL / 2)  # both views of every image, once
        assert warm.shares == other.shares == (ALL - BATCH, BATCH)  # all but the first batch
    assert warm.shares[1] == other.shares[1] == BATCH
    assert not cold.notes + warm.notes + other.notes


@pytest.mark.slow
def test_epochs_with_new_augmentations_are_kept_for_their_own_seed_alone(tmp_path: Path) -> None:
    cold, warm = (trial(cell(), tmp_path) for _ in range(2))
    other = trial(cell(seed=1), tmp_path)
    assert cold.digest == warm.digest != other.digest
    assert cold.shares[0] == other.shares[0] == 0
    assert warm.shares[1] == BATCH


@pytest.mark.slow
def test_without_augmentation_every_epoch_is_the_same_view_under_all_seeds(tmp_path: Path) -> None:
    plain = DATA.model_copy(update={"augment": Augmentation()})
    cold = trial(cell(data=plain), tmp_path)
    assert cold.shares == (2 * 96, 96)
    assert trial(cell(data=plain, seed=1), tmp_path).shares[1] == BATCH
    assert len(files(tmp_path)) == 1


@pytest.mark.slow
def test_another_number_of_views_finds_the_views_that_are_there(tmp_path: Path) -> None:
    trial(cell(train=VIEWS), tmp_path)
    more = VIEWS.model_copy(update={"views": 4})
    assert trial(cell(train=more), tmp_path).shares == (ALL / 2 - BATCH, ALL / 2 + BATCH)
    assert len(files(tmp_path)) == 4


@pytest.mark.slow
def test_a_batch_as_large_as_the_probe_is_not_taken_for_it(tmp_path: Path) -> None:
    """The probe's images are not augmented."""
    small = VIEWS.model_copy(update={"batch_size": 16})
    live = trial(cell(train=small), tmp_path, own=teacher(tmp_path))
    for _ in range(2):
        assert trial(cell(train=small), tmp_path, keep=KEPT["fitnet"]).digest == live.digest


@pytest.mark.slow
def test_kept_parts_have_the_memory_layout_of_the_live_ones(tmp_path: Path) -> None:
    of = cell(train=VIEWS)
    cached = source(of, tmp_path, keep=("logits", "embedding", "stages"))
    needs = Needs(logits=True, embedding=True, stages=True)
    batch = batch_of(of)
    live = cached.outputs(batch, needs)
    turned = replace(batch, indices=batch.indices.flip(0), inputs=batch.inputs.flip(0))
    read = cached.outputs(turned, needs)
    assert cached.account.read == BATCH
    for ours, theirs in zip((read.logits, *read.stages), (live.logits, *live.stages), strict=True):
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours.flip(0), theirs)
    assert live.stages[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(read.embedding.flip(0), live.embedding)


def test_outputs_in_bfloat16_come_back_as_they_were() -> None:
    whole = torch.randn(4, 3, 2, 2).bfloat16().contiguous(memory_format=torch.channels_last)
    layout = RowLayout.of({"logits": whole})
    assert layout is not None
    [slot] = layout.slots
    again = slot.tensor(layout.rows({"logits": whole}))
    assert torch.equal(again, whole) and again.stride() == whole.stride()


def test_memory_with_gaps_has_no_layout() -> None:
    whole = torch.arange(48.0).view(2, 4, 6)
    assert RowLayout.of({"logits": whole.transpose(1, 2)}) is not None
    for part in (whole[:, :, :3], whole.transpose(0, 1), whole[:, :1].expand(2, 4, 6)):
        assert RowLayout.of({"logits": part}) is None


@pytest.mark.slow
def test_the_benchmark_compares_trainings_of_equal_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cache.VARIABLE, "quick")
    outcome = cache.run()
    printed = capsys.readouterr().out
    assert "weights equal" in printed and "teacher outputs" not in printed
    assert "% of the ceiling" in outcome.figure


# ---------------------------------------------------------------- what is not served


@pytest.mark.slow
def test_a_method_that_reads_more_than_is_kept_is_served_live(tmp_path: Path) -> None:
    of = cell("attention", train=VIEWS)
    cached = trial(of, tmp_path)
    assert cached.digest == trial(of, tmp_path, own=teacher(tmp_path)).digest
    assert cached.shares == (0, ALL)
    assert cached.source.account.beyond == ALL
    assert "reads more than teacher.keep" in (cached.source.account.text or "")
    assert not files(tmp_path)


@pytest.mark.slow
def test_a_batch_of_another_size_is_neither_read_nor_stored(tmp_path: Path) -> None:
    """A batch's size decides how it is computed."""
    of = cell(train=VIEWS)
    trial(of, tmp_path)
    before = [file.read_bytes() for file in files(tmp_path)]
    cached, batch, needs = source(of, tmp_path), batch_of(of), Needs(logits=True)
    cached.outputs(batch, needs)
    half = replace(batch, inputs=batch.inputs[:20], indices=batch.indices[:20])
    odd = cached.outputs(half, needs)
    assert cached.account.read == 0
    assert torch.equal(odd.logits, teacher(tmp_path).outputs(half, needs).logits)
    assert [file.read_bytes() for file in files(tmp_path)] == before


class _Mixing:
    """A teacher whose answers depend on the batch: its logits are shifted by the first's."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __getattr__(self, name: str) -> Any:
        return getattr(self._live, name)

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        features = self._live.outputs(batch, needs)
        return replace(features, logits=features.logits + features.logits[:1])


@pytest.mark.slow
def test_a_teacher_that_looks_at_the_whole_batch_is_served_live_and_told(tmp_path: Path) -> None:
    of, mixing = cell(train=VIEWS), _Mixing(teacher(tmp_path))
    cached = trial(of, tmp_path, live=mixing)
    assert cached.digest == trial(of, tmp_path, own=mixing).digest
    assert cached.shares == (0, ALL)
    [note] = cached.notes
    assert "depends on the others of its batch" in note


class _Shifted(_Mixing):
    """Another teacher of the same name: what a change of the program would make of it."""

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        features = self._live.outputs(batch, needs)
        return replace(features, logits=features.logits * 2)


@pytest.mark.slow
def test_another_teacher_never_reads_what_was_said_by_this_one(tmp_path: Path) -> None:
    first = trial(cell(train=VIEWS), tmp_path)
    renamed = trial(cell(train=VIEWS), tmp_path, name="other")
    assert renamed.shares == first.shares
    assert len(files(tmp_path)) == 4


@pytest.mark.slow
def test_a_teacher_that_answers_otherwise_under_the_same_name_is_found_out(tmp_path: Path) -> None:
    shifted = _Shifted(teacher(tmp_path))
    of = cell(train=VIEWS)
    before = trial(of, tmp_path)
    changed = trial(of, tmp_path, live=shifted)
    assert changed.digest == trial(of, tmp_path, own=shifted).digest != before.digest
    [note] = changed.notes
    assert "all are made again" in note
    assert trial(of, tmp_path, live=shifted).shares[1] == BATCH


@pytest.mark.parametrize(
    "change",
    [
        {"numeric": NUMERIC.model_copy(update={"threads": 2})},
        {"numeric": HALF},
        {"numeric": SAMPLED},
        {"train": VIEWS.model_copy(update={"batch_size": 24})},
        {"data": DATA.model_copy(update={"train_size": 97})},
        {"data": DATA.model_copy(update={"split_seed": 1})},
        {"data": DATA.model_copy(update={"augment": Augmentation(crop_padding=1)})},
        {"train": TRAIN},
    ],
)
@pytest.mark.slow
def test_whatever_changes_the_outputs_has_a_folder_of_its_own(
    change: dict[str, Any], tmp_path: Path
) -> None:
    def folder(**changes: Any) -> Path:
        own = source(cell(**{"train": VIEWS, **changes}), tmp_path)
        assert isinstance(own, Cached)
        return own._folder

    assert folder() == folder(seed=3) == folder(student=cell("none").student)
    assert folder(**change) != folder()


# ---------------------------------------------------------------- costs


@pytest.mark.slow
def test_a_cell_costs_what_it_would_cost_with_a_live_teacher(tmp_path: Path) -> None:
    of = cell(train=VIEWS)
    [live] = train([of], tmp_path)
    trial(of, tmp_path)
    warm = trial(of, tmp_path)
    assert warm.shares[0] > 0
    assert warm.made.cost.teacher_flops == live.cost.teacher_flops  # type: ignore[union-attr]
    assert warm.made.cost.flops == live.cost.flops  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_teachers_seconds_are_those_of_its_passes_when_they_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = cell(train=VIEWS)
    monkeypatch.setattr(Live, "seconds", lambda _: 100.0)
    cold = trial(of, tmp_path)
    monkeypatch.setattr(Live, "seconds", lambda _: 1.0)
    warm = trial(of, tmp_path)
    assert cold.made.cost.teacher_seconds == STEPS * 100.0
    assert warm.made.cost.teacher_seconds == (STEPS - 1) * 100.0 + 1.0


@pytest.mark.slow
def test_a_live_source_that_nothing_is_taken_from_is_the_teacher_itself(tmp_path: Path) -> None:
    assert source(cell("none"), tmp_path, source="live") is teacher(tmp_path)
