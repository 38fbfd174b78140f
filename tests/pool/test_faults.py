"""Workers, trainings and networks fail while students learn; the weights stay the same."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ktbench.records import Cell, Checkpoint, Failure
from ktbench.teacher.pool.messages import Packed, Request, StreamKey
from ktbench.teacher.pool.scheduler_events import Rules
from ktbench.teacher.pool.worker import Worker
from ktbench.train import TrainingContext, train_cohort
from tests.support import pools
from tests.support.apart import taught
from tests.support.optional_tools import OptionalPackage
from tests.support.pools import Slow, Started
from tests.support.training import HERE, digits, places_in, train

ray = OptionalPackage("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pools.cluster_of(4):
        yield tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def live(root: Path) -> str:
    return digest(train([taught()], root / "live"))


@pytest.fixture
def pool(root: Path) -> Iterator[Started]:
    opened = Started(root, workers=0, rules=Rules(overdue_floor=0.3))
    yield opened
    opened.clear()
    opened.end()


def learn(source: Any, root: Path, taught: Cell) -> str:
    made = train_cohort(
        [taught],
        TrainingContext(dataset=digits(), teacher=source, places=places_in(root), base=HERE),
    )
    source.close()
    return digest(made)


def digest(outcomes: list[Checkpoint | Failure]) -> str:
    [made] = outcomes
    assert isinstance(made, Checkpoint), made
    return made.digest


def events(pool: Started) -> list[dict[str, str]]:
    found: list[dict[str, str]] = ray.get(pool.coordinator.history.remote())["events"]
    return found


@contextmanager
def every(seconds: float, what: Callable[[], None]) -> Iterator[None]:
    """Something done again and again beside the block."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(seconds):
            what()

    beside = threading.Thread(target=again)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


def kill_hard(worker: dict[str, Any]) -> None:
    os.kill(worker["process"], signal.SIGKILL)


# ---------------------------------------------------------------- workers that die


def test_a_lone_worker_killed_again_and_again_changes_nothing(
    pool: Started, live: str, tmp_path: Path
) -> None:
    pool.join("w0", Slow)
    pool.wait_for(lambda: bool(pool.workers()))
    killed = set[int]()

    def kill() -> None:
        for worker in pool.workers().values():
            if worker["answered"] >= 50 and worker["process"] not in killed:
                killed.add(worker["process"])
                kill_hard(worker)

    with every(0.2, kill):
        assert learn(pool.source(taught()), tmp_path, taught()) == live
    assert len(killed) >= 3
    kinds = [event["kind"] for event in events(pool)]
    assert kinds.count("join") >= len(killed) and kinds.count("leave") >= len(killed) - 1


