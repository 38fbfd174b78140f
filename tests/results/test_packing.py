"""A results folder as one file: read as the folder is, the same bytes each time, safe to open."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from benchmarks._synthetic import Shape, write_folder
from ktbench.compare import compare
from ktbench.records import KtbenchError
from ktbench.report import write_report
from ktbench.results import load_results
from ktbench.results.lock import LOCK_SCHEMA, LockFile
from ktbench.results.packing import pack
from ktbench.results.run_lock import run_lock
from ktbench.results.storage import sealed, stored
from ktbench.results.verification import verify
from tests.support.fuzzing import REFERENCE, published
from tests.support.running import Commands

PUBLISHED = REFERENCE / "elastic-small.ktb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A committed study as a folder again."""
    return published("elastic-small", tmp_path / "study")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which packs are unpacked."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_packed_folder_gives_the_frames_of_the_folder(folder: Path, temporary: Path) -> None:
    pack(folder, folder.with_suffix(".ktb"))
    packed, plain = load_results(folder.with_suffix(".ktb")), load_results(folder)
    for name in ("cells", "curves", "teachers", "measurements", "deployed"):
        pd.testing.assert_frame_equal(getattr(packed, name), getattr(plain, name))
    assert not packed.problems
    assert packed.lock == plain.lock
    assert packed.path.parent == temporary
    del packed
    assert not list(temporary.iterdir())


def test_a_pack_does_not_say_where_the_matrix_lay(folder: Path, tmp_path: Path) -> None:
    file = folder / "lock.json"
    lock = stored(LockFile, file, newest=LOCK_SCHEMA).record
    plan = lock.plan.model_copy(update={"base": str(tmp_path / "somebody")})
    file.write_text(sealed(lock.model_copy(update={"plan": plan})))
    pack(folder, tmp_path / "1.ktb")
    with zipfile.ZipFile(tmp_path / "1.ktb") as archive:
        assert b"somebody" not in archive.read("lock.json")
    packed = load_results(tmp_path / "1.ktb")
    assert packed.lock.plan.base == "." and not packed.problems
    assert not verify(tmp_path / "1.ktb").problems


def test_the_same_folder_gives_the_same_bytes_wherever_and_whenever(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name, content in reversed(_files(folder).items()):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes(content)
        (other / name).chmod(0o600)
        os.utime(other / name, (0, 0))
    first, second = tmp_path / "1.ktb", tmp_path / "2.ktb"
    pack(folder, first)
    pack(other, second)
    assert first.read_bytes() == second.read_bytes() == PUBLISHED.read_bytes()


def test_networks_the_report_and_foreign_files_stay_out_unless_weights_are_asked_for(
    folder: Path,
) -> None:
    weights, artifact = "weights/0123456789abcdef.pt", "artifacts/0123456789abcdef/onnx-fp32.onnx"
    for name in (weights, artifact, "report/index.html", "work/x/training.pt", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"some bytes")
    without, with_them = folder.with_suffix(".ktb"), folder.with_name("all.ktb")
    assert pack(folder, without).files == 25
    packed = pack(folder, with_them, networks=True)
    assert not packed.files, "its cells name weights that are missing"
    assert all(problem.reason == "is missing" for problem in packed.problems)
    pack(folder, with_them, networks=True, as_is=True)
    names = [set(zipfile.ZipFile(file).namelist()) for file in (without, with_them)]
    assert names[1] - names[0] == {weights, artifact}
    assert not verify(without).problems


@pytest.mark.slow
def test_a_damaged_folder_is_packed_only_as_it_is(folder: Path, ktbench: Commands) -> None:
    record = next((folder / "cells").glob("*.json"))
    record.write_text(record.read_text().replace('"status": "done"', '"status": "failed"'))
    answer = ktbench("pack", folder, "x.ktb")
    assert answer.code == 1
    assert record.name in answer.out and "nothing was packed" in answer.out
    assert not Path("x.ktb").exists()
    assert ktbench("pack", folder, "x.ktb", "--as-is").code == 0
    assert "damaged" in set(load_results("x.ktb").cells["status"])
    assert ktbench("verify", "x.ktb").code == 1


def test_a_folder_that_a_run_holds_is_not_packed(folder: Path, ktbench: Commands) -> None:
    with run_lock(folder):
        assert "is running on this folder: wait for it" in ktbench("pack", folder, "x.ktb").error
    assert not Path("x.ktb").exists()
    assert ktbench("pack", folder, "x.ktb").code == 0


def test_nothing_is_written_where_the_folder_or_the_name_will_not_do(
    folder: Path, ktbench: Commands
) -> None:
    assert "ends in .ktb" in ktbench("pack", folder, "x.zip").error
    for other in (folder / "cells", folder / "lock.json", Path("nowhere")):
        assert "no results folder" in ktbench("pack", other, "x.ktb").error
    (folder / "matrix.yaml").unlink()
    (folder / "matrix.yaml").symlink_to("/etc/passwd")
    assert "is a link" in ktbench("pack", folder, "x.ktb").error
    assert [path.name for path in Path().iterdir()] == [folder.name]


@pytest.mark.slow
def test_report_compare_and_verify_read_packs(folder: Path, ktbench: Commands) -> None:
    report, ktbench.report = Path("study-report"), True
    ktbench("pack", folder, "study.ktb")
    assert ktbench("report", "study.ktb").out.strip() == str(report / "index.html")
    assert ktbench("report", folder, "--output", "elsewhere").code == 0
    write_report(folder)
    assert _files(report) == _files(Path("elsewhere")) == _files(folder / "report")
    assert not compare(Path("study.ktb"), folder).regressions
    assert ktbench("compare", folder, "study.ktb").code == 0
    assert "10 results" in ktbench("verify", "study.ktb").out


def test_a_report_is_not_written_among_other_files(folder: Path) -> None:
    with pytest.raises(KtbenchError, match="'cells', which is no part of a report"):
        write_report(PUBLISHED, folder)


# ---------------------------------------------------------------- hostile packs


def _entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def _with(*added: tuple[zipfile.ZipInfo, bytes]) -> Callable[[Path], None]:
    """A good pack with more entries."""

    def make(path: Path) -> None:
        shutil.copy(PUBLISHED, path)
        with zipfile.ZipFile(path, "a") as archive:
            for entry, content in added:
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED)

    return make


