"""Weights and a tokenizer of one's own: a folder in the layout of Hugging Face."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ktbench import catalogue
from ktbench.data import load
from ktbench.data.word_pieces import learn
from ktbench.matrix import loads, plan
from ktbench.records import DataSpec, Item, KtbenchError, Plan
from ktbench.students import Student
from ktbench.students._pretrained import renamed
from tests.support.optional_tools import OptionalPackage
from tests.support.texts import sentences, text_data, write_texts

transformers = OptionalPackage("transformers")

PIECES = 112
"""Number of pieces that are learnt from the sentences."""
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": PIECES,
    "max_position_embeddings": 30,
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}
"""Sizes of bert_tiny."""
NAMES = {
    "encoder.pieces": "embeddings.word_embeddings",
    "encoder.positions": "embeddings.position_embeddings",
    "encoder.segments": "embeddings.token_type_embeddings",
    "encoder.norm": "embeddings.LayerNorm",
    "pooler.linear": "pooler.dense",
}
IN_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "after_attention": "attention.output.LayerNorm",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
    "after_mlp": "output.LayerNorm",
}


def hugging_face(name: str) -> str:
    """The name that transformers gives to a weight of the encoder."""
    module, _, leaf = name.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{leaf}"
    _, _, number, inner = module.split(".", 3)
    return f"encoder.layer.{number}.{IN_LAYER[inner]}.{leaf}"


def build(folder: Path | None, *, seed: int = 0, length: int = 12, **sizes: Any) -> Student:
    torch.manual_seed(seed)
    settings = {} if folder is None else {"pretrained": folder.name}
    sizes = {"num_classes": 2, "vocabulary": PIECES, "length": length} | sizes
    base = "." if folder is None else str(folder.parent)
    return catalogue.build_student("bert_tiny", settings, base=base, **sizes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of 112 pieces and 30 positions, and a tokenizer of as many pieces."""
    made = tmp_path / "pretrained"
    made.mkdir()
    state = build(None, seed=5, length=30).state_dict()
    weights = {f"bert.{hugging_face(k)}": v for k, v in state.items() if not k.startswith("head.")}
    weights |= {"cls.predictions.bias": torch.zeros(PIECES)}
    safetensors.torch.save_file(weights, made / "model.safetensors")
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "tokenizer.json").write_text(learn(sentences(400)[0], 120, lowercase=True))
    return made


def change(folder: Path, **settings: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **settings}))


def matrix(base: Path, **student: Any) -> str:
    write_texts(base / "texts")
    tokenizer = f"tokenizer: {base.name and 'pretrained/tokenizer.json'}"
    settings = ", ".join(f"{k}: {v}" for k, v in {"pretrained": "pretrained", **student}.items())
    return f"""
data:
  task: {{text_classification: {{length: 12, {tokenizer}}}}}
  source: parquet
  path: texts
teachers: {{student: {{bert_tiny: {{{settings}}}}}}}
students: embedding_bag
methods: kd
seeds: 1
train: {{epochs: 1}}
"""


def planned(base: Path, **student: Any) -> Plan:
    return plan(loads(matrix(base, **student), base=str(base)))


# ---------------------------------------------------------------- weights


def test_a_network_begins_from_the_folder_s_weights_and_its_head_is_drawn(folder: Path) -> None:
    expected = build(None, seed=5, length=30).state_dict()
    one, other = (build(folder, seed=seed).state_dict() for seed in (1, 2))
    for name, value in one.items():
        if name.startswith("head.weight"):
            assert not torch.equal(value, other[name])
        elif name == "encoder.positions.weight":
            assert torch.equal(value, expected[name][:12])
        else:
            assert torch.equal(value, expected[name])


