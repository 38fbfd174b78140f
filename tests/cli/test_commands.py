"""Every command as a user meets it: what it prints, and the code that it ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ktbench import catalogue
from ktbench.cli import listing
from ktbench.cli.progress import Bars, Lines
from tests.support.boards import write_onnx
from tests.support.running import ROOT, Commands, results, started, write_matrix

HEAVY = ("torch", "numpy", "pandas", "matplotlib", "onnx", "onnxruntime", "scipy", "pydantic")


def _plain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )


@pytest.mark.slow
def test_help_and_version_import_nothing_heavy() -> None:
    program = (
        "import sys; from ktbench.cli import main; sys.argv = ['ktbench', {!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    for option in ("--help", "--version"):
        assert _plain("-c", program.format(option)).stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_help_says_what_an_option_is_when_it_is_not_given() -> None:
    told = _plain("-m", "ktbench", "run", "--help").stdout
    shown = " ".join(told.replace("│", " ").split())
    assert "Results folder (default: results/NAME of the matrix)" in shown
    assert "(default: half of the free memory)" in shown


@pytest.mark.slow
def test_help_names_every_command() -> None:
    told = _plain("-m", "ktbench", "--help").stdout
    for command in (
        "run",
        "plan",
        "report",
        "best",
        "replay",
        "clean",
        "list",
        "init",
        "schema",
        "devices",
        "measure",
        "blockwise",
    ):
        assert f" {command} " in told


@pytest.mark.slow
def test_a_plan_as_json_holds_every_cell_with_its_key_and_every_skip_with_its_reason(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", methods=["none", "kd", "fsp"], seeds=2)
    answer = ktbench("plan", matrix, "--json")
    assert (answer.code, answer.err) == (0, "")
    plan = json.loads(answer.out)
    assert ktbench("run", matrix, "--results", "r").code == 0
    ran = {r.cell.key for r in results(tmp_path / "r").values() if r.status == "done"}
    assert {cell["key"] for cell in plan["cells"]} == ran
    assert [skip["cell"]["method"]["name"] for skip in plan["skips"]] == ["fsp", "fsp"]
    assert all("widths" in skip["reason"] for skip in plan["skips"])
    assert plan["estimate"]["cells"] == len(plan["cells"]) == 4


@pytest.mark.slow
def test_a_plan_for_people_counts_cells_and_tells_skips(ktbench: Commands, tmp_path: Path) -> None:
    answer = ktbench("plan", write_matrix(tmp_path / "m.yaml", methods=["none", "kd", "fsp"]))
    assert answer.code == 0
    assert "2 cells" in answer.out and "1 skipped" in answer.out and "estimate:" in answer.out
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kind", ["students", "replacements", "methods", "devices", "datasets"])
def test_a_listing_names_every_item_in_both_forms(ktbench: Commands, kind: str) -> None:
    names = {
        "students": set(catalogue.students()),
        "replacements": set(catalogue.replacements()),
        "methods": set(catalogue.methods()),
        "devices": set(catalogue.devices()),
        "datasets": {"digits", "hub", "parquet", "folder"},
    }[kind]
    told, rows = ktbench("list", kind), json.loads(ktbench("list", kind, "--json").out)
    assert told.code == 0
    words = set(told.out.replace(",", " ").split())
    assert names <= words
    assert names <= {w for row in rows for value in row.values() for w in value.split(", ")}


def test_a_kind_that_is_not_there_is_told(ktbench: Commands) -> None:
    answer = ktbench("list", "methds")
    assert answer.code == 2 and "did you mean methods?" in answer.error


@pytest.mark.slow
def test_the_starter_matrix_can_be_planned_and_is_not_overwritten(
    ktbench: Commands, tmp_path: Path
) -> None:
    assert ktbench("init", "own.yaml").code == 0
    assert json.loads((tmp_path / "matrix.schema.json").read_text())["properties"]["students"]
    answer = ktbench("plan", "own.yaml", "--json")
    assert answer.code == 0 and not json.loads(answer.out)["skips"]
    before = (tmp_path / "own.yaml").read_text()
    again = ktbench("init", "own.yaml")
    assert again.code == 2 and "exists already" in again.error
    assert (tmp_path / "own.yaml").read_text() == before


@pytest.mark.slow
def test_the_schema_is_one_and_takes_the_starter_but_no_unknown_key(
    ktbench: Commands, tmp_path: Path
) -> None:
    schema = json.loads(ktbench("schema").out)
    assert schema["type"] == "object" and schema["additionalProperties"] is False
    _assert_references_resolve(schema, schema)
    ktbench("init", "own.yaml")
    starter = yaml.safe_load((tmp_path / "own.yaml").read_text())
    assert set(schema["required"]) <= set(starter) <= set(schema["properties"])
    assert "trian" not in schema["properties"]


def _assert_references_resolve(value: Any, root: dict[str, Any]) -> None:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            target: Any = root
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
        for inner in value.values():
            _assert_references_resolve(inner, root)
    elif isinstance(value, list):
        for inner in value:
            _assert_references_resolve(inner, root)


@pytest.mark.slow
def test_devices_check_tells_what_this_machine_can_run(ktbench: Commands, tmp_path: Path) -> None:
    answer = ktbench("devices", "check")
    assert answer.code == 0 and "can be measured" in answer.out and "onnxruntime" in answer.out
    [found] = json.loads(ktbench("devices", "check", "--json").out)
    assert found["device"] == "local" and not found["problems"] and found["facts"]["cores"] >= 1
    matrix = write_matrix(
        tmp_path / "m.yaml", devices=[{"ssh": {"host": "no.such.host.invalid"}}], exports={}
    )
    answer = ktbench("devices", "check", "--matrix", matrix)
    assert answer.code == 1 and "cannot be measured" in answer.out and "problem: " in answer.out
    answer = ktbench("devices", "check", "pi", "--matrix", matrix)
    assert answer.code == 2 and "cannot be combined with --matrix" in answer.error


def test_devices_check_asks_a_host_that_is_named_and_holds_it_against_a_profile(
    ktbench: Commands,
) -> None:
    nowhere = "no.such.host.invalid"
    answer = ktbench("devices", "check", nowhere)
    assert answer.code == 1 and f"problem: cannot reach {nowhere}" in answer.out
    [found] = json.loads(
        ktbench("devices", "check", nowhere, "--profile", "jetson_nano", "--json").out
    )
    assert (found["device"], found["title"]) == (nowhere, "Jetson Nano")
    made_up = json.loads(ktbench("devices", "check", "--profile", "fake", "--json").out)
    assert made_up[0]["facts"]["machine"] == "fake"
    refused = ktbench("devices", "check", "--profile", "jetson_nano")
    assert refused.code == 2 and "is a board over SSH: name its host" in refused.error


@pytest.mark.slow
def test_measure_times_any_model_and_tells_what_it_cannot(
    ktbench: Commands, tmp_path: Path
) -> None:
    model = write_onnx(tmp_path / "own.onnx")
    answer = ktbench("measure", model, "--json")
    found = json.loads(answer.out)
    assert answer.code == (0 if not found["validity"]["reasons"] else 1)
    assert 0 < found["p50_ms"]["low"] <= found["p50_ms"]["value"] <= found["p50_ms"]["high"]
    told = ktbench("measure", model)
    assert "median" in told.out and "90th percentile" in told.out
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for name, says in (
        ("bad.onnx", "not an ONNX model"),
        ("none.onnx", "none.onnx"),
        ("x.h5", "x.h5"),
    ):
        refused = ktbench("measure", name)
        assert refused.code == 2 and says in refused.error
    assert ktbench("measure", model, "--mode", "slow").code == 2


@pytest.mark.slow
def test_several_models_are_measured_in_one_call_and_one_that_cannot_be_costs_no_other(
    ktbench: Commands, tmp_path: Path
) -> None:
    one, two = write_onnx(tmp_path / "one.onnx"), write_onnx(tmp_path / "two.onnx", batch="n")
    told = ktbench("measure", one, two, "--repeats", 1, "--provider", "cpu")
    assert "one.onnx" in told.out and "two.onnx" in told.out and told.out.count("interval") == 1
    options = ("--scenario", "offline", "--batch-size", 4, "--repeats", 1)
    answer = ktbench("measure", one, two, *options, "--json")
    fixed, free = json.loads(answer.out)
    assert answer.code == 1 and "not measured: one.onnx: the offline scenario" in answer.err
    assert "free batch" in fixed["reason"]
    assert (free["batch"], free["device"]["scenario"]) == (4, "offline")
    assert free["inputs_per_s"]["value"] > 0
    refused = ktbench("measure", one, "--provider", "gpu")
    assert refused.code == 2
    assert refused.error.startswith("ktbench: --provider gpu: must be 'cpu', 'xnnpack', 'cuda'")


@pytest.mark.slow
def test_a_profile_says_what_a_measured_host_is(ktbench: Commands, tmp_path: Path) -> None:
    """Its figures are labelled as the profile's, and it is held to what the profile says."""
    model = write_onnx(tmp_path / "own.onnx")
    made_up = json.loads(ktbench("measure", model, "--profile", "fake", "--json").out)
    assert made_up["origin"] == "emulated" and made_up["device"]["name"] == "fake"
    for options, says in (
        (("--profile", "nope"), "unknown device 'nope'"),
        (("--profile", "raspberry_pi_5"), "--profile raspberry_pi_5: is a board over SSH: name"),
        (("--profile", "local", "--device", "pi"), "--profile local: takes no host"),
    ):
        refused = ktbench("measure", model, *options)
        assert refused.code == 2 and says in refused.error


