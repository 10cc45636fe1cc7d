"""Attackers for eclipse tests: identities that take every link they get and send each other's addresses only."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from contextlib import suppress

import msgspec

from p2p.base.errors import ConnectFailed, HandshakeRefused
from p2p.wire.messages import Envelope, PeerAddress, PeerExchange, pack

PORT = 3000


def any_id(name: str) -> str:
    """Return a valid node id that follows from a name."""
    return base64.b32encode(hashlib.sha256(name.encode()).digest()[:20]).decode().lower()


class Attacker:
    """One identity: it listens, dials its targets whenever it has no link to them, and holds idle links.

    It stands for a node and its peer manager at once, as far as `peer_network.Network` uses them.
    """

    network = "main"

    def __init__(self, net, name: str, host: str, port: int = PORT) -> None:
        self.net = net
        self.id = any_id(name)
        self.host, self.port = host, port
        self.manager = self
        self.links: set[object] = set()
        self.addresses: list[PeerAddress] = []  # what it sends to its victims
        self.rng = random.Random(name)
        net.nodes[host, port] = self

    def admit(self, info):
        return None

    def link_up(self, link):
        self.links.add(link)
        if self.addresses:
            chosen = self.rng.sample(self.addresses, min(50, len(self.addresses)))
            link.send(
                Envelope("peerexchange", self.id, "", 0, msgspec.Raw(pack(PeerExchange(chosen))))
            )

    def link_down(self, link, code, reason):
        self.links.discard(link)

    def message(self, link, envelope):
        pass

    def linked_to(self, target) -> bool:
        return any(link.peer.node_id == target.id and not link.closed for link in self.links)

    async def attack(self, targets: list, pause: float) -> None:
        """Keep a link to every target, until cancelled."""
        await asyncio.sleep(self.rng.uniform(0.0, pause))
        while True:
            for target in list(targets):
                if not self.linked_to(target):
                    with suppress(ConnectFailed, HandshakeRefused):
                        await self.net.dial(self, target.host, target.port, None)
            await asyncio.sleep(pause * self.rng.uniform(0.8, 1.2))


def attackers(net, count: int, groups: int) -> list[Attacker]:
    """Make `count` identities: of one address when `groups` is 0, else spread over that many /16."""
    made = []
    for n in range(count):
        if groups:
            host = f"{60 + n % groups}.1.{n // 250}.{n % 250 + 1}"
            made.append(Attacker(net, f"attacker {n}", host))
        else:
            made.append(Attacker(net, f"attacker {n}", "60.1.0.1", 10_000 + n))
    addresses = [PeerAddress(a.id, a.host, a.port) for a in made]
    for attacker in made:
        attacker.addresses = addresses
    return made
