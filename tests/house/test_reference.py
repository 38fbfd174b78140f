"""The committed results are read by this version, and the documentation says what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from ktbench import load_results, stats
from ktbench.results import Results, ResultsFolder
from ktbench.results.lock import LockFile
from ktbench.results.verification import verify

ROOT = Path(__file__).parents[2]
REFERENCE = sorted(ROOT.glob("results/reference/*.ktb"))
FIRST_SCHEMA = [
    file
    for file in REFERENCE
    if file.stem
    in (
        "blockwise-small",
        "efficiency-small",
        "elastic-small",
        "elastic-small-live",
        "hpdc18-small-0.1",
        "views",
    )
]
BY_SIMILARITY = "(pairs=similarity(warmup_epochs=5))"
LAYERED = {
    "intermediate_last": "intermediate + last layer, one optimiser",
    "intermediate_last_per_layer": "intermediate + last layer, one per layer",
    "intermediate_embedding": "intermediate embedded + last layer",
}
"""Techniques that read intermediate layers, as the page calls them."""


def study(name: str) -> Results:
    """A committed study."""
    return load_results(ROOT / f"results/reference/{name}.ktb")


@pytest.mark.parametrize("file", REFERENCE, ids=lambda p: p.stem)
@pytest.mark.slow
def test_committed_results_are_whole(file: Path) -> None:
    results = load_results(file)
    assert set(results.cells["status"]) == {"done"}
    assert set(results.curves["key"]) == set(results.cells["key"])
    assert set(ResultsFolder(results.path).result_keys()) == set(results.cells["key"])
    assert not verify(file).problems


@pytest.mark.parametrize("file", FIRST_SCHEMA, ids=lambda p: p.stem)
@pytest.mark.slow
def test_a_lock_of_the_first_schema_is_read_and_written_with_named_parts(file: Path) -> None:
    results = load_results(file)
    old = json.loads((results.path / "lock.json").read_text())
    assert old["schema_version"] == 1 and isinstance(old["plan"]["cells"][0], list)
    assert len(results.by_key) == len(old["plan"]["cells"])
    new = json.loads(LockFile.of(results.lock).model_dump_json())
    assert LockFile.model_validate(new).lock() == results.lock
    for named, cell in zip(new["plan"]["cells"], results.lock.plan.cells, strict=True):
        student = new["plan"]["parts"]["student"][named["student"]]
        assert (named["student"], student["name"]) == (cell.student.label, cell.student.name)
        assert named["teacher"] == (cell.teacher.name if cell.teacher else None)


@pytest.mark.slow
def test_the_studies_page_has_the_figures_of_the_committed_run() -> None:
    cells = study("hpdc18-small").cells
    page = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    rows = {
        "none": "no transfer (accuracy)",
        "hard_logits": "hard logits",
        "soft_logits": "soft logits",
        "last_layer": "last layer",
        "fitnet": "FitNets' hint in two phases",
    }
    for method, name in LAYERED.items():
        rows |= {method: f"{name}: by stage", method + BY_SIMILARITY: f"{name}: by similarity"}
    assert set(cells["method"]) == set(rows)
    mean = cells.groupby(["student", "method"])["accuracy"].mean() * 100
    students = [
        "vgg_shallow(width=0.25)",
        "vgg_thin(width=0.5)",
        "vgg_thin_shallow(width=0.5)",
        "vgg_separable(width=0.25)",
    ]
    assert set(cells["student"]) == set(students)
    for method, name in rows.items():
        [line] = [x for x in page.splitlines() if x.startswith(f"| {name} |")]
        figures = [part.strip(" *%+").partition(" ")[0] for part in line.split("|")[2:6]]
        for student, figure in zip(students, figures, strict=True):
            accuracy, baseline = mean[student, method], mean[student, "none"]
            shown = accuracy if method == "none" else accuracy - baseline
            assert float(figure.replace("−", "-")) == pytest.approx(shown, abs=0.051)


def _points(mean: float, low: float, high: float, digits: int = 1) -> str:
    """`+1.2 [+0.4, +1.9]`, as the page writes differences."""
    signed = (f"{value:+.{digits}f}".replace("-", "−") for value in (mean, low, high))
    first, low_text, high_text = signed
    return f"{first} [{low_text}, {high_text}]"


@pytest.mark.slow
def test_the_edge_study_says_what_intermediate_layers_add() -> None:
    results = study("hpdc18-small")
    cells = results.cells
    page = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    over_students = cells.pivot_table(index="seed", columns="method", values="accuracy") * 100

    def between(one: str, other: str, student: str = "", digits: int = 1) -> str:
        table = over_students
        if student:
            own = cells[cells["student"] == student]
            table = own.pivot_table(index="seed", columns="method", values="accuracy") * 100
        found = stats.interval(list(table[one] - table[other]))
        assert found.low is not None and found.high is not None
        return _points(found.mean, found.low, found.high, digits)

    for method, name in LAYERED.items():
        similar = method + BY_SIMILARITY
        shown = [
            between(method, "last_layer"),
            between(similar, "last_layer"),
            between(method, similar),
        ]
        assert f"| {name} | {' | '.join(shown)} |" in page
    words = " ".join(page.split())
    assert f"gain {between('last_layer', 'none')} points over the four students" in words
    embedded = between("intermediate_embedding", "last_layer")
    assert f"paired by stage**: {embedded} points over the last layer" in words
    per_layer, at_once = "intermediate_last_per_layer", "intermediate_last"
    shallow = "vgg_shallow(width=0.25)"
    once, embedded_alone = (
        between(m, "last_layer", shallow, 2) for m in (at_once, "intermediate_embedding")
    )
    assert f"{embedded_alone} embedded, {once} not (by stage)" in words
    assert f"too**: {between(per_layer, at_once)} points against one optimiser" in words
    separable = "vgg_separable(width=0.25)"
    assert f"gains {between(per_layer, 'last_layer', separable)} with pairs by stage" in words
    named = _pairs_named(results, cells.loc[cells["method"].str.contains("similarity"), "key"])
    first = sum(count for name, count in named.items() if name.split("_")[2] == "0")
    assert (
        f"{first} of the {sum(named.values())} pairs that they name are of the teacher's" in words
    )


def _pairs_named(results: Results, keys: pd.Series) -> dict[str, int]:
    """Cells by the pairs of their terms: `loss_rmse_<teacher stage>_<student stage>`."""
    curves = results.curves.set_index("key").loc[list(keys)]
    pairs = [str(name) for name in curves.columns if str(name).startswith("loss_rmse_")]
    counts = curves[pairs].groupby("key").count().gt(0).sum()
    return {str(name): int(count) for name, count in counts.items() if count}


@pytest.mark.slow
def test_the_correction_of_the_edge_study_says_what_its_run_holds() -> None:
    """Pairs are in the names of the curves' terms: `rmse_<teacher stage>_<student stage>`."""
    results = study("hpdc18-small-0.1")
    curves = results.curves.set_index("key")
    pairs = [name for name in curves.columns if name.startswith("loss_rmse_")]
    named = curves[pairs].groupby("key").count().gt(0).sum()
    first = sum(count for name, count in named.items() if str(name).split("_")[2] == "0")
    page = " ".join((ROOT / "docs/studies.md").read_text(encoding="utf-8").split())
    assert f"{first} of the {named.sum()} pairs of that run name the teacher's first" in page
    assert {int(str(name).split("_")[2]) for name in named.index} == {0, 1, 2}  # of five
    cells = results.cells[results.cells["student"] == "vgg_shallow(width=0.25)"]
    seeds = cells.pivot_table(index="seed", columns="method", values="accuracy") * 100
    embedded = "intermediate_embedding(pairs=similarity)"
    one = stats.interval(list(seeds[embedded] - seeds["last_layer"]))
    figures = f"+{one.mean:.2f} points [−{-one.low:.2f}, +{one.high:.2f}] from the last layer"
    assert figures in page
    ends = curves.loc[cells.loc[cells["method"] == embedded, "key"]]
    ends = ends[ends["epoch"] == ends["epoch"].max()]
    together, ce, logits = (
        ends[pairs].sum(axis=1).mean(),
        ends["loss_ce"].mean(),
        ends["loss_logits"].mean(),
    )
    assert f"all pairs together are {together:.3f}, beside a cross-entropy of {ce:.2f}" in page
    assert (
        f"and {logits:.2f} of the logits: {together / (together + ce + logits):.1%}"
        in page.replace(" % of the loss", "%")
    )


