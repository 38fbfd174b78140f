"""NVIDIA Jetson Orin NX: six or eight Cortex-A78AE and an Ampere GPU."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Jetson Orin NX",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "power_mode", "power_w"),
    # `VDD_IN` is the whole module; the others are parts of it (Jetson Linux developer guide).
    rails=("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"),
    # As `nvpmodel -q` says them (/etc/nvpmodel.conf); mode 0 comes first.
    # 40W and MAXN_SUPER since JetPack 6.2.
    power_modes=("MAXN", "10W", "15W", "20W", "25W", "40W", "MAXN_SUPER"),
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
