"""Runs models over a set of inputs, untimed: which class, or which outputs, for each input?"""

import base64
import os
from typing import Any, Dict, Iterator, List

import numpy as np

from . import inputs
from .runtimes import Options, choose, module


def evaluate(task: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Top-1 classes of one or several artifacts over the same inputs, or all of their outputs.

    The task's `reduction` says which: `top1` when not given, or `none`. An artifact that cannot be
    run has its error in place of its answers; the others go on.
    """
    name = choose(task["runtimes"], task["format"])
    runtime = module(name)
    runtime_version = runtime.version()
    stacks = inputs.read(os.path.join(folder, task["inputs"]))
    options = Options(task["threads"], task.get("provider", "cpu"), None, None)
    artifacts: List[Dict[str, Any]] = []
    for artifact in task["artifacts"]:
        try:
            session = runtime.load(os.path.join(folder, artifact), options)
            answers = outputs if task.get("reduction") == "none" else top1
            artifacts.append({**answers(session, stacks), "provider": session.provider})
        except Exception as error:
            artifacts.append({"error": "%s: %s" % (type(error).__name__, error)})
    return {"runtime": name, "runtime_version": runtime_version, "artifacts": artifacts}


def top1(session: Any, stacks: inputs.Stacks) -> Dict[str, Any]:
    """The class with the largest logit for each input, or for each of its k predictions: (N k,)."""
    classes: List[int] = []
    for logits in _runs(session, stacks):
        classes.extend(int(index) for index in logits.argmax(axis=1))
    return {"top1": classes}


def outputs(session: Any, stacks: inputs.Stacks) -> Dict[str, Any]:
    """All outputs (N k, K) as little-endian float32 in base 64, row by row, with their shape."""
    rows = np.concatenate(list(_runs(session, stacks))).astype("<f4")
    return {"outputs": base64.b64encode(rows.tobytes()).decode("ascii"), "shape": list(rows.shape)}


def _runs(session: Any, stacks: inputs.Stacks) -> Iterator[Any]:
    """The outputs of each batch as rows, without those of a last batch's padding.

    A row is an input's, or one of several predictions of it, where a batch has more rows than that.
    """
    batch = session.inputs[0].shape[0]
    for start in range(0, inputs.count(stacks), batch):
        rows = inputs.rows(stacks, start, start + batch)
        (feed,) = inputs.batches(rows, session.inputs, batch)
        given = np.asarray(session.prepare(feed)()[0])
        each = max(1, len(given) // batch) if given.ndim > 1 else 1
        yield given.reshape(batch * each, -1)[: inputs.count(rows) * each]
