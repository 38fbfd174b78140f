"""Report on users' files of weights, whose own training nobody here has seen."""

from __future__ import annotations

from collections.abc import Iterator

from ktbench.records import Begun, Cell, WeightsFile
from ktbench.report import numbers
from ktbench.report.analysis import Analysis


def unknown_costs(analysis: Analysis) -> str:
    """Sentence on the files whose training no cost includes, with a space before; or nothing."""
    cells = analysis.results.lock.plan.cells
    files = list(dict.fromkeys(given.file for cell in cells for given in _files(cell)))
    if not files:
        return ""
    return (
        f" Trainings here begin from {', '.join(files)}: what the training of these weights cost "
        "is unknown and in no figure."
    )


def _files(cell: Cell) -> Iterator[WeightsFile]:
    """Yield the files of weights that a cell and all trainings behind it begin from."""
    if cell.from_file is not None:
        yield cell.from_file
    behind = [*cell.teachers, *([cell.pretrained] if cell.pretrained else [])]
    behind += [cell.start.teacher] if cell.start else []
    for teacher in behind:
        yield from _files(teacher.cell)


def file_facts(given: WeightsFile, begun: Begun | None) -> list[list[str]]:
    """Pairs of a name and a text: the file, how its parts learn, and all that did not match."""
    facts = [["file", given.file], ["file's digest", given.digest]]
    facts += [["frozen", ", ".join(given.freeze)]] if given.freeze else []
    scales = ", ".join(f"{part} {factor:g}" for part, factor in sorted(given.lr_scale.items()))
    facts += [["factors of the rate", scales]] if scales else []
    facts.append(["training of the file's weights", "unknown, in no cost"])
    if begun is None or begun.file is None:
        return facts
    match = begun.file
    facts += [
        ["tensors taken", f"{begun.taken} of {begun.taken + len(begun.new)}"],
        ["tensors in the file", numbers.count(match.tensors, "tensor")],
        ["head", match.head],
    ]
    listed = {
        "missing in the file": match.missing,
        "unexpected in the file": match.unexpected,
        "of another shape": [f"{name}: {shapes}" for name, shapes in match.reshaped.items()],
    }
    return facts + [[title, "; ".join(names)] for title, names in listed.items() if names]
