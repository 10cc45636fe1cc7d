"""Engines in memory: a network of n exchange nodes in one line, on a clock that the test moves.

Messages arrive at once and in order unless a test says otherwise. An engine that calls an honest
node's message invalid fails the test (`Network.fragile`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import msgspec

from exchange.engine.engine import Drained, Engine
from exchange.feeds.exchange_messages import MESSAGES, pack, unpack
from exchange.feeds.feed import Feed, Writer
from exchange.feeds.feed_replica import Replica
from exchange.model.commands import NewOrder
from exchange.model.events import BUY, SELL, Batch, Event, sign_batch
from exchange.model.instruments import Instrument
from exchange.model.ports import Broadcast, Send
from exchange.model.records import Fill, Order, Record, Recovered
from tests.simulation.disk import JournalDisk, MemoryDisk

NETWORK = "test"
M = "BTC-USD@0.1/0.00001"
ETH, DOGE = "ETH-USD@0.01/0.0001", "DOGE-USD@0.00001/1"
EPOCH_US = 1_700_000_000_000_000
STARTED = 1000.0  # when a network begins
FIRST_TAKE = EPOCH_US + 1_000_000_000  # of a node that started then


class Keys:
    """`exchange.model.ports.Keys` with hashes for signatures. Node ids sort as their seeds do.

    A signature binds key and message as Ed25519's does; that anyone could make one matters to no
    test, for no test forges with the owner's own method unless it means to be the owner.
    """

    def __init__(self, seed: int) -> None:
        self.public_key = bytes([seed]) * 32
        self.node_id = self.node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        return blake2b(message, key=self.public_key, digest_size=64).digest()

    def node_id_of(self, public_key: bytes) -> str:
        return f"node{public_key[:14].hex()}"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        if len(public_key) != 32:
            return False
        return blake2b(message, key=public_key, digest_size=64).digest() == signature


class Owner:
    """An owner without an engine: writes whatever feed a test wants it to."""

    def __init__(self, seed: int, market: str = M, network: str = NETWORK) -> None:
        self.keys = Keys(seed)
        self.market = market
        self.network = network
        self.writer = Writer(Feed(self.keys.node_id, market), self.keys, network)

    @property
    def id(self) -> str:
        return self.keys.node_id

    def batch(self, *events: Event) -> Batch:
        """Append `events`, signed as one batch (with the checkpoint that may be due)."""
        for event in events:
            self.writer.append(event)
        (batch,) = self.writer.flush()
        return batch

    def lie(self, first: int, previous: bytes, *events: Event) -> Batch:
        """A batch signed by this owner whatever its feed says."""
        return sign_batch(self.keys, self.network, self.market, first, previous, list(events))[0]

    def replica(self, seed: int = 200) -> Replica:
        """An empty replica of this feed on another node."""
        return Replica(Feed(self.id, self.market), Keys(seed), self.network)


def submit(
    engine: Engine,
    now: float,
    market: str,
    side: int,
    price: int | None,
    quantity: int,
    client_id: str | None = None,
) -> Order:
    """Place a limit or market order of the house."""
    new = NewOrder(market=market, side=side, price=price, quantity=quantity, client_id=client_id)
    return engine.orders.place(now, new)[0]


class Store(Protocol):
    def commit(self, records: list[Record]) -> None: ...
    def recover(self) -> Recovered: ...
    def fills(self) -> list[Fill]: ...
    def orders(self) -> list[Order]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Mail:
    """A message under way."""

    sender: int
    to: int
    type: str
    payload: bytes

    @property
    def message(self) -> Any:
        return unpack(self.type, self.payload)


@dataclass
class Node:
    keys: Keys
    epoch_us: int
    store: Store
    engine: Engine | None
    warnings: list[str] = field(default_factory=list)


class Crash(Exception):
    """Raised by a test's hook to kill the node at that point."""


