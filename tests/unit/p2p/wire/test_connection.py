"""Links over real sockets: plain and TLS, on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from link_kit import WAY_NAMES, WAYS, Pair, Recorder, Test, framed, number, pair, run, until

from p2p.base.errors import Code, RemoteProtocolError
from p2p.base.identity import Identity
from p2p.base.limits import (
    DEAD_AFTER,
    FRAMES_PER_TURN,
    MAX_BAD_MESSAGES,
    MAX_FRAME,
    OUTBOX_HIGH_WATER,
    OUTBOX_LIMIT,
)
from p2p.wire import frame_transport
from p2p.wire.connection import HEARTBEAT_BURST, PeerConnection
from p2p.wire.frame_transport import CLOSE_GRACE, WRITE_CHUNK
from p2p.wire.handshake import HandshakeTerms, Role
from p2p.wire.link import PeerLink
from p2p.wire.messages import Capabilities, Codec, Envelope, Goodbye, Heartbeat, pack
from p2p.wire.read_turns import ReadTurns


def on_every_way(test: Test) -> Callable[[bool, bool], None]:
    """The test with two fresh linked nodes, once for each way."""

    def body(secure: bool, fast: bool) -> None:
        async def inside() -> None:
            async with pair(secure=secure) as linked:
                await test(linked)

        run(inside(), fast=fast)

    body.__name__, body.__doc__ = test.__name__, test.__doc__  # type: ignore[attr-defined]
    return pytest.mark.parametrize(("secure", "fast"), WAYS, ids=WAY_NAMES)(body)


def raw(link: PeerConnection, payload: bytes) -> None:
    """Write a frame past every check."""
    assert link._transport is not None
    link._transport.write(framed(payload))


def packed(kind: str, payload: object, from_: str) -> bytes:
    return pack(Envelope(kind, from_, "", 0, msgspec.Raw(pack(payload))))


@on_every_way
async def test_messages_arrive_whole_and_in_order(linked: Pair) -> None:
    count = 3 * FRAMES_PER_TURN
    for index in range(count):
        linked.left_link.send(linked.left.envelope(index, size=index % 700))
        if index % 100 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(linked.right.handler.messages) == count)
    assert [number(each) for each in linked.right.handler.messages] == list(range(count))


@on_every_way
async def test_the_longest_message_passes_and_a_longer_one_is_refused_to_its_sender(
    linked: Pair,
) -> None:
    overhead = len(pack(linked.left.envelope(size=MAX_FRAME // 2))) - MAX_FRAME // 2
    linked.left_link.send(linked.left.envelope(7, size=MAX_FRAME - overhead))
    with pytest.raises(ValueError, match="limit"):
        linked.left_link.send(linked.left.envelope(8, size=MAX_FRAME - overhead + 1))
    await until(lambda: linked.right.handler.messages)
    assert number(linked.right.handler.messages[0]) == 7
    assert not linked.left_link.closed


@on_every_way
async def test_both_sides_know_the_others_identity(linked: Pair) -> None:
    ours, theirs = linked.left_link.peer, linked.right_link.peer
    assert (ours.node_id, ours.public_key) == (
        linked.right.node_id,
        linked.right.identity.public_key,
    )
    assert (theirs.node_id, theirs.public_key) == (
        linked.left.node_id,
        linked.left.identity.public_key,
    )
    assert (ours.outbound, theirs.outbound) == (True, False)
    assert (ours.listen_port, theirs.listen_port) == (linked.right.address[1], 0)
    assert ours.address == theirs.address == "127.0.0.1"
    assert ours.encrypted == theirs.encrypted == (linked.left.service._client_tls is not None)


@on_every_way
async def test_round_trips_are_known_at_once(linked: Pair) -> None:
    await until(lambda: linked.left_link.stats.rtt and linked.right_link.stats.rtt)
    assert linked.left_link.stats.rtt is not None
    assert 0 < linked.left_link.stats.rtt < 1
    assert linked.left_link.stats.last_heartbeat > 0


@on_every_way
async def test_sent_messages_are_counted(linked: Pair) -> None:
    await until(lambda: linked.left_link.stats.rtt and linked.right_link.stats.rtt)
    before = linked.left_link.stats.messages_sent, linked.right_link.stats.messages_received
    linked.left_link.send(linked.left.envelope())
    linked.left_link.send_packed(pack(linked.left.envelope()))
    await until(lambda: len(linked.right.handler.messages) == 2)
    sent, received = linked.left_link.stats, linked.right_link.stats
    assert (sent.messages_sent - before[0], received.messages_received - before[1]) == (2, 2)
    assert sent.bytes_sent == received.bytes_received


@on_every_way
async def test_a_goodbye_arrives_after_earlier_messages(linked: Pair) -> None:
    linked.left_link.send(linked.left.envelope())
    linked.left_link.close(Code.FULL, "enough")
    linked.left_link.close(Code.ABUSE, "twice")
    assert linked.left_link.closed
    linked.left_link.send(linked.left.envelope())
    await until(lambda: linked.right.handler.down and linked.left.handler.down)
    assert len(linked.right.handler.messages) == 1
    assert [entry[1:] for entry in linked.right.handler.down] == [(Code.FULL, "enough")]
    assert [entry[1:] for entry in linked.left.handler.down] == [(Code.FULL, "enough")]
    await linked.left_link.wait_closed()
    await linked.right_link.wait_closed()
    assert len(linked.left.handler.down) == len(linked.right.handler.down) == 1


@on_every_way
async def test_a_break_without_a_goodbye_has_no_code(linked: Pair) -> None:
    linked.left_link.abort()
    await until(lambda: linked.right.handler.down and linked.left.handler.down)
    assert linked.right.handler.codes == linked.left.handler.codes == [None]


@on_every_way
async def test_a_goodbye_is_read_although_the_other_was_still_sending(linked: Pair) -> None:
    """Closing a socket with unread bytes would reset the connection and destroy the goodbye."""

    def refuse(link: PeerLink, envelope: Envelope) -> None:
        raise RemoteProtocolError(Code.ABUSE, "too much")

    linked.right.handler.on_message = refuse
    for _ in range(2000):
        linked.left_link.send(linked.left.envelope(size=500))
    await until(lambda: linked.left.handler.down)
    assert linked.left.handler.down[0][1:] == (Code.ABUSE, "too much")
    assert linked.right.handler.codes == [Code.ABUSE]
    assert len(linked.right.handler.messages) == 1


@on_every_way
async def test_a_link_can_be_closed_from_inside_a_handler(linked: Pair) -> None:
    linked.right.handler.on_message = lambda link, envelope: link.close(Code.SHUTDOWN)
    for _ in range(5):
        linked.left_link.send(linked.left.envelope())
    await until(lambda: linked.left.handler.down and linked.right.handler.down)
    assert len(linked.right.handler.messages) == 1
    assert linked.left.handler.codes == [Code.SHUTDOWN]


REFUSED: dict[str, tuple[Callable[[Pair], bytes], Code]] = {
    "garbage": (lambda linked: b"\xc1garbage", Code.MALFORMED),
    "broken JSON": (lambda linked: b'{"type": ', Code.MALFORMED),
    "deep nesting": (lambda linked: b"{" + b'"a":{' * 5000, Code.MALFORMED),
    "a wrong heartbeat": (
        lambda linked: packed("heartbeat", {"sequence": "x"}, linked.left.node_id),
        Code.MALFORMED,
    ),
    "another's name": (
        lambda linked: packed("request", {}, linked.right.node_id),
        Code.WRONG_IDENTITY,
    ),
    "another's heartbeat": (
        lambda linked: packed("heartbeat", Heartbeat(1), linked.right.node_id),
        Code.WRONG_IDENTITY,
    ),
    "a handshake again": (
        lambda linked: packed("handshake", {}, linked.left.node_id),
        Code.UNEXPECTED,
    ),
    "an ack again": (
        lambda linked: packed("handshake_ack", {}, linked.left.node_id),
        Code.UNEXPECTED,
    ),
}


@pytest.mark.parametrize(("secure", "fast"), WAYS, ids=WAY_NAMES)
@pytest.mark.parametrize("name", REFUSED)
def test_breaches_of_the_protocol_are_answered_with_a_reason(
    name: str, secure: bool, fast: bool
) -> None:
    make, code = REFUSED[name]

    async def inside() -> None:
        async with pair(secure=secure) as linked:
            raw(linked.left_link, make(linked))
            await until(lambda: linked.left.handler.down)
            assert linked.left.handler.codes == linked.right.handler.codes == [code]
            assert linked.left.handler.down[0][2] != ""
            assert linked.right.handler.messages == []

    run(inside(), fast=fast)


@on_every_way
async def test_a_flood_of_heartbeats_ends_the_link(linked: Pair) -> None:
    beat = packed("heartbeat", Heartbeat(10**6), linked.left.node_id)
    for _ in range(int(HEARTBEAT_BURST) - 20):
        raw(linked.left_link, beat)
    await asyncio.sleep(0.2)
    assert not linked.right.handler.down
    for _ in range(200):
        raw(linked.left_link, beat)
    await until(lambda: linked.left.handler.down)
    assert linked.left.handler.codes == [Code.ABUSE]


@pytest.mark.parametrize("fast", [False, True], ids=["asyncio", "uvloop"])
def test_a_peer_that_writes_one_byte_a_record_is_read_for_a_share_of_a_core(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_transport, "READ_BURST", 0.001)

    async def inside() -> None:
        async with pair(secure=True) as linked:
            reader, message = linked.right_link, framed(pack(linked.left.envelope()))
            assert linked.left_link._transport is not None
            rests = 0

            def rest_for(seconds: float, inner: Callable[[float], None] = reader._rest_for) -> None:
                nonlocal rests
                rests += 1
                inner(seconds)

            monkeypatch.setattr(reader, "_rest_for", rest_for)
            for _ in range(20):
                for at in range(len(message)):
                    linked.left_link._transport.write(message[at : at + 1])
            await until(lambda: len(linked.right.handler.messages) == 20)
            assert rests > 0

    run(inside(), fast=fast)


@on_every_way
async def test_an_oversized_frame_is_refused_by_its_length_alone(linked: Pair) -> None:
    assert linked.left_link._transport is not None
    linked.left_link._transport.write((MAX_FRAME + 1).to_bytes(4, "big"))
    await until(lambda: linked.left.handler.down)
    assert linked.left.handler.codes == [Code.OVERSIZED]


@on_every_way
async def test_a_fault_behind_good_frames_is_answered_without_waiting_for_more(
    linked: Pair,
) -> None:
    assert linked.left_link._transport is not None
    good = framed(pack(linked.left.envelope()))
    linked.left_link._transport.write(good + good + bytes(4))
    await until(lambda: linked.left.handler.down, seconds=1)  # less than a heartbeat's interval
    assert linked.left.handler.codes == [Code.MALFORMED]
    assert len(linked.right.handler.messages) == 2


@on_every_way
async def test_two_sides_that_part_at_once_do_not_wait_for_each_other(linked: Pair) -> None:
    await until(lambda: linked.left_link.stats.rtt and linked.right_link.stats.rtt)
    begin = asyncio.get_running_loop().time()
    linked.left_link.close(Code.SHUTDOWN)
    linked.right_link.close(Code.SHUTDOWN)
    await linked.left_link.wait_closed()
    await linked.right_link.wait_closed()
    assert asyncio.get_running_loop().time() - begin < CLOSE_GRACE / 2
    assert linked.left.handler.codes == linked.right.handler.codes == [Code.SHUTDOWN]


@on_every_way
async def test_relayed_messages_may_carry_another_name(linked: Pair) -> None:
    third = Identity.from_seed(bytes(32)).node_id
    linked.left_link.send(linked.left.envelope(1, from_=third, id=b"i" * 16))
    linked.left_link.send(linked.left.envelope(2, from_=third, sig=b"s" * 64))
    await until(lambda: len(linked.right.handler.messages) == 2)
    assert {each.from_ for each in linked.right.handler.messages} == {third}


@on_every_way
async def test_unknown_types_are_passed_over_until_they_are_too_many(linked: Pair) -> None:
    unknown = packed("telepathy", {}, linked.left.node_id)
    for _ in range(MAX_BAD_MESSAGES):
        raw(linked.left_link, unknown)
    linked.left_link.send(linked.left.envelope())
    await until(lambda: linked.right.handler.messages)
    assert linked.right_link.stats.extra["unknown_types"] == MAX_BAD_MESSAGES
    raw(linked.left_link, unknown)
    await until(lambda: linked.left.handler.down)
    assert linked.left.handler.codes == [Code.UNKNOWN_TYPE]
    assert "telepathy" in linked.left.handler.down[0][2]


@on_every_way
async def test_a_goodbye_with_a_code_of_the_future_is_a_goodbye(linked: Pair) -> None:
    raw(linked.left_link, packed("goodbye", Goodbye("moon", "later"), linked.left.node_id))
    await until(lambda: linked.right.handler.down)
    assert linked.right.handler.down[0][1:] == (None, "moon: later")


async def stop_reading(link: PeerConnection) -> asyncio.Transport:
    """Pause the transport; a turn that is due would resume it."""
    await asyncio.sleep(0.01)
    assert link._transport is not None
    link._transport.pause_reading()
    return link._transport


@on_every_way
async def test_a_reader_that_does_not_read_is_cut_and_memory_stays_bounded(linked: Pair) -> None:
    transport = await stop_reading(linked.right_link)
    highest = 0
    for _ in range(20_000):
        linked.left_link.send(linked.left.envelope(size=4000))
        highest = max(highest, linked.left_link.outbox_bytes)
        if linked.left_link.closed:
            break
        await asyncio.sleep(0)
    assert linked.left_link.closed
    assert OUTBOX_LIMIT < highest < OUTBOX_LIMIT + 2 * WRITE_CHUNK
    assert linked.left_link.outbox_bytes < 2 * WRITE_CHUNK  # the rest was dropped with the link
    await until(lambda: linked.left.handler.down)
    assert linked.left.handler.codes == [Code.SLOW]
    transport.resume_reading()
    await until(lambda: linked.right.handler.down)
    assert linked.right.handler.codes == [Code.SLOW]


@on_every_way
async def test_drain_waits_for_a_slow_reader_and_loses_nothing(linked: Pair) -> None:
    transport = await stop_reading(linked.right_link)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for index in range(5000):
            linked.left_link.send(linked.left.envelope(index, size=4000))
            sent += 1
            await linked.left_link.drain()
            assert linked.left_link.outbox_bytes < OUTBOX_HIGH_WATER

    sender = asyncio.ensure_future(send())
    await asyncio.sleep(0.1)
    assert not sender.done()
    assert linked.left_link.outbox_bytes >= OUTBOX_HIGH_WATER
    transport.resume_reading()
    await sender
    await until(lambda: len(linked.right.handler.messages) == 5000)
    assert [number(each) for each in linked.right.handler.messages] == list(range(5000))


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_transport, "CLOSE_GRACE", 0.1)


@pytest.mark.usefixtures("grace")
@on_every_way
async def test_drain_returns_when_the_link_closes(linked: Pair) -> None:
    await stop_reading(linked.right_link)
    while linked.left_link.outbox_bytes < 4 * OUTBOX_HIGH_WATER:
        linked.left_link.send(linked.left.envelope(size=4000))
        await asyncio.sleep(0)
    drained = asyncio.ensure_future(linked.left_link.drain())
    await asyncio.sleep(0.01)
    assert not drained.done()
    linked.left_link.close(Code.SHUTDOWN)
    await asyncio.wait_for(drained, 1)


@pytest.mark.parametrize(("secure", "fast"), WAYS, ids=WAY_NAMES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_json_is_spoken_to_a_peer_that_has_nothing_else(
    side: str, secure: bool, fast: bool
) -> None:
    async def inside() -> None:
        options: dict[str, Any] = {side: {"codecs": []}}
        async with pair(secure=secure, **options) as linked:
            seen: list[bytes] = []
            feed = linked.right_link.received

            def spy(frames: list[bytearray], until: float) -> int:
                done = feed(frames, until)
                seen.extend(bytes(frame) for frame in frames[:done])
                return done

            linked.right_link.received = spy  # type: ignore[method-assign]
            linked.left_link.send(linked.left.envelope(5, size=9))
            linked.left_link.send_packed(pack(linked.left.envelope(6, size=9)))
            await until(lambda: len(linked.right.handler.messages) == 2)
            assert all(frame.startswith(b"{") for frame in seen)
            assert [number(each) for each in linked.right.handler.messages] == [5, 6]
            raw(linked.left_link, pack(linked.left.envelope(7)))  # both are always understood
            await until(lambda: len(linked.right.handler.messages) == 3)

    run(inside(), fast=fast)


def test_a_handlers_own_fault_is_reported_and_costs_no_peer() -> None:
    async def inside() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with pair(secure=False) as linked:

            def fail(link: PeerLink, envelope: Envelope) -> None:
                if number(envelope) == 1:
                    raise KeyError("a bug")

            linked.right.handler.on_message = fail
            linked.left_link.send(linked.left.envelope(1))
            linked.left_link.send(linked.left.envelope(2))
            await until(lambda: len(linked.right.handler.messages) == 2)
            assert not linked.right_link.closed
            assert linked.right_link.stats.extra["handler_errors"] == 1
        assert [type(context["exception"]) for context in told] == [KeyError]

    run(inside())


def test_the_loop_runs_between_messages_that_take_long() -> None:
    """Reading yields by time: a burst of dear messages does not keep the loop for all of them."""

    async def inside() -> None:
        async with pair(secure=False) as linked:
            turns: list[int] = []
            loop = asyncio.get_running_loop()

            def work(*_: object) -> None:
                time.sleep(0.004)

            def count() -> None:
                turns.append(len(linked.right.handler.messages))
                if len(linked.right.handler.messages) < 60:
                    loop.call_soon(count)

            linked.right.handler.on_message = work
            for index in range(60):
                linked.left_link.send(linked.left.envelope(index))
            count()
            await until(lambda: len(linked.right.handler.messages) == 60)
            assert [number(each) for each in linked.right.handler.messages] == list(range(60))
            # 60 messages of 4 ms: at most two for each TURN_TIME of 5 ms.
            assert max(after - before for before, after in pairwise(turns)) <= 2

    run(inside())


def test_other_links_get_their_turn_while_one_floods() -> None:
    """A whole buffer of small frames is handed on in portions, with the loop running in between."""

    async def inside() -> None:
        async with pair(secure=False) as linked:
            turns: list[int] = []
            loop = asyncio.get_running_loop()

            def count() -> None:
                turns.append(len(linked.right.handler.messages))
                if len(linked.right.handler.messages) < 4000:
                    loop.call_soon(count)

            for index in range(4000):
                linked.left_link.send(linked.left.envelope(index))
            count()
            await until(lambda: len(linked.right.handler.messages) == 4000)
            steps = [after - before for before, after in pairwise(turns)]
            assert max(steps) <= FRAMES_PER_TURN

    run(inside())


# In virtual time, without sockets


class QuietTransport(asyncio.Transport):
    """Takes everything, answers nothing."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 9)})
        self.written = bytearray()
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


