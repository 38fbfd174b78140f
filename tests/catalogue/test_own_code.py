"""A user's file is loaded with its neighbours, digested with them, and only called if it may be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ktbench import catalogue
from ktbench.records import KtbenchError
from tests.support.running import Commands, write_matrix

NET = """
from torch import nn
{imports}
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.body = {block}
        self.head = nn.Linear(64 * in_channels, num_classes)
    def forward(self, x):
        {late}
        return self.head(self.body(x).flatten(1))
"""
BLOCK = "from torch import nn\nclass Block(nn.Identity):\n    mark = {mark!r}\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def net(imports: str, block: str, late: str = "pass") -> str:
    return NET.format(imports=imports, block=block, late=late)


def build(folder: Path, name: str = "net.py:Net") -> Any:
    built: Any = catalogue.build_student(name, {}, num_classes=10, in_channels=1, base=str(folder))
    assert built(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    return built.network


KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "from blocks": ("from blocks import Block", "Block()", {"blocks.py": BLOCK}),
    "import blocks": ("import blocks", "blocks.Block()", {"blocks.py": BLOCK}),
    "import as": ("import blocks as b", "b.Block()", {"blocks.py": BLOCK}),
    "package": ("from parts import Block", "Block()", {"parts/__init__.py": BLOCK}),
    "sub.module": ("import parts.sub", "parts.sub.Block()", {"parts/sub.py": BLOCK}),
    "sub.module as": ("import parts.sub as s", "s.Block()", {"parts/sub.py": BLOCK}),
    "from package": ("from parts import sub", "sub.Block()", {"parts/sub.py": BLOCK}),
    "relative": ("from .blocks import Block", "Block()", {"blocks.py": BLOCK}),
    "relative module": ("from . import blocks", "blocks.Block()", {"blocks.py": BLOCK}),
    "through another": (
        "from first import Block",
        "Block()",
        {"first.py": "from second import Block\n", "second.py": BLOCK},
    ),
    "in a package": (
        "from parts.sub import Block",
        "Block()",
        {
            "parts/__init__.py": "",
            "parts/sub.py": "from .deep.most import Block\n",
            "parts/deep/__init__.py": "from ..other import NOTHING\n",
            "parts/other.py": "NOTHING = None\n",
            "parts/deep/most.py": BLOCK,
        },
    ),
    "called": ("b = __import__('blocks')", "b.Block()", {"blocks.py": BLOCK}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_finds_its_neighbours_and_an_edit_of_one_is_another_digest(
    tmp_path: Path, kind: str
) -> None:
    imports, block, others = KINDS[kind]
    files = {name: text.format(mark=1) for name, text in others.items()}
    folder = write(tmp_path, {"net.py": net(imports, block), **files})
    path = list(sys.path)
    assert build(folder).body.mark == 1
    assert sys.path == path
    assert not {name.removesuffix(".py").partition("/")[0] for name in others} & set(sys.modules)
    before = catalogue.code_digest("net.py:Net", str(folder))
    [changed] = [name for name, text in others.items() if "mark" in text]
    write(folder, {changed: others[changed].format(mark=2)})
    assert catalogue.code_digest("net.py:Net", str(folder)) != before


def test_a_neighbour_is_found_when_it_is_imported_late(tmp_path: Path) -> None:
    late = "from late import scale; x = scale(x)"
    text = net("", "nn.Identity()", late)
    write(tmp_path, {"net.py": text, "late.py": "def scale(x):\n    return x * 2\n"})
    build(tmp_path)
    before = catalogue.code_digest("net.py:Net", str(tmp_path))
    write(tmp_path, {"late.py": "def scale(x):\n    return x * 3\n"})
    assert catalogue.code_digest("net.py:Net", str(tmp_path)) != before


def test_equally_named_neighbours_of_two_folders_are_two_modules(tmp_path: Path) -> None:
    text = net("from blocks import Block", "Block()", "import blocks; x = x + blocks.Block.mark")
    for number in (1, 2):
        files = {"net.py": text, "blocks.py": BLOCK.format(mark=number)}
        write(tmp_path / str(number), files)
    one, two = (build(tmp_path, f"{number}/net.py:Net") for number in (1, 2))
    assert (one.body.mark, two.body.mark) == (1, 2)
    with torch.no_grad():
        one.head.weight.fill_(1)
        one.head.bias.zero_()
        two.load_state_dict(one.state_dict())
        image = torch.zeros(1, 1, 8, 8)
        assert float(one(image)[0, 0]) == 64
        assert float(two(image)[0, 0]) == 128


def test_a_neighbour_called_like_an_installed_package_hides_it_from_its_own_folder_only(
    tmp_path: Path,
) -> None:
    text = net("from yaml import Block", "Block()")
    write(tmp_path, {"net.py": text, "yaml.py": BLOCK.format(mark=1)})
    assert build(tmp_path).body.mark == 1
    import yaml

    assert yaml.safe_load("1") == 1


def test_a_folder_of_data_called_like_an_installed_package_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "yaml").mkdir()
    write(tmp_path, {"net.py": net("import yaml; yaml.safe_load", "nn.Identity()")})
    build(tmp_path)


def test_a_file_within_a_package_may_name_the_package(tmp_path: Path) -> None:
    imports = "from mine.blocks import Block\nfrom ..common import Other\nfrom .blocks import Block"
    files = {
        "mine/__init__.py": "",
        "mine/nets/__init__.py": "",
        "mine/nets/net.py": net(imports.replace("mine.", "mine.nets."), "Block()"),
        "mine/nets/blocks.py": BLOCK.format(mark=1),
        "mine/common.py": "Other = 1\n",
    }
    write(tmp_path, files)
    assert build(tmp_path, "mine/nets/net.py:Net").body.mark == 1
    before = catalogue.code_digest("mine/nets/net.py:Net", str(tmp_path))
    write(tmp_path, {"mine/common.py": "Other = 2\n"})
    assert catalogue.code_digest("mine/nets/net.py:Net", str(tmp_path)) != before


def test_a_file_without_neighbours_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    import hashlib

    text = net("import math, os.path\nfrom torch import nn", "nn.Identity()")
    write(tmp_path, {"net.py": text, "unused.py": "x = 1\n"})
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert catalogue.code_digest("net.py:Net", str(tmp_path)) == expected


def test_a_method_finds_its_neighbours(tmp_path: Path) -> None:
    method = """
