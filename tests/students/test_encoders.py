"""Networks that read texts against their papers and against the library that most people use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.students import Student
from ktbench.students._encoder import Encoder, EncoderShape
from ktbench.students._pretrained import renamed
from ktbench.students.text_cnn import WINDOWS
from tests.support.optional_tools import OptionalPackage

transformers = OptionalPackage("transformers")

PUBLISHED = {
    "bert_tiny": 4.4,
    "bert_mini": 11.3,
    "bert_small": 29.1,
    "bert_medium": 41.7,
    "bert_base": 110.1,
}
"""Millions of parameters of 30,522 pieces and 512 positions in arXiv 1908.08962, table 1, which
counts the head of the masked pieces, whose weights are the pieces' own vectors."""


def text_student(name: str, *, length: int = 9, **settings: Any) -> Student:
    """A network of three classes with weights large enough to tell a wrong formula."""
    torch.manual_seed(0)
    student = catalogue.build_student(name, settings, num_classes=3, vocabulary=50, length=length)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_(std=0.3)
    return student.eval()


def texts(batch: int = 4, length: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and segments of texts of several lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (batch, length), generator=generator)
    mask = (torch.arange(length) < torch.arange(length, length - 2 * batch, -2)[:, None]).long()
    return ids * mask, mask, (torch.arange(length) > 3).long() * mask


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("variant", PUBLISHED)
def test_small_berts_have_the_published_parameters(variant: str) -> None:
    sizes = {"num_classes": 2, "vocabulary": 30_522, "length": 512}
    with torch.device("meta"):
        student = catalogue.build_student(variant, {}, **sizes)
    dim = student.get_submodule("head").in_features
    masked = dim * dim + dim + 2 * dim + 30_522  # a linear layer, its normalisation, and biases
    bare = count(student) - count(student.get_submodule("head"))
    assert round((bare + masked) / 1e6, 1) == PUBLISHED[variant]


def test_the_convolutional_network_has_the_published_sizes() -> None:
    with torch.device("meta"):
        student = catalogue.build_student("text_cnn", {}, num_classes=2, vocabulary=1000, length=20)
    vectors, windows, head = 1000 * 300, 100 * (300 * (3 + 4 + 5) + 3), 300 * 2 + 2
    assert count(student) == vectors + windows + head


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "heads must divide 128, not be 3"),
        ({"layers": 0}, "layers must be a whole number from 1, not 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, not 1.0"),
    ],
)
def test_impossible_sizes_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        text_student("bert_tiny", **settings)


# ---------------------------------------------------------------- transformers' own BERT


