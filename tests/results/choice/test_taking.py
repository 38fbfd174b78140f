"""What a person takes away: the very file, its weights by their own names, and a program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ktbench
from ktbench import catalogue
from ktbench.data import load
from ktbench.records import KtbenchError
from ktbench.results import pack
from ktbench.results.choice import program
from tests.support.optional_tools import OptionalPackage
from tests.support.sounds import SMALL as SHORT
from tests.support.sounds import tone, wav, write_sounds
from tests.support.texts import sentences, write_texts

onnx = OptionalPackage("onnx")
pytestmark = pytest.mark.slow

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        super().__init__(
            nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * 9, num_classes),
        )
"""


@dataclass(frozen=True)
class Case:
    """Finished results, and samples as a person has them with the network's inputs of each."""

    results: ktbench.Results
    arguments: list[str]
    inputs: Any


def trained(folder: Path, student: Any, data: dict[str, Any]) -> ktbench.Results:
    matrix = {
        "name": "small",
        "data": data,
        "students": [student],
        "methods": [],
        "seeds": 1,
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.01, "optimiser": "adam"},
        "exports": {"formats": ["onnx", "tflite"]},
    }
    return ktbench.run(matrix, base=folder, folder=folder / "out", on="inline", report=False)


def pictures(folder: Path) -> Case:
    """Digits, and a network of a user's own."""
    (folder / "net.py").write_text(OWN)
    sizes = {"train_size": 200, "validation_size": 60, "test_size": 60}
    results = trained(folder, "net.py:Net", {"source": "digits", **sizes})
    data = load(results.lock.plan.cells[0].data, folder)
    raw = data.raw("test")[:4]
    assert isinstance(raw, torch.Tensor)
    names = [str(folder / f"{number}.png") for number in range(4)]
    for name, pixels in zip(names, raw, strict=True):
        Image.fromarray(pixels[0].numpy()).save(name)
    return Case(results, names, data.some("test", slice(0, 4)))


def texts(folder: Path) -> Case:
    task = {"text_classification": {"length": 12, "vocabulary": 120}}
    path = str(write_texts(folder / "data", 300))
    results = trained(folder, {"embedding_bag": {"width": 0.25}}, {
        "source": "parquet", "path": path, "task": task, "split_seed": 0,
    })  # fmt: skip
    spec = results.lock.plan.cells[0].data
    data = load(spec, folder)
    return Case(results, sentences(4, 5)[0], data)


def sounds(folder: Path) -> Case:
    task = {"sound_classification": SHORT}
    path = str(write_sounds(folder / "data", 160))
    results = trained(folder, {"ds_cnn_s": {"width": 0.25}}, {
        "source": "parquet", "path": path, "task": task,
    })  # fmt: skip
    names = []
    for number, rate in enumerate((4000, 4000, 8000)):
        name = folder / f"{number}.wav"
        name.write_bytes(wav(tone(300.0 * 2**number, 0.4, number, rate), rate))
        names.append(str(name))
    return Case(results, names, None)