def _altered(change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    """A good pack with other bytes."""

    def make(path: Path) -> None:
        content = bytearray(PUBLISHED.read_bytes())
        change(content)
        path.write_bytes(content)

    return make


def _bomb(path: Path) -> None:
    """A megabyte that says of itself to hold 300 of them, in records of ordinary size."""
    zeros = b" " * (30 << 20)
    _with(*((_entry(f"cells/{i:016x}.json"), zeros) for i in range(10)))(path)


def _cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def _flip(content: bytearray) -> None:
    content[200] ^= 255


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "climbs": (_with((_entry("../evil"), b"x")), "is no path of a results folder"),
    "climbs_within": (
        _with((_entry("artifacts/0123456789abcdef/../../../evil"), b"x")),
        "is no path of a results folder",
    ),
    "absolute": (_with((_entry("/tmp/evil"), b"x")), "is no path of a results folder"),
    "backslashes": (
        _with((_entry("artifacts/0123456789abcdef/..\\..\\evil"), b"x")),
        "is no path of a results folder",
    ),
    "escapes": (_with((_entry("\x1b[31mred\n"), b"x")), "is no path of a results folder"),
    "foreign": (_with((_entry("running"), b"{}")), "is no path of a results folder"),
    "folder": (_with((_entry("cells/", 0o40755), b"")), "is no path of a results folder"),
    "link": (
        _with((_entry(f"cells/{'0' * 16}.json", stat.S_IFLNK | 0o777), b"/etc/passwd")),
        "is a link",
    ),
    "oversized": (_with((_entry(f"cells/{'0' * 16}.json"), b" " * (33 << 20))), "more than such"),
    "bomb": (_bomb, "would unpack to 31"),
    "cut": (_altered(_cut), "no packed results folder, or a damaged one"),
    "flipped": (_altered(_flip), "no packed results folder, or a damaged one"),
    "empty": (lambda path: path.write_bytes(b"") and None, "or a damaged one"),
    "text": (lambda path: path.write_text("name: m\n") and None, "or a damaged one"),
    "no_lock": (lambda path: zipfile.ZipFile(path, "w").close(), "it has no lock.json"),
}


@pytest.mark.parametrize(
    "name", [pytest.param("bomb", marks=pytest.mark.slow), *(n for n in HOSTILE if n != "bomb")]
)
def test_a_hostile_or_damaged_pack_is_one_line_and_writes_nothing(
    name: str, ktbench: Commands, temporary: Path
) -> None:
    ktbench.report = True
    make, reason = HOSTILE[name]
    make(Path("x.ktb"))
    for command in (("report", "x.ktb"), ("compare", PUBLISHED, "x.ktb"), ("verify", "x.ktb")):
        error = ktbench(*command).error
        assert error.startswith("ktbench: x.ktb: ") and reason in error
    with pytest.raises(KtbenchError, match=r"x\.ktb"):
        load_results("x.ktb")
    assert not list(temporary.iterdir())
    assert {path.name for path in Path().iterdir()} == {"x.ktb", temporary.name}


def test_a_file_twice_in_a_pack_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        _with((_entry("matrix.yaml"), b"name: other\n"))(tmp_path / "x.ktb")
    with pytest.raises(KtbenchError, match=r"'matrix\.yaml' is in it twice"):
        load_results(tmp_path / "x.ktb")


def test_a_damaged_lock_in_a_pack_is_told_by_the_packs_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ktb", "w") as archive:
        archive.writestr("lock.json", "{}")
    with pytest.raises(KtbenchError, match=r"x\.ktb/lock\.json: is damaged"):
        load_results(tmp_path / "x.ktb")


def test_measurements_are_packed_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", Shape(students=("resnet8",), seeds=3, epochs=3)).path
    packed = pack(folder, tmp_path / "run.ktb", as_is=True)
    assert packed.files == len([n for n in _files(folder) if not n.startswith("report/")])
    assert len(load_results(tmp_path / "run.ktb").measurements) == len(
        load_results(folder).measurements
    )
