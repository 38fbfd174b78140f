"""A device under measurement: its profile, its transport, and the tasks that it is given."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench import catalogue
from ktbench.devices._contract import AnswerError, Blob, DeviceError, Lease, Profile, Transport
from ktbench.devices.transport import open_transport
from ktbench.measure.agent_schema import Bench, Evaluated, KernelsRun, Probe, Reduction, parse
from ktbench.measure.job import Array, Arrays, Job, first_of
from ktbench.measure.time_budget import MAX_RUNS, Budget
from ktbench.records import DeviceSpec, Kernels, KtbenchError, Origin
from ktbench.stats.percentiles import least_count
from ktbench.system.files import read_regular

PROBE_S = 120.0
EVALUATE_S = 3600.0
RELEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One repeat of one artifact."""

    job: Job
    threads: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Target:
    """A device of the matrix with its way there."""

    spec: DeviceSpec
    profile: Profile
    transport: Transport
    lease: Lease | None = None
    """The claim that keeps others from measuring meanwhile; None if the device is not shared."""

    @property
    def origin(self) -> Origin:
        """The origin of its figures."""
        return "emulated" if self.profile.emulated else "measured"

    def look(self) -> None:
        """Raise DeviceError unless the device answers; no runtime is loaded."""
        self._run({"task": "look"}, [], PROBE_S)

    def probe(self) -> Probe:
        """Return what the device tells about itself; DeviceError if it gives no answer."""
        task = {"task": "probe", "settable": self.spec.settings}
        return parse(Probe, self._run(task, [], PROBE_S))

    def series(self, turns: Sequence[Turn], budget: Budget) -> Iterator[Bench | DeviceError]:
        """Yield one repeat per turn, each from a process of its own; DeviceError if lost.

        All are sent at once, so that a slow connection is crossed once.
        """
        blobs: dict[str, Blob] = {}
        tasks = [self._bench(turn, budget, blobs) for turn in turns]
        task = self._leased({"task": "series", "tasks": tasks})
        limits = [budget.repeat_s] * len(tasks)
        began, claimed = time.monotonic(), 0.0
        with closing(self.transport.series(task, list(blobs.values()), limits)) as answers:
            for answer in answers:
                bench = answer if isinstance(answer, DeviceError) else _checked(answer, budget)
                if isinstance(bench, Bench):
                    # Answers may be held up on their way, so that it is their sum that counts.
                    left = max(0.0, time.monotonic() - began - claimed)
                    claimed += bench.busy_s
                    real = self.profile.transport != "fake"
                    bench = bench.model_copy(update={"host_s": left if real else None})
                yield bench

    def _bench(self, turn: Turn, budget: Budget, blobs: dict[str, Blob]) -> dict[str, Any]:
        """Return the task of a turn; its files are added to `blobs`."""
        job = turn.job
        artifact = read_artifact(job)
        inputs = None if job.inputs is None else npy(first_of(job.inputs))
        blobs.update({blob.digest: blob for blob in (artifact, inputs) if blob is not None})
        return {
            "task": "bench",
            "artifact": artifact.digest,
            "inputs": inputs.digest if inputs else None,
            "format": job.export.format,
            "runtimes": list(self.profile.runtimes),
            "threads": turn.threads,
            "repeat": turn.repeat,
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

    def evaluate(
        self, jobs: Sequence[Job], inputs: Array | Arrays, reduction: Reduction = "top1"
    ) -> Evaluated:
        """Return what artifacts of one format give for the inputs (N, ...), reduced as asked."""
        artifacts, stack = [read_artifact(job) for job in jobs], npy(inputs)
        task = {
            "task": "evaluate",
            "artifacts": [blob.digest for blob in artifacts],
            "inputs": stack.digest,
            "format": jobs[0].export.format,
            "runtimes": list(self.profile.runtimes),
            "threads": max(self.spec.threads),
            "provider": self.spec.provider,
            "reduction": reduction,
        }
        answer = parse(Evaluated, self._run(task, [*artifacts, stack], EVALUATE_S))
        if len(answer.artifacts) != len(jobs):
            raise AnswerError("malformed answer: not one entry per artifact")
        return answer

    def kernels(self, jobs: Sequence[Job]) -> dict[str, Kernels]:
        """Return in which arithmetic artifacts of one format run, by digest, as far as known.

        They run once each in a process that nothing times; DeviceError if there is no answer.
        """
        artifacts = [read_artifact(job) for job in jobs]
        task = {
            "task": "kernels",
            "artifacts": [blob.digest for blob in artifacts],
            "format": jobs[0].export.format,
            "runtimes": list(self.profile.runtimes),
            "threads": 1,
            "provider": self.spec.provider,
        }
        answer = parse(KernelsRun, self._run(task, artifacts, EVALUATE_S))
        if len(answer.artifacts) != len(jobs):
            raise AnswerError("malformed answer: not one entry per artifact")
        return {
            job.digest: Kernels(integer=entry.integer, layers=entry.layers, vnni=answer.vnni)
            for job, entry in zip(jobs, answer.artifacts, strict=True)
            if entry.error is None and entry.integer <= entry.layers
        }

    def release(self) -> None:
        """Let others use the device at once, not only after the lease has run out."""
        if self.lease is not None:
            with suppress(DeviceError):  # the lease ends by itself
                self._run({"task": "release"}, [], RELEASE_S)

    def _run(self, task: dict[str, Any], blobs: Sequence[Blob], limit_s: float) -> dict[str, Any]:
        return self.transport.run(self._leased(task), blobs, limit_s)

    def _leased(self, task: dict[str, Any]) -> dict[str, Any]:
        """Add the lease and the device's settings to a task; a release changes no settings."""
        if self.lease is None:
            return task
        settings = {} if task["task"] == "release" else self.spec.settings
        return {**task, "lease": self.lease.task(), "settings": settings}

    def refusal(self, job: Job) -> str | None:
        """Explain in one sentence why this kind of device cannot run an artifact, or None."""
        if self.spec.scenario == "offline" and job.export.batch != "dynamic":
            return "the offline scenario takes a free batch: export with `batch: dynamic`"
        newest = self.profile.max_opset
        if newest is None or job.export.format != "onnx" or job.export.opset <= newest:
            return None
        return (
            f"{self.profile.title} runs ONNX opsets up to {newest}, not {job.export.opset}: export"
            f" with `opset: {newest}`"
        )


def _checked(answer: dict[str, Any], budget: Budget) -> Bench | DeviceError:
    try:
        bench = parse(Bench, answer)
    except DeviceError as error:
        return error
    count, least = len(bench.samples_ns), least_count(0.9)
    if count < least:  # no percentile can be told of them, so there is no measurement to doubt
        return AnswerError(
            f"malformed answer: {count} timed runs were received, {budget.runs} were requested"
        )
    return bench


def read_artifact(job: Job) -> Blob:
    """Read the artifact's bytes; KtbenchError if that fails."""
    try:
        return Blob.of(read_regular(job.path))
    except OSError as error:
        raise KtbenchError(f"{job.path}: cannot read the artifact: {error.strerror}") from error


def unreadable(job: Job) -> str | None:
    """Explain why the artifact cannot be read; None if it can."""
    try:
        read_artifact(job)
    except KtbenchError as error:
        return str(error)
    return None


def npy(inputs: Array | Arrays) -> Blob:
    """Return inputs as a file in numpy's format: one array, or names and then an array each."""
    buffer = io.BytesIO()
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    arrays: list[NDArray[Any]] = [np.array(list(named))] if len(named) > 1 else []
    arrays += named.values()
    for array in arrays:
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return Blob.of(buffer.getvalue())


@contextmanager
def opened(
    spec: DeviceSpec, transport: Transport | None = None, lease: Lease | None = None
) -> Iterator[Target]:
    """Open a device until the block ends; DeviceError if its address cannot be one.

    A board that others can reach, too, is held under the lease from the first task on. When the
    block ends, however it ends, it is let go and has the settings that it had before.
    """
    profile = catalogue.device(spec.profile)
    if spec.settings and profile.transport != "ssh":
        raise DeviceError(
            f"{profile.title}: {' and '.join(spec.settings)} can be set on boards over SSH alone:"
            " set it by hand"
        )
    way = transport or open_transport(profile, spec.host, spec.python)
    target = Target(spec, profile, way, lease if profile.transport == "ssh" else None)
    lost = False
    try:
        yield target
    except DeviceError as error:
        lost = error.lost
        raise
    finally:
        try:
            if not lost:
                target.release()
        finally:
            way.close()


def architecture_problem(target: Target, probe: Probe) -> str | None:
    """Explain why this board does not match its profile; None if it does."""
    machine = probe.facts.get("machine")
    architectures = target.profile.architectures
    if not architectures or machine in architectures:
        return None
    return (
        f"it is a {machine} machine, but profile {target.spec.profile!r} is for"
        f" {' or '.join(architectures)}: use another profile, such as `ssh`"
    )
