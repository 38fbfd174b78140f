"""`compatible: repdistiller`: networks, stages and losses are those of the CIFAR-100 comparison.

The comparison's parts are written once more in tests/support/comparison_*.py. To compare with the
authors' own code instead:

    git clone https://github.com/HobbitLong/RepDistiller
    KTBENCH_REPDISTILLER=$PWD/RepDistiller pytest tests/transfer_methods/test_comparison.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.records import KtbenchError
from ktbench.transfer_methods import Setting, Shapes, TransferMethod, kdsvd
from tests.support import method_cases as cases
from tests.support.comparison import (
    CHECKOUT,
    CLASSES,
    Side,
    copy_in_order,
    cross_entropy,
    images,
    passed,
    reference,
    twins,
)

pytestmark = [pytest.mark.filterwarnings("ignore")] if CHECKOUT else []

NETWORKS = [
    *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)), "resnet8x4", "resnet32x4",
    "ResNet50", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2",
    *(f"vgg{depth}" for depth in (8, 11, 13, 16, 19)), "mobile_half", "ShuffleV1", "ShuffleV2",
]  # fmt: skip
PAIRS = [
    ("resnet20", "resnet8"),
    ("wrn_40_1", "wrn_16_1"),
    ("wrn_16_2", "wrn_16_1"),
    ("vgg11", "vgg8"),
    ("vgg11", "mobile_half"),
    ("resnet8x4", "ShuffleV2"),
    ("wrn_16_2", "ShuffleV1"),
    pytest.param(("resnet8x4", "vgg8"), id="three stages and four"),
    pytest.param(("ResNet50", "mobile_half"), marks=pytest.mark.slow),
    pytest.param(("ResNet50", "vgg8"), marks=pytest.mark.slow),
    pytest.param(("ShuffleV2", "ShuffleV2"), marks=pytest.mark.slow),
]
"""(teacher, student)."""
BATCH, DRAWN, TRAINED = 4, 6, cases.TRAIN_SIZE
LABELS = torch.tensor([3, 1, 4, 1])


def near(value: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


def unshuffled(x: Tensor) -> Tensor:
    """ShuffleNetV2's halves side by side, as the comparison shows them before activation."""
    return torch.cat((x[:, ::2], x[:, 1::2]), 1)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_logits_stages_and_embedding_are_the_comparisons(name: str, training: bool) -> None:
    side = passed(twins(name, 1, fresh_end=training), images(2), training=training)
    ours = side.ours
    near(ours.logits, side.logits)
    assert ours.embedding is not None
    near(ours.embedding, side.feat[-1])
    maps = ours.sums or ours.stages
    maps, preacts = (
        (*([] if ours.stem is None else [ours.stem]), *x) for x in (maps, ours.preacts)
    )
    for our, their in zip(maps, side.feat[:-1], strict=True):
        near(our, their)
    for i, (our, their) in enumerate(zip(preacts[1:], side.preact[1:-1], strict=True)):
        our = unshuffled(our) if name == "ShuffleV2" else our
        if training and ours.sums and i == 2:  # rests there while boundaries are learnt
            our = ours.sums[2] / (1 + 1e-5) ** 0.5
        near(our, their)


# ---------------------------------------------------------------- losses


@cache
def sides(pair: tuple[str, str]) -> tuple[Side, Side]:
    """The teacher's pass, by running statistics, and the student's, by those of the batch."""
    taught = passed(twins(pair[0], 1), images(BATCH), training=False)
    return taught, passed(twins(pair[1], 2, fresh_end=True), images(BATCH), training=True)


def built(name: str, pair: tuple[str, str], **settings: Any) -> TransferMethod | str:
    """The method in double precision, or why it does not take the pair."""
    teacher, student = sides(pair)
    shapes = [Shapes.of(side.ours, side.names) for side in (student, teacher)]
    at = Setting(*shapes, num_classes=CLASSES, train_size=TRAINED, batch_size=BATCH)
    method = cases.build(name, settings, at)
    return method if isinstance(method, str) else method.double()


