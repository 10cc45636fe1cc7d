"""Declaration of an API operation: method, path, types of parameters, body and answer, and who may call it.

A declaration is all that server, client and documents share: `node/api` binds the work to it and reads requests by
it, the clients in `node/client` call it and read its answer's type from it, and the OpenAPI document is made from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, get_args, get_type_hints
from urllib.parse import quote, urlencode

import msgspec

from node.views.views import ServiceError

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar as _TypeVar

    def TypeVar(name: str, **_: Any) -> Any:  # noqa: N802 - defaults of type variables are of Python 3.13
        return _TypeVar(name)


Access = Literal["public", "read", "trade", "node", "operator"]
Reader = Callable[[str], Any]  # of a parameter's text; raises ValueError with what must be written

# Keys of a schema in the order of the documents
_KEYS: Final = (
    "type", "minimum", "maximum", "enum", "default", "minLength", "maxLength", "pattern", "anyOf", "examples",
)  # fmt: skip
_IN_PATH: Final = re.compile(r"\{(\w+)\}")


class Params(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of an operation; a subclass has a member for each. Those that the path names are in the path, the
    others in the query. A member that is `Params` itself stands for its own members.

    The type of a member is that of the value, with `msgspec.Meta` for the documents. From it follow the parameter's
    schema and how its text is read, unless `extra` of the Meta has a `schema` or a `read`. A group of members with a
    `SCHEMA` is one parameter of the documents: only so a schema can require that one of several is given.
    """


A = TypeVar("A")
P = TypeVar("P", bound=Params, default=Params)
B = TypeVar("B", default=None)


@dataclass(frozen=True)
class Operation(Generic[A, P, B]):
    """An operation; `A` is the type of its answer's body, `P` of its parameters, `B` of its body."""

    request: str  # method and path
    name: str  # operationId
    tag: str
    summary: str
    answer: type[A]
    description: str = ""
    params: type[P] = Params  # type: ignore[assignment]  # as the default of P
    body: type[B] | None = None
    status: int = 200
    problems: tuple[int, ...] = ()  # besides those that every operation can answer
    access: Access = "operator"

    @cached_property
    def method(self) -> str:
        return self.request.partition(" ")[0]

    @cached_property
    def path(self) -> str:
        return self.request.partition(" ")[2]

    @cached_property
    def in_path(self) -> tuple[str, ...]:
        """Names of the parameters in the path, in order."""
        return tuple(_IN_PATH.findall(self.path))

    def write(self, arguments: Mapping[str, Any]) -> tuple[str, Any]:
        """Return path with query, and body, of a request with `arguments`: parameters and fields of the body by their
        names, or the whole body as `body`. None, and declared defaults of the query, are left out.

        Raises:
            TypeError: an argument is unknown or missing.
        """
        values = {name: value for name, value in arguments.items() if value is not None}
        try:
            path = _IN_PATH.sub(lambda name: quote(values.pop(name[1]), safe=""), self.path)
        except KeyError as error:
            raise TypeError(f"{self.name} needs {error}") from None
        given = {name: values.pop(name) for name in tuple(values) if name in self.in_query}
        query = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in given.items()
            if value != self.in_query[name][1].schema.get("default")
        }
        body = values.pop("body", None)
        if unknown := values.keys() - set(getattr(self.body, "__struct_encode_fields__", ())):
            raise TypeError(f"{self.name} does not take {', '.join(sorted(unknown))}")
        body = values if body is None and self.body is not None else body  # maybe empty
        return path + (f"?{urlencode(query)}" if query else ""), body

    @cached_property
    def parameters(self) -> tuple[Param, ...]:
        """Parameters as they are read, in groups."""
        return _parameters(self.params, self.in_path)

    @cached_property
    def documented(self) -> tuple[Param, ...]:
        """Parameters as the documents have them."""
        return tuple(each for param in self.parameters for each in param.documented)

    @cached_property
    def in_query(self) -> dict[str, tuple[Param | None, Param]]:
        """Parameters of the query by name, each with its group."""
        found: dict[str, tuple[Param | None, Param]] = {}
        for param in self.parameters:
            if param.place == "query":
                group = param if param.group is not None else None
                found |= {each.name: (group, each) for each in param.members or (param,)}
        return found

    def read(self, in_path: Mapping[str, str], query: Mapping[str, str]) -> P:
        """The typed parameters of a request, whose query has names of this operation alone.

        Raises:
            ServiceError: a value is wrong.
        """
        if not query:
            return self.params(**in_path)
        values: dict[str, Any] = dict(in_path)
        groups: dict[str, dict[str, Any]] = {}
        for name, text in query.items():
            group, param = self.in_query[name]
            try:
                value = param.read(text)
            except ValueError as error:
                raise bad_parameter(name, f"{name} {error}") from None
            if group is None:
                values[name] = value
            else:
                groups.setdefault(group.name, {})[name] = value
                values[group.name] = group.group
        for name, given in groups.items():
            values[name] = values[name](**given)
        return self.params(**values)


