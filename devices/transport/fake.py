"""A stand-in for a device: made-up answers, so that the whole pipeline can be tried without one.

Its figures follow from an artifact's bytes alone, so they repeat; whatever comes of them is
labelled `emulated` and never meets a measured figure. It runs no model: outputs stay unchecked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ktbench.devices._contract import Blob, DeviceError

FACTS = {"machine": "fake", "model": "no device", "cores": 4}
STATE = {"governor": "performance"}

Answer = Callable[[dict[str, Any], Sequence[Blob]], dict[str, Any]]


class FakeTransport:
    """Answers every task at once; `answer` may be replaced to play a device in trouble."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer or made_up

    def run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        """See `Transport.run`."""
        return self._answer(task, blobs)

    def series(
        self, task: dict[str, Any], blobs: Sequence[Blob], limits: Sequence[float]
    ) -> Generator[dict[str, Any] | DeviceError, None, None]:
        """See `Transport.series`."""
        for part in task["tasks"]:
            try:
                yield self._answer(part, blobs)
            except DeviceError as error:
                if error.lost:
                    raise
                yield error

    def close(self) -> None:
        """Do nothing: this transport holds nothing."""


def made_up(task: dict[str, Any], blobs: Sequence[Blob]) -> dict[str, Any]:
    """A plausible answer to a task."""
    if task["task"] == "probe":
        runtime = {"version": "0", "formats": ["onnx", "tflite"], "install": "nothing"}
        return {
            "facts": FACTS,
            "state": STATE,
            "interpreter": "none",
            "numpy": "0",
            "runtimes": {"fake": runtime},
            "processors": FACTS["cores"],
        }
    if task["task"] == "release":
        return {"released": True}
    if task["task"] == "evaluate":
        classes = [random.Random(digest).randrange(10) for digest in task["artifacts"]]
        artifacts = [{"top1": [c] * 10, "provider": "fake"} for c in classes]
        return {"runtime": "fake", "runtime_version": "0", "artifacts": artifacts}
    if task["task"] == "kernels":
        return {"artifacts": [{"error": "no model runs"} for _ in task["artifacts"]], "vnni": None}
    return _bench(task, len(next(b.data for b in blobs if b.digest == task["artifact"])))


def _bench(task: dict[str, Any], size: int) -> dict[str, Any]:
    """Latency grows with an artifact's size, and shrinks with threads."""
    draw = random.Random(f"{task['artifact']} {task['threads']} {task['repeat']}")
    middle = 200_000 + size * 10 // task["threads"]
    return {
        "load_ns": 50 * middle,
        "first_ns": 3 * middle,
        "samples_ns": [int(middle * draw.gauss(1, 0.02)) for _ in range(task["runs"])],
        "warm_runs": task["warm_runs"],
        "cpu_share": 1.0,
        "repeat_ratio": 1.0,
        "outputs_checked": 0,
        "outputs_differing": 0,
        "outputs_digest": "",
        "outputs_finite": True,
        "outputs": None,
        "runtime": "fake",
        "runtime_version": "0",
        "provider": "fake",
        "wanted_provider": "fake",
        "numpy": "0",
        "inputs": [],
        "batch": task.get("batch") or 1,
        "cpus": list(range(task["threads"])),
        "waited_s": 0.0,
        "facts": FACTS,
        "state_before": STATE,
        "state_after": STATE,
        "peak_memory_bytes": 1_000_000 + size,
    }
