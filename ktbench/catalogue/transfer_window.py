"""When a method's transfer counts: whether a window of the training suits it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ktbench.records import Window
from ktbench.transfer_methods._contract import Phase, Scale, Scope, Update


def misfit(
    window: Window, scale: Scale | None, phases: Sequence[Phase], *, steps: int
) -> str | None:
    """Why a method with these phases cannot be kept to a window of so many steps, or None.

    Outside the window the cross-entropy goes on alone, so there must be one in each phase that
    reads the teacher there; and a phase that trains adaptors by themselves cannot be cut, as what
    follows builds on them.
    """
    if scale is None:
        return "distill: the method has no cross-entropy to go on with outside the window"
    said = f"the window {window.start:g} to {window.end:g}"
    for phase, begin in _spans(phases):
        if not phase.teacher or (window.start <= begin and phase.until <= window.end):
            continue
        where = f"phase {phase.name!r} ({begin:g} to {phase.until:g} of the training)"
        if not any(carries_ce(update) for update in phase.updates):
            return f"distill: {where} trains no cross-entropy, and {said} does not hold all of it"
        if any(update.student == Scope.nothing() for update in phase.updates):
            return f"distill: {where} prepares the transfer, and {said} does not hold all of it"
    shares = (step / steps for step in range(steps))
    taught = (_phase_at(phases, share).teacher for share in shares if window.holds(share))
    return None if any(taught) else f"distill: the method reads no teacher in {said}"


def carries_ce(update: Update) -> bool:
    """Whether an update follows the cross-entropy, beside whatever else it follows."""
    return update.terms is None or "ce" in update.terms


def _spans(phases: Sequence[Phase]) -> Iterator[tuple[Phase, float]]:
    """Each phase that has a length, with its begin."""
    begin = 0.0
    for phase in phases:
        if phase.until > begin:
            yield phase, begin
        begin = max(begin, phase.until)


def _phase_at(phases: Sequence[Phase], progress: float) -> Phase:
    return next((phase for phase in phases if progress < phase.until), phases[-1])
