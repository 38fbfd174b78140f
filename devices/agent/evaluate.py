"""Runs models over a set of inputs, untimed: which class does each name for each input?"""

import os
from typing import Any, Dict, List

import numpy as np

from . import inputs
from .runtimes import Options, choose, module


def evaluate(task: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Top-1 classes of one or several artifacts over the same inputs.

    An artifact that cannot be run has its error in place of its classes; the others go on.
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
            artifacts.append({"top1": top1(session, stacks), "provider": session.provider})
        except Exception as error:
            artifacts.append({"error": "%s: %s" % (type(error).__name__, error)})
    return {"runtime": name, "runtime_version": runtime_version, "artifacts": artifacts}


def top1(session: Any, stacks: inputs.Stacks) -> List[int]:
    """The class with the largest logit for each input, (N,)."""
    batch = session.inputs[0].shape[0]
    classes: List[int] = []
    for start in range(0, inputs.count(stacks), batch):
        rows = inputs.rows(stacks, start, start + batch)
        (feed,) = inputs.batches(rows, session.inputs, batch)
        logits = np.asarray(session.prepare(feed)()[0])
        logits = logits.reshape(batch, -1)[: inputs.count(rows)]
        classes.extend(int(index) for index in logits.argmax(axis=1))
    return classes
