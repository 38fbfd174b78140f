"""Division of a training's blocks among the workers of a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from pydantic import TypeAdapter

from ktbench import catalogue
from ktbench.blockwise.pipeline import PATIENCE_S, ChainPlace, cut_before, position_of
from ktbench.blockwise.schedule import Load, arrange, handed_on
from ktbench.engine.contract import Lost
from ktbench.records import Failure, digest_of
from ktbench.runner.blockwise.jobs import BlocksJob, time_some
from ktbench.runner.context import RunContext
from ktbench.system.files import write_atomically

_LOADS = TypeAdapter(dict[str, Load])


def divided(context: RunContext, jobs: Sequence[BlocksJob], workers: int) -> list[BlocksJob]:
    """Divide every training into packs for the workers, by what its blocks cost here."""
    how = context.plan.blockwise
    smaller_jobs = []
    for job in jobs:
        if how.schedule == "queue":
            packs: Sequence[Sequence[int]] = [(number,) for number in range(len(job.tasks))]
        else:
            loads = _loads(context, job)
            if loads and len(jobs) == 1 and (how.schedule, how.feed) == ("contiguous", "relay"):
                chain = chained(job, loads, workers)
                if chain:
                    return chain
                name = job.taught_by.teacher.name
                context.watcher.note(
                    f"teacher {name} cannot be cut: every worker runs it from its input"
                )
            packs = arrange(loads, workers, how.schedule, how.feed) if loads else [()]
        for pack in packs:
            tasks = tuple(job.tasks[number] for number in pack) or job.tasks
            smaller_jobs.append(replace(job, tasks=tasks))
    return smaller_jobs


def chained(job: BlocksJob, loads: Sequence[Load], workers: int) -> list[BlocksJob]:
    """Return jobs of neighbours that share one pass of the teacher; all have to run at once.

    Empty where the teacher cannot be cut between them.
    """
    data = job.taught_by.trained_on(job.base)
    item = job.taught_by.teacher.cell.student
    with torch.random.fork_rng(devices=[]):
        network = catalogue.build_student(
            item.name,
            item.settings,
            base=str(job.base),
            **data.dimensions,
        )
    # Students that share a pass may replace the same block: in the network's order, all of them.
    order = sorted(
        range(len(loads)), key=lambda n: (*position_of(job.tasks[n].block), loads[n].prefix)
    )
    chain = handed_on([loads[n] for n in order], workers)
    packs = [tuple(job.tasks[order[n]] for n in pack) for pack in chain]
    inputs = data.signature.noise(2)
    network.eval()
    cuts = [cut_before(network, pack[0].block, inputs) for pack in packs[1:]]
    if None in cuts:
        return []
    folder = job.root / "work" / f"handed-{digest_of([task.key for task in job.tasks])}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    ends = pairwise([None, *cuts, None])
    return [
        replace(job, tasks=tasks, place=ChainPlace(folder, number, takes, gives, PATIENCE_S))
        for number, (tasks, (takes, gives)) in enumerate(zip(packs, ends, strict=True))
    ]


def _loads(context: RunContext, job: BlocksJob) -> list[Load]:
    """Return the tasks' loads: those of an earlier run where they are there, else measured.

    Nothing but who trains which block depends on them. Empty where they cannot be measured.
    """
    key = digest_of([task.key for task in job.tasks])
    path = context.root / "blocks" / f"times-{key}.json"
    try:
        loads = _LOADS.validate_json(path.read_bytes())
    except (OSError, ValueError):
        loads = {}
    if set(loads) != {task.key for task in job.tasks}:
        [(_, measured)] = context.engine.run(time_some, [job], lambda *_: None)
        if isinstance(measured, Lost | Failure):
            return []
        loads = measured
        write_atomically(path, _LOADS.dump_json(loads))
    return [loads[task.key] for task in job.tasks]
