"""Look up students, methods and devices by name: the folders are the registry.

An item's file is imported when the item is asked for, and nothing is registered. An unknown name
raises `UnknownName`, which suggests the nearest ones. A user's own network or method is
named `path/to/file.py:Name` or `package.module:Name`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from ktbench.catalogue.user_items import code_digest, is_own, own_network, own_object, unseen
from ktbench.records import KtbenchError
from ktbench.system.files import content_digest

if TYPE_CHECKING:
    from ktbench.devices._contract import Profile
    from ktbench.records import Item
    from ktbench.students._contract import Student
    from ktbench.tasks._contract import Task
    from ktbench.transfer_methods._contract import TransferMethod


NETWORK = str | dict[str, dict[str, Any]]
"""Type of a setting that takes a network: its name, or {name: {setting: value}}."""


class UnknownName(KtbenchError):  # noqa: N818 - reads as what it says
    """An unknown name; `nearest` holds the closest known ones."""

    def __init__(self, kind: str, name: str, names: Iterable[str]) -> None:
        names = sorted(names)
        self.nearest = nearest(name, names)
        hint = f"did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        if name.endswith(".py"):
            hint = f"your own is named with what the file defines, {name}:Name"
        super().__init__(f"unknown {kind} {name!r}: {hint or 'known are ' + ', '.join(names)}")


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three names that look like `name`, nearest first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


@dataclass(frozen=True)
class SettingInfo:
    """A setting of a student or a method as its own file declares it."""

    kind: Any
    """Type of the setting; `Any` where its file does not say."""
    default: Any
    doc: str = ""
    """Description in its file."""


def _attribute_docs(owner: type) -> dict[str, str]:
    """Read the docstrings below a class's attributes, one line each."""
    import ast
    import textwrap

    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    docs = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for attribute, after in pairwise(body):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[attribute.target.id] = " ".join(str(after.value.value).split())
    return docs


def _type_hints(owner: Any) -> dict[str, Any]:
    try:
        return get_type_hints(owner, include_extras=True)
    except (NameError, TypeError):
        return {}


@cache
def _names(package: str) -> tuple[str, ...]:
    """List the public files of a package of items, without importing it."""
    spec = importlib.util.find_spec(f"ktbench.{package}")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = {p.stem for folder in folders for p in Path(folder).glob("[!_]*.py")}
    return tuple(sorted(files))


def _module(package: str, kind: str, name: str) -> ModuleType:
    if name not in _names(package):
        raise UnknownName(kind, name, _names(package))
    return importlib.import_module(f"ktbench.{package}.{name}")


# ---------------------------------------------------------------- students


@cache
def students() -> dict[str, str]:
    """Map every variant's name to the family (file) that builds it."""
    families: dict[str, str] = {}
    for family in _names("students"):
        for variant in importlib.import_module(f"ktbench.students.{family}").VARIANTS:
            if variant in families:
                other = families[variant]
                raise KtbenchError(
                    f"students/{family}.py: variant {variant!r} is already in {other}.py"
                )
            families[variant] = family
    return families


def student_settings(name: str, base: str = ".") -> dict[str, SettingInfo]:
    """Return the settings of a student; raises for an unknown name."""
    if is_own(name):
        from ktbench.students._own import wrap

        if not unseen(name):
            own_network(name, base)
        return _keyword_settings(wrap)
    return _keyword_settings(_module("students", "student", _family(name)).build)


