"""Links over tunnels whose requests stay in this process: faults, limits, endings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from link_kit import number, run, until
from tunnel_kit import SERVICE, Asked, Network, Pair, network, pair

from p2p.base.errors import Code, ConnectFailed, HandshakeRefused
from p2p.base.limits import MAX_FRAME
from p2p.grenache.errors import RemoteError
from p2p.grenache_links import tunnel, tunnel_carrier
from p2p.grenache_links.tunnel import BUFFER, WINDOW, TunnelRequest, to_json
from p2p.grenache_links.tunnel_carrier import TunnelCarrier
from p2p.wire import direct_links
from p2p.wire.connection import PeerConnection
from p2p.wire.link import PeerInfo

Make = Callable[[], Any]


def in_a_loop(test: Callable[[Any], Awaitable[None]], secure: bool, fast: bool) -> None:
    """Run with a linked pair, or, if the test's argument is called `net`, with a network."""
    make = network if "net" in test.__annotations__ else pair

    async def inside() -> None:
        async with make(secure=secure) as made:
            await test(made)

    run(inside(), fast=fast)


def on_every_way(test: Callable[[Any], Awaitable[None]]) -> Callable[[bool, bool], None]:
    def body(secure: bool, fast: bool) -> None:
        in_a_loop(test, secure, fast)

    body.__name__, body.__doc__ = test.__name__, test.__doc__  # type: ignore[attr-defined]
    ways = [
        (True, True),
        (False, False),
    ]  # the bytes below, the loop around: no more depends on them
    return pytest.mark.parametrize(("secure", "fast"), ways, ids=["tls-uvloop", "plain-asyncio"])(
        body
    )


def once(test: Callable[[Any], Awaitable[None]]) -> Callable[[], None]:
    """In virtual time alone, for a test that takes seconds."""

    def body() -> None:
        in_a_loop(test, secure=True, fast=False)

    body.__name__, body.__doc__ = test.__name__, test.__doc__  # type: ignore[attr-defined]
    return body


@contextlib.contextmanager
def patched(module: Any, **values: Any) -> Any:
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


async def dial_fails(net: Network, **options: Any) -> Exception:
    one, two = await net.node(1), await net.node(2, **options)
    with pytest.raises((ConnectFailed, HandshakeRefused)) as caught:
        await one.carrier.dial(*two.address)
    return caught.value


# What a link over a tunnel is


@on_every_way
async def test_each_side_knows_the_peer_and_the_carrier_of_the_link(p: Pair) -> None:
    left, right = p.left_link.peer, p.right_link.peer
    assert (left.node_id, right.node_id) == (p.right.node.node_id, p.left.node.node_id)
    assert (left.carrier, right.carrier) == ("grenache", "grenache")
    assert (left.address, right.address) == ("192.0.2.2", "192.0.2.1")
    assert (left.dialled, right.dialled) == (("192.0.2.2", 3100), None)
    assert (left.listen_port, right.listen_port) == (0, 0)  # neither listens for TCP
    assert left.encrypted == right.encrypted == p.network.made.secure


@on_every_way
async def test_messages_of_every_size_arrive_in_order_both_ways(p: Pair) -> None:
    sizes = [0, 1, 1000, 100_000, MAX_FRAME - 1000, 10]
    for n, size in enumerate(sizes):
        p.left_link.send(p.left.node.envelope(n, size=size))
        p.right_link.send(p.right.node.envelope(n, size=size))
    for node in (p.left.node, p.right.node):
        await until(lambda node=node: len(node.handler.messages) == len(sizes))
        assert [number(each) for each in node.handler.messages] == list(range(len(sizes)))


@on_every_way
async def test_heartbeats_and_their_round_trip_times_go_over_it(p: Pair) -> None:
    await until(lambda: p.left_link.stats.rtt is not None and p.right_link.stats.rtt is not None)
    assert 0.0 < p.left_link.stats.rtt < 1.0


