"""One attempt of a service call at one node, this one included, with the load that its reply reports."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from p2p.adaptive import Load as LoadTuple
from p2p.base.errors import (
    CallError,
    CallLost,
    CallTimeout,
    DeliveryError,
    LinkClosed,
    RpcError,
    RpcTimeout,
    ServiceBusy,
    ServiceUnreachable,
)
from p2p.flow.load import LoadReport
from p2p.rpc.rpc import Answer, Rpc
from p2p.services.call_tracing import CallTracer
from p2p.services.service_server import METHOD, ServiceCall, ServiceReply, ServiceServer
from p2p.wire.messages import Load

MAX_LOAD: Final = 1e6  # statements of a node about itself are cut to this


class ServiceAttempt:
    """Sender of attempts. `node_id` is the own one."""

    def __init__(self, node_id: str, rpc: Rpc, server: ServiceServer) -> None:
        self._node_id = node_id
        self._rpc = rpc
        self._server = server
        self.tracer: CallTracer | None = None

    async def ask(
        self, node: str, request: ServiceCall, timeout: float, now: float, *, needs_link: bool
    ) -> Answer:
        """Send a request to `node` and return its reply, a `ServiceReply`. `timeout`: seconds from `now`,
        the loop's time. `needs_link`: see `p2p.rpc.requests.RpcCore.request`.

        Raises:
            CallError: there is none.
        """
        if self.tracer is None:
            return await self._ask(node, request, timeout, now, needs_link=needs_link)
        with self.tracer.attempt(request.service, node) as traceparent:
            traced = msgspec.structs.replace(request, traceparent=traceparent)
            return await self._ask(node, traced, timeout, now, needs_link=needs_link)

    async def _ask(
        self, node: str, request: ServiceCall, timeout: float, now: float, *, needs_link: bool
    ) -> Answer:
        try:
            if node == self._node_id:
                async with asyncio.timeout(timeout):
                    return await self._server.execute(request, node, now + timeout)
            return await self._rpc.ask(
                node,
                METHOD,
                request,
                timeout=timeout,
                result_type=ServiceReply,
                needs_link=needs_link,
            )
        except (RpcTimeout, TimeoutError):
            raise CallTimeout(
                f"node {node} did not answer {request.service} in {timeout:.3g} s"
            ) from None
        except DeliveryError as error:
            raise ServiceUnreachable(str(error)) from None
        except LinkClosed as error:
            raise CallLost(str(error)) from None
        except RpcError as error:
            raise _call_error(node, error) from None


def _call_error(node: str, error: RpcError) -> CallError:
    text = f"node {node}: {error.message or error.code}"
    if error.code == "busy":
        return ServiceBusy(text, error.retry_after_s)
    if error.code == "expired":
        return CallTimeout(text)
    if error.code in ("unknown_service", "unknown_method"):
        return ServiceUnreachable(text)
    if error.code in ("internal", "closed"):
        return CallLost(text)
    return CallError(error.code, text)


def load_tuple(load: Load | None) -> LoadTuple | None:
    """Return the load in a reply, None if its figures cannot be true."""
    if load is None:
        return None
    values = (load.in_flight, load.latency, load.service)
    if not all(0.0 <= value <= MAX_LOAD for value in values):  # not for nan either
        return None
    return values


def load_report(load: Load | None) -> LoadReport | None:
    if load is None or not (0.0 <= load.waited <= MAX_LOAD and 0.0 <= load.served <= MAX_LOAD):
        return None
    return LoadReport(load.waited, load.served, round(min(max(load.in_flight, 0.0), MAX_LOAD)))
