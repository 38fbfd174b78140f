"""A user with a table of texts: a first matrix, a run, its report and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from ktbench.matrix import loads, starter_for
from ktbench.matrix.estimate import StepTimer
from ktbench.records import Item
from ktbench.results import verify
from ktbench.results.folder import ResultsFolder
from tests.support.running import ROOT, Commands
from tests.support.texts import sentences, text_cell, text_data, write_texts

pytestmark = pytest.mark.slow


def _csv(file: Path, count: int = 200, **columns: list[str]) -> Path:
    texts, kinds = sentences(count)
    table = {"text": texts, "label": [["bad", "good"][k] for k in kinds], **columns}
    lines = [",".join(table), *map(",".join, zip(*table.values(), strict=True))]
    file.write_text("\n".join(lines))
    return file


def test_init_writes_a_matrix_for_a_table_of_texts_that_can_be_planned(
    ktbench: Commands, tmp_path: Path
) -> None:
    _csv(tmp_path / "reviews.csv")
    answer = ktbench("init", "mine.yaml", "--data", "reviews.csv")
    assert answer.code == 0 and "next: ktbench plan mine.yaml" in answer.out
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["data"]["path"] == "reviews.csv"
    planned = json.loads(ktbench("plan", "mine.yaml", "--json").out)
    assert not planned["skips"] and planned["name"] == "mine"
    assert planned["data"][0]["classes"] == ["bad", "good"]
    again = ktbench("init", "other.yaml", "--data", "reviews.csv", "--from", "zoo-small")
    assert again.code == 2 and "cannot be combined" in again.error
    missing = ktbench("init", "other.yaml", "--data", "nothing.csv")
    assert missing.code == 2 and "no such file" in missing.error
    assert not (tmp_path / "other.yaml").exists()


def test_init_says_what_is_to_be_set_where_the_columns_are_in_doubt(
    ktbench: Commands, tmp_path: Path
) -> None:
    texts, _ = sentences(200, seed=2)
    _csv(tmp_path / "reviews.csv", sentence=texts)
    answer = ktbench("init", "mine.yaml", "--data", "reviews.csv")
    assert answer.code == 0 and "several columns may be the texts (text, sentence)" in answer.out
    assert "# to be set: data: " in (tmp_path / "mine.yaml").read_text()
    text = (
        (tmp_path / "mine.yaml").read_text().replace("# text_column: text ", "text_column: text ")
    )
    (tmp_path / "mine.yaml").write_text(text)
    assert ktbench("plan", "mine.yaml").code == 0


def test_a_first_matrix_for_images_names_their_folder_or_table(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for number in range(12):
            shades = np.full((16, 16), number * 9, np.uint8)
            Image.fromarray(shades).save(tmp_path / "pets" / kind / f"{number}.png")
    text, problem = starter_for(tmp_path / "pets", tmp_path / "pets.yaml")
    matrix = loads(text, base=str(tmp_path))
    assert problem is None and matrix.data.source == "folder" and matrix.name == "pets"
    pictures = [(tmp_path / "pets" / "cat" / f"{n}.png").read_bytes() for n in range(12)]
    pq.write_table(pa.table({"image": pictures, "label": [0, 1] * 6}), tmp_path / "pets.parquet")
    text, problem = starter_for(tmp_path / "pets.parquet", tmp_path / "pets.yaml")
    assert problem is None and loads(text, base=str(tmp_path)).data.source == "parquet"


def test_the_matrices_of_the_edge_study_differ_in_their_data_alone() -> None:
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "matrices").glob("text-edge-*")]
    for matrix in files:
        name = matrix.pop("name").removeprefix("text-edge-")
        data = matrix.pop("data")
        assert data.pop("path").endswith(f"/text/{name}")
        assert data.pop("task")["text_classification"].keys() == {"length"}
        matrix["data"] = data
        matrix["teachers"][0]["train"].pop("epochs")
    assert len(files) == 3 and files[0] == files[1] == files[2]


def test_a_network_of_few_operations_is_no_measure_of_others(tmp_path: Path) -> None:
    """A bag of word pieces has no FLOPs to speak of, and a step that takes time all the same."""
    cell = text_cell(text_data(write_texts(tmp_path), vocabulary=120))
    timer = StepTimer(Path())
    bag = timer.speed(cell.student, cell)
    timer._spent = 1e9
    other = timer.speed(Item(name="bert_tiny"), cell)
    assert other.step / bag.step == other.work / bag.work < other.flops / bag.flops / 10


MATRIX = """
name: own
data:
  source: parquet
  path: data
  task: {text_classification: {length: 8, vocabulary: 150}}
students: [{embedding_bag: {width: 0.25}}]
seeds: 1
train: {epochs: 1, lr: 0.01, optimiser: adam}
exports: {formats: [onnx], precisions: [fp32]}
"""


def test_a_run_keeps_what_planning_said_and_a_tokenizer_that_is_checked(
    ktbench: Commands, tmp_path: Path
) -> None:
    write_texts(tmp_path / "data", 200)
    (tmp_path / "own.yaml").write_text(MATRIX)
    ktbench.report = True
    assert ktbench("run", "own.yaml").code == 0
    folder = tmp_path / "results" / "own"
    remarks = ResultsFolder(folder).lock().remarks
    assert any("texts cut after 8 word pieces" in line for line in remarks)
    report = (folder / "report" / "index.html").read_text()
    assert "texts cut after 8 word pieces" in report
    assert all(remark.split(",")[-1].strip() in report for remark in remarks)
    assert verify(folder).problems == []
    [tokenizer] = folder.glob("artifacts/*/tokenizer.json")
    whole = tokenizer.read_text()
    tokenizer.write_text(whole.replace("[PAD]", "[pad]"))
    [problem] = verify(folder).problems
    assert problem.path.endswith("/tokenizer.json")
    assert ktbench("run", "own.yaml").code == 0
    assert tokenizer.read_text() == whole and verify(folder).problems == []
