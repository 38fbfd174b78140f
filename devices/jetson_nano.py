"""NVIDIA Jetson Nano: four Cortex-A57 at 1.43 GHz and a Maxwell GPU; JetPack 4 is its last."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="Jetson Nano",
    transport="ssh",
    architectures=("aarch64",),
    sensors=("governor", "mhz", "temperatures_c", "power_mode", "power_w"),
    # `POM_5V_IN` is the whole module; the others are parts of it (Jetson Linux developer guide).
    rails=("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"),
    # As `nvpmodel -q` says them (/etc/nvpmodel.conf); mode 0 comes first.
    power_modes=("MAXN", "5W"),
    # onnxruntime 1.10, the last with a wheel for Python 3.6: opset 15, IR 8 (ONNX Runtime's
    # table of versions).
    max_opset=15,
    # JetPack 4 stands on Ubuntu 18.04.
    pythons=("3.6",),
    setup=(
        ("sudo", "nvpmodel", "-m", "0"),
        ("sudo", "jetson_clocks", "--store"),
        ("sudo", "jetson_clocks"),
    ),
    restore=(("sudo", "jetson_clocks", "--restore"),),
    start_below_c=60.0,
)
