"""Export of trained students: each architecture is converted once, every file is checked."""

from __future__ import annotations

import errno
import importlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ktbench.data import Dataset
from ktbench.export import int8
from ktbench.export.corrections import Chain, correct_biases, equalise, plan_chains
from ktbench.export.deployed_network import (
    Deployed,
    Folding,
    Layout,
    deploy,
    plain_copy,
    plan_folding,
)
from ktbench.export.parity import TOLERANCES, Parity, check, raw_samples, reference_logits
from ktbench.export.reasons import reason_of
from ktbench.export.sidecar import described, file_digest, write
from ktbench.export.template import Template, make_template
from ktbench.export.writer import Arrays, Floats, Lowering, Writer
from ktbench.networks.weights import weights_digest
from ktbench.records import (
    Artifact,
    Cell,
    ExportSpec,
    Failure,
    Format,
    Item,
    LayerLoss,
    Layers,
    Quantisation,
    StorageError,
    digest_of,
    one_line,
)
from ktbench.system import extras
from ktbench.tasks._contract import InputSpec, Signature

if TYPE_CHECKING:
    from ktbench.students._contract import Student


CALIBRATION = 256
"""Number of training images, evenly spread over the set, that int8 ranges are taken from."""

_WRITERS: dict[Format, tuple[str, str]] = {
    "onnx": ("ktbench.export.onnx_writer", "OnnxWriter"),
    "tflite": ("ktbench.export.tflite_writer", "TfliteWriter"),
}


def graph_key(student: Item, signature: Signature, spec: ExportSpec, structure: str = "") -> str:
    """Return a digest that is equal for artifacts that differ only in their weights.

    `structure` is the network's (`Student.structure`).
    """
    first, *others = (list(each.shape) for each in signature.inputs)
    sizes = {k: v for k, v in signature.sizes if k not in ("num_classes", "in_channels")}
    return digest_of(
        {
            "student": student.model_dump(mode="json", exclude={"implied"}),
            "num_classes": signature.outputs,
            "shape": first,
            **({"others": others, "sizes": sizes} if sizes else {}),
            **({"raw": [list(each.shape) for each in signature.raw]} if signature.raw else {}),
            "export": spec.file_settings(),
            **({"structure": structure} if structure else {}),
        }
    )


def quantisation(signature: Signature) -> Quantisation:
    """Return how int8 files of such networks find the ranges of activations.

    Networks that read whole numbers (pieces of texts) are quantised dynamically: what is added to
    the scores of padding, and states that differ from text to text by a factor of ten, leave a
    static range too few steps.
    """
    whole = any(each.below is not None for each in signature.inputs)
    return "dynamic" if whole else "static"


Key = tuple[object, ...]


@dataclass
class _Subject:
    """The student being exported: what all its exports share."""

    name: str
    architecture: str
    structure: str
    network: nn.Module
    reference: Floats
    deployed: dict[Key, Deployed] = field(default_factory=dict)


@dataclass(frozen=True)
class _Made:
    """An exported file with what only the exporter knows of it."""

    model: bytes
    layers: Layers | None = None
    remarks: tuple[str, ...] = ()
    sensitivity: tuple[LayerLoss, ...] = ()


