"""The matrix file: read, checked, and worked out into a plan of cells."""

from ktbench.matrix.document import MatrixError
from ktbench.matrix.loading import load, loads
from ktbench.matrix.models import Matrix
from ktbench.matrix.planning import plan
from ktbench.matrix.schema import json_schema
from ktbench.matrix.starter import starter

__all__ = ["Matrix", "MatrixError", "json_schema", "load", "loads", "plan", "starter"]