def _keyword_settings(build: Callable[..., Any]) -> dict[str, SettingInfo]:
    """Return a builder's keyword parameters, without the sizes that the data gives."""
    kinds = _setting_kinds(build)
    return {
        name: SettingInfo(kinds.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is not parameter.empty
        and name not in _optional_sizes(build)
    }


def _optional_sizes(build: Callable[..., Any]) -> list[str]:
    """List the parameters for sizes that only some data gives."""
    from ktbench.students._contract import OptionalSize

    return [name for name, kind in _type_hints(build).items() if kind is OptionalSize]


def unread_sizes(name: str, essential: Iterable[str]) -> list[str]:
    """Return those of the sizes that a student's `build` cannot be told; none of a user's own."""
    if is_own(name):
        return []
    build = _module("students", "student", _family(name)).build
    return [size for size in essential if size not in inspect.signature(build).parameters]


def _setting_kinds(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of settings as a matrix gives them: names in place of what they name."""
    from ktbench.students._contract import FilePath, Pretrained

    networks = dict.fromkeys(_networks_of(build), NETWORK)
    kinds = _type_hints(build)
    folders = {n: FilePath | None for n, kind in kinds.items() if Pretrained in get_args(kind)}
    return {**kinds, **networks, **folders}


def sizes_of(name: str) -> tuple[str, ...]:
    """Return the sizes that a student's `build` asks of the data; none for a user's own network."""
    if is_own(name):
        return ()
    build = _module("students", "student", _family(name)).build
    return tuple(
        name
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    )


def _networks_of(build: Callable[..., Any]) -> list[str]:
    """List the parameters that take another network: a setting names it, and it is built first."""
    from ktbench.students._contract import Student

    return [
        name
        for name, kind in _type_hints(build).items()
        if name != "return" and (kind is Student or Student in get_args(kind))
    ]


def network_settings(name: str) -> list[str]:
    """Return the settings of a student that take another network; raises for an unknown name."""
    return [] if is_own(name) else _networks_of(_module("students", "student", _family(name)).build)


@cache
def teacher_setting(name: str) -> str | None:
    """Return the setting that names the teacher a student is made of, or None."""
    from ktbench.students._contract import TeacherName

    if is_own(name) or name not in students():
        return None
    settings = student_settings(name).items()
    return next((setting for setting, info in settings if info.kind is TeacherName), None)


def file_setting(settings: Mapping[str, SettingInfo], given: Mapping[str, Any]) -> str | None:
    """Return the setting that names a file or folder, where one is given."""
    of_files = (name for name in given if name in settings and _names_file(settings[name].kind))
    return next((name for name in of_files if given[name] is not None), None)


def _names_file(kind: Any) -> bool:
    from ktbench.students._contract import FilePath

    return kind is FilePath or FilePath in get_args(kind)


def student_code(name: str, settings: Mapping[str, Any], base: str) -> str | None:
    """Return what tells a student's code and files from others that a key can name (`Item.code`).

    Raises KtbenchError for a file that cannot be read.
    """
    if is_own(name):
        return code_digest(name, base)
    return _content(student_settings(name), settings, base)


def task_code(item: Item, base: str) -> str | None:
    """Return what tells the files of a task's settings from others; raises KtbenchError."""
    return _content(task_settings(item.name), item.settings, base)


def _content(
    declared: Mapping[str, SettingInfo], settings: Mapping[str, Any], base: str
) -> str | None:
    name = file_setting(declared, settings)
    if name is None:
        return None
    if not isinstance(settings[name], str):
        raise KtbenchError(f"{name} cannot be {settings[name]!r}, only a path")
    try:
        return f"{name}: {content_digest(Path(base, settings[name]))}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KtbenchError(f"{name}: {Path(base, settings[name])}: {reason}") from error


def from_blocks(name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the same network made of its teacher's blocks.

    None for a student that does not begin from random weights in place of a teacher's blocks.
    """
    from ktbench.students._contract import FirstWeights

    if teacher_setting(name) is None:
        return None
    kinds = student_settings(name)
    other = {k: v for k, v in settings.items() if kinds[k].kind != FirstWeights or v != "random"}
    return other if len(other) < len(settings) else None


def _family(name: str) -> str:
    if name not in students():
        raise UnknownName("student", name, students())
    return students()[name]


def build_student(name: str, settings: dict[str, Any], *, base: str = ".", **sizes: int) -> Student:
    """Build a freshly initialised network; weights come from torch's global generator.

    `sizes` are those that the data gives (`Signature.dimensions`). A user's own file is looked up
    from the folder `base`. Raises `UnknownName` for an unknown name or setting, `KtbenchError` for
    settings that build no network and for a network of another task.
    """
    declared = student_settings(name, base)
    for setting in settings:
        if setting not in declared:
            raise UnknownName(f"setting of student {name}", setting, declared)
    if reason := _misfit(name, sizes):
        raise KtbenchError(reason)
    try:
        return _built_student(name, settings, sizes, base)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # below it, torch prints its own call stack
        raise KtbenchError(f"student {name}: {reason}") from error


def _misfit(name: str, sizes: Mapping[str, int]) -> str | None:
    """Say why a student cannot be built for data that gives these sizes, or None."""
    asked = sizes_of(name)
    if set(asked) <= set(sizes):
        return None
    return (
        f"student {name} is for another task: it is built from {', '.join(asked)}, and this data "
        f"gives {', '.join(sizes)}"
    )


def _built_student(
    name: str, settings: dict[str, Any], sizes: Mapping[str, int], base: str
) -> Student:
    if is_own(name):
        from ktbench.students._own import wrap
        from ktbench.students._packages import package_of

        builder = own_network(name, base)
        implied = {"stages": "auto"} if package_of(name) is not None else {}
        return wrap(builder, **(implied | settings | dict(sizes)))
    module = _module("students", "student", _family(name))
    arguments = dict(settings)
    optional = [size for size in _optional_sizes(module.build) if size in sizes]
    asked = {size: sizes[size] for size in (*sizes_of(name), *optional)}
    for setting in settings.keys() & set(_networks_of(module.build)):
        inner, inner_settings = named(settings[setting])
        arguments[setting] = build_student(inner, inner_settings, **sizes, base=base)
    if files := file_setting(student_settings(name), settings):
        from ktbench.catalogue.pretrained import read_pretrained

        arguments[files] = read_pretrained(Path(base, settings[files]))
    student: Student = module.build(name, **asked, **arguments)
    return student


def named(entry: str | dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Split `name` or `{name: {setting: value}}` into name and settings."""
    if isinstance(entry, str):
        return entry, {}
    [(name, settings)] = entry.items()
    return name, settings


# ---------------------------------------------------------------- replacements of blocks


def replacements() -> dict[str, dict[str, SettingInfo]]:
    """Return the replacements of blocks, each with its settings."""
    from ktbench.students import _replacements

    return {
        name: {
            setting: SettingInfo(parameter.annotation, parameter.default)
            for setting, parameter in _replacements.settings(name).items()
        }
        for name in _replacements.names()
    }


# ---------------------------------------------------------------- methods


def methods() -> tuple[str, ...]:
    """Return the names of all transfer methods."""
    return _names("transfer_methods")


def method(name: str, base: str = ".") -> type[TransferMethod]:
    """Return a method's class; its `Config` is the dataclass of its settings."""
    kind: type[TransferMethod]
    if not is_own(name):
        kind = _module("transfer_methods", "method", name).Method
    elif reason := _method_objection(kind := own_object(name, base)):
        raise KtbenchError(f"{name}: not a transfer method: {reason}")
    return kind


def _method_objection(kind: Any) -> str | None:
    """Say what a user's class lacks to be a method, or None."""
    from ktbench.transfer_methods._contract import TransferMethod

    if not is_dataclass(getattr(kind, "Config", None)):
        return "it has no dataclass Config"
    if not (isinstance(kind, type) and issubclass(kind, TransferMethod)):
        return "it is no class that derives from ktbench.transfer_methods.TransferMethod"
    if kind.loss is TransferMethod.loss:
        return "it defines no loss(self, student, teacher, batch)"
    needs = getattr(kind.needs, "__func__", None)  # of a class method, and of nothing else
    if needs in (None, getattr(TransferMethod.needs, "__func__", None)):
        return "it defines no class method needs(cls, config)"
    return None


def method_settings(name: str, base: str = ".") -> dict[str, SettingInfo]:
    """Return the settings of a method; raises for an unknown name."""
    return _settings_of(method(name, base).Config)


def _settings_of(config: type[Any]) -> dict[str, SettingInfo]:
    """Return the fields of a dataclass of settings, with the descriptions below them."""
    kinds = _type_hints(config)
    docs = {k: v for base in reversed(config.__mro__) for k, v in _attribute_docs(base).items()}
    settings = {}
    for field in fields(config):
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        kind, doc = kinds.get(field.name, Any), docs.get(field.name, "")
        settings[field.name] = SettingInfo(kind, default, doc)
    return settings


def method_config(name: str, settings: dict[str, Any], base: str = ".") -> Any:
    """Build a method's frozen settings; lists become tuples, so that they can be hashed."""
    kind = method(name, base).Config
    declared = [f.name for f in fields(kind)]
    for setting in settings:
        if setting not in declared:
            raise UnknownName(f"setting of method {name}", setting, declared)
    try:
        return kind(**{k: frozen(v) for k, v in settings.items()})
    except Exception as error:  # a user's own dataclass may check in any way
        if not isinstance(error, TypeError | ValueError) and not is_own(name):
            raise
        raise KtbenchError(f"method {name}: {' '.join(str(error).split())}") from error


def method_code(name: str, settings: dict[str, Any], base: str = ".") -> str | None:
    """Return what tells a method's present code from others that a key can name.

    The digest of a user's own file; of the catalogue's the revision of what the settings mean,
    None for the first.
    """
    if is_own(name):
        return code_digest(name, base)
    revision = method(name).revision(method_config(name, settings))
    return f"revision {revision}" if revision else None


def frozen(value: Any) -> Any:
    """Turn lists into tuples, at any depth."""
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


# ---------------------------------------------------------------- tasks


def tasks() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return _names("tasks")


def task_settings(name: str) -> dict[str, SettingInfo]:
    """Return the settings of a task; raises for an unknown name."""
    return _settings_of(_module("tasks", "task", name).Config)


def task(item: Item) -> Task:
    """Return a task with its settings; raises KtbenchError for what is not known."""
    module = _module("tasks", "task", item.name)
    declared = [f.name for f in fields(module.Config)]
    for setting in item.settings:
        if setting not in declared:
            raise UnknownName(f"setting of task {item.name}", setting, declared)
    try:
        config = module.Config(**{k: frozen(v) for k, v in item.settings.items()})
    except (TypeError, ValueError) as error:
        raise KtbenchError(f"task {item.name}: {' '.join(str(error).split())}") from error
    kinds = task_settings(item.name)
    for name, value in item.settings.items():
        if not _is_of(kinds[name].kind, frozen(value)):
            told = f"{name} cannot be {value!r}, only {_in_words(kinds[name].kind)}"
            raise KtbenchError(f"task {item.name}: {told}")
    learning: Task = module.Learning(config)
    return learning


def _is_of(kind: Any, value: Any) -> bool:
    """Return True for a value of a type as a file declares it: whole numbers are numbers, too."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    except PydanticUserError:  # a type of which pydantic knows nothing
        pass
    return True


_WORDS: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    type(None): "null",
}  # fmt: skip


def _in_words(kind: Any) -> str:
    """Name a type as a matrix's author knows it."""
    kinds = get_args(kind) or (kind,)
    return " or ".join(_WORDS.get(getattr(k, "__supertype__", k), str(k)) for k in kinds)


# ---------------------------------------------------------------- devices


def devices() -> tuple[str, ...]:
    """Return the names of all device profiles."""
    return _names("devices")


def device(name: str) -> Profile:
    """Return a device's profile."""
    profile: Profile = _module("devices", "device", name).PROFILE
    return profile
