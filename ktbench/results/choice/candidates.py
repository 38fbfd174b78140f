"""Candidates of a choice: each exported file of each technique, with what is known of it.

A candidate is one student, technique and export over its seeds, on one device and number of
threads. Its file is that of the seed with the best validation: the test set chooses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ktbench import stats
from ktbench.records import KtbenchError
from ktbench.results import Results


@dataclass(frozen=True)
class Latency:
    """Latency of a file's graph on a device, in milliseconds."""

    device: str
    origin: str
    """`measured`, `emulated` or `estimated`."""
    threads: int
    runtime: str
    p50_ms: float
    p90_ms: float
    p90_low: float
    p90_high: float
    warnings: str


@dataclass(frozen=True)
class Contender:
    """A technique of one student in one training: what seeds are compared over."""

    student: str
    technique: str
    training: str

    @property
    def words(self) -> str:
        """`resnet8 with kd`, and its training where that is not the usual one."""
        return f"{self.student} with {self.technique}" + (
            f" [{self.training}]" if self.training and "[" not in self.technique else ""
        )


@dataclass(frozen=True)
class Candidate:
    """A file that may be taken. Figures of the metric are qualities, of which more is better."""

    contender: Contender
    export: str
    key: str
    """Key of the cell whose file it is."""
    seed: int
    path: str
    """The file, relative to the results folder."""
    bytes: int
    validation: stats.Interval
    """Mean over the seeds, as exported."""
    test: stats.Interval
    """The same on the test set, which chooses nothing."""
    own_validation: float
    """Figure of this file alone."""
    own_test: float
    test_by_seed: Mapping[int, float]
    """Test quality by seed, of all files of this export."""
    latency: Latency | None

    @property
    def words(self) -> str:
        """`resnet8 with kd as onnx-int8`, and its threads where they are several."""
        several = self.latency is not None and self.latency.threads > 1
        threads = f", {self.latency.threads} threads" if several and self.latency else ""
        return f"{self.contender.words} as {self.export}{threads}"

    @property
    def order(self) -> tuple[float, float, int, str]:
        """Sort key: the best on validation first, then the fastest, then the smallest."""
        p90 = self.latency.p90_ms if self.latency else 0.0
        return -self.validation.mean, p90, self.bytes, self.words


@dataclass(frozen=True)
class LeftOut:
    """Something that was not chosen, with the reason."""

    what: str
    reason: str
    kind: str
    """Reason without figures, to count by."""


def device_of(results: Results, name: str | None, *, needed: bool) -> str | None:
    """Return the device whose latencies count: the named one, or the only one that measured.

    None where nothing was measured or several devices were, and no latency is `needed`.
    Raises KtbenchError for an unknown device and for one that measured nothing.
    """
    measured = list(dict.fromkeys(results.measurements["device"]))
    planned = [device.name for device in results.lock.plan.devices]
    if name is not None and name not in (*planned, *measured):
        if not planned:
            raise KtbenchError(f"{results.source}: --device {name}: its matrix names no device")
        from ktbench.catalogue import UnknownName  # with it comes torch, which nothing else needs

        raise UnknownName("device", name, planned)
    if name is None and len(measured) == 1:
        return str(measured[0])
    if name is not None and name in measured:
        return name
    if name is not None:
        reasons = [failure.reason for failure in results.failures if failure.what == name]
        reason = reasons[0] if reasons else "run the matrix again to measure on it"
        raise KtbenchError(f"{results.source}: nothing was measured on {name}: {reason}")
    if needed and measured:
        raise KtbenchError(f"--p90 needs a --device: measured were {', '.join(measured)}")
    if needed:
        raise KtbenchError(
            f"{results.source}: nothing was measured, so no file has a latency: add devices to its "
            "matrix and run it again, or leave out --p90"
        )
    return None


