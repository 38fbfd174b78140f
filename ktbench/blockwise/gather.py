"""Gathers a student's first weights: the teacher, with good enough replacements in place."""

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
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.data import Dataset
from ktbench.networks.layout import frozen
from ktbench.networks.numeric import prepare
from ktbench.networks.outline import flops_of
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
from ktbench.students._contract import Student, each


@dataclass(frozen=True)
class Execution:
    """The run in which blocks were trained, for the record."""

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
    execution: Execution | None = None,
) -> Assembly:
    """Gather and write the first weights of a cell's student, from the results of its blocks.

    A replacement is used where the teacher with it alone loses at most `keep_within` of its
    validation accuracy; every other block, a failed one too, stays the teacher's own. The
    accuracies are those of the plain networks: of the teacher under the normalisation of what it
    learnt from (`trained_on`), of the student under that of its own images. Weights that were
    gathered from the same blocks before are returned as they are.
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
    teacher_inputs = TeacherInputs(dataset, trained_on or dataset, device, layout)
    student_inputs = TeacherInputs(dataset, dataset, device, layout)
    teacher_validation = accuracy_of(teacher, teacher_inputs, "validation")
    used = _good_enough(done, teacher_validation, start_of(cell).train.keep_within)
    student = build_blockwise(cell, base=base, **dataset.dimensions)
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
        teacher_validation=teacher_validation,
        teacher_test=accuracy_of(teacher, teacher_inputs, "test"),
        validation=accuracy_of(student, student_inputs, "validation"),
        test=accuracy_of(student, student_inputs, "test"),
        teacher_parameters=parameters_of(teacher),
        parameters=parameters_of(student),
        digest=weights_digest(state),
        path=store.write_weights(f"assembled-{key}", state),
        **_costs(done, execution or Execution()),
        **_operations(cell, done, student, teacher, dataset),
    )
    store.write(assembly)
    return assembly


def _costs(done: Sequence[BlockResult], execution: Execution) -> dict[str, Any]:
    """Return the fields of an assembly that tell its costs, and how its blocks were trained."""
    return {
        "seconds": sum(result.seconds for result in done),
        "teacher_seconds": sum(result.teacher_seconds for result in done),
        "shared_seconds": sum(result.shared_seconds for result in done),
        "feed": execution.run.feed,
        "schedule": execution.run.schedule,
        "workers": execution.workers,
        "elapsed_seconds": execution.elapsed_seconds,
        "joules": execution.joules,
        "joules_origin": execution.joules_origin,
    }


def _operations(
    cell: Cell,
    done: Sequence[BlockResult],
    student: Replacing,
    teacher: Student,
    dataset: Dataset,
) -> dict[str, Any]:
    """Return the operations of the blocks' trainings, with one pass of the teacher for all."""
    size, batch = dataset.size("train"), start_of(cell).train.batch_size
    per_epoch = size // batch * batch or size
    sample = each(dataset.signature.blank(), lambda part: part.to(student.chosen.device))
    used = student.chosen.clone()
    with torch.no_grad():  # every replacement is run once, also one that is not used
        student.suit({"chosen": torch.tensor([b.name in student.entries for b in student.blocks])})
        own = flops_of(student, sample, student.replacements)[1]
        student.suit({"chosen": used})
    epochs = {result.block: result.epochs for result in done}
    return {
        "flops": sum(3 * per_epoch * epochs[name] * own[name] for name in epochs),
        "teacher_flops": per_epoch * max(epochs.values(), default=0) * flops_of(teacher, sample)[0],
    }


def assemble(student: Replacing, teacher: Student, weights: Mapping[str, State]) -> None:
    """Give a student the teacher's weights, and replacements theirs where `weights` has them.

    Raises KtbenchError where the teacher is not the network whose blocks the student replaces.
    """
    chosen = torch.tensor([block.name in weights for block in student.blocks], dtype=torch.int64)
    student.suit({"chosen": torch.zeros_like(chosen)})
    try:
        student.network.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise KtbenchError(
            "the teacher is not the network whose blocks the student replaces"
        ) from error
    for name, state in weights.items():
        student.replacements[name].load_state_dict(state)
    student.suit({"chosen": chosen})


def _good_enough(
    results: Sequence[BlockResult], teacher_accuracy: float, keep_within: float
) -> list[BlockResult]:
    """Return the blocks with which, one at a time, the teacher loses at most `keep_within`."""
    most = keep_within + 1e-9  # a share of images is not exact in binary
    return [result for result in results if teacher_accuracy - result.validation_accuracy <= most]


def _blocks(assembly: Assembly) -> list[tuple[str, str]]:
    return [(result.key, result.digest) for result in assembly.blocks]
