"""Whoever installs ktbench gets one name, its matrices, and only the packages that they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import ktbench as package
from ktbench.data import images
from ktbench.matrix import starter
from ktbench.matrix.starter import shipped
from ktbench.records import DataSpec, KtbenchError
from ktbench.system import extras
from tests.support.optional_tools import IN_CI
from tests.support.running import Commands, write_matrix

ROOT = Path(package.__file__).resolve().parents[1]
METADATA: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMALL = "hpdc18-small"


def answer(
    *arguments: str | Path, path: Path, folder: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """`python -m ktbench ...` in a folder, with `path` before all that is installed."""
    done = subprocess.run(
        [sys.executable, "-m", "ktbench", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path), "KTBENCH_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel has been unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns("__pycache__")
    for part in ("ktbench", "students", "transfer_methods", "devices", "matrices"):
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source)
    built = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    wheels = list(folder.glob("*.whl"))
    if not wheels and not IN_CI:
        pytest.skip(f"pip cannot build a wheel here: {built.stderr[-200:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_has_one_top_level_with_all_items_and_matrices(site: Path) -> None:
    assert {place.name for place in site.iterdir()} == {
        "ktbench",
        f"ktbench-{METADATA['version']}.dist-info",
    }
    for place in (
        "py.typed",
        "students/vgg.py",
        "students/replacements/separable.py",
        "transfer_methods/kd.py",
        "devices/local.py",
        "devices/agent/runtimes/tflite_.py",
        f"matrices/{SMALL}.yaml",
        "matrix/starter.yaml",
    ):
        assert (site / "ktbench" / place).is_file(), place


@pytest.mark.slow
def test_folders_of_the_users_that_are_called_like_the_catalogues_are_left_alone(
    site: Path, tmp_path: Path
) -> None:
    for name in ("students", "transfer_methods", "devices"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a file of the user')")
    listed = answer("list", "methods", path=site, folder=tmp_path)
    assert "attention" in listed.stdout
    answer("init", "--from", SMALL, path=site, folder=tmp_path)
    text = (site / "ktbench/matrices" / f"{SMALL}.yaml").read_text()
    assert (tmp_path / "matrix.yaml").read_text().endswith(text)


# ---------------------------------------------------------------- shipped matrices


def test_every_shipped_matrix_can_be_begun_with() -> None:
    assert shipped() == sorted(path.stem for path in (ROOT / "matrices").glob("*.yaml"))
    for name in shipped():
        first, _, rest = starter(name).partition("\n")
        assert first.endswith("$schema=matrix.schema.json")
        assert yaml.safe_load(rest)["name"] == name


def test_an_unknown_matrix_is_answered_with_the_nearest_and_all_names() -> None:
    with pytest.raises(KtbenchError, match=r"did you mean hpdc18\b.*views"):
        starter("hpdc")


# ---------------------------------------------------------------- extras


def _packages(requirements: list[str]) -> set[str]:
    return {requirement.partition(">")[0] for requirement in requirements}


def test_the_extras_are_those_that_messages_name() -> None:
    optional: dict[str, list[str]] = METADATA["optional-dependencies"]
    assert set(optional) == {*extras.PACKAGES, "all", "dev"}
    for extra, packages in extras.PACKAGES.items():
        # Bounds on packages of others ("<") are no packages of the extra.
        assert _packages([r for r in optional[extra] if "<" not in r]) == set(packages)
        assert set(optional[extra]) <= set(optional["all"])
        assert not _packages(METADATA["dependencies"]) & set(packages)
    assert set(optional["all"]) <= set(optional["dev"])


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with which no package of an extra can be imported."""
    folder = tmp_path_factory.mktemp("core")
    names = [name.replace("-", "_") for group in extras.PACKAGES.values() for name in group]
    lines = ("import sys", f"sys.path.insert(0, {str(ROOT)!r})")
    blocked = f"sys.modules.update(dict.fromkeys({names}))"
    (folder / "sitecustomize.py").write_text("\n".join((*lines, blocked, "")))
    return folder


@pytest.mark.slow
def test_without_extras_students_are_trained_compared_and_reported(
    core: Path, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml")
    answer("run", matrix, "--results", "r", path=core, folder=tmp_path)
    assert (tmp_path / "r/report/index.html").is_file()
    answer("compare", "r", "r", path=core, folder=tmp_path)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as one in which no extra is installed."""
    for name in (name for group in extras.PACKAGES.values() for name in group):
        monkeypatch.setitem(sys.modules, name.replace("-", "_"), None)


@pytest.mark.slow
def test_a_plan_warns_with_the_command_that_installs_what_the_matrix_needs(
    bare: None, ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", exports={"formats": ["onnx", "tflite"]})
    planned = ktbench("plan", matrix)
    assert planned.code == 0 and planned.err == (
        "warning: packages are not installed (onnx, onnxscript, onnxruntime for onnx exports; "
        "litert-torch, ai-edge-litert, ai-edge-quantizer for tflite exports): "
        "pip install 'ktbench[onnx,tflite]'\n"
    )
    assert not ktbench("plan", write_matrix(tmp_path / "m.yaml")).err


def test_a_data_set_of_the_hub_names_the_command_that_installs_its_package(
    bare: None, tmp_path: Path
) -> None:
    with pytest.raises(KtbenchError) as refused:
        images.hub(DataSpec(source="hub", path="a/b"), tmp_path)
    assert str(refused.value) == (
        "data: source 'hub' needs datasets, which is not installed: pip install 'ktbench[hub]'"
    )


@pytest.mark.parametrize(("suffix", "extra"), [(".onnx", "onnx"), (".tflite", "tflite")])
def test_a_model_to_measure_names_the_command_that_installs_its_packages(
    bare: None, ktbench: Commands, tmp_path: Path, suffix: str, extra: str
) -> None:
    (tmp_path / f"model{suffix}").write_bytes(b"not read without its packages")
    refused = ktbench("measure", f"model{suffix}")
    assert refused.code == 2
    assert refused.error.endswith(f"not installed: pip install 'ktbench[{extra}]'")
