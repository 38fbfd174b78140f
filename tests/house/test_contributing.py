"""The examples of CONTRIBUTING.md pass every check that the catalogue's own files pass."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ktbench
from ktbench import catalogue
from tests.support.optional_tools import skip_or_fail

ROOT = Path(ktbench.__file__).resolve().parents[1]
FILES = dict(
    re.findall(
        r"^```python\n# (\S+\.py)\n(.*?)^```$",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
)
"""Content of each example by the place where CONTRIBUTING.md says that it is saved."""
ITEMS = {
    "transfer_methods/sharpened.py": ("transfer_methods/test_methods.py", "sharpened"),
    "students/plain.py": ("students/test_students.py", "plain"),
    "devices/orange_pi_5.py": ("measure/test_trouble.py", "orange_pi_5"),
}
"""Contract tests of each example, and what their names hold."""
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


def test_there_is_an_example_of_each_kind_of_item() -> None:
    assert set(FILES) == set(ITEMS)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that holds the examples."""
    folder = tmp_path_factory.mktemp("checkout")
    packages = ("ktbench", "students", "transfer_methods", "devices", "matrices", "tests")
    left_out = shutil.ignore_patterns("__pycache__")
    for package in packages:
        shutil.copytree(ROOT / package, folder / package, symlinks=True, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for place, text in FILES.items():
        (folder / place).write_text(text, encoding="utf-8")
    return folder


def passed(checkout: Path, *command: str | Path) -> None:
    """Run a command in the copy, where it must succeed."""
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        skip_or_fail(f"{name} is not installed")
    return str(path)


def test_the_examples_pass_ruff(checkout: Path) -> None:
    passed(checkout, tool("ruff"), "check", "--no-cache", *FILES)
    passed(checkout, tool("ruff"), "format", "--check", "--no-cache", *FILES)


@pytest.mark.slow
def test_the_examples_pass_mypy(checkout: Path) -> None:
    modules = [f"ktbench.{place.removesuffix('.py').replace('/', '.')}" for place in FILES]
    named = [word for module in modules for word in ("-m", module)]
    passed(checkout, tool("mypy"), "--cache-dir", checkout / "cache", *named)


@pytest.mark.slow
@pytest.mark.parametrize("place", ITEMS)
def test_an_example_passes_the_contract_tests_of_its_kind(checkout: Path, place: str) -> None:
    name, words = ITEMS[place]
    passed(checkout, *PYTEST, f"tests/{name}", "-k", words)  # which fails where it selects none


@pytest.mark.slow
def test_the_examples_import_what_their_rooms_may_import(checkout: Path) -> None:
    passed(checkout, *PYTEST, "tests/house/test_imports.py", "-k", "student or device")


def test_the_method_is_also_one_of_a_users_own_folder(tmp_path: Path) -> None:
    (tmp_path / "sharpened.py").write_text(FILES["transfer_methods/sharpened.py"])
    config = catalogue.method_config("sharpened.py:Method", {"weight": 2.0}, str(tmp_path))
    assert config.weight == 2.0