def loss_of(method: TransferMethod, pair: tuple[str, str], phase: str = "train") -> Tensor:
    teacher, student = sides(pair)
    batch = replace(cases.batch(BATCH, phase=phase), labels=LABELS)
    terms = method.loss(student.ours, teacher.ours, batch)
    return torch.stack(list(terms.values())).sum()


def shapes_of(feat: list[Tensor]) -> list[torch.Size]:
    return [x.shape for x in feat]


Expected = Callable[[Side, Side, Any], Tensor]


def adapted(module: nn.Module, ours: nn.Module) -> nn.Module:
    """A module of the comparison in double precision, with our adaptor's weights."""
    copy_in_order(ours, module.double())
    return module.train()


def hint(t: Side, s: Side, method: Any) -> Tensor:
    regressor = reference().ConvReg(s.feat[2].shape, t.feat[2].shape)
    regressor = adapted(regressor, method.regressors)
    return 100 * reference().HintLoss()(regressor(s.feat[2]), t.feat[2])


def grouped(name: str, weight: float, part: slice) -> Expected:
    def expected(t: Side, s: Side, method: Any) -> Tensor:
        losses = getattr(reference(), name)()(s.feat[part], t.feat[part])
        return weight * torch.stack([loss.reshape(()) for loss in losses]).sum()

    return expected


def embedded(name: str, weight: float) -> Expected:
    return lambda t, s, method: weight * getattr(reference(), name)()(s.feat[-1], t.feat[-1])


def correlation(t: Side, s: Side, method: Any) -> Tensor:
    rows = []
    for side, ours in ((s, method.student_embedding), (t, method.teacher_embedding)):
        embed = reference().LinearEmbed(side.feat[-1].shape[1], 128)
        rows.append(adapted(embed, ours)(side.feat[-1]))
    return 0.02 * reference().Correlation()(*rows)


def vid(t: Side, s: Side, method: Any) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    stages = zip(s.feat[1:-1], t.feat[1:-1], strict=False)
    for (ours, theirs), predictor in zip(stages, method.predictors, strict=True):
        widths = ours.shape[1], theirs.shape[1], theirs.shape[1]
        total = total + adapted(reference().VIDLoss(*widths), predictor)(ours, theirs)
    return total


def kd(t: Side, s: Side, method: Any) -> Tensor:
    return 0.9 * reference().DistillKL(4)(s.logits, t.logits) - 0.9 * cross_entropy(
        s.logits, LABELS
    )


LOSSES: dict[str, Expected] = {
    "kd": kd,
    "hint": hint,
    "attention": grouped("Attention", 1000, slice(1, -1)),
    "nst": grouped("NSTLoss", 50, slice(1, -1)),
    "kdsvd": grouped("KDSVD", 1, slice(1, -1)),
    "similarity": grouped("Similarity", 3000, slice(-2, -1)),
    "correlation": correlation,
    "vid": vid,
    "rkd": embedded("RKDLoss", 1),
    "pkt": embedded("PKT", 30000),
}
"""By method: what the comparison adds to the cross-entropy, with its scripts' weights."""
SAME = ("kd", "correlation")
"""Methods that differ in nothing and so have no setting."""


def chosen(name: str) -> dict[str, str]:
    return {} if name in SAME else {"compatible": "repdistiller"}


each_pair = pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)


@each_pair
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.slow
def test_the_loss_is_the_comparisons(name: str, pair: tuple[str, str]) -> None:
    teacher, student = sides(pair)
    method = built(name, pair, **chosen(name))
    if isinstance(method, str):
        assert "widths" in method or "repdistiller" in method
        with pytest.raises((AssertionError, ValueError, TypeError, RuntimeError)):
            LOSSES[name](teacher, student, SimpleNamespace(regressors=nn.ModuleList()))
        return
    expected = cross_entropy(student.logits, LABELS) + LOSSES[name](teacher, student, method)
    # The Gram matrix of distances loses half the digits of a distance, in the comparison's code.
    tolerance = 1e-7 if CHECKOUT and name == "rkd" else 1e-9 if name == "kdsvd" else 1e-10
    near(loss_of(method, pair, "transfer"), expected, tolerance)


