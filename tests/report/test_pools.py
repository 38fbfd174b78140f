"""The report shows what happened to pools of teachers where, and only where, there were any."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks._synthetic import PROVENANCE, Shape, plan_of, result_of
from ktbench.report import write_report
from ktbench.results import ResultsFolder
from ktbench.teacher.pool.history import History
from tests.support.report_page import outline

SHAPE = Shape(students=("resnet8",), gains={"kd": 0.02}, epochs=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place, plan = tmp_path / "run", plan_of(SHAPE)
    results = ResultsFolder(place)
    with results.open(plan, "name: synthetic\n", PROVENANCE, data_digest="d" * 16):
        for cell in plan.cells:
            results.write_result(result_of(results, cell, SHAPE))
    return place


def history() -> dict[str, object]:
    """Of a pool whose second worker was killed once, as the coordinator writes it."""
    kept = History(started=1_700_000_000.0)
    clock = [0.0]
    kept.now = lambda: clock[0]  # type: ignore[method-assign]
    for second in range(60):
        clock[0] = float(second)
        if second in (2, 5, 30):
            kept.add("join", "a" if second == 2 else "b", "host, process 7")
            kept.present(1 if second == 2 else 2)
        if second == 20:
            kept.add("leave", "b", "it was killed")
            kept.present(1)
        for worker, seconds in (("a", 0.25), ("b", 0.5)):
            if second > 5 and (worker == "a" or not 20 <= second < 30):
                kept.delivered()
                kept.worked(worker, seconds)
    kept.dropped = 3
    return {"teacher": "big", **kept.plain()}


@pytest.mark.slow
def test_a_pools_throughput_workers_joins_and_losses_are_in_the_report(folder: Path) -> None:
    (folder / "pool").mkdir()
    (folder / "pool" / "p-1.json").write_text(json.dumps(history()))
    report = write_report(folder).parent
    [pool] = pd.read_csv(report / "tables" / "pools.csv").to_dict("records")
    assert (pool["batches"], pool["joins"], pool["losses"], pool["dropped"]) == (98, 3, 1, 3)
    workers = pd.read_csv(report / "tables" / "pool-workers.csv").set_index("worker")
    assert workers["answers"].to_dict() == {"a": 54, "b": 44}
    assert workers["per_second"].to_dict() == {"a": 4.0, "b": 2.0}
    assert workers["losses"].to_dict() == {"a": 0, "b": 1}
    drawn = (report / "figures" / "pools.svg").read_text()
    assert "a worker was lost" in drawn and "teacher big" in drawn
    assert "pools" in outline(folder).anchors


@pytest.mark.slow
def test_without_a_pool_there_is_no_such_section(folder: Path) -> None:
    write_report(folder)
    assert "pools" not in outline(folder).anchors


@pytest.mark.slow
def test_a_history_that_cannot_be_read_is_named_and_the_rest_shown(folder: Path) -> None:
    (folder / "pool").mkdir()
    (folder / "pool" / "bad-1.json").write_text('{"teacher": 3')
    (folder / "pool" / "p-1.json").write_text(json.dumps(history()))
    report = write_report(folder).parent
    assert "bad-1.json: not a pool's history" in " ".join(outline(folder).words)
    assert list(pd.read_csv(report / "tables" / "pools.csv")["pool"]) == ["p-1"]
