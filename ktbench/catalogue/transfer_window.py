"""Check whether a method's transfer can be limited to a window of the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ktbench.records import Window
from ktbench.transfer_methods._contract import Phase, Scale, Scope, Update


def misfit(
    window: Window, scale: Scale | None, phases: Sequence[Phase], *, steps: int
) -> str | None:
    """Say why a method with these phases cannot be limited to a window of the training, or None.

    Outside the window the cross-entropy goes on alone, so each phase that reads the teacher there
    must have one; and a phase that trains adaptors alone cannot be cut, as later phases build on
    them.
    """
    if scale is None:
        return "distill: the method has no cross-entropy to continue with outside the window"
    span = f"the window {window.start:g} to {window.end:g}"
    for phase, begin in _spans(phases):
        if not phase.teacher or (window.start <= begin and phase.until <= window.end):
            continue
        where = f"phase {phase.name!r} ({begin:g} to {phase.until:g} of the training)"
        if not any(carries_ce(update) for update in phase.updates):
            return f"distill: {where} trains no cross-entropy, and {span} does not hold all of it"
        if any(update.student == Scope.nothing() for update in phase.updates):
            return f"distill: {where} prepares the transfer, and {span} does not hold all of it"
    shares = (step / steps for step in range(steps))
    taught = (_phase_at(phases, share).teacher for share in shares if window.holds(share))
    return None if any(taught) else f"distill: the method reads no teacher in {span}"


def carries_ce(update: Update) -> bool:
    """Return True for an update that follows the cross-entropy, alone or with other terms."""
    return update.terms is None or "ce" in update.terms


def _spans(phases: Sequence[Phase]) -> Iterator[tuple[Phase, float]]:
    """Yield each phase of positive length, with its begin."""
    begin = 0.0
    for phase in phases:
        if phase.until > begin:
            yield phase, begin
        begin = max(begin, phase.until)


def _phase_at(phases: Sequence[Phase], progress: float) -> Phase:
    return next((phase for phase in phases if progress < phase.until), phases[-1])