@each_pair
@pytest.mark.slow
def test_activation_boundaries_are_the_comparisons(pair: tuple[str, str]) -> None:
    teacher, student = sides(pair)
    method: Any = built("ab", pair, compatible="repdistiller")
    shapes = shapes_of(student.preact[1:-1]), shapes_of(teacher.preact[1:-1])
    if isinstance(method, str):
        with pytest.raises((AssertionError, ValueError, TypeError)):
            reference().Connector(*shapes)
        return
    connector = reference().Connector(*shapes).double()
    copy_in_order(method.connectors, connector)
    if pair[1] == "ShuffleV2":  # its channels stand in another order before activation
        for module in connector.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = unshuffled(module.weight.data)
            if isinstance(module, nn.ConvTranspose2d):  # its inputs come first
                module.weight.data = unshuffled(module.weight.data.transpose(0, 1)).transpose(0, 1)
    losses = reference().ABLoss(len(shapes[0]))(
        connector.train()(student.preact[1:-1]), teacher.preact[1:-1]
    )
    near(loss_of(method, pair, "boundary"), sum(losses))
    near(loss_of(method, pair, "task"), cross_entropy(student.logits, LABELS))


@each_pair
def test_flows_are_the_comparisons_with_weight_one(pair: tuple[str, str]) -> None:
    teacher, student = sides(pair)
    method = built("fsp", pair, compatible="repdistiller")
    shapes = shapes_of(student.feat[:-1]), shapes_of(teacher.feat[:-1])
    if isinstance(method, str):
        with pytest.raises((AssertionError, ValueError)):
            reference().FSP(*shapes)
        return
    losses = reference().FSP(*shapes)(student.feat[:-1], teacher.feat[:-1])
    near(loss_of(method, pair, "flow"), sum(losses))
    near(loss_of(method, pair, "task"), cross_entropy(student.logits, LABELS))


@each_pair
@pytest.mark.slow
def test_factors_and_their_paraphraser_are_the_comparisons(pair: tuple[str, str]) -> None:
    teacher, student = sides(pair)
    ours, theirs = student.feat[-2], teacher.feat[-2]
    method: Any = built("factor", pair, compatible="repdistiller")
    assert not isinstance(method, str), method
    paraphraser = adapted(reference().Paraphraser(theirs.shape), method.paraphraser)
    translator = adapted(reference().Translator(ours.shape, theirs.shape), method.translator)
    near(loss_of(method, pair, "paraphrase"), nn.MSELoss()(paraphraser(theirs)[1], theirs))
    factors = translator(ours), paraphraser(theirs, is_factor=True)
    transfer = 200 * reference().FactorTransfer()(*factors)
    near(loss_of(method, pair, "transfer"), cross_entropy(student.logits, LABELS) + transfer)
    first, second = method.phases()
    assert [update.terms for update in first.updates] == [("paraphrase",)], "the student waits"
    assert [update.terms for update in second.updates] == [("ce", "transfer")]


