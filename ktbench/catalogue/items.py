"""Finds students, methods and devices: the folders are the catalogue.

An item's file is imported when the item is asked for, and nothing is registered. A name that is
not there raises `UnknownName`, which says the nearest ones. A user's own network or method is
named `path/to/file.py:Name` or `package.module:Name`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ktbench.catalogue.user_items import is_own, own_network, own_object, unseen
from ktbench.records import KtbenchError

if TYPE_CHECKING:
    from ktbench.devices._contract import Profile
    from ktbench.students._contract import Student
    from ktbench.transfer_methods._contract import TransferMethod


NETWORK = str | dict[str, dict[str, Any]]
"""The type of a setting that takes a network: its name, or {name: {setting: value}}."""


class UnknownName(KtbenchError):  # noqa: N818 - reads as what it says
    """No item of that name; `nearest` holds the closest names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        self.nearest = nearest(name, known)
        hint = f"did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        if name.endswith(".py"):
            hint = f"your own is named with what the file defines, {name}:Name"
        super().__init__(f"unknown {kind} {name!r}: {hint or 'known are ' + ', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look like `name`, nearest first."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)


@dataclass(frozen=True)
class SettingInfo:
    """A setting of a student or a method as its own file declares it."""

    kind: Any
    """Its type; `Any` where its file does not say."""
    default: Any
    doc: str = ""
    """What its file says of it."""


def _attribute_docs(owner: type) -> dict[str, str]:
    """The docstrings below a class's attributes, one line each."""
    import ast
    import textwrap

    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for attribute, after in pairwise(body):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[attribute.target.id] = " ".join(str(after.value.value).split())
    return found


def _type_hints(owner: Any) -> dict[str, Any]:
    try:
        return get_type_hints(owner, include_extras=True)
    except (NameError, TypeError):
        return {}


@cache
def _names(package: str) -> tuple[str, ...]:
    """The public files of a package of items, without importing it."""
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
    """Every variant's name with the family (file) that builds it."""
    found: dict[str, str] = {}
    for family in _names("students"):
        for variant in importlib.import_module(f"ktbench.students.{family}").VARIANTS:
            if variant in found:
                raise KtbenchError(
                    f"students/{family}.py: variant {variant!r} is already in {found[variant]}.py"
                )
            found[variant] = family
    return found


def student_settings(name: str, base: str = ".") -> dict[str, SettingInfo]:
    """The settings that a student takes; raises for an unknown name."""
    if is_own(name):
        from ktbench.students._own import wrap

        if not unseen(name):
            own_network(name, base)
        return _keyword_settings(wrap)
    return _keyword_settings(_module("students", "student", _family(name)).build)


