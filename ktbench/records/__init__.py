"""The frozen record types that the stages hand to each other.

A leaf: nothing else of ktbench is imported here. Each record is a value; a stage takes the previous
record and returns the next. What lands in a results folder is one of these as JSON.

Schema history (`SCHEMA`):
    1  first version
    2  files of a results folder carry a seal (their own digest) and the digests of the files that
       belong to them; what version 1 wrote is read as it is, unsealed
"""

from ktbench.records.asked import (
    BASELINE,
    Augmentation,
    BlockTrain,
    Cell,
    DataSpec,
    Ensemble,
    Item,
    NumericSpec,
    Plan,
    Skip,
    Start,
    Teacher,
    TeacherOutputs,
    TrainSpec,
    Window,
)
from ktbench.records.base import (
    SCHEMA,
    Composed,
    KtbenchError,
    Record,
    StorageError,
    canonical_json,
    digest_of,
    one_line,
)
from ktbench.records.came import (
    Accuracies,
    ArithmeticVerdict,
    Artifact,
    Assembly,
    BlockResult,
    Checkpoint,
    Cost,
    Failure,
    LayoutName,
    LayoutUsed,
    Provenance,
    Result,
    Stage,
    Tolerance,
    Try,
)
from ktbench.records.measured import Measurement, Origin, Statistic, Validity
from ktbench.records.sought import (
    BlockOption,
    BlockSearch,
    Price,
    SoughtBlock,
    SoughtNetwork,
)
from ktbench.records.text import Name, printable
from ktbench.records.unkeyed import (
    BlockRun,
    DeviceSpec,
    ExportSpec,
    Format,
    Kept,
    Limits,
    Precision,
    SourceSpec,
)

__all__ = [
    "BASELINE",
    "SCHEMA",
    "Accuracies",
    "ArithmeticVerdict",
    "Artifact",
    "Assembly",
    "Augmentation",
    "BlockOption",
    "BlockResult",
    "BlockRun",
    "BlockSearch",
    "BlockTrain",
    "Cell",
    "Checkpoint",
    "Composed",
    "Cost",
    "DataSpec",
    "DeviceSpec",
    "Ensemble",
    "ExportSpec",
    "Failure",
    "Format",
    "Item",
    "Kept",
    "KtbenchError",
    "LayoutName",
    "LayoutUsed",
    "Limits",
    "Measurement",
    "Name",
    "NumericSpec",
    "Origin",
    "Plan",
    "Precision",
    "Price",
    "Provenance",
    "Record",
    "Result",
    "Skip",
    "SoughtBlock",
    "SoughtNetwork",
    "SourceSpec",
    "Stage",
    "Start",
    "Statistic",
    "StorageError",
    "Teacher",
    "TeacherOutputs",
    "Tolerance",
    "TrainSpec",
    "Try",
    "Validity",
    "Window",
    "canonical_json",
    "digest_of",
    "one_line",
    "printable",
]
