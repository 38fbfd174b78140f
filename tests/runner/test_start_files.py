"""Whole runs whose students and teachers begin from users' files of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ktbench import catalogue
from ktbench.records import Plan, WeightsFile
from ktbench.report.analysis import Analysis
from ktbench.report.cell_details import page_data
from ktbench.report.efficiency import frames
from ktbench.report.efficiency.section import efficiency
from ktbench.report.sections.learning import costs
from ktbench.results import ResultsFolder, load_results
from ktbench.runner.data_jobs import dataset
from tests.support.efficiency import USES, plan_of, write_efficiency
from tests.support.running import Commands, digests, results, write_matrix

WIDTH = {"width": 0.25}


def weights(file: Path, network: str = "resnet14", seed: int = 1) -> None:
    """Write a file of weights with a head of four classes."""
    torch.manual_seed(seed)
    student = catalogue.build_student(network, WIDTH, base=".", num_classes=4, in_channels=1)
    torch.save({"module." + name: value for name, value in student.state_dict().items()}, file)


def write(folder: Path, **changes: Any) -> Path:
    """Write a matrix whose teacher and student begin from one file of a deeper network."""
    weights(folder / "w.pt")
    start = {"file": "w.pt", "freeze": "stem"}
    teacher = {"name": "T", "student": {"resnet14": WIDTH}, "start": start}
    values: dict[str, Any] = {"teachers": [teacher], "start": ["fresh", start]} | changes
    return write_matrix(folder / "m.yaml", name="m", **values)


@pytest.mark.slow
def test_plan_and_run_say_in_a_line_what_is_taken_and_a_changed_file_makes_new_cells(
    ktbench: Commands, tmp_path: Path
) -> None:
    path = write(tmp_path)
    line = "resnet8(width=0.25) from w.pt (freeze stem): 54 of 56 tensors (92 in the file)"
    shown = ktbench("plan", path)
    assert f"weights:  {line}; head new: head.bias is (4,) in the file" in shown.out
    assert "36 unexpected (first: module.stages.0.1" in shown.out
    first = ktbench("run", path)
    assert first.code == 0 and f"weights: {line}" in first.err
    folder = Path("results/m")
    before = digests(folder)
    assert ktbench("run", path).code == 0 and digests(folder) == before
    weights(tmp_path / "w.pt", seed=2)
    assert ktbench("run", path).code == 0
    planned = {cell.key for cell in load_results(folder).lock.plan.cells}
    made = set(ResultsFolder(folder).result_keys())
    assert len(planned) == 4 and planned < made
    assert len(made - planned) == 3, "the fresh baseline alone is what it was"
    assert ktbench("verify", folder).code == 0


@pytest.mark.slow
def test_details_list_all_that_did_not_match_of_the_cell_and_of_its_teacher(
    ktbench: Commands, tmp_path: Path
) -> None:
    assert ktbench("run", write(tmp_path)).code == 0
    analysis = Analysis(load_results(Path("results/m")))
    text = json.dumps(page_data(analysis))
    for result in results(Path("results/m")).values():
        begun = result.checkpoint.begun if result.checkpoint else None
        assert (begun is not None) == (result.cell.from_file is not None)
        for one in (begun, result.teacher.begun if result.teacher else None):
            assert one is None or one.file is not None
            assert one is None or "; ".join(one.file.unexpected) in text
    assert '["training of the file\'s weights", "unknown, in no cost"]' in text
    assert '["begins from: head", "new: head.bias is (4,) in the file, (10,) here"]' in text
    section = costs(analysis)
    assert "begin from w.pt: what the training of these weights cost is unknown" in section.lead
    [teacher] = [part for part in section.parts if getattr(part, "name", "") == "teachers"]
    assert [box.text.endswith(" + ?") for box in teacher.rows[0][-2:]] == [True, True]


@pytest.mark.slow
def test_the_cost_of_a_checkpoint_is_unknown_and_not_nothing(
    ktbench: Commands, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = catalogue.build_student("resnet14", WIDTH, base=".", num_classes=10, in_channels=1)
    torch.save(student.state_dict(), tmp_path / "own.pt")
    teacher = {"name": "T", "student": {"resnet14": WIDTH}, "checkpoint": "own.pt"}
    path = write_matrix(tmp_path / "m.yaml", name="m", teachers=[teacher])
    assert ktbench("run", path).code == 0
    analysis = Analysis(load_results(Path("results/m")))
    assert analysis.results.teachers[["seconds", "flops"]].isna().all(axis=None)
    [table] = [part for part in costs(analysis).parts if getattr(part, "name", "") == "teachers"]
    assert [box.text for box in table.rows[0][-2:]] == ["?", "?"]


@pytest.mark.slow
def test_the_speedup_stands_and_the_cost_of_the_files_training_is_unknown(tmp_path: Path) -> None:
    """Students begin from a file, and so does the teacher of the first use alone."""
    given = WeightsFile(file="w.pt", digest="0" * 16)
    plain = plan_of(USES[:1])
    cells = []
    for cell in plain.cells:
        taught = cell.teacher
        if taught is not None:
            own = taught.model_copy(  # type: ignore[union-attr]
                update={"cell": taught.cell.model_copy(update={"from_file": given})}  # type: ignore[union-attr]
            )
            taught = own
        cells.append(cell.model_copy(update={"from_file": given, "teacher": taught}))
    plan = Plan(name="efficiency", base="/", cells=tuple(cells))
    analysis = Analysis(load_results(write_efficiency(tmp_path / "begun", plan)))
    other = Analysis(load_results(write_efficiency(tmp_path / "fresh", plain)))
    [one], [fresh] = (frames.comparisons(each.trainings) for each in (analysis, other))
    assert one.training["flops"] != one.training["flops"] and fresh.training["flops"] > 0
    assert set(frames.headlines([one])["students"]) == {0}
    [section] = efficiency(analysis)
    assert "what the training of these weights cost is unknown and in no figure" in section.lead
    assert "unknown" not in efficiency(other)[0].lead


# ---------------------------------------------------------------- data behind a cell


def pictures(folder: Path, shade: int) -> None:
    """Write two classes of grey pictures, of which one for training has this shade."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for name in ("dark", "light"):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                grey = numbers.integers(0, 256, (8, 8), dtype=np.uint8)
                if (split, name, number) == ("train", "dark", 0):
                    grey[:] = shade
                Image.fromarray(grey).save(place / f"{number}.png")


