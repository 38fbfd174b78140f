"""A transfer that counts for a part of the training only: its loss, its cost, its invariants."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ktbench import catalogue
from ktbench.catalogue.transfer_window import misfit
from ktbench.data import Stream
from ktbench.networks.numeric import EVERYTHING
from ktbench.records import Cell, Checkpoint, Failure, Item, Window
from ktbench.students._contract import Features
from ktbench.teacher.live import Live
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.context import SharedInputs
from ktbench.train.device_placement import make_batch, make_probe
from ktbench.train.seeds import derived_seed
from ktbench.train.trainee import Trainee
from ktbench.transfer_methods._contract import Batch, Needs, Phase, Scale, Scope, Update
from tests.support import caching
from tests.support import method_cases as cases
from tests.support.training import HERE, TRAIN, cell, digits, places_in, teacher, train

MIDDLE = {"start": 1 / 3, "end": 2 / 3}
"""The second of three epochs: its steps are 3, 4 and 5 of nine."""
STEPS = 9


class Counted:
    """A source that remembers the steps that it was asked for."""

    def __init__(self, source: Live) -> None:
        self._source = source
        self.steps: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        if len(batch.indices) == TRAIN.batch_size:  # and not the probe of sixteen
            self.steps.append(batch.step)
        return self._source.outputs(batch, needs)


def _windowed(method: str = "kd", **changes: Any) -> Cell:
    of = {key: changes.pop(key) for key in ("start", "end", "scale") if key in changes}
    return cell(method, distill=Window(**of), **changes)


def _made(cells: list[Cell], root: Path, **options: Any) -> list[Checkpoint]:
    outcomes = train(cells, root, **options)
    for outcome in outcomes:
        assert isinstance(outcome, Checkpoint), outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Checkpoint)]


# ---------------------------------------------------------------- what is run, and what it costs


@pytest.mark.slow
def test_no_teacher_is_run_outside_the_window_unless_another_student_needs_it(
    tmp_path: Path,
) -> None:
    def trained(*cells: Cell) -> tuple[list[int], list[Checkpoint]]:
        source, place = Counted(teacher(tmp_path)), tmp_path / str(len(cells)) / cells[0].key
        made = train_cohort(
            cells,
            TrainingContext(
                dataset=digits(),
                teacher=source,
                places=places_in(place),
                base=HERE,
                memory=10**12,  # so that no throw-away step is taken to measure what they take
            ),
        )
        return source.steps, [outcome for outcome in made if isinstance(outcome, Checkpoint)]

    middle, late = _windowed(**MIDDLE), _windowed("attention", start=0.5, end=0.9)
    asked, [alone] = trained(middle)
    assert asked == [3, 4, 5]
    assert trained(middle, late)[0] == [3, 4, 5, 6, 7, 8]
    everything, [whole, shared] = trained(cell("kd"), middle)
    assert everything == list(range(STEPS))
    for made in (alone, shared):
        assert made.cost.teacher_flops * STEPS == whole.cost.teacher_flops * 3
    assert shared.digest == alone.digest != whole.digest
    assert alone.cost.teacher_seconds > 0


# ---------------------------------------------------------------- the loss


@pytest.mark.slow
def test_kept_to_scale_kd_is_what_it_is_with_a_window_of_its_own(tmp_path: Path) -> None:
    """Its own is written in its file: weight 1 outside, the sum of its two weights."""
    kept = _windowed(**MIDDLE, scale="keep")
    own, ours, jumped = _made(
        [cell("kd", settings=MIDDLE), kept, _windowed(**MIDDLE, scale="jump")], tmp_path
    )
    assert ours.digest == own.digest != jumped.digest
    assert ours.cost.flops == own.cost.flops
    assert ours.cost.teacher_flops == own.cost.teacher_flops


def _reference(of: Cell, root: Path, outside: float) -> dict[str, torch.Tensor]:
    """The same training written down once more, in double precision, with torch's plain SGD."""
    torch.manual_seed(derived_seed(of.seed, 101))
    build = catalogue.build_student
    student = build(of.student.name, of.student.settings, num_classes=10, in_channels=1).double()
    stream, spec, live = Stream(digits(), of.seed, 32), of.train, teacher(root)
    momentum = {name: torch.zeros_like(p) for name, p in student.named_parameters()}
    assert of.distill is not None
    for step in range(STEPS):
        epoch, number = divmod(step, stream.steps_per_epoch)
        of_steps = {"epoch": epoch, "step": step, "steps": STEPS, "device": torch.device("cpu")}
        batch = make_batch(stream, stream.order(epoch)[number], **of_steps)  # type: ignore[arg-type]
        logits = student.train()(batch.inputs.double())
        loss = outside * functional.cross_entropy(logits, batch.labels)
        if of.distill.start <= step / STEPS < of.distill.end:
            theirs = live.outputs(batch, Needs(logits=True)).logits.double()
            soft = (logits / 4).log_softmax(1), (theirs / 4).softmax(1)
            divergence = 16 * functional.kl_div(*soft, reduction="batchmean")
            loss = 0.1 * functional.cross_entropy(logits, batch.labels) + 0.9 * divergence
        rate = spec.lr * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for (name, p), gradient in zip(student.named_parameters(), gradients, strict=True):
                momentum[name] = 0.9 * momentum[name] + gradient + spec.weight_decay * p
                p -= rate * momentum[name]
    return {name: p.detach() for name, p in student.named_parameters()}


