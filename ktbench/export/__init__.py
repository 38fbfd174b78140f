"""Exports of trained students to ONNX and TFLite files, checked against torch before they count."""

from ktbench.export.exporter import Exporter, export_student, graph_key, onnx_model

__all__ = ["Exporter", "export_student", "graph_key", "onnx_model"]
