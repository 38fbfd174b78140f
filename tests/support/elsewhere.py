"""The bits of a data set in other processes.

`python -m tests.support.elsewhere SPEC INDEX ...` prints the digest of what `bits` takes; SPEC is
the JSON of a `DataSpec`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch

from ktbench.data import Dataset, Stream, load
from ktbench.records import DataSpec, canonical_json
from ktbench.students._contract import parts


def bits(data: Dataset, indices: list[int]) -> str:
    """Return a digest of all that a training reads: one index's batch, held-out samples, facts.

    The last of the indices counts; the others share its batch.
    """
    stream, chosen = Stream(data, 3, 32), torch.tensor(indices)
    last = stream.labels(chosen, 2).view(len(indices), -1)[-1]
    drawn = [part[-1] for part in parts(stream.inputs(chosen, 2))]
    held_out = parts(data.some("test", slice(4)))
    total = hashlib.sha256(canonical_json(dict(data.facts)).encode())
    for part in (*drawn, last, *held_out, data.labels("test"), *data.statistics):
        total.update(part.contiguous().numpy().tobytes())
    return total.hexdigest()


def bits_elsewhere(spec: DataSpec, root: Path) -> list[str]:
    """Return the digests from two more processes, which share nothing and hash in other orders.

    Each reads index 9 last, in a batch of its own, and learns a vocabulary of its own.
    """
    answers = []
    for number, batch in enumerate(([9], [1, 2, 3, 9])):
        environment = {
            "KTBENCH_CACHE": str(root / f"cache{number}"),
            "PYTHONHASHSEED": str(number),
            "TOKENIZERS_PARALLELISM": ("true", "false")[number],
        }
        command = ["-m", "tests.support.elsewhere", spec.model_dump_json(), *map(str, batch)]
        ended = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        answers.append(ended.stdout.strip())
    return answers


if __name__ == "__main__":
    torch.set_num_threads(1)
    read = load(DataSpec.model_validate_json(sys.argv[1]), Path())
    print(bits(read, [int(index) for index in sys.argv[2:]]))
