"""A board's sensors, read from files and programs as each kind of board has them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ktbench.devices.agent import power
from ktbench.devices.agent.board import Board
from tests.support.sensors import (
    AGX_ORIN,
    NANO,
    ORIN_NANO,
    PMIC,
    TEGRASTATS,
    TEGRASTATS_4,
    jetpack_4,
    jetpack_5,
    programs,
    write,
)


@pytest.fixture(autouse=True)
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path / "bin", monkeypatch)


def whole(meter: power.Meter | None) -> float:
    """Watts of the whole board."""
    assert meter is not None
    watts = meter.watts()
    return sum(watts[name] for name in power.total_of(meter.rails, meter.source))


# ---------------------------------------------------------------- power


def test_a_jetson_of_jetpack_5_and_6_has_millivolts_times_milliamperes(tmp_path: Path) -> None:
    meter = power.find(str(jetpack_5(tmp_path, ORIN_NANO)))
    assert meter is not None and meter.source == "ina3221"
    assert meter.rails == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert meter.watts()["VDD_SOC"] == pytest.approx(5.040 * 0.288)


def test_a_total_rail_is_not_added_to_its_parts(tmp_path: Path) -> None:
    assert whole(power.find(str(jetpack_5(tmp_path / "orin", ORIN_NANO)))) == pytest.approx(
        5.040 * 0.944
    )
    assert whole(power.find(str(jetpack_4(tmp_path / "nano", NANO)))) == pytest.approx(3.0)


def test_an_agx_orin_adds_up_three_rails_of_two_chips_and_not_the_fourth(tmp_path: Path) -> None:
    meter = power.find(str(jetpack_5(tmp_path, *AGX_ORIN)))
    assert meter is not None and "VDDQ_VDD2_1V8AO" in meter.watts() and "NC" not in meter.rails
    assert whole(meter) == pytest.approx(19 * 0.210 + 19 * 0.063 + 4.968)


@pytest.mark.parametrize("milliwatts", [True, False])
def test_a_jetson_of_jetpack_4_has_milliwatts_or_their_factors(
    tmp_path: Path, milliwatts: bool
) -> None:
    meter = power.find(str(jetpack_4(tmp_path, NANO, milliwatts=milliwatts)))
    assert meter is not None
    assert meter.watts() == pytest.approx({"POM_5V_IN": 3.0, "POM_5V_GPU": 0.2, "POM_5V_CPU": 1.2})


def test_rails_that_make_up_no_whole_have_no_total(tmp_path: Path) -> None:
    meter = power.find(str(jetpack_5(tmp_path, {"VDD_A": (5000, 100), "VDD_B": (5000, 100)})))
    assert meter is not None and power.total_of(meter.rails, meter.source) == []


def test_a_rail_that_cannot_be_read_is_absent_and_not_zero(tmp_path: Path) -> None:
    root = jetpack_5(tmp_path, ORIN_NANO)
    meter = power.find(str(root))
    next(root.rglob("curr3_input")).write_text("broken")
    assert meter is not None and set(meter.watts()) == {"VDD_IN", "VDD_CPU_GPU_CV"}
    assert power.find(str(tmp_path / "empty")) is None


def test_a_raspberry_pi_5_adds_up_the_rails_that_have_both_current_and_voltage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"adc": PMIC})
    cat = shutil.which("cat", path=os.defpath)
    body = f'[ "$1" = pmic_read_adc ] && exec {cat} "{tmp_path}/adc"; exit 1'
    programs(tmp_path / "bin", monkeypatch, vcgencmd=body)
    meter = power.find(str(tmp_path))
    assert meter is not None and meter.source == "pmic"
    assert meter.rails == ["3V3_SYS", "3V7_WL_SW", "VDD_CORE"]
    assert whole(meter) == pytest.approx(0.37 + 0.66 + 1.35)
    assert Board(str(tmp_path)).state()["power_w"]["VDD_CORE"] == pytest.approx(1.35)


def test_tegrastats_is_read_where_the_chips_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"while echo '{TEGRASTATS}'; do :; done"
    programs(tmp_path / "bin", monkeypatch, tegrastats=body)
    meter = power.find(str(tmp_path))
    assert meter is not None and meter.source == "tegrastats"
    assert whole(meter) == pytest.approx(4.72)
    meter.close()
    assert meter.watts() == {}


def test_a_line_of_tegrastats_is_told_from_its_loads_and_memories() -> None:
    assert power.parse_tegrastats(TEGRASTATS) == {
        "VDD_IN": 4.72,
        "VDD_CPU_GPU_CV": 1.02,
        "VDD_SOC": 1.462,
    }
    found = power.parse_tegrastats(TEGRASTATS_4)
    assert found == {"POM_5V_IN": 2.041, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.408}


# ---------------------------------------------------------------- the rest of the state


@pytest.mark.parametrize(
    ("printed", "mode"),
    [
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2", "MODE_15W_6CORE"),
        ("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0", "MAXN"),
        ("NV Power Mode: MAXN SUPER\n2", "MAXN SUPER"),
    ],
)
def test_the_power_mode_is_what_nvpmodel_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, mode: str
) -> None:
    programs(tmp_path / "bin", monkeypatch, nvpmodel=f"[ $1 = -q ] && echo '{printed}'")
    assert Board(str(tmp_path)).state() == {"power_mode": mode}


def test_a_jetsons_gpu_has_a_clock_and_a_governor_of_its_own(tmp_path: Path) -> None:
    gpu = "sys/class/devfreq/17000000.ga10b/"
    other = "sys/class/devfreq/15340000.vic/"
    files = {f"{gpu}cur_freq": "306000000\n", f"{gpu}governor": "nvhost_podgov\n"}
    write(tmp_path, {**files, f"{other}cur_freq": "1\n", f"{other}governor": "x\n"})
    assert Board(str(tmp_path)).state() == {
        "gpu_mhz": {"17000000.ga10b": 306.0},
        "gpu_governor": "nvhost_podgov",
    }


def test_the_firmware_tells_a_clock_that_the_kernel_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '[ "$1 $2" = "measure_clock arm" ] && echo "frequency(48)=1500398464"'
    programs(tmp_path / "bin", monkeypatch, vcgencmd=body)
    assert Board(str(tmp_path)).state() == {"mhz": [1500.398464]}


def test_a_processors_own_sensor_stands_in_for_thermal_zones_and_a_disks_does_not(
    tmp_path: Path,
) -> None:
    files = {"hwmon0/name": "nvme", "hwmon0/temp1_input": "70000"}
    files |= {"hwmon1/name": "cpu_thermal", "hwmon1/temp1_input": "41000"}
    write(tmp_path / "sys" / "class" / "hwmon", files)
    assert Board(str(tmp_path)).state() == {"temperatures_c": {"cpu_thermal#1": 41.0}}


def test_bits_of_throttling_come_from_the_kernel_or_the_firmware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '[ "$1" = get_throttled ] && echo throttled=0x50000'
    programs(tmp_path / "bin", monkeypatch, vcgencmd=body)
    assert Board(str(tmp_path)).state() == {"throttled": 0x50000}
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "4\n"})
    assert Board(str(tmp_path)).throttled() == 4