def _keyword_settings(build: Callable[..., Any]) -> dict[str, SettingInfo]:
    """A builder's keyword parameters other than what the data decides."""
    kinds = _type_hints(build)
    networks = _networks_of(build)
    return {
        name: SettingInfo(NETWORK if name in networks else kinds.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("num_classes", "in_channels")
    }


def _networks_of(build: Callable[..., Any]) -> list[str]:
    """The parameters that take another network: a setting names it, and it is built first."""
    from ktbench.students._contract import Student

    return [
        name
        for name, kind in _type_hints(build).items()
        if name != "return" and (kind is Student or Student in get_args(kind))
    ]


def network_settings(name: str) -> list[str]:
    """The settings of a student that take another network; raises for an unknown name."""
    return [] if is_own(name) else _networks_of(_module("students", "student", _family(name)).build)


@cache
def teacher_setting(name: str) -> str | None:
    """The setting of a student that names the teacher that it is made of; None where none does."""
    from ktbench.students._contract import TeacherName

    if is_own(name) or name not in students():
        return None
    settings = student_settings(name).items()
    return next((setting for setting, info in settings if info.kind is TeacherName), None)


def _family(name: str) -> str:
    if name not in students():
        raise UnknownName("student", name, students())
    return students()[name]


def build_student(
    name: str, settings: dict[str, Any], *, num_classes: int, in_channels: int, base: str = "."
) -> Student:
    """A freshly initialised network; weights come from torch's global generator.

    `base` is the folder that a user's own file is found from. Raises `UnknownName` for a name or
    setting that is not there, `KtbenchError` for settings that build no network.
    """
    known = student_settings(name, base)
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of student {name}", setting, known)
    try:
        return _built_student(name, settings, num_classes, in_channels, base)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # below it, torch tells its own call stack
        raise KtbenchError(f"student {name}: {reason}") from error


def _built_student(
    name: str, settings: dict[str, Any], num_classes: int, in_channels: int, base: str
) -> Student:
    if is_own(name):
        from ktbench.students._own import wrap

        builder = own_network(name, base)
        return wrap(builder, num_classes=num_classes, in_channels=in_channels, **settings)
    module = _module("students", "student", _family(name))
    built = dict(settings)
    for setting in settings.keys() & set(_networks_of(module.build)):
        inner, own = named(settings[setting])
        built[setting] = build_student(
            inner, own, num_classes=num_classes, in_channels=in_channels, base=base
        )
    student: Student = module.build(name, num_classes=num_classes, in_channels=in_channels, **built)
    return student


def named(entry: str | dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Name and settings of `name` or `{name: {setting: value}}`."""
    if isinstance(entry, str):
        return entry, {}
    [(name, settings)] = entry.items()
    return name, settings


# ---------------------------------------------------------------- replacements of blocks


def replacements() -> dict[str, dict[str, SettingInfo]]:
    """What can stand for a block of a network, with its settings."""
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
    """The names of all transfer methods."""
    return _names("transfer_methods")


def method(name: str, base: str = ".") -> type[TransferMethod]:
    """A method's class; its `Config` is the dataclass of its settings."""
    if is_own(name):
        own: type[TransferMethod] = own_object(name, base)
        if reason := _no_method(own):
            raise KtbenchError(f"{name}: not a transfer method: {reason}")
        return own
    module = _module("transfer_methods", "method", name)
    found: type[TransferMethod] = module.Method
    return found


def _no_method(own: Any) -> str | None:
    """What a user's class lacks of a method, or None."""
    from ktbench.transfer_methods._contract import TransferMethod

    if not is_dataclass(getattr(own, "Config", None)):
        return "it has no dataclass Config"
    if not (isinstance(own, type) and issubclass(own, TransferMethod)):
        return "it is no class that derives from ktbench.transfer_methods.TransferMethod"
    if own.loss is TransferMethod.loss:
        return "it defines no loss(self, student, teacher, batch)"
    needs = getattr(own.needs, "__func__", None)  # of a class method, and of nothing else
    if needs in (None, getattr(TransferMethod.needs, "__func__", None)):
        return "it defines no class method needs(cls, config)"
    return None


def method_settings(name: str, base: str = ".") -> dict[str, SettingInfo]:
    """The settings that a method takes; raises for an unknown name."""
    config = method(name, base).Config
    kinds = _type_hints(config)
    docs = {k: v for base in reversed(config.__mro__) for k, v in _attribute_docs(base).items()}
    found = {}
    for field in fields(config):
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        found[field.name] = SettingInfo(
            kinds.get(field.name, Any), default, docs.get(field.name, "")
        )
    return found


def method_config(name: str, settings: dict[str, Any], base: str = ".") -> Any:
    """The method's frozen settings; lists become tuples, so that it can be hashed."""
    kind = method(name, base).Config
    known = [f.name for f in fields(kind)]
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of method {name}", setting, known)
    try:
        return kind(**{k: frozen(v) for k, v in settings.items()})
    except Exception as error:  # a user's own dataclass may check in any way
        if not isinstance(error, TypeError | ValueError) and not is_own(name):
            raise
        raise KtbenchError(f"method {name}: {' '.join(str(error).split())}") from error


def frozen(value: Any) -> Any:
    """A value of a file as a setting holds it: lists become tuples."""
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


# ---------------------------------------------------------------- devices


def devices() -> tuple[str, ...]:
    """The names of all device profiles."""
    return _names("devices")


def device(name: str) -> Profile:
    """A device's profile."""
    profile: Profile = _module("devices", "device", name).PROFILE
    return profile
