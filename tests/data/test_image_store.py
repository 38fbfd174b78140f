"""Images that are decoded to the disk once, and mapped: the same bits as in memory."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ktbench.data import Dataset, Stream, describe, image_headers, image_store, load, mapped
from ktbench.data.image_store import pixels_of
from ktbench.records import Augmentation, Checkpoint, DataSpec, KtbenchError, StorageError
from ktbench.students._contract import parts
from tests.support.running import Commands, write_matrix
from tests.support.training import TRAIN, cell, train

HERE = Path()
FLIPPED = Augmentation(crop_padding=2, flip=True)


def _photographs(folder: Path, count: int, side: int = 12, seed: int = 0) -> Path:
    """Write noisy JPEG files of two classes."""
    noise = np.random.default_rng(seed)
    for number in range(count):
        pixels = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
        path = folder / ("cat", "dog")[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    return folder


def _spec(folder: Path, keep: str = "store", **fields: Any) -> DataSpec:
    values = {"source": "folder", "path": str(folder), "keep": keep, "decoders": 1, **fields}
    return DataSpec.model_validate(values)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of 40 photographs."""
    return _photographs(tmp_path / "photographs", 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, with parts of four small images."""
    monkeypatch.setenv("KTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_store, "PART_BYTES", 4 * 3 * 12 * 12)
    return tmp_path / "cache" / "images"


def _folders(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def _same(data: Dataset, other: Dataset) -> None:
    """Both hold the same bits, wherever they are kept."""
    assert data.digest == other.digest and data.test_digest == other.test_digest
    assert all(map(torch.equal, data.statistics, other.statistics))
    for split in ("train", "validation", "test"):
        assert torch.equal(data.some(split, slice(3)), other.some(split, slice(3)))  # type: ignore[arg-type]
    ours, theirs = Stream(data, 3, 8), Stream(other, 3, 8)
    for step in ours.order(1):
        assert torch.equal(parts(ours.inputs(step, 1))[0], parts(theirs.inputs(step, 1))[0])
        assert torch.equal(ours.labels(step, 1), theirs.labels(step, 1))


@pytest.mark.parametrize("augment", [FLIPPED, Augmentation(), Augmentation(flip=True)])
def test_a_store_gives_the_same_bits_as_memory(photographs: Path, augment: Augmentation) -> None:
    stored = load(_spec(photographs, augment=augment), HERE)
    assert mapped.is_mapped(parts(stored.raw("train"))[0])
    assert not Stream(stored, 0, 8).samples.kept and len(stored.tensors) == 3 + 2
    _same(stored, load(_spec(photographs, "memory", augment=augment), HERE))


@pytest.mark.slow
def test_grey_and_resized_images_are_stored_alike(tmp_path: Path) -> None:
    for keep in ("memory", "store"):
        digits = DataSpec.model_validate({"source": "digits", "keep": keep, "decoders": 1})
        sized = digits.model_copy(update={"image_size": 6, "train_size": 40})
        data = load(sized, HERE)
        assert mapped.is_mapped(parts(data.raw("test"))[0]) == (keep == "store")
        assert data.digest == load(sized.model_copy(update={"keep": "auto"}), HERE).digest


def test_no_key_tells_how_images_are_kept(photographs: Path) -> None:
    plain = DataSpec(source="folder", path=str(photographs))
    kept = _spec(photographs)
    assert kept.canonical == plain.canonical and "keep" not in plain.model_dump()
    assert DataSpec.model_validate(kept.model_dump()) == kept


def test_images_are_decoded_once(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(_spec(photographs), HERE)
    monkeypatch.setattr(image_store, "_made", None)  # what would decode them
    assert load(_spec(photographs), HERE).digest == first.digest


@pytest.mark.slow
def test_several_processes_decode_the_same_store(photographs: Path, cache: Path) -> None:
    alone = load(_spec(photographs), HERE)
    names = _folders(cache)
    contents = [pixels_of(folder).read_bytes() for folder in names]
    for folder in names:
        pixels_of(folder).unlink()
    assert load(_spec(photographs, decoders=2), HERE).digest == alone.digest
    assert [pixels_of(folder).read_bytes() for folder in _folders(cache)] == contents


# ---------------------------------------------------------------- what a store is named by


def test_a_changed_file_under_the_same_name_makes_another_store(
    photographs: Path, cache: Path
) -> None:
    """Of the same size, and with the date that it had."""
    before = load(_spec(photographs), HERE)
    file = photographs / "cat" / "0002.jpg"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-8] ^= 64  # within the compressed pixels
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = load(_spec(photographs), HERE)
    assert changed.digest != before.digest and len(_folders(cache)) == 4
    _same(changed, load(_spec(photographs, "memory"), HERE))


@pytest.mark.slow
def test_another_size_and_other_rows_make_other_stores(photographs: Path, cache: Path) -> None:
    load(_spec(photographs), HERE)
    assert len(_folders(cache)) == 3
    load(_spec(photographs, train_size=10), HERE)
    assert len(_folders(cache)) == 4  # validation and test are the same
    load(_spec(photographs, image_size=8), HERE)
    assert len(_folders(cache)) == 7


def test_a_file_that_changes_while_it_is_read_is_told(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image_store._parts

    def touched(split: image_store.Split) -> Iterator[Any]:
        parts_of_split = list(made(split))
        for file in photographs.rglob("*.jpg"):
            file.write_bytes(file.read_bytes())
        yield from parts_of_split

    monkeypatch.setattr(image_store, "_parts", touched)
    with pytest.raises(KtbenchError, match="has changed while it was read: run again"):
        load(_spec(photographs), HERE)


# ---------------------------------------------------------------- kills and damage


PROGRAM = """
import sys
from pathlib import Path
from ktbench.data import image_store, load
from ktbench.records import DataSpec
image_store.PART_BYTES = 4 * 3 * 12 * 12
print(load(DataSpec.model_validate_json(sys.argv[1]), Path()).digest)
"""


def _process(spec: DataSpec) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, spec.model_dump_json()]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_decodes_loses_what_it_was_at(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(_photographs(tmp_path / "many", 3000))
    process = _process(spec)
    while not [*cache.glob("*/parts")] or min(p.stat().st_size for p in cache.glob("*/parts")) < 99:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not [*cache.glob("*/about.json")]
    [journal] = cache.glob("*/parts")
    kept = len(journal.read_text().splitlines())
    with journal.open("a") as file:
        file.write("[7, 12")  # a line that was being written
    written = list[int]()
    write_parts = image_store.write_parts

    def counted(source: Any, work: Any, missing: Any, workers: int) -> Iterator[Any]:
        written.append(len(missing))
        return write_parts(source, work, missing, workers)

    monkeypatch.setattr(image_store, "write_parts", counted)
    data = load(spec, HERE)
    assert written[0] == -(-data.size("train") // 4) - kept
    assert data.digest == load(spec.model_copy(update={"keep": "memory"}), HERE).digest


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["write_parts", "_named", "_described_as"])
def test_a_store_that_is_left_at_any_step_is_finished_by_the_next_run(
    moment: str, photographs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(image_store, moment, killed)
        load(_spec(photographs), HERE)
    assert not any(image_store._finished(folder) for folder in _folders(cache))
    _same(load(_spec(photographs), HERE), load(_spec(photographs, "memory"), HERE))


@pytest.mark.slow
def test_a_part_that_was_not_written_whole_is_decoded_again(
    photographs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(image_store, "_named", killed)
        load(_spec(photographs), HERE)
    [unfinished] = cache.glob("*/pixels.unfinished")
    with unfinished.open("r+b") as file:
        file.seek(700)
        file.write(b"torn")
    _same(load(_spec(photographs), HERE), load(_spec(photographs, "memory"), HERE))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["changed", "cut", "copied"])
def test_a_finished_store_that_somebody_wrote_to_is_checked(
    damage: str, photographs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(_spec(photographs), HERE)
    for folder in _folders(cache):
        content = bytearray(pixels_of(folder).read_bytes())
        content[5] ^= damage == "changed"
        pixels_of(folder).write_bytes(content[: -3 if damage == "cut" else None])
    if damage == "copied":  # to another disk, say, without its date
        monkeypatch.setattr(image_store, "_made", None)
    _same(load(_spec(photographs), HERE), load(_spec(photographs, "memory"), HERE))


@pytest.mark.slow
def test_processes_that_need_the_same_store_share_it(tmp_path: Path, cache: Path) -> None:
    spec = _spec(_photographs(tmp_path / "many", 1500))
    first, second = _process(spec), _process(spec)
    answers = [each.communicate(timeout=300) for each in (first, second)]
    assert first.returncode == second.returncode == 0, answers
    assert answers[0][0] == answers[1][0]
    told = "".join(error for _, error in answers)
    assert told.count("data: decoding") == 3 and len(_folders(cache)) == 3
    assert load(spec, HERE).digest == answers[0][0].strip()


# ---------------------------------------------------------------- what does not fit


@pytest.mark.slow
def test_a_disk_that_becomes_full_is_told_and_nothing_is_lost(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def written(handle: int, content: bytes, offset: int) -> int:
        if offset > 3000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", written)
        with pytest.raises(StorageError, match="no space left on the disk: free some and run"):
            load(_spec(photographs), HERE)
    _same(load(_spec(photographs), HERE), load(_spec(photographs, "memory"), HERE))


def test_a_disk_that_cannot_hold_them_is_told_before_anything_is_decoded(
    photographs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.data.storage._free_on_disk", lambda _: 10_000)
    describe.cache_clear()
    contents = describe(_spec(photographs), HERE).contents
    assert contents is not None and contents.storage is not None
    problem = contents.storage.problem
    assert problem is not None and "no space left on the disk for 40 images" in problem
    with pytest.raises(StorageError, match="no space left on the disk for 40 images"):
        load(_spec(photographs), HERE)
    assert not cache.exists()


def test_memory_that_cannot_hold_them_is_told(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktbench.data.storage.free_memory", lambda: 10_000)
    describe.cache_clear()
    contents = describe(_spec(photographs, "memory"), HERE).contents
    assert contents is not None and contents.storage is not None
    assert "set data.keep: store" in (contents.storage.problem or "")


def test_a_large_data_set_is_stored_without_being_asked_for(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not mapped.is_mapped(parts(load(_spec(photographs, "auto"), HERE).raw("train"))[0])
    monkeypatch.setattr("ktbench.data.storage.MEMORY_BYTES", 40 * 3 * 12 * 12 - 1)
    assert mapped.is_mapped(parts(load(_spec(photographs, "auto"), HERE).raw("train"))[0])


# ---------------------------------------------------------------- what cannot be read


def _damaged(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("keep", ["memory", "store"])
def test_damaged_files_are_named_while_planning_and_decoding(photographs: Path, keep: str) -> None:
    _damaged(photographs, "cat/0004.jpg", "dog/0035.jpg", "dog/0037.jpg")
    names = r"not a readable image.*; 2 more cannot be read: .*003[57]\.jpg, .*003[57]\.jpg"
    with pytest.raises(KtbenchError, match=names):
        describe(_spec(photographs, keep), HERE)
    with pytest.raises(KtbenchError, match=names if keep == "store" else "not a readable image"):
        load(_spec(photographs, keep), HERE)


def test_a_file_that_ends_early_is_named_when_it_is_decoded(photographs: Path) -> None:
    path = photographs / "dog" / "0035.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(KtbenchError, match=r"0035\.jpg: not a readable image"):
        load(_spec(photographs), HERE)


def test_mixed_sizes_are_told_with_how_many_there_are(photographs: Path) -> None:
    Image.new("RGB", (9, 7)).save(photographs / "cat" / "0002.jpg")
    common = r"mixed sizes \(3×12×12 \(39 images\): .*; 3×7×9 \(1 image\): .*0002\.jpg\): set data"
    with pytest.raises(KtbenchError, match=common):
        describe(_spec(photographs), HERE)
    with pytest.raises(KtbenchError, match=r"mixed sizes .*3×7×9: .*0002\.jpg"):
        load(_spec(photographs), HERE)
    contents = describe(_spec(photographs, image_size=8), HERE).contents
    assert contents is not None
    assert "images of 2 sizes are made 8×8: 12×12 (39 images), 9×7 (1 image)" in contents.notes


def test_a_header_tells_the_shape_of_the_decoded_image(tmp_path: Path) -> None:
    from ktbench.data.pixels import decode, shape_in_header

    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F", "CMYK", "LAB", "YCbCr")
    for mode in modes:
        kind = "tiff" if mode in ("F", "LAB", "CMYK", "YCbCr") else "png"
        path = tmp_path / f"{mode}.{kind}"
        Image.new(mode, (7, 5)).save(path, kind)
        with path.open("rb") as file:
            assert shape_in_header(file, "x") == decode(path.read_bytes(), "x", None).shape, mode
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("jpeg", "png", "tiff"):
        path = tmp_path / f"turned.{kind}"
        Image.new("RGB", (7, 5)).save(path, kind, exif=exif)
        with path.open("rb") as file:
            assert shape_in_header(file, "x") == (3, 7, 5)
        assert decode(path.read_bytes(), "x", None).shape == (3, 7, 5)


def test_of_many_files_some_headers_are_read_and_that_is_said(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_headers, "MOST", 10)
    contents = describe(_spec(photographs, split_seed=5), HERE).contents
    assert contents is not None
    [note] = contents.notes
    assert note.startswith("the headers of 10 of 40 images were read, spread evenly")


# ---------------------------------------------------------------- memory


PASSES = """
import sys
from pathlib import Path
import torch
from ktbench.data import Dataset, Stream
from ktbench.data.mapped import map_images
from ktbench.records import DataSpec

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

file, count = Path(sys.argv[1]), int(sys.argv[2])
images = map_images(file, count, (3, 224, 224), ((1, 2, 3), (4 * count * 224**2,) * 3))
spec = DataSpec(source="folder", path="x", augment={"crop_padding": 8, "flip": True})
split = images, torch.zeros(count, dtype=torch.int64)
data = Dataset(spec, ("a", "b"), dict.fromkeys(("train", "validation", "test"), split))
stream = Stream(data, 0, 32)
stream.inputs(stream.order(0)[0], 0)
data.some("test", slice(64))
held = peak()
data.digest, data.statistics
for step in stream.order(0):
    stream.inputs(step, 0)
for start in range(0, data.size("test"), 64):
    data.some("test", slice(start, start + 64))
print(peak() - held)
"""


@pytest.mark.slow
def test_passes_over_a_store_do_not_hold_it(tmp_path: Path) -> None:
    """The digest, an epoch of batches and the test images of 300 MB, which are never all there."""
    count, file = 2000, tmp_path / "pixels"
    file.write_bytes(bytes(range(256)) * (count * 3 * 224 * 224 // 256))
    command = [sys.executable, "-c", PASSES, str(file), str(count)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 280 * 10**6


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_a_cell_learns_the_same_weights_from_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a crop, a mirror, a teacher and a best epoch chosen on the validation set."""
    monkeypatch.setattr(image_store, "PART_BYTES", 50 * 64)
    student = cell("kd", train=TRAIN.model_copy(update={"keep": "best"}))
    stored = student.data.model_copy(update={"keep": "store", "decoders": 1})
    kept = student.model_copy(update={"data": stored})
    assert kept.key == student.key
    data = load(stored, HERE)
    assert mapped.is_mapped(parts(data.raw("train"))[0])
    [ours] = train([kept], tmp_path / "store", dataset=data)
    [theirs] = train([student], tmp_path / "memory")
    assert isinstance(ours, Checkpoint) and isinstance(theirs, Checkpoint)
    assert ours.digest == theirs.digest and ours.accuracy == theirs.accuracy


@pytest.mark.slow
def test_a_run_decodes_with_a_progress_line_and_goes_on_in_memory(
    ktbench: Commands, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained from a store is there when the matrix says `memory`, and is not redone."""
    fields = {"source": "folder", "path": str(photographs), "decoders": 1}
    changes: dict[str, Any] = {"methods": ["none"], "teachers": []}

    def matrix(keep: str) -> Path:
        return write_matrix(tmp_path / "m.yaml", data={**fields, "keep": keep}, **changes)

    answer = ktbench("plan", matrix("store"))
    assert answer.code == 0 and "40 images, decoded 0.0 MB: in a store on the disk" in answer.out
    answer = ktbench("run", matrix("store"), "--results", "r")
    assert answer.code == 0 and "images: 40 to do" in answer.err, answer.err
    answer = ktbench("run", matrix("memory"), "--results", "r")
    assert answer.code == 0 and "1 reused" in answer.err, answer.err
    monkeypatch.setattr("ktbench.data.storage._free_on_disk", lambda _: 0)
    answer = ktbench(
        "plan",
        write_matrix(
            tmp_path / "m.yaml", data={**fields, "keep": "store", "image_size": 8}, **changes
        ),
    )
    assert answer.code == 2 and "no space left on the disk for 40 images" in answer.err