class Network:
    """n nodes, linked each with each.

    `on_mail` may replace each message by several or none. `on_drain(node, phase)` is called with
    phase "before" and "after" the commit; it may raise Crash, and what is not sent is lost.
    """

    def __init__(
        self,
        n: int,
        *,
        path: Path | None = None,
        markets: Iterable[str] = (M,),
        skew_us: dict[int, int] | None = None,
        linked: bool = True,
        fence_max: float = 0.0,
        instruments: Iterable[Instrument] = (),
    ) -> None:
        """`instruments`: as `Engine`'s, none by default. `fence_max`: as `Engine`'s; none by default, so that a restarted node is there at once."""
        self.now = STARTED
        self.fence_max = fence_max
        self.markets = tuple(markets)
        self.instruments = tuple(instruments)
        self.path = path
        self.fragile = True
        self.on_mail: Callable[[Mail], list[Mail]] = lambda mail: [mail]
        self.on_drain: Callable[[int, str], None] = lambda node, phase: None
        self.sent: list[Mail] = []  # everything since it was last cleared
        self.nodes: list[Node] = []
        self.index: dict[str, int] = {}
        for i in range(n):
            keys = Keys(i + 1)
            self.index[keys.node_id] = i
            epoch = EPOCH_US + (skew_us or {}).get(i, 0)
            self.nodes.append(Node(keys, epoch, self._open(i), None))
            self._start(i)
        if linked:
            for i in range(n):
                self._link(i)
            self.settle()

    def _open(self, i: int) -> Store:
        return JournalDisk(self._file(i)) if self.path is not None else MemoryDisk()

    def _file(self, i: int) -> Path:
        assert self.path is not None
        return self.path / f"node{i}.db"

    def _start(self, i: int) -> None:
        node = self.nodes[i]
        node.engine = Engine(
            node.keys,
            self.markets,
            network=NETWORK,
            epoch_us=node.epoch_us,
            rng=random.Random(i),
            instruments=self.instruments,
            recovered=node.store.recover(),
            fence_max=self.fence_max,
            warn=lambda text, kind, owner: node.warnings.append(text),
            now=self.now,
        )
        node.engine.resume(self.now)

    def _link(self, i: int) -> None:
        for j, node in enumerate(self.nodes):
            if j != i and node.engine is not None:
                self[i].neighbour_up(self.now, node.keys.node_id)

    def link(self, i: int) -> None:
        """Links between node i and every other node come up."""
        self._link(i)
        for j, node in enumerate(self.nodes):
            if j != i and node.engine is not None:
                node.engine.neighbour_up(self.now, self.id(i))

    def __getitem__(self, i: int) -> Engine:
        engine = self.nodes[i].engine
        assert engine is not None, f"node {i} is down"
        return engine

    def id(self, i: int) -> str:
        return self.nodes[i].keys.node_id

    # Time and messages

    def drain(self, i: int) -> list[Mail]:
        """One drain of node i, committed; what it sends, after `on_mail`. A crash sends nothing."""
        try:
            self.on_drain(i, "before")
            drained = self[i].drain(self.now)
            self.nodes[i].store.commit(drained.records)
            self.on_drain(i, "after")
        except Crash:
            self.kill(i)
            return []
        return self.mail(i, drained)

    def mail(self, i: int, drained: Drained) -> list[Mail]:
        out: list[Mail] = []
        for message in drained.messages:
            match message:
                case Send(to, kind, payload):
                    assert to != self.id(i), "a message to itself"
                    if to in self.index:
                        out.append(Mail(i, self.index[to], kind, payload))
                case Broadcast(kind, payload):
                    out += [Mail(i, j, kind, payload) for j in range(len(self.nodes)) if j != i]
        self.sent += out
        return [copy for mail in out for copy in self.on_mail(mail)]

    def deliver(self, mail: Mail) -> bool:
        engine = self.nodes[mail.to].engine
        if engine is None:
            return True
        sender = self.id(mail.sender)
        valid = engine.receive(self.now, mail.type, mail.payload, sender, sender)
        assert valid or not self.fragile, f"called invalid: {mail.message!r}"
        return valid

    def give(self, to: int, message: msgspec.Struct, *, origin: str = "") -> bool:
        """One message from outside to node `to`; what the engine says of it."""
        kind = next(name for name, kind in MESSAGES.items() if isinstance(message, kind))
        sender = origin or Keys(99).node_id
        return self[to].receive(self.now, kind, pack(message), sender, sender)

    def round(self) -> int:
        """Everybody drains once, then everything sent arrives; how many messages that were."""
        alive = [i for i, node in enumerate(self.nodes) if node.engine is not None]
        under_way = [mail for i in alive for mail in self.drain(i)]
        for mail in under_way:
            self.deliver(mail)
        return len(under_way)

    def exchange(self, limit: int = 50) -> None:
        """Rounds until nobody has anything to send, without time passing."""
        for _ in range(limit):
            if not self.round():
                return
        raise AssertionError(f"still sending after {limit} rounds at one time")

    def run(self, seconds: float, step: float = 0.1) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for node in self.nodes:
                if node.engine is not None:
                    node.engine.tick(self.now)
            self.exchange()

    def settle(self) -> None:
        """Long enough for presence, catching up and asking again."""
        self.exchange()
        self.run(8.0)

    # Faults

    def kill(self, i: int) -> None:
        """As kill -9: what was not committed is gone."""
        self.nodes[i].engine = None
        self.nodes[i].store.close()

    def restart(self, i: int) -> None:
        if self.nodes[i].engine is not None:
            self.kill(i)
        if self.path is not None:
            self.nodes[i].store = self._open(i)
        self._start(i)
        self.link(i)

    def close(self) -> None:
        for node in self.nodes:
            node.store.close()

    # Trading and looking

    def buy(self, i: int, price: int | None, quantity: int, client_id: str | None = None) -> Order:
        return submit(self[i], self.now, self.markets[0], BUY, price, quantity, client_id)

    def sell(self, i: int, price: int | None, quantity: int, client_id: str | None = None) -> Order:
        return submit(self[i], self.now, self.markets[0], SELL, price, quantity, client_id)

    def order(self, i: int, number: int) -> Order:
        order = self[i].order_store.get(number)
        assert order is not None
        return order

    def book(self, i: int) -> list[tuple[int, int, int, int, int]]:
        """(side, price, owner's index, order number, quantity), bids first, best first.

        The index is -1 for an owner that is no node here.
        """
        return [
            (side, price, self.index.get(owner, -1), number, quantity)
            for side, price, _, owner, number, quantity in self[i].markets[M].contents()
        ]

    def fills(self, i: int) -> list[Fill]:
        """Own fills of node i, oldest first."""
        return self.nodes[i].store.fills()

    def orders(self, i: int) -> list[Order]:
        return self.nodes[i].store.orders()

    def check(self) -> None:
        """The invariants that hold once everybody can talk: see docs/architecture.md."""
        both: dict[tuple[str, int], list[Fill]] = {}
        for i in range(len(self.nodes)):
            filled: dict[int, int] = {}
            for fill in self.fills(i):
                filled[fill.order] = filled.get(fill.order, 0) + fill.quantity
                both.setdefault((fill.taker, fill.take), []).append(fill)
            for order in self.orders(i):
                assert order.filled <= order.quantity, "filled for more than its quantity"
                assert order.filled == filled.get(order.number, 0)
                assert order.pending == 0
            assert self[i].orders.takes.pending == []
            assert self[i].feeds_behind == 0
        for (taker, _), pair in both.items():
            assert {fill.role for fill in pair} == {"maker", "taker"}
            assert len(pair) == 2, "recorded on one side only, or twice"
            a, b = pair
            assert (a.price, a.quantity, a.time, a.side) == (b.price, b.quantity, b.time, -b.side)
            maker_side = a if a.role == "maker" else b
            assert maker_side.counterparty == taker
        for key in self.markets:
            markets = [self[i].markets[key] for i in range(len(self.nodes))]
            assert len({market.digest() for market in markets}) == 1
            assert not markets[0].book.crossed
        assert len({self[i].summary() for i in range(len(self.nodes))}) == 1
