"""Sections of the schema: classes whose fields are settings.

Own code instead of pydantic or msgspec (docs/decisions/0018-dependencies.md): each field's kind has all of the parsing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn

from config.setting_types import Kind

# Given the value and the values before it; wrong ones are missing there, as they have a line of their own.
Check = Callable[[Any, Mapping[str, Any]], None]


class Field(NamedTuple):
    """A setting: its kind, its default and its description."""

    kind: Kind
    default: Any
    description: str


# Typed as any value: the class has a `Field` where its objects have the value.
def field(kind: Kind, default: Any, description: str) -> Any:
    """Declare a setting of a section."""
    return Field(kind, default, description)


class Seconds:
    """A setting in milliseconds, as seconds."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __get__(self, section: Section, owner: type[Section]) -> float:
        milliseconds: int = getattr(section, self._key)
        return milliseconds / 1000


class Refused(ValueError):
    """A value that does not go with the others. Its text says what was expected, instead of the kind's."""


class Section:
    """A group of settings, read-only.

    Attributes:
        title: heading in documents, which sections that follow each other may share.
        rank: place in documents, the lowest first.
        fields: the settings by key; those of base classes are not among them.
        checks: functions to call with the values of some keys, once their kinds have accepted them.
        useless: a switch that is off, as `NAME=false` -> variables without effect then.
    """

    title: ClassVar[str]
    rank: ClassVar[int]
    fields: ClassVar[Mapping[str, Field]] = {}
    checks: ClassVar[dict[str, Check]] = {}
    useless: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls) -> None:
        cls.fields = {key: field for key, field in vars(cls).items() if isinstance(field, Field)}
        cls.checks = {}
        for key in cls.fields:
            delattr(cls, key)

    @classmethod
    def check(cls, key: str) -> Callable[[Check], Check]:
        """Add the function below to `checks`. Of sections whose values it reads, the rank must be higher."""
        return lambda function: cls.checks.setdefault(key, function)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are frozen: cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"settings are frozen: cannot delete {name}")
