"""A session of Ray: it is started or connected to, its nodes are checked, nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ktbench.engine.contract import Workers
from ktbench.engine.nodes import Likeness, likeness, why_not_here
from ktbench.engine.signals import deferred
from ktbench.records import KtbenchError, NumericSpec, Plan
from ktbench.system.files import PREFIX, write_atomically
from ktbench.system.installation import ROOT
from ktbench.system.provenance import cores

RETRIES = 3
"""Times that Ray runs a job again whose worker died."""
ANSWER_S = 120.0
"""Seconds after which a node that has not answered cannot be used."""

GONE_S = 15.0
"""Seconds for which a lost node may still be listed."""
_CONNECT_S = 5.0
_END_S = 10.0
_OBJECT_STORE = 80_000_000
"""Bytes of shared memory: records are small, and files go through the results folder."""
_OURS = ("KTBENCH_", "HF_")
"""Prefixes of variables that reach every job, as do those that a data path names."""


class Session:
    """A connection to Ray for one plan, and the cluster behind it where it was started for it.

    Raises KtbenchError when Ray cannot be started or reached, and for a node that differs from
    this machine.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        numeric: NumericSpec,
        *,
        workers: int | None,
        address: str | None,
        gpus: float,
    ) -> None:
        self._plan, self._numeric, self._gpus = plan, numeric, gpus
        self.workers = Workers()
        self._token = folder.absolute() / f"{PREFIX}shared-{os.urandom(4).hex()}"
        self._temporary: Path | None = None
        self.ray = _imported()
        try:
            with deferred():
                self._connect(workers, address)
            write_atomically(self._token, os.urandom(16).hex())
            required = likeness(plan, self._token)
            nodes = self._usable_nodes()
            self._refuse_other_nodes(nodes, required)
            self.workers = self._count(nodes, workers)
        except BaseException:
            self.close(())
            raise
        self.likeness = required.model_dump_json()
        """Files and facts that every node must share, as JSON."""

    def environment(self, threads: int) -> dict[str, Any]:
        """Return the `runtime_env` of a task or actor that computes with so many threads."""
        return {"env_vars": {**variables(self._plan), "OMP_NUM_THREADS": str(threads)}}

    def on(self, node: str) -> Any:
        """Return the strategy that places a task on this node and no other."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def close(self, running: Iterable[Any]) -> None:
        """End the tasks that still run, then the connection, then the cluster if it is ours."""
        left = list(running)
        with deferred():
            if self._temporary is None and left:
                with suppress(Exception):  # whatever state Ray is in, the rest must be tidied up
                    for task in left:
                        self.ray.cancel(task, force=True)
                    self.ray.wait(left, num_returns=len(left), timeout=_END_S)
            self.ray.shutdown()
            with suppress(OSError):
                self._token.unlink(missing_ok=True)
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def _connect(self, workers: int | None, address: str | None) -> None:
        plain: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address is not None:
                self.ray.init(address=_reachable(address), **plain)
                return
            threads = self._numeric.threads
            self._temporary = Path(tempfile.mkdtemp(prefix="ktbench-ray-", dir=_short_folder()))
            self.ray.init(
                address="local",
                num_cpus=threads * (workers or max(1, cores() // threads)),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                _temp_dir=str(self._temporary),
                **plain,
            )
        except (self.ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
            reason = one_line(error)
            if address is None:
                raise KtbenchError(f"--engine ray: Ray does not start: {reason}") from error
            raise KtbenchError(
                f"--address {address}: {reason} (it must be of the same Ray, have this "
                "machine as a node, and share its token: docs/cluster.md)"
            ) from error

    def _usable_nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that could run a job."""
        with deferred():
            alive = [node for node in self.ray.nodes() if node["Alive"]]
        usable = [node for node in alive if self._capacity(node)]
        if not usable:
            gpu = " and a GPU" if self._gpus else ""
            raise KtbenchError(
                f"no node of the cluster has {self._numeric.threads} core(s){gpu} for a job"
            )
        return usable

    def _capacity(self, node: dict[str, Any]) -> int:
        """Count the jobs that fit onto a node at once."""
        needs = {"CPU": float(self._numeric.threads), "GPU": self._gpus}
        return min(int(node["Resources"].get(k, 0) / v) for k, v in needs.items() if v)

    def _count(self, nodes: Sequence[dict[str, Any]], workers: int | None) -> Workers:
        capacities = [self._capacity(node) for node in nodes]
        most = workers or sum(capacities)
        return Workers(all=min(most, sum(capacities)), per_machine=min(most, max(capacities)))

    def _refuse_other_nodes(self, nodes: Sequence[dict[str, Any]], required: Likeness) -> None:
        """Raise KtbenchError where one of the nodes differs from this machine."""
        task = self.ray.remote(why_not_here)
        answers = [
            task.options(
                num_cpus=0,
                scheduling_strategy=self.on(node["NodeID"]),
                runtime_env=self.environment(self._numeric.threads),
            ).remote(required)
            for node in nodes
        ]
        until = time.monotonic() + ANSWER_S
        waiting = answers
        while waiting and time.monotonic() < until:
            with deferred():
                _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
        for node, answer in zip(nodes, answers, strict=True):
            with deferred():
                reason = self._answer(answer, node["NodeID"])
            if reason:
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                raise KtbenchError(f"node {name} {reason}")

    def _answer(self, answer: Any, node: str) -> str | None:
        try:
            reason: str | None = self.ray.get(answer, timeout=0.1)
        except self.ray.exceptions.GetTimeoutError:
            return f"did not answer within {ANSWER_S:.0f} s"
        except self.ray.exceptions.RayTaskError as error:
            return f"cannot run ktbench ({last_line(error)}): install the same ktbench there"
        except self.ray.exceptions.RayError as error:
            return None if self._gone(node) else f"cannot be used: {one_line(error)}"
        return reason

    def _gone(self, node: str) -> bool:
        """Return True where a node has left, which the list of nodes shows some seconds late."""
        until = time.monotonic() + GONE_S
        while time.monotonic() < until:
            if not any(n["Alive"] for n in self.ray.nodes() if n["NodeID"] == node):
                return True
            time.sleep(0.5)
        return False


