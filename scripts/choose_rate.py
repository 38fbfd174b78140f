"""Choose a matrix's learning rate on its validation set, with a seed that its study does not use.

    python scripts/choose_rate.py matrices/text-edge-sst2.yaml 5e-4 1e-3 2e-3

The students are trained without transfer once per rate, with the matrix's own data and training;
the test set's figures are not read. The best rate has the best mean quality over students. With
`--teacher` the first teacher's rate is chosen, and `--epochs` shortens all trainings. Of a matrix
that begins from another one (`start`), the first trainings are run with the same seed, for their
`train.epochs`. What has been trained in `--results` is not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ktbench.matrix import load
from ktbench.matrix.yaml_reader import read
from ktbench.results import Results, load_results

_KEPT = ("data", "students", "train", "numeric", "limits", "start")
"""Sections of the matrix that decide what a training without transfer learns."""


def unused_seed(path: Path) -> int:
    """Return the first number above all seeds of a study."""
    return 1 + max(load(path).seeds)


def plain(path: Path, seed: int) -> dict[str, Any]:
    """Return a matrix's students without transfer, under one seed; paths are absolute."""
    values, _ = read(path)
    made = {key: values[key] for key in _KEPT if key in values}
    made["data"] = _absolute(made["data"], path.resolve().parent)
    return {**made, "methods": ["none"], "seeds": [seed]}


def _absolute(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return `data` with paths that are right from any folder."""

    def whole(value: str) -> str:
        return value if value.startswith(("$", "~")) else str(base / value)

    task = data.get("task")
    if isinstance(task, dict):
        [(name, settings)] = task.items()
        paths = {k: whole(settings[k]) for k in ("vocabulary_of", "tokenizer") if k in settings}
        data = {**data, "task": {name: {**settings, **paths}}}
    has_path = data.get("path") and data.get("source") != "hub"
    return {**data, "path": whole(data["path"])} if has_path else data


def as_student(path: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Return the matrix of which the first teacher is the only student."""
    teachers = read(path)[0]["teachers"]
    teacher = teachers[0] if isinstance(teachers, list) else teachers
    teacher = teacher if isinstance(teacher, dict) else {"student": teacher}
    data = dict(made["data"])
    if "train_size" in teacher:
        size = teacher["train_size"]
        data = {k: v for k, v in data.items() if k != "train_size"}
        data |= {} if size == "all" else {"train_size": size}
    train = {**made["train"], **teacher.get("train", {})}
    return {**made, "data": data, "students": [teacher["student"]], "train": train}


def trained(made: dict[str, Any], name: str, root: Path) -> Results:
    """Run a matrix and return its results."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, **made}, sort_keys=False))
    command = ["run", file, "--results", root / name, "--quiet"]
    subprocess.run([sys.executable, "-m", "ktbench", *map(str, command)], check=True)
    return load_results(root / name)


def asked() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("rates", type=float, nargs="+")
    parser.add_argument("--teacher", action="store_true", help="choose the first teacher's rate")
    parser.add_argument("--epochs", type=int, help="train for so many epochs")
    parser.add_argument("--results", type=Path, default=Path("results/rates"))
    return parser.parse_args()


def main() -> None:
    """Train with each rate, print the validation figures, and name the best."""
    given = asked()
    seed = unused_seed(given.matrix)
    made = plain(given.matrix, seed)
    if given.teacher:
        made = as_student(given.matrix, made)
    if given.epochs:
        made["train"] = {**made["train"], "epochs": given.epochs}
    root = given.results / f"{given.matrix.stem}{'-teacher' if given.teacher else ''}"
    if "start" in made:
        first = Path(made["start"])
        before = plain(given.matrix.parent / first, seed)
        trained(before, first.stem, root)
    means = {}
    for rate in given.rates:
        made["train"] = {**made["train"], "lr": rate}
        results = trained(made, f"lr-{rate:g}", root)
        cells = results.cells
        if not (cells["status"] == "done").all():
            raise SystemExit(f"lr {rate:g}: {'; '.join(cells['reason'])}")
        means[rate] = float(cells["validation"].mean())
        figures = zip(cells["student"], cells["validation"], strict=True)
        metric = results.metric
        shown = ", ".join(f"{name} {metric.written(metric.quality(v))}" for name, v in figures)
        print(f"lr {rate:g}: validation {metric.word}: {shown}", flush=True)
    best = max(means, key=lambda rate: means[rate])
    print(f"best of {', '.join(f'{rate:g}' for rate in means)} with seed {seed}: lr {best:g}")


if __name__ == "__main__":
    main()
