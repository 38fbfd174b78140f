"""The matrix file: read, checked, and expanded into a plan of cells."""

from ktbench.matrix.file_problems import MatrixError
from ktbench.matrix.matrix_file import MatrixText, load, loads
from ktbench.matrix.models import Matrix
from ktbench.matrix.planning import plan
from ktbench.matrix.schema import json_schema
from ktbench.matrix.starter import starter, starter_for

__all__ = [
    "Matrix",
    "MatrixError",
    "MatrixText",
    "json_schema",
    "load",
    "loads",
    "plan",
    "starter",
    "starter_for",
]
