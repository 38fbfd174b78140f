"""What holds for every transfer method of the catalogue, at every pair of shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ktbench import catalogue
from ktbench.records import KtbenchError
from ktbench.students._contract import Features
from ktbench.transfer_methods._contract import Needs, Phase, Scope, TransferMethod
from tests.support import method_cases as cases
from tests.support.method_cases import build, possible

# Settings beside the defaults that take another way through a method.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "kd": [{"start": 0.2, "end": 0.6}, {"standardise": True}],
    "fitnet": [
        {"distance": "half_squared", "kd_first": 4.0, "kd_last": 1.0, "pairs": "last"},
        {"pairs": [[0, "stage1"]], "second": "rest"},
    ],
    "hint": [{"pairs": "similarity_untrained", "rectify": False}],
    "intermediate_last": [
        {"adapt": "embedding"},
        {"adapt": "none"},
        {"pairs": "similarity_untrained", "adapt": "none"},
        {"logits_weight": 0.0},
    ],
    "intermediate_last_per_layer": [{"adapt": "embedding", "pairs": [[-1, -1], [0, 1]]}],
    "intermediate_embedding": [
        {"embedding": "dense"},
        {"trained": "student"},
        {"trained": "none", "pairs": "similarity_untrained"},
    ],
    "attention": [{"power": 1.0, "pairs": "similarity_untrained"}],
    "dkd": [{"warmup": 0.0}, {"standardise": True}],
    "dist": [{"standardise": True}],
    "similarity": [{"pairs": "stage"}],
    "correlation": [{"form": "kernel"}],
    "vid": [{"pairs": "similarity_untrained", "variance": 1.0}],
    "rkd": [{"angle": 0.0}, {"distance": 0.0}],
    "nst": [{"pairs": "last"}],
    "ab": [{"pairs": "similarity_untrained", "margin": 2.0}],
    "ofd": [{"pairs": "last"}],
    "factor": [{"pairs": "middle", "rate": 0.25}, {"form": "vectors"}],
    "kdsvd": [{"vectors": 3}],
    "crd": [{"negatives": 8}],
    "reviewkd": [{"width": 6, "warmup": 0.0}],
    "self_distillation": [{"weight": 1.0, "feature_weight": 0.0}],
    "combined": [
        {"parts": [{"method": "kd"}, {"method": "crd", "weight": 2.0}]},
        {
            "ce_weight": 0.5,
            "parts": [
                {"method": "fitnet", "settings": {"hint_until": 0.3}},
                {"method": "attention", "start": 0.2, "end": 0.6, "last_weight": 0.0},
                {"method": "attention", "settings": {"pairs": [[0, 0]]}},
            ],
        },
        {
            "parts": [
                {"method": "intermediate_last_per_layer", "end": 0.5},
                {"method": "kd", "settings": {"start": 0.2, "end": 0.9}},
                {"method": "factor", "settings": {"form": "vectors"}},
                {"method": "ab"},
                {"method": "self_distillation"},
            ]
        },
        {
            "parts": [
                {"method": "kd", "start": 0.6},
                {"method": "patient", "weight": 2.0},
                {"method": "hidden_states", "end": 0.6},
                {"method": "attention_maps", "end": 0.6},
                "minilm",
            ]
        },
    ],
    "patient": [{"pairs": "last"}, {"pairs": [[-1, "layer3"]]}],
    "hidden_states": [
        {"pairs": "last", "stem_weight": 0.0},
        {"pairs": "similarity_untrained", "ce_weight": 0.0},
    ],
    "attention_maps": [{"pairs": [["layer1", 0], [-1, -1]]}],
    "minilm": [
        {"relations": ["query", "key", "value"], "heads": 4},
        {"relations": ["attention"], "layer": 0},
    ],
    "soft_logits": [{"standardise": True, "temperature": 5.0}],
    "last_layer": [{"standardise": True}],
    "hard_logits": [{"standardise": True}],
}
COMPATIBLE = {"compatible": "repdistiller"}
for _name in catalogue.methods():
    if "compatible" in catalogue.method_settings(_name):
        VARIANTS.setdefault(_name, []).append(COMPATIBLE)
VARIANTS["crd"].append({"negatives": 8, **COMPATIBLE})
CHOSEN = [(name, {}) for name in catalogue.methods()] + [
    (name, settings) for name, variants in VARIANTS.items() for settings in variants
]
# Shapes beside which a method's own paper has nothing to compare.
EQUAL_WIDTHS = {"wider", "deeper", "shallower", "larger maps", "smaller maps", "tokens"}
REFUSED: dict[str, set[str]] = {
    "fsp": EQUAL_WIDTHS,
    "kdsvd": EQUAL_WIDTHS,
    "factor": {"smaller maps"},  # one position, whose map is constant
    "patient": {"wider", "longer", "without a mask", "maps"},
    "hidden_states": {"longer", "without a stem", "maps"},
    "attention_maps": {"more heads", "longer", "maps"},
    "minilm": {"more heads", "longer", "maps"},
}


# The comparison knows no tokens, enlarges no map but to twice its size, and connects equal numbers.
COMPARED_REFUSES: dict[str, set[str]] = {
    name: {"tokens"} for name in ("attention", "similarity", "vid", "nst", "factor")
} | {
    "hint": {"tokens", "larger maps"},
    "ab": {"tokens", "larger maps", "deeper", "shallower"},
}


def may_refuse(name: str, settings: dict[str, Any], teacher: str) -> bool:
    refused = EQUAL_WIDTHS if settings.get("adapt") == "none" else REFUSED.get(name, set())
    for part in settings.get("parts", ()):
        refused = refused | REFUSED.get(part if isinstance(part, str) else part["method"], set())
    if settings.get("compatible") == "repdistiller":
        refused = refused | COMPARED_REFUSES.get(name, set())
    return any(teacher.startswith(shape) for shape in refused)


def chosen_id(value: object) -> str:
    return str(value).replace(" ", "") if value else "defaults"


def total(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def check_steps(method: TransferMethod, student: Features, teacher: Features) -> None:
    """Loss and gradients are finite in every phase."""
    classes = student.logits.shape[1]
    for batch in cases.phase_batches(method, student.logits.shape[0], classes):
        terms = method.loss(student, teacher, batch)
        assert terms
        for term_name, term in terms.items():
            assert term.ndim == 0, term_name
            assert torch.isfinite(term), f"{term_name} in phase {batch.phase}"
        moved = [x for x in cases.tensors(student)] + [
            p for p in method.parameters() if p.requires_grad
        ]
        gradients = torch.autograd.grad(total(terms), moved, allow_unused=True)
        reached = [g for g in gradients if g is not None]
        assert reached
        assert all(torch.isfinite(g).all() for g in reached), f"phase {batch.phase}"


each_method = pytest.mark.parametrize(("name", "settings"), CHOSEN, ids=chosen_id)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "teacher"),
    [(*chosen, teacher) for chosen in CHOSEN for teacher in cases.teachers_of(*chosen)],
    ids=chosen_id,
)
def test_every_pair_of_shapes_trains_or_has_a_reason(
    name: str, settings: dict[str, Any], teacher: str
) -> None:
    shapes = cases.teachers_of(name, settings)[teacher]
    at = cases.setting(shapes, cases.student_of(name, settings))
    method = build(name, settings, at)
    if isinstance(method, str):
        assert may_refuse(name, settings, teacher), f"{name}: {method}"
        assert len(method.splitlines()) == 1
        assert 20 < len(method) < 200
        return
    assert at.teacher is not None
    check_steps(method, cases.features(at.student, seed=1), cases.features(at.teacher, seed=2))


@each_method
def test_a_batch_of_one_trains(name: str, settings: dict[str, Any]) -> None:
    method, at = possible(name, settings)
    check_steps(
        method, cases.features(at.student, 1, seed=1), cases.features(at.student, 1, seed=2)
    )


@each_method
def test_one_class_trains(name: str, settings: dict[str, Any]) -> None:
    one = replace(cases.student_of(name, settings), logits=1)
    method = build(name, settings, cases.setting(one, one))
    assert not isinstance(method, str)
    check_steps(method, cases.features(one, seed=1), cases.features(one, seed=2))


@each_method
def test_equal_and_dead_features_give_finite_gradients(name: str, settings: dict[str, Any]) -> None:
    method, at = possible(name, settings)
    check_steps(method, cases.features(at.student, seed=1), cases.features(at.student, seed=1))
    dead = cases.features(at.student, scale=0.0)
    check_steps(method, dead, cases.features(at.student, scale=0.0))
    check_steps(method, dead, cases.features(at.student, seed=2))
    check_steps(method, cases.features(at.student, seed=2), dead)


@each_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_with_large_values_stay_finite(
    name: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    method, at = possible(name, settings)
    student = cases.features(at.student, seed=1, scale=300.0, dtype=dtype)
    teacher = cases.features(at.student, seed=2, scale=300.0, dtype=dtype)
    for batch in cases.phase_batches(method):
        for term_name, term in method.loss(student, teacher, batch).items():
            assert term.dtype == torch.float32, term_name
            assert torch.isfinite(term), term_name


@each_method
def test_a_diverged_student_shows_in_the_loss_and_raises_nothing(
    name: str, settings: dict[str, Any]
) -> None:
    method, at = possible(name, settings)
    student = cases.features(at.student, seed=1, scale=float("nan"))
    for phase, batch in zip(method.phases(), cases.phase_batches(method), strict=True):
        if all(update.student == Scope.nothing() for update in phase.updates):
            continue  # the student waits
        terms = method.loss(student, cases.features(at.student, seed=2), batch)
        assert not torch.isfinite(total(terms)), batch.phase


@each_method
def test_the_teacher_gets_no_gradient(name: str, settings: dict[str, Any]) -> None:
    method, at = possible(name, settings)
    student = cases.features(at.student, seed=1)
    teacher = cases.features(at.student, seed=2)
    for batch in cases.phase_batches(method):
        total(method.loss(student, teacher, batch)).backward()
    assert all(x.grad is None for x in cases.tensors(teacher))


@each_method
def test_phases_end_at_one_and_name_only_terms_and_adaptors_that_exist(
    name: str, settings: dict[str, Any]
) -> None:
    method, at = possible(name, settings)
    phases = list(method.phases())
    ends = [phase.until for phase in phases]
    assert ends[-1] == 1.0
    assert ends == sorted(set(ends))
    assert ends[0] > 0
    assert len({phase.name for phase in phases}) == len(phases)
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    parameters = [parameter for parameter, _ in method.named_parameters()]
    for phase, batch in zip(phases, cases.phase_batches(method), strict=True):
        terms = set(method.loss(student, teacher, batch))
        for update in phase.updates:
            assert set(update.terms or ()) <= terms
            for prefix in update.adaptors or ():
                assert any(parameter.startswith(prefix) for parameter in parameters), prefix
        covered = [set(u.terms) if u.terms is not None else terms for u in phase.updates]
        assert set().union(*covered) == terms, "a term moves nothing"


@each_method
def test_every_trainable_adaptor_is_moved_by_some_update(
    name: str, settings: dict[str, Any]
) -> None:
    other = "wider" if cases.reads_tokens(name, settings) else "larger maps"
    refuses = may_refuse(name, settings, other)
    method, at = possible(name, settings, "same" if refuses else other)
    assert at.teacher is not None
    student = cases.features(at.student, seed=1)
    teacher = cases.features(at.teacher, seed=2)
    moved: set[str] = set()
    for phase, batch in zip(method.phases(), cases.phase_batches(method), strict=True):
        terms = method.loss(student, teacher, batch)
        for update in phase.updates:
            moved |= _moved(method, phase, terms, update.terms, update.adaptors)
    trainable = {n for n, p in method.named_parameters() if p.requires_grad}
    assert moved >= trainable


def _moved(
    method: TransferMethod,
    phase: Phase,
    terms: dict[str, torch.Tensor],
    names: tuple[str, ...] | None,
    prefixes: tuple[str, ...] | None,
) -> set[str]:
    parameters = {
        n: p
        for n, p in method.named_parameters()
        if p.requires_grad and (prefixes is None or n.startswith(prefixes))
    }
    chosen = [terms[n] for n in (terms if names is None else names)]
    loss = torch.stack(chosen).sum()
    if not parameters or not loss.requires_grad:
        return set()
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, retain_graph=True
    )
    return {
        n
        for n, g in zip(parameters, gradients, strict=True)
        if g is not None and bool(g.abs().sum() > 0)
    }


@each_method
def test_needs_are_exactly_what_is_read(name: str, settings: dict[str, Any]) -> None:
    method, at = possible(name, settings)
    needs = type(method).needs(method.config)
    of_student = type(method).student_needs(method.config)
    read: set[str] = set()
    read_of_student: set[str] = set()
    for phase, batch in zip(method.phases(), cases.phase_batches(method), strict=True):
        student = cases.Guarded(cases.features(at.student, seed=1), of_student)
        teacher = cases.Guarded(cases.features(at.student, seed=2), needs)
        with_teacher = bool(needs) and phase.teacher
        method.loss(student, teacher if with_teacher else None, batch)  # type: ignore[arg-type]
        read |= teacher.read
        read_of_student |= student.read
    declared = {n for n in Needs.__dataclass_fields__ if getattr(needs, n)}
    assert read == declared
    assert read_of_student == {n for n in Needs.__dataclass_fields__ if getattr(of_student, n)}


@each_method
def test_a_step_draws_from_its_own_seed_alone(name: str, settings: dict[str, Any]) -> None:
    method, at = possible(name, settings)
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    state = {n: b.clone() for n, b in method.state_dict().items()}
    for batch in cases.phase_batches(method):
        figures = []
        for seed in (1, 2):
            method.load_state_dict(state)
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            terms = method.loss(student, teacher, batch)
            assert torch.equal(before, torch.get_rng_state())
            figures.append({n: t.item() for n, t in terms.items()})
        assert figures[0] == figures[1]


@each_method
def test_a_saved_state_continues_the_same_training(name: str, settings: dict[str, Any]) -> None:
    same = cases.student_of(name, settings)
    at = cases.setting(same, same)
    first, second = (build(name, settings, at, seed) for seed in (0, 1))
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    student, teacher = cases.features(at.student, seed=1), cases.features(at.student, seed=2)
    batches = cases.phase_batches(first)
    for batch in batches:
        first.loss(student, teacher, batch)
    second.load_state_dict(first.state_dict())
    for batch in batches:
        ours = {n: t.item() for n, t in first.loss(student, teacher, batch).items()}
        theirs = {n: t.item() for n, t in second.loss(student, teacher, batch).items()}
        assert ours == theirs


@each_method
def test_a_method_can_be_planned_before_anything_is_measured(
    name: str, settings: dict[str, Any]
) -> None:
    method, _ = possible(name, settings, similarity=None)
    assert list(method.phases())


@pytest.mark.parametrize("name", catalogue.methods())
def test_settings_are_frozen_hashable_and_documented(name: str) -> None:
    config = catalogue.method_config(name, {})
    assert hash(config) == hash(catalogue.method_config(name, {}))
    for setting in catalogue.method_settings(name):
        with pytest.raises(AttributeError):
            setattr(config, setting, None)
    module = catalogue.method(name).__module__
    doc = __import__(module, fromlist=["x"]).__doc__
    assert doc
    assert name == "none" or any(year in doc for year in map(str, range(2014, 2026)))


@pytest.mark.parametrize("name", catalogue.methods())
def test_a_value_of_the_wrong_kind_is_refused_in_one_line(name: str) -> None:
    for setting in catalogue.method_settings(name):
        for wrong in ({"no": "such"}, -1e9, float("nan"), "nonsense", ["x"]):
            with pytest.raises(KtbenchError, match=setting) as caught:
                catalogue.method_config(name, {setting: wrong})
            assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [n for n in catalogue.methods() if n != "none"])
def test_without_a_teacher_there_is_a_reason(name: str) -> None:
    config = catalogue.method_config(name, {})
    if catalogue.method(name).needs(config):
        reason = catalogue.method(name).incompatible(config, cases.setting(None))
        assert reason == "the method needs a teacher and there is none"


@each_method
def test_another_number_of_classes_is_a_reason_where_logits_are_compared(
    name: str, settings: dict[str, Any]
) -> None:
    config = catalogue.method_config(name, settings)
    kind = catalogue.method(name)
    same = cases.student_of(name, settings)
    reason = kind.incompatible(config, cases.setting(replace(same, logits=9), same))
    if kind.needs(config).logits:
        assert reason is not None
        assert "9 classes" in reason
    else:
        assert reason is None
