"""`python -m benchmarks` lists the claims; `python -m benchmarks NAME ...` measures them.

Exit code: 0 when every claim asked for held, 1 when one fell short, 2 for an unknown name.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from benchmarks._claim import Outcome


def claims() -> dict[str, str]:
    """Every benchmark's name with its claim, without importing it."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    found = {}
    for file in files:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.stem] = text.partition("\n")[0]
    return found


def main(names: list[str]) -> int:
    """Run the named benchmarks; see the module's docstring for the exit code."""
    known = claims()
    if not names:
        width = max(map(len, known))
        for name, claim in known.items():
            print(f"{name:<{width}}  {claim}")
        return 0
    unknown = [n for n in names if n not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}: known are {', '.join(known)}", file=sys.stderr)
        return 2
    held = True
    for name in names:
        outcome: Outcome = importlib.import_module(f"benchmarks.{name}").run()
        print(outcome.line(name), flush=True)
        held &= outcome.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
