"""Artifact × device → measurement: what a student costs where it is to run.

Every repeat is a fresh process on the device; the artifacts take turns, so that drift hits all
alike; load, first inference and steady state are three figures; every raw sample is kept.
"""

from ktbench.measure.accuracy import BoardAccuracy, evaluate
from ktbench.measure.budget import FULL, QUICK, Budget
from ktbench.measure.check import Check, check
from ktbench.measure.job import Job, distinct, job_of, measurement_id
from ktbench.measure.run import measure
from ktbench.measure.single import measure_file, measure_files

__all__ = [
    "FULL",
    "QUICK",
    "BoardAccuracy",
    "Budget",
    "Check",
    "Job",
    "check",
    "distinct",
    "evaluate",
    "job_of",
    "measure",
    "measure_file",
    "measure_files",
    "measurement_id",
]
