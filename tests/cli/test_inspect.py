"""`ktbench inspect` shows a network, and which methods suit it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.running import Commands


@pytest.fixture
def ktbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_a_network_is_shown_with_its_sizes_and_methods(ktbench: Commands) -> None:
    answer = ktbench("inspect", "{resnet8: {width: 0.5}}", "--teacher", "vit_tiny")
    assert answer.code == 0 and answer.err == ""
    assert "resnet8(width=0.5): 19,954 parameters, 6,472,320 FLOPs a pass" in answer.out
    for shown in ("stage2", "16×16×16", "embedding", "methods that suit it, taught by vit_tiny:"):
        assert shown in answer.out
    assert "flow matrices need equal widths" in " ".join(answer.out.split())


def test_it_is_json_where_asked(ktbench: Commands) -> None:
    shown = json.loads(ktbench("inspect", "resnet8", "--json", "--side", "16").out)
    assert shown["stages"] == {"stage1": [16, 16, 16], "stage2": [32, 8, 8], "stage3": [64, 4, 4]}
    assert shown["methods"]["kd"] == ""


@pytest.mark.parametrize(
    ("network", "line"),
    [
        ("resnet9", "unknown student 'resnet9': did you mean"),
        ("{resnet8: [", "names no network: write NAME or '{NAME: {SETTING: VALUE}}'"),
        ("{resnet8: {wdth: 1}}", "unknown setting of student resnet8 'wdth': did you mean width?"),
        ("embedding_bag", "student embedding_bag is for another task"),
        ("nowhere.py:Net", "nowhere.py:Net: no file nowhere.py"),
    ],
)
def test_what_cannot_be_shown_is_one_line(ktbench: Commands, network: str, line: str) -> None:
    answer = ktbench("inspect", network)
    assert answer.code == 2 and line in answer.error
