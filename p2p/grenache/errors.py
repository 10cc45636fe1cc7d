"""Errors of Grapes and workers.

`code` is the text of the Node.js programs for the same error, where they have one, so that the logs
of both can be searched alike.
"""

from __future__ import annotations

from typing import Any

from p2p.base.errors import P2PError


class GrenacheError(P2PError):
    """Base of all errors of Grenache. `code` is stable, the text may change."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class BadInput(GrenacheError, ValueError):
    """Input refused before it was sent: a Grape or worker would misread it or crash."""


class GrapeUnreachable(GrenacheError):
    """No Grape answered in time."""

    def __init__(self, detail: str) -> None:
        super().__init__("ERR_GRAPE_UNREACHABLE", detail)


class GrapeRefused(GrenacheError):
    """A Grape answered with an error (`code` is its text), or with an invalid answer."""


class LookupEmpty(GrenacheError):
    """No worker is announced under the name."""

    def __init__(self, service: str) -> None:
        super().__init__("ERR_GRAPE_LOOKUP_EMPTY", f"no worker is announced as {service!r}")


class RequestFailed(GrenacheError):
    """No reply to a request. `sent`: the worker may have received and executed it."""

    def __init__(self, code: str, detail: str = "", *, sent: bool) -> None:
        super().__init__(code, detail)
        self.sent = sent


class RequestTimeout(RequestFailed):
    """No reply in time."""

    def __init__(self, detail: str = "", *, sent: bool = True) -> None:
        super().__init__("ERR_TIMEOUT", detail, sent=sent)


class RemoteError(GrenacheError):
    """Error returned by the worker: `code` is its text, `result` the result that came with it."""

    def __init__(self, error: str, result: Any = None) -> None:
        super().__init__(error)
        self.result = result