@on_every_way
async def test_lost_doubled_and_late_requests_lose_no_message(p: Pair) -> None:
    with patched(tunnel, TIMEOUT=0.1, DATA_TIMEOUT=0.1, HOLD=0.2):
        p.requests.loss, p.requests.doubling, p.requests.delay = 0.1, 0.2, 0.01
        for n in range(300):
            p.left_link.send(p.left.node.envelope(n, size=n * 10))
            p.right_link.send(p.right.node.envelope(n, size=n * 10))
            if n % 10 == 0:
                await asyncio.sleep(0.001)
        for node in (p.left.node, p.right.node):
            await until(lambda node=node: len(node.handler.messages) == 300, 60)
            assert [number(each) for each in node.handler.messages] == list(range(300))
        p.requests.loss = p.requests.doubling = p.requests.delay = 0.0


@on_every_way
async def test_a_peer_that_does_not_read_holds_the_sender_up_not_the_memory(p: Pair) -> None:
    for link, other, node in (
        (p.left_link, p.right_link, p.left.node),
        (p.right_link, p.left_link, p.right.node),
    ):
        assert other._transport is not None
        other._transport.pause_reading()
        sent = 0
        while link.outbox_bytes < 2_000_000:
            link.send(node.envelope(sent, size=50_000))
            sent += 1
            await asyncio.sleep(0.001)
        assert sent * 50_000 < 2_000_000 + BUFFER + WINDOW + 4 * 1024 * 1024
        tunnels = [
            *p.left.carrier._dialled,
            *p.right.carrier._answered.values(),
        ]
        assert all(len(each._core.unread) <= WINDOW for each in tunnels)
        waiting = asyncio.create_task(link.drain())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        other._transport.resume_reading()
        await waiting
    await until(lambda: p.left_link.outbox_bytes == p.right_link.outbox_bytes == 0)


@once
async def test_an_idle_link_polls_seldom(p: Pair) -> None:
    await asyncio.sleep(0.3)  # both have said their first heartbeats
    before = p.requests.made
    await asyncio.sleep(2.0)
    # In 2 s: one heartbeat and its echo each way, and the hold of a poll at most.
    assert p.requests.made - before <= 8


# Who is let in


@on_every_way
async def test_another_node_than_expected_is_refused(net: Network) -> None:
    one, two = await net.node(1), await net.node(2)
    with pytest.raises(HandshakeRefused) as caught:
        await one.carrier.dial(*two.address, expect="a" * 32)
    assert (caught.value.code, caught.value.by_us) == (Code.WRONG_IDENTITY, True)
    await until(lambda: not one.carrier.tunnels and not two.carrier.tunnels)
    assert one.node.handler.up == two.node.handler.up == []


@on_every_way
async def test_a_refusal_reaches_the_dialling_side_with_its_code(net: Network) -> None:
    asked: list[PeerInfo] = []

    def full(peer: PeerInfo) -> tuple[Code, str]:
        asked.append(peer)
        return Code.FULL, "no slot left"

    error = await dial_fails(net, admit=full)
    assert isinstance(error, HandshakeRefused)
    assert (error.code, error.by_us) == (Code.FULL, False)
    assert [(peer.carrier, peer.address) for peer in asked] == [("grenache", "192.0.2.1")]


@on_every_way
async def test_a_node_that_dials_itself_gets_the_reason(net: Network) -> None:
    one = await net.node(1)
    with pytest.raises(HandshakeRefused) as caught:
        await one.carrier.dial(*one.address)
    assert caught.value.code is Code.SELF