class Exporter:
    """Writes the students of one data set below `folder`, one folder per cell.

    It reuses what is expensive: the converted graph of each architecture and the LiteRT process.
    Results do not depend on earlier exports. Close it, or use it in a `with`; a copy in another
    process starts empty.
    """

    def __init__(self, dataset: Dataset, folder: Path, relative_to: Path) -> None:
        self.dataset = dataset
        self.folder = folder
        self.relative_to = relative_to
        self._forget()

    def _forget(self) -> None:
        self._writers: dict[Format, Writer] = {}
        self._foldings: dict[str, Folding] = {}
        self._chains: dict[str, tuple[Chain, ...]] = {}
        self._halves: dict[tuple[str, ExportSpec], int] = {}
        self._templates: dict[tuple[str, ExportSpec], Template | None] = {}
        self._subject: _Subject | None = None

    def export(self, student: Student, cell: Cell, spec: ExportSpec) -> Artifact | Failure:
        """Return the artifact of a trained student, or the reason why there is none.

        Raises `KtbenchError` if the file cannot be written.
        """
        started = time.perf_counter()
        try:
            writer = self._writer(spec.format)
            subject = self._prepare(student, cell)
            made = self._made(writer, subject, spec)
            parity = check(writer, made.model, self.dataset, subject.reference)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                return Failure(stage="export", what=spec.label, reason=one_line(error))
            raise StorageError(
                "no space left on the disk for temporary files: free some, or point TMPDIR to a "
                "larger disk, and run again"
            ) from error
        except Exception as error:  # converters raise anything for a network they cannot hold
            return Failure(stage="export", what=spec.label, reason=reason_of(error, spec))
        reason = parity.beyond(TOLERANCES[spec.precision])
        if reason is not None:
            return Failure(stage="export", what=spec.label, reason=reason)
        path = self.folder / cell.key / f"{spec.label}{writer.suffix}"
        artifact = self._artifact(writer, subject, cell, spec, path, made, parity, started)
        about = described(artifact, cell, self.dataset, writer, self._calibration().size)
        write(path, made.model, about, self.dataset.task.files_beside(self.dataset.facts))
        return artifact

    def _prepare(self, student: Student, cell: Cell) -> _Subject:
        name = f"{cell.key} {weights_digest(student.state_dict())}"
        if self._subject is None or self._subject.name != name:
            network = plain_copy(student)
            architecture = _architecture(cell.student, student.structure, network)
            reference = reference_logits(network, self.dataset)
            self._subject = _Subject(name, architecture, student.structure, network, reference)
        return self._subject

    def _made(self, writer: Writer, subject: _Subject, spec: ExportSpec) -> _Made:
        """Return the file in the precision asked for, judged where that is int8."""
        network = self._deployed(writer, subject, spec)
        plain = ExportSpec(format=spec.format, batch=spec.batch, opset=spec.opset)
        fp32 = self._graph(writer, subject, network, plain)
        how = Lowering(front=network.front is not None)
        if spec.precision != "int8":
            return _Made(writer.lower(fp32, spec, None, how))
        samples = self._calibration_samples(writer)
        names = int8.layer_names(writer, fp32, network.state())
        how = replace(
            how,
            keep=int8.kept_layers(names, spec.keep),
            ranges=int8.ranges_of(writer, fp32, samples, spec.calibration),
        )
        model = writer.lower(fp32, spec, samples, how)
        layers = int8.layers_of(writer.layers(model))
        key = (subject.architecture, plain)
        if key not in self._halves:
            half = plain.model_copy(update={"precision": "fp16"})
            self._halves[key] = len(writer.lower(fp32, half, None, Lowering(front=how.front)))
        losses: tuple[LayerLoss, ...] = ()
        if spec.sensitivity:
            losses = tuple(
                int8.sensitivity(
                    writer,
                    fp32,
                    spec,
                    samples,
                    how,
                    names=names,
                    dataset=self.dataset,
                    reference=subject.reference,
                )
            )
        odd = tuple(int8.remarks(layers, how, len(model), self._halves[key]))
        return _Made(model, layers, odd, losses)

    def _graph(
        self, writer: Writer, subject: _Subject, network: Deployed, plain: ExportSpec
    ) -> bytes:
        """Return the fp32 file's bytes, filled into the architecture's graph or converted again."""
        key = (subject.architecture, plain)
        if key not in self._templates:
            self._templates[key] = make_template(writer, network, plain)
        template = self._templates[key]
        if template is None:
            return writer.convert(network, plain)
        return template.fill(writer, network.state())

    def _deployed(self, writer: Writer, subject: _Subject, spec: ExportSpec) -> Deployed:
        """Return the network as it is converted, with its weights corrected as asked."""
        data, name = self.dataset, subject.architecture
        if name not in self._foldings:
            self._foldings[name] = plan_folding(subject.network, data.signature.inputs)
        key = (writer.layout, spec.correct, spec.reduce_range)
        if key not in subject.deployed:
            deployed = _deployed(subject.network, self._foldings[name], data, writer.layout)
            if "equalise" in spec.correct:
                if name not in self._chains:
                    self._chains[name] = plan_chains(deployed.network, data.signature.inputs)
                equalise(deployed.network, self._chains[name])
            if "bias" in spec.correct:
                samples = raw_samples(writer.layout, data, "train", self._calibration())
                correct_biases(deployed, samples, int8.levels(spec))
            subject.deployed[key] = deployed
        return subject.deployed[key]

    def _calibration_samples(self, writer: Writer) -> Arrays | None:
        """Return the training samples that static ranges are taken from; None for dynamic int8."""
        if quantisation(self.dataset.signature) == "dynamic":
            return None
        return raw_samples(writer.layout, self.dataset, "train", self._calibration())

    def _calibration(self) -> NDArray[np.int64]:
        size = self.dataset.size("train")
        count = min(CALIBRATION, size)
        return np.arange(count, dtype=np.int64) * size // count

    def _artifact(
        self,
        writer: Writer,
        subject: _Subject,
        cell: Cell,
        spec: ExportSpec,
        path: Path,
        made: _Made,
        parity: Parity,
        started: float,
    ) -> Artifact:
        signature, structure = self.dataset.signature, subject.structure
        return Artifact(
            cell_key=cell.key,
            export=spec,
            graph_key=graph_key(cell.student, signature, spec, structure),
            path=path.relative_to(self.relative_to).as_posix(),
            digest=file_digest(made.model),
            bytes=len(made.model),
            input_shape=signature.file_inputs[0].shape_in(writer.layout),
            quantisation=quantisation(signature) if spec.precision == "int8" else None,
            agreement=parity.agreement,
            max_difference=parity.max_difference,
            tolerance=TOLERANCES[spec.precision],
            validation_accuracy=parity.validation_accuracy,
            test_accuracy=parity.test_accuracy,
            runtime=writer.runtime(),
            seconds=time.perf_counter() - started,
            layers=made.layers,
            remarks=made.remarks,
            sensitivity=made.sensitivity,
        )

    def _writer(self, format: Format) -> Writer:
        if format not in self._writers:
            self._writers[format] = _new_writer(format)
        return self._writers[format]

    def close(self) -> None:
        """End the processes that were started; the exporter can be used again."""
        for writer in self._writers.values():
            writer.close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("dataset", "folder", "relative_to")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def export_student(
    student: Student,
    cell: Cell,
    spec: ExportSpec,
    dataset: Dataset,
    folder: Path,
    relative_to: Path,
) -> Artifact | Failure:
    """Export one student on its own, without the reuse of `Exporter.export`."""
    with Exporter(dataset, folder, relative_to) as exporter:
        return exporter.export(student, cell, spec)


