"""The results folder: whole files, one writer, nothing mixed, nothing lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks._synthetic import (
    EXPORTS,
    LOCAL,
    PROVENANCE,
    Shape,
    measurement_of,
    plan_of,
    result_of,
    write_folder,
)
from ktbench.records import SCHEMA, Failure, KtbenchError, Plan, Result, Validity
from ktbench.results import ResultsFolder
from ktbench.results.lock import LOCK_SCHEMA

SMALL = Shape(students=("resnet8",), gains={"kd": 0.03}, seeds=2, epochs=3)


def opened(path: Path, plan: Plan | None = None, *, fresh: bool = False, digest: str = "d" * 16):
    return ResultsFolder(path).open(
        plan or plan_of(SMALL), "name: x\n", PROVENANCE, fresh=fresh, data_digest=digest
    )


def test_what_was_written_is_read_back_equal(tmp_path: Path) -> None:
    plan = plan_of(SMALL)
    with opened(tmp_path / "run", plan) as folder:
        result = result_of(folder, plan.cells[0], SMALL)
        measurement = measurement_of(plan.cells[0], EXPORTS[0], LOCAL)
        failure = Failure(stage="measure", reason="no route to host", what="pi")
        folder.write_result(result)
        folder.write_measurement(measurement)
        folder.write_failures([failure])
    folder = ResultsFolder(tmp_path / "run")
    assert folder.result(plan.cells[0].key) == result
    assert folder.result(plan.cells[1].key) is None
    assert list(folder.results()) == [result]
    assert list(folder.measurements()) == [measurement]
    assert folder.failures() == (failure,)
    assert folder.lock().plan == plan
    assert (tmp_path / "run" / "matrix.yaml").read_text() == "name: x\n"


def test_the_failures_of_the_last_run_are_gone_when_a_new_one_starts(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as folder:
        folder.write_failures([Failure(stage="measure", reason="gone")])
    with opened(tmp_path / "run") as folder:
        assert folder.failures() == ()


def test_a_done_result_is_never_changed_but_a_failed_one_may_be(tmp_path: Path) -> None:
    plan = plan_of(SMALL)
    cell = plan.cells[0]
    with opened(tmp_path / "run", plan) as folder:
        failed = Result(
            cell=cell,
            status="failed",
            failures=(Failure(stage="train", reason="NaN"),),
            provenance=PROVENANCE,
        )
        folder.write_result(failed)
        done = result_of(folder, cell, SMALL)
        folder.write_result(done)
        folder.write_result(done)
        with pytest.raises(KtbenchError, match="never changed"):
            folder.write_result(failed)
        assert folder.result(cell.key) == done


def test_artifacts_are_added_to_a_trained_cell_and_none_is_lost(tmp_path: Path) -> None:
    plan = plan_of(SMALL)
    with opened(tmp_path / "run", plan) as folder:
        whole = result_of(folder, plan.cells[-1], SMALL)
        first, second = whole.artifacts[:2], whole.artifacts[2:]
        folder.write_result(whole.model_copy(update={"artifacts": first}))
        folder.write_result(whole.model_copy(update={"artifacts": second, "teacher": None}))
        assert folder.result(whole.cell.key) == whole
        failure = Failure(stage="export", what=first[0].export.label, reason="too far from torch")
        failed = {"artifacts": (), "failures": (failure,), "status": "failed"}
        folder.write_result(whole.model_copy(update=failed))
        found = folder.result(whole.cell.key)
        assert found is not None and found.artifacts == whole.artifacts[1:]


def test_a_valid_measurement_is_never_changed_but_an_invalid_one_may_be(tmp_path: Path) -> None:
    cell = plan_of(SMALL).cells[0]
    bad = measurement_of(cell, EXPORTS[0], LOCAL, validity=Validity(reasons=("throttled",)))
    good = measurement_of(cell, EXPORTS[0], LOCAL)
    with opened(tmp_path / "run") as folder:
        folder.write_measurement(bad)
        folder.write_measurement(good)
        folder.write_measurement(good)
        with pytest.raises(KtbenchError, match="never changed"):
            folder.write_measurement(bad)


def test_nothing_is_written_without_holding_the_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    result = next(folder.results())
    with pytest.raises(RuntimeError, match="inside"):
        folder.write_result(result)


def test_a_second_run_is_refused_with_the_first_ones_process_and_host(tmp_path: Path) -> None:
    with opened(tmp_path / "run"):
        with pytest.raises(KtbenchError, match=rf"process {os.getpid()} on \S+ \(since"):
            opened(tmp_path / "run").__enter__()
        with pytest.raises(KtbenchError, match="is running on this folder"):
            opened(tmp_path / "run", fresh=True).__enter__()
    with opened(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / "running").exists()


_HOLDER = """
import sys, time
from pathlib import Path
from tests.results.test_folder import opened
with opened(Path(sys.argv[1])) as folder:
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_what_a_killed_run_left_is_taken_over_and_cleaned(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as run:
        assert run.stdout is not None and run.stdout.readline() == b"held\n"
        with pytest.raises(KtbenchError, match=f"process {run.pid} "):
            opened(path).__enter__()
        run.send_signal(signal.SIGKILL)
    assert (path / "running").exists()
    half = path / "cells" / ".tmp-half"
    half.write_text("{")
    (path / "artifacts" / "k").mkdir(parents=True)
    (path / "artifacts" / "k" / ".tmp-half").write_text("{")
    with opened(path):
        assert not half.exists()
        assert not (path / "artifacts" / "k" / ".tmp-half").exists()


def test_a_run_of_another_machine_stays_in_force(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "run", SMALL).path
    other = {"process": 7, "host": "elsewhere", "boot": "b", "started": "2026-01-01T00:00:00"}
    (path / "running").write_text(json.dumps(other))
    with pytest.raises(KtbenchError, match=r"process 7 on elsewhere .* delete .*running"):
        opened(path).__enter__()
    assert json.loads((path / "running").read_text()) == other


def _enter(path: Path, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        with opened(path):
            answers.put("held")  # type: ignore[attr-defined]
            time.sleep(1.0)
    except KtbenchError:
        answers.put("refused")  # type: ignore[attr-defined]


@pytest.mark.slow
def test_of_runs_that_start_together_one_alone_gets_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(3), context.Queue()
    runs = [
        context.Process(target=_enter, args=(tmp_path / "run", barrier, answers)) for _ in range(3)
    ]
    for run in runs:
        run.start()
    found = sorted(answers.get(timeout=60) for _ in runs)
    for run in runs:
        run.join()
    assert found == ["held", "refused", "refused"]


def test_a_folder_that_is_not_ours_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(KtbenchError, match=r"holds 'thesis.tex' but no lock.json"):
            opened(tmp_path, fresh=fresh).__enter__()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(KtbenchError, match="is a file"):
        opened(tmp_path / "thesis.tex").__enter__()


def test_fresh_deletes_our_files_only_and_follows_no_link(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (folder.path / "report").symlink_to(outside)
    (folder.path / "notes.txt").write_text("mine")
    with opened(folder.path, fresh=True) as fresh:
        assert list(fresh.results()) == []
        assert list(fresh.measurements()) == []
        assert not any((folder.path / "cells").iterdir())
    assert (outside / "precious").exists()
    assert (folder.path / "notes.txt").read_text() == "mine"


def test_a_fresh_run_killed_while_deleting_leaves_no_old_result_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "run", SMALL)

    def killed(path: Path) -> None:
        raise InterruptedError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("ktbench.results.folder_contents.shutil.rmtree", killed)
        with pytest.raises(KtbenchError):
            opened(folder.path, fresh=True).__enter__()
    assert any(folder.results())
    with opened(folder.path, digest="e" * 16) as again:
        assert not any(again.results())


def test_fresh_refuses_a_lock_that_ktbench_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text('{"packages": []}')
    (tmp_path / "cells").mkdir()
    with pytest.raises(KtbenchError, match="is no lock of ktbench: nothing was deleted"):
        opened(tmp_path, fresh=True).__enter__()
    assert (tmp_path / "cells").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_digest": "e" * 16}, f"data (digest) {'d' * 16}, this run has {'e' * 16}"),
        ({"versions": {"torch": "9.9"}}, "torch 2.13.0, this run has 9.9"),
        ({"machine": "aarch64"}, "machine x86_64, this run has aarch64"),
    ],
)
def test_results_of_other_data_torch_or_machine_are_not_mixed(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    digest = str(change.pop("data_digest", "d" * 16))
    provenance = PROVENANCE.model_copy(update=change)
    before = folder.lock_file.read_bytes()
    with (
        pytest.raises(KtbenchError) as refusal,
        folder.open(plan_of(SMALL), "", provenance, fresh=False, data_digest=digest),
    ):
        pass
    assert words in str(refusal.value)
    assert "--fresh" in str(refusal.value)
    assert folder.lock_file.read_bytes() == before
    with folder.open(plan_of(SMALL), "", provenance, fresh=True, data_digest=digest):
        pass


def test_a_newer_schema_is_refused_whatever_else_it_holds(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    key = plan_of(SMALL).cells[0].key
    for path, newest, read in (
        (folder.cell(key), SCHEMA, lambda: folder.result(key)),
        (folder.lock_file, LOCK_SCHEMA, lambda: opened(folder.path).__enter__()),
    ):
        content = json.loads(path.read_text()) | {"schema_version": newest + 1}
        for newer in (content, content | {"unheard_of": 1}):
            path.write_text(json.dumps(newer))
            with pytest.raises(KtbenchError, match=f"newer ktbench .schema {newest + 1}"):
                read()


@pytest.mark.parametrize("content", ["", '{"schema_version": 1, "cell"', '{"a": 1}', "[]", "\0"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    key = plan_of(SMALL).cells[0].key
    folder.cell(key).write_text(content)
    with pytest.raises(KtbenchError) as damaged:
        folder.result(key)
    assert str(folder.cell(key)) in str(damaged.value)
    assert "is damaged" in str(damaged.value)
    assert "\n" not in str(damaged.value)
    assert folder.cell(key).read_text() == content


def test_a_result_under_another_cells_name_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    first, second = (cell.key for cell in plan_of(SMALL).cells[:2])
    folder.cell(first).write_bytes(folder.cell(second).read_bytes())
    with pytest.raises(KtbenchError, match=f"holds the result of cell {second}"):
        folder.result(first)


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "run", SMALL)
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    cell = plan_of(SMALL).cells[0]

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    other = measurement_of(cell, EXPORTS[0], LOCAL, threads=2)
    with opened(folder.path) as held, monkeypatch.context() as patch:
        patch.setattr("ktbench.system.files.os.fsync", full)
        with pytest.raises(KtbenchError, match="no space left") as refusal:
            held.write_measurement(other)
    assert "\n" not in str(refusal.value)
    after = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    changed = {folder.path / "matrix.yaml"}
    assert {p: b for p, b in after.items() if p not in changed} == {
        p: b for p, b in before.items() if p not in changed
    }
