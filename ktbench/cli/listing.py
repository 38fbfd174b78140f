"""`ktbench list`: what the catalogue holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated

import typer

from ktbench.cli.options import AsJson

Rows = list[dict[str, str]]
DATASETS = {
    "digits": "1,797 handwritten digits of 8×8 pixels; ships with scikit-learn",
    "hub": "a data set of the Hugging Face hub, by name",
    "parquet": "local tables of images or texts (train*.parquet, test*.parquet, CSV, TSV, JSONL)",
    "folder": "a folder of images, one sub-folder per class, optionally in folders per split",
}


def list_items(
    kind: Annotated[
        str, typer.Argument(metavar="students|methods|devices|datasets", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """List the names that a matrix can use, with their settings."""
    from ktbench import catalogue
    from ktbench.cli.output import print_table

    if kind not in LISTINGS:
        raise catalogue.UnknownName("kind", kind, tuple(LISTINGS))
    rows = LISTINGS[kind]()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = list(rows[0])
    print_table(kind, columns, [[row[c] for c in columns] for row in rows])


def _students() -> Rows:
    from ktbench import catalogue

    families: dict[str, list[str]] = {}
    for variant, family in catalogue.students().items():
        families.setdefault(family, []).append(variant)
    return [
        {
            "family": family,
            "students": ", ".join(variants),
            "settings": ", ".join(catalogue.student_settings(variants[0])),
        }
        for family, variants in families.items()
    ]


def _replacements() -> Rows:
    from ktbench import catalogue

    rows = []
    for name, settings in catalogue.replacements().items():
        about = _summary(f"ktbench.students.replacements.{name}")
        defaults = ", ".join(f"{setting}={info.default:g}" for setting, info in settings.items())
        rows.append({"replacement": name, "about": about, "settings": defaults})
    return rows


def _methods() -> Rows:
    from ktbench import catalogue

    rows = []
    for name in catalogue.methods():
        kind = catalogue.method(name)
        settings = []
        for field in fields(kind.Config):
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            value = f"{default:g}" if isinstance(default, float) else str(default)
            settings.append(f"{field.name}={value}" if default is not MISSING else field.name)
        about = _summary(kind.__module__)
        rows.append({"method": name, "about": about, "settings": ", ".join(settings)})
    return rows


def _devices() -> Rows:
    from ktbench import catalogue

    rows = []
    for name in catalogue.devices():
        profile = catalogue.device(name)
        machines = ", ".join(profile.architectures) or "any"
        rows.append(
            {"device": name, "about": profile.title, "over": profile.transport, "machine": machines}
        )
    return rows


def _datasets() -> Rows:
    return [{"name": name, "about": about} for name, about in DATASETS.items()]


def _summary(module: str) -> str:
    """Return the first line of a loaded module's docstring."""
    return (sys.modules[module].__doc__ or "").partition("\n")[0].rstrip(".")


LISTINGS: dict[str, Callable[[], Rows]] = {
    "students": _students,
    "replacements": _replacements,
    "methods": _methods,
    "devices": _devices,
    "datasets": _datasets,
}