@on_every_way
async def test_a_closed_port_is_reported_at_once_with_the_address(net: Network) -> None:
    one = await net.node(1)
    async with asyncio.timeout(1):
        with pytest.raises(ConnectFailed, match=r"192\.0\.2\.9:3100 over Grenache: .*refused"):
            await one.carrier.dial("192.0.2.9", 3100)
    assert one.carrier.tunnels == 0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("hello", "no node answers there"),
        (None, "no node answers there"),
        ({"ack": 10**6, "limit": 10}, "acknowledged"),
        (RemoteError("ERR_MY_APP"), "ERR_MY_APP"),
        (RemoteError("ERR_UNKNOWN_SERVICE: not served here"), "ERR_UNKNOWN_SERVICE"),
    ],
)
def test_a_worker_that_is_no_node_is_found_out_at_once(answer: Any, text: str) -> None:
    async def other(question: Asked) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def inside() -> None:
        async with network() as net, asyncio.timeout(2):
            one = await net.node(1)
            net.requests.workers["192.0.2.7", 1] = other
            with pytest.raises(ConnectFailed, match=text):
                await one.carrier.dial("192.0.2.7", 1)

    run(inside())


def test_a_busy_worker_is_tried_again() -> None:
    async def inside() -> None:
        async with network() as net:
            one, two = await net.node(1), await net.node(2)
            refusals = 3

            async def busy(question: Asked) -> Any:
                nonlocal refusals
                refusals -= 1
                if refusals >= 0:
                    raise RemoteError("ERR_BUSY: try again in 0.100 s")
                return await two.carrier.answer(question)

            net.requests.workers[two.address] = busy
            await one.carrier.dial(*two.address)

    run(inside())


# Strangers and limits


def opening(n: int, **fields: Any) -> Any:
    return to_json(TunnelRequest(f"{n:032x}", 0, 1000, 0, open=True, **fields))


def test_strangers_are_few_and_the_oldest_goes_first() -> None:
    async def inside() -> None:
        async with pair() as p:
            answer = p.right.carrier.answer
            for n in range(100):
                await answer(Asked(opening(n), ("198.51.100.0", 5)))
                assert p.right.carrier.tunnels <= tunnel_carrier.MAX_STRANGERS_PER_HOST + 1
            with pytest.raises(RemoteError, match="ERR_TUNNEL_UNKNOWN"):
                await answer(
                    Asked(to_json(TunnelRequest(f"{0:032x}", 0, 0, 0)), ("198.51.100.0", 5))
                )
            for n in range(200, 300):
                await answer(Asked(opening(n), (f"203.0.113.{n}", 5)))
            assert p.right.carrier.tunnels == tunnel_carrier.MAX_STRANGERS + 1
            # Who was let in is not pushed out.
            p.left_link.send(p.left.node.envelope(7))
            await until(lambda: p.right.node.handler.messages)

    run(inside())


def test_silent_strangers_are_disconnected_in_time() -> None:
    async def inside() -> None:

        async with network() as net:
            one = await net.node(1)
            with patched(direct_links, HANDSHAKE_TIMEOUT=0.2), patched(tunnel_carrier, LINGER=0.1):
                await one.carrier.answer(Asked(opening(1), ("198.51.100.1", 5)))
                assert one.carrier.tunnels == 1
                await until(lambda: one.carrier.tunnels == 0)

    run(inside())


def test_beyond_the_bound_tunnels_are_refused() -> None:
    async def inside() -> None:
        with patched(tunnel_carrier, MAX_ANSWERED=1):
            async with pair() as p:
                three = await p.network.node(3)
                with pytest.raises(ConnectFailed, match="ERR_TUNNEL_FULL"):
                    await three.carrier.dial(*p.right.address)

    run(inside())


@pytest.mark.parametrize(
    "payload", [None, 5, "x", {}, {"tunnel": "x"}, {"tunnel": "0" * 32, "ack": 0}]
)
def test_malformed_requests_are_answered_with_an_error(payload: Any) -> None:
    async def inside() -> None:
        async with network() as net:
            one = await net.node(1)
            with pytest.raises(RemoteError, match="ERR_TUNNEL_PROTOCOL"):
                await one.carrier.answer(Asked(payload, ("198.51.100.1", 5)))
            assert one.carrier.tunnels == 0

    run(inside())


