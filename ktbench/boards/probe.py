"""The record of what a board tells about itself before it is set up."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ktbench.measure.agent_schema import Holder, Text

_JETPACKS = {"32": "JetPack 4", "35": "JetPack 5", "36": "JetPack 6", "38": "JetPack 7"}
"""Names by the major release of Jetson Linux (NVIDIA's JetPack archive)."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Environment(_Part):
    """The environment that an earlier set-up left."""

    python: list[int]
    machine: Text
    wheels: list[list[Text]]
    """File name and digest of each."""


class Look(_Part):
    """The answer to a `look` task."""

    interpreter: Text
    python: Annotated[list[int], Field(min_length=3, max_length=3)]
    implementation: Text
    own_environment: bool
    """True for a virtual environment that the user named: it is left alone."""
    machine: Text
    libc: Annotated[list[Text], Field(min_length=2, max_length=2)]
    l4t: Text | None
    free_bytes: int
    pip: bool
    numpy: Text | None
    """Version of the interpreter's own numpy, without ktbench's environment."""
    environment: Environment | None
    misfit: Text | None
    holder: Holder | None

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version of its Python."""
        return self.python[0], self.python[1]

    @property
    def glibc(self) -> tuple[int, int] | None:
        """Version of the GNU C library; None where the board has another one."""
        version = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(?:\..*)?", self.libc[1])
        if self.libc[0] != "glibc" or version is None:
            return None
        return int(version[1]), int(version[2])

    @property
    def jetpack(self) -> str | None:
        """NVIDIA's name for what a Jetson runs."""
        release = re.search(r"R(\d+)", self.l4t or "")
        if release is None:
            return None
        return _JETPACKS.get(release[1], f"Jetson Linux {release[1]}")

    @property
    def title(self) -> str:
        """The board in one line."""
        version = ".".join(map(str, self.python))
        parts = [self.machine, f"Python {version}", " ".join(self.libc).strip(), self.jetpack or ""]
        return ", ".join(part for part in parts if part)
