"""Writes docs/methods.md and docs/performance.md from the catalogue and from what was measured.

    python docs/_generate.py

The costs are those of docs/method_cost.json, which `KTBENCH_METHOD_COST=write python -m benchmarks
method_cost` writes; everything else is read from the methods' own files. The figures of
docs/performance.md are those of docs/performance.json, which `python -m benchmarks --record NAME
...` writes.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import _performance as performance  # noqa: E402
from ktbench import catalogue  # noqa: E402
from ktbench.networks.outline import outline  # noqa: E402
from ktbench.records import Item  # noqa: E402
from ktbench.tasks.image_classification import image_signature  # noqa: E402
from ktbench.transfer_methods._contract import Needs, Setting, Shapes, TransferMethod  # noqa: E402

PAGE, COSTS = HERE / "methods.md", HERE / "method_cost.json"
WORDS = {
    "logits": "logits",
    "stages": "stages",
    "embedding": "embedding",
    "preacts": "pre-activations",
    "stem": "stem",
    "attentions": "attention heads",
}
# (teacher, student): kinds of pairs that a method may refuse, on 32 x 32 images.
PAIRS = {
    "the same widths": ("wrn_40_2", "wrn_16_2"),
    "a wider teacher": ("resnet32x4", "resnet8"),
    "a teacher of other depth": ("vgg13", "resnet8"),
    "a transformer as teacher": ("vit_tiny", "resnet8"),
    "a transformer as student": ("resnet56", "vit_tiny"),
}
# The same for methods that compare tokens.
TOKEN_PAIRS = {
    "convolutional networks": ("wrn_40_2", "wrn_16_2"),
    "transformers that read images": ("vit_tiny", "vit_tiny"),
}
# A network of texts: what methods on tokens are built with, to see their phases.
TEXTS = Shapes(
    logits=2,
    stages=((16, 128),) * 4,
    names=("layer1", "layer2", "layer3", "layer4"),
    embedding=128,
    stem=(16, 128),
    attentions=((2, 16, 64),) * 4,
    mask=16,
)
HEAD = """\
# Transfer methods

This page describes every method of the catalogue. `python docs/_generate.py` writes it from the
methods' own files; `ktbench list methods` shows the same names and settings.

A matrix names a method with the settings that differ from its defaults
([docs/matrix.md](matrix.md)). `combined` is a weighted sum of methods, each with its own
schedule. A chain of teacher assistants (TAKD) is written under `teachers`. Logit standardisation
is the setting `standardise` of every method on logits. The squared difference of logits is
`last_layer`.

## Differences from the CIFAR-100 comparison

Defaults are those of the standard comparison on CIFAR-100 (Tian et al., Contrastive
Representation Distillation, ICLR 2020) if it has the method, and those of the method's paper
otherwise. Where the comparison's code (RepDistiller) computes something else, the method's
section says so, and why the default differs. With `compatible: repdistiller`, a method computes
what that code computes:

```yaml
methods: [none, kd, {attention: {compatible: repdistiller}}, {hint: {compatible: repdistiller}}]
```

On the same weights, the logits, stages and pre-activations of its 22 architectures and the losses
of its 14 methods then agree to rounding in double precision (1e-10; 1e-9 for singular vectors).
`tests/transfer_methods/test_comparison.py` compares them with a second implementation of the
comparison, written from its structure and formulas (`tests/support/comparison_*.py`). The same
test can use the authors' own code. It was run with a transcription of the networks and losses of
their public repository, and they agree (to 1e-6 for its contrastive loss, whose settings it keeps
in single precision, and to 1e-7 for relational distances, which it takes from a Gram matrix):

    git clone https://github.com/HobbitLong/RepDistiller
    KTBENCH_REPDISTILLER=$PWD/RepDistiller pytest tests/transfer_methods/test_comparison.py

The comparison's training around the loss is not reproduced: initial phases of 30 epochs at a
constant rate *before* the 240 of the task (here they are a share of one budget, so every method
costs the same), a normalisation with fixed figures, a smaller last batch in every epoch, and a
best epoch chosen on the test images. Two side effects of its code are left out, too: activation
boundaries update a wide ResNet's BatchNorm statistics twice in a step, and ShuffleNetV2's
channels have another order before activation, which relabels a connector's weights.
"""


def page(costs: dict[str, Any]) -> str:
    """The whole page."""
    names = catalogue.methods()
    parts = [HEAD, _overview(names, costs), _costs(costs)]
    parts += [_method(name) for name in names]
    return "\n".join(parts)


def _doc(name: str) -> list[str]:
    """The paragraphs of a method's file; the first is `Name: idea.`."""
    text = inspect.getdoc(sys.modules[catalogue.method(name).__module__]) or ""
    return text.split("\n\n")


def _needs(needs: Needs) -> str:
    words = [word for field, word in WORDS.items() if getattr(needs, field)]
    return ", ".join(words) or "nothing"


# ---------------------------------------------------------------- all at a glance


def _overview(names: tuple[str, ...], costs: dict[str, Any]) -> str:
    rows = ["| method | idea | reads of the teacher | step |", "|---|---|---|---|"]
    for name in names:
        kind, config = catalogue.method(name), catalogue.method_config(name, {})
        figure = costs["methods"].get(name)
        step = f"{figure['seconds']:.2f}×" if figure else "–"
        idea = " ".join(_doc(name)[0].split())
        rows.append(f"| [`{name}`](#{name}) | {idea} | {_needs(kind.needs(config))} | {step} |")
    what = (
        "`step`: processor time of a training step divided by that of a step without transfer, "
        "without the teacher's pass; see below.\n"
    )
    return "\n".join([*rows, "", what])