def onnx_model(
    module: nn.Module,
    inputs: tuple[InputSpec, ...],
    dataset: Dataset | None = None,
) -> bytes:
    """Return a network that reads `inputs`, or a part of one, as an fp32 ONNX model.

    Batch normalisation is folded as in an artifact. With its data set, a whole network reads raw
    samples. Raises KtbenchError where ONNX is not installed.
    """
    extras.require("onnx", "a network as an ONNX model")
    folding = plan_folding(module, inputs)
    if dataset is None:
        deployed = deploy(module, folding, inputs, None, "NCHW")
    else:
        deployed = _deployed(module, folding, dataset, "NCHW")
    return _new_writer("onnx").convert(deployed, ExportSpec(format="onnx"))


def _deployed(network: nn.Module, folding: Folding, data: Dataset, layout: Layout) -> Deployed:
    """Return a network of a data set as it is deployed: raw samples in, logits out."""
    moments = data.task.moments(data.statistics)
    front = data.task.front(data.statistics, data.facts)
    return deploy(network, folding, data.signature.file_inputs, moments, layout, front)


def _new_writer(format: Format) -> Writer:
    """Return a writer of the format, whose packages are loaded now."""
    module, name = _WRITERS[format]
    writer: Writer = getattr(importlib.import_module(module), name)()
    return writer


def _architecture(student: Item, structure: str, network: nn.Module) -> str:
    """Return a name for an architecture: its item, structure, and tensors' names and sizes."""
    tensors = [[name, list(t.shape), str(t.dtype)] for name, t in network.state_dict().items()]
    item = {"student": student.model_dump(mode="json"), "structure": structure}
    return digest_of({**item, "tensors": tensors})
