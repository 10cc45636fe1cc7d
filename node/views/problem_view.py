"""Problem details (RFC 9457): the shape of every refusal of the API, over HTTP and on the stream."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457). A problem may carry further members that explain it."""

    type: str  # URI reference of the explanation, on this node
    title: str
    status: int
    detail: str
    code: str  # stable word for programs
    instance: str  # path of the request
    pointer: str | None = None  # JSON pointer to the field that is wrong (RFC 6901)
    incident: str | None = None  # finds an internal error in the node's log
    retry_after: int | None = None  # seconds; on the stream, where there is no header for it
