"""Files and programs of a board, read without ever failing: what is not there is None."""

import glob
import os
import subprocess
from typing import List, Optional

MOST = 1 << 20
"""Bytes read of a file."""
PROGRAM_S = 5.0
"""Seconds that a program of the board is given."""


class Tree:
    """The files below a folder: the board's root, or a copy of one in a test."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def text(self, path: str) -> Optional[str]:
        """A file's words without the blanks around them; a device tree's zeros are spaces."""
        try:
            with open(os.path.join(self.root, path), "rb") as file:
                content = file.read(MOST)
        except OSError:
            return None
        return content.decode("utf-8", "replace").strip("\0 \n").replace("\0", " ")

    def number(self, path: str) -> Optional[float]:
        """A file's number."""
        return number(self.text(path))

    def glob(self, pattern: str) -> List[str]:
        """Paths below the root that match, in order."""
        paths = glob.glob(os.path.join(glob.escape(self.root), pattern))
        return sorted(os.path.relpath(path, self.root) for path in paths)


def number(text: Optional[str]) -> Optional[float]:
    """The number that a text is, or None."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def program(*command: str) -> Optional[str]:
    """Return what a program of the board prints, or None if it is missing or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")
