"""Whatever a results folder holds, reading it ends well: a report, or one line that says why not.

`KTBENCH_FUZZ=1000 pytest tests/results/test_fuzz.py` tries as many damaged folders.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ktbench.compare import compare
from ktbench.compare.rendering import markdown, print_comparison
from ktbench.records import KtbenchError
from ktbench.report import write_report
from ktbench.results import load_results
from ktbench.results.verification import verify
from tests.support.fuzzing import SCRIPT, damage, small_folders

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("KTBENCH_FUZZ", "12"))
SEED = 11
DRAWN_EVERY = 6
"""In one case of so many the figures are rendered, which takes most of a report's time."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _read(folder: Path, whole: Path, shown: pytest.CaptureFixture[str]) -> int:
    """Everything that reads a folder; how many of them could not."""
    refused = 0
    for reader in (
        lambda: load_results(folder).deployed,
        lambda: verify(folder).problems,
        lambda: _compared(folder, whole),
        lambda: _compared(whole, folder),
        lambda: _reported(folder),
    ):
        try:
            reader()
        except KtbenchError as error:
            refused += 1
            assert "\n" not in str(error)
    printed = shown.readouterr()
    assert not _CONTROL.search(printed.out + printed.err)
    return refused


def _compared(a: Path, b: Path) -> None:
    found = compare(a, b)
    print_comparison(found)
    assert "<script" not in markdown(found)


def _reported(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    assert SCRIPT not in page and "<script>window" not in page and "<img src=x" not in page


@pytest.mark.timeout(60 + 30 * CASES)
def test_no_damage_to_a_results_folder_ends_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = small_folders(tmp_path / "sources")
    refused = 0
    for number in range(CASES):
        chance = random.Random(SEED * 1_000_003 + number)
        whole, folder = sources[number % len(sources)], tmp_path / "damaged"
        shutil.copytree(whole, folder)
        told = damage(folder, chance)
        try:
            with monkeypatch.context() as patch:
                if number % DRAWN_EVERY:
                    patch.setattr(Figure, "draw_without_rendering", lambda _: None)
                    patch.setattr(Figure, "savefig", lambda *_, **__: None)
                refused += _read(folder, whole, capsys) > 0
        except Exception as error:
            error.add_note(f"case {number}: {told}")
            raise
        shutil.rmtree(folder)
        (tmp_path / "done").write_text(f"{number + 1} cases, {refused} refused\n")
    assert refused < CASES / 2, "most damage should cost its own cell, not the folder"
