"""Measuring model files, whoever wrote them, on this machine or on a board."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ValidationError

from ktbench import catalogue
from ktbench.matrix.file_problems import phrase
from ktbench.measure import measure_files
from ktbench.records import DeviceSpec, Failure, KtbenchError, Measurement
from ktbench.results.frames import measurement_frame

Outcome = tuple[Path, Measurement | Failure]


def measure(
    models: Path | str | Sequence[Path | str],
    *,
    device: str = "local",
    profile: str | None = None,
    threads: int | Sequence[int] = 1,
    mode: Literal["quick", "full"] = "quick",
    repeats: int = 3,
    provider: Literal["cpu", "xnnpack", "cuda", "tensorrt"] = "cpu",
    scenario: Literal["single_stream", "offline", "sustained"] = "single_stream",
    batch_size: int = 32,
    governor: str | None = None,
    power_mode: str | None = None,
    python: str = "python3",
) -> pd.DataFrame:
    """Measure model files (`.onnx`, `.tflite`) on a device, in turns.

    Returns one row per file and number of threads: `model`, `reason` (why the device could not run
    it, else empty) and the columns of `Results.measurements`; times are in milliseconds. `device`
    is `local`, a host name or an SSH alias; the other settings are those of `ktbench measure`.
    Raises KtbenchError where a file is no model, and where the only one cannot be run.
    """
    several = [models] if isinstance(models, str | Path) else list(models)
    spec = device_of(
        device,
        profile,
        threads=(threads,) if isinstance(threads, int) else tuple(threads),
        mode=mode,
        repeats=repeats,
        provider=provider,
        scenario=scenario,
        batch_size=batch_size,
        governor=governor,
        power_mode=power_mode,
        python=python,
    )
    outcomes = measured([Path(model) for model in several], spec)
    frame = measurement_frame([o for _, o in outcomes if isinstance(o, Measurement)])
    frame.insert(0, "model", [str(p) for p, o in outcomes if isinstance(o, Measurement)])
    failed = [(str(p), o.reason) for p, o in outcomes if isinstance(o, Failure)]
    frame.insert(1, "reason", "")
    return pd.concat([frame, pd.DataFrame(failed, columns=["model", "reason"])], ignore_index=True)


def measured(models: Sequence[Path], device: DeviceSpec) -> list[Outcome]:
    """Measure all models in one deployment; their samples are not kept.

    Raises KtbenchError where the only model cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="ktbench-") as folder:
        outcomes = list(measure_files(models, device, Path(folder)))
    if len(outcomes) == 1 and isinstance(outcomes[0][1], Failure):
        raise KtbenchError(f"{models[0].name} on {device.name}: {outcomes[0][1].reason}")
    return outcomes


def device_of(name: str, profile: str | None, **settings: Any) -> DeviceSpec:
    """Return this machine for `local`, else a board over SSH, of the profile where one is given.

    Raises KtbenchError for an unknown profile or setting, and for a profile of another kind.
    """
    is_local = name == "local"
    profile = profile or ("local" if is_local else "ssh")
    if (catalogue.device(profile).transport == "ssh") is is_local:
        advice = "is a board over SSH: name its host" if is_local else "takes no host: leave it out"
        raise KtbenchError(f"--profile {profile}: {advice}")
    try:
        return DeviceSpec(
            profile=profile,
            name=profile if is_local else name,
            host=None if is_local else name,
            **settings,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        setting = str(first["loc"][0]).replace("_", "-")
        option = name if setting in ("name", "host") else f"--{setting} {first['input']}"
        expected = first.get("ctx", {}).get("expected")
        reason = f"must be {expected}" if expected else phrase(first)
        raise KtbenchError(f"{option}: {reason}") from error
