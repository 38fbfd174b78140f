"""Blockwise students beside their teacher on a device: size and latency in every format.

The study's matrix (matrices/blockwise-small.yaml), or a results folder of it that
`$KTBENCH_RESULTS` names: each student as ONNX and TFLite, fp32 and int8, against the teacher's own
network, exported and measured in the same way and in turns with it. A row has the median latency
of single images with its 95 % interval and whether it was measured or emulated, the file's size,
and the test accuracy of the file itself. Nothing is promised but a figure for each: a separable
convolution computes far less than a dense one, and need be neither quicker nor, in int8, smaller.
"""

from __future__ import annotations

from benchmarks import _study
from benchmarks._claim import Outcome
from benchmarks._study import TEACHER, Row, Study
from ktbench.records import Artifact, Measurement


def run() -> Outcome:
    """A row per student, finish and export; every file must be there, every graph measured."""
    with _study.results_folder() as folder:
        found = _study.study(folder)
    for line in lines(found):
        print(line)
    return judged(found)


def lines(found: Study) -> list[str]:
    """Student, export, latency and size, each against the teacher's in the same export."""
    told = []
    for row in found.rows:
        for artifact in row.result.artifacts:
            told.append(_line(found, row, artifact))
    return told


def _line(found: Study, row: Row, artifact: Artifact) -> str:
    base = teacher(found, artifact.export.label)
    line = (
        f"{row.student:<20} {row.method:<5} {artifact.export.label:<12} "
        f"{artifact.bytes / 1e3:>7.1f} kB ({artifact.bytes / base.bytes:.2f}), test "
        f"{artifact.test_accuracy:.1%}"
    )
    own, theirs = _measured(found, artifact), _measured(found, base)
    if own is None or theirs is None:
        return f"{line}, latency not measured"
    p50 = own.p50_ms
    return (
        f"{line}, {p50.value:.3f} ms [{p50.low:.3f}, {p50.high:.3f}] "
        f"({p50.value / theirs.p50_ms.value:.2f}), {own.origin} on {own.device.name}"
        f"{'' if own.validity.valid else ', invalid: ' + own.validity.reasons[0]}"
    )


def judged(found: Study) -> Outcome:
    """The ranges of sizes and latencies, and what is missing."""
    sizes, latencies, missing = [], [], 0
    for row in found.rows:
        missing += sum(failure.stage == "export" for failure in row.result.failures)
        for artifact in row.result.artifacts if row.student != TEACHER else ():
            base = teacher(found, artifact.export.label)
            own, theirs = _measured(found, artifact), _measured(found, base)
            sizes.append(artifact.bytes / base.bytes)
            if own is None or theirs is None:
                missing += 1
            else:
                latencies.append(own.p50_ms.value / theirs.p50_ms.value)
    if not sizes:
        raise RuntimeError("no exported blockwise student")
    told = f"{missing} missing, " if missing else ""
    told += f"{min(sizes):.2f} to {max(sizes):.2f} of the teacher's size"
    if latencies:
        told += f", {min(latencies):.2f} to {max(latencies):.2f} of its latency"
    return Outcome(told, "all exported and measured", not missing)


def teacher(found: Study, export: str) -> Artifact:
    """The teacher's own network in this export."""
    for row in found.rows:
        for artifact in row.result.artifacts if row.student == TEACHER else ():
            if artifact.export.label == export:
                return artifact
    raise RuntimeError(f"the teacher's own network was not exported as {export}")


def _measured(found: Study, artifact: Artifact) -> Measurement | None:
    return found.measurements.get((artifact.graph_key, artifact.export.label))
