"""Masked texts: sequences, draws, trainings, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ktbench import catalogue
from ktbench.data import Stream, load
from ktbench.data.word_pieces import SPECIAL, WordPieces, learn, numbers_of
from ktbench.export import LAYOUTS, export_student, raw_samples
from ktbench.measure import BoardAccuracy, evaluate, job_of
from ktbench.networks.weights import load_student
from ktbench.records import (
    Artifact,
    Cell,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    Item,
    KtbenchError,
    NumericSpec,
    Teacher,
    TeacherOutputs,
)
from ktbench.results import load_results
from ktbench.runner.measurement_wave import judge_of
from ktbench.students._contract import parts
from ktbench.tasks.masked_language_model import LOSS, changed, choose, cut
from ktbench.teacher.live import Live
from tests.support.equal_bits import (
    equal_bits,
    equal_bits_cached,
    source_of,
    trained,
    trained_teacher,
)
from tests.support.running import Commands, write_matrix
from tests.support.texts import (
    BERT,
    bert_cell,
    loaded,
    masked_data,
    sentences,
    text_data,
    write_documents,
    write_texts,
)
from tests.support.training import HERE

MASKED = 3
"""Masked pieces of these sequences: a fifth of 14."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture
def spec(folder: Path) -> DataSpec:
    return masked_data(folder)


# ---------------------------------------------------------------- sequences and draws


def test_documents_are_cut_into_whole_sequences_and_an_end_of_half_of_one_or_more() -> None:
    documents = [np.arange(10, 10 + n, dtype=np.int32) for n in (6, 3, 2, 15)]
    (ids, mask), left_out = cut(documents, 8, 1)
    begin, end = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
    assert ids[0].tolist() == [begin, *range(10, 16), end]
    assert ids[1].tolist() == [begin, 10, 11, 12, end, 0, 0, 0]
    assert mask.sum(1).tolist() == [8, 5, 8, 8, 5] and left_out == 2
    assert sum(int(row.sum()) for row in mask) - 2 * len(mask) + left_out == 6 + 3 + 2 + 15


def test_numbers_of_words_are_those_of_whole_texts() -> None:
    texts = [*sentences(50)[0], "A film, (the\tfilm)!\n and  naïve œuvres", ""]
    tokenizer = learn(texts, 150, lowercase=True)
    pieces = WordPieces(tokenizer, 60)
    for text, numbers in zip(texts, numbers_of(tokenizer, texts), strict=True):
        ids, mask, *_ = pieces.numbers([text])
        assert ids[0][1 : mask[0].sum() - 1].tolist() == numbers.tolist()


def test_every_sequence_has_exactly_as_many_masked_pieces_and_none_is_special(
    spec: DataSpec,
) -> None:
    data = loaded(spec.model_dump_json())
    stream, indices = Stream(data, 3, 32), torch.arange(data.size("train"))
    for epoch in range(3):
        ids, mask, positions = parts(stream.inputs(indices, epoch))
        hidden = stream.labels(indices, epoch).view(-1, MASKED)
        assert positions.shape == (len(indices), MASKED)
        assert bool((positions.diff(dim=1) > 0).all())  # distinct, in order
        assert int(positions.min()) > 0 and bool((positions < mask.sum(1, keepdim=True) - 1).all())
        whole = ids.scatter(1, positions, hidden)
        assert torch.equal(whole, stream.samples.kept[0].long())


def test_positions_are_drawn_evenly_and_eight_of_ten_are_hidden() -> None:
    count, length = 4000, 12
    mask = np.ones((count, length), np.int32)
    ids = np.full((count, length), 50, np.int32)
    numbers = np.arange(count)
    positions = choose(mask, 2, numbers, seed=1, view=0)
    share = np.bincount(positions.ravel(), minlength=length) / count
    assert share[0] == share[-1] == 0 and abs(share[1:-1] - 0.2).max() < 0.03
    shown = np.take_along_axis(changed(ids, positions, numbers, 100, 1, 0), positions, 1)
    hidden, same = (shown == SPECIAL.index("[MASK]")).mean(), (shown == 50).mean()
    assert abs(hidden - 0.8) < 0.02 and abs(same - 0.1) < 0.02
    other = shown[(shown != 50) & (shown != SPECIAL.index("[MASK]"))]
    assert other.min() >= len(SPECIAL) and len(np.unique(other)) > 80


