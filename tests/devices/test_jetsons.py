"""A Jetson of each JetPack, as its files and programs show it, from the board to the figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ktbench import catalogue
from ktbench.boards import Look
from ktbench.devices.agent.board import Board
from ktbench.measure import Budget, measure
from ktbench.records import Measurement
from tests.support.boards import SshBoard, agent_of, job
from tests.support.sensors import ORIN_NANO, Rails, governors, jetpack_4, jetpack_5, programs, write

NANO: Rails = {"POM_5V_IN": (5000, 600), "POM_5V_GPU": (5000, 40), "POM_5V_CPU": (5000, 240)}
XAVIER_NX: Rails = {"VDD_IN": (5100, 1000), "VDD_CPU_GPU_CV": (5100, 300), "VDD_SOC": (5100, 250)}


@dataclass(frozen=True)
class Jetson:
    """A board's files; `watts` is the whole of it, which its parts must not be added to."""

    profile: str
    jetpack: str
    release: str
    model: str
    cpu: tuple[str, str, str]
    gpu: str
    zones: dict[str, str]
    mode: str
    rails: Rails
    watts: float
    write_rails: Callable[[Path, Rails], Path]
    more: dict[str, str] = field(default_factory=dict)

    def write(self, root: Path) -> Path:
        """The board's tree below a root."""
        implementer, part, _ = self.cpu
        processor = f"CPU implementer\t: {implementer}\nCPU part\t: {part}\n"
        files = {
            "etc/nv_tegra_release": f"# {self.release} (release), REVISION: 4.1, GCID: 1\nmore\n",
            "proc/device-tree/model": f"{self.model}\0",
            "proc/cpuinfo": processor * 4,
            f"sys/class/devfreq/{self.gpu}/cur_freq": "306000000\n",
            f"sys/class/devfreq/{self.gpu}/governor": "nvhost_podgov\n",
            **self.more,
        }
        for number, (kind, text) in enumerate(self.zones.items()):
            zone = f"sys/class/thermal/thermal_zone{number}/"
            files |= {f"{zone}type": f"{kind}\n", f"{zone}temp": text}
        self.write_rails(write(root, files), self.rails)
        return governors(root, {f"cpu{n}": "schedutil" for n in range(4)})


JETSONS = [
    Jetson(
        "jetson_nano",
        "JetPack 4",
        "R32",
        "NVIDIA Jetson Nano Developer Kit",
        ("0x41", "0xd07", "Cortex-A57"),
        "57000000.gpu",
        {"AO-therm": "44500\n", "CPU-therm": "38000\n", "PMIC-Die": "100000\n"},
        "MAXN",
        NANO,
        3.0,
        jetpack_4,
    ),
    Jetson(
        "jetson_xavier_nx",
        "JetPack 5",
        "R35",
        "NVIDIA Jetson Xavier NX Developer Kit",
        ("0x4e", "0x004", "Carmel"),
        "17000000.gv11b",
        {"CPU-therm": "44500\n", "GPU-therm": "41000\n", "PMIC-Die": "100000\n"},
        "MODE_15W_6CORE",
        XAVIER_NX,
        5.1,
        jetpack_5,
    ),
    Jetson(
        "jetson_orin_nano",
        "JetPack 6",
        "R36",
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit",
        ("0x41", "0xd42", "Cortex-A78AE"),
        "17000000.gpu",
        {"cpu-thermal": "44500\n", "cv0-thermal": "", "tj-thermal": "43000\n"},
        "15W",
        ORIN_NANO,
        5.040 * 0.944,
        jetpack_5,
        {f"sys/class/hwmon/hwmon4/oc{n}_event_cnt": f"{n}\n" for n in (1, 2, 3)},
    ),
]


@pytest.fixture(params=JETSONS, ids=lambda jetson: jetson.jetpack)
def jetson(request: pytest.FixtureRequest) -> Jetson:
    found: Jetson = request.param
    return found


def nvpmodel(jetson: Jetson) -> str:
    return f'[ "$1" = -q ] && echo "NV Power Mode: {jetson.mode}"'


def test_a_jetson_is_known_by_its_files_and_its_sensors_are_those_of_its_profile(
    jetson: Jetson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path / "bin", monkeypatch, nvpmodel=nvpmodel(jetson))
    board, profile = Board(str(jetson.write(tmp_path / "root"))), catalogue.device(jetson.profile)
    facts, state = board.facts(), board.state()
    assert facts["model"] == jetson.model and facts["cpu"] == [jetson.cpu[2]]
    assert facts["l4t"].startswith(f"# {jetson.release} (release)")
    assert board.temperature() == 44.5, "neither a PMIC's 100 degrees nor a zone that says nothing"
    assert state["gpu_mhz"] == {jetson.gpu: 306.0} and state["gpu_governor"] == "nvhost_podgov"
    assert state["power_mode"] in profile.power_modes
    assert set(state["power_w"]) == set(profile.rails)
    assert set(profile.sensors) - set(state) == {"mhz"}  # the tree has no cur_freq
    counted = {"oc1_event_cnt": 1, "oc2_event_cnt": 2, "oc3_event_cnt": 3}
    assert state.get("overcurrent_events", counted) == counted


def test_a_jetsons_release_is_called_by_its_jetpack(jetson: Jetson) -> None:
    answer: dict[str, Any] = {
        **{"interpreter": "python3", "python": [3, 8, 10], "implementation": "cpython"},
        **{"own_environment": False, "machine": "aarch64", "libc": ["glibc", "2.31"]},
        **{"free_bytes": 1, "pip": False, "numpy": None},
        **{"environment": None, "misfit": None, "holder": None},
    }
    look = Look.model_validate({**answer, "l4t": f"# {jetson.release} (release), REVISION: 4.1"})
    assert look.jetpack == jetson.jetpack


@pytest.mark.slow
def test_energy_on_a_jetson_is_that_of_the_whole_board_and_counts_nothing_twice(
    jetson: Jetson,
    board: SshBoard,
    onnx_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = str(jetson.write(tmp_path / "root"))
    agent_of(
        "from agent import board, power, telemetry\n"
        f"board.Board.__init__.__defaults__ = ({root!r},)\n"
        f"power.find.__defaults__ = ({root!r}, 0.2)\n"
        f"telemetry.Sampler.__init__.__defaults__ = ((), {root!r})\n",
        monkeypatch,
    )
    budget = Budget(
        runs=36, seconds=0.8, warm_s=0.0, cool_wait_s=0.0, limit_s=60.0,
        telemetry_s=0.05, idle_s=0.4,
    )  # fmt: skip
    (found,) = measure(board.spec(), [job(onnx_model)], tmp_path, budget=budget)
    assert isinstance(found, Measurement) and found.power_w is not None
    assert found.power_w.value == pytest.approx(jetson.watts, rel=1e-6)
    assert found.power_source == f"ina3221: {next(iter(jetson.rails))}"
    assert found.idle_w is not None and found.idle_w.value == pytest.approx(jetson.watts, rel=1e-6)
    assert found.energy_mj is not None and found.energy_net_mj is not None
    busy = found.energy_mj.value - found.energy_net_mj.value
    assert busy == pytest.approx(found.energy_mj.value, rel=1e-6), "as idle as at work"
