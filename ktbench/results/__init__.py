"""The results folder: written atomically by one run at a time, read back as pandas frames."""

from ktbench.results.folder import Lock, ResultsFolder
from ktbench.results.frames import Results, load_results

__all__ = ["Lock", "Results", "ResultsFolder", "load_results"]
