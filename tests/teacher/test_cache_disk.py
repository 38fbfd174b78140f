"""Kept outputs on a disk that fails: damaged, foreign, full, shared."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ktbench.teacher.cache.disk_quota import DiskQuota
from ktbench.teacher.cache.row_file import HEADER_BYTES, RowFile, file_bytes
from tests.support.caching import VIEWS, Trial, files, source, trial
from tests.support.training import cell, teacher

ALL, BATCH = 12 * 32, 32
OF = cell(train=VIEWS)
STRIDE = 10 * 4 + 4
"""Ten logits and their check."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds both views of every image."""
    root = tmp_path_factory.mktemp("filled")
    trial(OF, root)
    return root


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights under a live teacher."""
    root = tmp_path_factory.mktemp("live")
    return trial(OF, root, own=teacher(root)).digest


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled cache."""
    shutil.copytree(filled / "outputs", tmp_path / "outputs")
    return tmp_path


def _row(file: Path, index: int) -> slice:
    start = HEADER_BYTES + index * STRIDE
    return slice(start, start + STRIDE)


def _edited(file: Path, where: slice, content: bytes) -> None:
    whole = bytearray(file.read_bytes())
    whole[where] = content
    file.write_bytes(whole)


def _rebuilt(found: Trial, root: Path, live: str, *, said: str, whole: int) -> None:
    """The weights are right, one note says what was wrong, and the next run finds it mended."""
    assert found.digest == live
    assert found.shares[0] == whole
    assert [said in note for note in found.notes] == ([True] if said else [])
    again = trial(OF, root)
    assert again.digest == live and not again.notes
    assert again.shares == (ALL - BATCH, BATCH)


