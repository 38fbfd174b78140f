"""Networks of timm are trained, compared and exported by their name there.

timm imports torchvision, whose packages are built for one build of torch each: a few empty names
stand for it here (`tests/support/stand_ins`), none of which a network uses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ktbench import catalogue
from ktbench.records import KtbenchError
from tests.support.optional_tools import skip_or_fail
from tests.support.running import ROOT, Commands, started, write_matrix

STAND_INS = ROOT / "tests" / "support" / "stand_ins"
SIZES = {"num_classes": 10, "in_channels": 1}


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm can be imported, beside what stands for torchvision."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    try:
        import timm  # noqa: F401
    except ImportError as error:
        skip_or_fail(f"this test needs timm: {error}")


@pytest.mark.slow
def test_a_matrix_of_networks_of_timm_is_run_to_its_report(timm: None, tmp_path: Path) -> None:
    matrix = write_matrix(
        tmp_path / "m.yaml",
        teachers=[{"student": "timm:resnet10t", "name": "T"}],
        students=["timm:mobilenetv3_small_050"],
        methods=["none", "kd", "attention"],
        exports=[{"formats": ["onnx"]}],
    )
    results = tmp_path / "r"
    run = started("run", matrix, "--results", results, cache=tmp_path / "cache")
    out, err = run.communicate()
    assert run.returncode == 0 and "3 cells done" in out + err, err
    lock = json.loads((results / "lock.json").read_text(encoding="utf-8"))
    students = lock["plan"]["parts"]["student"]
    assert {part["code"].split()[0] for part in students.values()} == {"timm"}
    assert len(list(results.glob("artifacts/*/*.onnx"))) == 3


@pytest.mark.slow
def test_inspecting_a_network_of_timm_shows_its_stages(
    timm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ktbench = Commands(tmp_path, monkeypatch, capsys)
    answer = ktbench("inspect", "timm:mobilenetv3_small_050", "--side", "64", "--json")
    shown = json.loads(answer.out)
    assert list(shown["stages"]) == ["bn1", "blocks.0", "blocks.1", "blocks.3", "blocks.5"]
    assert shown["embedding"] == 1024 and shown["methods"]["attention"] == ""


def test_an_unknown_network_of_timm_is_one_line_with_near_names(timm: None) -> None:
    with pytest.raises(
        KtbenchError, match=r"^timm:resnet19: timm has no network resnet19: did you"
    ):
        catalogue.build_student("timm:resnet19", {}, **SIZES)


def test_a_package_that_is_not_there_is_one_line_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(KtbenchError, match=r"torchvision.*: torchvision (is not installed|cannot)"):
        catalogue.build_student("torchvision:resnet18", {}, **SIZES)
