r"""Members of JSON objects that are there twice, which parsers read differently.

The decoders here keep the last of two equal members, others the first. Money must not depend on it, so a text with two
meanings is refused. What the check costs an order (2 to 3 us of about 150):

    python -m timeit -s 'from node.http.json_members import check_members as check; order = b"{\"market\":\"BTC-USD\",
        \"side\":\"buy\",\"quantity\":\"0.5\",\"price\":\"30000\"}"' 'check(order)'
"""

from __future__ import annotations

import json
from typing import Any, Final


class RepeatedMember(ValueError):
    """An object has a member twice. `name` is its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    @property
    def detail(self) -> str:
        return f"the member {self.name[:40]!r} is there twice in one object; send it once"


def _look(members: list[tuple[str, Any]]) -> None:
    if len(members) != len(dict(members)):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise RepeatedMember(name)
            seen.add(name)


# The only parser at hand that shows all members. Numbers need no value here.
_scan: Final = json.JSONDecoder(object_pairs_hook=_look, parse_int=len, parse_float=len).decode


def check_members(raw: bytes | str) -> None:
    """Check a valid JSON text.

    Raises:
        RepeatedMember: an object in it, at any depth, has a member twice.
        UnicodeDecodeError, RecursionError: it is not valid.
    """
    _scan(raw.decode() if isinstance(raw, bytes) else raw)
