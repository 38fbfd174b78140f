"""`ktbench measure`: any model files on one device."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ktbench.cli.options import AsJson, Profile, Python

if TYPE_CHECKING:
    from ktbench.records import DeviceSpec, Failure, Measurement, Statistic

Setting = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Set on a board during the measurement, then restored."),
]
Threads = Annotated[
    list[int] | None,
    typer.Option(min=1, metavar="N", help="Threads of the runtime (default: 1); repeatable."),
]
Scenario = Annotated[
    str,
    typer.Option(
        metavar="single_stream|offline|sustained",
        help="One input after the other, batches (needs a dynamic batch axis), or ten minutes "
        "without a break.",
    ),
]


def measure(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx|MODEL.tflite…", show_default=False)
    ],
    device: Annotated[
        str, typer.Option(metavar="NAME", help="`local`, a host name, or an SSH alias.")
    ] = "local",
    profile: Profile = None,
    threads: Threads = None,
    mode: Annotated[str, typer.Option(metavar="quick|full", help="How long to measure.")] = "quick",
    repeats: Annotated[int, typer.Option(min=1, help="Fresh processes per model.")] = 3,
    provider: Annotated[
        str,
        typer.Option(
            metavar="cpu|xnnpack|cuda|tensorrt", help="Execution provider of the runtime."
        ),
    ] = "cpu",
    scenario: Scenario = "single_stream",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs per run of `offline`.")] = 32,
    governor: Setting = None,
    power_mode: Setting = None,
    python: Python = "python3",
    as_json: AsJson = False,
) -> None:
    """Measure any model files on a device: load, first inference and latency percentiles.

    Several files take turns on the device, which is contacted only once.
    """
    from ktbench.api.measuring import device_of

    spec = device_of(
        device,
        profile,
        threads=tuple(threads or [1]),
        mode=mode,
        repeats=repeats,
        provider=provider,
        scenario=scenario,
        batch_size=batch_size,
        governor=governor,
        power_mode=power_mode,
        python=python,
    )
    raise typer.Exit(_measure_models(models, spec, as_json=as_json))


def _measure_models(models: Sequence[Path], device: DeviceSpec, *, as_json: bool) -> int:
    """Measure all models in one deployment; return 0 when every figure is there and valid.

    A model that cannot be measured is a line on standard error, or an error where it is the only
    one.
    """
    from ktbench.api.measuring import measured as measured_on
    from ktbench.records import Failure, Measurement, printable

    outcomes = measured_on(models, device)
    measured = [(model, m) for model, m in outcomes if isinstance(m, Measurement)]
    if as_json:
        records = [_with_path(model, outcome) for model, outcome in outcomes]
        print(json.dumps(records[0] if len(records) == 1 else records, indent=1))
    elif len(measured) == 1:
        _print_one(*measured[0])
    elif measured:
        _print_many(measured)
    for model, outcome in outcomes:
        if isinstance(outcome, Failure):
            print(printable(f"not measured: {model.name}: {outcome.reason}"), file=sys.stderr)
    all_valid = all(measurement.validity.valid for _, measurement in measured)
    return 0 if all_valid and len(measured) == len(outcomes) else 1


def _with_path(model: Path, outcome: Measurement | Failure) -> dict[str, object]:
    return {"model": str(model), **outcome.model_dump(mode="json")}


# ---------------------------------------------------------------- tables


def _print_one(model: Path, measurement: Measurement) -> None:
    from ktbench.cli.output import print_line, print_table

    rows = [
        ["load", *_interval(measurement.load_ms)],
        ["first inference", *_interval(measurement.first_ms)],
        ["median", *_interval(measurement.p50_ms)],
        ["90th percentile", *_interval(measurement.p90_ms)],
    ]
    if measurement.p99_ms is not None:
        rows.append(["99th percentile", *_interval(measurement.p99_ms)])
    print_table(f"{model.name} {_conditions(measurement)}", ["", "ms", "interval"], rows)
    if measurement.inputs_per_s is not None:
        value, bounds = _interval(measurement.inputs_per_s)
        print(f"{value} inputs per second ({bounds})")
    if measurement.slowdown is not None:
        print(f"the end takes {measurement.slowdown:.2f} times as long as the beginning")
    if measurement.energy_mj is not None:
        energy = _interval(measurement.energy_mj)[0]
        print_line(f"energy {energy} mJ per inference ({measurement.power_source})")
    if measurement.peak_memory_bytes is not None:
        print(f"peak memory {measurement.peak_memory_bytes / 2**20:.1f} MiB")
    _print_validity("", measurement)


def _print_many(measured: Sequence[tuple[Path, Measurement]]) -> None:
    """Print one table per set of conditions, so that a table's figures can be compared."""
    from ktbench.cli.output import print_table

    tables: dict[str, list[tuple[Path, Measurement]]] = {}
    for model, measurement in measured:
        tables.setdefault(_conditions(measurement), []).append((model, measurement))
    columns = ["model, ms", "load", "first", "median", "interval", "90th", ""]
    for conditions, pairs in tables.items():
        rows = [
            [
                model.name,
                _interval(measurement.load_ms)[0],
                _interval(measurement.first_ms)[0],
                *_interval(measurement.p50_ms),
                _interval(measurement.p90_ms)[0],
                "valid" if measurement.validity.valid else "invalid",
            ]
            for model, measurement in pairs
        ]
        print_table(conditions[0].upper() + conditions[1:], columns, rows, numbers=True)
    for model, measurement in measured:
        _print_validity(f"{model.name}: ", measurement)


def _print_validity(name: str, measurement: Measurement) -> None:
    from ktbench.records import printable

    validity = measurement.validity
    for word, lines in (("invalid", validity.reasons), ("warning", validity.warnings)):
        for line in lines:
            print(printable(f"{word}: {name}{line}"))


def _interval(statistic: Statistic) -> list[str]:
    """Return a figure and its bounds, with three digits at least: a small graph takes µs."""
    value, low, high = (
        f"{x:.{max(0, 2 - math.floor(math.log10(x)))}f}" if 0 < x < 100 else f"{x:.0f}"
        for x in (statistic.value, statistic.low, statistic.high)
    )
    return [value, f"{low} – {high}"]


def _conditions(measurement: Measurement) -> str:
    m = measurement
    threads = f"{m.threads} thread{'s' if m.threads > 1 else ''}"
    batch = f", batches of {m.batch}" if m.batch > 1 else ""
    return (
        f"on {m.device.name} ({m.origin}), {m.runtime} {m.runtime_version},"
        f" {m.provider}, {threads}{batch}, {m.runs} runs in {m.repeats} processes"
    )
