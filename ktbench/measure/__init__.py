"""Artifact × device → measurement: what a student costs where it is to run.

Every repeat is a fresh process on the device; the artifacts take turns, so that drift hits all
alike; load, first inference and steady state are three figures; every raw sample is kept.
"""

from ktbench.measure.accuracy import BoardAccuracy, Judge, evaluate
from ktbench.measure.check import Check, check
from ktbench.measure.job import Job, distinct, job_of, measurement_id
from ktbench.measure.model_files import measure_file, measure_files
from ktbench.measure.repeats import measure
from ktbench.measure.time_budget import FULL, QUICK, Budget

__all__ = [
    "FULL",
    "QUICK",
    "BoardAccuracy",
    "Budget",
    "Check",
    "Job",
    "Judge",
    "check",
    "distinct",
    "evaluate",
    "job_of",
    "measure",
    "measure_file",
    "measure_files",
    "measurement_id",
]
