"""The results folder: written atomically by one run at a time, read back as pandas frames."""

from ktbench.results.folder import ResultsFolder
from ktbench.results.frames import Results
from ktbench.results.loading import load_results
from ktbench.results.lock import Lock, many_objects
from ktbench.results.problems import Problem
from ktbench.results.storage import DamagedError

__all__ = [
    "DamagedError",
    "Lock",
    "Problem",
    "Results",
    "ResultsFolder",
    "load_results",
    "many_objects",
]
