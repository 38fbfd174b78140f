"""Methods on tokens train networks of texts, and a cell's weights are a function of the cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench import catalogue
from ktbench.data import Stream
from ktbench.records import (
    Cell,
    Checkpoint,
    DataSpec,
    Item,
    KtbenchError,
    NumericSpec,
    SourceSpec,
    Teacher,
    TeacherOutputs,
    TrainSpec,
)
from ktbench.students._contract import Features
from ktbench.teacher.build import build_source
from ktbench.teacher.cache.feature_layout import features_of, parts_of
from ktbench.teacher.cache.source import Cached
from ktbench.teacher.live import Live
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.messages import Request, needs_bits, pack, unpack
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.shared_tensors import LentFeatures
from ktbench.transfer_methods._contract import Needs, Shapes
from tests.support import method_cases as cases
from tests.support.text_networks import Reader
from tests.support.texts import loaded, text_cell, text_data, write_texts
from tests.support.training import HERE, places_in

READER = f"{Path(__file__).parents[1] / 'support' / 'text_networks.py'}:Reader"
DEEP = {"arguments": {"layers": 4}}
KEEP = ("logits", "stages", "stem", "attentions")
SUM = {"parts": ["kd", "hidden_states", {"method": "minilm", "end": 0.5}, "attention_maps"]}
METHODS = [(name, {}) for name in cases.for_tokens()] + [
    ("combined", SUM),
    ("minilm", {"relations": ["query", "key", "value"], "heads": 4}),
]
each_method = pytest.mark.parametrize(("name", "settings"), METHODS)
READ = Needs(logits=True, stages=True, stem=True, attentions=True)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return text_data(write_texts(tmp_path_factory.mktemp("texts"), 120))


def cell(spec: DataSpec, name: str, settings: dict[str, Any] | None = None, **changes: Any) -> Cell:
    """Return the cell of a reader of two layers, taught by one of four."""
    taught = text_cell(spec, student=Item(name=READER, settings=DEEP))
    fields: dict[str, Any] = {
        "student": Item(name=READER),
        "teacher": Teacher(name="t", cell=taught),
        "train": TrainSpec(epochs=4, batch_size=32, lr=0.01, optimiser="adam", views=1),
    }
    method = Item(name=name, settings=settings or {})
    return text_cell(spec, **{**fields, **changes}).model_copy(update={"method": method})


def data_of(spec: DataSpec) -> Any:
    return loaded(spec.model_dump_json())


def live(spec: DataSpec) -> Live:
    """An untrained teacher."""
    data = data_of(spec)
    torch.manual_seed(5)
    network = catalogue.build_student(READER, DEEP, base=str(HERE), **data.dimensions)
    return Live(network, trained_on=data, dataset=data)


def cached(of: Cell, root: Path) -> Cached:
    stream = Stream(data_of(of.data), of.seed, of.train.batch_size, of.train.views)
    source = build_source(
        live(of.data),
        taught=of,
        stream=stream,
        teacher=("t",),
        spec=SourceSpec(source="cached", keep=KEEP),
        root=root / "outputs",
    )
    assert isinstance(source, Cached)
    return source


def train(cells: list[Cell], root: Path, source: Any = None, **options: Any) -> list[str]:
    """Train cells as one cohort; return the digests of their weights."""
    spec = cells[0].data
    teacher = live(spec) if source is None else source
    made = train_cohort(
        cells,
        TrainingContext(
            dataset=data_of(spec), teacher=teacher, places=places_in(root), base=HERE, **options
        ),
    )
    assert all(isinstance(one, Checkpoint) for one in made), made
    return [one.digest for one in made if isinstance(one, Checkpoint)]


@pytest.fixture(scope="module")
def alone(spec: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The weights of each method's cell, trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    return [train([cell(spec, *method)], root)[0] for method in METHODS]


@pytest.mark.slow
def test_every_method_has_weights_of_its_own_and_the_same_in_a_cohort(
    spec: DataSpec, alone: list[str], tmp_path: Path
) -> None:
    assert len(set(alone)) == len(METHODS)
    assert train([cell(spec, *method) for method in METHODS], tmp_path) == alone


@pytest.mark.slow
@each_method
def test_a_cached_teacher_and_a_stop_lead_to_the_same_weights(
    name: str, settings: dict[str, Any], spec: DataSpec, alone: list[str], tmp_path: Path
) -> None:
    of, expected = cell(spec, name, settings), alone[METHODS.index((name, settings))]
    for root in ("cold", "warm"):
        source = cached(of, tmp_path)
        assert train([of], tmp_path / root, source) == [expected]
        assert source.account.read > 0 and source.account.beyond == 0
    calls = 0

    def stop_in_the_second_epoch(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train([of], tmp_path, report=stop_in_the_second_epoch, checkpoint_seconds=0.0)
    assert train([of], tmp_path) == [expected]


@pytest.mark.slow
def test_every_method_trains_in_bf16(spec: DataSpec, tmp_path: Path) -> None:
    numeric = NumericSpec(threads=1, precision="bf16")
    cells = [cell(spec, *method, numeric=numeric) for method in METHODS]
    assert len(set(train(cells, tmp_path))) == len(METHODS)


# ---------------------------------------------------------------- heads and masks on their way


def shown(spec: DataSpec) -> Features:
    """What the teacher shows of one batch."""
    of = cell(spec, "minilm")
    stream = Stream(data_of(spec), of.seed, 32)
    inputs = stream.inputs(stream.order(0)[0], 0)
    return live(spec).outputs(replace(cases.batch(), inputs=inputs), READ)


def every_part(of: Features) -> dict[str, torch.Tensor]:
    return parts_of(of, READ)


def test_heads_and_masks_are_the_same_by_every_way(spec: DataSpec) -> None:
    features = shown(spec)
    parts = every_part(features)
    assert {"query0", "key3", "value3", "mask", "stem"} <= set(parts)
    assert parts["mask"].dtype == torch.bool and not parts["mask"].all()
    assert all(part.is_contiguous() for part in parts.values())
    packed = pack(features, READ, flops=1, seconds=0.1)
    ways = (
        LentFeatures(features).features(),
        unpack(packed, torch.device("cpu")),
        features_of(parts),
    )
    for way in ways:
        again = every_part(way)
        assert list(again) == list(parts)
        for name, part in parts.items():
            assert torch.equal(again[name], part) and again[name].stride() == part.stride()


def test_nothing_is_carried_that_is_not_asked_for(spec: DataSpec) -> None:
    features = shown(spec)
    assert set(parts_of(features, Needs(logits=True))) == {"logits"}
    assert set(parts_of(features, Needs(stages=True))) == {
        "logits", "mask", *(f"stage{i}" for i in range(4)),
    }  # fmt: skip


def test_a_write_into_heads_or_mask_is_found(spec: DataSpec) -> None:
    for place in ("query of layer 2", "mask"):
        features = shown(spec)
        lent = LentFeatures(features)
        assert lent.written() is None
        mask = features.mask
        assert mask is not None
        (mask if place == "mask" else features.attentions[1].query).zero_()
        assert lent.written() == place


@pytest.mark.parametrize("change", ["layers", "heads", "mask", "missing"])
def test_a_workers_answer_with_other_heads_is_refused(change: str, spec: DataSpec) -> None:
    features = shown(spec)
    expected = Expected(Shapes.of(features, ("a", "b", "c", "d")))
    request = Request(1, 0, needs_bits(READ))
    expected.check(features, request, rows=32)
    first = features.attentions[0]
    wrong = {
        "layers": replace(features, attentions=features.attentions[1:]),
        "heads": replace(
            features, attentions=(first._replace(key=first.key[:, :1]), *features.attentions[1:])
        ),
        "mask": replace(features, mask=features.mask[:, 1:] if features.mask is not None else None),
        "missing": replace(features, mask=None),
    }
    with pytest.raises(KtbenchError):
        expected.check(wrong[change], request, rows=32)


def test_rounded_outputs_leave_the_mask_as_it_is(spec: DataSpec) -> None:
    of = cell(spec, "minilm")
    numeric = of.numeric.model_copy(update={"outputs": TeacherOutputs(precision="fp16")})
    halved = cached(of.model_copy(update={"numeric": numeric}), Path("unused"))._compression
    features = shown(spec)
    back = halved.unpack(halved.pack(features, cases.batch(), READ), torch.device("cpu"))
    assert back.mask is not None and features.mask is not None
    assert torch.equal(back.mask, features.mask)
    query = features.attentions[0].query
    assert torch.equal(back.attentions[0].query, query.half().float())


def test_a_reader_ignores_padding() -> None:
    torch.manual_seed(0)
    network = Reader(2, 20, 6).eval()
    ids, mask = torch.randint(20, (3, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])
    other = torch.where(mask.bool(), ids, (ids + 1) % 20)
    assert torch.equal(network((ids, mask)), network((other, mask)))
