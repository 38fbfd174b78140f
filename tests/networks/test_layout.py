"""How tensors lie in memory while a network runs, and that a fault of oneDNN is never met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ktbench.networks.layout import FIRST, Layout, choose, frozen, safe
from ktbench.networks.weights import read_torch
from ktbench.records import Checkpoint, Item, NumericSpec
from ktbench.students._own import wrap
from tests.support import strided_networks as networks
from tests.support import training
from tests.support.instruction_sets import python
from tests.support.running import write_matrix

AUTO = NumericSpec()
IMAGES = torch.zeros(4, 1, 8, 8)
TRAINED = ("Strided", "OneWay", "Functional", "TrainOnly", "LaysOut", "Counting")
BESIDE = (
    "Strided:precision=bf16",
    "Strided:layout=channels_last",
    "Plain:layout=contiguous",
    "Plain:method=StridedAdaptor",
    "block",
)


def _built(kind: type[nn.Module]) -> Any:
    return wrap(kind, num_classes=10, in_channels=1)


@pytest.fixture(scope="module", params=["native", "AVX2"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """By name: what came of a training under an instruction set."""
    folder = str(tmp_path_factory.mktemp("trained"))
    ran = python(["-m", "tests.support.strided_child", folder, *TRAINED, *BESIDE], request.param)
    assert ran.returncode == 0, f"{ran.returncode}: {ran.stdout[-500:]}{ran.stderr[-2000:]}"
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    return {outcome["name"]: outcome for outcome in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRAINED, *BESIDE])
def test_whatever_meets_the_fault_trains_to_the_weights_of_torchs_own_kernels_and_the_heap_is_whole(
    trained: dict[str, dict[str, Any]], name: str
) -> None:
    assert "failed" not in trained[name], trained[name]
    # Of float32 rounding after nine steps; a wrong gradient is off by its own size.
    assert trained[name]["far"] < (1e-2 if "bf16" in name else 1e-4)


@pytest.mark.slow
def test_a_network_that_meets_the_fault_is_run_contiguous_and_the_record_says_why(
    trained: dict[str, dict[str, Any]],
) -> None:
    for name in ("Strided", "OneWay", "Functional", "TrainOnly", "Counting", "block"):
        assert trained[name]["layout"] == "contiguous", name
        assert "1x1 convolution with stride 2 of 4 channels" in trained[name]["reason"]
    assert trained["LaysOut"]["layout"] == "contiguous_without_onednn"
    assert trained["Strided:layout=channels_last"]["layout"] == "channels_last"
    assert trained["Plain:layout=contiguous"]["layout"] == "contiguous"


@pytest.mark.parametrize("kind", networks.MEETING)
def test_the_fault_is_seen_in_modules_functions_train_mode_and_weights_worked_out(
    kind: type[nn.Module],
) -> None:
    assert not choose(_built(kind), IMAGES, AUTO).channels_last
    asked = NumericSpec(layout="channels_last")
    assert choose(_built(kind), IMAGES, asked) == FIRST
    assert not safe(_built(kind), IMAGES, asked).channels_last


@pytest.mark.parametrize("kind", networks.OTHERS)
def test_networks_that_do_not_meet_the_fault_stay_channels_last(kind: type[nn.Module]) -> None:
    assert choose(_built(kind), IMAGES, AUTO) == FIRST


def test_looking_at_a_network_leaves_its_state_and_the_generator_as_they_were() -> None:
    network = _built(networks.Counting)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.get_rng_state()
    choose(network, IMAGES, AUTO)
    assert network.network.passes == 0 and network.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contiguous_layout_holds_for_single_channels_too(channels: int) -> None:
    images = torch.rand(2, 8, 8, channels).permute(0, 3, 1, 2)
    laid = Layout("contiguous").inputs(images)
    assert laid.stride() == (channels * 64, 64, 8, 1) and torch.equal(laid, images)
    assert FIRST.inputs(images).stride() == images.stride()


def test_weights_of_other_than_four_dimensions_are_placed_as_they_are() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 1), nn.Conv2d(2, 3, 3), nn.Conv1d(2, 3, 1))
    FIRST.place(network)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[0].weight.is_contiguous() and network[2].weight.is_contiguous()


@pytest.mark.slow
def test_a_training_goes_on_in_the_layout_that_it_began_in(tmp_path: Path) -> None:
    cell = training.cell("none", student=Item(name=f"{networks.__file__}:Plain"))
    [whole] = training.train([cell], tmp_path / "whole", layouts=lambda _: Layout("contiguous"))

    class Stop(Exception):  # noqa: N818 - ends a run, no error
        pass

    def stop(progress: Any) -> None:
        if progress.done == 2:
            raise Stop

    folder, begun = tmp_path / "stopped", Layout("contiguous", "a reason")
    with pytest.raises(Stop):
        training.train([cell], folder, layouts=lambda _: begun, report=stop, checkpoint_seconds=0.0)
    assert read_torch(folder / f"{cell.key}.work")["layout"]["name"] == "contiguous"
    [made] = training.train([cell], folder)
    assert isinstance(made, Checkpoint) and isinstance(whole, Checkpoint)
    assert made.digest == whole.digest
    assert made.layout == begun.record


@pytest.mark.slow
def test_saved_work_of_an_older_version_is_not_gone_on_with_where_it_may_be_wrong(
    tmp_path: Path,
) -> None:
    cell = training.cell("none", student=Item(name=f"{networks.__file__}:Strided"))
    [whole] = training.train([cell], tmp_path)
    work = tmp_path / f"{cell.key}.work"
    state = read_torch(work)
    del state["layout"]
    torch.save(state | {"epoch": 2}, work)
    said: list[str] = []
    [made] = training.train([cell], tmp_path, note=said.append)
    assert isinstance(made, Checkpoint) and isinstance(whole, Checkpoint)
    assert made.digest == whole.digest
    assert any("begun channels-last" in line for line in said)


def test_the_layout_is_no_part_of_a_cells_key_until_it_is_asked_for() -> None:
    usual, asked = NumericSpec(), NumericSpec(layout="contiguous")
    assert "layout" not in usual.canonical
    cells = [training.cell("none", numeric=numeric) for numeric in (usual, asked)]
    assert cells[0].key != cells[1].key


def test_networks_that_only_run_forward_take_the_first_choice_unless_asked_otherwise() -> None:
    assert frozen(AUTO) == FIRST
    assert frozen(NumericSpec(layout="contiguous")).name == "contiguous"


@pytest.mark.slow
def test_a_plan_times_networks_that_meet_the_fault_and_ends_well(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", students=[f"{networks.__file__}:Strided"])
    ran = python(["-m", "ktbench", "plan", str(matrix)], "AVX2")
    assert ran.returncode == 0 and "estimate: " in ran.stdout, ran
    assert "ended" not in ran.stderr, ran.stderr
