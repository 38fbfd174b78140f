"""Only regular files of a bounded size are read, whatever a path leads to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ktbench.system.files import UnsuitableFileError, check_regular, read_regular


def test_a_regular_file_is_read_whole_through_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "file", limit=3) == b"abc"
    assert read_regular(str(tmp_path / "link")) == b"abc"
    assert check_regular(tmp_path / "link") == 3


def test_what_never_ends_is_refused_by_its_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        for path, kind in (
            (Path("/dev/zero"), "a device"),
            (tmp_path / "pipe", "a pipe"),
            (tmp_path / "sock", "a socket"),
        ):
            with pytest.raises(UnsuitableFileError, match=f"{path}: is {kind}, not a regular file"):
                read_regular(path)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnsuitableFileError, match="1024 GiB are more than the 1 GiB"):
        read_regular(tmp_path / "sparse")


def test_a_file_whose_size_is_not_told_is_still_bounded() -> None:
    with pytest.raises(UnsuitableFileError, match="more than the 8 bytes"):
        read_regular("/proc/self/maps", limit=8)


@pytest.mark.parametrize("name", ["a\0b", "a\udcffb\ud800"])
def test_what_cannot_be_a_path_is_said_to_be_none(name: str) -> None:
    with pytest.raises(UnsuitableFileError, match="cannot be a path") as caught:
        read_regular(name)
    assert str(caught.value).isprintable()
