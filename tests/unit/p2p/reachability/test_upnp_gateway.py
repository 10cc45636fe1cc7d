"""A UPnP router on loopback, honest and hostile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from xml.sax.saxutils import escape

import pytest
from aiohttp import web

from p2p.reachability import upnp_gateway
from p2p.reachability.upnp_gateway import MAX_BODY, MAX_REQUESTS, Gateway, find_gateway
from p2p.reachability.upnp_lease import UpnpRefused

HERE = "127.0.0.1"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


def argument(name: str, direction: str, kind: str) -> tuple[str, str]:
    variable = f"A_{name}"
    return (
        f"<argument><name>{name}</name><direction>{direction}</direction>"
        f"<relatedStateVariable>{variable}</relatedStateVariable></argument>",
        f'<stateVariable sendEvents="no"><name>{variable}</name><dataType>{kind}</dataType></stateVariable>',
    )


KEY = [("NewRemoteHost", "string"), ("NewExternalPort", "ui2"), ("NewProtocol", "string")]
ENTRY = [
    ("NewInternalPort", "ui2"),
    ("NewInternalClient", "string"),
    ("NewEnabled", "boolean"),
    ("NewPortMappingDescription", "string"),
    ("NewLeaseDuration", "ui4"),
]
ACTIONS = {
    "GetExternalIPAddress": ([], [("NewExternalIPAddress", "string")]),
    "AddPortMapping": ([*KEY, *ENTRY], []),
    "GetSpecificPortMappingEntry": (KEY, ENTRY),
    "DeletePortMapping": (KEY, []),
}


def service_document() -> str:
    actions, variables = "", {}
    for name, (given, returned) in ACTIONS.items():
        arguments = ""
        for each, direction in [*((a, "in") for a in given), *((a, "out") for a in returned)]:
            xml, variable = argument(each[0], direction, each[1])
            arguments += xml
            variables[variable] = None
        actions += f"<action><name>{name}</name><argumentList>{arguments}</argumentList></action>"
    return (
        '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0">'
        "<specVersion><major>1</major><minor>0</minor></specVersion>"
        f"<actionList>{actions}</actionList>"
        f"<serviceStateTable>{''.join(variables)}</serviceStateTable></scpd>"
    )


class Router:
    """HTTP and SSDP of an internet gateway device. `description` and the other attributes make it misbehave."""

    def __init__(self) -> None:
        self.entries: dict[int, dict[str, str]] = {}
        self.services = 1
        self.control = "/control"
        self.location = "http://127.0.0.1:{port}/root.xml"
        self.description: str | None = None
        self.refuses: tuple[int, str] | None = None
        self.requests = 0
        self.port = 0

    def root(self) -> str:
        service = (
            f"<service><serviceType>{SERVICE}</serviceType><serviceId>urn:x:serviceId:n</serviceId>"
            f"<SCPDURL>/scpd.xml</SCPDURL><controlURL>{self.control}</controlURL><eventSubURL>/e</eventSubURL></service>"
        )
        return (
            '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">'
            "<specVersion><major>1</major><minor>0</minor></specVersion><device>"
            "<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>"
            "<friendlyName>router</friendlyName><manufacturer>m</manufacturer><modelName>n</modelName>"
            f"<UDN>uuid:1</UDN><serviceList>{service * self.services}</serviceList></device></root>"
        )

    async def handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        if request.path == "/root.xml":
            return web.Response(text=self.description or self.root(), content_type="text/xml")
        if request.path == "/scpd.xml":
            return web.Response(text=service_document(), content_type="text/xml")
        if request.path == "/elsewhere":
            raise web.HTTPFound("http://127.0.0.2:1/")
        return self.act(request.headers["SOAPAction"], await request.text())

    def act(self, action: str, body: str) -> web.Response:
        name = action.strip('"').partition("#")[2]
        given = dict(re.findall(r"<(New\w+)>([^<]*)</New\w+>", body))
        if self.refuses:
            return self.fault(*self.refuses)
        answer: dict[str, str] = {}
        port = int(given.get("NewExternalPort", 0))
        if name == "GetExternalIPAddress":
            answer = {"NewExternalIPAddress": "198.51.100.7"}
        elif name == "AddPortMapping":
            self.entries[port] = given
        elif port not in self.entries:
            return self.fault(714, "NoSuchEntryInArray")
        elif name == "DeletePortMapping":
            del self.entries[port]
        else:
            answer = {each: self.entries[port][each] for each, _ in ENTRY}
        inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in answer.items())
        return web.Response(
            text=f'<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
            f'<u:{name}Response xmlns:u="{SERVICE}">{inner}</u:{name}Response></s:Body></s:Envelope>',
            content_type="text/xml",
        )

    def fault(self, code: int, reason: str) -> web.Response:
        return web.Response(
            status=500,
            text='<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
            "<faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
            f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
            f"<errorDescription>{reason}</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>",
            content_type="text/xml",
        )


class Announcer(asyncio.DatagramProtocol):
    """Answers searches."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        location = self.router.location.format(port=self.router.port)
        self.transport.sendto(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\n"
            f"LOCATION: {location}\r\nST: {upnp_gateway.SEARCH_TARGET}\r\nUSN: uuid:1\r\n\r\n".encode(),
            addr,
        )


