"""On Ray a cell is what it is in one process, whatever dies on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktbench.data import load
from ktbench.engine.nodes import Likeness, facts, likeness, why_not_here
from ktbench.records import DataSpec, KtbenchError, Plan, StorageError
from ktbench.runner.data_jobs import same_dataset
from tests.support.ray_jobs import Nap, nap, no_space, processes
from tests.support.running import ROOT, Commands, digests, results, write_matrix

MARK = f"KTBENCH_TEST_RAY={os.getpid()}"
PROGRAM = (
    "from ktbench.cli import main, report; report.write_report = lambda folder: folder; main()"
)
POISON = """
import os, signal
from ktbench.transfer_methods.kd import Config, Method

class Poison(Method):
    Config = Config

    def loss(self, student, teacher, batch):
        if batch.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(student, teacher, batch)
"""


@pytest.fixture(scope="module", autouse=True)
def marked() -> Iterator[None]:
    """Whatever these tests start can be told from what others run on this machine."""
    name, _, value = MARK.partition("=")
    os.environ |= {name: value, "RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_USAGE_STATS_ENABLED": "0"}
    yield
    for each in (name, "RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_USAGE_STATS_ENABLED"):
        del os.environ[each]


@pytest.fixture(scope="module")
def cluster(marked: None) -> Iterator[Any]:
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(num_cpus=1, object_store_memory=80_000_000)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the matrix in one process."""
    folder = tmp_path_factory.mktemp("inline")
    run = _run(_matrix(folder), folder / "whole")
    _, told = run.communicate()
    assert run.returncode == 0, told
    return folder / "whole"


def _matrix(folder: Path, **changes: Any) -> Path:
    """Four cohorts: no transfer, and three methods of one teacher, for two seeds."""
    sections: dict[str, Any] = {
        "name": "cluster",
        "data": {"source": "digits", "train_size": 200, "validation_size": 50, "test_size": 50},
        "teachers": [{"student": "resnet8", "name": "T", "train": {"epochs": 4}}],
        "students": [{"resnet8": {"width": 0.5}}],
        "methods": ["none", "kd", "fitnet", "crd"],
        "seeds": 2,
        "train": {"epochs": 12, "batch_size": 50, "lr": 0.05},
        "exports": {"formats": "onnx", "precisions": "fp32"},
    }
    return write_matrix(folder / "matrix.yaml", **(sections | changes))


def _run(matrix: Path, folder: Path, *options: str, mark: str = "") -> subprocess.Popen[str]:
    """`ktbench run` in a process of its own, without the report, which would take longest."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", str(matrix), "--results", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "KTBENCH_CACHE": str(folder.with_name(f"{folder.name}-cache")),
            "KTBENCH_CHECKPOINT_SECONDS": "0",
            **dict([mark.split("=")] if mark else []),
        },
    )


def _on(cluster: Any) -> tuple[str, ...]:
    return ("--engine", "ray", "--address", cluster.address)


def _working(node: Any = None) -> list[int]:
    """Processes that run a job, on one node of a cluster or on all."""
    here = processes(MARK)
    raylet = node.all_processes["raylet"][0].process.pid if node is not None else None
    return [
        number
        for number, (parent, command) in here.items()
        if command.startswith("ray::work") and raylet in (None, parent)
    ]


def _wait(condition: Callable[[], Any], run: subprocess.Popen[str]) -> bool:
    """Wait until something is so; False when the run ended before."""
    while run.poll() is None:
        if condition():
            return True
        time.sleep(0.1)
    return False


def _exports(folder: Path) -> dict[str, list[str]]:
    return {k: [a.digest for a in r.artifacts] for k, r in results(folder).items()}


def _assert_same(folder: Path, whole: Path) -> None:
    """The same weights, teacher's included, and the same artifacts; no saved work is left."""
    assert digests(folder) == digests(whole)
    assert _exports(folder) == _exports(whole)
    names = [sorted(p.name for p in (f / "teachers").iterdir()) for f in (folder, whole)]
    assert names[0] == names[1]
    assert not list((folder / "work").iterdir())
    assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}


# ---------------------------------------------------------------- the same, whatever dies