from dataclasses import dataclass
from ktbench.transfer_methods._contract import Needs, TransferMethod
from helper import WEIGHT
@dataclass(frozen=True)
class Settings:
    weight: float = WEIGHT
class Mine(TransferMethod):
    Config = Settings
    @classmethod
    def needs(cls, config):
        return Needs()
    def loss(self, student, teacher, batch):
        return {"ce": student.logits.sum()}
"""
    write(tmp_path, {"mine.py": method, "helper.py": "WEIGHT = 3.0\n"})
    assert catalogue.method_config("mine.py:Mine", {}, str(tmp_path)).weight == 3.0
    before = catalogue.code_digest("mine.py:Mine", str(tmp_path))
    write(tmp_path, {"helper.py": "WEIGHT = 4.0\n"})
    assert catalogue.code_digest("mine.py:Mine", str(tmp_path)) != before


def test_a_neighbour_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": net("from .gone import Block", "Block()")})
    with pytest.raises(KtbenchError, match=r"cannot import net.py: ModuleNotFoundError"):
        build(tmp_path)


# ---------------------------------------------------------------- what may be called


FACTORIES = """
import functools, os
from os import mkdir
from shutil import rmtree
from subprocess import run
from torch import nn
from torch.nn import Identity
from blocks import make
class Net(nn.Module):
    def __init__(self, num_classes, in_channels, width=1):
        super().__init__()
        self.head = nn.Linear(64 * in_channels, num_classes)
    def forward(self, x):
        return self.head(x.flatten(1))
def wrapped(f):
    @functools.wraps(f)
    def inner(*args, **kwargs):
        return f(*args, **kwargs)
    return inner
@wrapped
def factory(num_classes, in_channels):
    return Net(num_classes, in_channels)