def test_a_request_that_makes_no_sense_ends_its_tunnel_only() -> None:
    async def inside() -> None:
        async with pair() as p:
            answer = p.right.carrier.answer
            await answer(Asked(opening(1), ("198.51.100.1", 5)))
            wrong = to_json(TunnelRequest(f"{1:032x}", 999_999, 0, 0))
            with pytest.raises(RemoteError, match="ERR_TUNNEL_PROTOCOL"):
                await answer(Asked(wrong, ("198.51.100.1", 5)))
            assert p.right.carrier.tunnels == 1
            p.left_link.send(p.left.node.envelope())
            await until(lambda: p.right.node.handler.messages)

    run(inside())


# Endings


@on_every_way
async def test_a_goodbye_reaches_the_other_side_and_the_tunnel_is_gone(p: Pair) -> None:
    p.left_link.send(p.left.node.envelope(1, size=300_000))
    p.left_link.close(Code.FULL, "enough")
    await until(lambda: p.right.node.handler.down)
    assert p.right.node.handler.codes == [Code.FULL]
    assert len(p.right.node.handler.messages) == 1
    await until(lambda: not p.left.carrier.tunnels and not p.right.carrier.tunnels)
    await until(lambda: not p.requests._tasks)  # no poll is held any more


@on_every_way
async def test_a_goodbye_of_the_answering_side_arrives_as_well(p: Pair) -> None:
    p.right_link.send(p.right.node.envelope(1, size=300_000))
    p.right_link.close(Code.ABUSE, "enough")
    await until(lambda: p.left.node.handler.down)
    assert p.left.node.handler.codes == [Code.ABUSE]
    assert len(p.left.node.handler.messages) == 1
    await until(lambda: not p.left.carrier.tunnels and not p.right.carrier.tunnels)


@once
async def test_polls_that_are_superseded_or_doubled_all_get_an_answer(p: Pair) -> None:
    await asyncio.sleep(0.2)  # the first heartbeats have been said
    tunnel_id, held = next(iter(p.right.carrier._answered.items()))
    newest = held.end.poll
    polls = [
        asyncio.ensure_future(
            p.right.carrier.answer(
                Asked(to_json(TunnelRequest(tunnel_id, 0, 0, WINDOW, poll=n, wait=1000)), ("x", 1))
            )
        )
        for n in (newest, newest + 1000, newest + 1000, newest + 1001, newest)
    ]
    await asyncio.sleep(0.05)
    assert [poll.done() for poll in polls] == [True, True, True, False, True]
    p.right_link.abort()
    await asyncio.gather(*polls)


@on_every_way
async def test_data_for_a_closed_link_delays_nothing(p: Pair) -> None:
    assert p.right_link._transport is not None
    p.right_link._transport.pause_reading()
    for n in range(30):
        p.left_link.send(p.left.node.envelope(n, size=100_000))
    await asyncio.sleep(0.1)
    p.right_link.abort()
    async with asyncio.timeout(
        tunnel_carrier.LINGER - 1.5
    ):  # twice the time that links leave each other
        await until(lambda: not p.left.carrier.tunnels and not p.right.carrier.tunnels)


@on_every_way
async def test_a_link_that_is_cut_ends_on_the_other_side_without_a_word(p: Pair) -> None:
    for link, node in ((p.left_link, p.right.node), (p.right_link, p.left.node)):
        link.abort()
        await until(lambda node=node: node.handler.down)
    assert p.right.node.handler.codes == [None]
    await until(lambda: not p.left.carrier.tunnels and not p.right.carrier.tunnels)


def test_the_answering_side_notices_the_death_of_the_dialling_process() -> None:
    async def inside() -> None:
        with patched(tunnel, DEAD_AFTER=0.5):
            async with pair() as p:
                for each in p.left.carrier._dialled:
                    each.act = lambda now: None  # type: ignore[method-assign]
                await until(lambda: p.right.node.handler.down)
                assert p.right.node.handler.codes == [None]
                assert p.right.carrier.tunnels == 0

    run(inside())


