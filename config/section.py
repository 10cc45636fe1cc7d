"""Sections of the schema: classes whose fields are settings, checked when an object is made.

Own code instead of pydantic, which would be a seventh of a node's start and 9 MB of it: each field's
kind has all of the parsing, so what is left is to go through the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, dataclass_transform

from config.setting_types import Kind

# Given the value and the values before it; wrong ones are missing there, as they have a line of their own.
Check = Callable[[Any, Mapping[str, Any]], None]


class Field(NamedTuple):
    """A setting: its kind, its default and its description."""

    kind: Kind
    default: Any
    description: str


# Typed as any value: the class has a `Field` where its objects have the value.
def field(kind: Kind, *, default: Any, description: str) -> Any:
    """Declare a setting of a section."""
    return Field(kind, default, description)


class Refused(ValueError):
    """A value that does not go with the others. Its text says what was expected, instead of the kind's."""


class WrongValues(ValueError):
    """Some values cannot be used: the error of each, by key."""

    def __init__(self, errors: Mapping[str, ValueError]) -> None:
        super().__init__(", ".join(f"{key}: {error}" for key, error in errors.items()))
        self.errors: Final = errors


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Section:
    """A group of settings, read-only. Made directly it reads nothing but its arguments; see `config.load`.

    Raises:
        WrongValues: values that cannot be used.
        TypeError: a name is not a setting.
    """

    title: ClassVar[str]
    fields: ClassVar[Mapping[str, Field]] = {}
    _checks: ClassVar[dict[str, Check]] = {}

    def __init_subclass__(cls) -> None:
        fields: dict[str, Field] = {}
        cls._checks = {}
        for base in reversed(cls.__mro__[1:]):
            fields |= vars(base).get("fields", {})
            cls._checks |= vars(base).get("_checks", {})
        for name, value in list(vars(cls).items()):
            if isinstance(value, Field):
                fields[name] = value
                delattr(cls, name)
        cls.fields = MappingProxyType(fields)

    @classmethod
    def check(cls, key: str) -> Callable[[Check], Check]:
        """Call the function below with each value of `key`, once its kind has accepted it. To be used before
        the section is a base of another class."""

        def add(function: Check) -> Check:
            cls._checks[key] = function
            return function

        return add

    def __init__(self, **given: Any) -> None:
        values: dict[str, Any] = {}
        errors: dict[str, ValueError] = {}
        for key, (kind, default, _) in self.fields.items():
            try:
                value = kind.parse(given.get(key, default))
                if key in self._checks:
                    self._checks[key](value, values)
                values[key] = value
            except ValueError as error:
                errors[key] = error
        if errors:
            raise WrongValues(errors)
        if unknown := given.keys() - self.fields.keys():
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        self.__dict__.update(values, _given=frozenset(given))

    @property
    def fields_set(self) -> frozenset[str]:
        """Keys of the settings that were given."""
        given: frozenset[str] = self.__dict__["_given"]
        return given

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are frozen: cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"settings are frozen: cannot delete {name}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(
            getattr(self, key) == getattr(other, key) for key in self.fields
        )

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, key) for key in self.fields))
