"""What would stop a run, or its measurements, hours after its start: told before the first step."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ktbench import catalogue
from ktbench.data import describe
from ktbench.engine.contract import Engine, Lost
from ktbench.measure import Check, check
from ktbench.networks.outline import outline
from ktbench.records import Cell, DataSpec, DeviceSpec, Item, KtbenchError, Plan
from ktbench.runner.teacher_jobs import DataJob, digest_data
from ktbench.system import extras
from ktbench.system.files import cache_folder

SPARE_BYTES = 1 << 16
"""Beside weights and artifacts: records, curves, the report."""
_AT_ONCE = 8
"""Devices that are asked at the same time."""
_CELL_BYTES = 4096
"""Of one cell's record and curves."""


def refuse_unready(
    plan: Plan, engine: Engine, folder: Path, *, fresh: bool, strict: bool
) -> list[str]:
    """Raise KtbenchError with a line for each thing that the run lacks; returns warnings.

    Looked at are the engine, data, the packages that exports take, space on the disk, and the
    devices. A device that cannot be measured now is a warning, as it can be plugged in later; with
    `strict` it is a problem like any other. Of a run that has nothing left to train, devices and
    disk are not looked at: they are used at once.
    """
    open_cells = [c for c in plan.cells if fresh or not _is_done(folder, c)]
    found = list(_engine(plan, engine))
    if lacking := missing_extras(plan):
        found.append(lacking)
    data = list(_data(plan, engine))
    found += data
    if open_cells and not data:
        found += _disk(plan, open_cells, folder)
    warnings = list(_devices(plan.devices)) if open_cells else []
    if strict:
        found, warnings = found + warnings, []
    if found:
        raise KtbenchError("\n".join(dict.fromkeys(found)))
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


def _data(plan: Plan, engine: Engine) -> Iterator[str]:
    """Of each data set, what keeps it from being read whole."""
    cells = [*plan.cells, *(teacher.cell for teacher in plan.teachers)]
    for spec in {cell.data.canonical: cell.data for cell in cells}.values():
        try:
            digests = engine.ahead(digest_data, DataJob((spec,), Path(plan.base), cells[0].numeric))
        except KtbenchError as error:
            yield str(error)
        else:
            if isinstance(digests, Lost):
                yield f"data: {digests.reason}"


# ---------------------------------------------------------------- disk


def _disk(plan: Plan, cells: Sequence[Cell], folder: Path) -> Iterator[str]:
    """Space that weights and artifacts take at least, where less is free.

    A user's own networks are not built to be counted, so that they take none here.
    """
    sizes: dict[str, int] = {}
    copies = 1 + len(plan.exports)
    trained = sum(_CELL_BYTES + copies * _bytes(c.student, c.data, plan, sizes) for c in cells)
    teachers = [teacher for teacher in plan.teachers if teacher.checkpoint is None]
    taught = sum(_bytes(t.cell.student, t.cell.data, plan, sizes) for t in teachers)
    wanted: dict[int, tuple[Path, int]] = {}
    for place, needed in ((folder, trained + taught), (cache_folder(), taught)):
        standing = _standing(place)
        first, before = wanted.get(standing.stat().st_dev, (place, 0))
        wanted[standing.stat().st_dev] = (first, before + needed)
    for place, needed in wanted.values():
        standing = _standing(place)
        disk = shutil.disk_usage(standing)
        if disk.total and disk.free < needed + SPARE_BYTES:
            yield (
                f"{place}: no space left on the disk for this run: it takes at least "
                f"{_megabytes(needed + SPARE_BYTES)}, {_megabytes(disk.free)} are free: free some "
                "and run again"
            )


def _standing(place: Path) -> Path:
    """The place itself, or the folder that it would be made in."""
    return next(path for path in (place, *place.absolute().parents) if path.exists())


def _bytes(item: Item, data: DataSpec, plan: Plan, sizes: dict[str, int]) -> int:
    """Of a network's weights as they are saved."""
    if catalogue.is_own(item.name):
        return 0
    if item.label not in sizes:
        try:
            info = describe(data, Path(plan.base))
            found = outline(item, info.num_classes, info.shape, plan.base)
            sizes[item.label] = 4 * found.parameters
        except KtbenchError:  # told by the cell that it fails
            sizes[item.label] = 0
    return sizes[item.label]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# ---------------------------------------------------------------- devices


def _devices(devices: Sequence[DeviceSpec]) -> Iterator[str]:
    """What keeps each device from being measured; boards are asked at the same time."""
    real = [d for d in devices if catalogue.device(d.profile).transport != "fake"]
    answers: dict[str, Check] = {}
    left = list(reversed(real))

    def ask() -> None:
        while left:
            device = left.pop()
            answers[device.name] = check(device)

    # Daemons: a signal ends the program at once, whatever a board's answer takes.
    askers = [threading.Thread(target=ask, daemon=True) for _ in real[:_AT_ONCE]]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    for device in real:
        for problem in answers[device.name].problems:
            yield f"{device.name} cannot be measured now: {problem}"