def test_when_all_workers_die_for_good_others_may_take_their_place(
    pool: Started, live: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        pool.join(name, Slow)
    pool.wait_for(lambda: len(pool.workers()) == 2)
    done: list[str] = []

    def replace() -> None:
        present = pool.workers()
        if not done and sum(w["answered"] for w in present.values()) >= 30:
            for handle in pool.handles:
                ray.kill(handle)  # as a machine that is switched off
            pool.handles.clear()
            done.append("killed")
        elif done == ["killed"] and not pool.status()["workers"]:
            pool.join("c", Slow)
            done.append("replaced")

    with every(0.1, replace):
        assert learn(pool.source(taught()), tmp_path, taught()) == live
    assert done == ["killed", "replaced"]
    assert {event["worker"] for event in events(pool) if event["kind"] == "leave"} == {"a", "b"}


# ---------------------------------------------------------------- workers that answer oddly


class Late(Worker):
    """Takes its time now and then, so that others are asked too, and answers all the same."""

    turn = 0

    def _answer(self, key: StreamKey, request: Request) -> Packed:
        self.turn += 1
        if self.turn % 12 == 0:
            time.sleep(1.5)
        return super()._answer(key, request)


def test_a_batch_that_is_answered_twice_is_used_once(
    pool: Started, live: str, tmp_path: Path
) -> None:
    pool.join("late", Late)
    pool.join("punctual", Slow)
    pool.wait_for(lambda: len(pool.workers()) == 2)
    source = pool.source(taught())
    rows: list[int] = []
    outputs = source.outputs

    def counted(batch: Any, needs: Any) -> Any:
        rows.append(batch.step)
        return outputs(batch, needs)

    source.outputs = counted  # type: ignore[method-assign]
    assert learn(source, tmp_path, taught()) == live
    steps = taught().train.epochs * (digits().size("train") // taught().train.batch_size)
    assert rows[1:] == list(range(steps))  # after the probe, each once and in order
    pool.wait_for(lambda: ray.get(pool.coordinator.history.remote())["dropped"] >= 1)


# ---------------------------------------------------------------- a training that dies


def apart(
    folder: Path,
    name: str,
    workers: int,
    *,
    inside: tuple[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> Any:
    """Start the training of `support/apart.py` in its own process or network namespace."""
    address = f"{inside[1]}:6399" if inside else ray.get_runtime_context().gcs_address
    where = ["ip", "netns", "exec", inside[0]] if inside else []
    return subprocess.Popen(
        [*where, sys.executable, "-m", "tests.support.apart", folder, address, name, str(workers)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def line(process: Any, start: str) -> str:
    """The next line that begins so."""
    for text in process.stdout:
        if text.startswith(start):
            return str(text).strip()
    raise AssertionError(process.stderr.read()[-2000:])


def test_a_training_that_is_killed_goes_on_and_the_pool_with_it(
    pool: Started, root: Path, live: str, tmp_path: Path
) -> None:
    first = apart(tmp_path, "killed", 1)
    line(first, "epoch 3")
    first.kill()
    first.communicate()
    second = apart(tmp_path, "killed", 1)
    assert line(second, "note").startswith("note went on after epoch")
    assert line(second, "digest") == f"digest {live}"
    assert second.wait(60) == 0, second.stderr.read()


# ---------------------------------------------------------------- a network that is cut

CUT_S = 5.0
HEAD, FAR = ("ktbench-head", "10.213.7.1"), ("ktbench-far", "10.213.7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them; skips where none can be made."""
    try:
        for (name, address), end in ((HEAD, "kth"), (FAR, "ktf")):
            ip("netns", "add", name)
            if end == "kth":
                ip("link", "add", "kth", "netns", name, "type", "veth", "peer", "name", "ktf")
            else:
                ip("link", "set", "ktf", "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            for device in ("lo", end):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        unplug()
        said = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"cannot make network namespaces here: {' '.join(said.split())}")
    try:
        yield
    finally:
        unplug()


def unplug() -> None:
    for name, _ in (HEAD, FAR):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def node(host: tuple[str, str], environment: dict[str, str], *options: str) -> Any:
    """A node of a cluster in a namespace, which ends with its process group."""
    name, address = host
    return subprocess.Popen(
        [
            *("ip", "netns", "exec", name, sys.executable, "-m", "ray.scripts.scripts", "start"),
            *(f"--node-ip-address={address}", "--block", "--disable-usage-stats", *options),
            "--object-store-memory=200000000",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def listening(name: str) -> bool:
    """Whether the head of the cluster can be reached."""
    shown = subprocess.run(
        ["ip", "netns", "exec", name, "ss", "-ltnH", "sport = :6399"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return bool(shown.stdout.strip())


@contextmanager
def cluster_apart() -> Iterator[dict[str, str]]:
    """A head and a far node, each on a host of its own; yields what a driver needs to know."""
    short = tempfile.mkdtemp(prefix="kt")  # Ray's sockets have a limit on their names
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT),
    }
    nodes: list[Any] = []
    try:
        with two_hosts():
            nodes.append(
                node(
                    HEAD, environment, "--head", "--port=6399", "--num-cpus=0",
                    "--include-dashboard=false", f"--temp-dir={short}",
                )
            )  # fmt: skip
            deadline = time.monotonic() + 60
            while not listening(HEAD[0]) and time.monotonic() < deadline:
                time.sleep(0.2)
            nodes.append(node(FAR, environment, f"--address={HEAD[1]}:6399", "--num-cpus=1"))
            yield environment
    finally:
        end(*nodes)
        shutil.rmtree(short, ignore_errors=True)


def at_hand(pipe: int) -> str:
    """What can be read without waiting."""
    os.set_blocking(pipe, False)
    said = b""
    with suppress(BlockingIOError):
        while more := os.read(pipe, 65536):
            said += more
    os.set_blocking(pipe, True)
    return said.decode()


def end(*processes: Any) -> None:
    """End process groups that were started here."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_network_that_is_cut_for_some_seconds_delays_the_training_and_no_more(
    live: str, tmp_path: Path
) -> None:
    with cluster_apart() as environment:
        training = apart(tmp_path, "cut", 1, inside=HEAD, environment=environment)
        try:
            line(training, "epoch 3")
            ip("-n", HEAD[0], "link", "set", "kth", "down")
            time.sleep(CUT_S)
            # It stands still but for what it had asked for ahead: less than two epochs.
            said = at_hand(training.stdout.fileno())
            assert said.count("epoch") <= 3 and "digest" not in said, said
            ip("-n", HEAD[0], "link", "set", "kth", "up")
            assert line(training, "digest") == f"digest {live}"
        finally:
            end(training)
