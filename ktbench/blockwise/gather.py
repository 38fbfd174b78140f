"""A student's first weights: the teacher with the replacements that are good enough in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ktbench.blockwise.blocks import (
    BlockStore,
    State,
    assembly_key,
    build_blockwise,
    start_of,
)
from ktbench.blockwise.splice import accuracy_of
from ktbench.blockwise.teacher_inputs import Inputs
from ktbench.data import Dataset
from ktbench.networks.layout import frozen
from ktbench.networks.numeric import prepare
from ktbench.networks.weights import weights_digest
from ktbench.records import (
    Assembly,
    BlockResult,
    BlockRun,
    Cell,
    Failure,
    KtbenchError,
    Origin,
)
from ktbench.students._blocks import Replacing, parameters_of
from ktbench.students._contract import Student


@dataclass(frozen=True)
class Made:
    """How the blocks came about, for the record."""

    run: BlockRun = field(default_factory=BlockRun)
    workers: int = 1
    elapsed_seconds: float | None = None
    joules: float | None = None
    joules_origin: Origin | None = None


def gather(
    cell: Cell,
    results: Sequence[BlockResult | Failure],
    *,
    teacher: Student,
    dataset: Dataset,
    store: BlockStore,
    trained_on: Dataset | None = None,
    base: str | Path = ".",
    made: Made | None = None,
) -> Assembly:
    """The first weights of a cell's student, from the results of its blocks; both are written.

    A replacement is used where the teacher with it alone loses at most `keep_within` of its
    validation accuracy; every other block, one that failed too, stays the teacher's own. The
    accuracies are those of the plain networks: of the teacher under the normalisation of what it
    learnt from (`trained_on`), of the student under that of its own images. What was gathered from
    the same blocks before is not gathered again.
    """
    device = prepare(cell.numeric)
    done = tuple(result for result in results if isinstance(result, BlockResult))
    failures = tuple(result for result in results if isinstance(result, Failure))
    key = assembly_key(cell)
    earlier = store.find_assembly(key)
    if earlier is not None and _blocks(earlier) == [(r.key, r.digest) for r in done]:
        return earlier
    teacher.to(device).eval()
    layout = frozen(cell.numeric)
    theirs = Inputs(dataset, trained_on or dataset, device, layout)
    own = Inputs(dataset, dataset, device, layout)
    reached = accuracy_of(teacher, theirs, "validation")
    used = _good_enough(done, reached, start_of(cell).train.keep_within)
    shape = {"num_classes": len(dataset.classes), "in_channels": dataset.shape[0]}
    student = build_blockwise(cell, base=base, **shape)
    assemble(student, teacher, {result.block: store.load(result) for result in used})
    student.to(device)
    state = student.state_dict()
    assembly = Assembly(
        key=key,
        student=cell.student.label,
        seed=cell.seed,
        blocks=done,
        used=tuple(result.block for result in used),
        failures=failures,
        teacher_validation=reached,
        teacher_test=accuracy_of(teacher, theirs, "test"),
        validation=accuracy_of(student, own, "validation"),
        test=accuracy_of(student, own, "test"),
        teacher_parameters=parameters_of(teacher),
        parameters=parameters_of(student),
        digest=weights_digest(state),
        path=store.write_weights(f"assembled-{key}", state),
        **_costs(done, made or Made()),
    )
    store.write(assembly)
    return assembly


def _costs(done: Sequence[BlockResult], made: Made) -> dict[str, Any]:
    """What the trainings of blocks took, and how they were run."""
    return {
        "seconds": sum(result.seconds for result in done),
        "teacher_seconds": sum(result.teacher_seconds for result in done),
        "shared_seconds": sum(result.shared_seconds for result in done),
        "feed": made.run.feed,
        "schedule": made.run.schedule,
        "workers": made.workers,
        "elapsed_seconds": made.elapsed_seconds,
        "joules": made.joules,
        "joules_origin": made.joules_origin,
    }


def assemble(student: Replacing, teacher: Student, weights: Mapping[str, State]) -> None:
    """Give a student the teacher's weights, but for the blocks whose replacements' are given.

    Raises KtbenchError where the teacher is not the network whose blocks the student replaces.
    """
    wanted = torch.tensor([block.name in weights for block in student.blocks], dtype=torch.int64)
    student.suit({"chosen": torch.zeros_like(wanted)})
    try:
        student.network.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise KtbenchError(
            "the teacher is not the network whose blocks the student replaces"
        ) from error
    for name, state in weights.items():
        student.replacements[name].load_state_dict(state)
    student.suit({"chosen": wanted})


def _good_enough(
    results: Sequence[BlockResult], reached: float, keep_within: float
) -> list[BlockResult]:
    """The blocks with which alone the teacher loses at most so much."""
    most = keep_within + 1e-9  # a share of images is not exact in binary
    return [result for result in results if reached - result.validation_accuracy <= most]


def _blocks(assembly: Assembly) -> list[tuple[str, str]]:
    return [(result.key, result.digest) for result in assembly.blocks]
