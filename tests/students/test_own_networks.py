"""Users' networks of all kinds are planned, trained, exported and resumed, or skipped alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ktbench import catalogue
from ktbench.export import Exporter
from ktbench.networks.outline import FlopCounter
from ktbench.networks.weights import load_student
from ktbench.records import Artifact, Checkpoint, ExportSpec, Failure, Item
from tests.support.running import Commands, results, write_matrix
from tests.support.training import cell, digits, places_in, train

NETS = """
from collections import namedtuple
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize, prune


class Plain(nn.Module):
    def __init__(self, num_classes, in_channels, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU())
        self.middle = self.make(width)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
    def make(self, width):
        return nn.Conv2d(width, width, 1)
    def logits(self, x):
        return self.head(self.norm(self.middle(self.stem(x))).relu().mean((2, 3)))
    def forward(self, x):
        return self.logits(x)

class WeightNorm(Plain):
    def make(self, width):
        return parametrizations.weight_norm(super().make(width))
class SpectralNorm(Plain):
    def make(self, width):
        return parametrizations.spectral_norm(super().make(width))
class Orthogonal(Plain):
    def make(self, width):
        return parametrizations.orthogonal(super().make(width))
class Symmetric(nn.Module):
    def forward(self, x):
        return (x + x.transpose(0, 1)) / 2
class Custom(Plain):
    def make(self, width):
        made = super().make(width)
        parametrize.register_parametrization(made, "weight", Symmetric())
        return made
class OldWeightNorm(Plain):
    def make(self, width):
        return utils.weight_norm(super().make(width))
class OldSpectralNorm(Plain):
    def make(self, width):
        return utils.spectral_norm(super().make(width))
class Pruned(Plain):
    def make(self, width):
        made = super().make(width)
        prune.l1_unstructured(made, "weight", 0.5)
        prune.random_unstructured(made, "weight", 0.1)
        return made

class Auxiliary(Plain):
    def forward(self, x):
        logits = self.logits(x)
        return (logits, x) if self.training else logits
class Mapping(Plain):
    def forward(self, x):
        logits = self.logits(x)
        return {"aux": logits * 2, "out": logits}
@dataclass
class Data:
    hidden: torch.Tensor
    logits: torch.Tensor
class AsData(Plain):
    def forward(self, x):
        return Data(x, self.logits(x))
Pair = namedtuple("Pair", "features scores")
class Named(Plain):
    def forward(self, x):
        return Pair(x, self.logits(x))
class List(Plain):
    def forward(self, x):
        logits = self.logits(x)
        return [logits, logits * 2]

class Doubt(Plain):
    def forward(self, x):
        return {"a": self.logits(x), "b": self.logits(x)}
class NoneOfAny(Plain):
    def forward(self, x):
        return None
class Complex(Plain):
    def forward(self, x):
        return torch.complex(self.logits(x), self.logits(x))
class Whole(Plain):
    def forward(self, x):
        return self.logits(x).long()
class Map(Plain):
    def forward(self, x):
        return self.logits(x)[:, :, None, None]
class Fewer(Plain):
    def forward(self, x):
        return self.logits(x)[:1]
class WrongClasses(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes + 1, in_channels)
class KeyIsMissing(Plain):
    def forward(self, x):
        raise KeyError("lines\\nof it")
class OnlyInTraining(Plain):
    def forward(self, x):
        if self.training:
            raise LookupError("not in train mode")
        return self.logits(x)
class ByValue(Plain):
    def forward(self, x):
        if x.abs().sum() > 0:
            raise ArithmeticError("these values")
        return self.logits(x)
class Detached(Plain):
    def forward(self, x):
        return self.logits(x).detach()
class Fails(nn.Module):
    def __init__(self):
        raise AttributeError("no\\nluck")
