"""What cannot be is not believed: values out of bounds, edited records, files of another cell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks._synthetic import Shape, plan_of, write_folder
from ktbench.compare import compare
from ktbench.records import Failure, Item, printable
from ktbench.report import write_report
from ktbench.results import load_results
from ktbench.results.verification import verify
from tests.support.browser import chromium, visit
from tests.support.fuzzing import (
    HOSTILE_WORDS,
    REFERENCE,
    SCRIPT,
    published,
    resealed,
    small_folders,
)
from tests.support.report_page import page
from tests.support.running import Commands

SMALL = Shape(students=("resnet8",), gains={"kd": 0.03}, seeds=2, epochs=3)
CANNOT_BE: list[tuple[str, Any]] = [
    ("checkpoint.accuracy.test_last", 7.5),
    ("checkpoint.accuracy.validation_last", -0.1),
    ("checkpoint.accuracy.test_best", float("nan")),
    ("checkpoint.accuracy.best_epoch", 999),
    ("checkpoint.accuracy.validation_best", 0.0),
    ("checkpoint.cost.seconds", -1.0),
    ("checkpoint.cost.shared_seconds", float("inf")),
    ("checkpoint.cost.flops", -5),
    ("checkpoint.cost.teacher_flops", 10**30),
    ("checkpoint.parameters", -1),
    ("checkpoint.cell_key", "0" * 16),
    ("checkpoint.path", "../../etc/passwd"),
    ("checkpoint.curves", "/etc/passwd"),
    ("checkpoint.digest", "short"),
    ("teacher.accuracy.test_last", 1.01),
    ("teacher.path", "/etc/passwd"),
    ("provenance.created", "yesterday"),
    ("provenance.created", "0001-01-01T00:00:00+00:00"),
    ("cell.seed", 10**30),
    ("status", "failed"),
    ("checkpoint", None),
]
"""Fields of a result with values that they cannot have."""


@pytest.fixture
def unsealed(tmp_path: Path) -> Path:
    """A committed folder of a version that wrote no digests of records."""
    return published("elastic-small", tmp_path / "unsealed")


def _distilled(folder: Path) -> Path:
    return next(
        p for p in sorted((folder / "cells").glob("*.json")) if '"teacher": {' in p.read_text()
    )


def _put(plain: dict[str, Any], field: str, value: Any) -> None:
    *trail, last = field.split(".")
    for name in trail:
        plain = plain[name]
    plain[last] = value


@pytest.mark.slow
def test_a_value_that_cannot_be_costs_its_own_cell_and_is_named(unsealed: Path) -> None:
    path = _distilled(unsealed)
    whole = path.read_text()
    for field, value in CANNOT_BE:
        plain = json.loads(whole)
        _put(plain, field, value)
        path.write_text(json.dumps(plain))
        results = load_results(unsealed)
        [problem] = results.problems
        assert problem.path == f"cells/{path.name}", (field, value)
        status = results.cells.set_index("key")["status"]
        assert status.pop(path.stem) == "damaged" and set(status) == {"done"}, (field, value)


MEASURED: list[tuple[str, Any]] = [
    ("p50_ms", {"value": 9.0, "low": 8.0, "high": 9.5}),
    ("p90_ms", {"value": 1.0, "low": 2.0, "high": 3.0}),
    ("load_ms", {"value": -1.0, "low": -2.0, "high": 1.0}),
    ("mean_ms", -1.0),
    ("stdev_ms", float("nan")),
    ("runs", 0),
    ("peak_memory_bytes", -4),
    ("test_accuracy", 3.0),
    ("samples", "../../../etc/passwd"),
    ("samples", f"measurements/{'0' * 16}.samples.parquet"),
    ("started", "soon"),
    ("board", {"temperature": float("nan")}),
]


@pytest.mark.slow
def test_a_measurement_that_cannot_be_is_left_out_and_named(tmp_path: Path) -> None:
    _, folder, _ = small_folders(tmp_path)
    path = sorted((folder / "measurements").glob("*.json"))[0]
    plain = json.loads(path.read_text())
    del plain["files"], plain["seal"]
    number = len(load_results(folder).all_measurements)
    for field, value in MEASURED:
        path.write_text(json.dumps(plain | {field: value}))
        results = load_results(folder)
        assert [p.path for p in results.problems] == [f"measurements/{path.name}"], field
        assert len(results.all_measurements) == number - 1


@pytest.mark.slow
def test_samples_that_contradict_their_measurement_are_named_by_all_who_read_them(
    tmp_path: Path,
) -> None:
    _, folder, _ = small_folders(tmp_path)
    path = sorted((folder / "measurements").glob("*.json"))[0]
    plain = json.loads(path.read_text())
    del plain["files"], plain["seal"]
    for change in ({"runs": plain["runs"] + 1}, {"mean_ms": 2 * plain["mean_ms"]}):
        path.write_text(json.dumps(plain | change))
        assert plain["samples"] in [p.path for p in verify(folder).problems]
        assert [p.path for p in compare(folder, folder).damaged_after] == [plain["samples"]]
    write_report(folder)
    assert plain["samples"] in page(folder)


def test_an_edited_record_is_told_even_where_its_values_could_be(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    path = folder.cell(plan_of(SMALL).cells[0].key)
    whole = path.read_text()
    accuracy = json.loads(whole)["checkpoint"]["accuracy"]["test_last"]
    assert str(accuracy) in whole
    for edited in (
        whole.replace(f'"test_last": {accuracy}', '"test_last": 0.5', 1),
        json.dumps(json.loads(whole)),
        "\n".join(line for line in whole.splitlines() if "seal" not in line),
    ):
        path.write_text(edited)
        [problem] = load_results(folder.path).problems
        assert (problem.path, problem.key) == (f"cells/{path.name}", path.stem)


@pytest.mark.slow
def test_curves_of_another_cell_are_told_in_folders_of_either_version(
    unsealed: Path, tmp_path: Path
) -> None:
    for folder in (unsealed, write_folder(tmp_path / "sealed", SMALL).path):
        first, second = sorted((folder / "cells").glob("*.parquet"))[:2]
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        wanted = {f"cells/{p.name}" for p in (first, second)}
        assert {p.path for p in verify(folder, partial=True).problems} >= wanted
        write_report(folder)
        assert all(place in page(folder) for place in wanted)


@pytest.mark.slow
def test_a_damaged_record_or_curve_costs_its_own_cell_in_report_and_comparison(
    ktbench: Commands, unsealed: Path
) -> None:
    ktbench.report = True
    record = _distilled(unsealed)
    curves = next(
        p for p in sorted((unsealed / "cells").glob("*.parquet")) if p.stem[:16] != record.stem
    )
    record.write_text("{")
    curves.unlink()
    answer = ktbench("report", unsealed)
    assert answer.code == 0
    assert f"cells/{record.name}" in page(unsealed) and f"cells/{curves.name}" in page(unsealed)
    assert "1 of 10" not in page(unsealed) and "9 of 10" in page(unsealed)
    answer = ktbench("compare", REFERENCE / "elastic-small.ktb", unsealed)
    assert answer.code == 0 and "Damaged in B, and left out" in answer.out
    assert "its record no whole JSON" in " ".join(answer.out.split())


@pytest.mark.parametrize("place", ["record", "curves"])
def test_what_is_no_plain_file_of_sensible_size_is_never_read(unsealed: Path, place: str) -> None:
    record = _distilled(unsealed)
    path = record if place == "record" else record.with_suffix(".curves.parquet")

    def endless() -> None:
        path.symlink_to("/dev/zero")

    def pipe() -> None:
        os.mkfifo(path)

    def huge() -> None:
        with path.open("wb") as file:
            file.truncate(200 * 2**20)

    def nested() -> None:
        path.write_text('{"a":' * 100_000)

    for stand in (endless, pipe, path.mkdir, huge, nested):
        path.unlink(missing_ok=True)
        stand()
        results = load_results(unsealed)
        assert len(results.curves["key"].unique()) == 9
        assert [p.key for p in results.problems] == [path.name[:16]]
        if path.is_dir():
            path.rmdir()


@pytest.mark.slow
def test_a_curve_with_more_rows_than_its_record_says_is_not_unpacked(unsealed: Path) -> None:
    path = next((unsealed / "cells").glob("*.parquet"))
    rows = 30_000_000
    pq.write_table(pa.table({"epoch": pa.nulls(rows, pa.int32())}), path)
    results = load_results(unsealed)
    assert len(results.curves["key"].unique()) == 9
    assert f"{rows:,} rows" in results.problems[0].reason


def test_words_of_records_are_one_line_without_control_characters_and_of_bounded_length() -> None:
    failure = Failure(stage="train", reason="a\x1b[31mb\nc\u202ed", what="x" * 10_000)
    assert failure.reason == "a\\x1b[31mb c\\u202ed" and len(failure.what) == 2_000
    assert printable("a\x1bb\u2066") == "a\\x1bb\\u2066"
    assert "\x1b" not in Item(name="net", settings={"\x1b[2J": 1}).label


def test_nothing_of_a_record_reaches_the_terminal_raw(ktbench: Commands, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", SMALL).path
    other = write_folder(tmp_path / "b", SMALL).path
    lock = json.loads((other / "lock.json").read_text())
    del lock["seal"]
    lock["provenance"]["versions"]["torch"] = "\x1b]0;pwned\x07"
    lock["provenance"]["processor"] = "\x1b[31mred"
    (other / "lock.json").write_text(resealed(lock, None))
    answer = ktbench("compare", folder, other)
    assert answer.code == 0 and "\\x1b]0;pwned" in answer.out
    assert "\x1b" not in answer.out + answer.err
    (folder / "cells" / "\x1b[31m.json").write_text("{")
    answer = ktbench("verify", folder)
    assert "\\x1b[31m.json" in answer.out and "\x1b" not in answer.out + answer.err


def _hostile(value: Any, words: str) -> Any:
    """Every free text of a record replaced."""
    free = ("reason", "what", "runtime", "processor", "system", "commit", "python", "ktbench")
    if isinstance(value, dict):
        return {
            k: words if k in free and isinstance(v, str) else _hostile(v, words)
            for k, v in value.items()
        }
    return [_hostile(v, words) for v in value] if isinstance(value, list) else value


@pytest.mark.browser
@pytest.mark.slow
def test_no_script_of_the_data_runs_in_the_page(tmp_path: Path) -> None:
    sources = small_folders(tmp_path)
    scripts = [words for words in HOSTILE_WORDS if "pwned" in words]
    named = Shape(students=tuple(scripts[:2]), gains={scripts[2]: 0.1}, teachers=("big",), seeds=2)
    sources.append(write_folder(tmp_path / "named", named).path)
    for folder in sources:
        words = " ".join(scripts)
        for path in folder.rglob("*.json"):
            plain = json.loads(path.read_text())
            if not isinstance(plain, dict):
                continue
            marks, seal = plain.pop("files", None), plain.pop("seal", None)
            plain = _hostile(plain, words)
            if path.name == "lock.json":
                plain["plan"]["name"] = words
            path.write_text(resealed(plain, marks) if seal else json.dumps(plain))
        (folder / "cells" / f"{SCRIPT[:8].strip('<')}.json").write_text("{")
        write_report(folder)
    with chromium() as browser:
        for folder in sources:
            with visit(browser, folder / "report" / "index.html") as seen:
                for box in seen.page.locator("a[href^='#cell-'], [data-cell]").all()[:3]:
                    box.click(force=True)
                seen.page.wait_for_timeout(200)
                assert "window.pwned=1" in seen.page.inner_text("body")
                assert seen.page.evaluate("window.pwned") is None
                assert not [url for url in seen.requests if not url.startswith(("file:", "data:"))]
                assert seen.complaints == []