@pytest.mark.slow
def test_the_studies_page_has_the_accuracies_of_the_committed_efficiency_study() -> None:
    results = study("efficiency-small")
    cells = {cell.key: cell for cell in results.lock.plan.cells}
    frame = results.cells
    found: dict[tuple[int, str], list[float]] = {}
    for key, accuracy in zip(frame["key"], frame["accuracy"], strict=True):
        cell = cells[key]
        use = "no transfer" if cell.teacher is None else cell.teacher.name
        if cell.distill is not None:
            use = {0.25: "first quarter", 0.5: "first half"}[cell.distill.end]
        found.setdefault((cell.train.epochs, use), []).append(accuracy)
    assert all(len(of_seeds) == 5 for of_seeds in found.values())
    page = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    columns = (
        "no transfer",
        "T",
        "first half",
        "first quarter",
        "pool(sample=1)",
        "pool(sample=4)",
    )
    shown = {}
    for line in page[page.index("| epochs | no transfer |") :].splitlines()[2:8]:
        epochs, *figures = (part.strip(" %") for part in line.split("|")[1:-1])
        for name, figure in zip(columns, figures, strict=True):
            if figure:
                shown[int(epochs), name] = float(figure)
    assert shown.keys() == found.keys()
    for where, of_seeds in found.items():
        assert shown[where] == pytest.approx(100 * sum(of_seeds) / 5, abs=0.051), where


