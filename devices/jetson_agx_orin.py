"""NVIDIA Jetson AGX Orin: eight or twelve Cortex-A78AE and an Ampere GPU."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Jetson AGX Orin",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "power_mode", "power_w"),
    # No rail is the whole module: the first three are taken to make it up, and `VDDQ_VDD2_1V8AO`
    # to be fed from `VIN_SYS_5V0`. Not confirmed on a board.
    rails=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
    # As `nvpmodel -q` says them (/etc/nvpmodel.conf); mode 0 comes first.
    # 40W on the module with 32 GB, 50W on the one with 64 GB.
    power_modes=("MAXN", "15W", "30W", "40W", "50W"),
    # JetPack 5, 6 and 7.
    pythons=("3.8", "3.10", "3.12"),
    setup=(
        ("sudo", "nvpmodel", "-m", "0"),
        ("sudo", "jetson_clocks", "--store"),
        ("sudo", "jetson_clocks"),
    ),
    restore=(("sudo", "jetson_clocks", "--restore"),),
    start_below_c=65.0,
)
