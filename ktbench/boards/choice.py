"""Choice of the runtimes for a board: a table of released wheels, and a pure function over it.

The facts are those of the wheels on the Python Package Index (file names and `Requires-Python` of
onnxruntime, ai-edge-litert, tflite-runtime and numpy; read in November 2026): the newest release
that still has a wheel for a Python, and the least glibc that the wheel's tag names (PEP 600).
"""

from __future__ import annotations

from dataclasses import dataclass

from ktbench.boards.probe import Look

Version = tuple[int, int]

_WIDE = ("aarch64", "x86_64")
_ALL = (*_WIDE, "armv7l")


@dataclass(frozen=True, slots=True)
class Fact:
    """A release with the Pythons, architectures and least glibc that its wheels are for."""

    package: str
    release: str
    pythons: tuple[Version, ...]
    machines: tuple[str, ...]
    glibc: Version
    numpy: str = "numpy"
    """The requirement that this release has of numpy."""


ONNX = (
    Fact("onnxruntime", "1.31.1", ((3, 11), (3, 12), (3, 13), (3, 14)), _WIDE, (2, 28)),
    Fact("onnxruntime", "1.23.2", ((3, 10), (3, 11), (3, 12), (3, 13)), _WIDE, (2, 27)),
    Fact("onnxruntime", "1.19.2", ((3, 8), (3, 9), (3, 10), (3, 11), (3, 12)), _WIDE, (2, 27)),
    Fact("onnxruntime", "1.14.1", ((3, 7), (3, 8), (3, 9)), _WIDE, (2, 17), "numpy<2"),
    Fact("onnxruntime", "1.10.0", ((3, 6),), _WIDE, (2, 17), "numpy<2"),
)
TFLITE = (
    Fact("ai-edge-litert", "2.3.0", tuple((3, n) for n in range(10, 15)), _WIDE, (2, 27)),
    Fact("ai-edge-litert", "2.1.0", ((3, 9),), ("aarch64",), (2, 27)),
    Fact("tflite-runtime", "2.14.0", ((3, 9), (3, 10), (3, 11)), _ALL, (2, 34), "numpy<2"),
    Fact("tflite-runtime", "2.13.0", ((3, 8), (3, 9)), _ALL, (2, 17), "numpy<2"),
    Fact("tflite-runtime", "2.11.0", ((3, 7),), _ALL, (2, 17), "numpy<2"),
)
"""Both tables from the newest to the oldest: the first that fits is taken."""

NO_NUMPY = ("armv7l",)
"""Architectures that numpy has no wheels for: the board's own package serves."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Packages for a board. `problems` keep it from being set up, `notes` do not."""

    requirements: tuple[str, ...] = ()
    with_dependencies: bool = True
    """False if the board's own numpy is used."""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def choose(look: Look) -> Choice:
    """Return the newest runtimes with wheels for this board, or what prevents a set-up."""
    problem = _unfit(look)
    if problem:
        return Choice(problems=(problem,))
    fitting = [
        (name, _fitting(table, look)) for name, table in (("ONNX", ONNX), ("TFLite", TFLITE))
    ]
    facts = [fact for _, fact in fitting if fact is not None]
    notes = tuple(
        f"no {name} models: no runtime has a wheel for {look.title}"
        for name, fact in fitting
        if fact is None
    )
    if not facts:
        return Choice(problems=(f"no runtime has a wheel for {look.title}",))
    if look.machine in NO_NUMPY:
        return _with_own_numpy(look, facts, notes)
    numpy = "numpy<2" if any(fact.numpy != "numpy" for fact in facts) else "numpy"
    pins = tuple(f"{fact.package}=={fact.release}" for fact in facts)
    return Choice((*pins, numpy), notes=notes)


def _unfit(look: Look) -> str | None:
    if look.own_environment:
        return (
            f"{look.interpreter} is in a virtual environment of yours, which is left alone: install"
            " numpy and a runtime there, or set up without --python"
        )
    if look.implementation != "cpython" or look.version < (3, 6):
        return f"{look.interpreter} is {look.implementation} {look.title}: CPython 3.6 is the least"
    if look.glibc is None:
        return (
            f"its C library is {' '.join(look.libc).strip() or 'not glibc'}, for which no runtime"
            " has wheels: use a system with glibc (Debian, Ubuntu, Raspberry Pi OS)"
        )
    return None


def _fitting(table: tuple[Fact, ...], look: Look) -> Fact | None:
    for fact in table:
        fits = look.version in fact.pythons and look.machine in fact.machines
        if fits and look.glibc is not None and look.glibc >= fact.glibc:
            return fact
    return None


def _with_own_numpy(look: Look, facts: list[Fact], notes: tuple[str, ...]) -> Choice:
    old = look.numpy is not None and look.numpy.startswith("1.")
    wants_old = any(fact.numpy != "numpy" for fact in facts)
    if look.numpy is None or (wants_old and not old):
        has = f"has numpy {look.numpy}" if look.numpy else "has none"
        below = " below 2" if wants_old else ""
        return Choice(
            problems=(
                f"numpy has no wheels for {look.machine}, and the board {has}: install"
                f" numpy{below} there (`sudo apt install python3-numpy`) and set up again",
            )
        )
    pins = tuple(f"{fact.package}=={fact.release}" for fact in facts)
    return Choice(pins, with_dependencies=False, notes=notes)
