"""The page of speed claims: every benchmark, and the figures that were recorded, no others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import _performance as performance
from benchmarks.__main__ import claims, main
from benchmarks._claim import Outcome

MACHINE = performance.Machine(
    processor="Some | processor",
    units=("avx2",),
    cores=2,
    memory_bytes=8 * 2**30,
    system="Linux 6.1",
    python="3.11.2",
    torch="2.13.0",
)
ENTRY = performance.Entry(
    figure="1.9 s",
    bar="< 3 s",
    held=True,
    printed=("11,000 cells: 1.90 s",),
    date="2026-01-02",
    load=0.25,
    machine=MACHINE,
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    shutil.copy(performance.DOCS / performance.PAGE, tmp_path)
    return tmp_path


def page(docs: Path) -> str:
    return (docs / performance.PAGE).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_is_what_the_recorded_figures_make_of_it() -> None:
    written = page(performance.DOCS)
    made = performance.rendered(written, performance.read())
    assert written == made, "run python docs/_generate.py"


def test_every_benchmark_is_a_row_with_its_command_and_every_recorded_one_has_its_bound() -> None:
    written = page(performance.DOCS)
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    for name, claim in claims().items():
        [row] = [row for row in rows if row.endswith(f"| `python -m benchmarks {name}` |")]
        assert claim.removesuffix(".") in row
    for name in performance.read():
        assert f"\n- **{name}**: " in written, f"say in docs/performance.md what bounds {name}"


@pytest.mark.slow
def test_recording_one_benchmark_leaves_the_others_as_they_are(docs: Path) -> None:
    performance.record("plan", ENTRY, docs)
    missed = replace(ENTRY, figure="21.0 s", bar="< 20 s", held=False, date="2026-02-03")
    performance.record("report", missed, docs)
    performance.record("report", replace(missed, figure="20.5 s"), docs)
    assert performance.read(docs) == {"plan": ENTRY, "report": replace(missed, figure="20.5 s")}
    shown = page(docs)
    assert "| < 3 s | 1.9 s | held | 2026-01-02, machine 1 | `python -m benchmarks plan` |" in shown
    assert "| < 20 s | 20.5 s | **fell short** | 2026-02-03, machine 1 |" in shown
    assert "21.0 s" not in shown and "11,000 cells: 1.90 s" in shown
    assert shown.count("not recorded yet") == len(claims()) - 2
    assert page(docs).partition("<!-- table -->")[0] in page(performance.DOCS), "prose stays"


@pytest.mark.slow
def test_figures_of_two_machines_name_each_its_own(docs: Path) -> None:
    other = replace(MACHINE, processor="Another", units=(), cores=1)
    performance.record("plan", ENTRY, docs)
    performance.record("report", replace(ENTRY, machine=other), docs)
    shown = page(docs)
    lines = {line[:3]: line for line in shown.splitlines() if line[:3] in ("1. ", "2. ")}
    assert "Some | processor (avx2), 2 cores, 8 GiB" in lines["1. "]
    assert "Another, 1 core, 8 GiB of memory, Linux 6.1, Python 3.11.2" in lines["2. "]
    rows = {line.rpartition(" ")[0] for line in shown.splitlines() if "2026-01-02" in line}
    assert any("machine 1 | `python -m benchmarks plan`" in row for row in rows)
    assert any("machine 2 | `python -m benchmarks report`" in row for row in rows)


@pytest.mark.slow
def test_a_benchmark_that_is_gone_leaves_the_page(docs: Path) -> None:
    performance.record("plan", ENTRY, docs)
    entries = json.loads((docs / performance.FIGURES).read_text())
    (docs / performance.FIGURES).write_text(json.dumps({"gone": entries["plan"]}))
    performance.write_page(docs)
    assert "1.9 s" not in page(docs)


@pytest.mark.slow
def test_a_benchmark_runs_and_only_recording_writes_what_it_printed(
    docs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import startup

    def run() -> Outcome:
        print("median 0.150 s")
        return Outcome("0.150 s", "< 0.5 s", True)

    monkeypatch.setattr(startup, "run", run)
    assert main(["startup"], docs) == 0
    assert not (docs / performance.FIGURES).exists()
    assert main(["--record", "startup"], docs) == 0
    last = "startup: 0.150 s (bar < 0.5 s): held"
    assert capsys.readouterr().out.splitlines() == ["median 0.150 s", last] * 2
    entry = performance.read(docs)["startup"]
    assert (entry.figure, entry.held, entry.printed) == ("0.150 s", True, ("median 0.150 s",))
    assert entry.machine == performance.this_machine() and entry.machine.memory_bytes > 2**28
    assert main(["--record", "startup", "nosuch"], docs) == 2
    assert main(["--recrd"], docs) == 2


@pytest.mark.slow
def test_a_benchmark_that_is_sent_to_no_study_says_so_in_a_line_and_records_nothing(
    docs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KTBENCH_RESULTS", str(tmp_path / "none"))
    assert main(["--record", "blockwise_accuracy"], docs) == 2
    told = capsys.readouterr()
    [line] = told.err.splitlines()
    assert line.startswith("blockwise_accuracy: ") and "no finished blockwise student" in line
    assert not (docs / performance.FIGURES).exists()
