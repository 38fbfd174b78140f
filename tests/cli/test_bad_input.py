"""Bad input, a bad place or a bad board: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ktbench.results import load_results
from tests.support.optional_tools import skip_or_fail
from tests.support.running import Commands, digests, results, started, write_matrix

pytestmark = pytest.mark.slow

COULD_NOT_BEGIN, SOME_FAILED = 2, 1


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: `m.yaml`, its results `r` and its teacher store `cache`."""
    folder = tmp_path_factory.mktemp("earlier")
    matrix = write_matrix(folder / "m.yaml")
    done = started("run", matrix, "--results", folder / "r", cache=folder / "cache")
    _, told = done.communicate()
    assert done.returncode == 0, told
    return folder


@pytest.fixture
def place(earlier: Path, tmp_path: Path, ktbench: Commands) -> Iterator[Path]:
    """A copy of the finished run, which is as whole after the test as before."""
    shutil.copytree(earlier, tmp_path, dirs_exist_ok=True)
    before = digests(tmp_path / "r")
    assert len(before) == 2
    yield tmp_path
    after = digests(tmp_path / "r")
    assert {label: after[label] for label in before} == before


def _assert_refused(ktbench: Commands, matrix: Path, *parts: str) -> None:
    """The run does not begin; its one line holds every part, and earlier results still load."""
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == COULD_NOT_BEGIN, answer.err
    for part in parts:
        assert part in answer.error
    assert set(load_results(Path("r")).cells["status"]) == {"done"}


# ---------------------------------------------------------------- the matrix


def test_yaml_that_is_none_is_told_with_its_line(ktbench: Commands, place: Path) -> None:
    matrix = place / "bad.yaml"
    matrix.write_text("name: x\ndata: {source: digits\nstudents: [resnet8]\n")
    _assert_refused(ktbench, matrix, "bad.yaml:", "3")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00bad", b"just words", b"- a\n- list\n"])
def test_a_file_that_is_no_matrix_is_told(ktbench: Commands, place: Path, content: bytes) -> None:
    (place / "bad.yaml").write_bytes(content)
    _assert_refused(ktbench, place / "bad.yaml", "bad.yaml")


