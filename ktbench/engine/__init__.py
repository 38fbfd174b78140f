"""Engines: they run jobs in a child process, in this process, or on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktbench.records import KtbenchError

if TYPE_CHECKING:
    from ktbench.engine.contract import Engine
    from ktbench.supervision import Child


def engine_of(
    name: str,
    child: Child,
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float | None = None,
) -> Engine:
    """Return the engine of this name, as the options of `ktbench run` set it up.

    `child` is the process that `supervised` runs jobs in. Raises KtbenchError for an unknown name,
    and for options of Ray with another engine.
    """
    if name == "ray":
        from ktbench.engine.on_ray import GPUS_PER_WORKER, OnRay

        share = gpus_per_worker or GPUS_PER_WORKER
        return OnRay(workers=workers, address=address, gpus_per_worker=share)
    if name not in ("supervised", "inline"):
        raise KtbenchError(f"--engine {name}: must be supervised, inline or ray")
    ray_options = {
        "--workers": workers,
        "--address": address,
        "--gpus-per-worker": gpus_per_worker,
    }
    for option, value in ray_options.items():
        if value is not None:
            raise KtbenchError(f"{option} needs --engine ray")
    if name == "inline":
        from ktbench.engine.inline import Inline

        return Inline()
    from ktbench.engine.supervised import Supervised

    return Supervised(child)