class Empty(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]
"""
COMPUTED = ("WeightNorm", "SpectralNorm", "Orthogonal", "Custom")
HOOKED = ("OldWeightNorm", "OldSpectralNorm", "Pruned")
OUTPUTS = ("Auxiliary", "Mapping", "AsData", "Named", "List")
SKIPPED = {
    "Doubt": "forward must return logits (B, 10), not a dict of a: (2, 10), b: (2, 10)",
    "NoneOfAny": "forward must return logits (B, 10), not a NoneType",
    "Complex": "logits must be real numbers with a fraction, not torch.complex64",
    "Whole": "logits must be real numbers with a fraction, not torch.int64",
    "Map": "forward must return logits (B, K), not (2, 10, 1, 1)",
    "Fewer": "its logits are (1, 10) for 2 images of 10 classes",
    "WrongClasses": "11 logits for 10 classes",
    "KeyIsMissing": "KeyError: 'lines\\nof it'",
    "OnlyInTraining": "cannot be trained: LookupError: not in train mode",
    "ByValue": "ArithmeticError: these values",
    "Detached": "cannot be trained: no parameter has part in its logits",
    "Fails": "Fails failed: AttributeError: no",
    "Empty": "cannot be trained: it has no parameters that require a gradient",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMPUTED, *HOOKED, *OUTPUTS])
def test_a_network_trains_is_resumed_and_exports_what_it_learnt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    asked = cell("none", student=Item(name=f"nets.py:{name}"))
    [made] = train([asked], folder)
    assert isinstance(made, Checkpoint), made
    epochs: list[object] = []

    def stop(progress: object) -> None:
        epochs.append(progress)
        if len(epochs) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train([asked], folder / "again", report=stop, checkpoint_seconds=0)
    assert places_in(folder / "again")(asked).work.exists()
    [again] = train([asked], folder / "again")
    assert isinstance(again, Checkpoint) and again.digest == made.digest
    student = load_student(asked, folder / made.path, num_classes=10, in_channels=1, base=folder)
    kept = {label: value.clone() for label, value in student.state_dict().items()}
    with Exporter(digits(asked.data.model_dump_json()), folder, folder) as exporter:
        for precision in ("fp32", "int8"):
            spec = ExportSpec(format="onnx", precision=precision)  # type: ignore[arg-type]
            artifact = exporter.export(student, asked, spec)
            assert isinstance(artifact, Artifact), artifact
    now = student.state_dict()
    assert now.keys() == kept.keys()
    assert all(torch.equal(value, kept[label]) for label, value in now.items())


@pytest.mark.slow
def test_computed_weights_are_filled_into_a_graph_as_plain_ones_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("Orthogonal", "Pruned"):
        asked = cell("none", student=Item(name=f"nets.py:{name}"))
        spec = ExportSpec(format="onnx")
        with Exporter(digits(asked.data.model_dump_json()), folder, folder) as exporter:
            for seed in (0, 1):
                torch.manual_seed(seed)
                student = catalogue.build_student(
                    asked.student.name, {}, num_classes=10, in_channels=1, base=str(folder)
                )
                artifact = exporter.export(student.eval(), asked, spec)
                assert isinstance(artifact, Artifact), artifact
            [template] = exporter._templates.values()
            assert template is not None and template.slots


@pytest.mark.slow
@pytest.mark.parametrize("name", ["OldSpectralNorm"])
def test_tflite_holds_the_same_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    asked = cell("none", student=Item(name=f"nets.py:{name}"))
    torch.manual_seed(0)
    student = catalogue.build_student(
        asked.student.name, {}, num_classes=10, in_channels=1, base=str(folder)
    )
    with Exporter(digits(asked.data.model_dump_json()), folder, folder) as exporter:
        for precision in ("fp32", "int8"):
            spec = ExportSpec(format="tflite", precision=precision)  # type: ignore[arg-type]
            artifact = exporter.export(student.eval(), asked, spec)
            assert isinstance(artifact, Artifact), artifact


def test_a_parametrization_is_counted_as_its_plain_operations_are(folder: Path) -> None:
    counts = {}
    for name in ("Plain", "WeightNorm"):
        student = catalogue.build_student(
            f"nets.py:{name}", {}, num_classes=10, in_channels=1, base=str(folder)
        )
        with FlopCounter() as counter:
            logits = student(torch.randn(4, 1, 8, 8))
            torch.autograd.grad(logits.sum(), list(student.parameters()))
        counts[name] = counter.get_total_flops()
    assert counts["WeightNorm"] == counts["Plain"] > 0


@pytest.mark.slow
def test_the_training_reads_the_logits_among_all_outputs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names = ("Plain", *OUTPUTS)
    cells = [cell("none", student=Item(name=f"nets.py:{name}")) for name in names]
    made = train(cells, folder)
    assert not [one for one in made if isinstance(one, Failure)]
    digests = {one.digest for one in made if isinstance(one, Checkpoint)}
    assert len(digests) == 1, dict(zip(names, made, strict=True))


@pytest.mark.slow
def test_a_network_that_cannot_be_used_is_a_skip_of_its_own(
    ktbench: Commands, folder: Path
) -> None:
    names = [f"nets.py:{name}" for name in ("Plain", *SKIPPED, "WeightNorm")]
    file = write_matrix(folder / "m.yaml", students=names, methods=["none"], teachers=[])
    answer = ktbench("plan", "--json", file)
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out)
    planned = [one["student"]["name"] for one in plan["cells"]]
    assert planned == ["nets.py:Plain", "nets.py:WeightNorm"]
    reasons = {skip["cell"]["student"]["name"]: skip["reason"] for skip in plan["skips"]}
    for name, reason in SKIPPED.items():
        assert reason in reasons.pop(f"nets.py:{name}")
    assert not reasons
    assert not any("\n" in skip["reason"] for skip in plan["skips"])


@pytest.mark.slow
def test_a_run_goes_on_beside_a_network_that_cannot_be_used(
    ktbench: Commands, folder: Path
) -> None:
    names = ["nets.py:Fails", "nets.py:WeightNorm", "nets.py:OnlyInTraining"]
    file = write_matrix(folder / "m.yaml", students=names, methods=["none"], teachers=[])
    assert ktbench("run", file).code == 0
    found = results(folder / "results" / "small").values()
    assert [result.cell.student.name for result in found if result.checkpoint] == names[1:2]


def test_a_names_colons_and_brackets_are_shown_as_they_are(ktbench: Commands, folder: Path) -> None:
    (folder / "signs.py").write_text(NETS.replace("class Doubt", "class key"))
    file = write_matrix(
        folder / "m.yaml",
        students=["signs.py:Plain", "signs.py:key"],
        methods=["none"],
        teachers=[],
    )
    answer = ktbench("plan", file)
    assert "signs.py:key cannot" in " ".join(answer.out.split())


METHOD = """
from dataclasses import dataclass
from ktbench.transfer_methods._contract import Needs, TransferMethod

@dataclass(frozen=True)
class Settings:
    weight: float = 1.0

class Method(TransferMethod):
    Config = Settings
    @classmethod
    def needs(cls, config):
        return Needs()
    def loss(self, student, teacher, batch):
        return {"ce": student.logits.sum()}

class Incompatible(Method):
    @classmethod
    def incompatible(cls, config, setting):
        raise KeyError("whatever")

class Needy(Method):
    @classmethod
    def needs(cls, config):
        raise OSError("no needs")
"""


def test_a_method_that_fails_at_plan_is_a_skip_of_its_own(ktbench: Commands, folder: Path) -> None:
    (folder / "how.py").write_text(METHOD)
    methods = ["none", "how.py:Method", "how.py:Incompatible", "how.py:Needy"]
    file = write_matrix(folder / "m.yaml", methods=methods)
    answer = ktbench("plan", "--json", file)
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out)
    assert {one["method"]["name"] for one in plan["cells"]} == set(methods[:2])
    reasons = [skip["reason"] for skip in plan["skips"]]
    assert any("method how.py:Incompatible failed: KeyError: 'whatever'" in r for r in reasons)
    assert any("method how.py:Needy failed: OSError: no needs" in r for r in reasons)