def variables(plan: Plan) -> dict[str, str]:
    """Return the variables of this process's environment that jobs need, wherever they run."""
    paths = {cell.data.path or "" for cell in plan.cells}
    paths |= {teacher.cell.data.path or "" for teacher in plan.teachers}
    named = {name for path in paths for name in re.findall(r"\$\{?(\w+)", path)}
    needed = {k: v for k, v in os.environ.items() if k.startswith(_OURS) or k in named}
    if "KTBENCH_CACHE" in needed:
        needed["KTBENCH_CACHE"] = str(Path(needed["KTBENCH_CACHE"]).absolute())
    source = str(ROOT)
    inherited = os.environ.get("PYTHONPATH", "")
    if "site-packages" not in source or inherited:
        needed["PYTHONPATH"] = os.pathsep.join(filter(None, [source, inherited]))
    return needed


def _imported() -> Any:
    """Import Ray, set up to keep its log off the terminal and to give up jobs without memory."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or every retry is a page of text
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # without: for ever
    import ray

    return ray


def _reachable(address: str) -> str:
    """Return the address, if something answers there; Ray itself would try for minutes."""
    if address == "auto":
        return address
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise KtbenchError(
            f"--address {address}: must be `auto` or HOST:PORT of a cluster that this machine is "
            "a node of (`ray start --address=HOST:PORT`)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise KtbenchError(
            f"--address {address}: no Ray cluster answers ({error.strerror or error}): start one "
            "with `ray start --head`"
        ) from error
    return address


def _short_folder() -> str | None:
    """Return a folder in which the paths of Ray's sockets stay within Linux's 107 bytes."""
    return os.environ.get("RAY_TMPDIR") or ("/tmp" if sys.platform != "win32" else None)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without its second page."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def last_line(error: BaseException) -> str:
    """Return the line of a remote traceback that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
