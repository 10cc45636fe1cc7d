"""Warnings in the status: about this node for as long as it runs, about another one while it is present.

Strangers cause warnings about themselves at no cost. So of each kind the first few nodes are shown, linked ones before
others, with one line that counts the rest; and none of them takes the place of a warning about this node.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Final

from p2p.ground.bounded_map import BoundedMap

log = logging.getLogger(__name__)

MAX_OWN: Final = 100
MAX_NODES: Final = 1000  # remembered for each kind; the one warned of longest ago is forgotten
SHOWN: Final = 3  # nodes of a kind


class StandingWarnings:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.own: list[str] = []
        self._others: dict[str, BoundedMap[str, str]] = {}  # kind: node: latest text

    def add(self, text: str, kind: str = "", node: str = "") -> None:
        """Log a warning and keep it; `kind` and `node` for one about another node."""
        log.warning(text)
        if node:
            self._others.setdefault(kind, BoundedMap(MAX_NODES))[node] = text
        elif len(self.own) < MAX_OWN:
            self.own.append(text)

    def others(self, present: Collection[str], linked: Collection[str]) -> list[str]:
        """Return the lines about present nodes."""
        found = []
        for kind, texts in self._others.items():
            now = {node: [text] for node, text in texts.items() if node in present}
            found += few(now, linked, kind)
        return found


def few(texts: Mapping[str, list[str]], linked: Collection[str], kind: str) -> list[str]:
    """Return `SHOWN` lines at most, of as many nodes as possible and linked ones first, and one that counts the others."""
    lines = [
        (depth, node not in linked, text)
        for node, its in texts.items()
        for depth, text in enumerate(its)
    ]
    lines.sort(key=lambda line: line[:2])
    left = len(lines) - SHOWN
    more = [f"{left} more such warnings about other nodes: {kind}"] if left > 0 else []
    return [text for _, _, text in lines[:SHOWN]] + more