async def silent_peer(handler: Recorder) -> tuple[PeerConnection, QuietTransport]:
    """A link that is up, to a peer that will not be heard again."""
    loop = asyncio.get_running_loop()
    mine, other = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
    codec = Codec()

    def make(role: Role, identity: Identity) -> PeerConnection:
        terms = HandshakeTerms(identity, "n", 0, Capabilities("1.0.0"))
        host = SimpleNamespace(
            codec=codec,
            owner=handler,
            turns=ReadTurns(),
            now=loop.time,
        )
        return PeerConnection(role, terms, host, nonce=bytes(32))

    ours, theirs = make(Role.DIAL, mine), make(Role.ACCEPT, other)
    wires = (ours, QuietTransport()), (theirs, QuietTransport())
    for connection, transport in wires:
        connection.connection_made(transport)
    for _ in range(3):
        for (speaker, transport), (listener, _) in (wires, wires[::-1]):
            speaker._flush()
            said, transport.written = bytes(transport.written), bytearray()
            if said:
                listener.get_buffer(-1)[: len(said)] = said
                listener.buffer_updated(len(said))
                await asyncio.sleep(0)  # its turn
    theirs.abort()
    theirs.connection_lost(None)
    handler.down.clear()
    return ours, wires[0][1]


@pytest.mark.looptime
async def test_a_peer_that_falls_silent_is_dropped_in_time() -> None:
    handler = Recorder()
    loop = asyncio.get_running_loop()
    link, transport = await silent_peer(handler)
    assert link.established.result() is link
    begin = loop.time()
    while not link.closed:  # noqa: ASYNC110 - looks from outside
        await asyncio.sleep(0.5)
    assert loop.time() - begin == pytest.approx(DEAD_AFTER, abs=0.6)
    await asyncio.sleep(0)
    assert (link, Code.TIMEOUT) in [entry[:2] for entry in handler.down]
    assert not transport.closing  # the goodbye gets a moment
    assert b'"timeout"' in transport.written
    await asyncio.sleep(2)
    assert transport.closing
    link.connection_lost(None)
    assert len([entry for entry in handler.down if entry[0] is link]) == 1


@pytest.mark.looptime
async def test_heartbeats_go_out_while_nothing_else_does() -> None:
    link, transport = await silent_peer(Recorder())
    await asyncio.sleep(0.5)
    transport.written.clear()  # one is sent as soon as the link is up
    await asyncio.sleep(DEAD_AFTER - 1.5)
    assert transport.written.count(b'"heartbeat"') == 3  # at 2, 4 and 6 s
    link.abort()
