"""`python -m benchmarks` lists the claims; `python -m benchmarks NAME ...` measures them.

`--record` before the names (all when there are none) also writes what came out, with the machine,
into docs/performance.json and docs/performance.md; entries of other benchmarks stay.

Exit code: 0 when every claim asked for held, 1 when one fell short, 2 for an unknown name and for
what cannot be measured as asked.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks import _performance as performance
from benchmarks._claim import Outcome
from ktbench.records import KtbenchError


def claims() -> dict[str, str]:
    """Every benchmark's name with its claim, without importing it."""
    return {name: text.partition("\n")[0] for name, text in performance.docstrings().items()}


def main(arguments: list[str], docs: Path = performance.DOCS) -> int:
    """Run the named benchmarks; see the module's docstring for the exit code."""
    known = claims()
    is_recording = arguments[:1] == ["--record"]
    names = arguments[is_recording:]
    if not arguments:
        width = max(map(len, known))
        for name, claim in known.items():
            print(f"{name:<{width}}  {claim}")
        return 0
    unknown = [n for n in names if n not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}: known are {', '.join(known)}", file=sys.stderr)
        return 2
    held = True
    for name in names or known:
        try:
            outcome = _measured(name, docs if is_recording else None)
        except KtbenchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        print(outcome.line(name), flush=True)
        held &= outcome.held
    return 0 if held else 1


def _measured(name: str, docs: Path | None) -> Outcome:
    """A benchmark's outcome, recorded in `docs` where it is given."""
    with performance.Recording() as recording:
        outcome: Outcome = importlib.import_module(f"benchmarks.{name}").run()
    if docs is not None:
        performance.record(name, recording.entry(outcome), docs)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
