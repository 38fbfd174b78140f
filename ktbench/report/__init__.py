"""The report of a results folder: it reads, and never trains or measures."""

from ktbench.report.writing import write_report

__all__ = ["write_report"]
