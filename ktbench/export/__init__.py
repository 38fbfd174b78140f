"""Exports of trained students to ONNX and TFLite files, checked against torch before they count."""

from ktbench.export.exporter import Exporter, export_student, graph_key, onnx_model
from ktbench.export.parity import LAYOUTS, in_pieces, raw_samples

__all__ = [
    "LAYOUTS",
    "Exporter",
    "export_student",
    "graph_key",
    "in_pieces",
    "onnx_model",
    "raw_samples",
]