# Reading parameters


class Param(msgspec.Struct, frozen=True):
    """A query or path parameter, or a group of them that is one of the documents."""

    name: str
    place: Literal["path", "query"]
    schema: Mapping[str, Any]
    description: str
    read: Reader
    group: type[Params] | None = None
    members: tuple[Param, ...] = ()

    @property
    def documented(self) -> tuple[Param, ...]:
        return self.members if self.members and not self.schema else (self,)


def bad_parameter(name: str, detail: str) -> ServiceError:
    return ServiceError(400, "invalid_parameter", detail, parameter=name)


def _parameters(kind: type[Params], in_path: Collection[str]) -> tuple[Param, ...]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        choices = [each for each in get_args(hints[name]) if each is not NoneType]
        hint = choices[0] if NoneType in get_args(hints[name]) else hints[name]
        if isinstance(hint, type) and issubclass(hint, Params):
            found.append(_group(name, hint, _parameters(hint, in_path)))
            continue
        extra = _extra(hint)
        schema = extra.get("schema") or msgspec.json.schema(hint)
        if field.default not in (None, msgspec.NODEFAULT):
            schema = {**schema, "default": field.default}
        description = next(
            (meta.description for meta in _metas(hint) if meta.description is not None), ""
        )
        schema = {key: schema[key] for key in _KEYS if key in schema}
        place: Literal["path", "query"] = "path" if name in in_path else "query"
        read = extra.get("read") or _reader(schema)
        found.append(Param(name, place, schema, description, read))
    return tuple(found)


def _metas(hint: Any) -> tuple[msgspec.Meta, ...]:
    """The last one first, which counts."""
    return tuple(reversed(getattr(hint, "__metadata__", ())))


def _extra(hint: Any) -> dict[str, Any]:
    return next((meta.extra for meta in _metas(hint) if meta.extra), {})


def _group(name: str, kind: type[Params], members: tuple[Param, ...]) -> Param:
    schema: dict[str, Any] = getattr(kind, "SCHEMA", {})
    if schema:
        properties = {member.name: dict(member.schema) for member in members}
        schema = {"type": "object", "properties": properties, **schema}
    description = " ".join((kind.__doc__ or "").split())
    return Param(name, "query", schema, description, str, kind, members)


def _reader(schema: Mapping[str, Any]) -> Reader:
    if "enum" in schema:
        return lambda text: _choice(text, schema["enum"])
    if schema["type"] == "integer":
        return lambda text: _whole(text, schema["minimum"], schema["maximum"])
    return _flag if schema["type"] == "boolean" else str


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise ValueError(f"must be a whole number from {least} to {most}, not {text[:40]!r}")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"must be true or false, not {text[:40]!r}")
    return text == "true"


def _choice(text: str, words: list[str]) -> str:
    if text not in words:
        known = " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"
        raise ValueError(f"must be {known}, not {text[:40]!r}")
    return text