def test_a_matrix_that_is_not_there_is_told(ktbench: Commands, place: Path) -> None:
    _assert_refused(ktbench, place / "none.yaml", "none.yaml")
    _assert_refused(ktbench, place, str(place))


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"students": ["resnet9"]}, "resnet8"),
        ({"methods": ["fitnets"]}, "fitnet"),
        ({"methods": [{"kd": {"temprature": 3}}]}, "temperature"),
        ({"devices": ["locl"]}, "local"),
        ({"trian": {"epochs": 1}}, "train"),
        ({"data": {"source": "digit"}}, "digits"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_one(
    ktbench: Commands, place: Path, changes: dict[str, Any], nearest: str
) -> None:
    matrix = write_matrix(place / "bad.yaml", **changes)
    _assert_refused(ktbench, matrix, "bad.yaml:", nearest)


def test_an_impossible_pair_is_skipped_with_its_reason_and_the_rest_runs(
    ktbench: Commands, place: Path
) -> None:
    matrix = write_matrix(place / "m.yaml", methods=["none", "kd", "fsp", "attention"])
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == 0 and "1 skipped" in answer.err
    frame = load_results(place / "r").cells.set_index("method")
    assert frame.loc["fsp", "status"] == "skipped" and "widths" in frame.loc["fsp", "reason"]
    assert frame.loc["attention", "status"] == "done"


# ---------------------------------------------------------------- the data


def _images(folder: Path, sizes: dict[str, list[int]]) -> Path:
    """A folder of images: for each class, images of these sizes."""
    shades = np.random.RandomState(0)
    for name, each in sizes.items():
        (folder / name).mkdir(parents=True)
        for number, size in enumerate(each):
            pixels = shades.randint(0, 256, (size, size)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def _on_folder(place: Path, folder: Path, **data: Any) -> Path:
    spec = {"source": "folder", "path": str(folder), **data}
    return write_matrix(place / "bad.yaml", data=spec, methods=["none"], teachers=[])


def test_an_empty_data_set_is_told(ktbench: Commands, place: Path) -> None:
    _assert_refused(ktbench, _on_folder(place, _images(place / "e", {})), "no such file or folder")
    (place / "e").mkdir()
    _assert_refused(ktbench, _on_folder(place, place / "e"), "sub-folder")
    _images(place / "e", {"cat": [], "dog": []})
    _assert_refused(ktbench, _on_folder(place, place / "e"), "is empty")
    empty = pa.table({"img": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    pq.write_table(empty, place / "train.parquet")
    spec = {"source": "parquet", "path": str(place)}
    matrix = write_matrix(place / "bad.yaml", data=spec, methods=["none"], teachers=[])
    _assert_refused(ktbench, matrix, "is empty")


def test_images_of_mixed_sizes_are_told_with_the_remedy_which_helps(
    ktbench: Commands, place: Path
) -> None:
    folder = _images(place / "mixed", {"cat": [8] * 20, "dog": [8] * 10 + [12] * 10})
    _assert_refused(ktbench, _on_folder(place, folder), "mixed sizes", "image_size")
    answer = ktbench("run", _on_folder(place, folder, image_size=8), "--results", "other")
    assert answer.code == 0, answer.err


def test_a_file_that_is_no_image_is_told(ktbench: Commands, place: Path) -> None:
    folder = _images(place / "images", {"cat": [8] * 20, "dog": [8] * 20})
    (folder / "dog" / "007.png").write_bytes(b"no image")
    _assert_refused(ktbench, _on_folder(place, folder), "007.png", "not a readable image")


def test_data_that_changed_under_its_results_is_refused(ktbench: Commands, place: Path) -> None:
    folder = _images(place / "images", {"cat": [8] * 30, "dog": [8] * 30})
    matrix = _on_folder(place, folder)
    assert ktbench("run", matrix, "--results", "s").code == 0
    before = digests(place / "s")
    for file in sorted(folder.rglob("*.png")):
        pixels = np.asarray(Image.open(file)) ^ 1
        Image.fromarray(pixels).save(file)
    changed = started("run", matrix, "--results", place / "s", cache=place / "cache")
    _, told = changed.communicate()
    assert changed.returncode == COULD_NOT_BEGIN and "never mixed" in told
    assert len(told.splitlines()) == 2 and digests(place / "s") == before  # the announcement


# ---------------------------------------------------------------- training


def test_a_nan_in_training_fails_its_cell_at_its_step_and_no_other(
    ktbench: Commands, place: Path
) -> None:
    methods = ["none", "kd", {"kd": {"weight": 1e38}}, {"attention": {"weight": 1e30}}]
    matrix = write_matrix(place / "m.yaml", methods=methods)
    answer = ktbench("run", matrix, "--results", "r")
    assert answer.code == SOME_FAILED
    found = {label: r for label, r in results(place / "r").items() if r.status == "failed"}
    assert sorted(r.cell.method.name for r in found.values()) == ["attention", "kd"]
    for label, result in found.items():
        [failure] = result.failures
        assert failure.stage == "train" and failure.step is not None
        assert "nan" in failure.reason or "inf" in failure.reason or "finite" in failure.reason
        assert re.search(
            rf"failed: {re.escape(label)}: train.*: {re.escape(failure.reason)}", answer.err
        )
    assert set(load_results(place / "r").cells["status"]) == {"done", "failed"}


def test_a_rate_that_explodes_fails_the_cells_that_it_is_for(
    ktbench: Commands, place: Path
) -> None:
    include = [{"method": "kd", "train": {"lr": 1e9, "epochs": 1, "batch_size": 60}}]
    matrix = write_matrix(place / "m.yaml", include=include)
    answer = ktbench("run", matrix, "--results", "other")
    assert answer.code == SOME_FAILED, answer.err
    statuses = {r.cell.method.name: r.status for r in results(place / "other").values()}
    assert statuses == {"none": "done", "kd": "failed"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a readable checkpoint"),
        (b"PK\x03\x04 half a file", "not a readable checkpoint"),
        (None, "no such"),
    ],
)
def test_a_corrupt_checkpoint_fails_its_cells_with_its_name(
    ktbench: Commands, place: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (place / "own.pt").write_bytes(content)
    own = {"student": "resnet8", "name": "own", "checkpoint": "own.pt"}
    matrix = write_matrix(place / "m.yaml", teachers=[own, {"student": "resnet8", "name": "T"}])
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == (SOME_FAILED if content is not None else COULD_NOT_BEGIN)
    [line] = answer.err.splitlines()
    assert "own.pt" in line and says in line


# ---------------------------------------------------------------- the results folder


@pytest.mark.parametrize("file", ["lock.json", "cells/*[0-9a-f].json"])
def test_a_folder_of_a_newer_schema_is_refused_and_left_as_it_is(
    ktbench: Commands, place: Path, file: str
) -> None:
    target = next((place / "r").glob(file))
    original = target.read_text()
    target.write_text(json.dumps(json.loads(original) | {"schema_version": 99, "new": True}))
    before = {p: p.read_bytes() for p in (place / "r").glob("cells/*")}
    answer = ktbench("run", place / "m.yaml", "--results", "r", "--quiet")
    assert answer.code == COULD_NOT_BEGIN
    assert "newer ktbench (schema 99" in answer.error and "upgrade" in answer.error
    assert {p: p.read_bytes() for p in before} == before
    target.write_text(original)


def test_a_second_run_on_a_folder_is_refused_with_the_firsts_process_and_host(
    ktbench: Commands, place: Path
) -> None:
    matrix = write_matrix(place / "long.yaml", methods=["none"], train={"epochs": 100_000})
    first = started("run", matrix, "--results", place / "r", cache=place / "cache")
    try:
        while not (place / "r" / "running").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.02)
        answer = ktbench("run", place / "m.yaml", "--results", "r", "--quiet")
        assert answer.code == COULD_NOT_BEGIN
        assert f"process {first.pid} on {os.uname().nodename}" in answer.error
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert ktbench("run", place / "m.yaml", "--results", "r").code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    if os.getuid() != 0:
        skip_or_fail("this test needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        # Nothing that CI could install: a container may be root and still not allowed to mount.
        pytest.skip(f"this test needs to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def _fill(disk: Path, leave: int) -> None:
    """Take all space of a disk but so many bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    space = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(b"\0" * max(0, space.f_bavail * space.f_frsize - leave))


def test_a_full_disk_stops_the_run_in_one_line_and_it_goes_on_with_more_space(
    ktbench: Commands, place: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CACHE", str(small_disk / "cache"))
    folder = small_disk / "r"
    shutil.copytree(place / "r", folder)
    ktbench.report = True
    matrix = write_matrix(place / "m.yaml", methods=["none", "kd", "fitnet"], exports={})
    before, stops = digests(folder), 0
    for leave in (0, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000):
        _fill(small_disk, leave)
        answer = ktbench("run", matrix, "--results", folder, "--quiet")
        if answer.code == 0:
            break
        stops += 1
        assert answer.code == COULD_NOT_BEGIN, answer.err
        assert "no space left" in answer.error.lower(), leave
        after = digests(folder)
        assert {label: after.get(label) for label in before} == before
        assert len(load_results(folder).cells) >= 2
        assert not (folder / "running").exists()
    assert stops >= 3
    (small_disk / "filler").unlink()
    assert ktbench("run", matrix, "--results", folder).code == 0
    roomy = write_matrix(place / "m.yaml", methods=["none", "kd", "fitnet"])
    assert ktbench("run", roomy, "--results", "roomy").code == 0
    assert digests(folder) == digests(place / "roomy")


def test_a_folder_that_cannot_be_written_is_told(ktbench: Commands, place: Path) -> None:
    (place / "file").write_text("not a folder")
    for folder in (place / "file", place / "file" / "below", Path("/proc/nowhere")):
        answer = ktbench("run", place / "m.yaml", "--results", folder, "--quiet")
        assert answer.code == COULD_NOT_BEGIN and str(folder) in answer.error


def test_a_teacher_store_that_cannot_be_written_is_told(
    ktbench: Commands, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("not a folder")
    monkeypatch.setenv("KTBENCH_CACHE", str(place / "file"))
    matrix = write_matrix(place / "m.yaml", methods=["none", "kd", "attention"])
    answer = ktbench("run", matrix, "--results", "r", "--quiet")
    assert answer.code == COULD_NOT_BEGIN and "KTBENCH_CACHE" in answer.error


def test_a_checkpoint_interval_that_is_no_number_is_told(
    ktbench: Commands, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTBENCH_CHECKPOINT_SECONDS", "often")
    answer = ktbench("run", place / "m.yaml", "--results", "new", "--quiet")
    assert answer.code == COULD_NOT_BEGIN and "KTBENCH_CHECKPOINT_SECONDS=often" in answer.error
