"""The report's answer to which technique is best: first lines, section, letters on the map."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench.report import sections, write_report
from ktbench.report.analysis import Analysis
from ktbench.report.document import Note, Section, Table
from ktbench.report.verdict import best_methods, sentences
from ktbench.results import load_results

GAINS = {"kd": 0.1, "attention": 0.095, "fitnet": -0.05}


def analysis_of(path: Path, shape: Shape) -> Analysis:
    return Analysis(load_results(write_folder(path, shape).path))


def tables(section: Section) -> dict[str, Table]:
    return {part.name: part for part in section.parts if isinstance(part, Table)}


@pytest.mark.slow
def test_the_verdict_begins_with_the_techniques_that_may_be_best(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path / "run", Shape(gains=GAINS, seeds=5, epochs=2))
    lines = sentences(analysis)
    assert lines[0].startswith("Over 3 students together, the best is one of 2: **")
    frame = analysis.results.techniques
    best = best_methods(analysis).set_index("student")
    for line, student in zip(lines[1:4], analysis.students, strict=True):
        assert line.startswith(f"On {student}, ")
        own = frame[frame["student"] == student]
        may_win = own[own["standing"] != "clearly worse"]
        for name in may_win["technique"]:
            assert f"**{name}**" in line
        assert line.count("**") == 2 * len(may_win)
        # Named first is what the verdict's table chooses on validation.
        assert line.split("**")[1] == best.loc[student, "label"]
        assert line.endswith("(n = 5, 95\u00a0%).")
        worse = f"; {len(own) - len(may_win)} are clearly worse, no transfer among them"
        assert (worse in line) == (len(may_win) > 1)


@pytest.mark.slow
def test_a_technique_that_beats_all_others_is_named_alone(tmp_path: Path) -> None:
    gains = {"kd": 0.3, "attention": 0.02, "fitnet": -0.05}
    shape = Shape(students=("resnet8",), gains=gains, seeds=8, epochs=2)
    line = sentences(analysis_of(tmp_path / "run", shape))[0]
    words = "On resnet8, **kd** is best: all 3 others are clearly worse (n = 8, 95\u00a0%)."
    assert line == words


@pytest.mark.slow
def test_no_technique_stands_out_where_all_are_alike(tmp_path: Path) -> None:
    gains = {"kd": 0.0, "attention": 0.0, "fitnet": 0.0}
    shape = Shape(students=("resnet8",), gains=gains, seeds=3, epochs=2, noise=0.05)
    line = sentences(analysis_of(tmp_path / "run", shape))[0]
    assert line.startswith("On resnet8, no technique stands out: none of 4 is clearly worse")


@pytest.mark.slow
def test_two_seeds_cannot_tell_which_is_best(tmp_path: Path) -> None:
    line = sentences(analysis_of(tmp_path / "run", Shape(seeds=2, epochs=2)))[0]
    assert line == "Which technique is best cannot be told from 2 seeds: that takes 3 or more."


@pytest.mark.slow
def test_one_method_has_no_rivals_and_no_section(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path / "run", Shape(gains={"kd": 0.1}, seeds=5, epochs=2))
    assert sections.techniques(analysis) == ()
    assert "best" not in sentences(analysis)[0]


@pytest.mark.slow
def test_the_section_has_every_technique_and_the_pairs_that_differ(tmp_path: Path) -> None:
    analysis = analysis_of(tmp_path / "run", Shape(gains=GAINS, seeds=5, epochs=2))
    [section] = sections.techniques(analysis)
    found = tables(section)
    assert found["best"].frame.equals(analysis.results.techniques)
    kinds = {row[3].text: row[3].kind for row in found["best"].rows}
    assert kinds["clearly worse"] == "chip loss" and kinds["may be best"] == "chip gain"
    pairs = found["technique-pairs"]
    clear = pairs.frame[pairs.frame["sign"] == "positive"]
    assert 0 < len(clear) < len(pairs.frame) == 9
    assert len(pairs.rows) == len(clear)
    assert "9 pairs of techniques" in pairs.caption and "Holm's step-down" in pairs.caption
    together = found["over-students"].frame.set_index("technique")
    assert together["rank"].idxmin() in ("kd", "attention")
    notes = [part.text for part in section.parts if isinstance(part, Note)]
    assert any("Friedman's test, p = " in note for note in notes)


@pytest.mark.slow
def test_another_training_is_a_contest_of_its_own(tmp_path: Path) -> None:
    shape = Shape(students=("resnet8",), gains=GAINS, seeds=3, epochs=2, views=(None, None, 2))
    analysis = analysis_of(tmp_path / "run", shape)
    [section] = sections.techniques(analysis)
    best = tables(section)["best"]
    assert [column.title for column in best.columns][1] == "training"
    assert set(best.frame["training"]) == {"", "views=2"}
    assert sum(line.startswith("On resnet8") for line in sentences(analysis)) == 1


@pytest.mark.slow
def test_the_map_has_the_letters_and_the_tables_are_written(tmp_path: Path) -> None:
    path = tmp_path / "run"
    analysis = analysis_of(path, Shape(gains=GAINS, seeds=5, epochs=2))
    index = write_report(path)
    figure = (index.parent / "figures/gains.svg").read_text(encoding="utf-8")
    letters = analysis.results.techniques["letters"]
    assert "b" in set("".join(letters))
    for letter in set(letters) - {""}:
        assert f">{letter}</text>" in figure
    assert "do not differ clearly" in figure
    for name in ("best", "technique-pairs", "over-students"):
        assert (index.parent / f"tables/{name}.csv").stat().st_size > 100
    text = (index.parent / "report.md").read_text(encoding="utf-8")
    assert "## Technique against technique" in text
    assert text.index("the best is one of") < text.index("## Technique against technique")