# ---------------------------------------------------------------- costs


def _costs(costs: dict[str, Any]) -> str:
    pair = costs["pair"]
    lines = [
        "## What they cost",
        "",
        f"The figures compare a step of {pair['student']} taught by {pair['teacher']} with a step "
        f"without transfer (batch {pair['batch']}, {pair['image']} × {pair['image']} images, "
        f"{pair['train_size']:,} training images). They are medians over rounds in which every "
        "method takes its turn. The teacher's own pass, which a cohort's students share, takes "
        f"{costs['teacher']:.2f} of a plain step and is in no figure. Memory is the most that a "
        "step's tensors hold at once. A method of several phases counts with its most expensive "
        "one. Methods that compare tokens cannot be trained with this pair, and have no figure. "
        "Differences of a few hundredths come from the machine, not the methods. Measured "
        f"by `python -m benchmarks method_cost` on one thread of {costs['machine']}, torch "
        f"{costs['torch']}.",
        "",
        "| method | seconds | FLOPs | peak memory | adaptors' parameters | held between steps |",
        "|---|---|---|---|---|---|",
    ]
    for name, figure in sorted(costs["methods"].items(), key=lambda item: item[1]["seconds"]):
        lines.append(
            f"| `{name}` | {figure['seconds']:.2f}× | {figure['flops']:.2f}× | "
            f"{figure['memory']:.2f}× | {figure['parameters']:,} | {_bytes(figure['state'])} |"
        )
    return "\n".join([*lines, "", *_growth(costs["growth"]), ""])


def _growth(growth: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    few, many = growth["crd"]
    yield (
        "`crd` keeps both networks' embeddings of the whole training set, 8 · N · 128 bytes, and "
        "compares each batch with all of them, so that memory and time grow linearly "
        f"with N: {_grown(few)} at N = {few['train_size']:,}, {_grown(many)} at "
        f"N = {many['train_size']:,}."
    )
    yield ""
    small, large = growth["nst"]
    yield (
        "`nst` needs the smaller of B · (C_s² + C_s C_t + C_t²) numbers (kernels between channels) "
        "and 2 · B · (H W)² (moments between positions), so that neither wide stages nor large "
        "maps exhaust memory. Its products grow linearly with the number of positions, as the "
        f"network's own do: {_grown(small)} at {small['image']} × {small['image']}, "
        f"{_grown(large)} at {large['image']} × {large['image']} images."
    )


def _grown(row: dict[str, Any]) -> str:
    held = f", {_bytes(row['state'])} held" if row["state"] else ""
    return f"{row['seconds']:.2f}× the time and {row['memory']:.2f}× the peak memory{held}"


def _bytes(number: int) -> str:
    if number < 1000:
        return f"{number} B" if number else "–"
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


# ---------------------------------------------------------------- one method


def _method(name: str) -> str:
    kind, config = catalogue.method(name), catalogue.method_config(name, {})
    idea, *rest = _doc(name)
    formula = (inspect.getdoc(kind) or "").split("\n\n")[0]
    lines = [f"## {name}", "", idea, ""]
    for paragraph in rest:
        lines += [paragraph, ""]
    lines += [f"Loss: {' '.join(formula.split())}", ""]
    lines.append(f"- Reads of the teacher: {_needs(kind.needs(config))}.")
    if kind.student_needs(config) != kind.needs(config):
        lines.append(f"- Reads of the student: {_needs(kind.student_needs(config))}.")
    built, pairs = _built(name, *PAIRS["the same widths"]), PAIRS
    if isinstance(built, str):
        built, pairs = _built_at(name, TEXTS, TEXTS), TOKEN_PAIRS
    assert isinstance(built, TransferMethod), built
    lines.append(f"- Phases at its defaults: {_phases(built)}.")
    refused = [_refusal(name, what, *pair) for what, pair in pairs.items()]
    lines += [f"- Not for {reason}" for reason in refused if reason]
    settings = catalogue.method_settings(name)
    if settings:
        lines += ["", "| setting | default | what it says |", "|---|---|---|"]
        for setting, info in settings.items():
            default = json.dumps(info.default, default=str).replace("|", "\\|")
            lines.append(f"| `{setting}` | `{default}` | {info.doc.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


def _built(name: str, teacher: str, student: str) -> TransferMethod | str:
    """The method at its defaults for a pair, or why it does not fit."""
    return _built_at(name, _shapes(teacher), _shapes(student))


def _built_at(name: str, theirs: Shapes, ours: Shapes) -> TransferMethod | str:
    at = Setting(ours, theirs, num_classes=100, train_size=1000, batch_size=64)
    kind, config = catalogue.method(name), catalogue.method_config(name, {})
    return kind.incompatible(config, at) or kind(config, at)


@cache
def _shapes(network: str) -> Shapes:
    return outline(Item(name=network), image_signature(100, (3, 32, 32)), ".").shapes


def _phases(method: TransferMethod) -> str:
    phases = method.phases()
    if len(phases) == 1:
        return (
            "one" if phases[0].teacher and type(method).needs(method.config) else "one, no teacher"
        )
    told = [f"`{p.name}` until {p.until:.3g}" for p in phases[:-1]]
    told.append(f"then `{phases[-1].name}`")
    quiet = [f"`{p.name}`" for p in phases if not p.teacher]
    return ", ".join(told) + (f"; no teacher is run in {' and '.join(quiet)}" if quiet else "")


def _refusal(name: str, what: str, teacher: str, student: str) -> str | None:
    built = _built(name, teacher, student)
    return f"{what}, as {teacher} → {student}: {built}." if isinstance(built, str) else None


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(COSTS.read_text(encoding="utf-8"))), encoding="utf-8")
    performance.write_page()
