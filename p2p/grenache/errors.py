"""Errors of Grapes and workers.

`code` is the text that the Node.js programs use for the same thing where they have one, so that logs of
both can be searched alike.
"""

from __future__ import annotations

from typing import Any

from p2p.base.errors import P2PError


class GrenacheError(P2PError):
    """Anything below. `code` is stable, the text is for people."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class BadInput(GrenacheError, ValueError):
    """Refused before it was sent: a Grape or worker would misread it, or die of it."""


class GrapeUnreachable(GrenacheError):
    """No Grape answered, or none in time."""

    def __init__(self, detail: str) -> None:
        super().__init__("ERR_GRAPE_UNREACHABLE", detail)


class GrapeRefused(GrenacheError):
    """A Grape answered with an error (`code` is its text), or with something that is no answer."""


class LookupEmpty(GrenacheError):
    """No worker is announced under the name."""

    def __init__(self, service: str) -> None:
        super().__init__("ERR_GRAPE_LOOKUP_EMPTY", f"nobody is announced as {service!r}")


class RequestFailed(GrenacheError):
    """No reply came. `sent`: the worker may have seen, and done, what was asked."""

    def __init__(self, code: str, detail: str = "", *, sent: bool) -> None:
        super().__init__(code, detail)
        self.sent = sent


class RequestTimeout(RequestFailed):
    """No reply in time."""

    def __init__(self, detail: str = "", *, sent: bool = True) -> None:
        super().__init__("ERR_TIMEOUT", detail, sent=sent)


class RemoteError(GrenacheError):
    """The worker's own error: `code` is its text; `result` is what came with it."""

    def __init__(self, error: str, result: Any = None) -> None:
        super().__init__(error)
        self.result = result
