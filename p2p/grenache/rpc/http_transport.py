"""RPC over HTTP: each request is a POST to "/", on connections that are kept for a while.

With `compress` (header grc-compress) bodies are gzip in both directions, without Content-Encoding, as the
Node.js programs have it.
"""

from __future__ import annotations

from typing import Any, Final

from p2p.base.http1 import HttpFailed, HttpReply
from p2p.base.http_pool import CONNECT_TIMEOUT, IDLE, HttpPool, Tls
from p2p.grenache.directory import Address
from p2p.grenache.rpc.rpc_transport import (
    GENERIC,
    MAX_REPLY,
    BadReply,
    TransportStatus,
    failed_request,
    where,
)
from p2p.grenache.rpc.rpc_wire import (
    COMPRESS,
    GZIP,
    Malformed,
    RpcReply,
    decode_reply,
    encode_request,
    gunzip,
    gzip,
)

MAX_TEXT: Final = 300  # characters of an error page that are shown

_GZIP_MAGIC: Final = b"\x1f\x8b"


class HttpTransport:
    """See the module; arguments as of `HttpPool`."""

    def __init__(
        self,
        *,
        tls: Tls = None,
        compress: bool = False,
        max_reply: int = MAX_REPLY,
        connect_timeout: float = CONNECT_TIMEOUT,
        idle: float = IDLE,
    ) -> None:
        self.pool = HttpPool(tls, connect_timeout=connect_timeout, idle=idle)
        self._compress = compress
        self._max_reply = max_reply
        kind = "" if compress else "Content-Type: text/plain;charset=UTF-8\r\n"
        self._head = (  # with the headers that the Node.js client sends
            f"POST / HTTP/1.1\r\n{COMPRESS}: {GZIP if compress else 'none'}\r\n{kind}"
            "Accept: */*\r\nConnection: keep-alive\r\n"
        )
        self._requests = 0

    def encode(self, rid: str, key: str, payload: Any) -> bytes:
        body = encode_request(rid, key, payload)
        return gzip(body) if self._compress else body

    def status(self) -> TransportStatus:
        pool = self.pool
        return TransportStatus("http", pool.busy, pool.idle, self._requests, pool.connects)

    async def request(
        self,
        address: Address,
        rid: str,
        body: bytes,
        *,
        timeout: float,
        connect_timeout: float | None = None,
        idempotent: bool = False,
    ) -> RpcReply:
        self._requests += 1
        host, port = address
        head = f"{self._head}Host: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            reply = await self.pool.exchange(
                address,
                head.encode("ascii") + body,
                timeout=timeout,
                max_body=self._max_reply,
                connect_timeout=connect_timeout,
                idempotent=idempotent,
            )
        except HttpFailed as error:
            raise failed_request(address, error) from None
        return self._read(address, rid, reply)

    async def close(self) -> None:
        await self.pool.close()

    def _read(self, address: Address, rid: str, reply: HttpReply) -> RpcReply:
        """Parse received bytes.

        Raises:
            BadReply: not an answer to this request.
        """
        body = reply.body
        encoding = reply.headers.get(b"content-encoding", b"").lower()
        try:
            if body[:2] == _GZIP_MAGIC and (self._compress or b"gzip" in encoding):
                body = gunzip(body, self._max_reply)
            elif encoding not in (b"", b"identity"):
                raise Malformed("ERR_ENCODING_COMPRESSION", f"encoding {encoding[:40]!r}")
        except Malformed as error:
            raise BadReply("ERR_REPLY_ENCODING_COMPRESSION", f"{where(address)}: {error}") from None
        fine = 200 <= reply.status < 300
        try:
            said = decode_reply(body)
        except Malformed as error:
            if fine:
                raise BadReply(error.code, f"{where(address)}: {error.detail}") from None
            said = None
        if said is not None and said.rid == rid and (fine or said.error is not None):
            return said
        if not fine:
            text = body[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]
            raise BadReply(GENERIC, f"{where(address)}: HTTP {reply.status}: {text}")
        raise BadReply("ERR_REPLY_RID", f"{where(address)}: the reply is to another request")