def candidates(results: Results, device: str | None) -> tuple[list[Candidate], list[LeftOut]]:
    """Return all files with what is known of them, and what is no candidate with the reason."""
    files = _files(results, device)
    contenders = results.contenders[["key", "student", "training", "technique", "seed"]]
    joined = contenders.merge(files, on="key")
    by = ["student", "technique", "training", "export", "threads", "comparability"]
    found, left = [], [*_untrained(results), *_not_exported(results)]
    for _, rows in joined.groupby(by, sort=False):
        candidate = _candidate(rows, device)
        first = rows.iloc[0]
        if device is not None and not bool(first["valid"]):
            reason = f"its measurement is not valid: {first['reasons']}"
            left.append(LeftOut(candidate.words, reason, "measurements that are not valid"))
        else:
            found.append(candidate)
    if device is not None:
        left += _unmeasured(results, set(zip(files["key"], files["export"], strict=True)), device)
    return found, left


def _files(results: Results, device: str | None) -> pd.DataFrame:
    """One row per file, on a device beside the latency of its graph there."""
    if device is None:
        renamed = {"test_accuracy": "artifact_accuracy", "runtime": "checked_in"}
        return results.artifacts.rename(columns=renamed).assign(threads=0, comparability="")
    deployed = results.deployed
    mine = (deployed["device"] == device) & (deployed["scenario"] != "offline")
    drop = ["student", "method", "teacher", "seed", "budget"]
    return deployed[mine].drop(columns=drop)


def _candidate(rows: pd.DataFrame, device: str | None) -> Candidate:
    order = rows.sort_values(
        ["validation_accuracy", "seed"], ascending=[False, True], kind="stable"
    )
    row: dict[str, Any] = {str(name): value for name, value in order.iloc[0].items()}
    latency = None
    if device is not None:
        p90 = {f"p90_{end}": float(row[f"p90_ms_{end}"]) for end in ("low", "high")}
        latency = Latency(
            device=device,
            origin=str(row["origin"]),
            threads=int(row["threads"]),
            runtime=f"{row['runtime']} {row['runtime_version']}",
            p50_ms=float(row["p50_ms"]),
            p90_ms=float(row["p90_ms"]),
            warnings=str(row["warnings"]),
            **p90,
        )
    test = rows["artifact_accuracy"].to_numpy(dtype=float)
    return Candidate(
        contender=Contender(row["student"], row["technique"], row["training"]),
        export=row["export"],
        key=row["key"],
        seed=int(row["seed"]),
        path=row["path"],
        bytes=int(row["bytes"]),
        validation=stats.interval(rows["validation_accuracy"].to_numpy(dtype=float)),
        test=stats.interval(test),
        own_validation=float(row["validation_accuracy"]),
        own_test=float(row["artifact_accuracy"]),
        test_by_seed=dict(zip(rows["seed"].astype(int), test.tolist(), strict=True)),
        latency=latency,
    )


# ---------------------------------------------------------------- what is no candidate


def _untrained(results: Results) -> Iterator[LeftOut]:
    """Cells without a trained network: skipped, failed, damaged, or not yet run."""
    names = results.contenders.set_index("key")[["student", "technique"]]
    cells = results.cells
    for row in cells[cells["accuracy"].isna()].to_dict("records"):
        student, technique = names.loc[row["key"]]
        reason = row["reason"] or "not run yet"
        what = f"{student} with {technique}, seed {row['seed']}"
        yield LeftOut(what, f"{row['status']}: {reason}", f"trainings that are {row['status']}")


def _not_exported(results: Results) -> Iterator[LeftOut]:
    for result in results.by_key.values():
        for failure in result.failures:
            if failure.stage == "export" and result.checkpoint is not None:
                what = f"{result.cell.label} as {failure.what}"
                yield LeftOut(what, f"not exported: {failure.reason}", "exports that failed")


def _unmeasured(results: Results, there: set[tuple[str, str]], device: str) -> Iterator[LeftOut]:
    """Files whose graph has no latency on the device."""
    artifacts = results.artifacts
    missing: dict[tuple[str, str], None] = {}
    names = results.contenders.set_index("key")[["student", "technique"]]
    for key, export in zip(artifacts["key"], artifacts["export"], strict=True):
        if (key, export) not in there:
            student, technique = names.loc[key]
            missing[f"{student} with {technique}", export] = None
    for words, export in missing:
        yield LeftOut(f"{words} as {export}", f"not measured on {device}", "files not measured")