def test_each_epoch_masks_anew_and_validation_keeps_its_draw(spec: DataSpec) -> None:
    data, chosen = loaded(spec.model_dump_json()), torch.arange(20)
    fresh, kept = Stream(data, 0, 32), Stream(data, 0, 32, views=1)
    first, second = (parts(fresh.inputs(chosen, epoch))[2] for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(*(parts(kept.inputs(chosen, epoch))[2] for epoch in (0, 5)))
    again = load(spec, HERE)
    assert again.digest == data.digest
    assert torch.equal(again.labels("validation"), data.labels("validation"))


def test_a_missing_split_is_set_aside_by_whole_documents(folder: Path, tmp_path: Path) -> None:
    data = loaded(masked_data(folder).model_dump_json())
    sizes = [data.size(split) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert 0.6 < sizes[0] / sum(sizes) < 0.8 and sizes[1] < sizes[2]


# ---------------------------------------------------------------- trainings


@pytest.fixture(scope="module")
def taught_by(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, Live]:
    """A trained teacher, and its cell."""
    cell = bert_cell(masked_data(folder), seed=9)
    live, made = trained_teacher(cell, tmp_path_factory.mktemp("teacher"))
    assert made.accuracy.test_last > 0.1  # of 5 % by the most frequent piece
    return cell, live


@pytest.mark.slow
def test_a_masked_cell_alone_in_a_cohort_cached_and_resumed_has_the_same_bits(
    spec: DataSpec, taught_by: tuple[Cell, Live], tmp_path: Path
) -> None:
    above, live = taught_by
    train = above.train.model_copy(update={"views": 2})
    cells = [
        bert_cell(spec, method, teacher=Teacher(name="t", cell=above), train=train)
        for method in ("kd", "dkd", "last_layer", "similarity")
    ]
    equal_bits_cached(cells, live, tmp_path)


@pytest.mark.slow
def test_sampled_outputs_of_each_prediction_are_the_same_live_and_cached(
    spec: DataSpec, taught_by: tuple[Cell, Live], tmp_path: Path
) -> None:
    above, live = taught_by
    numeric = NumericSpec(threads=1, outputs=TeacherOutputs(sampled=8))
    train = above.train.model_copy(update={"views": 1})
    cell = bert_cell(
        spec, "kd", teacher=Teacher(name="t", cell=above), train=train, numeric=numeric
    )
    digests = set()
    for name in ("live", "cold", "warm"):
        source = source_of(cell, live, tmp_path, "live" if name == "live" else "cached")
        [made] = trained([cell], tmp_path / name, teacher=source)
        digests.add(made.digest)
    assert source.account.read > source.account.ran
    assert len(digests) == 1
    data = loaded(spec.model_dump_json())
    stream = Stream(data, 0, 32, 1)
    batch = _batch(stream)
    seen = source_of(cell, live, tmp_path / "b", "live").outputs(batch, catalogue_needs())
    counts = (seen.logits.double() / 4).softmax(1) * 8
    assert seen.logits.shape == (32 * MASKED, data.signature.outputs)
    assert torch.allclose(counts.round(), counts, atol=1e-4)
    draws = counts.round().view(32, MASKED, -1)
    assert not torch.equal(draws[:, 0], draws[:, 1])


def catalogue_needs() -> Any:
    return catalogue.method("kd").needs(catalogue.method_config("kd", {}))


def _batch(stream: Stream) -> Any:
    from ktbench.train.device_placement import make_batch

    indices = stream.order(0)[0]
    return make_batch(stream, indices, epoch=0, step=0, steps=10, device=torch.device("cpu"))


def test_the_head_names_pieces_at_their_own_positions_alone() -> None:
    torch.manual_seed(0)
    network = catalogue.build_student(
        BERT.name, dict(BERT.settings), num_classes=50, vocabulary=50, length=16, masked=2
    ).eval()
    ids, mask = torch.randint(5, 50, (3, 16)), torch.ones(3, 16, dtype=torch.int64)
    one, two = (
        network((ids, mask, torch.tensor([[1, 4]] * 3))),
        network((ids, mask, torch.tensor([[4, 9]] * 3))),
    )
    assert one.shape == (6, 50)
    assert torch.equal(one.view(3, 2, 50)[:, 1], two.view(3, 2, 50)[:, 0])
    # The last layer's vectors of pieces are those of the embeddings.
    assert sum(p.shape == (50, network.encoder.shape.dim) for p in network.parameters()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["1", "dynamic"])
def test_an_exported_file_takes_positions_and_agrees_with_torch(
    spec: DataSpec, tmp_path: Path, batch: Any
) -> None:
    data, cell = loaded(spec.model_dump_json()), bert_cell(spec)
    [made] = trained([cell], tmp_path)
    student = load_student(cell, tmp_path / made.path, base=HERE, **data.dimensions)
    asked = ExportSpec(format="onnx", batch=batch)
    artifact = export_student(student, cell, asked, data, tmp_path / "artifacts", tmp_path)
    assert isinstance(artifact, Artifact), artifact
    assert artifact.agreement == 1.0 and artifact.test_accuracy == made.accuracy.test_last
    device, labels = DeviceSpec(profile="local", name="here"), data.labels("test")
    with torch.inference_mode():
        outputs = student(data.some("test", slice(None)))
    [answer] = evaluate(
        device,
        [job_of(artifact, tmp_path)],
        raw_samples(LAYOUTS["onnx"], data, "test"),
        labels.numpy(),
        [data.task.predictions(outputs).numpy()],
        judge=judge_of(data.task),
    )
    assert isinstance(answer, BoardAccuracy), answer
    assert answer.inputs == len(labels) == data.size("test") * MASKED
    assert (answer.accuracy, answer.agreement) == (artifact.test_accuracy, 1.0)
    losses = [
        float(row.exp().sum().log() - row[label])
        for row, label in zip(outputs.double(), labels, strict=True)
    ]
    assert made.accuracy.beside_last == {LOSS: pytest.approx(np.mean(losses), rel=1e-6)}


@pytest.mark.slow
def test_a_report_shows_the_loss_of_hidden_pieces_where_it_shows_how_many_are_named(
    folder: Path, ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        data=masked_data(folder).model_dump(mode="json"),
        teachers=[{"student": {BERT.name: {**BERT.settings, "layers": 2}}, "name": "T"}],
        students=[{BERT.name: dict(BERT.settings)}],
        train={"epochs": 1, "batch_size": 32, "lr": 0.01, "optimiser": "adam"},
    )
    ktbench.report = True
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0, answer.err
    results = load_results(tmp_path / "r")
    for result in results.by_key.values():
        assert result.checkpoint is not None
        loss = result.checkpoint.accuracy.beside_last[LOSS]
        named = f"{result.checkpoint.accuracy.test_last:.1%}".replace("%", " %")
        row = rf"\| {named} \| [^|]* \| {loss:.3f} \|"
        assert re.search(row, (tmp_path / "r/report/report.md").read_text()), row
    table = pd.read_csv(tmp_path / "r/report/tables/cells.csv")
    assert table[f"beside_{LOSS}"].between(1, np.log(200)).all()


# ---------------------------------------------------------------- begun from another's weights


@pytest.mark.slow
def test_a_fine_tuned_text_cell_alone_in_a_cohort_and_resumed_has_the_same_bits(
    folder: Path, tmp_path: Path
) -> None:
    before = bert_cell(masked_data(folder))
    [first] = trained([before], tmp_path / "before")
    texts = write_texts(tmp_path / "texts")
    spec = text_data(texts, length=16, vocabulary_of=str(folder))
    assert loaded(spec.model_dump_json()).signature.reads == (
        loaded(before.data.model_dump_json()).signature.reads
    )
    weights = tmp_path / "before" / first.path
    cells = [
        bert_cell(spec, seed=0, pretrained=Teacher(name="before", cell=before)),
        bert_cell(spec, seed=0),
    ]
    options: dict[str, Any] = {"first_weights": lambda cell: weights if cell.pretrained else None}
    cohort = equal_bits(cells, tmp_path, **options)
    assert cohort[0].digest != cohort[1].digest and cohort[1].begun is None
    begun = cohort[0].begun
    assert begun is not None and begun.taken > 10
    assert {name.partition(".")[0] for name in begun.new} == {"head", "pooler"}


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text_column": "nothing"}, "has no column 'nothing'"),
        ({"length": 256}, "no document of [a-z]+ fills half of 256 word pieces"),
    ],
)
def test_documents_that_cannot_be_cut_are_told_in_one_line(
    folder: Path, settings: Any, words: str
) -> None:
    with pytest.raises(KtbenchError, match=words) as told:
        load(masked_data(folder, **settings), HERE)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 0}, "share must be above 0 and at most 0.5"),
        ({"share": True}, "share must be above 0"),
        ({"length": 2}, "length must be 4 to 4096"),
        ({"lenght": 2}, "did you mean length"),
    ],
)
def test_settings_that_mean_nothing_are_told_in_one_line(settings: Any, words: str) -> None:
    with pytest.raises(KtbenchError, match=words) as told:
        catalogue.task(Item(name="masked_language_model", settings=settings))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"text": ["one document"]}, "has 1 training document: give more"),
        ({"text": [None, " "] * 9}, "has 0 training documents"),
        ({"text": [1, 2, 3]}, "holds no text"),
        ({"words": ["a b c"] * 5}, "set text_column in data.task"),
    ],
)
def test_a_table_without_documents_is_told_in_one_line(
    tmp_path: Path, column: Any, words: str
) -> None:
    pq.write_table(pa.table(column), tmp_path / "train.parquet")
    with pytest.raises(KtbenchError, match=words) as told:
        load(masked_data(tmp_path), HERE)
    assert "\n" not in str(told.value)
