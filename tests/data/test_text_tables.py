"""Tables of texts: read as an editor shows them, columns chosen only without doubt."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ktbench.data import describe, load
from ktbench.data.dataset import DataInfo
from ktbench.data.texts import TextTable, texts
from ktbench.records import DataSpec, Item, KtbenchError
from tests.support.texts import sentences

HERE = Path()
COUNT = 40
TEXTS, KINDS = sentences(COUNT)
HARD = [
    'She said "no", twice',
    '"Quoted" at first',
    "a; b\tc",
    "two\nlines",
    "Grüße, 世界 🙂",
    "NA",
    "null",
    "404",
    "2020-01-01",
    "true",
    "1e5",
    "  spaces around  ",
]
"""Texts that a careless reader takes for something else."""


def _spec(path: Path, label: str | None = None, source: Any = "parquet", **task: Any) -> DataSpec:
    item = Item(name="text_classification", settings={"length": 12, "vocabulary": 150} | task)
    return DataSpec(task=item, source=source, path=str(path), label_column=label)


def _table(path: Path, text: str | None = None, pair: str | None = None) -> TextTable:
    return texts(_spec(path), HERE, text=text, pair=pair)


def _all_of(table: TextTable, split: str = "train") -> list[Any]:
    import numpy as np

    return table.read(split, np.arange(len(table.labels[split])))


def _contents(path: Path, **settings: Any) -> tuple[DataInfo, list[str]]:
    info = describe(_spec(path, **settings), HERE)
    assert info.contents is not None
    return info, [info.contents.about, *info.contents.notes]


def _refused(path: Path, **settings: Any) -> str:
    """The message of what planning refuses: one line that begins with what it is about."""
    with pytest.raises(KtbenchError) as caught:
        describe(_spec(path, **settings), HERE)
    told = str(caught.value)
    assert "\n" not in told and told.startswith("data: ") and told.isprintable()
    return told


def _write(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": TEXTS, "label": KINDS} | columns), file)
    return file


# ---------------------------------------------------------------- files


def _delimited(delimiter: str, encoding: str, line_end: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with file.open("w", encoding=encoding, newline="") as out:
            rows = csv.writer(out, delimiter=delimiter, lineterminator=line_end)
            rows.writerow(["text", "label"])
            rows.writerows([text, n % 2] for n, text in enumerate(HARD))

    return write


def _json_lines(file: Path) -> None:
    rows = [json.dumps({"text": t, "label": n % 2}) for n, t in enumerate(HARD)]
    file.write_text("\r\n".join([*rows, "", ""]))


def _json_array(file: Path) -> None:
    file.write_text(json.dumps([{"text": t, "label": n % 2} for n, t in enumerate(HARD)]))


def _parquet(file: Path) -> None:
    labels = [n % 2 for n in range(len(HARD))]
    pq.write_table(pa.table({"text": pa.array(HARD).dictionary_encode(), "label": labels}), file)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("train.csv", _delimited(",", "utf-8", "\r\n")),
        ("train.csv", _delimited(",", "utf-8-sig", "\n")),
        ("train.csv", _delimited(";", "utf-8", "\n")),
        ("train.csv", _delimited("\t", "utf-16", "\r\n")),
        ("train.tsv", _delimited("\t", "utf-8", "\n")),
        ("train.tsv", _delimited("\t", "utf-32", "\n")),
        ("train.jsonl", _json_lines),
        ("train.ndjson", _json_lines),
        ("train.json", _json_array),
        ("train.parquet", _parquet),
    ],
)
def test_texts_are_read_as_an_editor_shows_them(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        table = _table(path)
        assert _all_of(table) == HARD and table.classes == ("0", "1")
        assert table.labels["train"].tolist() == [n % 2 for n in range(len(HARD))]


def test_a_table_whose_quotes_are_plain_characters_is_read_so_and_told(tmp_path: Path) -> None:
    plain = ['"Quoted" at first', 'an inch is 1"', 'opens "here', '"and closes there"', "bare"] * 2
    lines = "\n".join(["text\tlabel", *(f"{text}\t{n % 2}" for n, text in enumerate(plain))])
    (tmp_path / "train.tsv").write_text(lines)
    table = _table(tmp_path)
    assert _all_of(table) == plain
    assert "train.tsv: quotes are read as characters" in table.notes[0]
    # A quote that opens in one line and closes in a later one does not swallow the lines between.
    (tmp_path / "train.tsv").write_text('text\tlabel\n"a b\t0\nc d"\t1\ne\t0\nf\t1\n')
    assert _all_of(_table(tmp_path)) == ['"a b', 'c d"', "e", "f"]


def test_columns_that_all_look_like_numbers_are_texts_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("code,label\n" + "404,a\n500,b\n" * 4)
    assert _all_of(_table(tmp_path, text="code"))[:2] == ["404", "500"]
    (tmp_path / "train.csv").write_text("text,label\n" + "404,a\n500,b\n" * 4)
    assert _all_of(_table(tmp_path))[:2] == ["404", "500"]


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("train.csv", "text,label\na,b,0\nc,1\n", ("line 2 has 3 fields", "double quotes")),
        ("train.csv", 'text,label\n"a" b,0\nc,1\n', ("line 2", "each quote in it twice")),
        ("train.csv", 'text,label\n"a,0\nc,1\n', ("unexpected end", "twice")),
        ("train.csv", "", ("no rows", "names the columns")),
        ("train.csv", "text,label\n", ("no rows", "names the columns")),
        ("train.csv", "text,label\n\xe9,0\n".encode("latin-1"), ("line 2 is not UTF-8", "save")),
        ("train.csv", "text,label\na,0\n".encode("utf-16-le"), ("NUL", "save the file as UTF-8")),
        ("train.csv", "text,text,label\na,b,0\n", ("of the same name (text)", "rename")),
        ("train.tsv", "gj04\t1\t\tOur friends.\n" * 9, ("several columns", "first line")),
        ("train.jsonl", '{"text": "a", "label": 0}\n{"text": "b"', ("line 2 is no JSON",)),
        ("train.jsonl", '{"text": "a", "label": 0}\n["b", 1]', ("line 2 is no JSON object",)),
        (
            "train.jsonl",
            '{"text": "a", "label": 0}\n{"text": 5, "label": 1}',
            ("column 'text' holds text in line 1, a number in line 2", "alike"),
        ),
        ("train.jsonl", '{"text": "\\ud800", "label": 0}', ("column 'text'", "surrogates")),
        ("train.jsonl", "[" * 100_000, ("is no JSON",)),
        ("train.json", "[1, 2]", ("row 0 of its array",)),
        ("train.jsonl", "\n\n", ("holds no rows",)),
        ("train.parquet", b"PAR1 torn", ("cannot read",)),
        ("texts.txt", "text\n", ("no train*.parquet",)),
        ("test.csv", "text,label\na,0\n", ("no train*.parquet, only test.csv",)),
    ],
)
def test_files_that_are_damaged_are_told_with_the_file_and_the_line(
    tmp_path: Path, name: str, content: str | bytes, reasons: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    told = _refused(tmp_path)
    assert all(reason in told for reason in reasons), told
    assert str(tmp_path) in told


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a\nb\n")
    assert "is no table: its name must end in .parquet" in _refused(tmp_path / "texts.txt")


def test_text_that_is_not_utf_8_in_a_parquet_file_is_refused(tmp_path: Path) -> None:
    raw = pa.array([b"\xff\xfe bad", *(t.encode() for t in TEXTS[1:])])
    damaged = pa.Array.from_buffers(pa.string(), COUNT, raw.buffers())
    pq.write_table(pa.table({"text": damaged, "label": KINDS}), tmp_path / "train.parquet")
    assert "train.parquet" in _refused(tmp_path)


def test_a_column_of_mixed_types_that_is_not_needed_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [{"text": t, "label": k, "note": [k, "a"][k]} for t, k in zip(TEXTS, KINDS, strict=True)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = _table(tmp_path)
    assert _all_of(read) == TEXTS and "mixed types that are not read: note" in read.notes[0]


def test_tables_of_another_kind_that_are_not_read_are_told(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet")
    (tmp_path / "test.csv").write_text("text,label\na,0\n")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert "files that are not read: test.csv" in _contents(tmp_path)[1]


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_read_with_its_splits_and_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    of_train = datasets.Dataset.from_dict({"text": TEXTS, "label": KINDS}, features=features)
    of_test = datasets.Dataset.from_dict({"text": TEXTS[:9], "label": KINDS[:9]}, features=features)
    for split, rows in (("train", of_train), ("test", of_test)):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    read = texts(_spec(tmp_path, source="hub"), HERE, text=None, pair=None)
    assert read.classes == ("bad", "good")
    assert _all_of(read) == TEXTS and _all_of(read, "test") == TEXTS[:9]
    assert read.labels["train"].tolist() == KINDS


# ---------------------------------------------------------------- columns

SECOND = [f"the {text}" for text in TEXTS]
NAMES = ["bad" if kind else "good" for kind in KINDS]


@pytest.mark.parametrize(
    ("columns", "chosen", "label"),
    [
        ({"text": TEXTS, "label": KINDS}, ("text",), "label"),
        ({"Sentence": TEXTS, "Label": KINDS}, ("Sentence",), "Label"),
        ({"idx": range(COUNT), "sentence": TEXTS, "label": KINDS}, ("sentence",), "label"),
        ({"id": SECOND, "text": TEXTS, "intent": NAMES}, ("text",), "intent"),
        ({"phrase": TEXTS, "mood": NAMES}, ("phrase",), "mood"),
        ({"sentence2": SECOND, "sentence1": TEXTS, "label": KINDS}, ("sentence1", "sentence2"), ""),
        ({"premise": TEXTS, "hypothesis": SECOND, "label": KINDS}, ("premise", "hypothesis"), ""),
        ({"question": TEXTS, "sentence": SECOND, "label": KINDS}, ("question", "sentence"), ""),
        ({"text": TEXTS, "label": KINDS, "label_text": NAMES}, ("text",), "label"),
    ],
)
def test_columns_without_doubt_are_chosen(
    tmp_path: Path, columns: dict[str, Any], chosen: tuple[str, ...], label: str
) -> None:
    table = pa.table({name: list(values) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "train.parquet")
    read = _table(tmp_path)
    first = _all_of(read)
    if len(chosen) == 1:
        assert first == TEXTS
    else:
        assert first == list(zip(TEXTS, SECOND, strict=True))
    assert " and ".join(map(repr, chosen)) in read.about and repr(label or "label") in read.about


@pytest.mark.parametrize(
    ("columns", "reason", "key"),
    [
        ({"text": TEXTS, "sentence": SECOND, "label": KINDS}, "text, sentence", "text_column"),
        ({"one": TEXTS, "two": SECOND, "label": KINDS}, "one, two", "text_column"),
        ({"label": KINDS, "length": KINDS}, "no column of texts", "text_column"),
        ({"text": TEXTS, "colour": KINDS, "form": NAMES}, "colour, form", "label_column"),
        ({"text": TEXTS, "stars": range(COUNT)}, "stars", "label_column"),
    ],
)
def test_columns_in_doubt_are_asked_for(
    tmp_path: Path, columns: dict[str, Any], reason: str, key: str
) -> None:
    table = pa.table({name: list(values) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "train.parquet")
    told = _refused(tmp_path)
    assert reason in told and (f"set {key}" in told or f"set data.{key}" in told)


def test_a_column_that_is_named_is_taken_and_no_other(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet", text_pair=SECOND, other=SECOND)
    assert _all_of(_table(tmp_path))[0] == (TEXTS[0], SECOND[0])
    alone = _table(tmp_path, text="text")
    assert _all_of(alone) == TEXTS
    assert "columns that are not read: text_pair, other" in alone.notes
    both = _table(tmp_path, text="other", pair="text")
    assert _all_of(both)[0] == (SECOND[0], TEXTS[0])
    assert "has no column 'txt'" in _refused(tmp_path, text_column="txt")
    assert "needs text_column" in _refused(tmp_path, text_pair_column="other")
    same = _refused(tmp_path, text_column="text", text_pair_column="text")
    assert "must be different columns" in same
    assert "must be different" in _refused(tmp_path, text_column="text", label="text")
    told = _refused(tmp_path, text_column="label", label="other")
    assert "column 'label' holds no text but int64" in told


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([float(k) for k in KINDS], ("0", "1")),
        ([bool(k) for k in KINDS], ("False", "True")),
        (NAMES, ("bad", "good")),
        ([[1 - k, k] for k in KINDS], ("0", "1")),
    ],
)
def test_labels_are_read_as_those_of_images(tmp_path: Path, labels: Any, classes: Any) -> None:
    _write(tmp_path / "train.parquet", label=labels)
    assert _table(tmp_path).classes == classes


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": [None, *KINDS[1:]]}, "1 of 40 rows of train have no label (first: row 0)"),
        ({"label": [0.5, *KINDS[1:]]}, "0.5 is no whole number"),
        ({"label": [[1, k] for k in KINDS]}, "one label per text is needed"),
        ({"label": [3] * COUNT}, "one class only"),
        ({"text": ["", *TEXTS[1:]]}, "1 row without a text in column 'text' (first: row 0)"),
        (
            {"text": ["a", *[" \t\n"] * 2, *TEXTS[3:]]},
            "2 rows without a text in column 'text' (first: row 1)",
        ),
        ({"text": [*TEXTS[:9], None, *TEXTS[10:]]}, "1 row without a text"),
        ({"text": ["\u200b\ufeff", *TEXTS[1:]]}, "without a text"),
        ({"text_pair": [*SECOND[:-1], ""]}, "without a text in column 'text_pair'"),
        ({"text": KINDS}, "no column of texts"),
    ],
)
def test_cells_that_are_no_texts_or_labels_are_refused_when_planning(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    _write(tmp_path / "train.parquet", **columns)
    assert reason in _refused(tmp_path)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ({"label": [k + 1 for k in KINDS]}, "the test split has classes without a training text"),
        ({"label": NAMES}, "text in test and numbers in train"),
        ({"text": KINDS}, "the test split: column 'text' holds no text"),
        ({"text": ["", *TEXTS[1:]]}, "test: 1 row without a text"),
    ],
)
def test_a_split_that_does_not_fit_the_training_split_is_refused(
    tmp_path: Path, test: dict[str, Any], reason: str
) -> None:
    _write(tmp_path / "train.parquet")
    _write(tmp_path / "test.parquet", **test)
    assert reason in _refused(tmp_path)


def test_a_split_with_other_columns_is_refused_with_the_remedy(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet")
    for columns in ({"sentence": TEXTS, "label": KINDS}, {"text": TEXTS}):
        pq.write_table(pa.table(columns), tmp_path / "test.parquet")
        told = _refused(tmp_path)
        assert "the test split has no column" in told and "as in the training split" in told


def test_a_class_that_no_training_text_has_is_refused_or_told(tmp_path: Path) -> None:
    names = ["rare", *NAMES[1:]]
    _write(tmp_path / "train.parquet", label=names)
    notes = _contents(tmp_path)[1]
    assert any(note.startswith("no text of rare in ") for note in notes)


def test_tables_without_rows_are_refused(tmp_path: Path) -> None:
    empty = pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "train.parquet")
    assert "empty" in _refused(tmp_path)
    _write(tmp_path / "train.parquet")
    pq.write_table(empty, tmp_path / "test.parquet")
    assert "the test split has no texts: give it some" in _refused(tmp_path)


# ---------------------------------------------------------------- remarks


def test_what_is_cut_unknown_or_in_two_splits_is_counted_per_split(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet", text=["the film " * 10, *TEXTS[1:]])
    test = [f"{TEXTS[1]}", TEXTS[2].upper(), "ж ж film", *["good " * 20] * 2, *TEXTS[3:]]
    pq.write_table(
        pa.table({"text": test, "label": (KINDS * 2)[: len(test)]}), tmp_path / "test.parquet"
    )
    info, told = _contents(tmp_path)
    size = {"train": info.train_size, "validation": info.validation_size, "test": len(test)}
    cut = next(line for line in told if line.startswith("texts cut after 12 word pieces"))
    assert "the longest has 22" in cut
    assert "1 of {train} in train".format(**size) in cut and f"2 of {len(test)} in test" in cut
    unknown = next(line for line in told if "unknown to the vocabulary" in line)
    assert "0 of" in unknown and "2 of" in unknown.rpartition(",")[2]
    twice = next(line for line in told if "in train, too" in line)
    assert f" of {len(test)} in test" in twice and "in train," not in twice.partition(":")[2]


@pytest.mark.slow
def test_texts_without_a_space_are_learnt_from_in_no_time(tmp_path: Path) -> None:
    endless = "x" * 2_000_000
    address = "www." + "film/good/" * 30
    _write(tmp_path / "train.parquet", text=[endless, address, *TEXTS[2:]])
    data = load(_spec(tmp_path), HERE)
    assert data.facts["vocabulary"] <= 150