@asynccontextmanager
async def running(router: Router) -> AsyncIterator[tuple[str, int]]:
    """Run the router; yields where it is searched."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", router.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, HERE, 0)
    await site.start()
    router.port = runner.addresses[0][1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Announcer(router), local_addr=(HERE, 0)
    )
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()
        await runner.cleanup()


async def find(router: Router) -> Gateway:
    async with running(router) as target:
        return await find_gateway(HERE, HERE, 3000, target=target)


async def test_a_port_is_mapped_looked_at_and_deleted() -> None:
    router = Router()
    async with running(router) as target:
        gateway = await find_gateway(HERE, HERE, 3000, target=target)
        assert await gateway.external_address() == "198.51.100.7"
        assert not await gateway.holds(3100)
        await gateway.add(3100, 7200)
        assert router.entries[3100]["NewInternalPort"] == "3000"
        assert router.entries[3100]["NewInternalClient"] == HERE
        assert router.entries[3100]["NewLeaseDuration"] == "7200"
        assert router.entries[3100]["NewRemoteHost"] == ""
        assert await gateway.holds(3100)
        router.entries[3100]["NewInternalClient"] = "192.168.1.9"
        assert not await gateway.holds(3100)
        await gateway.delete(3100)
        assert router.entries == {}


@pytest.mark.parametrize("code", [606, 718, 725])
async def test_a_refusal_has_the_code_and_the_reason_of_the_router(code: int) -> None:
    router = Router()
    async with running(router) as target:
        gateway = await find_gateway(HERE, HERE, 3000, target=target)
        router.refuses = code, "because"
        with pytest.raises(UpnpRefused, match=f"because \\({code}\\)") as refused:
            await gateway.add(3000, 7200)
        assert refused.value.code == code


ENTITIES = (
    '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<root>&b;</root>"
)


@pytest.mark.parametrize(
    "description",
    ["x", "<root/>", "<root>" + " " * MAX_BODY + "</root>", ENTITIES, "\x00" * 100],
    ids=["text", "empty", "too-long", "entities", "zeros"],
)
async def test_a_description_that_makes_no_sense_is_refused(description: str) -> None:
    router = Router()
    router.description = description
    with pytest.raises(UpnpRefused):
        await find(router)


async def test_a_device_with_documents_without_end_is_refused() -> None:
    router = Router()
    router.services = 1000
    with pytest.raises(UpnpRefused, match="more than"):
        await find(router)
    assert router.requests == MAX_REQUESTS


@pytest.mark.parametrize("control", ["http://127.0.0.2:1/control", "/elsewhere", "//127.0.0.2:1/"])
async def test_links_and_redirects_to_other_machines_are_not_followed(control: str) -> None:
    router = Router()
    router.control = control
    async with running(router) as target:
        with pytest.raises(UpnpRefused):
            await (await find_gateway(HERE, HERE, 3000, target=target)).add(3000, 7200)
    assert router.entries == {}


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:{port}/root.xml", "https://127.0.0.1:{port}/", "file:///etc/passwd", ""],
)
async def test_a_description_elsewhere_is_no_answer(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upnp_gateway, "SEARCH_TIME", 0.3)
    router = Router()
    router.location = location
    with pytest.raises(TimeoutError):
        await find(router)
    assert not router.requests


async def test_an_answer_of_another_machine_than_the_gateway_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upnp_gateway, "SEARCH_TIME", 0.3)
    router = Router()
    async with running(router) as target:
        with pytest.raises(TimeoutError):
            await find_gateway("127.0.0.3", HERE, 3000, target=target)
    assert not router.requests
