"""Writes `run.py`: a short program that classifies a person's own sample with an exported file.

The program is put together from the sources of functions that are checked like all others: one
that reads a sample (the task's, `Reading`), one that opens the file, and `main`. It needs numpy, a
runtime and what the reader imports, and nothing of ktbench; its syntax is that of Python 3.6.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ktbench.records import Format
from ktbench.tasks._contract import Reading


def open_onnx(path: str) -> Any:
    """Return a function from inputs by name to the logits of an ONNX file, (1, K)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logits"], inputs)[0]


def open_tflite(path: str) -> Any:
    """Return a function from inputs by name to the logits of a TFLite file, (1, K)."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # older boards have its forerunner
        from tflite_runtime.interpreter import Interpreter

    model = Interpreter(model_path=path)
    details = model.get_input_details()
    places = {e["name"].split(":")[0].replace("serving_default_", ""): e["index"] for e in details}

    def run(inputs: Any) -> Any:
        fed = [(places.get(name, details[0]["index"]), value) for name, value in inputs.items()]
        for index, value in fed:
            model.resize_tensor_input(index, value.shape)
        model.allocate_tensors()
        for index, value in fed:
            model.set_tensor(index, value)
        model.invoke()
        return model.get_tensor(model.get_output_details()[0]["index"])

    return run


def main(file: str, open_file: Any, read: Any) -> None:
    """Print the label of each argument with its probability."""
    path = Path(__file__).with_name(file)
    about = json.loads(path.with_name(file + ".json").read_text(encoding="utf-8"))
    logits_of = open_file(str(path))
    for argument in sys.argv[1:]:
        try:
            logits = logits_of(read(argument, about))[0].astype(np.float64)
        except Exception as error:
            sys.exit(f"{argument}: {error}")
        share = np.exp(logits - logits.max())
        share /= share.sum()
        best = int(share.argmax())
        print(f"{about['labels'][best]}\t{100 * share[best]:.1f} %\t{argument}")


_RUNTIMES: dict[Format, tuple[Any, str]] = {
    "onnx": (open_onnx, "onnxruntime"),
    "tflite": (open_tflite, "ai-edge-litert"),
}


def program(file: str, format: Format, reading: Reading) -> str:
    """Return the program for an exported file that lies beside it with its sidecar."""
    open_file, runtime = _RUNTIMES[format]
    packages = " ".join(("numpy", runtime, *reading.packages))
    parts = [inspect.getsource(each).rstrip() for each in (reading.function, open_file, main)]
    head = [
        f'"""Classify with {file}: python run.py {reading.argument} ...',
        "",
        f"Needs: pip install {packages}",
        '"""',
        "",
        "import json\nimport sys\nfrom pathlib import Path\nfrom typing import Any\n",
        "import numpy as np\n\n\n",
    ]
    call = f'main("{file}", {open_file.__name__}, {reading.function.__name__})'
    return "\n".join(head) + "\n\n\n".join([*parts, call]) + "\n"
