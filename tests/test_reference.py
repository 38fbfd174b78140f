"""The committed results are read by this version, and the documentation says what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktbench import load_results
from ktbench.results import ResultsFolder

ROOT = Path(__file__).parent.parent
REFERENCE = sorted(p.parent for p in ROOT.glob("results/reference/*/lock.json"))


@pytest.mark.parametrize("folder", REFERENCE, ids=lambda p: p.name)
def test_committed_results_are_whole(folder: Path) -> None:
    results = load_results(folder)
    assert set(results.cells["status"]) == {"done"}
    assert set(results.curves["key"]) == set(results.cells["key"])
    for result in ResultsFolder(folder).results():
        assert result.cell.key in set(results.cells["key"])


def test_the_studies_page_has_the_figures_of_the_committed_run() -> None:
    cells = load_results(ROOT / "results/reference/hpdc18-mini").cells
    page = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    rows = {
        "none": "no transfer (accuracy)",
        "hard_logits": "hard logits",
        "soft_logits": "soft logits",
        "last_layer": "last layer",
        "fitnet": "FitNets' hint in two phases",
        "intermediate_last(pairs=similarity)": "intermediate + last layer",
    }
    assert set(cells["method"]) == set(rows)
    mean = cells.groupby(["student", "method"])["accuracy"].mean() * 100
    for method, name in rows.items():
        [line] = [x for x in page.splitlines() if x.startswith(f"| {name} |")]
        for student in ("vgg_shallow(width=0.25)", "vgg_thin(width=0.5)"):
            accuracy, baseline = mean[student, method], mean[student, "none"]
            shown = accuracy if method == "none" else accuracy - baseline
            figures = [part.strip(" *%+").partition(" ")[0] for part in line.split("|")[2:4]]
            column = 0 if "shallow" in student else 1
            assert float(figures[column].replace("−", "-")) == pytest.approx(shown, abs=0.051)