@pytest.mark.slow
def test_a_measurement_of_microseconds_has_figures_and_its_title_is_one_line(
    ktbench: Commands, tmp_path: Path
) -> None:
    told = ktbench("measure", write_onnx(tmp_path / "own.onnx")).out.splitlines()
    assert told[0].startswith("own.onnx on local (measured), onnxruntime")
    assert told[0].endswith("1 thread, 192 runs in 3 processes")
    [median] = [line.split()[1] for line in told if line.startswith("median")]
    assert len(median.replace(".", "").lstrip("0")) >= 3, "at least three figures"


def test_a_run_of_nothing_but_impossible_cells_is_refused_with_the_first_reason(
    ktbench: Commands, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text("import torch\ndef net(): return torch.nn.Linear(8, 3)\n")
    answer = ktbench("run", write_matrix(tmp_path / "m.yaml", students=["nets.py:net"]), "--quiet")
    assert answer.code == 2
    assert "no cell can be trained: nets.py:net cannot take images of 1×8×8" in answer.error
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_report_is_written_again_for_a_finished_folder_and_refused_for_another(
    ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml")
    assert ktbench("run", matrix, "--results", "r").code == 0
    assert not (tmp_path / "r" / "report").exists()
    ktbench.report = True
    answer = ktbench("report", "r")
    assert answer.code == 0 and Path(answer.out.strip()) == Path("r/report/index.html")
    assert (tmp_path / "r" / "report" / "index.html").read_text().startswith("<!DOCTYPE html>")
    refused = ktbench("report", tmp_path)
    assert refused.code == 2 and "no results folder" in refused.error


@pytest.mark.slow
def test_a_run_elsewhere_than_on_a_terminal_prints_plain_lines_that_are_never_broken(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ("long" * 40)
    process = started(
        "run", write_matrix(tmp_path / "m.yaml"), "--results", folder, cache=tmp_path / "cache"
    )
    out, told = process.communicate()
    assert (process.returncode, out) == (0, "")
    lines = told.splitlines()
    assert "\x1b" not in told and "\r" not in told
    assert lines[0].endswith(f"results in {folder}")
    assert lines[-1] == f"report: {folder / 'report' / 'index.html'}"
    assert lines[-2].startswith("2 cells done in ")
    said = ["arithmetic", *["teachers"] * 2, *["students"] * 2]
    assert [line.partition(":")[0] for line in lines[1:-2]] == said


WINGS = (
    "ktbench.blockwise",
    "ktbench.runner.blockwise",
    "ktbench.runner.teacher_pool",
    "ktbench.teacher.pool",
    "ktbench.report.blockwise",
    "ktbench.report.pools",
)
RECORDER = """
import atexit, os, sys
from pathlib import Path
path = Path(__file__).with_name(f"{os.getpid()}.modules")
atexit.register(lambda: path.write_text("\\n".join(sys.modules)))
"""


@pytest.mark.slow
def test_a_plain_run_loads_nothing_of_blockwise_students_or_of_pools(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(RECORDER)
    process = started(
        "run",
        write_matrix(tmp_path / "m.yaml", exports={"formats": "onnx", "precisions": "fp32"}),
        "--results",
        tmp_path / "r",
        cache=tmp_path / "cache",
        environment={"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
    )
    _, told = process.communicate()
    assert process.returncode == 0, told
    loaded = [path.read_text().splitlines() for path in site.glob("*.modules")]
    [command] = [modules for modules in loaded if "ktbench.cli.app" in modules]
    [worker] = [
        modules
        for modules in loaded
        if "ktbench.supervision.marks" in modules and "ktbench.cli.app" not in modules
    ]
    assert "ktbench.report.writing" in command and "ktbench.train.cohort" in worker
    for modules in (command, worker):
        assert not [m for m in modules if any(m == w or m.startswith(f"{w}.") for w in WINGS)]


def test_bars_keep_their_figures_however_long_the_label_and_show_it_as_it_is() -> None:
    for width in (80, 120):
        console = Console(width=width, force_terminal=True, color_system=None)
        with Bars(console) as bars:
            bars.begin("students", 240)
            bars.advance(60, "resnet8(pairs=[bold]) / kd ← a teacher / seed 0 and seven more cells")
            drawn = Console(width=width, color_system=None)
            with drawn.capture() as capture:
                drawn.print(bars.progress.get_renderable())
        [line] = capture.get().splitlines()
        assert len(line.rstrip()) <= width
        assert "60/240" in line and "left" in line and "resnet8(" in line
        assert width == 80 or "[bold]" in line


def test_a_signal_ends_a_command_with_one_line_unless_it_is_ignored(
    ktbench: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up() -> list[dict[str, str]]:
        os.kill(os.getpid(), signal.SIGHUP)
        return [{"device": "none"}]

    monkeypatch.setitem(listing.LISTINGS, "devices", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under `nohup`
    try:
        answer = ktbench("list", "devices")
        assert (answer.code, answer.error) == (128 + signal.SIGHUP, "ktbench: stopped")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
        assert ktbench("list", "devices").code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_lines_tell_progress_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(sys.stdout)
    lines.EVERY_S = 0.0  # type: ignore[misc]
    lines.begin("students", 4)
    lines.advance(1, "a cell")
    lines.end()
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "students: 4 to do"
    assert second.startswith("students: 1 of 4, about ") and second.endswith(" s left, a cell")
    assert last.startswith("students: done in ")
