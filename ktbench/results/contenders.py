"""Contenders: each cell as a technique among those with the same student and training."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ktbench.records import BASELINE
from ktbench.results.setting_names import settings_text

NO_TRANSFER = "no transfer"
"""Name of the technique that has no teacher."""

_TEACHING = ("outputs.", "distill.")
"""Beginnings of settings that belong to a technique, not to the training that others share."""


def contenders(cells: pd.DataFrame, differences: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """One row per cell, with what it contends in and as.

    cells, differences: `Results.cells` and `Results.differences`. `training` is what this training
    does differently from most, empty for most; a method with a training that no transfer does not
    have contends in the usual one, with its settings in its name. `method`, `teacher` and `budget`
    are those of `cells`.
    """
    frame = cells[["key", "student", "method", "teacher", "budget", "seed"]].copy()
    frame["epochs"] = cells["budget_epochs"]
    frame["accuracy"] = _counted(cells, "accuracy")
    frame["validation"] = _counted(cells, "validation")
    frame["failed"] = cells["accuracy"].isna() & frame["accuracy"].notna()
    frame["is_baseline"] = frame["method"] == BASELINE.label
    odd = [differences[key] for key in frame["key"]]
    if frame.loc[frame["is_baseline"], "epochs"].nunique() > 1:
        each = zip(odd, frame["epochs"], strict=True)
        odd = [{"epochs": str(epochs), **settings} for settings, epochs in each]
    own = [settings_text(_shared(settings)) for settings in odd]
    bases = frame.assign(training=own)[frame["is_baseline"]]
    has_base = set(zip(bases["student"], bases["training"], strict=True))
    usual = bases.sort_values("training", kind="stable").drop_duplicates("student")
    fallback = dict(zip(usual["student"], usual["training"], strict=True))
    is_own = [pair in has_base for pair in zip(frame["student"], own, strict=True)]
    frame["training"] = [
        training if alone else fallback.get(student, training)
        for student, training, alone in zip(frame["student"], own, is_own, strict=True)
    ]
    several = frame.loc[frame["teacher"] != "", "teacher"].nunique() > 1
    names = zip(frame["method"], frame["teacher"], frame["training"], odd, strict=True)
    frame["technique"] = [_name(m, t if several else "", tr, o) for m, t, tr, o in names]
    return frame


def _counted(cells: pd.DataFrame, name: str) -> pd.Series[float]:
    """Accuracy that counts for each cell, or NaN: the place where failed cells get a figure."""
    by_intention = f"{name}_itt"
    return cells[by_intention if by_intention in cells else name]


def _shared(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: v for name, v in settings.items() if not name.startswith(_TEACHING)}


def _name(method: str, teacher: str, training: str, settings: Mapping[str, str]) -> str:
    """The method with the settings that its rivals do not share, and its teacher."""
    own = settings
    if settings_text(_shared(settings)) == training:
        own = {n: v for n, v in settings.items() if n.startswith(_TEACHING)}
    name = NO_TRANSFER if method == BASELINE.label else method
    return name + (f" [{settings_text(own)}]" if own else "") + (f" ← {teacher}" if teacher else "")