@pytest.mark.slow
def test_weights_are_those_of_the_same_training_by_hand(tmp_path: Path) -> None:
    """Momentum goes on across both edges of the window."""
    for scale, outside, other in (("jump", 0.1, 1.0), ("keep", 1.0, 0.1)):
        of = _windowed(**MIDDLE, scale=scale)
        [made] = _made([of], tmp_path)
        ours = torch.load(tmp_path / made.path, weights_only=True)

        def distance(weights: dict[str, torch.Tensor], ours: dict[str, Any] = ours) -> float:
            return max(float((ours[name] - w).abs().max()) for name, w in weights.items())

        right, wrong = _reference(of, tmp_path, outside), _reference(of, tmp_path, other)
        assert distance(right) < 1e-4 < 1e-2 < distance(wrong)


FREE = [
    name
    for name in catalogue.methods()
    if catalogue.method(name).needs(catalogue.method_config(name, {}))
    and catalogue.method(name).scale(catalogue.method_config(name, {})) is not None
]


@pytest.mark.parametrize("name", FREE)
def test_the_term_ce_weighs_what_the_method_says(name: str) -> None:
    method, at = cases.possible(name, {})
    scale = method.scale(method.config)
    assert scale is not None and at.teacher is not None
    student, taught = cases.features(at.student), cases.features(at.teacher, seed=1)
    carried = 0
    for phase, batch in zip(method.phases(), cases.phase_batches(method), strict=True):
        if phase.teacher and any(u.terms is None or "ce" in u.terms for u in phase.updates):
            plain = functional.cross_entropy(student.logits, batch.labels)
            terms = method.loss(student, taught, batch)
            assert float(terms["ce"].detach()) == pytest.approx(scale.ce * float(plain.detach()))
            carried += 1
    assert carried or not any(phase.teacher for phase in method.phases()[1:])


def _trainee(of: Cell, root: Path) -> Trainee:
    live, probe = teacher(root), make_probe(Stream(digits(), of.seed, 32))
    taught = live.outputs(probe, EVERYTHING)
    return Trainee(of, SharedInputs(digits(), HERE, probe, taught, live.stage_names))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FREE if name in cases.for_maps()])
def test_outside_the_window_a_method_trains_as_cross_entropy_alone_and_moves_no_adaptor(
    name: str, tmp_path: Path
) -> None:
    """From equal weights, for two steps after the window, whatever the method is made of."""
    settings = {"parts": ["crd"]} if name == "combined" else {}  # so that it weighs 1 too
    student = Item(name="resnet8")
    ours = _trainee(
        _windowed(name, end=0.5, scale="keep", settings=settings, student=student), tmp_path
    )
    plain = _trainee(cell("none", student=student), tmp_path)
    stream = Stream(digits(), 0, 32)
    adaptors = {k: v.clone() for k, v in ours.method.named_parameters()}
    for step in (6, 7):
        epoch, number = divmod(step, 3)
        batch = make_batch(
            stream, stream.order(epoch)[number],
            epoch=epoch, step=step, steps=STEPS, device=torch.device("cpu"),
        )  # fmt: skip
        assert not ours.needs(batch.progress)
        for trainee in (ours, plain):
            trainee.step(batch, None)
    for (key, value), other in zip(
        ours.student.state_dict().items(), plain.student.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-6, msg=key)
    assert all(torch.equal(v, adaptors[k]) for k, v in ours.method.named_parameters())