def reference(student: Student, **changes: Any) -> Any:
    """transformers' BERT of the same sizes, and the student given its weights."""
    shape: EncoderShape = student.get_submodule("encoder").shape  # type: ignore[assignment]
    config = transformers.BertConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.length,
        num_hidden_layers=shape.layers,
        hidden_size=shape.dim,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        num_labels=3,
        **changes,
    )
    network = transformers.BertForSequenceClassification(config).eval()
    torch.manual_seed(2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    student.load_state_dict(renamed(network.state_dict()))
    return network


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_bert_computes_what_transformers_computes(pairs: bool, attention: str) -> None:
    student = text_student("bert_mini", width=0.25, layers=3, heads=2, feed_forward=3)
    network = reference(student, attn_implementation=attention)
    ids, mask, segments = texts()
    with torch.no_grad():
        expected = network(
            ids,
            attention_mask=mask,
            token_type_ids=segments if pairs else None,
            output_hidden_states=True,
        )
        features = student.forward_features((ids, mask, segments) if pairs else (ids, mask))
    assert count(student) == count(network)
    assert features.stem is not None
    for ours, theirs in zip((features.stem, *features.stages), expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_its_gradients_are_those_of_transformers() -> None:
    student = text_student("bert_tiny", width=0.25)
    network = reference(student, attn_implementation="eager")
    ids, mask, segments = texts()
    labels = torch.tensor([0, 1, 2, 1])
    loss = network(ids, attention_mask=mask, token_type_ids=segments, labels=labels).loss
    loss.backward()
    functional.cross_entropy(student((ids, mask, segments)), labels).backward()  # type: ignore[no-untyped-call]
    expected = renamed({name: p.grad for name, p in network.named_parameters()})
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- what is shown


def test_the_heads_explain_the_states_of_a_layer() -> None:
    student = text_student("bert_tiny", width=0.25)
    ids, mask, segments = texts()
    with torch.no_grad():
        features = student.forward_features((ids, mask, segments))
        layer: Any = student.get_submodule("encoder.layers.0")
        query, key, value = features.attentions[0]
        scores = query @ key.mT / query.shape[3] ** 0.5
        weights = scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(3)
        gathered = (weights @ value).transpose(1, 2).flatten(2)
        assert features.stem is not None
        summed = layer.after_attention(features.stem + layer.out(gathered))
        expected = layer.after_mlp(summed + layer.mlp(summed))
    assert len(features.attentions) == len(features.stages) == 2
    assert query.shape == (4, 2, 9, 16)
    torch.testing.assert_close(features.stages[0], expected)
    assert features.mask is not None
    assert features.mask.dtype == torch.bool
    assert torch.equal(features.mask, mask.bool())


def test_a_vision_transformer_shows_its_heads_and_no_mask() -> None:
    student = catalogue.build_student("vit_tiny", {"width": 0.25}, num_classes=3, in_channels=1)
    features = student.forward_features(torch.randn(2, 1, 8, 8))
    assert [tuple(part.shape) for part in features.attentions[0]] == [(2, 3, 4, 16)] * 3
    assert len(features.attentions) == 12
    assert features.mask is None


@pytest.mark.parametrize("name", ["bert_tiny", "text_cnn", "embedding_bag"])
def test_padding_has_no_part_in_the_logits(name: str) -> None:
    student = text_student(name, length=12, **({"width": 0.25} if name != "bert_tiny" else {}))
    ids, mask, _ = texts()
    more = functional.pad(ids, (0, 3), value=7), functional.pad(mask, (0, 3))
    with torch.no_grad():
        torch.testing.assert_close(student(more), student((ids, mask)))
        features = student.forward_features((ids, mask))
    assert features.mask is not None
    assert torch.equal(features.mask, mask.bool())


def test_segments_tell_the_texts_of_a_pair_apart() -> None:
    student = text_student("bert_tiny", width=0.25)
    ids, mask, segments = texts()
    assert not torch.allclose(student((ids, mask, segments)), student((ids, mask)))
    assert torch.equal(student((ids, mask, 0 * segments)), student((ids, mask)))


def test_an_encoder_is_had_without_a_classifier() -> None:
    encoder = Encoder(EncoderShape(50, 9, 2, 8, 2, 16))
    ids, mask, _ = texts()
    encoded = encoder(ids, mask)
    assert [tuple(states.shape) for states in encoded.hidden] == [(4, 9, 8)] * 2
    assert encoder.pieces.weight.shape == (50, 8)


def test_dropout_acts_in_training_alone() -> None:
    student = text_student("bert_tiny", width=0.25)
    ids, mask, _ = texts()
    assert torch.equal(student((ids, mask)), student((ids, mask)))
    student.train()
    assert not torch.equal(student((ids, mask)), student((ids, mask)))


# ---------------------------------------------------------------- the convolutional network


def test_windows_are_weighted_sums_of_neighbours_and_the_most_of_each_counts() -> None:
    student = text_student("text_cnn", width=0.02)
    ids, mask, _ = texts()
    network: Any = student
    with torch.no_grad():
        features = student.forward_features((ids, mask))
        for text in range(len(ids)):
            kept = int(mask[text].sum())
            vectors = network.pieces.weight[ids[text, :kept]]  # (n, D)
            maps = []
            for window, size in zip(network.windows, WINDOWS, strict=True):
                around = functional.pad(vectors, (0, 0, (size - 1) // 2, size // 2))
                runs = torch.stack([around[i : i + size].T for i in range(kept)])  # (n, D, size)
                sums = (runs[:, None] * window.weight).sum((2, 3)) + window.bias
                maps.append(sums.clamp(min=0).amax(0))
            expected = network.head(torch.cat(maps))
            torch.testing.assert_close(features.logits[text], expected)
