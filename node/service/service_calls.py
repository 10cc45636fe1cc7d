"""Services that a node offers to its network, and calls of those that others offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from node.parts.annex import NodePart, OutsideServices
from node.service.peer_service import PeerService
from node.service.public_services import OFFERS
from node.service.routing_service import call_service
from node.views.node_views import CallRequest, CallView
from p2p.base.errors import NoProvider
from p2p.services import service_server
from p2p.services.balanced_caller import CallOptions, CallResult
from p2p.services.fault_injection import Faults
from p2p.services.service_mesh import ServiceMesh


class ServiceCalls:
    """See the module's docstring. `timeout`: seconds that a call outside gets without one of its own."""

    def __init__(
        self, mesh: ServiceMesh, peers: PeerService, parts: Sequence[NodePart], timeout: float
    ) -> None:
        self._mesh = mesh
        self._peers = peers
        self._parts = parts
        self._timeout = timeout

    @property
    def _outside(self) -> OutsideServices | None:
        return next((part.outside for part in self._parts if part.outside is not None), None)

    def serve(
        self,
        name: str,
        handler: service_server.Handler,
        *,
        workers: int = service_server.WORKERS,
        idempotent: bool = False,
        faults: Faults | None = None,
    ) -> None:
        """Offer a service to the network: `handler(payload)` answers, `workers` requests at once.

        Payload and result are what msgpack holds. The handler is async, or sync and then run in a
        thread. It refuses by raising `p2p.base.errors.HandlerError(code, message)`.
        `idempotent`: own calls to the service are repeated when they get no answer. `faults` are for
        tests.

        Raises:
            ValueError: the name cannot be one, or is taken.
        """
        self._mesh.server.serve(name, handler, workers=workers, faults=faults)
        self._mesh.directory.offer(name)
        self._mesh.hurry()
        if (outside := self._outside) is not None and name not in OFFERS:
            outside.offer(name)
        if idempotent:
            self._mesh.caller.mark_idempotent(name)

    def withdraw(self, name: str) -> None:
        """Offer the service no longer."""
        self._mesh.directory.withdraw(name)
        self._mesh.hurry()
        if (outside := self._outside) is not None:
            outside.withdraw(name)
        self._mesh.server.remove(name)

    async def call(
        self, service: str, payload: object = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Call a service of the network and return its answer; see `p2p.services.balanced_caller.BalancedCaller.ask`.

        Raises:
            HandlerError: the service refused, with its own code and message.
            CallError: there is no result; the kind of error says why.
        """
        return (await self.ask(service, payload, **options)).value

    async def ask(
        self, service: str, payload: object = None, **options: Unpack[CallOptions]
    ) -> CallResult:
        """As `call`, with the details. What no node offers is looked for outside, if a part of the node can."""
        try:
            return await self._mesh.caller.ask(service, payload, **options)
        except NoProvider:
            outside = self._outside
            if outside is None:
                raise
        timeout = options.get("timeout")
        return await outside.ask(
            service,
            payload,
            timeout=self._timeout if timeout is None else timeout,
            idempotent=bool(options.get("idempotent") or options.get("idempotency_id")),
        )

    async def call_service(self, service: str, request: CallRequest) -> CallView:
        """A call on behalf of the API. A refusal by the service has the code "service_refused"."""
        to = None if request.node is None else self._peers.full_id(request.node, own=True)
        return await call_service(self.ask, service, request, to)