# ---------------------------------------------------------------- invariant 1


@pytest.mark.slow
def test_windowed_students_are_the_same_alone_in_a_cohort_stopped_and_cached(
    tmp_path: Path,
) -> None:
    adam = TRAIN.model_copy(update={"optimiser": "adam", "lr": 0.01, "views": 2, "epochs": 4})
    cells = [
        cell("none", train=adam),
        cell("kd", train=adam),
        _windowed("kd", end=0.4, train=adam),
        _windowed("intermediate_last_per_layer", start=0.25, end=0.75, scale="keep", train=adam),
        _windowed("crd", start=0.3, train=adam),
    ]
    (tmp_path / "together").mkdir()
    together = _made(cells, tmp_path / "together")
    for of, whole in list(zip(cells, together, strict=True))[2:]:
        (tmp_path / of.key).mkdir()
        for _ in range(5):
            told: list[object] = []

            def tell(progress: object, told: list[object] = told) -> None:
                told.append(progress)
                if len(told) == 2:
                    raise InterruptedError

            try:
                [made] = _made([of], tmp_path / of.key, report=tell, checkpoint_seconds=0.0)
                break
            except InterruptedError:
                continue
        assert made.digest == whole.digest, of.label
        assert made.cost.teacher_flops == whole.cost.teacher_flops
    for _ in range(2):  # once to fill the cache, once to read it
        kept = caching.trial(cells[2], tmp_path, keep=["logits"])
        assert kept.digest == together[2].digest
    assert kept.shares[0] > 0


# ---------------------------------------------------------------- what does not suit

HINT = Phase("hint", 0.25, (Update(("hint",)),))
WORDS = Phase("words", 0.25, (Update(("ce",)), Update(("w",), Scope.nothing())))
TASK = Phase("task", 1.0, (Update(("ce", "transfer")),))
FREE_TASK = Phase("task", 1.0, teacher=False)


@pytest.mark.parametrize(
    ("phases", "window", "reason"),
    [
        ([TASK], {"start": 0.3, "end": 0.4}, None),
        ([HINT, TASK], {"end": 0.25}, None),
        ([HINT, TASK], {"end": 0.2}, "phase 'hint' (0 to 0.25 of the training) trains no"),
        ([HINT, TASK], {"start": 0.1}, "phase 'hint'"),
        ([WORDS, TASK], {"end": 0.5}, None),
        ([WORDS, TASK], {"start": 0.1}, "phase 'words' (0 to 0.25 of the training) prepares"),
        ([WORDS, FREE_TASK], {"end": 0.3}, None),
        ([FREE_TASK], {"end": 0.3}, "reads no teacher in the window 0 to 0.3"),
        ([TASK], {"start": 0.01, "end": 0.02}, "reads no teacher in the window 0.01 to 0.02"),
    ],
)
def test_a_window_suits_phases_that_carry_cross_entropy_or_lie_within_it(
    phases: list[Phase], window: dict[str, float], reason: str | None
) -> None:
    found = misfit(Window(**window), Scale(), phases, steps=20)  # type: ignore[arg-type]
    assert (found is None) if reason is None else (found is not None and reason in found)
    without = misfit(Window(**window), None, phases, steps=20)  # type: ignore[arg-type]
    assert without is not None and "no cross-entropy to continue with" in without


OWN = """
from ktbench.transfer_methods.kd import Config, Method as Kd

class Renamed(Kd):
    Config = Config

    def loss(self, student, teacher, batch):
        terms = super().loss(student, teacher, batch)
        return {"label": terms.pop("ce"), **terms}
"""


def test_a_method_of_a_users_without_the_term_ce_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    [failure] = train([_windowed(f"{tmp_path / 'own.py'}:Renamed", end=0.5)], tmp_path)
    assert isinstance(failure, Failure)
    assert "loss gave no term 'ce'" in failure.reason
