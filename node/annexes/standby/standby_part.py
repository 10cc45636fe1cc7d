"""Primary side of a standby in a running node: nothing leaves that the standby or the lease does not allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric

from node.annexes.standby.primary_service import PrimaryService
from node.annexes.standby.settings import StandbySettings
from node.api.problems import problem
from node.daemon.machine_metrics import gauge
from node.daemon.node import Node
from node.daemon.process import EXIT_FAILED, StartError
from node.http.http_messages import Response
from node.http.http_server import Around
from node.http.server_connection import Request
from node.parts.annex import NodePart
from node.views.node_views import StandbyView, StatusView

LOOK: Final = 0.05  # s between looks at whether this machine may keep its links
UNPROVEN: Final = (
    2.5  # s without a proof, after the half lease for which one holds, until all links are closed
)


# About the machine, not about orders and money.
ANSWERED: Final = frozenset({"/v1/status", "/v1/health", "/v1/ready", "/metrics"})


def only_while(serves: Callable[[], bool]) -> Around:
    """Return a step that refuses requests while `serves` is false."""

    def refuse_or_pass(request: Request, inner: Callable[[Request], None]) -> Response | None:
        if serves() or request.head.target.path in ANSWERED:
            inner(request)
            return None
        return problem(
            request.head.target.raw_path,
            503,
            "not_primary",
            "this machine cannot prove that it is the node: its standby or the lease store have not answered. Try again, "
            "or use the address of the other machine",
        )

    return refuse_or_pass


class StandbyPart(NodePart):
    """Gate of a node, and the links that it may keep while it can prove that it is the node."""

    name = "standby"

    def __init__(self, settings: StandbySettings, service: PrimaryService) -> None:
        self.gate = service
        self._service = service
        self._settings = settings
        if settings.standby_ack != "first":
            self.around = only_while(lambda: service.serves)

    def attach(self, node: Node) -> None:
        self._peers = node.overlay.peers

    async def may_start(self) -> None:
        if reason := await self._service.check_lease():
            raise StartError(
                f"this machine is not the node any more: {reason}. Make it the standby of the other one ('exchange-node "
                "standby --of HOST:PORT' in an empty data directory), or, if no other one runs the node, check LEASE_POSTGRES",
                EXIT_FAILED,
            )

    async def listen(self) -> None:
        if not self._settings.standby_listen:
            return
        try:
            await self._service.listen(*self._settings.standby_listen[0])
        except OSError as error:
            raise StartError(
                f"cannot listen for the standby: {error.strerror or error} (STANDBY_LISTEN)"
            ) from error

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._service.run(), name="standby")
            group.create_task(self._link_while_serving(), name="links")

    async def _link_while_serving(self) -> None:
        """Leave peers to the machine that is the node, if this one cannot prove that it is."""
        loop = asyncio.get_running_loop()
        proven = loop.time()
        while True:
            if self._service.serves:
                proven = loop.time()
                self._peers.resume()
            elif loop.time() - proven >= UNPROVEN:
                self._peers.suspend("this machine cannot prove that it is the node")
            await asyncio.sleep(LOOK)

    async def leave(self) -> None:
        await self._service.close()

    def warnings(self) -> list[str]:
        return self._service.warnings()

    def report(self, view: StatusView) -> None:
        view.standby = self._service.view()

    def metrics(self, view: StatusView) -> Iterable[Metric]:
        return () if view.standby is None else _figures(view.standby)


def _figures(view: StandbyView) -> Iterator[Metric]:
    """Standby of the node, and its lease."""
    yield gauge("standby_connected", "1 if the standby is connected.", float(view.connected))
    if view.in_sync is not None:
        yield gauge(
            "standby_in_sync", "1 if the standby may take over by itself.", float(view.in_sync)
        )
    yield gauge(
        "standby_waits", "1 if what leaves the node waits for the standby.", float(view.waits)
    )
    yield gauge(
        "standby_lag_commits",
        "Commits that the standby has not acknowledged; NaN while it is not connected.",
        float("nan") if view.lag is None else view.lag,
    )
    yield gauge("standby_epoch", "Number of this machine's term as the node.", view.epoch)
