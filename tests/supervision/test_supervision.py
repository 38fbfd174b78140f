"""A child process is watched: what ends it is told, and nothing else is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ktbench.records import KtbenchError
from ktbench.supervision import Child, Died, Mark
from ktbench.supervision.child import LOG_BYTES
from tests.support import supervised_work as work


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    one = Child(tmp_path / "logs")
    yield one
    one.close()


@pytest.mark.slow
def test_one_process_does_many_pieces_of_work_and_sees_what_the_parent_sees(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert child.run(work.add, 1, 2) == 3
    first = child.run(work.pid)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KTBENCH_TEST", "told")
    assert child.run(work.world) == (str(tmp_path), "told")
    shares: list[float] = []
    assert child.run(work.halfway, report=shares.append) == first and shares == [0.5]


@pytest.mark.slow
def test_what_the_work_raises_is_raised_here_and_the_process_goes_on(child: Child) -> None:
    first = child.run(work.pid)
    with pytest.raises(KtbenchError, match="not so"):
        child.run(work.fail, KtbenchError("not so"))
    with pytest.raises(OSError, match="full"):
        child.run(work.fail, OSError(28, "full"))
    with pytest.raises(KtbenchError, match="SystemExit: 0"):
        child.run(work.fail, SystemExit(0))
    with pytest.raises(KtbenchError, match="KeyboardInterrupt"):
        child.run(work.fail, KeyboardInterrupt())
    with pytest.raises(Exception, match="lambda"):
        child.run(work.unreadable)
    assert child.run(work.pid) == first


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (signal.SIGSEGV, "SIGSEGV (a crash in native code)"),
        (signal.SIGABRT, "SIGABRT (native code found its memory damaged, or gave up)"),
        (signal.SIGKILL, "SIGKILL (somebody killed it)"),
    ],
)
@pytest.mark.slow
def test_a_death_names_the_signal_the_stage_and_the_log(
    child: Child, number: int, meaning: str, tmp_path: Path
) -> None:
    with pytest.raises(Died) as died:
        child.run(work.die, number)
    assert f"ended by {meaning} while training, step 3; its output: " in str(died.value)
    assert died.value.mark == Mark("the cell", "training", "step 3")
    assert died.value.killed == (number == signal.SIGKILL)
    [log] = (tmp_path / "logs").iterdir()
    assert str(log) in died.value.reason and log.read_text().startswith("last words")
    assert child.run(work.add, 1, 2) == 3  # in a new process


@pytest.mark.slow
def test_an_exit_is_a_death_whatever_its_code(child: Child) -> None:
    for code in (0, 3):
        with pytest.raises(Died, match=f"ended itself with exit code {code}"):
            child.run(work.leave, code)


@pytest.mark.slow
def test_work_that_hangs_is_ended_and_slow_work_is_not(child: Child, tmp_path: Path) -> None:
    assert child.run(work.work_slowly, 0.2, 12, step_s=2.0) == "done"
    with pytest.raises(Died, match=r"it made no progress for 1 s while training, step 3; give it"):
        child.run(work.hang, step_s=1.0)
    [log] = (tmp_path / "logs").iterdir()
    assert "in hang" in log.read_text()  # where it hung


@pytest.mark.slow
def test_a_process_cannot_take_more_memory_than_is_free(child: Child) -> None:
    first = child.run(work.pid)
    with pytest.raises(MemoryError):
        child.run(work.take, psutil.virtual_memory().total + (8 << 30))
    assert child.run(work.pid) == first


@pytest.mark.slow
def test_an_endless_print_does_not_fill_the_disk(child: Child, tmp_path: Path) -> None:
    child.run(work.chatter, 3 * LOG_BYTES)
    child.run(work.work_slowly, 1.0, 1)  # time to look at the log
    with pytest.raises(Died):
        child.run(work.leave, 1)
    [log] = (tmp_path / "logs").iterdir()
    assert log.stat().st_size <= LOG_BYTES


@pytest.mark.slow
def test_a_closed_child_is_gone_even_while_it_works_and_would_not_hear(child: Child) -> None:
    child.run(work.forget_the_parent)
    process = psutil.Process(child.run(work.pid))
    child.busy = True
    child.close()
    assert not process.is_running()


@pytest.mark.slow
def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    program = (
        "from ktbench.supervision import Child; from tests.support import supervised_work as w\n"
        "c = Child(); print(c.run(w.pid), flush=True); c.run(w.hang)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(orphan)
