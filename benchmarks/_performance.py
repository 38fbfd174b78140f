"""Writes docs/performance.md from docs/performance.json, where `--record` keeps what came out.

The page's own words stand around two pairs of markers; what is between them is written here.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from benchmarks._claim import Outcome
from ktbench.system import provenance
from ktbench.system.files import write_atomically

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, FIGURES = "performance.md", "performance.json"
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Flags of a processor that decide how fast its arithmetic is."""


@dataclass(frozen=True)
class Machine:
    """The machine that figures were taken on."""

    processor: str
    units: tuple[str, ...]
    cores: int
    """Cores that the process might use."""
    memory_bytes: int
    system: str
    python: str
    torch: str

    def told(self) -> str:
        """One line for people."""
        units = f" ({', '.join(self.units)})" if self.units else ""
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        return (
            f"{self.processor}{units}, {cores}, {memory} of memory, {self.system}, "
            f"Python {self.python}, torch {self.torch}"
        )


@dataclass(frozen=True)
class Entry:
    """The outcome of one benchmark, when and where it ran."""

    figure: str
    bar: str
    held: bool
    printed: tuple[str, ...]
    date: str
    load: float
    """Processes that wanted a core in the minute before: figures of a busy machine are worse."""
    machine: Machine


_RAY = "(raylet)"
"""Mark of Ray's own lines, which hold addresses of the machine and no figures: not recorded."""


class Copying(io.TextIOBase):
    """Passes on what is printed and keeps it."""

    def __init__(self, to: TextIO) -> None:
        self.to, self.kept = to, io.StringIO()

    def write(self, text: str) -> int:
        """Write to both."""
        self.kept.write(text)
        return self.to.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.to.flush()


class Recording:
    """Around one benchmark: its machine's load before it, and what it prints."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        self.output = Copying(sys.stdout)
        self.redirected = redirect_stdout(self.output)

    def __enter__(self) -> Recording:
        self.redirected.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.redirected.__exit__(None, None, None)

    def entry(self, outcome: Outcome) -> Entry:
        """The record of how it ended."""
        return Entry(
            figure=outcome.figure,
            bar=outcome.bar,
            held=outcome.held,
            printed=tuple(
                line for line in self.output.kept.getvalue().splitlines() if _RAY not in line
            ),
            date=datetime.now(UTC).date().isoformat(),
            load=round(self.load, 2),
            machine=this_machine(),
        )


def this_machine() -> Machine:
    """Describe what decides speed here, without anything that identifies the machine."""
    found = provenance.collect()
    return Machine(
        processor=found.processor,
        units=_units(),
        cores=found.cores,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=found.system.partition("-")[0],
        python=found.python,
        torch=found.versions["torch"],
    )


def _units() -> tuple[str, ...]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    there = set(flags[1].split()) if flags else set()
    return tuple(unit for unit in UNITS if unit in there)


# ---------------------------------------------------------------- the files


def read(docs: Path = DOCS) -> dict[str, Entry]:
    """Every recorded benchmark."""
    path = docs / FIGURES
    plain = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: _entry(**fields) for name, fields in plain.items()}


def _entry(*, machine: dict[str, object], printed: list[str], **fields: object) -> Entry:
    units = machine.pop("units")
    made = Machine(units=tuple(units), **machine)  # type: ignore[arg-type]
    return Entry(machine=made, printed=tuple(printed), **fields)  # type: ignore[arg-type]


def record(name: str, entry: Entry, docs: Path = DOCS) -> None:
    """Replace one benchmark's entry and write the page again; the others stay as they are."""
    entries = {**read(docs), name: entry}
    plain = {name: asdict(entries[name]) for name in sorted(entries)}
    text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    write_atomically(docs / FIGURES, text)
    write_page(docs)


def write_page(docs: Path = DOCS) -> None:
    """Write what is between the page's markers again."""
    page = docs / PAGE
    write_atomically(page, rendered(page.read_text(encoding="utf-8"), read(docs)))


# ---------------------------------------------------------------- the page


def docstrings() -> dict[str, str]:
    """Every benchmark's name with its docstring, without importing it."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    texts = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    return {name: ast.get_docstring(tree) or "" for name, tree in texts.items()}


def rendered(page: str, entries: dict[str, Entry]) -> str:
    """The page with these entries between its markers."""
    known = {name: entry for name, entry in entries.items() if name in docstrings()}
    machines = list(dict.fromkeys(known[name].machine for name in sorted(known)))
    return _between(_between(page, "table", _table(known, machines)), "details", _details(known))


def _between(page: str, marker: str, lines: list[str]) -> str:
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE} has no {start.strip()} ... {end}")
    return "\n".join([before + start, *lines, "", end + after])


def _table(entries: dict[str, Entry], machines: list[Machine]) -> list[str]:
    lines = ["| claim | bar | figure | | measured | command |", "|---|---|---|---|---|---|"]
    for name, text in docstrings().items():
        claim, entry = _cell(text.partition("\n")[0].removesuffix(".")), entries.get(name)
        command = f"`python -m benchmarks {name}`"
        if entry is None:
            lines.append(f"| {claim} | – | not recorded yet | – | – | {command} |")
            continue
        held = "held" if entry.held else "**fell short**"
        when = f"{entry.date}, machine {machines.index(entry.machine) + 1}"
        cells = [f"[{claim}](#{name})", _cell(entry.bar), _cell(entry.figure), held, when, command]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{n}. {machine.told()}" for n, machine in enumerate(machines, start=1))]
    return lines if machines else lines[:-1]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _details(entries: dict[str, Entry]) -> list[str]:
    lines: list[str] = []
    for name, text in docstrings().items():
        entry = entries.get(name)
        if entry is None:
            continue
        claim, _, rest = text.partition("\n")
        lines += [f"### {name}", "", claim, *(["", rest.strip()] if rest.strip() else []), ""]
        lines += ["```text", *entry.printed, "```", "", f"Load before it: {entry.load:.2f}.", ""]
    return lines[:-1]
