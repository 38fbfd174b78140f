"""The frozen record types that the stages hand to each other.

A leaf: nothing else of ktbench is imported here. Each record is a value; a stage takes the previous
record and returns the next. What lands in a results folder is one of these as JSON.

Schema history (`SCHEMA`):
    1  first version
"""

from ktbench.records.asked import (
    BASELINE,
    Augmentation,
    Cell,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    Format,
    Item,
    Kept,
    NumericSpec,
    Plan,
    Precision,
    Skip,
    SourceSpec,
    Teacher,
    TeacherOutputs,
    TrainSpec,
)
from ktbench.records.base import (
    SCHEMA,
    Composed,
    KtbenchError,
    Record,
    StorageError,
    canonical_json,
    digest_of,
)
from ktbench.records.came import (
    Accuracies,
    Artifact,
    Checkpoint,
    Cost,
    Failure,
    Measurement,
    Origin,
    Provenance,
    Result,
    Stage,
    Statistic,
    Tolerance,
    Validity,
)

__all__ = [
    "BASELINE",
    "SCHEMA",
    "Accuracies",
    "Artifact",
    "Augmentation",
    "Cell",
    "Checkpoint",
    "Composed",
    "Cost",
    "DataSpec",
    "DeviceSpec",
    "ExportSpec",
    "Failure",
    "Format",
    "Item",
    "Kept",
    "KtbenchError",
    "Measurement",
    "NumericSpec",
    "Origin",
    "Plan",
    "Precision",
    "Provenance",
    "Record",
    "Result",
    "Skip",
    "SourceSpec",
    "Stage",
    "Statistic",
    "StorageError",
    "Teacher",
    "TeacherOutputs",
    "Tolerance",
    "TrainSpec",
    "Validity",
    "canonical_json",
    "digest_of",
]
