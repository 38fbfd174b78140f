"""JSON Schema of a matrix file, for editors: every key, name and setting."""

from __future__ import annotations

from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from ktbench import catalogue
from ktbench.catalogue import SettingInfo
from ktbench.matrix.models import (
    ExportGrid,
    FileStart,
    Include,
    Matrix,
    Rule,
    TeacherEntry,
    TeacherSection,
    WindowGrid,
)
from ktbench.matrix.preprocess_entry import PreprocessEntry
from ktbench.records import DeviceSpec, TrainSpec
from ktbench.records.run_options import MOST_SEEDS

Schema = dict[str, Any]
_OWN = ":"


def json_schema() -> Schema:
    """Return the schema (draft 2020-12) that a matrix file, read as YAML 1.2, satisfies."""
    schema: Schema = Matrix.model_json_schema()
    definitions = schema["$defs"]
    sections: dict[str, Schema] = {"": schema}
    for model in (
        *(TeacherEntry, TeacherSection, PreprocessEntry, FileStart),
        *(ExportGrid, Include, Rule, WindowGrid),
    ):
        sections[model.__name__] = definitions[model.__name__]
    for section in sections.values():
        for key, value in section["properties"].items():
            section["properties"][key] = _short_forms(value)
    del definitions["ItemEntry"]
    students = {name: catalogue.student_settings(name) for name in catalogue.students()}
    methods = {name: catalogue.method_settings(name) for name in catalogue.methods()}
    for kind, items in (("student", students), ("method", methods)):
        definitions[kind] = _entry({name: _settings(infos) for name, infos in items.items()})
    device = _device_settings()
    tasks = {name: catalogue.task_settings(name) for name in catalogue.tasks()}
    one_value = {name: _settings(infos, tried=False) for name, infos in tasks.items()}
    definitions["task"] = _entry(one_value, users_own=False)
    task = definitions["DataSpec"]["properties"]["task"]
    described = {key: task[key] for key in ("description",) if key in task}
    definitions["DataSpec"]["properties"]["task"] = {**described, "$ref": "#/$defs/task"}
    definitions["device"] = _entry(dict.fromkeys(catalogue.devices(), device), users_own=False)
    definitions["changes"] = _changes()
    definitions["teacher_changes"] = _tried(_changes())
    _name_entries(sections)
    teacher = sections["TeacherEntry"]
    teacher["oneOf"] = [{"required": ["student"]}, {"required": ["sample", "of"]}]
    pattern = {"type": "string", "description": "A teacher's name, or a pattern of names"}
    for place, more in ((schema, []), (teacher, [pattern])):
        key = "teachers" if place is schema else "of"
        forms = place["properties"][key]["anyOf"]
        forms[0] = {"anyOf": [forms[0], {"$ref": "#/$defs/student"}, *more]}
        forms[1]["items"] = forms[0]
    _counts(schema["properties"])
    batch = sections["ExportGrid"]["properties"]["batch"]
    batch["anyOf"].append({"const": 1})
    batch["anyOf"][1]["items"] = {"enum": ["1", 1, "dynamic"]}
    teacher["properties"]["train_size"]["anyOf"].append({"const": "all"})
    _preprocessing(teacher, sections["PreprocessEntry"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "ktbench matrix",
    }


def _preprocessing(teacher: Schema, entry: Schema) -> None:
    """Let a preset's name stand for a preprocessing, which is for a file of weights."""
    presets = entry["properties"]["preset"]["anyOf"][0]
    teacher["properties"]["preprocess"]["anyOf"].append(dict(presets))
    entry["minProperties"] = 1
    teacher["dependentRequired"] = {key: ["checkpoint"] for key in ("preprocess", "expect")}


def _short_forms(value: Schema) -> Schema:
    """Let a list be written as its one member."""
    if "oneOf" in value:  # a list, or something else
        first, *rest = value.pop("oneOf")
        value = _short_forms({**first, **value})
        value["anyOf"] += rest
        return value
    if value.get("type") != "array":
        return value
    header: Schema = {k: value.pop(k) for k in ("description", "default", "title") if k in value}
    return {**header, "anyOf": [value["items"], value]}


def _counts(properties: dict[str, Schema]) -> None:
    """Require members of some lists, and allow seeds as a count."""
    for key in ("students", "seeds"):
        properties[key]["anyOf"][1]["minItems"] = 1
    properties["seeds"]["anyOf"][0] = {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_SEEDS,
        "description": "How many seeds, from 0.",
    }


def _name_entries(sections: dict[str, Schema]) -> None:
    """Point the places of students, methods, devices and changes at their definitions."""
    for section, keys in {
        "": {"students": "student", "methods": "method", "devices": "device"},
        "TeacherEntry": {"student": "student", "method": "method", "train": "teacher_changes"},
        "Include": {"student": "student", "method": "method", "train": "changes"},
    }.items():
        for key, definition in keys.items():
            value = sections[section]["properties"][key]
            reference: Schema = {"$ref": f"#/$defs/{definition}"}
            if section == "Include" and definition != "changes":
                # A pattern may stand for an item.
                reference = {"anyOf": [reference, {"type": "string"}]}
            if "anyOf" in value:
                value["anyOf"][0] = reference
                value["anyOf"][1]["items"] = reference
            else:
                described = {k: v for k, v in value.items() if k == "description"}
                sections[section]["properties"][key] = {**described, **reference}


def _entry(settings: dict[str, Schema], *, users_own: bool = True) -> Schema:
    """Schema of an entry: a name, or a name with its settings."""
    names: Schema = {"enum": sorted(settings)}
    with_settings: Schema = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {
            name: {"anyOf": [schema, {"type": "null"}]} for name, schema in settings.items()
        },
    }
    forms = [names, with_settings]
    if users_own:
        with_settings["patternProperties"] = {_OWN: {"type": ["object", "null"]}}
        text = "A user's own: path/to/file.py:Name or package.module:Name"
        forms.append({"type": "string", "pattern": _OWN, "description": text})
    return {"anyOf": forms}


def _settings(infos: dict[str, SettingInfo], *, tried: bool = True) -> Schema:
    """Schema of settings; those that are `tried` may have a list of values each."""
    properties = {}
    for name, info in infos.items():
        one = _kind(info)
        forms = [one, {"type": "array", "items": one, "minItems": 1}] if tried else [one]
        properties[name] = {"anyOf": forms, "default": _plain(info.default)}
        if info.doc:
            properties[name]["description"] = info.doc
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _kind(info: SettingInfo) -> Schema:
    try:
        return TypeAdapter(info.kind).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return {}


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json", fallback=repr)


def _device_settings() -> Schema:
    """Keys of a device, all optional: the profile is the entry's name."""
    schema: Schema = DeviceSpec.model_json_schema()
    schema.pop("required")
    schema["properties"].pop("profile")
    schema["properties"]["threads"] = _short_forms(schema["properties"]["threads"])
    return schema


def _tried(changes: Schema) -> Schema:
    """Let each setting take a list of values to try."""
    for key, value in changes["properties"].items():
        header = {k: value.pop(k) for k in ("description", "default", "title") if k in value}
        several = {"type": "array", "items": dict(value), "minItems": 1}
        changes["properties"][key] = {**header, "anyOf": [dict(value), several]}
    return changes


def _changes() -> Schema:
    """Training settings, all of them optional."""
    schema: Schema = TrainSpec.model_json_schema()
    schema.pop("required")
    schema["description"] = "What a training does differently from `train`."
    return schema
