"""What goes between a training and a worker: small questions, and tensors as they were laid out."""

from __future__ import annotations

import pickle

import pytest
import torch

from ktbench import catalogue
from ktbench.students._contract import Features
from ktbench.teacher.cache.feature_layout import features_of, parts_of
from ktbench.teacher.pool.messages import Request, StreamKey, pack, unpack
from ktbench.transfer_methods._contract import Needs


def test_a_question_is_less_than_a_hundredth_of_the_images() -> None:
    message = pickle.dumps((StreamKey(0, 64, None), Request(10**6, 10**6, 31)))
    assert len(message) <= 0.01 * 64 * 3 * 32 * 32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tensors_travel_with_their_strides(layout: torch.memory_format) -> None:
    stage = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout)
    features = Features(torch.randn(2, 7), (stage, stage[:, :2]), torch.randn(3, 2).t())
    packed = pack(features, Needs(logits=True, stages=True, embedding=True), flops=1, seconds=0.1)
    back = unpack(pickle.loads(pickle.dumps(packed)), torch.device("cpu"))
    assert torch.equal(back.logits, features.logits)
    assert back.stages[0].stride() == stage.stride()
    assert back.embedding is not None and features.embedding is not None
    assert back.embedding.stride() == features.embedding.stride()
    for a, b in zip(back.stages, features.stages, strict=True):
        assert torch.equal(a, b)


def test_sums_of_a_wide_resnet_arrive_where_they_are_asked_for() -> None:
    """A method that reads them would take the stages in their place."""
    network = catalogue.build_student("wrn_16_1", {}, num_classes=4, in_channels=1).eval()
    with torch.no_grad():
        shown = network.forward_features(torch.randn(2, 1, 8, 8))
    assert len(shown.sums) == 3
    for needs in (Needs(stages=True), Needs(stages=True, sums=True)):
        ways = (
            unpack(pack(shown, needs, flops=1, seconds=0.1), torch.device("cpu")),
            features_of(parts_of(shown, needs)),
        )
        for back in ways:
            assert len(back.sums) == (3 if needs.sums else 0)
            for there, here in zip(back.sums, shown.sums, strict=False):
                assert torch.equal(there, here)
