"""Checks before the first step: data, packages, disk and devices that a run would lack later."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ktbench import catalogue
from ktbench.data import describe
from ktbench.engine.contract import Engine, Lost
from ktbench.measure import Check, check
from ktbench.networks.outline import outline
from ktbench.records import Cell, DataSpec, DeviceSpec, Item, KtbenchError, Plan
from ktbench.runner.data_jobs import DataJob, digest_data
from ktbench.runner.progress import LateWave, Watcher
from ktbench.system import extras
from ktbench.system.files import cache_folder

SPARE_BYTES = 1 << 16
"""Space for records, curves and the report, beside weights and artifacts."""
_AT_ONCE = 8
"""Most devices that are checked at the same time."""
_CELL_BYTES = 4096
"""Space for one cell's record and curves."""


def refuse_unready(
    plan: Plan, engine: Engine, folder: Path, watcher: Watcher, *, fresh: bool, strict: bool
) -> list[str]:
    """Raise KtbenchError with a line for each thing that the run lacks; return warnings.

    Looked at are the engine, data, the packages that exports take, space on the disk, and the
    devices. A device that cannot be measured now is a warning, as it can be plugged in later; with
    `strict` it is a problem like any other. Of a run that has nothing left to train, devices and
    disk are not looked at: they are used at once.
    """
    open_cells = [c for c in plan.cells if fresh or not _is_done(folder, c)]
    problems = list(_engine(plan, engine))
    if lacking := missing_extras(plan):
        problems.append(lacking)
    data_problems = list(_data(plan, engine, watcher))
    problems += data_problems
    if open_cells and not data_problems:
        problems += _disk(plan, open_cells, folder)
    warnings = list(_devices(plan.devices)) if open_cells else []
    if strict:
        problems, warnings = problems + warnings, []
    if problems:
        raise KtbenchError("\n".join(dict.fromkeys(problems)))
    return warnings


def _is_done(folder: Path, cell: Cell) -> bool:
    return (folder / "cells" / f"{cell.key}.json").is_file()


def _engine(plan: Plan, engine: Engine) -> Iterator[str]:
    try:
        engine.check(plan)
    except KtbenchError as error:
        yield str(error)


def missing_extras(plan: Plan) -> str | None:
    """Name the packages a plan needs that are not installed, and the command that installs them.

    None if nothing is missing. A data set of the hub has been read by the time there is a plan.
    """
    purposes: dict[extras.Extra, str] = {s.format: f"{s.format} exports" for s in plan.exports}
    if plan.source.source == "pool":
        purposes["ray"] = "a pool of teachers"
    packages = {extra: extras.missing(extra) for extra in purposes}
    lacking = [extra for extra in purposes if packages[extra]]
    if not lacking:
        return None
    named = "; ".join(f"{', '.join(packages[extra])} for {purposes[extra]}" for extra in lacking)
    return f"packages are not installed ({named}): {extras.install_command(*lacking)}"


def _data(plan: Plan, engine: Engine, watcher: Watcher) -> Iterator[str]:
    """Give the reason why a data set cannot be read whole, for each that cannot.

    Images of a large one are decoded to the disk here, where they are not there yet.
    """
    cells = [*plan.cells, *(one.cell for one in (*plan.teachers, *plan.pretrainings))]
    for spec in {cell.data.canonical: cell.data for cell in cells}.values():
        job = DataJob((spec,), Path(plan.base), cells[0].numeric)
        wave = LateWave(watcher, "images", partial(_samples, job))
        try:
            digests = engine.ahead(digest_data, job, wave.tell)
        except KtbenchError as error:
            yield str(error)
        else:
            wave.end()
            if isinstance(digests, Lost):
                yield f"data: {digests.reason}"


def _samples(job: DataJob) -> int:
    infos = [describe(spec, job.base) for spec in job.specs]
    return sum(info.train_size + info.validation_size + info.test_size for info in infos)


# ---------------------------------------------------------------- disk


def _disk(plan: Plan, cells: Sequence[Cell], folder: Path) -> Iterator[str]:
    """Give the places that lack the space that weights and artifacts take at least.

    A user's own networks are not built to be counted, so that they take none here.
    """
    sizes: dict[str, int] = {}
    copies = 1 + len(plan.exports)
    trained = sum(_CELL_BYTES + copies * _bytes(c.student, c.data, plan, sizes) for c in cells)
    teachers = [one for one in plan.teachers if one.checkpoint is None] + [*plan.pretrainings]
    taught = sum(_bytes(t.cell.student, t.cell.data, plan, sizes) for t in teachers)
    by_disk: dict[int, tuple[Path, int]] = {}
    for place, needed in ((folder, trained + taught), (cache_folder(), taught)):
        disk_number = _existing(place).stat().st_dev
        first, before = by_disk.get(disk_number, (place, 0))
        by_disk[disk_number] = (first, before + needed)
    for place, needed in by_disk.values():
        disk = shutil.disk_usage(_existing(place))
        if disk.total and disk.free < needed + SPARE_BYTES:
            yield (
                f"{place}: no space left on the disk for this run: it takes at least "
                f"{_megabytes(needed + SPARE_BYTES)}, {_megabytes(disk.free)} are free: free some "
                "and run again"
            )


def _existing(place: Path) -> Path:
    """Return the place itself, or the nearest folder above it that exists."""
    return next(path for path in (place, *place.absolute().parents) if path.exists())


def _bytes(item: Item, data: DataSpec, plan: Plan, sizes: dict[str, int]) -> int:
    """Return the size of a network's saved weights."""
    if catalogue.is_own(item.name):
        return 0
    if item.label not in sizes:
        try:
            info = describe(data, Path(plan.base))
            network = outline(item, info.signature, plan.base)
            sizes[item.label] = 4 * network.parameters
        except KtbenchError:  # told by the cell that it fails
            sizes[item.label] = 0
    return sizes[item.label]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# ---------------------------------------------------------------- devices


def _devices(devices: Sequence[DeviceSpec]) -> Iterator[str]:
    """Give what keeps each device from being measured; several are checked at the same time."""
    real = [d for d in devices if catalogue.device(d.profile).transport != "fake"]
    checks: dict[str, Check] = {}
    waiting = list(reversed(real))

    def work() -> None:
        while waiting:
            device = waiting.pop()
            checks[device.name] = check(device)

    # Daemons: a signal ends the program at once, however long a board takes to answer.
    threads = [threading.Thread(target=work, daemon=True) for _ in real[:_AT_ONCE]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for device in real:
        for problem in checks[device.name].problems:
            yield f"{device.name} cannot be measured now: {problem}"
