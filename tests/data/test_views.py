"""Reused augmentations: the same for all seeds, an axis of the matrix, in every key."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from ktbench.data import Stream
from ktbench.matrix import MatrixError, loads, plan
from ktbench.records import Augmentation, Plan
from ktbench.results.lock import Lock, LockFile
from tests.support.caching import stream_of
from tests.support.running import SMALL, Commands, digests, results, write_matrix
from tests.support.training import DATA, TRAIN, cell, digits

AUGMENTED = SMALL["data"] | {"augment": {"crop_padding": 1, "flip": True}}


def _stream(seed: int = 0, views: int | None = None) -> Stream:
    return Stream(digits(), seed, 32, views)


def _images(stream: Stream, epoch: int) -> torch.Tensor:
    return stream.samples.augmented(torch.arange(96), stream.view(epoch))


def _planned(**changes: Any) -> Plan:
    return plan(loads(yaml.safe_dump(SMALL | changes)))


# ---------------------------------------------------------------- the stream


def test_epochs_take_turns_with_the_views() -> None:
    stream = _stream(views=3)
    seen = [_images(stream, epoch) for epoch in range(6)]
    for epoch in range(3):
        assert torch.equal(seen[epoch], seen[epoch + 3])
        assert stream.view(epoch) == stream.view(epoch + 3) == epoch
        assert not torch.equal(seen[epoch], seen[(epoch + 1) % 3])


def test_all_seeds_see_the_same_views_in_orders_of_their_own() -> None:
    first, second = _stream(0, 4), _stream(1, 4)
    assert torch.equal(_images(first, 2), _images(second, 2))
    assert not torch.equal(first.order(2), second.order(2))
    assert first.step_seed(5) != second.step_seed(5)
    assert not torch.equal(_images(_stream(0), 2), _images(_stream(1), 2))


def test_the_order_is_the_seeds_whatever_the_views() -> None:
    assert torch.equal(_stream(3, 2).order(5), _stream(3).order(5))
    assert not torch.equal(_stream(3, 2).order(5), _stream(3, 2).order(3))


def test_views_are_drawn_from_the_datas_own_seed() -> None:
    other = digits(DATA.model_copy(update={"split_seed": 7}).model_dump_json())
    ours = Stream(digits(), 0, 32, 2).samples.windows(torch.arange(96).numpy(), 1)
    theirs = Stream(other, 0, 32, 2).samples.windows(torch.arange(96).numpy(), 1)
    assert not torch.equal(ours[0], theirs[0])


def test_what_describes_an_input_is_equal_exactly_where_inputs_are() -> None:
    assert _stream(0, 2).described == _stream(5, 3).described
    assert _stream(0).described != _stream(1).described != _stream(1, 2).described
    plain = digits(DATA.model_copy(update={"augment": Augmentation()}).model_dump_json())
    unmoved = [Stream(plain, seed, 32, views) for seed, views in ((0, None), (1, None), (2, 4))]
    assert len({stream.described for stream in unmoved}) == 1
    assert {stream.view(9) for stream in unmoved} == {0}
    assert stream_of(cell(train=TRAIN.model_copy(update={"views": 2}))).views == 2


# ---------------------------------------------------------------- the matrix


def test_every_cell_is_there_once_per_number_of_views_the_baseline_too() -> None:
    planned = _planned(views=["fresh", 4], seeds=2)
    assert [(c.method.name, c.train.views, c.seed) for c in planned.cells] == [
        (method, views, seed) for method in ("none", "kd") for views in (None, 4) for seed in (0, 1)
    ]
    assert len({cell.key for cell in planned.cells}) == 8
    assert len({cell.label for cell in planned.cells}) == 8
    assert planned.cells[2].label.endswith(" / views 4")
    fresh = [c.key for c in planned.cells if c.train.views is None]
    assert fresh == [c.key for c in _planned(seeds=2).cells]


def test_one_number_may_stand_under_train() -> None:
    under_train = _planned(train=SMALL["train"] | {"views": 4})
    axis = _planned(views=4)
    assert [c.key for c in under_train.cells] == [c.key for c in axis.cells]


@pytest.mark.slow
def test_a_teachers_views_are_its_own_entrys() -> None:
    for changes in ({"views": [2]}, {"train": SMALL["train"] | {"views": 2}}):
        assert {t.cell.train.views for t in _planned(**changes).teachers} == {None}
    asked = _planned(teachers=[{"student": "resnet8", "train": {"views": 3}}])
    assert {t.cell.train.views for t in asked.teachers} == {3}


def test_include_trains_all_views_of_a_cell_otherwise() -> None:
    longer = {"method": "kd", "train": {"epochs": 5}}
    planned = _planned(views=["fresh", 2], include=[longer])
    assert [(c.method.name, c.train.views, c.train.epochs) for c in planned.cells] == [
        ("none", None, 2), ("none", 2, 2), ("kd", None, 5), ("kd", 2, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": [2, 2]}, "views[1]: 2 is listed twice"),
        ({"views": [2], "train": SMALL["train"] | {"views": 3}}, "train.views: views is an axis"),
        (
            {"views": [2], "include": [{"method": "kd", "train": {"views": 3}}]},
            "include[0].train.views: views is an axis",
        ),
        ({"views": ["stale"]}, "views[0]"),
        ({"views": [0]}, "views[0]"),
        ({"teacher": {"source": "cache"}}, "teacher.source: must be live, cached or pool"),
        ({"teacher": {"keep": []}}, "teacher.keep: must not be empty"),
        (
            {"teacher": {"keep": "preacts"}},
            "teacher.keep: must be logits, embedding, stages, stem or attentions",
        ),
        ({"teacher": {"cap_gb": 0}}, "teacher.cap_gb: must be above 0"),
        ({"numeric": {"outputs": {"sampled": 40000}}}, "numeric.outputs.sampled: must be at most"),
    ],
)
def test_what_cannot_be_is_told_where_it_stands(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MatrixError) as caught:
        _planned(**changes)
    assert message in str(caught.value)


# ---------------------------------------------------------------- where outputs come from


def test_where_outputs_come_from_is_in_the_plan_and_in_no_key() -> None:
    live = _planned()
    cached = _planned(teacher={"source": "cached", "keep": "stages", "cap_gb": 2})
    assert (cached.source.source, cached.source.keep, cached.source.cap_gb) == (
        "cached", ("stages",), 2,
    )  # fmt: skip
    assert [c.key for c in cached.cells] == [c.key for c in live.cells]


def test_a_lock_holds_where_outputs_came_from_and_an_old_one_says_live() -> None:
    from ktbench.system.provenance import collect

    planned = _planned(teacher={"source": "cached", "cap_gb": 3}, views=["fresh", 2])
    packed = LockFile.of(Lock(plan=planned, provenance=collect()))
    text = packed.model_dump_json()
    assert LockFile.model_validate_json(text).lock().plan == planned
    old = packed.model_dump(mode="json")
    del old["plan"]["source"]
    assert LockFile.model_validate(old).lock().plan.source.source == "live"


# ---------------------------------------------------------------- reduced outputs


def _outputs(planned: Plan, method: str) -> Any:
    return {c.numeric.outputs for c in planned.cells if c.method.name == method}


def test_reduced_outputs_are_in_the_key_of_cells_with_a_teacher_alone() -> None:
    plain, half = _planned(), _planned(numeric={"outputs": {"precision": "fp16"}})
    keys = [{c.method.name: c.key for c in p.cells} for p in (plain, half)]
    assert keys[0]["none"] == keys[1]["none"]
    assert keys[0]["kd"] != keys[1]["kd"]
    assert [t.canonical for t in plain.teachers] == [t.canonical for t in half.teachers]
    assert _outputs(half, "none") == {None}


@pytest.mark.slow
def test_settings_of_outputs_that_change_nothing_are_in_no_key() -> None:
    def keys(**outputs: Any) -> list[str]:
        return [c.key for c in _planned(numeric={"outputs": outputs}).cells]

    assert keys() == keys(temperature=2) == [c.key for c in _planned().cells]
    assert keys(precision="fp16") == keys(precision="fp16", temperature=2)
    assert keys(sampled=9) == keys(sampled=9, precision="fp16") != keys(sampled=8)


@pytest.mark.slow
def test_methods_that_a_sample_would_mislead_are_skipped_with_the_reason() -> None:
    methods: list[Any] = [
        "kd", {"kd": {"temperature": 2}}, {"kd": {"standardise": True}}, "soft_logits",
        {"soft_logits": {"temperature": 4}}, "dkd", "dist", "fitnet", "hard_logits", "last_layer",
        {"combined": {"parts": ["kd"]}}, {"combined": {"parts": ["kd", "crd"]}},
        {"combined": {"parts": ["kd", {"method": "kd", "settings": {"temperature": 2}}]}},
    ]  # fmt: skip
    planned = _planned(methods=methods, numeric={"outputs": {"sampled": 20}})
    trained = {c.method.label for c in planned.cells}
    assert trained == {
        "none", "kd", "soft_logits(temperature=4)", "combined",
    }  # fmt: skip
    reasons = {skip.cell.method.label: skip.reason for skip in planned.skips}
    assert len(reasons) == 10
    assert "softens with 2" in reasons["kd(temperature=2)"]
    assert "not" in reasons["kd(standardise=true)"] and "linear" in reasons["dkd"]
    assert "reads more" in reasons["fitnet"]
    assert not _planned(methods=methods, numeric={"outputs": {"precision": "fp16"}}).skips


# ---------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_a_run_with_a_cache_trains_the_same_and_tells_how_much_was_read(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ktbench = Commands(tmp_path, monkeypatch, capsys)
    changes = {"data": AUGMENTED, "views": ["fresh", 1], "seeds": 2}
    write_matrix(tmp_path / "live.yaml", **changes)
    write_matrix(tmp_path / "cached.yaml", **changes, teacher={"source": "cached"})
    assert ktbench("run", "live.yaml", "--results", "live").code == 0
    answer = ktbench("run", "cached.yaml", "--results", "cached")
    assert answer.code == 0, answer.err
    assert digests(tmp_path / "cached") == digests(tmp_path / "live")
    assert "teacher outputs: 75 % from the cache" in answer.out + answer.err
    again = ktbench("run", "cached.yaml", "--results", "again")
    assert (again.out + again.err).count("teacher outputs: 75 % from the cache") == 4
    costs = [
        {label: r.checkpoint.cost.teacher_flops for label, r in results(tmp_path / f).items()}  # type: ignore[union-attr]
        for f in ("live", "cached", "again")
    ]
    assert costs[0] == costs[1] == costs[2]