def test_the_studies_page_has_the_figures_of_the_committed_blockwise_study() -> None:
    found: dict[tuple[str, str], list[float]] = {}
    for result in study("blockwise-small").by_key.values():
        settings, trained = result.cell.student.settings, result.checkpoint
        assert trained is not None
        kind = "teacher" if "choice" in settings else settings.get("replace", "separable")
        kind = "control" if "start" in settings else kind
        accuracy = trained.accuracy.test_last
        found.setdefault((str(kind), result.cell.method.name), []).append(100 * accuracy)
    page = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    rows = {
        "teacher": "the teacher, finished likewise",
        "depthwise_separable": "the study's block (`depthwise_separable`)",
        "separable": "the corrected block (`separable`)",
        "control": "its control, from random weights",
    }
    shown = {}
    for kind, name in rows.items():
        if not any(of == kind for of, _ in found):
            continue
        [line] = [x for x in page.splitlines() if x.startswith(f"| {name} |")]
        for method, text in zip(("none", "kd"), line.split("|")[4:6], strict=True):
            if text.strip():
                shown[kind, method] = [float(x) for x in re.findall(r"[\d.]+", text)]
    assert shown.keys() == found.keys() and all(len(x) == 5 for x in found.values())
    for where, of_seeds in found.items():
        one = stats.interval(of_seeds)
        assert shown[where] == pytest.approx([one.mean, one.low, one.high], abs=0.051), where


def test_the_headline_of_the_blockwise_study_is_against_the_teacher_finished_likewise() -> None:
    accuracy: dict[str, dict[int, float]] = {"choice": {}, "separable": {}}
    for result in study("blockwise-small").by_key.values():
        settings, trained = result.cell.student.settings, result.checkpoint
        assert trained is not None
        if result.cell.method.name == "none" and not {"replace", "start"} & settings.keys():
            kind = "choice" if "choice" in settings else "separable"
            accuracy[kind][result.cell.seed] = 100 * trained.accuracy.test_last
    lost = stats.paired_gain(accuracy["choice"], accuracy["separable"])
    assert lost is not None and lost.low is not None and lost.high is not None
    words = f"{lost.mean:.1f} points [{lost.low:.1f}, {lost.high:.1f}]"
    for page in ("docs/studies.md", "README.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"{words} below" in text, page


def test_the_pools_weights_are_those_of_a_live_teacher_in_less_time_as_the_page_says() -> None:
    found = {}
    for name in ("elastic-small", "elastic-small-live"):
        trained = {}
        for result in study(name).by_key.values():
            assert result.checkpoint is not None
            trained[result.cell.method.name, result.cell.seed] = result.checkpoint
        found[name] = trained
    pool, live = found.values()
    assert len(pool) == 10
    assert {k: c.digest for k, c in pool.items()} == {k: c.digest for k, c in live.items()}
    clock = [
        [trained["kd", seed].cost.shared_seconds for seed in range(5)] for trained in (pool, live)
    ]
    one = stats.interval([b / a for a, b in zip(*clock, strict=True)])
    page = " ".join((ROOT / "docs/studies.md").read_text(encoding="utf-8").split())
    assert f"takes {sum(clock[0]) / 5:.1f} s on the clock" in page
    assert f"and {sum(clock[1]) / 5:.1f} s" in page
    assert f"{one.mean:.2f} times as long [{one.low:.2f}, {one.high:.2f}]" in page


def test_what_views_cost_is_what_the_committed_run_has() -> None:
    cells = study("views").cells
    taught = cells[cells["method"] != "none"]
    means = taught.groupby("budget")["accuracy"].mean()
    [fresh] = [mean for budget, mean in means.items() if "views" not in str(budget)]
    lost = {str(budget): 100 * (fresh - mean) for budget, mean in means.items()}
    page = " ".join((ROOT / "docs/cache.md").read_text(encoding="utf-8").split())
    assert f"one view costs {lost['views=1']:.1f} points" in page
    assert f"and four cost {lost['views=4']:.1f}" in page