@pytest.mark.slow
def test_a_cell_does_not_stand_where_the_data_of_what_it_began_from_has_changed(
    ktbench: Commands, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 0)
    data = {"source": "folder", "path": "pictures", "validation_size": 10}
    write_matrix(tmp_path / "first.yaml", name="first", data=data, teachers=[], methods=[])
    path = write_matrix(
        tmp_path / "fine.yaml", name="fine", teachers=[], methods=[], start="first.yaml"
    )
    here = "run", path, "--engine", "inline"
    assert ktbench(*here).code == 0
    assert "1 reused" in ktbench(*here).err
    pictures(tmp_path / "pictures", 255)
    dataset.cache_clear()  # as in another process
    refused = ktbench(*here)
    assert refused.code == 2
    assert "none, 2 epochs, behind resnet8(width=0.25) / none" in refused.err
    assert "learnt from data of digest" in refused.err and "has changed to" in refused.err
    assert ktbench(*here, "--fresh").code == 0


@pytest.mark.slow
def test_a_cell_whose_file_has_moved_stands_and_is_made_again_from_where_it_is(
    ktbench: Commands, tmp_path: Path
) -> None:
    assert ktbench("run", write(tmp_path)).code == 0
    before = digests(Path("results/m"))
    (tmp_path / "there").mkdir()
    (tmp_path / "w.pt").rename(tmp_path / "there/w.pt")
    start = {"file": "there/w.pt", "freeze": "stem"}
    teacher = {"name": "T", "student": {"resnet14": WIDTH}, "start": start}
    path = write_matrix(tmp_path / "m.yaml", name="m", teachers=[teacher], start=["fresh", start])
    again = ktbench("run", path)
    assert again.code == 0 and "4 reused" in again.err
    made = results(Path("results/m")).items()
    [lost] = [result for label, result in made if "none / seed 0 / from" in label]
    assert lost.checkpoint is not None
    (Path("results/m") / lost.checkpoint.path).unlink()
    assert ktbench("run", path).code == 0
    assert sorted(digests(Path("results/m")).values()) == sorted(before.values())
