"""A worker: runs one teacher on batches of one data set that are requested by name."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ktbench import catalogue
from ktbench.data import Dataset, Stream, load
from ktbench.networks.layout import FIRST
from ktbench.networks.numeric import prepare
from ktbench.networks.weights import load_student
from ktbench.records import KtbenchError
from ktbench.students._contract import Inputs, each
from ktbench.teacher.live import Live
from ktbench.teacher.pool.messages import (
    Hello,
    Identity,
    Packed,
    PoolJob,
    Receipt,
    Request,
    StreamKey,
    code_digest,
    needs_of,
    pack,
)
from ktbench.transfer_methods._contract import Batch


class Worker:
    """A Ray actor, built from these arguments whenever its process is started again."""

    def __init__(self, job: PoolJob, base: str | None = None) -> None:
        self._job = job
        self._base = Path(base or job.base)
        self._hello: Hello | None = None

    def alive(self) -> bool:
        """Return True, as a process that is there and not stuck does."""
        return True

    def hello(self, weights: bytes) -> Hello:
        """Load the teacher's file, and introduce this worker; trouble is returned, not raised."""
        if self._hello is None:
            try:
                self._hello = self._ready(weights)
            except Exception as error:  # a user's own network or data may raise anything
                text = " ".join(str(error).split())[:300]
                kind = "" if isinstance(error, KtbenchError) else f"{type(error).__name__}: "
                self._hello = Hello(None, platform.node(), os.getpid(), trouble=kind + text)
        return self._hello

    def _ready(self, weights: bytes) -> Hello:
        cell = self._job.teacher.cell
        self._device = prepare(self._job.numeric)
        self._data = load(self._job.data, self._base)
        same = cell.data.canonical == self._job.data.canonical
        trained_on = self._data if same else load(cell.data, self._base)
        trained_on = trained_on.preprocessed(self._job.teacher.preprocess)
        code = catalogue.student_code(cell.student.name, cell.student.settings, str(self._base))
        if code != cell.student.code:
            name = cell.student.name
            raise KtbenchError(f"{name}: another file (digest {code}) than was trained")
        self._live = self._teacher(weights, trained_on)
        identity = Identity(
            teacher=self._live.digest,
            data=self._data.digest,
            trained_on=trained_on.digest,
            code=code_digest(),
        )
        self._stream = lru_cache(maxsize=8)(
            lambda key: Stream(self._data, key.seed, key.batch_size, key.views, key.mixing)
        )
        self._order = lru_cache(maxsize=16)(lambda key, epoch: self._stream(key).order(epoch))
        return Hello(identity, platform.node(), os.getpid(), self._live.stage_names)

    def _teacher(self, weights: bytes, trained_on: Dataset) -> Live:
        cell = self._job.teacher.cell
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            file.write(weights)
            file.flush()
            weights_file = Path(file.name)
            network = load_student(cell, weights_file, base=self._base, **trained_on.dimensions)
        return Live(
            network,
            trained_on=trained_on,
            dataset=self._data,
            numeric=self._job.numeric,
            layout=self._job.layout,
        )

    def answer(self, key: StreamKey, request: Request) -> tuple[Receipt, Packed | None]:
        """Return the teacher's outputs for a batch, or why there are none."""
        try:
            began = time.perf_counter()
            packed = self._answer(key, request)
            return Receipt(time.perf_counter() - began), packed
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return Receipt(failed=reason), None

    def digest(self) -> str:
        """Digest the teacher's weights and buffers as they are now."""
        return self._live.digest

    def _answer(self, key: StreamKey, request: Request) -> Packed:
        batch = self._batch(key, request)
        needs = needs_of(request.needs)
        features = self._live.outputs(batch, needs)
        return pack(features, needs, flops=self._live.flops(), seconds=self._live.seconds())

    def _batch(self, key: StreamKey, request: Request) -> Batch:
        """Rebuild the training's batch, except for what a teacher never reads."""
        stream = self._stream(key)
        epoch, number = divmod(request.step, stream.steps_per_epoch)
        if request.rows:
            indices = torch.from_numpy(np.frombuffer(request.rows, dtype=np.int32).astype(np.int64))
        else:
            indices = self._order(key, epoch)[number]
        inputs = (
            plain_inputs(self._data, indices) if request.plain else stream.inputs(indices, epoch)
        )
        return Batch(
            inputs=each(inputs, lambda part: part.to(self._device)),
            labels=stream.labels(indices, epoch).to(self._device),
            indices=indices.to(self._device),
            epoch=epoch,
            step=request.step,
            progress=0.0,
            seed=stream.step_seed(request.step),
        )


def plain_inputs(data: Dataset, indices: torch.Tensor) -> Inputs:
    """Return the inputs of training samples, unaugmented, laid out as a stream's are."""
    return FIRST.inputs(data.some("train", indices))
