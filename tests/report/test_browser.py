"""The report's page in a real browser: its tables, its details, and that it asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks._synthetic import PROVENANCE, Shape, plan_of, result_of, write_folder
from ktbench.records import Cell, Failure
from ktbench.report import write_report
from ktbench.results import ResultsFolder, load_results
from tests.support.browser import chromium, expect, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
NAN = "loss term 'hint' became nan at step 31"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def failed(cell: Cell) -> Failure | None:
    if (cell.method.name, cell.student.name) == ("fitnet", "vgg_thin"):
        return Failure(stage="train", reason=NAN, step=31)
    if (cell.method.name, cell.student.name) == ("fitnet", "vgg_shallow"):
        return Failure(stage="train", reason="its process was ended by SIGKILL")  # counts nowhere
    if (cell.method.name, cell.student.name, cell.seed) == ("kd", "resnet8", 1):
        return Failure(stage="export", what="tflite-int8", reason="agreement 0.71 < 0.9")
    return None


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("page") / "run", Shape(failed=failed, epochs=70))
    return write_report(folder.path)


def key_of(index: Path, student: str, method: str, seed: int) -> str:
    cells = load_results(index.parents[1]).cells
    own = (cells["student"] == student) & (cells["method"] == method) & (cells["seed"] == seed)
    return str(cells.loc[own, "key"].item())


def column(page: Page, table: str, head: str) -> list[str]:
    """The texts of a column of the rows that can be seen, from top to bottom."""
    found: list[str] = page.evaluate(
        """([place, head]) => {
            const table = document.querySelector(place);
            const heads = [...table.tHead.rows[0].cells].map(c => c.textContent);
            return [...table.tBodies[0].rows].filter(row => row.offsetParent !== null)
                .map(row => row.cells[heads.indexOf(head)].textContent);
        }""",
        [table, head],
    )
    return found


def figures(texts: list[str]) -> list[float]:
    """The first figure of each text, those without one left out."""
    plain = [text.replace("−", "-").replace(",", "").split() for text in texts if text != "–"]
    return [float(words[0]) for words in plain]


CELLS = "#cells table"
GAINS = "#gains .table:last-child table"


@pytest.mark.parametrize("head", ["gain, points", "gain on validation", "test accuracy"])
def test_a_click_on_a_head_sorts_by_figures_of_either_sign_and_intervals_by_their_mean(
    browser: Browser, index: Path, head: str
) -> None:
    with visit(browser, index) as visited:
        page = visited.page
        before = column(page, GAINS, head)
        button = page.locator(GAINS).get_by_role("button", name=head, exact=True)
        cell = page.locator(GAINS).get_by_role("columnheader", name=head, exact=True)
        button.click()
        expect(cell).to_have_attribute("aria-sort", "ascending")
        rising = column(page, GAINS, head)
        assert figures(rising) == sorted(figures(before)) != figures(before)
        assert rising[-1] == "–"  # what has no figure is last either way
        if "gain" in head:
            assert figures(rising)[0] < 0 < figures(rising)[-1]
        button.click()
        falling = column(page, GAINS, head)
        assert figures(falling) == sorted(figures(before), reverse=True)
        assert falling[-1] == "–"
        button.click()
        expect(cell).to_have_attribute("aria-sort", "none")
        assert column(page, GAINS, head) == before


def test_sorting_works_from_the_keyboard_and_keeps_the_order_of_equal_rows(
    browser: Browser, index: Path
) -> None:
    with visit(browser, index) as visited:
        page = visited.page
        for head in ("seed", "student"):
            page.locator(CELLS).get_by_role("button", name=head, exact=True).focus()
            page.keyboard.press("Enter")
        rows = list(zip(column(page, CELLS, "student"), column(page, CELLS, "seed"), strict=True))
        assert rows == sorted(rows) and len(rows) == 36


def test_figures_with_units_are_sorted_by_what_they_mean(browser: Browser, index: Path) -> None:
    with visit(browser, index) as visited:
        found = visited.page.evaluate(
            """() => {
                const table = document.querySelector("#cells table");
                const shown = ["2.0 h", "12.3 min", "999 kB", "1.20 MB", "512 B", "1.2e−6",
                               "≥ 99.5 %", "–", "0.42 s", "−3.1 [−4.0, −2.2]"];
                const rows = [...table.tBodies[0].rows];
                rows.slice(shown.length).forEach(row => row.remove());
                shown.forEach((text, i) => { rows[i].cells[2].textContent = text; });
                table.tHead.rows[0].cells[2].querySelector("button").click();
                return [...table.tBodies[0].rows].map(row => row.cells[2].textContent);
            }"""
        )
    assert found == [
        *("−3.1 [−4.0, −2.2]", "1.2e−6", "0.42 s", "≥ 99.5 %", "512 B"),
        *("12.3 min", "2.0 h", "999 kB", "1.20 MB", "–"),
    ]


def test_a_filter_keeps_the_rows_that_hold_every_word_and_stands_over_long_tables_only(
    browser: Browser, index: Path
) -> None:
    with visit(browser, index) as visited:
        page = visited.page
        page.locator("#cells input").fill("VGG_shallow  kd")
        assert column(page, CELLS, "student") == ["vgg_shallow"] * 3
        assert column(page, CELLS, "method") == ["kd"] * 3
        expect(page.locator("#cells .count")).to_have_text("3 of 36 rows")
        page.locator("#cells input").fill("")
        assert len(column(page, CELLS, "student")) == 36
        for box in page.locator("main .table").all():
            rows = box.locator("tbody tr").count()
            assert box.locator("input").count() == (1 if rows > 8 else 0)


def test_a_click_tells_a_cells_story_and_its_address_can_be_sent_on(
    browser: Browser, index: Path
) -> None:
    key = key_of(index, "resnet8", "kd", 1)
    result = load_results(index.parents[1]).by_key[key]
    assert result.checkpoint is not None
    with visit(browser, index) as visited:
        page = visited.page
        expect(page.locator("dialog")).to_be_hidden()
        page.locator(f"#cell-{key} a").click()
        details = page.get_by_role("dialog", name="resnet8 / kd / seed 1")
        expect(details).to_be_visible()
        told = details.inner_text()
        address = page.url
        page.keyboard.press("Escape")
        expect(details).to_be_hidden()
    assert address.endswith(f"#cell-{key}")
    artifact, cell = result.artifacts[0], result.cell
    assert cell.teacher is not None
    for words in (
        *(key, result.checkpoint.digest, "agreement 0.71 < 0.9", artifact.export.label),
        *("100.0 % (≥ 99.5 %)", "0.100 [0.0980, 0.103]", "median below 0.1 ms"),
        *(cell.teacher.name, "cosine", "0" * 40, "torch 2.13.0", "Synthetic processor"),
        *("60 of 70 epochs are drawn", f"rm -f again/cells/{key}.json"),
    ):
        assert words in told, words
    with visit(browser, index, f"#cell-{key}") as visited:
        page = visited.page
        expect(page.get_by_role("dialog", name="resnet8 / kd / seed 1")).to_be_visible()
        page.locator(".seeds a", has_text="2").click()
        expect(page.get_by_role("dialog", name="resnet8 / kd / seed 2")).to_be_visible()
        page.go_back()
        expect(page.get_by_role("dialog", name="resnet8 / kd / seed 1")).to_be_visible()
        page.get_by_role("button", name="Close").click()
        expect(page.locator("dialog")).to_be_hidden()
        assert "#cell" not in page.url
    with visit(browser, index, "#cell-0123456789abcdef") as visited:
        expect(visited.page.get_by_role("dialog")).to_contain_text("has the details of 36 cells")


def test_curves_are_drawn_where_they_belong(browser: Browser, index: Path) -> None:
    key = key_of(index, "resnet8", "kd", 0)
    results = load_results(index.parents[1])
    curves = results.curves[results.curves["key"] == key]
    with visit(browser, index, f"#cell-{key}") as visited:
        charts = visited.page.locator("#details-body .chart")
        expect(charts).to_have_count(2)
        expect(charts.nth(0)).to_contain_text("no transfer, same seed · this cell")
        expect(charts.nth(1)).to_contain_text("ce · kd")
        path = charts.nth(0).locator("path.c0").get_attribute("d") or ""
    drawn = [float(point.split(",")[1]) for point in path.lstrip("M").split("L")]
    assert len(drawn) == 60
    accuracy = curves["validation_accuracy"].to_list()
    # Heights are a falling straight line of values.
    scale = (drawn[-1] - drawn[0]) / (accuracy[-1] - accuracy[0])
    assert scale < 0
    assert drawn[1] == pytest.approx(drawn[0] + scale * (accuracy[1] - accuracy[0]), abs=0.2)


def test_a_failed_cell_opens_from_its_reason_and_says_what_it_lacks(
    browser: Browser, index: Path
) -> None:
    with visit(browser, index) as visited:
        page = visited.page
        row = page.locator("#failures tr", has_text="agreement 0.71 < 0.9")
        row.locator("a").click()
        expect(page.get_by_role("dialog", name="resnet8 / kd / seed 1")).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#failures tr", has_text=NAN).locator("a").click()
        details = page.get_by_role("dialog", name="vgg_thin / fitnet / seed 0")
        expect(details).to_contain_text("No curves: this cell was not trained.")
        assert visited.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_fetched_nothing_complains_and_nothing_is_wider_than_the_screen(
    browser: Browser, index: Path, width: int
) -> None:
    with visit(browser, index, width=width) as visited:
        page = visited.page
        for head in page.locator(f"{CELLS} th button").all():
            head.click()
        page.locator("#cells input").fill("kd")
        page.locator(f"{CELLS} tbody tr:visible a").first.click()
        wide = "e => [e.scrollWidth - e.clientWidth]"
        assert page.locator("html").evaluate(wide) == [0]
        assert page.locator("#details-body").evaluate(wide) == [0]
        blocked = page.evaluate(
            """() => new Promise(done => {
                document.addEventListener("securitypolicyviolation", e => done(e.blockedURI));
                fetch("https://example.org/").catch(() => null);
            })"""
        )
    assert blocked == "https://example.org/"
    others = [r for r in visited.requests if not r.startswith("data:")]
    assert others == [index.as_uri()]
    assert all("Content Security Policy" in words for words in visited.complaints)


def test_long_names_are_broken_before_their_settings_and_fit_a_narrow_screen(
    browser: Browser, tmp_path: Path
) -> None:
    student, method = "a_student_of_a_long_name(width=0.25)", "a_method_whose_name_is_long(p=1)"
    shape = Shape(students=(student,), gains={method: 0.2}, epochs=2, devices=(), exports=())
    index = write_report(write_folder(tmp_path / "run", shape).path)
    wide = "e => e.scrollWidth - e.clientWidth"
    with visit(browser, index, width=390) as visited:
        page = visited.page
        assert page.locator(".headline").inner_text().startswith(f"{method} gains")
        assert page.locator("html").evaluate(wide) == 0
        assert page.locator(".headline").evaluate(wide) == 0
        name = page.locator(f"{CELLS} td.long").first
        assert name.text_content() == student
        tops = "e => new Set([...e.getClientRects()].map(r => r.top)).size"
        assert name.locator("span").evaluate(tops) == 2, "two lines"


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    shape = Shape(
        students=(HOSTILE, "resnet8"),
        gains={"kd": 0.03, HOSTILE: 0.01},
        teachers=(HOSTILE,),
        epochs=3,
        failed=lambda cell: Failure(stage="export", what=HOSTILE, reason=HOSTILE),
    )
    plan = plan_of(shape).model_copy(update={"name": HOSTILE})
    folder = ResultsFolder(tmp_path / "run")
    with folder.open(plan, "", PROVENANCE, data_digest=HOSTILE):
        for cell in plan.cells:
            folder.write_result(result_of(folder, cell, shape))
    with visit(browser, write_report(folder.path)) as visited:
        page = visited.page
        assert page.locator("script").count() == 2 and page.locator("img[src=x]").count() == 0
        assert page.locator("h1").inner_text() == HOSTILE
        page.locator(f"{CELLS} tbody tr").nth(2).locator("a").click()
        told = page.get_by_role("dialog").inner_text()
        assert told.startswith(f"{HOSTILE} / {HOSTILE}") and told.count(HOSTILE) >= 6
        assert page.locator("img[src=x]").count() == 0
        assert visited.complaints == []


def test_without_scripts_and_on_paper_the_page_is_whole(browser: Browser, index: Path) -> None:
    key = key_of(index, "vgg_thin", "kd", 2)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(index.as_uri() + f"#cell-{key}")
    assert page.locator("dialog").is_hidden()
    row = page.locator(f"#cell-{key}")
    expect(row).to_be_in_viewport()
    expect(row).to_contain_text("vgg_thin")
    context.close()
    with visit(browser, index) as visited:
        visited.page.emulate_media(media="print")
        assert visited.page.locator("#cells input").is_hidden()
        assert visited.page.locator("nav").is_hidden()
