"""NVIDIA Jetson Xavier NX: six Carmel cores and a Volta GPU; JetPack 4 or 5."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Jetson Xavier NX",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "power_mode", "power_w"),
    # `VDD_IN` is the whole module; the others are parts of it (Jetson Linux developer guide).
    rails=("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"),
    # As `nvpmodel -q` says them (/etc/nvpmodel.conf); mode 0 comes first.
    power_modes=(
        "MODE_15W_2CORE",
        "MODE_15W_4CORE",
        "MODE_15W_6CORE",
        "MODE_10W_2CORE",
        "MODE_10W_4CORE",
        "MODE_10W_DESKTOP",
        "MODE_20W_2CORE",
        "MODE_20W_4CORE",
        "MODE_20W_6CORE",
    ),
    # JetPack 4.6 and 5. With the former's onnxruntime 1.10, export with `opset: 15`.
    pythons=("3.6", "3.8"),
    setup=(
        ("sudo", "nvpmodel", "-m", "8"),
        ("sudo", "jetson_clocks", "--store"),
        ("sudo", "jetson_clocks"),
    ),
    restore=(("sudo", "jetson_clocks", "--restore"),),
    start_below_c=60.0,
)
