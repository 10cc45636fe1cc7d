"""Bodies of the RPC method `dial_back`."""

from __future__ import annotations

from typing import Final

import msgspec

METHOD: Final = "dial_back"
CAPABILITY: Final = (
    "probe"  # among a peer's protocols: it answers probes and requests for dial-backs
)
NONCE_LENGTH: Final = 16  # bytes

DIALLED: Final = "dialled"  # the server's probe was answered
FAILED: Final = "failed"  # it was not
PROOF: Final = "proof"  # upload that many bytes first
REFUSED: Final = "refused"  # no dial was made


class DialBackBody(msgspec.Struct, rename="camel"):
    """Request to dial `host` and `port` and send `nonce` there."""

    host: str
    port: int
    nonce: bytes
    proof: bytes = b""  # the upload that was demanded


class DialBackAnswer(msgspec.Struct, rename="camel"):
    status: str
    reason: str = ""
    size: int = 0  # of the proof
