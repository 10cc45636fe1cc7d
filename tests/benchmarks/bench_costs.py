"""Processor time of a node for each kind of message of a peer, beside what the peer is charged for it

A real node and one stranger with a link to it, over TLS on loopback. The node pins the stranger: pinned peers have no budgets, so
all is handled. The processor time is of the node's process, its threads included, for thousands of messages, less that of an idle
second; the charge is that of `p2p.mesh.message_budget`. What a node does not handle because of another bound (a feed's share, the
replay guard of hints) is measured as strangers would have it: most of it refused. Run: python -m tests.benchmarks costs

Costs are scaled to a machine that checks a signature in `CHECK_US`, for which the charges are.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from exchange.feeds.exchange_messages import (
    COSTS,
    MESSAGES,
    FeedDigest,
    FeedHead,
    FeedPart,
    FeedRequest,
    KeptPresence,
    PresencePart,
    PresenceRequest,
    Take,
    TakeResult,
    pack,
)
from exchange.feeds.presence import PresenceLeases
from exchange.model.instruments import Instruments
from node.service.statement_service import STATEMENT
from p2p.adaptive import Signal
from p2p.base.errors import Code
from p2p.base.identity import Identity, verify
from p2p.mesh.message_budget import (
    BROADCAST_COST,
    CHECK_US,
    DIRECT_COST,
    RELAY_COST,
    MessageBudgets,
)
from p2p.mesh.relaying import Relay
from p2p.mesh.routed_messages import RouterSettings, broadcast_id
from p2p.mesh.signed_broadcast import ReplayGuard, SignedBroadcast
from p2p.services import health_gossip, service_directory, service_mesh
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.link import LinkOwner, PeerLink
from p2p.wire.messages import (
    EVERYONE,
    Branch,
    Codec,
    Envelope,
    Graft,
    IHave,
    PeerAddress,
    PeerExchange,
    Prune,
    Reachability,
    RpcCancel,
    RpcRequest,
    RpcResponse,
)
from tests.benchmarks.bench_attacks import NETWORK, Owner
from tests.benchmarks.report import Row
from tests.integration.processes import NodeProcess, Nodes

MARKET: Final = next(iter(Instruments.default())).key
COUNT: Final = 6_000  # messages of a kind
PATIENCE: Final = 60.0  # seconds
PRICE: Final = 300_000  # ticks, of the order that is taken
TICK: Final = 1 / os.sysconf("SC_CLK_TCK")

Make = Callable[
    ["Stranger", int], Envelope | bytes
]  # its n-th message; of bytes each has a TLS record of its own


@dataclass(frozen=True)
class Kind:
    """Kind of message that a stranger sends."""

    name: str
    make: Make
    count: int = COUNT


@dataclass(frozen=True)
class Cost:
    """Microseconds that one message took, and what it is charged on a machine that checks a signature in `CHECK_US`."""

    us: float
    charge: float | None  # None: another bound than budgets
    size: int


class Stranger(LinkOwner):
    """One identity with a link to the node."""

    def __init__(self, node: str) -> None:
        self.identity = Identity.generate()
        self.node = node
        self.owner = Owner(self.identity, MARKET)
        self.rng = random.Random(1)
        self.link: PeerLink | None = None
        self.heads = [
            FeedHead(Identity.generate().node_id, MARKET, 5, b"12345678") for _ in range(100)
        ]
        self.kept: list[KeptPresence] = []
        self.offered = 0  # an order of the node, of many lots at `PRICE`
        self.relay = Relay(self.identity, self.rng, RouterSettings())
        self.codec = Codec({**MESSAGES, **service_mesh.MESSAGES})
        self.leases = PresenceLeases(self.owner.keys, NETWORK, incarnation=1, lease_ms=600_000)
        self.services = _signer(service_directory.ServiceAnnouncement, "services", self.identity)
        self.hints = _signer(health_gossip.HintMessage, "hint", self.identity)
        self.takes = 0  # number of the first take of a kind
        self.sample: Envelope | bytes = b""  # the last that was sent
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._asked = 0

    def link_up(self, link: PeerLink) -> None:
        self.link = link

    def link_down(self, link: PeerLink, code: object, reason: str) -> None:
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError(reason))

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        if envelope.type == "response":
            answer = self.codec.payload("response", envelope.payload)
            waiting = self._answers.pop(answer.id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def direct(self, kind: str, payload: bytes) -> Envelope:
        return Envelope(kind, self.identity.node_id, "", 0, msgspec.Raw(payload))

    def broadcast(self, kind: str, payload: bytes) -> Envelope:
        origin = self.identity.node_id
        key = broadcast_id(kind, origin, payload)
        return Envelope(kind, origin, EVERYONE, 0, msgspec.Raw(payload), id=key)

    async def send(self, kind: Kind) -> int:
        """Send all, and wait until the node has processed them. Returns their bytes."""
        link = self.link
        assert link is not None
        self.takes = time.time_ns() // 1000  # later numbers than those of earlier kinds
        made = [kind.make(self, number) for number in range(kind.count)]
        self.sample = made[-1]
        size = 0
        for number, message in enumerate(made):
            if isinstance(message, Envelope):
                data = self.codec.encode(message)
                size += len(data)
                link.send_packed(data)
            else:
                size += len(message)
                for at in range(len(message)):
                    link._transport.write(message[at : at + 1])  # type: ignore[attr-defined]
            if number % 64 == 63:
                await link.drain()
        await self.barrier()
        return size

    async def barrier(self) -> None:
        """Wait until the node has processed everything."""
        assert self.link is not None
        self._asked += 1
        number = 2**40 + self._asked
        waiting = self._answers[number] = asyncio.get_running_loop().create_future()
        asked = RpcRequest(number, "no_such_method", 60_000, msgspec.msgpack.encode(None))
        self.link.send_packed(self.codec.encode(self.direct("request", pack(asked))))
        await asyncio.wait_for(waiting, PATIENCE)


def _signer(kind: type[Any], name: str, identity: Identity) -> SignedBroadcast[Any]:
    return SignedBroadcast(
        kind,
        f"exchange-node {name}",
        identity,
        NETWORK,
        incarnation=1,
        guard=ReplayGuard(rate=1.0, burst=1.0, rate_all=1.0),
    )


def _direct(kind: str, payload: Callable[[Stranger, int], msgspec.Struct]) -> Make:
    return lambda stranger, n: stranger.direct(kind, pack(payload(stranger, n)))


def _ids(stranger: Stranger, count: int) -> list[bytes]:
    return [stranger.rng.randbytes(16) for _ in range(count)]


def _batch(stranger: Stranger, n: int) -> Envelope:
    (batch,) = stranger.owner.orders(1, n + 1)
    return stranger.broadcast("order", pack(batch))


def _presence(stranger: Stranger, n: int) -> Envelope:
    return stranger.broadcast("presence", pack(stranger.leases.make(1e6 + n, [(MARKET, 0)])))


def _newcomer(stranger: Stranger, n: int) -> Envelope:
    return stranger.broadcast("presence", pack(Owner(market=MARKET).presence()))


def _handed_on(stranger: Stranger, n: int) -> PresencePart:
    kept = (
        [KeptPresence(60_000, stranger.leases.make(n, [])) for _ in range(8)]
        if n % 100 == 0
        else []
    )
    stranger.kept = kept or stranger.kept
    return PresencePart(0, 1, stranger.kept)


def _take(stranger: Stranger, n: int) -> Take:
    return Take(stranger.takes + n, MARKET, 10**6, 7, 100, 1, stranger.takes + n)


def _relayed(stranger: Stranger, n: int) -> Envelope:
    envelope = stranger.direct("take", pack(_take(stranger, n)))
    envelope.to = stranger.node
    stranger.relay.sign(time.monotonic(), envelope)
    return envelope


def _relayed_of_new_key(stranger: Stranger, n: int) -> Envelope:
    identity = Identity.generate()
    envelope = Envelope(
        "take", identity.node_id, stranger.node, 0, msgspec.Raw(pack(_take(stranger, 0)))
    )
    Relay(identity, stranger.rng, RouterSettings()).sign(time.monotonic(), envelope)
    return envelope


def _origins(stranger: Stranger) -> list[str]:
    return [head.owner for head in stranger.heads]


def _heads(stranger: Stranger, n: int) -> FeedDigest:
    return FeedDigest(stranger.rng.randbytes(16), stranger.heads)


def _hint(stranger: Stranger, n: int) -> Envelope:
    hints = [health_gossip.HintItem(stranger.node, Signal.DEGRADED, 5.0, 0.5)]
    return stranger.broadcast("hint", stranger.hints.publish(hints=hints))


def _services(stranger: Stranger, n: int) -> Envelope:
    return stranger.broadcast(
        "services", stranger.services.publish(lease=20_000, services=["a", "b"])
    )


def _peers(stranger: Stranger, n: int) -> PeerExchange:
    who = stranger.identity.node_id
    return PeerExchange([PeerAddress(who, f"127.{n % 250}.{i}.1", 7700) for i in range(30)])


def _fill(phase: Literal["", "reserve"] = "") -> Callable[[Stranger, int], Take]:
    return lambda s, n: Take(
        s.takes + n, MARKET, s.offered, n + 1, PRICE, 1, s.takes + n, phase=phase
    )


def _request(method: str) -> Callable[[Stranger, int], RpcRequest]:
    nothing = msgspec.msgpack.encode(None)
    return lambda s, n: RpcRequest(n, method, 1000, nothing)


KINDS: Final = (
    Kind("TLS record of one byte", lambda s, n: _one_byte(s), 300),
    Kind("announcement, 1 id", _direct("ihave", lambda s, n: IHave(_ids(s, 1), [5]))),
    Kind("announcement, 100 ids", _direct("ihave", lambda s, n: IHave(_ids(s, 100))), 1_000),
    Kind("pull, 1 id", _direct("graft", lambda s, n: Graft(_ids(s, 1), push=False))),
    Kind(
        "pull, 100 ids", _direct("graft", lambda s, n: Graft(_ids(s, 100), push=n % 2 > 0)), 1_000
    ),
    Kind("prune", _direct("prune", lambda s, n: Prune())),
    Kind("branch, 1 origin", _direct("branch", lambda s, n: Branch(push=[s.identity.node_id]))),
    Kind(
        "branch, 16 origins", _direct("branch", lambda s, n: Branch(push=_origins(s)[:16])), 2_000
    ),
    Kind("peers, 30 addresses", _direct("peerexchange", _peers), 1_000),
    Kind(
        "reachability",
        _direct("reachability", lambda s, n: Reachability(True, [("127.0.0.1", 7700)])),
    ),
    Kind("request, no such method", _direct("request", _request("x"))),
    Kind("request of a statement", _direct("request", _request(STATEMENT)), 1_000),
    Kind("response to nothing", _direct("response", lambda s, n: RpcResponse(n + 1))),
    Kind("cancel of nothing", _direct("cancel", lambda s, n: RpcCancel(n))),
    Kind("services", _services, 3_000),
    Kind("hint", _hint, 3_000),
    Kind("batch of an order", _batch, 3_000),
    Kind("presence", _presence, 3_000),
    Kind("presence of a new key", _newcomer, 1_500),
    Kind("digest, summary alone", _direct("digest", lambda s, n: FeedDigest(s.rng.randbytes(16)))),
    Kind("digest, 100 heads", _direct("digest", _heads), 1_000),
    Kind(
        "request of a feed",
        _direct("feed_request", lambda s, n: FeedRequest(s.node, MARKET, 0)),
        2_000,
    ),
    Kind("feed, unasked", _direct("feed", lambda s, n: FeedPart(s.identity.node_id, MARKET, n))),
    Kind("take of no order", _direct("take", _take)),
    Kind("take that fills", _direct("take", _fill()), 2_000),
    Kind("take that reserves", _direct("take", _fill("reserve")), 2_000),
    Kind(
        "answer to no take",
        _direct("take_result", lambda s, n: TakeResult(n + 1, MARKET, 1, 1, 1, 1, 1)),
    ),
    Kind("request of presences", _direct("presence_request", lambda s, n: PresenceRequest(0, 1))),
    Kind("presences, 8, unasked", _direct("presences", _handed_on), 1_000),
    Kind("relayed take", _relayed, 3_000),
    Kind("relayed take of a new key", _relayed_of_new_key, 1_500),
)


def _one_byte(stranger: Stranger) -> bytes:
    prune = stranger.codec.encode(stranger.direct("prune", pack(Prune())))
    return len(prune).to_bytes(4, "big") + prune


def used(node: NodeProcess) -> float:
    """Seconds of processor time of a node's process."""
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def check_us() -> float:
    """Microseconds of a signature check on this machine."""
    identity = Identity.generate()
    message = bytes(200)
    signature = identity.sign(message)
    best = 1.0
    for _ in range(20):
        began = time.process_time()
        for _ in range(50):
            verify(identity.public_key, signature, message)
        best = min(best, (time.process_time() - began) / 50)
    return best * 1e6


