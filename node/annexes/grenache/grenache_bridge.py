"""Grenache bridge: Grenache programs call services of this node, and it calls theirs.

For a Grenache program this node is a worker like any other, announced under the service's name. A
service that no node offers is looked for among Grenache workers. Callers there are not
authenticated, so the bridge is off unless `GRENACHE_SERVICES` is on.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from p2p.base.errors import (
    CallError,
    CallLost,
    CallTimeout,
    HandlerError,
    NoProvider,
    RpcError,
    ServiceBusy,
    ServiceUnreachable,
)
from p2p.grenache.directory import Directory
from p2p.grenache.errors import (
    GrenacheError,
    LookupEmpty,
    RemoteError,
    RequestFailed,
    RequestTimeout,
)
from p2p.grenache.rpc.dispatcher import Handler, Request
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_wire import busy, retry_after
from p2p.services.balanced_caller import CallResult
from p2p.services.service_server import ServiceCall, ServiceReply, ServiceServer
from p2p.wire.messages import pack

NODE = "grenache"  # the worker, where a call's result names a node


class GrenacheBridge:
    """Both directions: `handler` lets others in, and `ask` goes out, from `start` to `close`."""

    def __init__(self, server: ServiceServer) -> None:
        self._server = server
        self._client: Client | None = None

    def start(self, directory: Directory) -> None:
        """Be able to call from now on."""
        self._client = Client(directory)

    async def close(self) -> None:
        """End the calls under way. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def handler(self, service: str) -> Handler:
        """Answers Grenache requests with what this node serves under that name."""

        async def answer(request: Request) -> Any:
            caller = f"{NODE}:{request.remote[0]}"
            call = ServiceCall(service, msgspec.Raw(pack(request.payload)))
            try:
                answered = await self._server.execute(call, caller)
            except RpcError as error:
                if error.code == "busy":
                    raise RemoteError(busy(error.retry_after_s)) from None
                raise RemoteError(f"ERR_{error.code.upper()}: {error.message}") from None
            reply = answered.value
            if not isinstance(reply, ServiceReply):
                raise TypeError(f"{type(reply).__name__} is not a reply of a service")
            if reply.error:
                raise RemoteError(f"{reply.error}: {reply.message}")
            return msgspec.to_builtins(msgspec.msgpack.decode(reply.result), str_keys=True)

        return answer

    async def ask(
        self, service: str, payload: Any, *, timeout: float, idempotent: bool
    ) -> CallResult:
        """Call a Grenache worker of `service` and return its answer.

        Raises:
            HandlerError: it answered with an error, whose first word is the code.
            CallError: there is no result; the kind of error says why.
        """
        if self._client is None:
            raise NoProvider(service)
        before = time.monotonic()
        try:
            value = await self._client.request(
                service,
                msgspec.to_builtins(payload, str_keys=True),
                timeout=timeout,
                idempotent=idempotent,
            )
        except RemoteError as error:
            again = retry_after(error.code)
            if again is not None:
                raise ServiceBusy(error.code, again) from None
            code, colon, message = error.code.partition(": ")
            told = (code, message) if colon and " " not in code else ("error", error.code)
            raise HandlerError(*told) from None
        except GrenacheError as error:
            raise _call_error(service, error) from error
        return CallResult(value, NODE, 1, time.monotonic() - before)


def _call_error(service: str, error: GrenacheError) -> CallError:
    if isinstance(error, LookupEmpty):
        return NoProvider(service)
    if isinstance(error, RequestTimeout):
        return CallTimeout(str(error))
    if isinstance(error, RequestFailed) and error.sent:
        return CallLost(str(error))
    return ServiceUnreachable(str(error))
