"""`ktbench measure`: any model files on one device, and what it prints of them."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ktbench.cli.output import print_line, print_table
from ktbench.records import (
    DeviceSpec,
    Failure,
    KtbenchError,
    Measurement,
    Statistic,
    printable,
)

Answered = tuple[Path, Measurement | Failure]


def measure_models(models: Sequence[Path], device: DeviceSpec, *, as_json: bool) -> int:
    """All models in one deployment; exit code 0 when every figure is there and valid.

    What cannot be measured is told in a line each, and as an error where it is all there is.
    """
    from ktbench.measure import measure_files

    with tempfile.TemporaryDirectory(prefix="ktbench-") as folder:
        answered = list(measure_files(models, device, Path(folder)))
    if len(answered) == 1 and isinstance(answered[0][1], Failure):
        raise KtbenchError(f"{models[0].name} on {device.name}: {answered[0][1].reason}")
    found = [(model, came) for model, came in answered if isinstance(came, Measurement)]
    if as_json:
        told = [_as_json(model, came) for model, came in answered]
        print(json.dumps(told[0] if len(told) == 1 else told, indent=1))
    elif len(found) == 1:
        _show_one(*found[0])
    elif found:
        _show_many(found)
    for model, came in answered:
        if isinstance(came, Failure):
            print(printable(f"not measured: {model.name}: {came.reason}"), file=sys.stderr)
    good = [came.validity.valid for _, came in found]
    return 0 if all(good) and len(good) == len(answered) else 1


def device_of(name: str, profile: str | None, **settings: Any) -> DeviceSpec:
    """This machine for `local`, else a board over SSH, of a profile that may say more of it.

    KtbenchError for a profile or setting that is none, and for a profile of another kind.
    """
    from ktbench import catalogue
    from ktbench.matrix.problems import phrase

    here = name == "local"
    profile = profile or ("local" if here else "ssh")
    if (catalogue.device(profile).transport == "ssh") is here:
        wants = "is a board over SSH: name its host" if here else "takes no host: leave it out"
        raise KtbenchError(f"--profile {profile}: {wants}")
    try:
        return DeviceSpec(
            profile=profile,
            name=profile if here else name,
            host=None if here else name,
            **settings,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = str(first["loc"][0]).replace("_", "-")
        option = name if where in ("name", "host") else f"--{where} {first['input']}"
        wanted = first.get("ctx", {}).get("expected")
        raise KtbenchError(
            f"{option}: {f'must be {wanted}' if wanted else phrase(first)}"
        ) from error


def _as_json(model: Path, came: Measurement | Failure) -> dict[str, Any]:
    return {"model": str(model), **came.model_dump(mode="json")}


def _interval(statistic: Statistic) -> list[str]:
    """A figure and its bounds, to three figures at least: a small graph takes microseconds."""
    value, low, high = (
        f"{x:.{max(0, 2 - math.floor(math.log10(x)))}f}" if 0 < x < 100 else f"{x:.0f}"
        for x in (statistic.value, statistic.low, statistic.high)
    )
    return [value, f"{low} – {high}"]


def _conditions(found: Measurement) -> str:
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    batch = f", batches of {found.batch}" if found.batch > 1 else ""
    return (
        f"on {found.device.name} ({found.origin}), {found.runtime} {found.runtime_version},"
        f" {found.provider}, {threads}{batch}, {found.runs} runs in {found.repeats} processes"
    )


def _show_one(model: Path, found: Measurement) -> None:
    rows = [
        ["load", *_interval(found.load_ms)],
        ["first inference", *_interval(found.first_ms)],
        ["median", *_interval(found.p50_ms)],
        ["90th percentile", *_interval(found.p90_ms)],
    ]
    if found.p99_ms is not None:
        rows.append(["99th percentile", *_interval(found.p99_ms)])
    print_table(f"{model.name} {_conditions(found)}", ["", "ms", "interval"], rows)
    if found.inputs_per_s is not None:
        value, bounds = _interval(found.inputs_per_s)
        print(f"{value} inputs per second ({bounds})")
    if found.slowdown is not None:
        print(f"the end takes {found.slowdown:.2f} times as long as the beginning")
    if found.energy_mj is not None:
        print_line(
            f"energy {_interval(found.energy_mj)[0]} mJ per inference ({found.power_source})"
        )
    if found.peak_memory_bytes is not None:
        print(f"peak memory {found.peak_memory_bytes / 2**20:.1f} MiB")
    _show_validity("", found)


def _show_many(found: Sequence[tuple[Path, Measurement]]) -> None:
    """One table per set of conditions, so that a table's figures can be compared."""
    tables: dict[str, list[tuple[Path, Measurement]]] = {}
    for model, came in found:
        tables.setdefault(_conditions(came), []).append((model, came))
    for conditions, rows in tables.items():
        shown = [
            [
                model.name,
                _interval(came.load_ms)[0],
                _interval(came.first_ms)[0],
                *_interval(came.p50_ms),
                _interval(came.p90_ms)[0],
                "valid" if came.validity.valid else "invalid",
            ]
            for model, came in rows
        ]
        columns = ["model, ms", "load", "first", "median", "interval", "90th", ""]
        print_table(conditions[0].upper() + conditions[1:], columns, shown, numbers=True)
    for model, came in found:
        _show_validity(f"{model.name}: ", came)


def _show_validity(name: str, found: Measurement) -> None:
    for word, lines in (("invalid", found.validity.reasons), ("warning", found.validity.warnings)):
        for line in lines:
            print(printable(f"{word}: {name}{line}"))
