"""Every technique gains or loses over no transfer as the literature reports, in two pairs.

The results are those of matrices/zoo-small.yaml, committed as results/reference/zoo-small.ktb, or
the folder or pack that `$KTBENCH_RESULTS` names: every technique, a ResNet-20 that teaches a
ResNet-8 (one style) and a narrow VGG-8 (two styles), five seeds each. Gains in test accuracy are
paired by seed, with Student's t interval at 95 %.

The literature's gain is the published accuracy less that of the student without transfer, on
CIFAR-100 after 240 epochs of 50,000 images, for the pair that is nearest to ours. A sign is *met*
where ours is clear and the same, *opposite* where it is clear and the other, and *open* where our
interval holds zero. The claim is that no sign is opposite.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ktbench
from benchmarks._claim import Outcome
from ktbench import stats
from ktbench.records import KtbenchError

PACK = Path(__file__).resolve().parent.parent / "results" / "reference" / "zoo-small.ktb"
SAME, CROSS = "resnet8", "vgg8(width=0.25)"

CRD = "Tian et al., ICLR 2020"
DKD = "Zhao et al., CVPR 2022"
DIST = "Huang et al., NeurIPS 2022"


@dataclass(frozen=True)
class Published:
    """A technique's published gains over no transfer, in points; None where there is no figure."""

    same: float | None
    """ResNet-56 teaches ResNet-20, whose accuracy without transfer is 69.06 %."""
    cross: float | None
    """ResNet-50 teaches VGG-8 (70.36 %), or MobileNetV2 (64.60 %) where that is not published."""
    source: str


def _gains(same: float, cross: float | None, source: str, baseline: float = 70.36) -> Published:
    return Published(
        round(same - 69.06, 2), None if cross is None else round(cross - baseline, 2), source
    )


LITERATURE: Mapping[str, Published] = {
    "kd": _gains(70.66, 73.81, CRD),
    "hint": _gains(69.21, 70.69, CRD),
    "attention": _gains(70.55, 71.84, CRD),
    "similarity": _gains(69.67, 73.34, CRD),
    "correlation": _gains(69.63, 70.25, CRD),
    "vid": _gains(70.38, 70.30, CRD),
    "rkd": _gains(69.61, 71.50, CRD),
    "pkt": _gains(70.34, 73.01, CRD),
    "ab": _gains(69.47, 70.65, CRD),
    "factor": _gains(69.84, 70.29, CRD),
    "fsp": _gains(69.95, None, CRD),
    "nst": _gains(69.60, 71.28, CRD),
    "crd": _gains(71.16, 74.30, CRD),
    "ofd": _gains(70.98, 69.04, DKD, baseline=64.60),
    "reviewkd": _gains(71.89, 69.89, DKD, baseline=64.60),
    "dkd": _gains(71.97, 70.35, DKD, baseline=64.60),
    "dist": _gains(71.75, 68.66, DIST, baseline=64.60),
}


def run() -> Outcome:
    """Print a row per technique and pair; judge whether a clear sign is the opposite one."""
    verdicts: Counter[str] = Counter()
    for student, style in ((SAME, "same"), (CROSS, "cross")):
        for technique, gain in gains(student).items():
            published: float | None = getattr(LITERATURE.get(technique), style, None)
            verdict = compared(gain, published)
            verdicts[verdict] += 1
            print(_row(student, technique, gain, published, verdict))
    with_figure = sum(count for verdict, count in verdicts.items() if verdict != "no figure")
    return Outcome(
        f"{verdicts['opposite']} of {with_figure} signs are clearly opposite, "
        f"{verdicts['met']} are met, {verdicts['open']} are open",
        "0 opposite",
        verdicts["opposite"] == 0 and with_figure > 0,
    )


def gains(student: str, results: Path | None = None) -> dict[str, stats.Interval]:
    """Return the gain of every technique for `student`, paired by seed, best first.

    Raises KtbenchError where the results hold no such student.
    """
    path = results or Path(os.environ.get("KTBENCH_RESULTS", PACK))
    cells = ktbench.load_results(path).cells
    cells = cells[(cells.student == student) & (cells.status == "done")]
    accuracies = {
        str(method): dict(zip(group.seed, group.accuracy, strict=True))
        for method, group in cells.groupby("method", observed=True)
    }
    if "none" not in accuracies:
        raise KtbenchError(f"{path}: no {student} without transfer: run matrices/zoo-small.yaml")
    baseline = accuracies.pop("none")
    paired = {name: stats.paired_gain(taught, baseline) for name, taught in accuracies.items()}
    complete = {name: gain for name, gain in paired.items() if gain is not None}
    return dict(sorted(complete.items(), key=lambda item: -item[1].mean))


def compared(gain: stats.Interval, published: float | None) -> str:
    """Return `met`, `opposite`, `open` or, without a published figure, `no figure`."""
    if published is None:
        return "no figure"
    if gain.sign not in ("positive", "negative"):
        return "open"
    return "met" if (gain.mean > 0) == (published > 0) else "opposite"


def _row(
    student: str, technique: str, gain: stats.Interval, published: float | None, verdict: str
) -> str:
    low, high = (float("nan") if edge is None else 100 * edge for edge in (gain.low, gain.high))
    literature = "" if published is None else f"{published:+.1f}"
    return (
        f"{student:<18} {technique:<28} {100 * gain.mean:+5.1f} [{low:+.1f}, {high:+.1f}]"
        f"  published {literature:>5}  {verdict}"
    )
