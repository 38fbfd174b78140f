"""A device that answers: its profile, the way to it, and the tasks that it is given."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from devices._contract import Blob, DeviceError, Lease, Profile, Transport
from devices.transport import open_transport
from ktbench import catalogue
from ktbench.measure.answers import Bench, Evaluated, Probe, parse
from ktbench.measure.budget import MAX_RUNS, Budget
from ktbench.measure.job import CHECKED_INPUTS, Array, Job
from ktbench.records import DeviceSpec, KtbenchError, Origin

PROBE_S = 120.0
EVALUATE_S = 3600.0
RELEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """A device of the matrix with its way there."""

    spec: DeviceSpec
    profile: Profile
    transport: Transport
    lease: Lease | None = None
    """What every task is done under, so that nobody else measures meanwhile; None where the device
    is nobody else's."""

    @property
    def origin(self) -> Origin:
        """What its figures are."""
        return "emulated" if self.profile.emulated else "measured"

    def look(self) -> None:
        """Return where the device answers at all; it loads no runtime. DeviceError where not."""
        self._run({"task": "look"}, [], PROBE_S)

    def probe(self) -> Probe:
        """What the device tells about itself; DeviceError where it gives no answer."""
        return parse(Probe, self._run({"task": "probe"}, [], PROBE_S))

    def bench(self, job: Job, threads: int, repeat: int, budget: Budget) -> Bench:
        """One repeat of one artifact, in a process of its own."""
        artifact = read_artifact(job)
        inputs = None if job.inputs is None else npy(job.inputs[:CHECKED_INPUTS])
        task: dict[str, Any] = {
            "task": "bench",
            "artifact": artifact.digest,
            "inputs": inputs.digest if inputs else None,
            "format": job.export.format,
            "runtimes": list(self.profile.runtimes),
            "threads": threads,
            "repeat": repeat,
            "runs": budget.runs,
            "seconds": budget.seconds,
            "max_runs": MAX_RUNS,
            "warm_runs": budget.warm_runs,
            "warm_s": budget.warm_s,
            "start_below_c": self.profile.start_below_c,
            "cool_wait_s": budget.cool_wait_s,
            "telemetry_s": budget.telemetry_s,
            "idle_s": budget.idle_s,
            "provider": self.spec.provider,
            "batch": self.spec.batch_size if self.spec.scenario == "offline" else None,
        }
        blobs = [artifact, inputs] if inputs else [artifact]
        return parse(Bench, self._run(task, blobs, budget.repeat_s))

    def evaluate(self, jobs: Sequence[Job], inputs: Array) -> Evaluated:
        """Classes that artifacts of one format name for the inputs (N, ...)."""
        artifacts, stack = [read_artifact(job) for job in jobs], npy(inputs)
        task = {
            "task": "evaluate",
            "artifacts": [blob.digest for blob in artifacts],
            "inputs": stack.digest,
            "format": jobs[0].export.format,
            "runtimes": list(self.profile.runtimes),
            "threads": max(self.spec.threads),
            "provider": self.spec.provider,
        }
        answer = parse(Evaluated, self._run(task, [*artifacts, stack], EVALUATE_S))
        if len(answer.artifacts) != len(jobs):
            raise DeviceError("malformed answer: not one entry per artifact")
        return answer

    def release(self) -> None:
        """Let others have the device at once, not only when the lease has run out."""
        if self.lease is not None:
            with suppress(DeviceError):  # the lease ends by itself
                self._run({"task": "release"}, [], RELEASE_S)

    def _run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        if self.lease is not None:
            task = {**task, "lease": self.lease.task()}
        return self.transport.run(task, blobs, limit_s)

    def refusal(self, job: Job) -> str | None:
        """Why this kind of device cannot run an artifact, in one sentence, or None."""
        if self.spec.scenario == "offline" and job.export.batch != "dynamic":
            return "the offline scenario takes a free batch: export with `batch: dynamic`"
        newest = self.profile.max_opset
        if newest is None or job.export.format != "onnx" or job.export.opset <= newest:
            return None
        return (
            f"{self.profile.title} runs ONNX opsets up to {newest}, not {job.export.opset}: export"
            f" with `opset: {newest}`"
        )


def read_artifact(job: Job) -> Blob:
    """The artifact's bytes; KtbenchError where they cannot be read."""
    try:
        return Blob.read(job.path)
    except OSError as error:
        raise KtbenchError(f"{job.path}: cannot read the artifact: {error.strerror}") from error


def npy(array: Array) -> Blob:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return Blob.of(buffer.getvalue())


@contextmanager
def opened(
    spec: DeviceSpec, transport: Transport | None = None, lease: Lease | None = None
) -> Iterator[Target]:
    """The device, until the block ends; DeviceError where its address cannot be one.

    A board that others can reach, too, is held under the lease from the first task on.
    """
    profile = catalogue.device(spec.profile)
    way = transport or open_transport(profile, spec.host, spec.python)
    target = Target(spec, profile, way, lease if profile.transport == "ssh" else None)
    try:
        yield target
        target.release()
    finally:
        way.close()


def architecture_problem(target: Target, probe: Probe) -> str | None:
    """Why this board is not one of its profile, or None."""
    machine = probe.facts.get("machine")
    known = target.profile.architectures
    if not known or machine in known:
        return None
    return (
        f"it is a {machine} machine, but profile {target.spec.profile!r} is for"
        f" {' or '.join(known)}: use another profile, such as `ssh`"
    )
