"""The results folder: written atomically by one run at a time, read back as pandas frames."""

from ktbench.results.folder import ResultsFolder
from ktbench.results.frames import Results
from ktbench.results.loading import load_results
from ktbench.results.lock import Lock, many_objects
from ktbench.results.packing import pack
from ktbench.results.problems import Problem
from ktbench.results.storage import DamagedError
from ktbench.results.verification import verify

__all__ = [
    "DamagedError",
    "Lock",
    "Problem",
    "Results",
    "ResultsFolder",
    "load_results",
    "many_objects",
    "pack",
    "verify",
]
