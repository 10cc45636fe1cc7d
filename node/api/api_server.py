"""The API of a node's service, and its life on a socket."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from node.api.access import AccessControl, AccessRules, is_loopback
from node.api.node_service import NodeService
from node.api.problems import no_route, refusal_of
from node.api.rest import add_routes
from node.api.stream_socket import add_stream
from node.api.web_page import add_documents, add_page
from node.api.worker_socket import add_worker
from node.http.api_tls import Tls
from node.http.http_server import Application, Around, HttpServer
from node.http.request_figures import RequestFigures
from node.http.request_guard import RequestGuard
from node.operations.public_operations import GET_HEALTH, GET_READY
from node.parts.table import annexes

log = logging.getLogger("node.api")

PROBES: Final = frozenset({GET_HEALTH.name, GET_READY.name})  # of load balancers


def make_application(
    service: NodeService,
    *,
    hosts: Iterable[str] = (),
    rules: AccessRules | None = None,
    figures: RequestFigures | None = None,
    outermost: Sequence[Around] = (),
) -> Application:
    """The API of `service`. `hosts` are names besides the loopback ones that clients may use. `outermost`:
    steps around all others, the first one outside."""
    rules = rules or AccessRules()
    guard = RequestGuard(hosts, service.node_id, PROBES)
    application = Application(no_route, refusal_of, guard.check, figures)
    door = AccessControl(service.accounts, rules)
    add_routes(application, service, door)
    add_stream(application, service, door)
    add_worker(application, service, door)
    for annex in annexes():
        if annex.application:
            annex.load(annex.application)(application, service, rules)
    add_page(application)
    add_documents(application, keys_required=rules.keys_required)
    for around in reversed(outermost):
        application.surround(around)
    return application


class ApiServer:
    """Serves one node's API until it is stopped."""

    def __init__(
        self,
        service: NodeService,
        *,
        rules: AccessRules | None = None,
        tls: Tls | None = None,
        outermost: Sequence[Around] = (),
    ) -> None:
        """`outermost`: see `make_application`."""
        self._service = service
        self._rules = rules or AccessRules()
        self._tls = tls
        self._outermost = outermost
        self.figures = RequestFigures()
        self._server: HttpServer | None = None
        self.url = ""

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the certificate, hex; None without TLS."""
        return None if self._tls is None else self._tls.fingerprint

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listens on `host`:`port` (0: a free port) and returns the URL for clients on this machine.

        Raises:
            OSError: the address cannot be bound.
        """
        if self._server is not None:
            raise RuntimeError("the API is already started")
        host = host.strip("[]")
        if host.lower().rstrip(".") == "localhost":
            host = "127.0.0.1"  # one socket, one port: port 0 would get another for each family
        names = frozenset[str]() if self._tls is None else self._tls.names
        application = make_application(
            self._service,
            hosts=[host, *names],
            rules=self._rules,
            figures=self.figures,
            outermost=self._outermost,
        )
        server = HttpServer(application, more=2 * self._rules.max_streams)
        context = None if self._tls is None else self._tls.context
        try:
            bound, port = await server.start(host, port, context)
        except BaseException:
            await server.stop()
            raise
        self._server = server
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://{_reachable(host, bound)}:{port}"
        if not is_loopback(bound) and self._tls is None:
            log.warning(
                "the API listens on %s without TLS: %s",
                host,
                "anyone on the network path can read its clients' keys"
                if self._rules.plain_keys
                else "keys from other machines are refused",
            )
        return self.url

    async def stop(self) -> None:
        """Closes streams and connections; requests in progress get a few seconds. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()


def _reachable(host: str, bound: str) -> str:
    """`host` as it goes into a URL for this machine: a wildcard address becomes loopback."""
    if bound == "0.0.0.0":
        return "127.0.0.1"
    if bound == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
