"""Interface of annexes: what one declares, and what it may add to a running node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

if (
    TYPE_CHECKING
):  # for types: commands load this module, and few of them need the server or the engine
    from collections.abc import Callable

    from prometheus_client.core import Metric

    from config import Settings
    from exchange.journal.journal import Journal
    from exchange.model.ports import Send
    from exchange.orders.engine_context import Drained
    from node.daemon.node import Node
    from node.http.http_server import Around
    from node.service.account_trading import OrderTracer
    from node.service.committer import Gate
    from node.views.node_views import DiscoveryView, StatusView
    from p2p.base.identity import Identity
    from p2p.grenache_links.grenache_transport import GrenacheTransport
    from p2p.mesh.routed_messages import Received
    from p2p.services.balanced_caller import CallResult
    from p2p.services.call_tracing import CallTracer


ANNEXES: Final = "node.annexes"  # the package of all annexes


@dataclass(frozen=True)
class Annex:
    """Declaration of an annex. Each text is `module:name` in the annex's folder; the module is imported when
    it is needed, so that declaring costs a command nothing.

    Attributes:
        name: of the folder.
        commands: commands of `exchange-node` -> click command.
        group: heading of `exchange-node --help` that they are listed under.
        routes: REST operations, a tuple of `node.api.route.Route`.
        application: function(application, service, access rules) that adds what REST operations cannot
            express.
        settings: class of the annex's settings, derived from `config.Settings`.
        wanted: settings that ask for the annex; if there are any, and all are empty or off, the next three are not
            loaded.
        check: function(settings) that raises `StartError` if the annex's settings cannot be used.
        lease: function(settings) that returns True if the annex asks a lease store which machine is the node.
        retention: function(settings) that returns the `Retention` of the journal, or None.
        part: function(`NodeContext`) that returns a `NodePart`, or None.
    """

    name: str
    commands: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    routes: str = ""
    application: str = ""
    settings: str = ""
    wanted: Sequence[str] = ()
    check: str = ""
    lease: str = ""
    retention: str = ""
    part: str = ""

    def load(self, where: str) -> Any:
        """Import what a declaration names."""
        module, _, name = where.partition(":")
        return getattr(import_module(f"{ANNEXES}.{self.name}.{module}"), name)


@dataclass(frozen=True)
class NodeContext:
    """State of a node that exists before its engine, for the parts that annexes add.

    Attributes:
        settings: the node's settings.
        identity: the node's key.
        key_path: file of the key.
        journal: the open journal.
        stopped: call with the reason when nothing may leave the node any more.
        recovering: the node has no clients and only recovers.
    """

    settings: Settings
    identity: Identity
    key_path: Path
    journal: Journal
    stopped: Callable[[str], None]
    recovering: bool = False


class OrderSpans(Protocol):
    """Spans of orders on their way between nodes."""

    def received(self, received: Received) -> None: ...

    def sent(self, message: Send) -> bytes:
        """Return the payload to send."""
        ...

    def drained(self, drained: Drained) -> None: ...


class OutsideServices(Protocol):
    """Services beyond the node's own network."""

    def offer(self, service: str) -> None:
        """Serve a service of this node to callers outside."""
        ...

    def withdraw(self, service: str) -> None: ...

    async def ask(
        self, service: str, payload: Any, *, timeout: float, idempotent: bool
    ) -> CallResult:
        """Call a service that no node of the network offers."""
        ...


class NodePart:
    """Part of a running node that an annex adds; a subclass overrides what it needs.

    The life of a part: `attach`, then `may_start`, `join`, `joined`, `listen`, `start`, then `run` until the
    node has written its last commit, then `leave` and `close`.
    """

    name: ClassVar[str]
    gate: Gate | None = None  # holds what wants to leave the node
    carrier: GrenacheTransport | None = None  # of messages that cannot go over a direct link
    outside: OutsideServices | None = None
    order_tracer: OrderTracer | None = None
    order_spans: OrderSpans | None = None
    call_tracer: CallTracer | None = None
    around: Around | None = None  # step around all others of the API's requests

    def attach(self, node: Node) -> None:
        """All parts of the node exist; it is not running yet."""

    async def may_start(self) -> None:
        """Check if this machine may be the node now.

        Raises:
            StartError: it must not.
        """

    async def join(self) -> None:
        """The node is about to join the network.

        Raises:
            PortTaken: a port cannot be had.
        """

    async def joined(self) -> None:
        """The node listens for links.

        Raises:
            PortTaken: a port cannot be had.
        """

    async def listen(self) -> None:
        """The node is about to serve its API.

        Raises:
            StartError: with what is wrong and what to do.
        """

    def start(self) -> None:
        """The node runs from now on."""

    async def run(self) -> None:
        """Work beside the node, until cancelled."""

    async def leave(self) -> None:
        """The node leaves the network. Must be safe to call twice."""

    async def close(self) -> None:
        """The node's links and services are closed. Must be safe to call twice."""

    def traced(self, order: int, traceparent: str) -> None:
        """An own order got this trace context."""

    def warnings(self) -> Iterable[str]:
        """Warnings for the status report."""
        return ()

    def report(self, view: StatusView) -> None:
        """Fill in the part's fields of the status report."""

    def discovery(self, views: Sequence[DiscoveryView]) -> list[DiscoveryView]:
        """Return the discovery strategies' reports as they are to be shown."""
        return list(views)

    def banner(self) -> list[str]:
        """Lines to print when the node is ready."""
        return []

    def metrics(self, view: StatusView) -> Iterable[Metric]:
        """Figures for Prometheus; `view` is the status report of the same moment."""
        return ()
