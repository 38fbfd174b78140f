"""Schemas of an agent's answers, which are checked before they are used."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from ktbench.devices._contract import AnswerError
from ktbench.measure.time_budget import MAX_RUNS

Reduction = Literal["top1", "none"]
"""Part of its outputs that a device sends back: the top class of each input, or all of them."""
MAX_FACTS = 1 << 16
"""Bytes of JSON that a board may tell about itself at a time."""


def printable(text: str) -> str:
    """Return a device's text without characters that a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text)


def _shown(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_shown(part) for part in value]
    if isinstance(value, dict):
        return {printable(key): _shown(part) for key, part in value.items()}
    return value


def _bounded(facts: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(json.dumps(facts)) > MAX_FACTS:
        raise ValueError(f"over {MAX_FACTS} bytes of facts")
    return {printable(key): _shown(value) for key, value in facts.items()}


Text = Annotated[str, Field(max_length=2000), AfterValidator(printable)]
Nanoseconds = Annotated[int, Field(ge=0, le=10**15)]
Facts = Annotated[dict[str, JsonValue], AfterValidator(_bounded)]
Row = list[float | None]
MAX_SAMPLES = 200_000


class _Answer(BaseModel):
    """Base of all answers: strict about types; a newer agent's further keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Runtime(_Answer):
    """A runtime that the agent knows; `version` only where it is installed."""

    formats: list[Text]
    install: Text
    version: Text | None = None
    error: Text | None = None


class Holder(_Answer):
    """The present user of a board, and for how long at least."""

    holder: Text
    seconds: float


class Probe(_Answer):
    """A device's facts about itself: the answer to a `probe` task."""

    facts: Facts
    state: Facts
    interpreter: Text
    numpy: Text | None
    runtimes: dict[Text, Runtime]
    processors: int
    unsettable: Text | None = None
    """The reason why the board would not take the governor or power mode asked for."""
    holder: Holder | None = None


class Telemetry(_Answer):
    """Readings of a sampler beside the run; times are the board's monotonic clock, in seconds."""

    interval_s: float
    source: Text | None
    rails: Annotated[list[Text], Field(max_length=64)]
    total: list[Text]
    """Rails that add up to the whole board; empty if none do."""
    watts: Annotated[list[Row], Field(max_length=MAX_SAMPLES)]
    """Rows of a time and the power of each rail."""
    states: Annotated[list[Facts], Field(max_length=MAX_SAMPLES)]
    """`t`, and what the board told of temperature, clocks, governor and throttling."""
    cpu_s: float
    """Processor time that sampling took."""

    @model_validator(mode="after")
    def _shaped(self) -> Telemetry:
        if any(len(row) != 1 + len(self.rails) or row[0] is None for row in self.watts):
            raise ValueError("a row of power is not a time and one figure per rail")
        if not set(self.total) <= set(self.rails):
            raise ValueError("the total is made of rails that are not there")
        if any(not isinstance(state.get("t"), float) for state in self.states):
            raise ValueError("a state has no time")
        return self


Span = Annotated[list[float], Field(min_length=2, max_length=2)]


class Bench(_Answer):
    """One repeat of one artifact."""

    load_ns: Nanoseconds
    first_ns: Nanoseconds
    samples_ns: Annotated[list[Nanoseconds], Field(min_length=1, max_length=MAX_RUNS)]
    warm_runs: Annotated[int, Field(ge=0)]
    cpu_share: Annotated[float, Field(ge=0)]
    repeat_ratio: float | None
    outputs_checked: int
    outputs_differing: int
    outputs_digest: Text
    outputs_finite: bool
    outputs: list[list[float]] | None
    runtime: Text
    runtime_version: Text
    provider: Text
    wanted_provider: Text
    numpy: Text
    batch: Annotated[int, Field(ge=1, le=1 << 16)]
    waited_s: Annotated[float, Field(ge=0)]
    facts: Facts
    state_before: Facts
    state_after: Facts
    peak_memory_bytes: Annotated[int, Field(ge=0)] | None
    build_ns: Nanoseconds | None = None
    nodes: dict[Text, int] | None = None
    telemetry: Telemetry | None = None
    idle: Span | None = None
    steady: Span | None = None
    clock_jump_s: float = 0.0
    host_s: float | None = None
    """Most seconds that this repeat can have taken by the clock of this machine, which sets it,
    whatever the device says; None where there is no device."""

    @property
    def busy_s(self) -> float:
        """Seconds that loading and all timed runs took by the device's clock."""
        return (self.load_ns + self.first_ns + sum(self.samples_ns)) / 1e9

    @property
    def board(self) -> Facts:
        """Facts of the device with the numpy that the agent ran with."""
        return {**self.facts, "numpy": self.numpy}

    @property
    def milliseconds(self) -> NDArray[np.float64]:
        """The timed runs (N,), in their order."""
        return np.asarray(self.samples_ns, dtype=np.float64) / 1e6


class EvaluatedArtifact(_Answer):
    """The classes that an artifact predicts, or all of its outputs; or why there are none."""

    top1: list[int] | None = None
    outputs: str | None = None
    """Outputs, row by row, as little-endian float32 in base 64."""
    shape: (
        Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None
    ) = None
    provider: Text = ""
    error: Text | None = None

    def answers(self, reduction: Reduction) -> NDArray[Any] | None:
        """Return classes (N,), or outputs (N, K) without a reduction; None where there are none.

        Raises ValueError for outputs that do not fill their shape.
        """
        if reduction == "top1":
            return None if self.top1 is None else np.asarray(self.top1)
        if self.outputs is None or self.shape is None:
            return None
        rows = np.frombuffer(b64decode(self.outputs, validate=True), dtype="<f4")
        return rows.astype(np.float32).reshape(self.shape)

    @staticmethod
    def joined(pieces: Sequence[EvaluatedArtifact]) -> EvaluatedArtifact:
        """Return the answers to several pieces of the inputs as one; the first error if any."""
        first = next((each for each in pieces if each.error is not None), pieces[0])
        if len(pieces) == 1 or first.error is not None:
            return first
        top1 = None
        if all(each.top1 is not None for each in pieces):
            top1 = [answer for each in pieces for answer in each.top1 or ()]
        outputs, shape = None, None
        if all(each.outputs is not None and each.shape is not None for each in pieces):
            content = [b64decode(each.outputs or "", validate=True) for each in pieces]
            outputs = b64encode(b"".join(content)).decode()
            shapes = [each.shape or [0, 0] for each in pieces]
            shape = [sum(rows for rows, _ in shapes), shapes[0][1]]
        return first.model_copy(update={"top1": top1, "outputs": outputs, "shape": shape})


class Evaluated(_Answer):
    """Answer to an `evaluate` task, in the order of its artifacts."""

    runtime: Text
    runtime_version: Text
    artifacts: list[EvaluatedArtifact]


class LayersRun(_Answer):
    """The layers of one artifact by their arithmetic, or why that is unknown."""

    integer: Annotated[int, Field(ge=0)] = 0
    layers: Annotated[int, Field(ge=0)] = 0
    error: Text | None = None


class KernelsRun(_Answer):
    """Answer to a `kernels` task, in the order of its artifacts."""

    artifacts: list[LayersRun]
    vnni: bool | None = None


Kind = TypeVar("Kind", bound=BaseModel)


def parse(kind: type[Kind], answer: dict[str, Any]) -> Kind:
    """Parse an agent's answer; AnswerError says what is wrong with a malformed one."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AnswerError(f"malformed answer: {where}: {first['msg']}") from error