@pytest.mark.slow
def test_it_computes_what_transformers_computes_from_the_folder(folder: Path) -> None:
    network = transformers.BertModel.from_pretrained(folder).eval()
    student: Any = build(folder).eval()
    ids = torch.arange(36).reshape(3, 12) + 5
    mask = (torch.arange(12) < torch.tensor([[12], [7], [4]])).long()
    with torch.no_grad():
        expected = network(ids, attention_mask=mask, output_hidden_states=True)
        features = student.forward_features((ids, mask))
    for ours, theirs in zip(features.stages, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.embedding, expected.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        ({}, {"vocabulary": 100}, "knows 112 word pieces and this data has 100: set data.task.to"),
        ({}, {"length": 31}, "reads at most 30 pieces: make data.task.length, 31, as short"),
        ({"hidden_size": 64}, {}, "has dim 64, and this student dim 128"),
        ({"hidden_act": "relu"}, {}, "has hidden_act 'relu', and only 'gelu' is built here"),
        ({"model_type": "roberta"}, {}, "has model_type 'roberta', and only 'bert'"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(
    folder: Path, config: dict[str, Any], sizes: dict[str, int], message: str
) -> None:
    change(folder, **config)
    with pytest.raises(KtbenchError, match=message) as raised:
        build(folder, **sizes)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json: no such file or directory"),
        ("config.json", b"{", "config.json: not readable as settings of a network as JSON"),
        ("config.json", b"[1]", "config.json: not readable as settings of a network as JSON"),
        ("model.safetensors", None, "model.safetensors: no such file"),
        ("model.safetensors", b"nothing", "model.safetensors: not readable as a safetensors file"),
    ],
)
def test_a_damaged_folder_is_one_line(
    folder: Path, file: str, content: bytes | None, message: str
) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(KtbenchError, match=f"(?i){message}") as raised:
        build(folder)
    assert len(str(raised.value).splitlines()) == 1


def test_what_transformers_names_otherwise_has_a_place_here() -> None:
    state = build(None).state_dict()
    theirs = {hugging_face(k): v for k, v in state.items() if not k.startswith("head.")}
    assert renamed(theirs).keys() | {"head.weight", "head.bias"} == state.keys()


# ---------------------------------------------------------------- keys


@pytest.mark.slow
def test_a_key_names_what_the_files_hold_and_not_where_they_lie(folder: Path) -> None:
    base = folder.parent
    [cell] = [c for c in planned(base).cells if c.teacher]
    shutil.copytree(folder, base / "moved" / "pretrained")
    moved = planned(base / "moved")
    assert cell.key in {c.key for c in moved.cells}
    text = matrix(base).replace("pretrained: pretrained", "pretrained: moved/pretrained")
    renamed_teacher = plan(
        loads(text.replace("teachers: {", "teachers: {name: t, "), base=str(base))
    )
    [other] = [c for c in renamed_teacher.cells if c.teacher]
    assert other.teacher.cell.key == cell.teacher.cell.key  # type: ignore[union-attr]
    change(folder, note="another")
    assert cell.key not in {c.key for c in planned(base).cells}


@pytest.mark.slow
def test_another_tokenizer_is_another_key(folder: Path) -> None:
    before = {c.key for c in planned(folder.parent).cells}
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"lowercase":true', '"lowercase":false'))
    assert not before & {c.key for c in planned(folder.parent).cells}


@pytest.mark.slow
def test_a_tokenizer_that_changes_after_the_plan_is_refused(folder: Path) -> None:
    spec = planned(folder.parent).cells[0].data
    (folder / "tokenizer.json").write_text(learn(sentences(90)[0], 110, lowercase=True))
    with pytest.raises(KtbenchError, match="has changed since it was planned: plan again"):
        load(spec, folder.parent)


# ---------------------------------------------------------------- the tokenizer


@pytest.mark.slow
def test_texts_are_read_by_the_tokenizer_of_the_network(folder: Path) -> None:
    data = load(planned(folder.parent).cells[0].data, folder.parent)
    assert data.dimensions["vocabulary"] == PIECES
    assert (
        data.facts["tokenizer"]["model"]
        == json.loads((folder / "tokenizer.json").read_text())["model"]
    )


def test_a_vocabulary_that_does_not_fit_is_the_reason_of_a_skip(folder: Path) -> None:
    change(folder, vocab_size=30522)
    [skip] = planned(folder.parent).skips
    assert "knows 30522 word pieces and this data has 112: set data.task.tokenizer" in skip.reason


def _spec(base: Path, **settings: Any) -> DataSpec:
    spec = text_data(write_texts(base / "texts"))
    return spec.model_copy(
        update={"task": Item(name="text_classification", settings={"length": 12, **settings})}
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{}", "not a tokenizer"),
        ('{"model": 3}', "not a tokenizer"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(KtbenchError, match=f"(?i){message}") as raised:
        load(_spec(tmp_path, tokenizer="t.json"), tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_vocabulary_beside_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KtbenchError, match="vocabulary is the tokenizer's own: leave it out"):
        load(_spec(tmp_path, tokenizer="t.json", vocabulary=500), tmp_path)
