"""Shapes of the readiness answer."""

from __future__ import annotations

import msgspec


class ReadyCheck(msgspec.Struct, kw_only=True):
    """One condition of readiness."""

    name: str
    ok: bool
    reason: str


class ReadyView(msgspec.Struct, kw_only=True):
    """Readiness for orders: all checks are ok."""

    ready: bool
    checks: list[ReadyCheck]
