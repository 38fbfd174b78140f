"""Results as Python code uses them: frames, the verdict, the best file, the report."""

from __future__ import annotations

from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktbench import results

if TYPE_CHECKING:
    from ktbench.results.choice import Choice


@dataclass(frozen=True, repr=False)
class Results(results.Results):
    """Results of a matrix, as pandas frames and as answers.

    Frames are made when they are first asked for; in them more is always better (a metric of which
    less is better is negated). The display in a notebook is a row per student and technique.
    """

    def verdict(self) -> list[str]:
        """Return the report's headline sentences, without its markup."""
        from ktbench.report.analysis import Analysis
        from ktbench.report.scores import of
        from ktbench.report.verdict import sentences

        analysis = Analysis(self)
        with of(self.metric):
            return [sentence.replace("**", "") for sentence in sentences(analysis)]

    def best(
        self,
        *,
        device: str | None = None,
        p90: str | float | None = None,
        size: str | int | None = None,
        accuracy: str | float | None = None,
        out: Path | str | None = None,
    ) -> Answer:
        """Return the file to take within limits, and how sure that choice is.

        `device`: the device whose latencies count, where several measured; `p90`: `"8ms"` or
        milliseconds; `size`: `"500kB"` or bytes; `accuracy`: percent, or another metric's figure.
        `out`: a new folder to which the file, its sidecar, its weights and `run.py` are copied.
        Raises KtbenchError where nothing meets the limits, with the nearest miss.
        """
        from ktbench.results import choice

        limits = choice.limits_of(self.metric, p90, size, accuracy)
        answer = Answer(choice.best(self, limits, device))
        if out is not None:
            # It needs torch, and no other answer does.
            from ktbench.results.choice.taking import take_away

            answer = Answer(answer.choice, tuple(take_away(self, answer.choice, Path(out))))
        return answer

    def report(self, output: Path | str | None = None) -> Path:
        """Write the report and return its page.

        By default into `report/` of the results folder, or `NAME-report/` beside a packed one.
        """
        from ktbench.report import write_report

        return write_report(self.source, None if output is None else Path(output))

    def _repr_html_(self) -> str:
        """Return the small table for a notebook."""
        table = self.summary.to_html(index=False, border=0, max_rows=40, na_rep="–")
        return f"<p>{escape(self.headline)}</p>{table}"


@dataclass(frozen=True, repr=False)
class Answer:
    """The file to take within limits; printed, it says why and how sure that is."""

    choice: Choice
    files: tuple[Path, ...] = ()
    """Files that were copied out, where a folder was named."""

    @property
    def file(self) -> str:
        """The chosen file, relative to the results folder."""
        return self.choice.file.candidate.path

    @property
    def student(self) -> str:
        """Its student."""
        return self.choice.file.candidate.contender.student

    @property
    def technique(self) -> str:
        """The technique that trained it."""
        return self.choice.file.candidate.contender.technique

    def as_json(self) -> dict[str, Any]:
        """Return the whole answer as plain values, as `ktbench best --json` prints it."""
        from ktbench.results.choice.words import as_json

        return as_json(self.choice)

    def __repr__(self) -> str:
        """Return the answer in lines."""
        from ktbench.results.choice.words import lines

        return "\n".join(lines(self.choice))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def load_results(path: Path | str) -> Results:
    """Read a results folder, or a packed one (`FILE.ktb`), finished or not.

    Raises KtbenchError where it is neither, or damaged as a whole; what is damaged in parts is left
    out (`Results.problems`).
    """
    base = results.load_results(path)
    return Results(**{field.name: getattr(base, field.name) for field in fields(base)})
