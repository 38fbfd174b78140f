"""Words for the pairs of stages that a technique compared."""

from __future__ import annotations

from ktbench.records import Cell, Pairing
from ktbench.report import numbers

_RULES = {
    "": "the technique",
    "named": "the matrix, which names them",
    "similarity_untrained": "similarity with the untrained student, seed by seed",
}


def chosen_by(cell: Cell, pairing: Pairing) -> str:
    """Say in words which rule chose the pairs."""
    if cell.warmup is not None:
        warming = cell.warmup.cell
        epochs = numbers.count(warming.train.epochs, "epoch")
        return f"similarity after {epochs} without transfer, seed {warming.seed}"
    return _RULES.get(pairing.rule, pairing.rule)


def named_pairs(pairing: Pairing) -> str:
    """Give the pairs by the stages' names, in the student's order."""
    ordered = sorted(pairing.pairs, key=lambda pair: (pair[1], pair[0]))
    return ", ".join(f"{pairing.teacher[t]} → {pairing.student[s]}" for t, s in ordered)
