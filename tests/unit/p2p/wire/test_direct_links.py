"""Dialling and accepting over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from link_kit import WAY_NAMES, WAYS, Nodes, Recorder, framed, nodes, run, until

from p2p.base import places
from p2p.base.errors import Code, ConnectFailed, HandshakeRefused
from p2p.base.identity import Identity
from p2p.wire import direct_links, frame_transport
from p2p.wire.connection import PeerConnection
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.link import PeerInfo
from p2p.wire.messages import Codec
from tests.ports import free_port


def on_every_way(test: Callable[[Nodes], Awaitable[None]]) -> Callable[[bool, bool], None]:
    def body(secure: bool, fast: bool) -> None:
        async def inside() -> None:
            async with nodes(secure=secure) as made:
                await test(made)

        run(inside(), fast=fast)

    body.__name__, body.__doc__ = test.__name__, test.__doc__  # type: ignore[attr-defined]
    return pytest.mark.parametrize(("secure", "fast"), WAYS, ids=WAY_NAMES)(body)


GRACE = 0.2  # seconds, instead of CLOSE_GRACE


async def refused(dialling: Awaitable[Any]) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await dialling
    return caught.value


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@on_every_way
async def test_a_dial_gives_a_link_that_both_handlers_know(made: Nodes) -> None:
    a, b = await made.node(1), await made.node(2)
    link = await a.service.dial(*b.address, expect=b.node_id)
    assert a.handler.up == [link]
    await until(lambda: b.handler.up)
    assert b.handler.up[0].peer.listen_port == a.address[1]
    link.send(a.envelope())
    await until(lambda: b.handler.messages)


@on_every_way
async def test_names_are_resolved(made: Nodes) -> None:
    a, b = await made.node(1, listen=None), await made.node(2, listen="localhost")
    await a.service.dial("localhost", b.address[1])


@on_every_way
async def test_another_network_is_refused_and_the_dialler_reads_why(made: Nodes) -> None:
    a, b = await made.node(1, network="other"), await made.node(2)
    error = await refused(a.service.dial(*b.address))
    assert (error.code, error.by_us) == (Code.WRONG_NETWORK, False)
    assert "'test'" in error.reason
    assert a.handler.up == b.handler.up == []
    (warned,) = a.service.refusal_warnings()
    (there,) = b.service.refusal_warnings()
    for text, who in ((warned, "it refused this node"), (there, "refused by this node")):
        assert who in text
        assert "P2P_NETWORK" in text


@on_every_way
async def test_a_node_that_dials_itself_gets_the_reason(made: Nodes) -> None:
    a = await made.node(1)
    assert (await refused(a.service.dial(*a.address))).code is Code.SELF


@on_every_way
async def test_another_node_than_expected_is_refused_on_both_sides(
    made: Nodes,
) -> None:
    a, b = await made.node(1), await made.node(2)
    error = await refused(a.service.dial(*b.address, expect="a" * 32))
    assert (error.code, error.by_us) == (Code.WRONG_IDENTITY, True)
    await until(lambda: not b.service._pending)
    assert a.handler.up == b.handler.up == []


class Impostor(Identity):
    """Shows the node id and public key of another, and signs with its own key."""

    def __init__(self, own: Identity, victim: Identity) -> None:
        super().__init__(own.private_key)
        self.public_key, self.node_id = victim.public_key, victim.node_id


@on_every_way
async def test_an_impostor_is_refused_as_dialler_and_as_listener(made: Nodes) -> None:
    own, victim = (Identity.from_seed(bytes([n]) * 32) for n in (7, 8))
    a, liar = await made.node(1), await made.node(0, identity=Impostor(own, victim))
    error = await refused(liar.service.dial(*a.address))
    assert (error.code, error.by_us) == (Code.WRONG_IDENTITY, False)
    error = await refused(a.service.dial(*liar.address, expect=victim.node_id))
    assert (error.code, error.by_us) == (Code.WRONG_IDENTITY, True)
    assert a.handler.up == []


@on_every_way
async def test_a_refused_admission_reaches_the_dialler_as_such(made: Nodes) -> None:
    asked: list[PeerInfo] = []

    def full(peer: PeerInfo) -> tuple[Code, str]:
        asked.append(peer)
        return Code.FULL, "no slot left"

    a, b = await made.node(1), await made.node(2, admit=full)
    error = await refused(a.service.dial(*b.address))
    assert (error.code, error.by_us) == (Code.FULL, False)
    assert [peer.node_id for peer in asked] == [a.node_id]  # proven before it was asked about
    assert a.handler.up == b.handler.up == []


@on_every_way
async def test_the_dialling_sides_refusal_reaches_the_accepting_one(made: Nodes) -> None:
    a, b = await made.node(1, admit=lambda peer: (Code.DUPLICATE, "kept")), await made.node(2)
    error = await refused(a.service.dial(*b.address))
    assert (error.code, error.by_us) == (Code.DUPLICATE, True)
    await until(lambda: b.handler.down)
    assert b.handler.codes == [Code.DUPLICATE]
    assert a.handler.up == a.handler.down == []


@on_every_way
async def test_stop_sends_goodbye_to_every_peer_and_frees_the_port(made: Nodes) -> None:
    a, b, c = [await made.node(n) for n in (1, 2, 3)]
    await a.service.dial(*c.address)
    await b.service.dial(*c.address)
    await until(lambda: len(c.handler.up) == 2)
    c.handler.up[0].send(c.envelope(1, size=300_000))
    await c.service.stop()
    assert c.handler.codes == [Code.SHUTDOWN] * 2
    await until(lambda: a.handler.down and b.handler.down)
    assert a.handler.codes == b.handler.codes == [Code.SHUTDOWN]
    assert len(a.handler.messages) + len(b.handler.messages) == 1  # flushed before the goodbye
    with pytest.raises(ConnectFailed):
        await a.service.dial(*c.address)
    with pytest.raises(ConnectFailed, match="stopping"):
        await c.service.dial(*a.address)


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (direct_links, frame_transport):
        monkeypatch.setattr(module, "CLOSE_GRACE", GRACE)


@pytest.mark.usefixtures("grace")
@on_every_way
async def test_stop_does_not_wait_for_a_peer_that_does_not_read(made: Nodes) -> None:
    a, b = await made.node(1), await made.node(2)
    link = await a.service.dial(*b.address)
    await until(lambda: b.handler.up)
    other = b.handler.up[0]
    assert isinstance(other, PeerConnection)
    assert other._transport is not None
    await asyncio.sleep(0.01)  # a turn that is due would resume it
    other._transport.pause_reading()
    while link.outbox_bytes < 1_000_000:
        link.send(a.envelope(size=60_000))
        await asyncio.sleep(0)
    begin = asyncio.get_running_loop().time()
    await a.service.stop()
    assert asyncio.get_running_loop().time() - begin < GRACE + 1
    assert a.handler.codes == [Code.SHUTDOWN]


@on_every_way
async def test_a_missing_answer_is_reported_with_the_address(made: Nodes) -> None:
    a = await made.node(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{free}"):
        await a.service.dial("127.0.0.1", free)
    with pytest.raises(ConnectFailed, match=r"no-such-host\.invalid:1"):
        await a.service.dial("no-such-host.invalid", 1)


@on_every_way
async def test_a_silent_listener_times_out(made: Nodes) -> None:
    original, direct_links.HANDSHAKE_TIMEOUT = direct_links.HANDSHAKE_TIMEOUT, 0.2  # type: ignore[misc]
    try:
        a = await made.node(1)
        silent = socket.create_server(("127.0.0.1", 0))
        with silent, pytest.raises(ConnectFailed, match=r"handshake in 0\.2 s"):
            await a.service.dial(*silent.getsockname())
    finally:
        direct_links.HANDSHAKE_TIMEOUT = original  # type: ignore[misc]
    assert a.handler.up == a.handler.down == []


@on_every_way
async def test_a_silent_stranger_is_dropped_in_time(made: Nodes) -> None:
    original, direct_links.HANDSHAKE_TIMEOUT = direct_links.HANDSHAKE_TIMEOUT, 0.2  # type: ignore[misc]
    try:
        a = await made.node(1)
        reader, writer = await asyncio.open_connection(*a.address)
        bytes_received = await asyncio.wait_for(reader.read(), 3)
        assert made.secure or b'"timeout"' in bytes_received
        writer.close()
        assert not a.service._pending
        await until(lambda: not a.service._connections)
    finally:
        direct_links.HANDSHAKE_TIMEOUT = original  # type: ignore[misc]


def _ended(stalling: socket.socket) -> bool:
    stalling.setblocking(False)
    try:
        return not stalling.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


@on_every_way
async def test_connections_of_one_address_displace_each_other_alone(made: Nodes) -> None:
    group = places.address_group
    places.address_group = lambda a: group(a) or f"of {a}"  # type: ignore[assignment]
    opened: list[socket.socket] = []
    try:
        b = await made.node(1)
        honest = socket.create_connection(b.address, source_address=("127.0.0.3", 0))
        opened.append(honest)
        for _ in range(200):
            opened.append(socket.create_connection(b.address, source_address=("127.0.0.2", 0)))
            await asyncio.sleep(0)
        await until(lambda: sum(map(_ended, opened)) >= 190)
        assert not _ended(honest)
    finally:
        places.address_group = group
        for each in opened:
            each.close()


@on_every_way
async def test_strangers_that_stall_do_not_keep_others_out(made: Nodes) -> None:
    original, direct_links.MAX_PENDING_HANDSHAKES = direct_links.MAX_PENDING_HANDSHAKES, 4  # type: ignore[misc]
    stalling: list[socket.socket] = []
    try:
        a, b = await made.node(1), await made.node(2)
        for _ in range(12):
            stalling.append(socket.create_connection(b.address))  # noqa: PERF401
        await until(lambda: len(b.service._pending) >= 4)
        await a.service.dial(*b.address)
        assert len(b.service._pending) <= 5
        await until(lambda: sum(map(_ended, stalling)) >= 8)  # those displaced are closed
    finally:
        direct_links.MAX_PENDING_HANDSHAKES = original  # type: ignore[misc]
        for each in stalling:
            each.close()


@pytest.mark.parametrize("fast", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("dialler_secure", [False, True], ids=["plain to TLS", "TLS to plain"])
def test_tls_on_one_side_only_is_explained(
    dialler_secure: bool, fast: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "p2p.wire.direct_links")

    async def inside() -> None:
        async with nodes(secure=dialler_secure) as ours, nodes(secure=not dialler_secure) as theirs:
            a, b = await ours.node(1), await theirs.node(2)
            with pytest.raises(ConnectFailed) as caught:
                await a.service.dial(*b.address)
            if dialler_secure:
                assert "does not speak TLS; is P2P_SECURITY=off there?" in str(caught.value)
            else:
                assert "does it demand TLS? P2P_SECURITY is off here" in str(caught.value)
            await until(lambda: "TLS" in caplog.text)
            await until(lambda: any("P2P_SECURITY" in w for w in a.service.refusal_warnings()))
            if dialler_secure:  # strangers that do not speak TLS are everyday
                await until(lambda: any("are TLS" in w for w in b.service.refusal_warnings()))
            c = await theirs.node(3)
            await c.service.dial(*b.address)  # nothing broke

    run(inside(), fast=fast)
    bytes_received = "these bytes are TLS" if dialler_secure else "does not speak TLS"
    assert bytes_received in caplog.text


def test_a_goodbye_before_the_handshake_is_json_that_anyone_can_read() -> None:
    async def inside() -> None:
        async with nodes(secure=False) as made:
            a = await made.node(1)
            reader, writer = await asyncio.open_connection(*a.address)
            writer.write(framed(b'{"type":"hello"}'))
            length = int.from_bytes(await reader.readexactly(4), "big")
            goodbye = msgspec.json.decode(await reader.readexactly(length))
            assert goodbye["type"] == "goodbye"
            assert goodbye["from"] == a.node_id
            assert goodbye["payload"]["code"] == "malformed"
            writer.close()

    run(inside())


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine's loopback")
@on_every_way
async def test_ipv6_is_spoken(made: Nodes) -> None:
    a, b = await made.node(1, listen="::1"), await made.node(2, listen="::1")
    link = await a.service.dial("::1", b.address[1])
    assert link.peer.address == "::1"


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine's loopback")
@on_every_way
async def test_each_unspecified_address_takes_both_kinds(made: Nodes) -> None:
    a = await made.node(1)
    for number, host in ((2, "::"), (3, "0.0.0.0")):
        b = await made.node(number, listen=host)
        for count, loopback in enumerate(("127.0.0.1", "::1"), 1):
            link = await a.service.dial(loopback, b.address[1])
            await until(lambda b=b, count=count: len(b.handler.up) == count)  # type: ignore[misc]
            assert b.handler.up[-1].peer.address == loopback
            link.close(Code.SHUTDOWN)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine's loopback")
@on_every_way
async def test_a_port_that_is_taken_for_ipv6_alone_leaves_ipv4(made: Nodes) -> None:
    with socket.create_server(("::", free_port()), family=socket.AF_INET6) as taken:
        a, b = await made.node(1), await made.node(2, listen=None)
        _, port = await b.service.start("0.0.0.0", taken.getsockname()[1])
        await a.service.dial("127.0.0.1", port)


def test_a_taken_port_is_an_oserror_and_leaves_nothing_open() -> None:
    async def inside() -> None:
        async with nodes(secure=False) as made:
            a = await made.node(1)
            b = await made.node(2, listen=None)
            with pytest.raises(OSError, match="in use"):
                await b.service.start(*a.address)
            assert (await b.service.start("127.0.0.1", 0))[1] != a.address[1]

    run(inside())


def test_nodes_that_dial_each_other_at_once_both_get_an_answer() -> None:
    """The peer manager decides which link stays; here both do, and nothing hangs."""

    async def inside() -> None:
        async with nodes(secure=True) as made:
            a, b = await made.node(1), await made.node(2)
            links = await asyncio.gather(
                a.service.dial(*b.address, expect=b.node_id),
                b.service.dial(*a.address, expect=a.node_id),
            )
            assert [link.peer.node_id for link in links] == [b.node_id, a.node_id]
            await until(lambda: len(a.handler.up) == len(b.handler.up) == 2)

    run(inside())


def test_a_dial_that_is_cancelled_leaves_nothing_behind() -> None:
    async def inside() -> None:
        async with nodes(secure=False) as made:
            a = await made.node(1)
            with socket.create_server(("127.0.0.1", 0)) as silent:
                dialling = asyncio.ensure_future(a.service.dial(*silent.getsockname()))
                await until(lambda: a.service._connections)
                dialling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await dialling
                await until(lambda: not a.service._connections)

    run(inside())


def test_secrets_stay_out_of_representations() -> None:
    identity = Identity.generate()
    service = DirectConnectionService(
        identity,
        Recorder(),
        Codec(),
        LinkSettings("n", True, ""),
    )
    assert identity.private_key.private_bytes_raw().hex() not in repr(vars(service))


# Streams that something else carries


def socket_pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@on_every_way
async def test_a_link_over_a_stream_that_is_there_already(made: Nodes) -> None:
    a, b = await made.node(1, listen=None), await made.node(2)
    near, far = socket_pair()
    greeting = b.service.accept_over(far, "192.0.2.1")
    link = await a.service.dial_over(near, ("192.0.2.2", 3100), expect=b.node_id)
    assert await greeting
    assert link.peer.dialled == ("192.0.2.2", 3100)
    assert (link.peer.carrier, link.peer.address) == ("grenache", "192.0.2.2")
    other = b.handler.up[0].peer
    assert (other.carrier, other.address, other.dialled) == ("grenache", "192.0.2.1", None)
    # Where each accepts TCP links, if anywhere, is told over any carrier.
    assert (link.peer.listen_port, other.listen_port) == (b.address[1], 0)
    link.send(a.envelope())
    await until(lambda: b.handler.messages)


@on_every_way
async def test_a_dialled_address_is_on_the_record_of_a_direct_link(made: Nodes) -> None:
    a, b = await made.node(1), await made.node(2)
    link = await a.service.dial(*b.address)
    assert (link.peer.dialled, link.peer.carrier) == (b.address, "tcp")


@on_every_way
async def test_a_silent_stranger_over_a_stream_differs_from_a_link(made: Nodes) -> None:
    a = await made.node(1)
    ours, theirs = socket_pair()
    with ours:
        greeting = a.service.accept_over(theirs, "192.0.2.1")
        await asyncio.sleep(0)
        ours.shutdown(socket.SHUT_WR)
        assert not await greeting
    assert a.handler.up == []


@on_every_way
async def test_streams_are_closed_when_the_node_stops(made: Nodes) -> None:
    a = await made.node(1)
    await a.service.stop()
    for accepts in (True, False):
        ours, theirs = socket_pair()
        with ours:
            if accepts:
                greeting = a.service.accept_over(theirs, "192.0.2.1")
                with pytest.raises(asyncio.CancelledError):
                    await greeting
            else:
                with pytest.raises(ConnectFailed, match="stopping"):
                    await a.service.dial_over(theirs, ("192.0.2.2", 3100))
            assert theirs.fileno() == -1


def test_a_silent_address_of_a_name_costs_a_fraction_of_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def inside() -> None:
        async with nodes(secure=True) as made:
            a, b = await made.node(1), await made.node(2)
            port = b.address[1]
            loop = asyncio.get_running_loop()
            with contextlib.ExitStack() as stack:
                silent = stack.enter_context(socket.socket())
                silent.bind(("127.0.0.2", port))
                silent.listen(0)
                for _ in range(4):  # its queue is full: it answers no more
                    filler = stack.enter_context(socket.socket())
                    filler.setblocking(False)
                    filler.connect_ex(("127.0.0.2", port))

                async def both(host: str, port: int, **_: Any) -> list[Any]:
                    return [
                        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port))
                        for last in (2, 1)
                    ]

                monkeypatch.setattr(loop, "getaddrinfo", both)
                started = loop.time()
                link = await a.service.dial("two.example", port, expect=b.node_id)
                assert 0.2 < loop.time() - started < 2.0
                assert link.peer.node_id == b.node_id

    run(inside(), fast=False)


@on_every_way
async def test_a_name_none_of_whose_addresses_answers_fails_with_the_reason(made: Nodes) -> None:
    a = await made.node(1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed, match=f"localhost:{port}: "):
        await a.service.dial("localhost", port)