async def measure(node: NodeProcess, stranger: Stranger, kinds: Sequence[Kind]) -> dict[str, Cost]:
    """Return microseconds and bytes of a message of each kind."""
    service = DirectConnectionService(
        stranger.identity, stranger, stranger.codec, LinkSettings(NETWORK, True, "stranger")
    )
    host, _, port = node.p2p_address.rpartition(":")
    try:
        before = used(node)
        await asyncio.sleep(2.0)
        idle = (used(node) - before) / 2.0
        found = {}
        for kind in kinds:
            link = await service.dial(host, int(port))
            await stranger.barrier()
            before, began = used(node), time.monotonic()
            try:
                size = await stranger.send(kind)
            except ConnectionError as error:
                raise RuntimeError(f"{kind.name}: {error}") from error
            await asyncio.sleep(0.3)  # what it does later
            spent = used(node) - before - idle * (time.monotonic() - began)
            count = kind.count if isinstance(stranger.sample, Envelope) else size
            us = max(spent, TICK) / count * 1e6
            found[kind.name] = Cost(us, charge(stranger.sample), size // count)
            link.close(Code.SHUTDOWN)
            await asyncio.sleep(0.2)
        return found
    finally:
        await service.stop()


def measured(kinds: Sequence[Kind] = KINDS) -> dict[str, Cost]:
    """Start a node and measure."""
    with tempfile.TemporaryDirectory(prefix="exchange-node-costs-") as directory:
        nodes = Nodes(Path(directory))
        try:
            node = nodes.make("node", P2P_NETWORK=NETWORK, LOG_LEVEL="ERROR")
            node.start()
            stranger = Stranger(node.node_id)
            node.stop()
            policy = {"version": 1, "pins": [stranger.identity.node_id], "bans": []}
            (node.data_dir / "peer-policy.json").write_bytes(msgspec.json.encode(policy))
            node.restart()
            for n in range(200):
                node.sell("0.1", 31_000 + n, market="BTC-USD")
            stranger.offered = int(node.sell("10", 30_000, market="BTC-USD").id.rpartition("-")[2])
            return asyncio.run(measure(node, stranger, kinds))
        finally:
            nodes.cleanup()


def charge(sent: Envelope | bytes) -> float | None:
    """Microseconds that a message is charged; None for one that the link's reading bounds."""
    if isinstance(sent, bytes):
        return None
    budgets = MessageBudgets()
    for message_type, cost in COSTS.items():
        budgets.set_cost(message_type, cost)
    budgets.link_up(0.0, "stranger")
    default = BROADCAST_COST if sent.to == EVERYONE else DIRECT_COST
    more = RELAY_COST if sent.sig is not None else 0.0
    budgets.charge(0.0, "stranger", sent.type, len(sent.payload), default, more)
    return budgets.figures()["stranger"][0]


def run(quick: bool) -> list[Row]:
    speed = CHECK_US / check_us()
    part = 3 if quick else 1
    kinds = [replace(kind, count=kind.count // part) for kind in KINDS]
    return [
        Row(
            name,
            cost.us * speed,
            "us",
            None if cost.charge is None else cost.us * speed / cost.charge,
            "read for a fifth of a core"
            if cost.charge is None
            else f"charged {cost.charge:.0f}, {cost.size} bytes",
        )
        for name, cost in measured(kinds).items()
    ]