@pytest.mark.ray
@pytest.mark.slow
def test_two_nodes_give_the_weights_and_artifacts_of_one_process(
    cluster: Any, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    run = _run(_matrix(tmp_path), folder, *_on(cluster))
    most = 0

    def count() -> bool:
        nonlocal most
        most = max(most, len(_working()))
        return False

    _wait(count, run)
    out, told = run.communicate()
    assert run.returncode == 0, told
    assert most == 2
    assert not out and "ray" not in told.replace(str(folder), "")
    _assert_same(folder, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_killed_at_random_moments_change_no_weight(
    cluster: Any, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    run = _run(_matrix(tmp_path), folder, *_on(cluster))
    chance, kills = random.Random(7), 0
    while kills < 3 and _wait(lambda: any(folder.glob("work/*/training.pt")), run):
        time.sleep(chance.uniform(0, 0.3))
        for number in _working()[:1]:
            os.kill(number, signal.SIGKILL)
            kills += 1
        time.sleep(chance.uniform(0, 1))
    out, told = run.communicate()
    assert run.returncode == 0, told
    assert kills, "no kill fell into the run"
    assert not out and "went on after epoch" in told, told
    _assert_same(folder, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_is_lost_changes_no_weight(cluster: Any, whole: Path, tmp_path: Path) -> None:
    third = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    folder = tmp_path / "ray"
    run = _run(_matrix(tmp_path), folder, *_on(cluster))
    fell = _wait(lambda: _working(third) and any(folder.glob("work/*/training.pt")), run)
    cluster.remove_node(third, allow_graceful=False)
    out, told = run.communicate()
    assert fell and run.returncode == 0, told
    assert not out and "ray" not in told.replace(str(folder), "")
    _assert_same(folder, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_always_kills_its_worker_fails_and_the_others_go_on(
    cluster: Any, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(POISON)
    folder = tmp_path / "ray"
    matrix = _matrix(tmp_path, methods=["none", "own.py:Poison"], exports={}, seeds=1)
    run = _run(matrix, folder, *_on(cluster))
    _, told = run.communicate()
    assert run.returncode == 1, told
    by_method = {r.cell.method.name: r for r in results(folder).values()}
    assert by_method["none"].status == "done"
    poisoned = by_method["own.py:Poison"]
    assert poisoned.status == "failed"
    assert "its worker was killed, crashed or lost its node, 4 times" in poisoned.failures[0].reason
    assert (folder / "work" / poisoned.cell.key / "training.pt").is_file()
    assert "Traceback" not in told


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_running_and_goes_on_elsewhere(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    matrix = _matrix(tmp_path)
    mark = f"KTBENCH_TEST_INTERRUPTED={os.getpid()}"
    run = _run(matrix, folder, "--engine", "ray", "--workers", "2", mark=mark)
    assert _wait(lambda: any(folder.glob("work/*/training.pt")), run)
    run.send_signal(signal.SIGINT)
    out, told = run.communicate()
    assert run.returncode == 128 + signal.SIGINT
    assert told.splitlines()[-1] == "ktbench: stopped; run the same command again to resume"
    assert not out and "Traceback" not in told
    assert not (folder / "running").exists()
    until = time.monotonic() + 30
    while processes(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes(mark)
    again = _run(matrix, folder)
    _, told = again.communicate()
    assert again.returncode == 0 and "went on after epoch" in told, told
    _assert_same(folder, whole)


# ---------------------------------------------------------------- the engine alone


@pytest.mark.ray
@pytest.mark.slow
def test_workers_bounds_what_runs_at_once_and_shares_reach_the_driver(
    cluster: Any, tmp_path: Path
) -> None:
    from ktbench.engine.on_ray import OnRay

    plan = Plan(name="p", base=str(tmp_path), cells=())
    with OnRay(address=cluster.address).at(plan, tmp_path) as workers:
        assert (workers.all, workers.per_machine) == (2, 1)
    jobs = [Nap(tmp_path / name, 1.5) for name in "ab"]
    told: list[tuple[Nap, float]] = []
    engine = OnRay(workers=1, address=cluster.address)
    with engine.at(plan, tmp_path) as workers:
        assert (workers.all, workers.per_machine) == (1, 1)
        ran = dict(engine.run(nap, jobs, lambda job, share: told.append((job, share))))
        spans = sorted(v for v in ran.values() if isinstance(v, tuple))
        assert len(spans) == 2 and spans[0][1] <= spans[1][0]
        assert {threads for _, _, threads in spans} == {"1"}
        for job in jobs:
            shares = [share for which, share in told if which == job]
            assert shares == sorted(shares) and 0 < shares[0] < 1
        with pytest.raises(StorageError, match="no space left"):
            list(engine.run(no_space, jobs, lambda *_: None))
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
def test_a_signal_during_a_wait_for_ray_is_heard(cluster: Any, tmp_path: Path) -> None:
    from ktbench.engine.on_ray import OnRay

    class Asked(BaseException):
        pass

    def ask(*_: Any) -> None:
        raise Asked

    before = signal.signal(signal.SIGTERM, ask)
    try:
        engine = OnRay(address=cluster.address)
        plan = Plan(name="p", base=str(tmp_path), cells=())
        with pytest.raises(Asked), engine.at(plan, tmp_path):
            jobs = [Nap(tmp_path / "a", 60)]
            threading.Timer(4, os.kill, (os.getpid(), signal.SIGTERM)).start()
            list(engine.run(nap, jobs, lambda *_: None))
        assert signal.getsignal(signal.SIGTERM) is ask
    finally:
        signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------- who may take part


def test_a_node_must_see_the_results_folder_and_the_users_own_files(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("1")
    wanted = likeness(Plan(name="p", base=str(tmp_path), cells=()), token)
    assert why_not_here(wanted) is None
    token.write_text("2")
    assert why_not_here(wanted) == f"sees other content in {token}: give every node the same"
    token.unlink()
    reason = why_not_here(wanted)
    assert reason is not None
    assert reason.startswith(f"does not see {tmp_path} as this machine does: share that folder")


@pytest.mark.parametrize("fact", ["torch", "processor", "ktbench's code (digest)", "onnx"])
def test_a_node_of_another_kind_is_refused_with_the_difference(fact: str) -> None:
    there = facts() | {fact: "other"}
    reason = why_not_here(Likeness(files={}, facts=there))
    assert reason is not None and reason.startswith(f"has {fact} {facts()[fact]}")
    del there[fact]
    assert "this run has none" in (why_not_here(Likeness(files={}, facts=there)) or "")


def test_a_node_with_other_data_gives_a_failure_not_a_result(tmp_path: Path) -> None:
    spec = DataSpec(source="digits", train_size=60, validation_size=30, test_size=40)
    same = load(spec, tmp_path).digest
    assert same_dataset(spec, tmp_path, same).digest == same
    with pytest.raises(KtbenchError, match=f"digest {same} on .*, 0123 where the run was started"):
        same_dataset(spec, tmp_path, "0123")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_lacks_what_a_job_takes_is_told(
    cluster: Any, ktbench: Commands, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "m.yaml", numeric={"threads": 3})
    answer = ktbench("run", matrix, "--quiet", *_on(cluster))
    assert answer.code == 2
    assert answer.error == "ktbench: no node of the cluster has 3 core(s) for a job"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--workers", "2"], "--workers needs --engine ray"),
        (["--engine", "slurm"], "--engine slurm: must be supervised, inline or ray"),
        (["--engine", "ray", "--address", "ray://a:1"], "must be `auto` or HOST:PORT"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster answers"),
    ],
)
@pytest.mark.slow
def test_an_engine_that_cannot_be_used_is_told_in_one_line(
    ktbench: Commands, tmp_path: Path, options: list[str], line: str
) -> None:
    answer = ktbench("run", write_matrix(tmp_path / "m.yaml"), "--quiet", *options)
    assert answer.code == 2 and line in answer.error


def test_without_ray_the_command_says_how_to_get_it(
    ktbench: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = ktbench("run", write_matrix(tmp_path / "m.yaml"), "--engine", "ray")
    assert answer.code == 2
    assert answer.error == (
        "ktbench: --engine ray needs ray, which is not installed: pip install 'ktbench[ray]'"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "status"])
def test_without_ray_a_pools_commands_say_how_to_get_it(command: str) -> None:
    """In a process of its own, where Ray cannot be found."""
    code = f"import sys; sys.modules['ray'] = None; sys.argv[1:] = ['teacher', '{command}']\n"
    answer = subprocess.run(
        [sys.executable, "-c", code + PROGRAM], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 2
    assert answer.stderr == (
        "ktbench: a pool of teachers needs ray, which is not installed: "
        "pip install 'ktbench[ray]'\n"
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_result_says_where_it_was_made(whole: Path) -> None:
    lock = json.loads((whole / "lock.json").read_text())["provenance"]
    for result in results(whole).values():
        assert result.provenance.versions == lock["versions"]
        assert result.provenance.data_digest and result.provenance.created >= lock["created"]