@each_pair
def test_the_contrastive_loss_is_the_comparisons_on_the_same_draws(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps: the second with the memory and the constants of the first."""
    teacher, student = sides(pair)
    settings = {"compatible": "repdistiller", "negatives": DRAWN}
    method: Any = built("crd", pair, **settings)
    indices = cases.batch(BATCH).indices
    drawn = torch.stack([(i + 1 + torch.arange(DRAWN)) % TRAINED for i in indices])
    monkeypatch.setattr(type(method), "_negatives", lambda *_: drawn)
    method.seen_labels.fill_(99)  # of other classes, all of them
    widths = [side.feat[-1].shape[1] for side in (student, teacher)]
    options = dict(zip(("s_dim", "t_dim"), widths, strict=True), feat_dim=128, n_data=TRAINED)
    options |= {"nce_k": DRAWN, "nce_t": 0.07, "nce_m": 0.5}
    loss = reference().CRDLoss(SimpleNamespace(**options)).double()
    copy_in_order(method.student_embedding, loss.embed_s)
    copy_in_order(method.teacher_embedding, loss.embed_t)
    loss.contrast.memory_v1.copy_(method.student_memory)
    loss.contrast.memory_v2.copy_(method.teacher_memory)
    for _ in range(2):
        positives = torch.cat((indices[:, None], drawn), 1)
        transfer = loss(student.feat[-1], teacher.feat[-1], indices, positives)
        expected = cross_entropy(student.logits, LABELS) + 0.8 * transfer.squeeze()
        near(loss_of(method, pair), expected, 1e-6 if CHECKOUT else 1e-10)
        method.seen_labels.fill_(99)


def test_negatives_are_of_other_classes_and_drawn_once_as_soon_as_labels_are_known() -> None:
    method: Any = built("crd", ("resnet20", "resnet8"), compatible="repdistiller", negatives=DRAWN)
    method.seen_labels.copy_(torch.arange(TRAINED) % CLASSES)
    batch = replace(cases.batch(BATCH), labels=method.seen_labels[cases.batch(BATCH).indices])
    rows = [method._negatives(replace(batch, seed=seed)) for seed in range(50)]
    for drawn in rows:
        assert all(len(set(row.tolist())) == DRAWN for row in drawn)
        assert (method.seen_labels[drawn] != batch.labels[:, None]).all()
    first = torch.stack(rows)[:, 0].flatten()
    assert set(first.tolist()) == {i for i in range(TRAINED) if i % CLASSES != batch.labels[0]}
    scarce: Any = built("crd", ("resnet20", "resnet8"), compatible="repdistiller", negatives=90)
    scarce.seen_labels.copy_(method.seen_labels)
    assert scarce._negatives(batch).shape == (BATCH, 90), "with repeats where there are too few"


# ---------------------------------------------------------------- where our defaults differ

DIFFERENT = [
    ("attention", ("wrn_40_1", "wrn_16_1")),  # sums, not activated stages
    ("similarity", ("wrn_40_1", "wrn_16_1")),
    ("fsp", ("wrn_40_1", "wrn_16_1")),
    ("ab", ("wrn_40_1", "wrn_16_1")),  # the last BatchNorm
    ("nst", ("vgg11", "vgg8")),  # four stages, not five
    ("attention", ("wrn_16_2", "ShuffleV1")),  # other sizes
]


@pytest.mark.parametrize(("name", "pair"), DIFFERENT)
def test_the_setting_changes_what_it_says(name: str, pair: tuple[str, str]) -> None:
    losses = []
    for settings in ({}, {"compatible": "repdistiller"}):
        method = built(name, pair, **settings)
        assert not isinstance(method, str), method
        losses.append(loss_of(method, pair, method.phases()[0].name).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_the_hint_is_the_second_of_four_stages_and_the_third_by_default() -> None:
    for settings, stage in (({}, (2, 2)), ({"compatible": "repdistiller"}, (2, 1))):
        method: Any = built("hint", ("vgg11", "mobile_half"), **settings)
        assert method.pairs == (stage,)


def test_after_a_relu_a_leading_vector_has_one_sign_and_ours_is_positive() -> None:
    """The decomposition returns it with one sign or the other: the loss sees which."""
    for side in sides(("resnet20", "resnet8")):
        for stage in side.ours.stages:
            vectors, _ = kdsvd.leading(stage, 1)
            assert vectors.min() > -1e-9
            returned, _ = kdsvd.leading(stage, 1, given_signs=True)
            near(returned.abs(), vectors, 1e-8)


def test_what_the_setting_decides_cannot_be_set_beside_it() -> None:
    for name, beside in (
        ("attention", {"pairs": "last"}),
        ("hint", {"rectify": False}),
        ("factor", {"form": "vectors"}),
    ):
        [setting] = beside
        with pytest.raises(KtbenchError, match=f"decides on {setting}: leave it out"):
            catalogue.method_config(name, {"compatible": "repdistiller", **beside})
    with pytest.raises(KtbenchError, match="compatible must be none or repdistiller"):
        catalogue.method_config("nst", {"compatible": "mdistiller"})
