"""Starts workers for the pools of a cluster, and reads the pools' status."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from ktbench.teacher.pool import cluster
from ktbench.teacher.pool.messages import PoolJob
from ktbench.teacher.pool.worker import Worker

ANSWER_S = 10.0


class Server:
    """Starts workers on this node for every pool that there is; they end with this process."""

    def __init__(self, *, teacher: str | None, base: str | None, workers: int) -> None:
        self._teacher, self._base, self._workers = teacher, base, workers
        self._serving: dict[str, list[Any]] = {}
        """Actors by pool; a pool that was restarted has another id."""

    def look(self) -> Iterator[str]:
        """Join new pools and leave those that have ended; yield lines for the user."""
        pools = {name + actor._actor_id.hex(): actor for name, actor in cluster.pools().items()}
        for gone in self._serving.keys() - pools.keys():
            for actor in self._serving.pop(gone):
                ray.kill(actor)
            yield f"pool {gone[:16]} has ended"
        for name in pools.keys() - self._serving.keys():
            try:
                job = ray.get(pools[name].job.remote(), timeout=ANSWER_S)
            except RayError:
                continue  # It has ended meanwhile, or is busy: the next look tells.
            if self._teacher is not None and job.teacher.name != self._teacher:
                self._serving[name] = []
                continue
            self._serving[name] = [self._join(pools[name], job) for _ in range(self._workers)]
            yield f"serving teacher {job.teacher.name} (pool {job.name})"

    def _join(self, pool: Any, job: PoolJob) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = (
            ray.remote(Worker)
            # The user lends this machine on top of what Ray has to give away.
            .options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
            .remote(job, self._base)
        )
        name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        ray.get(pool.join.remote(name, [actor]), timeout=ANSWER_S)
        return actor


def statuses() -> list[dict[str, Any]]:
    """Return the status of every pool that answers."""
    statuses = []
    for _, actor in sorted(cluster.pools().items()):
        try:
            statuses.append(ray.get(actor.status.remote(), timeout=ANSWER_S))
        except RayError:
            continue  # It has ended meanwhile.
    return statuses
