"""Whatever a matrix file holds, `plan` shows its cells or says in lines what is wrong with it."""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from ktbench import matrix
from ktbench.cli.plan import plan_as_json
from ktbench.records import KtbenchError, printable
from ktbench.runner.plan_in_child import plan_here
from tests.support.matrix_mutants import mutants
from tests.support.running import ROOT, started

pytestmark = pytest.mark.slow

SEED = 20261128
PER_MATRIX = int(os.environ.get("KTBENCH_FUZZ", "0") or 0)
"""Mutants of each matrix; a few in an ordinary run of the tests."""
LONGEST_S = 20
"""Seconds of processor time that a plan may take; six times as many on the clock."""
MATRICES = [ROOT / "matrix.yaml", *sorted((ROOT / "matrices").glob("*.yaml"))]


class TookTooLongError(BaseException):
    """No answer in time; passes by every `except Exception`."""


def _sources() -> list[tuple[str, str]]:
    found = [(path.name, path.read_text()) for path in MATRICES]
    return [*found, ("starter.yaml", matrix.starter())]


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError("".join(traceback.format_stack(frame)[-6:]))

    clocks = {signal.SIGALRM: signal.ITIMER_REAL, signal.SIGPROF: signal.ITIMER_PROF}
    before = {number: signal.signal(number, late) for number in clocks}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)  # a busy machine is no fault of a plan
    try:
        yield
    finally:
        for number, clock in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


def _trouble(path: Path, *, to_the_end: bool) -> str | None:
    """What is wrong with the way in which a file is planned or refused, or None.

    `to_the_end`: with the estimate, as the command does, which times networks.
    """
    try:
        with _alarm(LONGEST_S):
            planned = plan_here(path, estimated=to_the_end)
            if to_the_end and planned.plan.cells:
                plan_as_json(planned)
    except KtbenchError as error:
        lines = str(error).splitlines()
        if not lines or not all(line.strip() for line in lines) or len(str(error)) > 20_000:
            return f"says nothing, or a book: {str(error)[:300]!r}"
        if str(error) != printable(str(error)):
            return f"control characters: {str(error)!r}"
        return None if to_the_end or all(str(path) in each for each in lines) else f"where? {lines}"
    except TookTooLongError as late:
        return f"over {LONGEST_S} s: {late}"
    except BaseException:
        return traceback.format_exc()[-2000:]
    return None if planned.plan.cells or planned.plan.skips else "a plan of nothing"


@pytest.mark.timeout(0)
@pytest.mark.parametrize(("name", "text"), _sources(), ids=[name for name, _ in _sources()])
def test_every_mutant_of_a_matrix_is_planned_or_refused_in_lines(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    troubles = []
    count = PER_MATRIX or 15
    for number, content in enumerate(mutants(text, count, SEED)):
        path = tmp_path / f"m{number}.yaml"
        path.write_bytes(content)
        if (trouble := _trouble(path, to_the_end=number % 20 == 7)) is not None:
            troubles.append(f"{name}, mutant {number}: {trouble}")
        path.unlink()
    assert not troubles, f"{len(troubles)} of {count}\n" + "\n\n".join(troubles[:20])


def test_mutants_through_the_command_line_end_with_lines_and_an_exit_code(tmp_path: Path) -> None:
    text = (ROOT / "matrix.yaml").read_text()
    for number, content in enumerate(mutants(text, 2 if not PER_MATRIX else 20, SEED + 1)):
        path = tmp_path / f"m{number}.yaml"
        path.write_bytes(content)
        done = started("plan", path, cache=tmp_path / "cache")
        try:
            out, err = done.communicate(timeout=6 * LONGEST_S)
        except subprocess.TimeoutExpired:
            done.kill()
            raise
        assert done.returncode in (0, 2), err
        assert "Traceback" not in err
        assert (done.returncode == 2) == (err != "") and (done.returncode == 0) == (out != "")