@functools.cache
def cached(num_classes, in_channels):
    return Net(num_classes, in_channels)
wide = functools.partial(Net, width=2)
remove = functools.partial(rmtree, "x")
class Other:
    pass
"""
BLOCKS = "def make(num_classes, in_channels):\n    import net\n"
BLOCKS += "    return net.Net(num_classes, in_channels)\n"


@pytest.mark.parametrize("name", ["Net", "factory", "cached", "wide", "make"])
def test_a_class_or_a_function_of_the_file_or_its_neighbour_builds_a_network(
    tmp_path: Path, name: str
) -> None:
    build(write(tmp_path, {"net.py": FACTORIES, "blocks.py": BLOCKS}), f"net.py:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "os is of Python's own library, which has no networks"),
        ("os.path:join", "os.path is of Python's own library"),
        ("antigravity:x", "antigravity is of Python's own library"),
        (
            "ktbench.teacher.store:digest_of",
            "function is defined in ktbench.records.base, not in ktbench.t",
        ),
        ("torch.nn:Parameter", "not a network: its class does not derive from nn.Module"),
        ("numpy:array", "not a network: name a class that derives from nn.Module"),
        ("yaml:safe_load", "cannot be called with its arguments"),
        ("net.py:mkdir", "not a network: name a class that derives from nn.Module"),
        ("net.py:rmtree", "not a network: .*"),
        ("net.py:run", "not a network: the function is defined in subprocess, not in net.py"),
        ("net.py:remove", "not a network: .*"),
        ("net.py:os", "not a network: name a class"),
        ("net.py:Other", "not a network: its class does not derive from nn.Module"),
    ],
)
def test_what_is_no_network_is_refused_before_it_is_called(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "x").mkdir()
    write(tmp_path, {"net.py": FACTORIES, "blocks.py": BLOCKS})
    with pytest.raises(KtbenchError, match=message) as caught:
        build(tmp_path, name)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "x").is_dir()


@pytest.mark.slow
def test_a_command_as_a_student_is_not_run_at_plan(ktbench: Commands, tmp_path: Path) -> None:
    student = {"os:system": {"arguments": {"command": f"touch {tmp_path}/ran"}}}
    answer = ktbench("plan", write_matrix(tmp_path / "m.yaml", students=[student]))
    assert "os is of Python's own library, which has no networks" in answer.error
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- planning without


@pytest.mark.slow
def test_a_plan_without_code_runs_none_and_shows_what_it_did_not_look_at(
    ktbench: Commands, tmp_path: Path
) -> None:
    bomb = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    write(tmp_path, {"net.py": bomb, "how.py": bomb, "mine_bomb.py": bomb})
    names = ["resnet8", "net.py:Net", "mine_bomb:Net"]
    file = write_matrix(
        tmp_path / "m.yaml",
        students=names,
        methods=["kd", {"how.py:How": {"weight": [1, 2]}}],
        teachers=[{"student": "net.py:Net", "name": "T"}, {"student": "resnet8", "name": "U"}],
    )
    answer = ktbench("plan", "--no-code", "--json", file)
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out)
    seen = {(cell["student"]["name"], cell["method"]["name"]) for cell in plan["cells"]}
    assert seen == {("resnet8", "none"), ("resnet8", "kd")}
    reasons = {skip["reason"] for skip in plan["skips"]}
    assert len(plan["skips"]) > 4
    assert all("not checked: --no-code" in reason for reason in reasons)
    assert ktbench("plan", "--no-code", file).code == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_plan_without_code_has_the_same_keys(ktbench: Commands, tmp_path: Path) -> None:
    text = net("from blocks import Block", "Block()")
    write(tmp_path, {"net.py": text, "blocks.py": BLOCK.format(mark=1)})
    file = write_matrix(tmp_path / "m.yaml", students=["net.py:Net"], methods=["none"])
    planned = json.loads(ktbench("plan", "--json", file).out)["cells"][0]
    [skip] = json.loads(ktbench("plan", "--json", "--no-code", file).out)["skips"]
    assert skip["cell"]["student"] == planned["student"]
