"""Peer exchange: peers send each other the addresses of further peers (after BEP 11 of BitTorrent).

A node passes on only peers that it is connected to and that were reached at the address given
(`PeerManager.proven_peers`). Received entries are candidates: they are dialled with the claimed node
id, and passed on further only after that has succeeded.

`PeerExchangeCore` decides, without I/O; `ExchangeStrategy` connects it to links and timers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

import msgspec

from p2p.addresses.address import PeerFound
from p2p.base.errors import Code, MalformedMessage
from p2p.base.host_port import normal_host
from p2p.base.identity import is_node_id
from p2p.base.limits import PEX_FIRST_DELAY, PEX_INTERVAL, PEX_MAX_PEERS
from p2p.base.reach import Reach, may_dial, may_name, reach, teller
from p2p.discovery.strategy import BaseStrategy
from p2p.ground.tokens import TokenTable
from p2p.wire.link import Carrier, PeerLink
from p2p.wire.messages import Codec, Envelope, PeerAddress, PeerExchange, pack

PEX_SECOND_DELAY: Final = (
    5.0  # seconds after the first push, for addresses that feelers have proven since
)
PEX_JITTER: Final = 0.1  # of PEX_INTERVAL, so that a network that started together does not pulse
GRAIN: Final = 0.01  # seconds; timers may fire slightly early, a shorter wait would spin
BURST: Final = 3.0  # lists accepted at once
REFILL: Final = 2.0 / PEX_INTERVAL  # lists per second after that
MAX_BUDGETS: Final = 1000  # nodes whose budget is remembered after their link is gone
CARRIERS: Final[Mapping[str, Carrier]] = {name: name for name in get_args(Carrier)}


@dataclass(slots=True)
class _Partner:
    address: str
    next_push: float
    pushes: int = 0
    sent: set[tuple[str, str, int, str]] = field(default_factory=set)


class PeerExchangeCore:
    """All decisions of peer exchange. `now` is in monotonic seconds."""

    def __init__(self, own_id: str, rng: random.Random) -> None:
        self._own_id = own_id
        self._rng = rng
        self._partners: dict[str, _Partner] = {}
        self._budgets = TokenTable(REFILL, BURST, MAX_BUDGETS)
        self.ignored = 0  # lists that came too often

    def link_up(self, node_id: str, address: str, now: float) -> None:
        """Process a new link. `address`: remote IP address of its socket."""
        self._partners[node_id] = _Partner(normal_host(address), now + PEX_FIRST_DELAY)

    def link_down(self, node_id: str) -> None:
        # The budget stays: a new link must not bring a full bucket.
        self._partners.pop(node_id, None)

    def due(self, now: float) -> list[str]:
        """Return the node ids of the peers whose push is due."""
        return [node_id for node_id, p in self._partners.items() if p.next_push <= now]

    def next_due(self) -> float | None:
        return min((p.next_push for p in self._partners.values()), default=None)

    def push(self, node_id: str, proven: Sequence[PeerAddress], now: float) -> PeerExchange | None:
        """Return the list for a peer whose push is due; None if there is nothing to send.

        The first push has all known peers, the second only those that are new since the first.
        """
        partner = self._partners.get(node_id)
        if partner is None:
            return None
        partner.pushes += 1
        second = partner.pushes == 2
        wait = PEX_SECOND_DELAY
        if partner.pushes > 1:
            wait = PEX_INTERVAL * (1.0 + PEX_JITTER * self._rng.uniform(0.0, 1.0))
        partner.next_push = now + wait
        useful = [
            passed_on
            for peer in proven
            if peer.node_id not in (node_id, self._own_id)
            and (passed_on := _for(partner.address, peer)) is not None
        ]
        if second:
            useful = [peer for peer in useful if _key(peer) not in partner.sent]
        if not useful:
            return None
        chosen = self._rng.sample(useful, min(len(useful), PEX_MAX_PEERS))
        partner.sent = {_key(peer) for peer in chosen}
        return PeerExchange(chosen)

    def received(self, node_id: str, message: PeerExchange, now: float) -> list[PeerFound]:
        """Return the candidates in a list from a peer; none if it sends lists too often.

        Raises:
            MalformedMessage: the list is longer than any node may send.
        """
        if len(message.peers) > PEX_MAX_PEERS:
            raise MalformedMessage(
                f"peerexchange of {len(message.peers)} peers, the limit is {PEX_MAX_PEERS}"
            )
        partner = self._partners.get(node_id)
        if partner is None:
            return []
        if not self._budgets.take(now, node_id):
            self.ignored += 1
            return []
        candidates = []
        for peer in message.peers:
            carrier = CARRIERS.get(peer.carrier)
            if peer.node_id == self._own_id or carrier is None:
                continue  # an unknown carrier is of a newer version, not a fault of the sender
            host = believable(partner.address, peer)
            if host is not None:
                candidates.append(
                    PeerFound(
                        host=host,
                        port=peer.port,
                        node_id=peer.node_id,
                        source="exchange",
                        via=node_id,
                        via_address=partner.address,
                        carrier=carrier,
                    )
                )
        return candidates


def _for(receiver: str, peer: PeerAddress) -> PeerAddress | None:
    if not may_name(teller(receiver), peer.address):
        return None
    # The zone of a link-local IPv6 address is the number of an interface of this machine.
    return PeerAddress(peer.node_id, peer.address.partition("%")[0], peer.port, peer.carrier)


def believable(sender: str, peer: PeerAddress) -> str | None:
    """Return the host to dial for an entry of `sender`'s list, None if it is not to be dialled."""
    host = peer.address
    if len(host) > 64 or "%" in host or not is_node_id(peer.node_id):
        return None
    if not may_dial(teller(sender), host, peer.port):
        return None
    host = normal_host(host)
    if reach(host) is Reach.LINK and ":" in host and "%" in sender:
        host += "%" + sender.partition("%")[2]
    return host


