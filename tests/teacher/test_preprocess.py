"""Weights that were trained elsewhere are fed what they were trained on, and are doubted else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ktbench import catalogue
from ktbench.catalogue.own_inputs import own_inputs
from ktbench.data import Dataset, Stream
from ktbench.matrix import MatrixError, load, plan
from ktbench.records import (
    Accuracies,
    Brought,
    Checkpoint,
    Cost,
    Item,
    KtbenchError,
    Metric,
    Preprocessing,
    Teacher,
)
from ktbench.results import load_results
from ktbench.results.brought_weights import doubt
from ktbench.results.verification import verify
from ktbench.tasks._own_inputs import sidecar
from tests.students.test_packages import timm as timm  # a fixture
from tests.support import brought_teachers as by_hand
from tests.support.running import Answer, Commands, digests, started, write_matrix
from tests.support.training import digits, teacher_cell

PREPARED: dict[str, Any] = {
    "unit": "unit",
    "as_bytes": {"range": 255},
    "imagenet": "imagenet",
    "larger": {"preset": "half", "size": 16, "crop": 0.88, "interpolation": "bicubic"},
}
"""`preprocess` of each network of `tests/support/brought_teachers.py`."""


@dataclass(frozen=True)
class Trained:
    """Data, and the networks that were trained on it by hand."""

    folder: Path
    data: Dataset
    brought: dict[str, by_hand.Brought]

    def teachers(self, **changes: Any) -> list[dict[str, Any]]:
        """Entries of all networks, each under its own name."""
        return [
            {"student": "resnet8", "name": name, "checkpoint": one.file, **changes}
            for name, one in self.brought.items()
        ]

    def matrix(self, teachers: list[dict[str, Any]], name: str = "m", **changes: Any) -> Path:
        """Write a matrix of one small student."""
        return write_matrix(
            self.folder / f"{name}.yaml",
            **{
                "name": name,
                "data": by_hand.SPEC,
                "teachers": teachers,
                "methods": ["kd"],
                "train": {"epochs": 1, "batch_size": 65},
                **changes,
            },
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("brought")
    torch.set_num_threads(1)
    data = by_hand.coloured_digits(folder)
    brought = {
        name: by_hand.trained(data, getattr(by_hand, name), folder / f"{name}.pt")
        for name in PREPARED
    }
    assert all(one.accuracy > 0.95 for one in brought.values()), brought
    return Trained(folder, data, brought)


def _run(trained: Trained, commands: Commands, *arguments: str | Path) -> Answer:
    answer = commands("run", *arguments)
    assert answer.code == 0, answer.err
    return answer


def _teachers(folder: Path) -> pd.DataFrame:
    return load_results(folder).teachers.set_index("name")


# ---------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_four_networks_of_one_kind_keep_the_accuracies_they_had_by_hand_to_the_report(
    trained: Trained, tmp_path: Path, ktbench: Commands
) -> None:
    entries = trained.teachers(expect=0.95)
    for entry in entries:
        entry["preprocess"] = PREPARED[entry["name"]]
    matrix = trained.matrix([*entries, {"name": "all", "sample": 4, "of": list(PREPARED)}])
    ktbench.report = True
    answer = _run(trained, ktbench, matrix, "--results", tmp_path / "r")
    assert "warning: teacher" not in answer.err + answer.out
    frame = _teachers(tmp_path / "r")
    for name, brought in trained.brought.items():
        # By hand `larger` is resized in whole numbers, here in real ones.
        tolerance = 0.0101 if name == "larger" else 1e-9
        assert frame.loc[name, "accuracy"] == pytest.approx(brought.accuracy, abs=tolerance)
        assert frame.loc[name, "doubt"] == ""
    assert frame["digest"].nunique() == 4 and frame["key"].nunique() == 1
    shown = pd.read_csv(tmp_path / "r" / "report" / "tables" / "teachers.csv").set_index("name")
    assert shown["accuracy"].to_dict() == frame["accuracy"].to_dict()
    assert not verify(tmp_path / "r").problems


@pytest.mark.slow
def test_the_same_networks_on_the_datas_own_inputs_are_doubted_before_any_student_learns(
    trained: Trained, tmp_path: Path, ktbench: Commands
) -> None:
    order = [*range(1, 10), 0]
    turned = by_hand.with_other_order(
        trained.folder / "unit.pt", order, trained.folder / "turned.pt"
    )
    odd = {"student": "resnet8", "name": "turned", "checkpoint": turned, "preprocess": "unit"}
    matrix = trained.matrix([*trained.teachers(expect=0.95), odd])
    ktbench.report = True
    answer = _run(trained, ktbench, matrix, "--results", tmp_path / "r")
    frame, told = _teachers(tmp_path / "r"), answer.out + answer.err
    for name, brought in trained.brought.items():
        assert frame.loc[name, "accuracy"] < brought.accuracy - 0.05
        assert f"warning: teacher {name}: " in told
        assert "say in `preprocess` what it was trained on" in frame.loc[name, "doubt"]
    assert frame.loc["turned", "accuracy"] < 0.1
    renamed = f"{100 * trained.brought['unit'].accuracy:.1f} % would be right"
    assert renamed in frame.loc["turned", "doubt"] and "another order" in told
    assert told.index("warning: teacher") < told.index("training")
    page = (tmp_path / "r" / "report" / "report.md").read_text(encoding="utf-8")
    assert "Teacher turned: " in page and "is in doubt" in page


@pytest.mark.slow
def test_one_file_under_two_preprocessings_is_two_teachers_with_their_own_files_and_figures(
    trained: Trained, tmp_path: Path, ktbench: Commands
) -> None:
    entry = {"student": "resnet8", "checkpoint": "unit.pt"}
    teachers = [
        entry | {"name": "plain"},
        entry | {"name": "fed", "preprocess": "unit"},
        entry | {"name": "half", "preprocess": "half"},
    ]
    _run(trained, ktbench, trained.matrix(teachers), "--results", tmp_path / "r")
    frame = _teachers(tmp_path / "r")
    assert frame["accuracy"].nunique() == 3 and frame["digest"].nunique() == 1
    assert frame.loc["fed", "accuracy"] == pytest.approx(trained.brought["unit"].accuracy)
    assert not verify(tmp_path / "r").problems


def _of_another_size(trained: Trained, name: str, **source: Any) -> Path:
    """Write a matrix whose teacher reads larger images than its augmented students."""
    [entry] = [entry for entry in trained.teachers() if entry["name"] == "larger"]
    return trained.matrix(
        [entry | {"preprocess": PREPARED["larger"]}],
        name=name,
        data={**by_hand.SPEC, "augment": {"crop_padding": 1}},
        methods=["kd", "attention"],
        teacher=source,
        train={"epochs": 2, "batch_size": 65, "views": 1},
    )


@pytest.mark.slow
def test_students_learn_the_same_from_a_live_and_a_cached_teacher_of_another_size(
    trained: Trained, tmp_path: Path, ktbench: Commands
) -> None:
    made = []
    for number, source in enumerate(("live", "cached", "cached")):
        matrix = _of_another_size(trained, "m", source=source, keep=["logits", "stages"])
        _run(trained, ktbench, matrix, "--results", tmp_path / f"r{number}")
        made.append(digests(tmp_path / f"r{number}"))
    assert made[0] == made[1] == made[2] and len(made[0]) == 3


@pytest.mark.slow
@pytest.mark.ray
def test_students_learn_the_same_from_a_pool_of_teachers_of_another_size(
    trained: Trained, tmp_path: Path, ktbench: Commands
) -> None:
    _run(trained, ktbench, _of_another_size(trained, "m"), "--results", tmp_path / "live")
    matrix = _of_another_size(trained, "m", source="pool", workers=1)
    run = started("run", matrix, "--results", tmp_path / "pool", cache=tmp_path / "cache")
    out, err = run.communicate()
    assert run.returncode == 0, out + err
    assert digests(tmp_path / "pool") == digests(tmp_path / "live")
    assert len(digests(tmp_path / "live")) == 3


@pytest.mark.slow
def test_a_transformer_of_timm_that_reads_one_size_teaches_students_of_another(
    timm: None, trained: Trained, tmp_path: Path
) -> None:
    name = "timm:test_vit"  # reads 160 × 160 and nothing else
    torch.manual_seed(0)
    network = catalogue.build_student(name, {}, num_classes=10, in_channels=3)
    torch.save(network.state_dict(), trained.folder / "vit.pt")
    entry = {"student": name, "name": "T", "checkpoint": "vit.pt"}
    few = {**by_hand.SPEC, "train_size": 65, "validation_size": 20, "test_size": 30}
    matrix = trained.matrix([entry | {"preprocess": "own"}], name="timm", data=few)
    run = started("run", matrix, "--results", tmp_path / "r", cache=tmp_path / "cache")
    out, err = run.communicate()
    assert run.returncode == 0 and "2 cells done" in out + err, err
    [teacher] = plan(load(matrix)).teachers
    assert teacher.preprocess is not None and teacher.preprocess.size == 160
    skips = plan(load(trained.matrix([entry], name="timm", data=few))).skips
    assert "cannot take images of 3×8×8" in skips[0].reason


# ---------------------------------------------------------------- inputs


def test_inputs_are_moved_by_one_affine_map_per_channel() -> None:
    data = digits()
    seen = data.preprocessed(Preprocessing(mean=(0.3,), std=(0.2,)))
    move = data.between(seen)
    assert move is not None and data.between(data) is None
    raw = data.raw("test")
    assert isinstance(raw, Tensor)
    expected = (raw.double() / 255 - 0.3) / 0.2
    inputs = data.some("test", slice(None))
    torch.testing.assert_close(move(inputs).double(), expected, atol=1e-5, rtol=0)  # type: ignore[union-attr]
    torch.testing.assert_close(seen.some("test", slice(None)), move(inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("interpolation", "size", "crop"),
    [
        *(("bilinear", size, crop) for size, crop in ((6, 1.0), (12, 0.75), (6, 0.8))),
        *(("bicubic", size, crop) for size, crop in ((6, 1.0), (12, 0.75), (6, 0.8))),
        ("nearest", 12, 0.75),  # sizes at which no pixel lies between two
        ("nearest", 16, 1.0),
    ],
)
def test_resizing_is_pillows_with_the_centre_kept(
    interpolation: str, size: int, crop: float
) -> None:
    from PIL import Image

    data = digits()
    own = {"mean": [0], "std": [1], "range": 255, "size": size, "crop": crop}
    seen = data.preprocessed(Preprocessing.model_validate(own | {"interpolation": interpolation}))
    raw = data.raw("test")
    assert isinstance(raw, Tensor) and seen.signature.inputs[0].shape == (1, size, size)
    images = seen.some("test", slice(3))
    scaled = math.floor(size / crop)
    edge = round((scaled - size) / 2)
    kinds = {"nearest": 0, "bilinear": 2, "bicubic": 3}
    for image, made in zip(raw[:3], images, strict=True):
        whole = Image.fromarray(image[0].float().numpy(), mode="F")
        whole = whole.resize((scaled, scaled), kinds[interpolation])
        box = (edge, edge, edge + size, edge + size)
        expected = torch.from_numpy(np.array(whole.crop(box)))
        torch.testing.assert_close(made[0], expected, atol=1e-2, rtol=0)


def test_training_batches_of_a_network_with_its_own_size_have_that_size() -> None:
    seen = digits().preprocessed(Preprocessing(size=12))
    stream = Stream(seen, 0, 16)
    assert stream.inputs(stream.order(0)[0], 0).shape == (16, 1, 12, 12)  # type: ignore[union-attr]
    assert seen.preprocessed(None).signature == digits().signature


def test_a_preprocessing_is_part_of_the_keys_of_what_it_teaches_and_expectation_is_not() -> None:
    def key(**fields: Any) -> str:
        teacher = Teacher(name="t", cell=teacher_cell(), checkpoint="t.pt", **fields)
        return teacher_cell(method={"name": "kd"}, teacher=teacher).key

    unit = Preprocessing(mean=(0.0,), std=(1.0,))
    keys = {key(), key(preprocess=unit), key(preprocess=Preprocessing(size=12))}
    assert len(keys) == 3 and key(expect=0.9) == key()
    assert "preprocess" not in Teacher(name="t", cell=teacher_cell()).model_dump()


def test_a_file_of_a_network_with_its_own_inputs_says_how_images_get_its_size() -> None:
    own = Preprocessing(mean=(0.5,), std=(0.5,), size=12, crop=0.75, interpolation="bicubic")
    seen = digits().preprocessed(own)
    told = seen.task.sidecar(seen.signature, seen.statistics, seen.facts)["image"]
    assert told["mean"] == told["std"] == [127.5] and told["range"] == [0, 255]
    resize = {"shorter_side": 16, "interpolation": "bicubic", "antialias": True, "centre_crop": 12}
    assert sidecar(own) == {"image": {"resize": resize}}
    assert sidecar(Preprocessing(mean=(0.5,), std=(0.5,))) == {}


# ---------------------------------------------------------------- doubts


def _checkpoint(accuracy: float, tested: int = 200, renamed: float | None = None) -> Checkpoint:
    figures = dict.fromkeys(
        ("validation_last", "validation_best", "test_last", "test_best"), accuracy
    )
    return Checkpoint(
        cell_key="0" * 16, path="a.pt", digest="0" * 16, curves="a.parquet", parameters=1, epochs=1,
        accuracy=Accuracies(best_epoch=1, **figures),
        cost=Cost(seconds=0, teacher_seconds=0, shared_seconds=0, flops=0, teacher_flops=0),
        brought=Brought(tested=tested, renamed=renamed),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "expect", "tested", "doubted"),
    [
        (0.94, 0.95, 10_000, False),  # within two points
        (0.92, 0.95, 100, False),  # within the interval of a hundred samples
        (0.92, 0.95, 10_000, True),
        (0.33, 0.33, 200, False),
        (0.33, None, 200, True),
        (0.10, None, 200, True),
        (0.45, None, 200, False),
    ],
)
def test_weights_are_doubted_beyond_two_points_and_the_interval_or_near_a_guess(
    accuracy: float, expect: float | None, tested: int, doubted: bool
) -> None:
    teacher = Teacher(name="t", cell=teacher_cell(), checkpoint="t.pt", expect=expect)
    assert bool(doubt(teacher, _checkpoint(accuracy, tested), Metric(), 0.1)) == doubted


def test_an_order_of_classes_is_suspected_only_where_chance_cannot_explain_it() -> None:
    teacher = Teacher(name="t", cell=teacher_cell(), checkpoint="t.pt")
    said = doubt(teacher, _checkpoint(0.02, renamed=0.93), Metric(), 0.1)
    assert said.startswith("2.0 % on the test set, where a guess has 10.0 %: its classes seem")
    assert "93.0 %" in said
    assert "another order" not in doubt(teacher, _checkpoint(0.1, renamed=0.2), Metric(), 0.1)
    loss = Metric(name="error", word="error", better="less", low=0.0, high=None, digits=2)
    worse = teacher.model_copy(update={"expect": 1.5})
    assert doubt(worse, _checkpoint(9.0), loss, math.nan)
    assert not doubt(worse, _checkpoint(1.0), loss, math.nan)
    trained_here = teacher.model_copy(update={"checkpoint": None})
    assert not doubt(trained_here, _checkpoint(0.0), Metric(), 0.1)


# ---------------------------------------------------------------- the matrix


BAD = [
    (
        {"preprocess": "unt"},
        "preprocess: must be unit, bytes, half, imagenet or own, not 'unt': did you",
    ),
    ({"preprocess": {"mean": 0.5}}, "preprocess: mean and std belong together: give both or"),
    ({"preprocess": {}}, "preprocess: is empty: name a preset (unit, bytes, half, imagenet, own)"),
    ({"preprocess": {"siz": 8}}, "preprocess.siz: unknown key: did you mean size?"),
    ({"preprocess": {"preset": "unit", "crop": 0.9}}, "preprocess: crop belongs to a size"),
    ({"preprocess": {"mean": 0, "std": 0}}, "preprocess: std.0: must be above 0"),
    ({"preprocess": "imagenet"}, "preprocess: mean has 3 numbers, and the images have 1 channel"),
    ({"preprocess": "own"}, "preprocess: own: resnet8 is of no package that says what it reads"),
    ({"expect": 95}, "expect: top-1 accuracy is above 1, not 95: 95 % is 0.95"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_preprocessing_that_cannot_be_is_refused_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.pt").write_bytes(b"weights")
    entry = {"student": "resnet8", "checkpoint": "own.pt", **changes}
    with pytest.raises(MatrixError) as raised:
        plan(load(write_matrix(tmp_path / "m.yaml", teachers=[entry])))
    assert len(str(raised.value).splitlines()) == 1 and message in str(raised.value)


@pytest.mark.parametrize("key", ["preprocess", "expect"])
def test_only_weights_of_ones_own_have_a_preprocessing(key: str, tmp_path: Path) -> None:
    entry = {"student": "resnet8", key: "unit" if key == "preprocess" else 0.9}
    with pytest.raises(MatrixError, match=f"{key} is for weights of your own"):
        load(write_matrix(tmp_path / "m.yaml", teachers=[entry]))


def test_other_tasks_have_no_preprocessing() -> None:
    task = catalogue.task(Item(name="text_classification"))
    signature = digits().signature
    with pytest.raises(KtbenchError, match=r"^is for images, and these are texts: leave it out$"):
        task.own_inputs(Preprocessing(size=12), signature)


@pytest.mark.slow
def test_a_student_made_of_blocks_is_not_made_of_a_teacher_with_its_own_inputs(
    tmp_path: Path,
) -> None:
    (tmp_path / "own.pt").write_bytes(b"weights")
    entry = {"student": "resnet8", "name": "T", "checkpoint": "own.pt", "preprocess": "unit"}
    matrix = write_matrix(
        tmp_path / "m.yaml", teachers=[entry], students=[{"blockwise": {"of": "T"}}]
    )
    skips = plan(load(matrix)).skips
    assert skips and "teacher T has a preprocess" in skips[0].reason


PROCESSORS: list[tuple[dict[str, Any], str]] = [
    (
        {"size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
        "(pixels 0 to 1 − [0.5, 0.5, 0.5]) / [0.5, 0.5, 0.5], 224 × 224 bilinear",
    ),
    (
        {
            "size": {"shortest_edge": 256}, "do_center_crop": True, "resample": 3,
            "crop_size": {"height": 224, "width": 224}, "do_normalize": False,
        },
        "pixels 0 to 1, 224 × 224 bicubic, crop 0.875",
    ),
    (
        {"do_resize": False, "do_rescale": False, "image_mean": 127.0, "image_std": 64.0},
        "(pixels 0 to 255 − 127) / 64",
    ),
    (
        {
            "size": {"shortest_edge": 224}, "crop_pct": 0.875, "rescale_factor": 1 / 127.5,
            "image_mean": [1.0], "image_std": [1.0],
        },
        "(pixels 0 to 1 − 0.5) / 0.5, 224 × 224 bilinear, crop 0.875",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "words"), PROCESSORS)
def test_the_file_beside_the_weights_says_what_they_were_trained_on(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "own.pt").write_bytes(b"weights")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    given = own_inputs("resnet8", tmp_path / "own.pt")
    assert Preprocessing.model_validate(given).words == words


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"size": {"height": 4, "width": 8}}', '{"resample": 1, "size": 8}']
)
def test_a_file_that_images_are_not_made_by_is_refused_in_one_line(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(KtbenchError, match=r"not settings that images are made by here \(.*\): wr"):
        own_inputs("resnet8", tmp_path / "own.pt")
