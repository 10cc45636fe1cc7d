"""Routes of requests: a tree of the parts of paths.

A part in braces (`/v1/orders/{id}`) stands for any text but none. Of two routes the one that names more of the path is taken.
What has no route is answered by the handler of the longest prefix that fits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from node.http.http_messages import Response
from node.http.request_figures import UNMATCHED

if TYPE_CHECKING:
    from node.http.server_connection import Request

# An answer, one that is awaited, or None: the handler answers the request itself, later.
Handler = Callable[["Request"], Response | Awaitable[Response] | None]


class Route(NamedTuple):
    """Route of a request. `allowed`: methods that the path has, if this one is missing. `signed`: each head is another
    one, and not worth remembering."""

    handler: Handler
    name: str  # of the operation
    template: str = ""
    params: Mapping[str, str] = {}
    allowed: Sequence[str] = ()
    signed: bool = False


@dataclass(slots=True)
class _Place:
    parts: dict[str, _Place] = field(default_factory=dict)
    any_part: _Place | None = None
    template: str = ""
    methods: dict[str, tuple[Handler, str, bool]] = field(default_factory=dict)


class Router:
    """See the module's docstring. `missing` answers what has no route."""

    def __init__(self, missing: Handler) -> None:
        self._root = _Place()
        self._missing = {"": missing}

    def add(
        self,
        method: str,
        template: str,
        handler: Handler,
        name: str = "",
        *,
        head: bool = True,
        signed: bool = False,
    ) -> None:
        """Serve a path. A handler of GET serves HEAD too, but for those without a response, such as of WebSockets."""
        place = self._root
        for part in template.split("/"):
            if part.startswith("{"):
                place.any_part = place = place.any_part or _Place()
            else:
                place = place.parts.setdefault(part, _Place())
        place.template = template
        place.methods[method] = handler, name or template, signed
        if method == "GET" and head:
            place.methods["HEAD"] = handler, name or template, signed

    def missing(self, prefix: str, handler: Handler) -> None:
        """Answer what begins so and has no route, or not for its method."""
        self._missing[prefix] = handler

    def find(self, method: str, parts: tuple[str, ...]) -> Route:
        """The route of a request to a path, given in its parts."""
        place = _find(self._root, parts)
        if place is not None and method in place.methods:
            handler, name, signed = place.methods[method]
            names = place.template.split("/")
            params = {
                name[1:-1]: part
                for name, part in zip(names, parts, strict=True)
                if name.startswith("{")
            }
            return Route(handler, name, place.template, params, signed=signed)
        path = "/".join(parts)
        prefix = max((each for each in self._missing if path.startswith(each)), key=len)
        allowed = () if place is None else sorted(place.methods)
        return Route(self._missing[prefix], UNMATCHED, allowed=allowed)


def _find(place: _Place, parts: tuple[str, ...]) -> _Place | None:
    if not parts:
        return place if place.methods else None
    part, rest = parts[0], parts[1:]
    if part in place.parts and (found := _find(place.parts[part], rest)):
        return found
    return _find(place.any_part, rest) if part and place.any_part is not None else None
