"""Trained students to artifacts: ONNX and TFLite files, checked against torch before they count."""

from ktbench.export.exporter import (
    Exporter,
    export_student,
    graph_key,
    impossible,
    missing_packages,
)

__all__ = ["Exporter", "export_student", "graph_key", "impossible", "missing_packages"]