def _key(peer: PeerAddress) -> tuple[str, str, int, str]:
    return (peer.node_id, peer.address, peer.port, peer.carrier)


class ExchangeStrategy(BaseStrategy):
    """Push lists over links and report the received candidates.

    Register it with `PeerManager.follow` for links and with `PeerManager.handle` for messages of type
    `peerexchange`. `proven` is `PeerManager.proven_peers`.
    """

    name = "exchange"

    def __init__(
        self,
        own_id: str,
        proven: Callable[[], Iterable[PeerAddress]],
        *,
        codec: Codec | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__()
        self.core = PeerExchangeCore(
            own_id,
            rng or random.Random(),  # noqa: S311 - spreads load, guards nothing
        )
        self._own_id = own_id
        self._proven = proven
        self._codec = codec or Codec()
        self._links: dict[str, PeerLink] = {}
        self._wake = asyncio.Event()

    def link_up(self, link: PeerLink) -> None:
        self._links[link.peer.node_id] = link
        self.core.link_up(link.peer.node_id, link.peer.address, self._now())
        self._wake.set()
        self._describe()

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        if self._links.get(link.peer.node_id) is link:
            del self._links[link.peer.node_id]
            self.core.link_down(link.peer.node_id)
            self._describe()

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        """Process a list from the peer at the other end.

        Raises:
        MalformedMessage: not a list, or longer than the limit.
        """
        if self._found is None or self._links.get(link.peer.node_id) is not link:
            return
        message = self._codec.payload("peerexchange", envelope.payload)
        ignored = self.core.ignored
        for each in self.core.received(link.peer.node_id, message, self._now()):
            self._report(
                each.host,
                each.port,
                each.node_id,
                each.via,
                via_address=each.via_address,
                carrier=each.carrier,
            )
        if self.core.ignored > ignored:
            extra = link.stats.extra
            extra["peerexchange_ignored"] = extra.get("peerexchange_ignored", 0) + 1
        self._describe()

    async def _open(self) -> None:
        self._wake.clear()
        self._describe()

    async def _run(self) -> None:
        while True:
            now = self._now()
            for node_id in self.core.due(now):
                message = self.core.push(node_id, list(self._proven()), now)
                link = self._links.get(node_id)
                if message is not None and link is not None:
                    link.send(self._envelope(message))
            due = self.core.next_due()
            self._wake.clear()
            try:
                async with asyncio.timeout(None if due is None else max(due - now, GRAIN)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _envelope(self, message: PeerExchange) -> Envelope:
        return Envelope(
            type="peerexchange",
            from_=self._own_id,
            to="",
            timestamp=int(time.time() * 1000),
            payload=msgspec.Raw(pack(message)),
        )

    def _describe(self) -> None:
        if self._found is not None:
            count = len(self._links)
            self._detail = f"exchanging addresses with {count} peer{'' if count == 1 else 's'}"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
