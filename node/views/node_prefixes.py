"""Nodes named by the beginning of their id."""

from __future__ import annotations

from collections.abc import Iterable

from node.views.views import ServiceError


def only_fit(prefix: str, known: Iterable[str]) -> str | None:
    """The one of the `known` ids that begins so; None if there is none, or no prefix.

    Raises:
        ServiceError: there are several.
    """
    begin = prefix.lower()
    found = sorted(node for node in known if begin and node.startswith(begin))
    if len(found) > 1:
        some = ", ".join(node[:12] for node in found[:5])
        raise ServiceError(400, "ambiguous_node", f"{prefix[:40]!r} fits several nodes: {some}")
    return found[0] if found else None
