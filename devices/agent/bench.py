"""Times one model in this process: load, first inference and steady state, every sample kept."""

import gc
import hashlib
import os
import re
import shutil
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from . import inputs, telemetry
from .board import Board, peak_memory
from .protocol import TaskError
from .runtimes import Options, Session, choose, module

Call = Callable[[], List[Any]]

clock: Callable[[], int] = getattr(
    time,
    "perf_counter_ns",
    lambda: int(time.perf_counter() * 1e9),  # Python 3.6 has no _ns
)

MAX_OUTPUTS = 1 << 16
"""Numbers of output that are sent back; more are told by their digest alone."""
SAMPLED_OUTPUTS = 8
MOST_ENGINES = 64
"""Compiled engines that a board keeps."""
REPEATED_RUNS = 64


def bench(task: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Load and time one artifact of the store, as `task` says."""
    board, clocks = Board(), Clocks()
    waited = cool_down(board, task["start_below_c"], task["cool_wait_s"])
    cpus = choose_cpus(board, task["threads"])
    sampler = telemetry.start(task.get("telemetry_s", 0.0), cpus)
    try:
        cpus = pin(cpus)
        idle = stay_idle(task.get("idle_s", 0.0))
        before = board.state()
        answer = timed(task, folder)
        after = board.state()
    finally:
        sampled = sampler.stop() if sampler is not None else None
    answer.update(
        {
            "numpy": np.__version__,
            "cpus": cpus,
            "waited_s": waited,
            "facts": board.facts(),
            "state_before": before,
            "state_after": after,
            "telemetry": sampled,
            "idle": idle,
            "clock_jump_s": clocks.jump(),
            "peak_memory_bytes": peak_memory(),
        }
    )
    return answer


def timed(task: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Load, first inference and steady state, with what ran and what came out."""
    name = choose(task["runtimes"], task["format"])
    runtime = module(name)
    runtime_version = runtime.version()  # imports it: that is no part of loading a model
    options = how_to_load(task, folder, runtime_version)
    start = clock()
    session = runtime.load(os.path.join(folder, task["artifact"]), options)
    load_ns = clock() - start - (session.build_ns or 0)
    batch, calls = prepare(session, task, folder)
    start = clock()
    first = calls[0]()
    first_ns = clock() - start
    reference = [first] + [call() for call in calls[1:]]
    warm_runs = warm_up(calls, task["warm_runs"], task["warm_s"])
    begin = time.monotonic()
    steady = time_steadily(calls, task["runs"], task["seconds"], task["max_runs"])
    end = time.monotonic()
    differing = sum(not same(reference[i % len(calls)], out) for i, out in steady["kept"])
    ratio = repeat_ratio(calls, steady["samples"])
    if options.provider != "cpu":
        session.prove()
    answer = {
        "load_ns": load_ns,
        "build_ns": session.build_ns,
        "first_ns": first_ns,
        "samples_ns": steady["samples"],
        "steady": [begin, end],
        "warm_runs": warm_runs,
        "cpu_share": steady["cpu_share"],
        "repeat_ratio": ratio,
        "outputs_checked": len(steady["kept"]),
        "outputs_differing": differing,
        "runtime": name,
        "runtime_version": runtime_version,
        "provider": session.provider,
        "wanted_provider": session.wanted,
        "nodes": session.nodes,
        "inputs": [[entry.name, entry.dtype, list(entry.shape)] for entry in session.inputs],
        "batch": batch,
    }
    answer.update(describe_outputs(reference))
    return answer


def how_to_load(task: Dict[str, Any], folder: str, runtime_version: str) -> Options:
    """The runtime's options; engines lie below the store by artifact and version."""
    name = re.sub("[^0-9A-Za-z.]", "_", "%s_%s" % (task["artifact"], runtime_version))
    engines = os.path.join(folder, "engines", name)
    if task.get("provider") == "tensorrt":
        prune_engines(os.path.dirname(engines), keep=name)
    return Options(
        threads=task["threads"],
        provider=task.get("provider", "cpu"),
        batch=task.get("batch"),
        engines=engines if task.get("provider") == "tensorrt" else None,
    )


def prune_engines(folder: str, keep: str) -> None:
    """Remove the oldest of more engines than a board needs at a time; files are never followed."""
    paths = (
        [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    )
    paths = [path for path in paths if os.path.basename(path) != keep]
    for path in sorted(paths, key=os.path.getmtime, reverse=True)[MOST_ENGINES - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


class Clocks:
    """Compares the clock on the wall with the one that only goes forward."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time(), time.monotonic()

    def jump(self) -> float:
        """Seconds that the wall's clock was set by since the start, or that the board slept."""
        return (time.time() - self._wall) - (time.monotonic() - self._steady)


def stay_idle(seconds: float) -> Optional[List[float]]:
    """Do nothing for so long, for the power of a board that does nothing; when that was."""
    if seconds <= 0:
        return None
    begin = time.monotonic()
    time.sleep(seconds)
    return [begin, time.monotonic()]


def cool_down(board: Board, below: Any, wait_s: float) -> float:
    """Wait until the board is cooler than `below` degrees, at most `wait_s`; returns the wait."""
    start = time.monotonic()
    while below is not None and (board.temperature() or 0.0) >= below:
        if time.monotonic() - start >= wait_s:
            break
        time.sleep(min(1.0, wait_s))
    return time.monotonic() - start


def choose_cpus(board: Board, threads: int) -> List[int]:
    """Choose as many processors as there are threads; TaskError if too few are free."""
    cpus = board.choose_cpus(threads)
    if len(cpus) < threads:
        raise TaskError("%d threads are requested, %d processors are free" % (threads, len(cpus)))
    return cpus


def pin(cpus: List[int]) -> List[int]:
    """Keep this process on these processors; none where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
        return cpus
    return []


def prepare(session: Session, task: Dict[str, Any], folder: str) -> Tuple[int, List[Call]]:
    """The model's batch size, and one call per distinct input."""
    shape = session.inputs[0].shape
    batch = shape[0] if shape else 1
    if task["inputs"] is None:
        feeds = inputs.random(session.inputs)
    else:
        stacks = inputs.read(os.path.join(folder, task["inputs"]))
        feeds = inputs.batches(stacks, session.inputs, batch)
    return batch, [session.prepare(feed) for feed in feeds]


def warm_up(calls: List[Call], runs: int, seconds: float) -> int:
    """Run untimed, at least so often and so long; returns how often."""
    done, start = 0, time.monotonic()
    while done < runs or time.monotonic() - start < seconds:
        calls[done % len(calls)]()
        done += 1
    return done


def time_steadily(calls: List[Call], runs: int, seconds: float, limit: int) -> Dict[str, Any]:
    """Time one run after the other, going round the inputs, with the garbage collector off.

    At least `runs` and `seconds`, at most `limit` runs. `kept` holds outputs of a few runs with
    their index; `cpu_share` is processor time over clock time.
    """
    chosen = np.random.RandomState(inputs.SEED).choice(runs, min(runs, SAMPLED_OUTPUTS), False)
    keep = {int(index) for index in chosen}
    samples: List[int] = []
    outputs: List[Tuple[int, List[Any]]] = []
    count, total = len(calls), int(seconds * 1e9)
    gc.collect()
    gc.disable()
    busy, begin = time.process_time(), clock()
    try:
        index = 0
        while (index < runs or clock() - begin < total) and index < limit:
            call = calls[index % count]
            start = clock()
            out = call()
            stop = clock()
            samples.append(stop - start)
            if index in keep:
                outputs.append((index, out))
            index += 1
    finally:
        gc.enable()
    share = (time.process_time() - busy) * 1e9 / max(clock() - begin, 1)
    return {"samples": samples, "kept": outputs, "cpu_share": share}


def repeat_ratio(calls: List[Call], samples: List[int]) -> Any:
    """Median time of one input run again and again, over the median of changing inputs.

    Well below one means that something remembers results (MLPerf LoadGen's TEST04). None where
    there is but one input.
    """
    if len(calls) < 2:
        return None
    again = []
    for _ in range(min(REPEATED_RUNS, len(samples))):
        start = clock()
        calls[0]()
        again.append(clock() - start)
    return float(np.median(again) / max(float(np.median(samples)), 1.0))


def same(one: List[Any], other: List[Any]) -> bool:
    """Tell if two runs' outputs agree up to rounding; threads may sum in another order."""
    for a, b in zip(one, other):
        a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        scale = np.abs(a).max() if a.size else 0.0
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-4, atol=1e-4 * scale):
            return False
    return len(one) == len(other)


def describe_outputs(reference: List[List[Any]]) -> Dict[str, Any]:
    """Digest of all outputs, and the first output of each input where it is small enough."""
    state = hashlib.sha256()
    for outputs in reference:
        for array in outputs:
            state.update(np.ascontiguousarray(array).tobytes())
    firsts = [np.asarray(outputs[0], dtype=np.float64) for outputs in reference]
    finite = all(bool(np.isfinite(array).all()) for array in firsts)
    small = sum(array.size for array in firsts) <= MAX_OUTPUTS
    rows = [
        array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1) for array in firsts
    ]
    return {
        "outputs_digest": state.hexdigest(),
        "outputs_finite": finite,
        "outputs": np.concatenate(rows).tolist() if finite and small else None,
    }