def test_a_dialling_process_whose_connection_closed_is_not_waited_for_long() -> None:
    async def inside() -> None:
        with patched(tunnel, CUT_AFTER=0.1, DEAD_AFTER=60.0):
            async with pair() as p:
                (answered,) = p.right.carrier._answered.values()
                assert answered.remote is not None
                p.right.carrier.gone(("192.0.2.99", 1))  # somebody else's
                p.right.carrier.gone(answered.remote)  # and it asks again, over another
                await asyncio.sleep(0.3)
                assert not p.right.node.handler.down
                for each in p.left.carrier._dialled:
                    each.act = lambda now: None  # type: ignore[method-assign]
                p.right.carrier.gone(answered.remote)
                await until(lambda: p.right.node.handler.down)

    run(inside())


def test_the_dialling_side_notices_the_death_of_the_answering_process() -> None:
    async def inside() -> None:
        with patched(tunnel, DEAD_AFTER=0.5):
            async with pair() as p:
                p.requests.down.add(p.right.address)
                await p.right.carrier.stop(0.0)
                await until(lambda: p.left.node.handler.down)
                assert p.left.node.handler.codes == [None]
                assert p.left.carrier.tunnels == 0

    run(inside())


@on_every_way
async def test_a_restarted_process_that_knows_no_tunnels_ends_the_link_at_once(p: Pair) -> None:
    again = TunnelCarrier(p.right.node.service, p.requests.by(("192.0.2.2", 5)), SERVICE)
    old = p.right.carrier
    p.requests.workers[p.right.address] = again.answer
    await old.stop(0.0)
    async with asyncio.timeout(1):
        await until(lambda: p.left.node.handler.down)
    await again.stop()


@once
async def test_a_short_outage_of_the_worker_is_bridged(p: Pair) -> None:
    p.requests.down.add(p.right.address)
    p.left_link.send(p.left.node.envelope(1))
    p.right_link.send(p.right.node.envelope(2))
    await asyncio.sleep(0.5)
    p.requests.down.clear()
    await until(lambda: p.left.node.handler.messages and p.right.node.handler.messages)
    assert p.left.node.handler.down == p.right.node.handler.down == []


@on_every_way
async def test_stopping_sends_goodbye_first_and_leaves_nothing(p: Pair) -> None:
    p.right_link.send(p.right.node.envelope(1, size=500_000))
    await p.right.node.service.stop()
    await p.right.carrier.stop()
    await until(lambda: p.left.node.handler.down)
    assert p.left.node.handler.codes == [Code.SHUTDOWN]
    assert len(p.left.node.handler.messages) == 1
    assert p.right.carrier.tunnels == 0
    with pytest.raises(ConnectFailed, match="ERR_TUNNEL_UNKNOWN"):
        await p.left.carrier.dial(*p.right.address)
    with pytest.raises(ConnectFailed, match="stopping"):
        await p.right.carrier.dial(*p.left.address)


@once
async def test_stopping_does_not_wait_for_a_far_side_that_is_gone(p: Pair) -> None:
    p.requests.loss = 1.0
    p.left_link.send(p.left.node.envelope(1, size=500_000))
    begin = asyncio.get_running_loop().time()
    await p.left.carrier.stop(0.2)
    assert asyncio.get_running_loop().time() - begin < 1.0
    await until(lambda: p.left.node.handler.down)


@once
async def test_a_dial_that_is_given_up_leaves_nothing(net: Network) -> None:
    one, two = await net.node(1), await net.node(2)
    net.requests.delay = 0.2
    dialling = asyncio.create_task(one.carrier.dial(*two.address))
    await asyncio.sleep(0.05)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await until(lambda: not one.carrier.tunnels)
    assert one.node.handler.up == []


def test_many_links_at_once() -> None:
    async def inside() -> None:
        async with network() as net:
            made = [await net.node(n) for n in range(1, 9)]
            hub, *others = made
            links = await asyncio.gather(*(one.carrier.dial(*hub.address) for one in others))
            for link, one in zip(links, others, strict=True):
                assert isinstance(link, PeerConnection)
                for n in range(50):
                    link.send(one.node.envelope(n))
            await until(lambda: len(hub.node.handler.messages) == 50 * len(others))

    run(inside())
