"""Any 32-bit ARM Linux board."""

from ktbench.devices._contract import Profile

PROFILE = Profile(
    title="32-bit ARM board",
    transport="ssh",
    architectures=("armv7l",),
    # No onnxruntime wheel was ever published for armv7l; tflite-runtime 2.14 was.
    runtimes=("tflite",),
    sensors=("governor", "temperatures_c"),
    # Of tflite-runtime's wheels for armv7l.
    pythons=("3.9", "3.11"),
    start_below_c=70.0,
)
