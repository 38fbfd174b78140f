"""The Ray cluster of a pool: connects to it, and finds or starts the pool's coordinator."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ktbench.records import KtbenchError
from ktbench.system import extras
from ktbench.system.installation import ROOT
from ktbench.teacher.pool.messages import PoolJob

NAMESPACE = "ktbench"
PREFIX = "pool-"
_JOINED: list[str] = []
"""Address of the cluster that this process joined by `connect`."""
_HEAD = "node:__internal_head__"


def import_ray() -> Any:
    """Import the package, or raise one line that says how to get it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # it tells deaths of workers twice
    extras.require("ray", "a pool of teachers")
    import ray

    return ray


def connected() -> bool:
    """Return whether this process has a cluster already: it may run in one."""
    return bool(import_ray().is_initialized())


def disconnect() -> None:
    """Leave the cluster that `connect` joined; one that it started ends with all its workers."""
    if _JOINED:
        _JOINED.clear()
        import_ray().shutdown()


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep this process's signal handlers: Ray takes SIGTERM for itself when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def connect(address: str | None, cpus: int = 1) -> None:
    """Join the Ray cluster at `address` (`auto`: the one on this machine), once per process.

    None starts one of `cpus` cores in this process, which ends with it.
    """
    ray = import_ray()
    if ray.is_initialized():
        return
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    where = address or "a cluster of its own"
    _refuse_unreachable(address)
    options: dict[str, Any] = {"address": address or "local"}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        with warnings.catch_warnings(), _own_handlers():
            warnings.simplefilter("ignore")  # Ray's own, about its later versions.
            ray.init(
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                **options,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise KtbenchError(f"cannot connect to Ray ({where}): {reason}") from error
    _JOINED.append(where)


def _refuse_unreachable(address: str | None) -> None:
    """Raise at once when nobody listens there: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "://" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise KtbenchError(
            f"cannot connect to Ray ({address}): {error.strerror or error}: start a cluster with "
            "`ray start --head`"
        ) from error


def pool(job: PoolJob, weights: bytes, **settings: Any) -> Any:
    """Return the coordinator of a job's pool, started on the cluster's head where there is none."""
    ray = import_ray()
    from ktbench.teacher.pool.coordinator import Coordinator

    head = {_HEAD: 0.001} if _HEAD in ray.cluster_resources() else {}
    actor = ray.remote(Coordinator).options(
        name=PREFIX + job.name,
        namespace=NAMESPACE,
        lifetime="detached",  # It outlives a training that is stopped; without any it ends itself.
        get_if_exists=True,
        num_cpus=0,
        resources=head,
        max_concurrency=1000,
    )
    coordinator = actor.remote(job, weights, **settings)
    coordinator.begin.remote()
    return coordinator


def pools() -> dict[str, Any]:
    """Return the coordinators of all pools of the cluster, by the name of their job."""
    ray = import_ray()
    coordinators = {}
    try:
        actors = ray.util.list_named_actors(all_namespaces=True)
    except Exception as error:  # Ray has many, and a cluster can go in any way
        raise KtbenchError(
            f"the Ray cluster does not answer any more ({type(error).__name__})"
        ) from error
    for each in actors:
        if each["namespace"] == NAMESPACE and each["name"].startswith(PREFIX):
            try:
                actor = ray.get_actor(each["name"], namespace=NAMESPACE)
            except ValueError:
                continue  # It has ended meanwhile.
            coordinators[each["name"].removeprefix(PREFIX)] = actor
    return coordinators