# ---------------------------------------------------------------- damage


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 10, HEADER_BYTES, HEADER_BYTES + 5 * STRIDE + 7])
def test_a_file_that_was_cut_is_made_anew(keep: int, root: Path, live: str) -> None:
    os.truncate(files(root)[1], keep)
    found = trial(OF, root)
    _rebuilt(found, root, live, said="view-000001.rows was damaged", whole=ALL - 3 * BATCH - BATCH)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_never_read(root: Path, live: str) -> None:
    """In each of the image's values and in the check itself."""
    first, index = files(root)[1], 40
    original = first.read_bytes()
    row = RowFile(first, key=_key(first), view=1, count=96, nbytes=STRIDE - 4)
    for bit in range(8 * STRIDE):
        flipped = bytearray(original[_row(first, index)])
        flipped[bit // 8] ^= 1 << bit % 8
        _patched(first, _row(first, index).start, bytes(flipped))
        assert row.valid([39, index, 41]).tolist() == [True, False, True]
    row.close()
    found = trial(OF, root)
    _rebuilt(found, root, live, said="damaged rows are made again", whole=ALL - 2 * BATCH)


def _key(file: Path) -> str:
    return file.read_bytes()[8:24].decode()


def _patched(file: Path, start: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(content)


@pytest.mark.slow
def test_half_a_row_and_an_empty_row_are_missing(root: Path, live: str) -> None:
    first = files(root)[1]
    row = first.read_bytes()[_row(first, 7)]
    _edited(first, _row(first, 7), bytes(STRIDE))
    assert trial(OF, root).digest == live  # an empty row is no damage: nothing to tell
    _edited(first, _row(first, 7), bytes(20) + row[20:])
    found = trial(OF, root)
    _rebuilt(found, root, live, said="damaged rows are made again", whole=ALL - 2 * BATCH)


@pytest.mark.slow
def test_rows_of_another_image_or_another_view_are_not_taken(root: Path, live: str) -> None:
    zero, one = files(root)
    whole = one.read_bytes()
    _edited(one, _row(one, 3), whole[_row(one, 4)])
    assert trial(OF, root).digest == live
    _edited(one, slice(HEADER_BYTES, None), zero.read_bytes()[HEADER_BYTES:])
    found = trial(OF, root)
    _rebuilt(found, root, live, said="damaged rows are made again", whole=ALL - 4 * BATCH)


@pytest.mark.slow
def test_the_file_of_another_view_or_another_cache_is_made_anew(root: Path, live: str) -> None:
    zero, one = files(root)
    shutil.copyfile(zero, one)
    assert trial(OF, root).digest == live
    trial(OF, root, name="other")
    other = next(file for file in files(root) if file not in (zero, one))
    shutil.copyfile(other, zero)
    found = trial(OF, root)
    _rebuilt(found, root, live, said="view-000000.rows was damaged", whole=ALL - 4 * BATCH + BATCH)


@pytest.mark.slow
def test_what_is_remembered_beside_the_rows_may_be_lost(root: Path, live: str) -> None:
    memory = files(root)[0].parent / "meta.json"
    for text in ("", "[]", '{"independent": "yes"}', "\0" * 40):
        memory.write_text(text)
        found = trial(OF, root)
        assert found.digest == live and not found.notes
        assert found.shares == (ALL - BATCH, BATCH)


# ---------------------------------------------------------------- no room


@contextmanager
def _files_limited_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_where_rows_cannot_be_written_the_teacher_goes_on_live(
    root: Path, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on a file's size stands in for the disk's end: the system refuses the write."""
    one = files(root)[1]
    _edited(one, slice(HEADER_BYTES + 40 * STRIDE, None), bytes(56 * STRIDE))
    original = RowFile.put

    def limited(self: RowFile, *arguments: object) -> None:
        with _files_limited_to(HEADER_BYTES + 50 * STRIDE):
            original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RowFile, "put", limited)
    found = trial(OF, root)
    assert found.digest == live
    assert [n for n in found.notes if "no space left on the disk" in n] == found.notes
    assert len(found.notes) == 1
    monkeypatch.undo()
    again = trial(OF, root)
    assert again.digest == live and not again.notes


@pytest.mark.slow
def test_where_no_file_can_be_made_the_teacher_goes_on_live(tmp_path: Path, live: str) -> None:
    (tmp_path / "outputs").write_text("not a folder")
    found = trial(OF, tmp_path)
    assert found.digest == live
    assert len(found.notes) == 1 and "no more is kept: cannot write" in found.notes[0]
    assert found.shares == (0, ALL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"this test needs to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_storing_and_not_the_training(
    small_disk: Path, tmp_path: Path, live: str
) -> None:
    teacher(tmp_path)
    (tmp_path / "outputs").symlink_to(small_disk / "outputs")
    (small_disk / "outputs").mkdir()
    space = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"\1" * (space.f_bavail * space.f_frsize - 3 * 4096))
    found = trial(OF, tmp_path)
    assert found.digest == live
    assert len(found.notes) == 1 and "no space left on the disk" in found.notes[0]
    (small_disk / "filler").unlink()
    assert trial(OF, tmp_path).digest == live
    warm = trial(OF, tmp_path)
    assert warm.digest == live and warm.shares == (ALL - BATCH, BATCH)


# ---------------------------------------------------------------- the cap


def _total(root: Path) -> int:
    return sum(file.stat().st_size for file in (root / "outputs").glob("*/*"))


@pytest.mark.slow
def test_a_cap_that_is_reached_ends_the_storing(tmp_path: Path, live: str) -> None:
    one_view = file_bytes(96, STRIDE - 4)
    found = trial(OF, tmp_path, cap_gb=1.5 * one_view / 1e9)
    assert found.digest == live
    assert found.shares == (3 * BATCH, ALL - 3 * BATCH)  # the first view, seen twice
    assert len(found.notes) == 1 and "teacher.cap_gb" in found.notes[0]
    assert _total(tmp_path) <= 1.5 * one_view


@pytest.mark.slow
def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    cap = 4.9 * file_bytes(96, STRIDE - 4) / 1e9
    owners = {}
    for name in ("a", "b"):
        trial(OF, tmp_path, name=name, cap_gb=cap)
        owners[name] = {f.parent for f in files(tmp_path)} - set().union(*owners.values())
    trial(OF, tmp_path, name="a", cap_gb=cap)
    trial(OF, tmp_path, name="c", cap_gb=cap)
    left = {file.parent for file in files(tmp_path)}
    assert owners["a"] < left and not owners["b"] & left
    assert _total(tmp_path) <= cap * 1e9


def _kept(quota: DiskQuota, name: str, size: int) -> Path:
    folder = quota.root / name
    assert quota.admit(folder, size)
    (folder / "x.rows").write_bytes(bytes(size))
    os.utime(folder / "used", (0, 0))
    return folder


def test_a_folder_makes_no_room_for_itself(tmp_path: Path) -> None:
    """Nor do others go for one that would pass the cap without them."""
    quota = DiskQuota(tmp_path, 1000)
    own, other = _kept(quota, "own", 600), _kept(quota, "other", 300)
    assert not quota.admit(own, 500)
    assert (own / "x.rows").exists() and (other / "x.rows").exists()
    os.utime(own / "used", (0, 0))
    assert quota.admit(own, 300)
    assert (own / "x.rows").exists() and not other.exists()
    assert DiskQuota(tmp_path, 100).admit(own, 0)  # a lower cap: what is there is still read
    assert (own / "x.rows").exists()


@pytest.mark.slow
def test_what_is_evicted_while_it_is_read_is_read_on(root: Path, live: str) -> None:
    own = source(OF, root)
    original, calls = own.outputs, 0

    def evicted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:  # in the middle of the first view
            assert DiskQuota(root / "outputs", 1000).admit(root / "outputs" / "x", 900)
            assert not files(root)
        return original(*arguments)

    own.outputs = evicted
    found = trial(OF, root, own=own)
    assert found.digest == live
    # The first epoch goes on reading; the second and third find both views gone and store them.
    assert found.shares == (ALL - BATCH - 6 * BATCH, 7 * BATCH)


# ---------------------------------------------------------------- several at once


@pytest.mark.slow
def test_two_processes_fill_one_cache_at_once(tmp_path: Path, live: str) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.support.caching import *\n"
        "root, own = map(Path, sys.argv[1:]); own.mkdir(); live = teacher(own)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "found = [trial(cell(train=VIEWS, seed=s), root, live=live) for s in (0, 1)]\n"
        "print(found[0].digest, sum((f.notes for f in found), []))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, tmp_path, tmp_path / f"p{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    answers = [process.communicate("go\n")[0] for process in both]
    assert answers == [f"{live} []\n"] * 2
    warm = trial(OF, tmp_path)
    assert warm.digest == live and warm.shares == (ALL - BATCH, BATCH)
    assert not list((tmp_path / "outputs").glob("*/.tmp-*"))