TASKS: dict[str, Callable[[Path], Case]] = {"image": pictures, "text": texts, "sound": sounds}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Case]]:
    """Train each task's network once, when it is first asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield cache(lambda name: TASKS[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(params=TASKS)
def case(request: pytest.FixtureRequest, cases: Callable[[str], Case]) -> Case:
    return cases(request.param)


def taken(case: Case, form: str, out: Path) -> ktbench.Answer:
    """Take the file of one format, by leaving the other out of the results."""
    results = case.results
    for key, result in list(results.by_key.items()):
        kept = tuple(a for a in result.artifacts if a.export.format == form)
        results = ktbench.Results(
            results.path, results.lock, {key: result.model_copy(update={"artifacts": kept})},
            (), (), marks=results.marks,
        )  # fmt: skip
    return results.best(out=out)


def answers(folder: Path, arguments: Sequence[str]) -> list[tuple[str, float]]:
    """Run the program in a process without ktbench; return labels with their probabilities."""
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(folder / "run.py"), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    return [(row[0], float(row[1].removesuffix(" %"))) for row in rows]


_ALONE = f"""
import runpy, sys
sys.path += {[p for p in sys.path if p.endswith("site-packages")]!r}
sys.modules["ktbench"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_the_program_says_of_a_persons_sample_what_the_network_says(
    case: Case, form: str, tmp_path: Path
) -> None:
    answer = taken(case, form, tmp_path / "away")
    assert {path.name for path in answer.files} >= {"run.py", "weights.pt", "choice.json"}
    said = answers(tmp_path / "away", case.arguments)
    assert len(said) == len(case.arguments)
    expected = _by_torch(case, answer, tmp_path / "away")
    assert [label for label, _ in said] == [label for label, _ in expected]
    assert [share for _, share in said] == pytest.approx([s for _, s in expected], abs=0.15)


def _by_torch(case: Case, answer: ktbench.Answer, away: Path) -> list[tuple[str, float]]:
    """Return what the taken weights say, by the path that training takes."""
    result = case.results.by_key[answer.choice.file.candidate.key]
    base = Path(case.results.lock.plan.base)
    data = load(result.cell.data, base)
    student = catalogue.build_student(
        result.cell.student.name, result.cell.student.settings, base=str(base), **data.dimensions
    )
    student.load_state_dict(torch.load(away / "weights.pt", weights_only=True))
    inputs = _inputs(case, data)
    with torch.inference_mode():
        shares = student.eval()(inputs).double().softmax(1)
    about = json.loads((away / f"{Path(answer.file).name}.json").read_text())
    best = shares.max(1)
    labels = [about["labels"][number] for number in best.indices.tolist()]
    return list(zip(labels, (100 * best.values).tolist(), strict=True))


def _inputs(case: Case, data: Any) -> Any:
    if data.task.noun == "image":
        return case.inputs
    if data.task.noun == "text":
        from ktbench.data.word_pieces import WordPieces

        config = data.task.config
        pieces = WordPieces(json.dumps(data.facts["tokenizer"]), config.length)
        ids, mask = pieces.numbers(case.arguments)
        return data.task.inputs((torch.tensor(ids), torch.tensor(mask)), data.statistics)
    from ktbench.data.sounds import decode, formed

    recipe = data.task.config.recipe
    made = [
        formed(decode(Path(name).read_bytes(), name), recipe.rate, recipe.length)
        for name in case.arguments
    ]
    return data.task.inputs(torch.tensor(np.stack(made)), data.statistics)


def test_the_weights_have_the_names_of_the_users_own_network(
    cases: Callable[[str], Case], tmp_path: Path
) -> None:
    cases("image").results.best(out=tmp_path / "away")
    scope: dict[str, Any] = {}
    exec(OWN, scope)
    network = scope["Net"](num_classes=10, in_channels=1)
    network.load_state_dict(torch.load(tmp_path / "away" / "weights.pt", weights_only=True))


def test_what_is_not_there_or_not_what_was_written_is_told_in_a_line(
    cases: Callable[[str], Case], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(cases("image").results.path, tmp_path / "out"))
    results = ktbench.load_results(folder)
    plain = results.best(out=tmp_path / "a")
    pack(folder, tmp_path / "small.ktb")
    with pytest.raises(KtbenchError, match="packed without weights"):
        ktbench.load_results(tmp_path / "small.ktb").best(out=tmp_path / "b")
    pack(folder, tmp_path / "whole.ktb", networks=True)
    packed = ktbench.load_results(tmp_path / "whole.ktb").best(out=tmp_path / "c")
    assert [p.read_bytes() for p in packed.files] == [p.read_bytes() for p in plain.files]
    with pytest.raises(KtbenchError, match=r"holds 'choice.json': choose a new --out folder"):
        results.best(out=tmp_path / "c")
    file = folder / packed.file
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(KtbenchError, match="is damaged: it is not what was written"):
        results.best(out=tmp_path / "d")
    file.unlink()
    with pytest.raises(KtbenchError, match="is not there: run the matrix again"):
        results.best(out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("task", ["image", "text", "sound"])
@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_the_program_is_short_and_needs_nothing_of_ktbench(task: str, form: Any) -> None:
    from ktbench.records import Item

    reading = catalogue.task(Item(name=f"{task}_classification")).reading()
    assert reading is not None
    source = program.program(f"net.{form}", form, reading)
    compile(source, "run.py", "exec")
    lines = [line for line in source.splitlines() if line]
    assert "ktbench" not in source and len(lines) < 65
