"""What the router tells whoever listens: every decision, with its reason."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["pick", "breaker", "hint", "panic"]


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is the router's `now` in seconds; `detail` holds what the reason is made of."""

    at: float
    kind: Kind
    peer: Hashable
    reason: str
    detail: dict[str, object]
