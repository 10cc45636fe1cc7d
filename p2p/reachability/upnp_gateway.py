"""A router's UPnP services through `async_upnp_client` (extra `upnp`), with bounds on all that it sends.

Only the default gateway is believed: its answer to the search, and URLs at its address. A router may send
`MAX_BODY` bytes for each of `MAX_REQUESTS` documents, and the library parses XML without entities. Links elsewhere,
redirects and longer documents end the attempt.
"""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from p2p.base.reach import is_other_service
from p2p.reachability.upnp_lease import UpnpRefused

if TYPE_CHECKING:
    import aiohttp
    from async_upnp_client.client import UpnpService

SSDP: Final = ("239.255.255.250", 1900)
# Newer ones answer too
SEARCH_TARGET: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SEARCH_TIME: Final = 3.0  # seconds
CONNECTIONS: Final = tuple(
    f"urn:schemas-upnp-org:service:{name}"
    for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
MAX_BODY: Final = 256 * 1024  # bytes
# Until a gateway is found: a description and one document for each service
MAX_REQUESTS: Final = 32
HTTP_PORTS: Final = (80, 1900)  # of routers, besides those that are no other service's
REQUEST_TIME: Final = 10.0  # seconds; the standard allows a router 30
DESCRIPTION: Final = "exchange-node"
NO_SUCH_ENTRY: Final = 714


def is_installed() -> bool:
    """Return True if the extra `upnp` is installed."""
    return importlib.util.find_spec("async_upnp_client") is not None


async def find_gateway(
    gateway: str, client: str, port: int, *, target: tuple[str, int] = SSDP
) -> Gateway:
    """Search for the gateway's UPnP device and return its connection to the internet.

    Args:
        gateway: address of the default gateway; others are not believed.
        client: own address towards it, to which `port` is mapped.
        target: where the search is sent.

    Raises:
        TimeoutError: no answer.
        OSError: no socket, or no connection to the device.
        UpnpRefused: it answered as no router should, or has no such service.
    """
    from async_upnp_client.client_factory import UpnpFactory
    from async_upnp_client.exceptions import UpnpError

    location = await _search(gateway, client, target)
    requester = _requester(gateway)
    try:
        device = await UpnpFactory(requester, non_strict=True).async_create_device(location)
    except UpnpError as error:
        raise UpnpRefused(0, str(error) or type(error).__name__) from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise UpnpRefused(0, f"its description makes no sense: {error}") from error
    services = {service.service_type: service for service in device.all_services}
    for name in CONNECTIONS:
        service = services.get(name)
        if service is not None and service.has_action("AddPortMapping"):
            requester.left = 0  # from now on single actions, each bounded
            requester.actions = True
            return Gateway(service, client, port)
    raise UpnpRefused(0, "it has no connection that maps ports")


class Gateway:
    """Implementation of `p2p.reachability.upnp_lease.UpnpGateway`."""

    def __init__(self, service: UpnpService, client: str, port: int) -> None:
        self._service = service
        self._client = client
        self._port = port

    async def external_address(self) -> str:
        result = await self._call("GetExternalIPAddress")
        return str(result.get("NewExternalIPAddress") or "")

    async def add(self, external: int, lifetime: int) -> None:
        await self._call(
            "AddPortMapping",
            NewRemoteHost="",
            NewExternalPort=external,
            NewProtocol="TCP",
            NewInternalPort=self._port,
            NewInternalClient=self._client,
            NewEnabled=True,
            NewPortMappingDescription=DESCRIPTION,
            NewLeaseDuration=lifetime,
        )

    async def holds(self, external: int) -> bool:
        try:
            entry = await self._call(
                "GetSpecificPortMappingEntry",
                NewRemoteHost="",
                NewExternalPort=external,
                NewProtocol="TCP",
            )
        except UpnpRefused as error:
            if error.code == NO_SUCH_ENTRY:
                return False
            raise
        same_port = entry.get("NewInternalPort") == self._port
        return same_port and entry.get("NewInternalClient") == self._client

    async def delete(self, external: int) -> None:
        await self._call(
            "DeletePortMapping", NewRemoteHost="", NewExternalPort=external, NewProtocol="TCP"
        )

    async def _call(self, action: str, **arguments: Any) -> dict[str, Any]:
        from async_upnp_client.exceptions import UpnpActionError, UpnpError

        if not self._service.has_action(action):
            raise UpnpRefused(0, f"it lacks {action}")
        try:
            return dict(await self._service.action(action).async_call(**arguments))
        except UpnpActionError as error:
            code = int(error.error_code or 0)
            reason = (error.error_desc or "").strip()[:100] or "no reason"
            raise UpnpRefused(code, f"{reason} ({code})") from error
        except UpnpError as error:
            raise UpnpRefused(0, str(error)[:200] or type(error).__name__) from error
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise UpnpRefused(0, f"its answer makes no sense: {error}") from error


async def _search(gateway: str, client: str, target: tuple[str, int]) -> str:
    """Return the URL of the gateway's description."""
    from async_upnp_client.search import SsdpSearchListener

    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def answered(headers: Any) -> None:
        location = str(headers.get("location") or "")
        if headers.get("_host") == gateway and not found.done() and _is_of(location, gateway):
            found.set_result(location)

    listener = SsdpSearchListener(
        callback=answered,
        connect_callback=lambda: listener.async_search(),
        source=(client, 0),
        target=target,
        search_target=SEARCH_TARGET,
        timeout=2,
    )
    await listener.async_start()
    try:
        async with asyncio.timeout(SEARCH_TIME):
            return await found
    finally:
        listener.async_stop()


def _is_of(url: str, gateway: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        port = parts.port or HTTP_PORTS[0]
        fits = port in HTTP_PORTS or not is_other_service(port)
        return parts.scheme == "http" and parts.hostname == gateway and fits and len(url) < 500
    return False


def _requester(gateway: str) -> Any:
    import aiohttp  # as late as the library that needs it: it is a tenth of a node's start
    from async_upnp_client.client import UpnpRequester
    from async_upnp_client.const import HttpRequest, HttpResponse
    from async_upnp_client.exceptions import UpnpConnectionError, UpnpConnectionTimeoutError

    class Requester(UpnpRequester):
        """HTTP requests to one host, bounded in number, size and time."""

        left = MAX_REQUESTS
        actions = False

        async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
            if not _is_of(http_request.url, gateway):
                raise UpnpRefused(0, f"it refers to {http_request.url[:100]!r}")
            if not self.actions:
                self.left -= 1
                if self.left < 0:
                    raise UpnpRefused(0, f"it has more than {MAX_REQUESTS} documents")
            timeout = aiohttp.ClientTimeout(total=REQUEST_TIME)
            try:
                async with (
                    aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                    session.request(
                        http_request.method,
                        http_request.url,
                        headers={**http_request.headers, "Accept-Encoding": "identity"},
                        data=http_request.body,
                        allow_redirects=False,
                    ) as response,
                ):
                    body = await _bounded(response.content)
                    return HttpResponse(response.status, response.headers, body)
            except TimeoutError as error:
                raise UpnpConnectionTimeoutError("no answer in time") from error
            except aiohttp.ClientError as error:
                raise UpnpConnectionError(str(error)) from error

    return Requester()


async def _bounded(content: aiohttp.StreamReader) -> str:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise UpnpRefused(0, f"a document is longer than {MAX_BODY} bytes")
    return body.decode("utf-8", "replace")
