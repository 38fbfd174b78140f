"""The page of methods says what the methods' files say; so does the benchmark behind it."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import method_cost
from ktbench import catalogue
from ktbench.matrix import loads, plan
from tests.support.running import Commands, results, write_matrix

ROOT = Path(__file__).parents[2]
MATRIX_PAGE = ROOT / "docs" / "matrix.md"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "_generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def costs() -> dict[str, method_cost.Figures]:
    return method_cost.measured(method_cost.QUICK, catalogue.methods())


@pytest.mark.slow
def test_the_page_of_methods_is_up_to_date(generate: ModuleType) -> None:
    measured = json.loads(generate.COSTS.read_text())
    written = generate.PAGE.read_text()
    assert written == generate.page(measured), "run python docs/_generate.py"


def test_the_page_has_every_method_with_its_paper_and_every_setting_with_its_meaning(
    generate: ModuleType,
) -> None:
    written = generate.PAGE.read_text()
    for name in catalogue.methods():
        _, _, after = written.partition(f"\n## {name}\n")
        section = after.partition("\n## ")[0]
        assert section, name
        for setting, info in catalogue.method_settings(name).items():
            assert f"| `{setting}` |" in section
            assert info.doc, f"{name}.{setting} is not explained"


def test_costs_were_measured_for_every_method_and_name_their_machine(generate: ModuleType) -> None:
    measured = json.loads(generate.COSTS.read_text())
    bench = method_cost.Bench(method_cost.QUICK)
    assert set(measured["methods"]) == set(filter(bench.suits, catalogue.methods()))
    assert measured["machine"] and measured["torch"]
    assert measured["methods"]["none"]["seconds"] == 1
    bars = {name: method_cost.EXCEPTIONS.get(name, method_cost.BAR) for name in measured["methods"]}
    assert all(f["seconds"] - 1 < bars[name] for name, f in measured["methods"].items())


# ---------------------------------------------------------------- what the benchmark measures


@pytest.mark.slow
def test_flops_are_charged_to_the_methods_that_compute_more(
    costs: dict[str, method_cost.Figures],
) -> None:
    assert costs["none"].flops == costs["none"].memory == 1
    for name in ("kd", "dkd", "dist", "attention", "last_layer"):
        assert costs[name].flops == 1, f"{name} multiplies no matrices"
        assert costs[name].parameters == 0
    for name in ("reviewkd", "factor", "vid", "nst", "crd"):
        assert costs[name].flops > 1.01, name
    assert costs["reviewkd"].memory > costs["kd"].memory
    one, each = costs["intermediate_last"], costs["intermediate_last_per_layer"]
    assert each.flops > 1.2 * one.flops, "an optimiser per layer takes a gradient per layer"


@pytest.mark.slow
def test_crd_holds_eight_bytes_per_sample_and_dimension(
    costs: dict[str, method_cost.Figures],
) -> None:
    more = replace(method_cost.QUICK, train_size=1000, rounds=1)
    grown = method_cost.measured(more, ("crd",))["crd"]
    added = 1000 - method_cost.QUICK.train_size
    labels = 8 * added
    assert grown.state - costs["crd"].state == 8 * added * 128 + labels
    assert grown.parameters == costs["crd"].parameters


def test_memory_is_the_most_that_tensors_hold_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            first = torch.zeros(100_000)
            second = first + 1
            del first, second

    most = method_cost.memory_of(step)
    assert 800_000 <= most < 900_000


# ---------------------------------------------------------------- the documented examples


def _examples() -> list[str]:
    blocks = MATRIX_PAGE.read_text().split("```yaml\n")[1:]
    found = [block.partition("```")[0] for block in blocks]
    return [block for block in found if "\ndata:" in f"\n{block}" and "methods:" in block]


@pytest.mark.parametrize("text", _examples())
@pytest.mark.slow
def test_a_whole_matrix_of_the_documentation_plans_without_a_skip(
    text: str, tmp_path: Path
) -> None:
    for name in set(re.findall(r"file: (\w+)\.pt", text)):  # a file of weights of that network
        network = catalogue.build_student(name, {}, num_classes=5, in_channels=1)
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    planned = plan(loads(text, base=str(tmp_path)))
    assert planned.cells
    assert not planned.skips


def test_the_documentation_shows_a_chain_a_sum_and_standardised_logits() -> None:
    whole = "".join(_examples())
    for word in ("assistant", "combined", "standardise"):
        assert word in whole


@pytest.mark.slow
def test_a_chain_of_assistants_runs_from_the_matrix_to_its_last_student(
    ktbench: Commands, tmp_path: Path
) -> None:
    teachers = [
        {"student": "resnet8", "name": "big"},
        {
            "student": {"resnet8": {"width": 0.5}},
            "name": "assistant",
            "method": "kd",
            "teacher": "big",
        },
    ]
    matrix = write_matrix(
        tmp_path / "chain.yaml", teachers=teachers, methods=["kd"], exclude={"teacher": "big"}
    )
    assert ktbench("run", matrix, "--results", "r").code == 0
    found = results(tmp_path / "r")
    taught = found["resnet8(width=0.25) / kd ← assistant / seed 0"]
    assert taught.status == "done"
    assert taught.teacher is not None and taught.teacher.cost.teacher_flops > 0
    assert taught.cell.teacher is not None
    assert taught.cell.teacher.cell.teacher is not None
    assert taught.cell.teacher.cell.teacher.name == "big"
    assert len(list((tmp_path / "cache" / "teachers").glob("*/weights.pt"))) == 2
