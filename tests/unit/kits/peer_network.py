"""Nodes in memory: peer managers whose dialer is a table of who listens where.

Follows `p2p.wire.direct_links`: the accepting side is asked for admission first, and is up first; a link that
is closed is deaf at once, and both sides hear of it in a later turn of the loop.
"""

import asyncio
import random

from msgspec.structs import replace

from p2p.base.errors import Code, ConnectFailed, HandshakeRefused
from p2p.discovery.peer_exchange import ExchangeStrategy
from p2p.peers.dial_loop import Surroundings
from p2p.peers.peer_manager import PeerManager, PeerSettings
from p2p.wire.link import LinkStats, PeerInfo
from p2p.wire.messages import Capabilities


def node_id(letter):
    return letter * 32


WORKER = 3100  # port for Grenache requests


def info(peer_id, *, address="192.0.2.1", port=3000, outbound=True, carrier="tcp", dialled=None):
    return PeerInfo(
        node_id=peer_id,
        public_key=b"",
        version="1.0.0",
        network="main",
        capabilities=Capabilities("1.0.0"),
        address=address,
        listen_port=port,
        outbound=outbound,
        encrypted=True,
        carrier=carrier,
        dialled=dialled,
    )


class MemoryLink:
    """One end. `owner` hears of it; `other` is the far end, if there is one."""

    def __init__(self, peer, *, now=0.0, owner=None):
        self.peer = peer
        self.stats = LinkStats(opened_at=now, last_seen=now)
        self.owner = owner
        self.other = None
        self.closed = False
        self.frozen = False  # half-open: nothing is heard any more
        self.said = None
        self.sent = []
        self.outbox_bytes = 0

    def send(self, envelope):
        if self.closed:
            return
        self.sent.append(envelope)
        other = self.other
        if other is not None and not self.frozen:
            asyncio.get_running_loop().call_soon(other.receive, envelope)

    def receive(self, envelope):
        if not self.closed:
            self.stats.last_seen = asyncio.get_running_loop().time()
            self.owner.message(self, envelope)

    def send_packed(self, payload):
        raise NotImplementedError

    async def drain(self):
        pass

    def close(self, code, reason=""):
        if self.closed:
            return
        self.closed = True
        self.said = code
        self._ended(code, reason)
        if self.other is not None and not self.frozen:
            asyncio.get_running_loop().call_soon(self.other.hear_goodbye, code, reason)

    def hear_goodbye(self, code, reason):
        if not self.closed:
            self.closed = True
            self._ended(code, reason)

    def break_off(self):
        """The connection is lost without a word, and both ends notice."""
        for end in (self, self.other):
            end.hear_goodbye(None, "reset")

    def _ended(self, code, reason):
        if self.owner is not None:
            asyncio.get_running_loop().call_soon(self.owner.link_down, self, code, reason)


class Node:
    def __init__(self, net, letter, host, port, over=("tcp",), **settings):
        self.net = net
        self.id = letter if len(letter) == 32 else node_id(letter)
        self.host, self.port = host, port
        self.network = "main"
        self.heard = []
        self.manager = PeerManager(
            self.id,
            PeerSettings(**settings),
            listener=self,
            surroundings=Surroundings(
                random.Random(letter),
                net.resolve,
                wall=lambda: 1_700_000_000.0 + asyncio.get_running_loop().time(),
            ),
        )
        if "tcp" in over:
            self.manager.dial_over("tcp", self)
        if "grenache" in over:
            self.manager.dial_over("grenache", GrenacheDialer(self))
        self.exchange = ExchangeStrategy(
            self.id, self.manager.proven_peers, rng=random.Random(letter)
        )
        self.manager.follow(self.exchange)
        self.manager.handle("peerexchange", self.exchange.message)

    # listener
    def link_up(self, link):
        self.heard.append(("up", link.peer.node_id))

    def link_down(self, link, code, reason):
        self.heard.append(("down", link.peer.node_id))

    def message(self, link, envelope):
        self.heard.append((envelope.type, link.peer.node_id))

    # dialer
    async def dial(self, host, port, expect=None):
        return await self.net.dial(self, host, port, expect)

    def connected(self):
        return "".join(sorted(peer_id[0] for peer_id in self.manager.links))


class GrenacheDialer:
    def __init__(self, node):
        self.node = node

    async def dial(self, host, port, expect=None):
        return await self.node.net.dial(self.node, host, port, expect, "grenache")


class Network:
    """Dials take `latency` seconds. `dials` records (from, to host, to port, expected id)."""

    def __init__(self, latency=0.01):
        self.latency = latency
        self.names = {}
        self.nodes = {}  # by TCP address
        self.workers = {}  # by the address for Grenache requests
        self.dials = []
        self.all = []
        self.running = 0
        self.most_running = 0

    def node(self, letter, host=None, port=3000, *, listens=True, over=("tcp",), **settings):
        host = host or f"192.0.2.{ord(letter)}"
        node = Node(self, letter, host, port, over, **settings)
        self.all.append(node)
        if listens and "tcp" in over:
            self.nodes[host, port] = node
        if listens and "grenache" in over:
            self.workers[host, WORKER] = node
        return node

    async def resolve(self, host, port):
        if host in self.names:
            return self.names[host]
        if host[0].isdigit() or ":" in host:
            return [host]
        raise OSError("name not known")

    async def dial(self, caller, host, port, expect, carrier="tcp"):
        loop = asyncio.get_running_loop()
        self.dials.append((caller.id[0], host, port, expect))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.running -= 1
        called = (self.nodes if carrier == "tcp" else self.workers).get((host, port))
        if called is None:
            raise ConnectFailed(f"{host}:{port}: nobody there")

        def refuse(code, by_us, reason="", others=()):
            raise HandshakeRefused(code, reason or str(code), by_us=by_us, others=others)

        if called.network != caller.network:
            refuse(Code.WRONG_NETWORK, True)
        if called is caller:
            refuse(Code.SELF, True)
        if expect is not None and called.id != expect:
            refuse(Code.WRONG_IDENTITY, True)
        listens = (caller.host, caller.port) in self.nodes
        near_info = info(
            called.id,
            address=host,
            port=called.port if (called.host, called.port) in self.nodes else 0,
            carrier=carrier,
            dialled=(host, port),
        )
        near = MemoryLink(near_info, now=loop.time(), owner=caller.manager)
        far_info = info(
            caller.id,
            address=caller.host,
            port=caller.port if listens else 0,
            outbound=False,
            carrier=carrier,
        )
        far = MemoryLink(far_info, now=loop.time(), owner=called.manager)
        near.other, far.other = far, near
        refusal = called.manager.admit(far_info)
        if refusal is not None:
            refuse(refusal.code, False, refusal.reason, refusal.others)
        called.manager.link_up(far)
        await asyncio.sleep(self.latency)
        refusal = caller.manager.admit(replace(near.peer))
        if refusal is not None:
            loop.call_soon(far.hear_goodbye, refusal.code, refusal.reason)
            refuse(refusal.code, True, refusal.reason)
        if far.closed:
            raise ConnectFailed("closed again")
        caller.manager.link_up(near)
        return near

    async def stop(self):
        for node in self.all:
            await node.exchange.stop()
            await node.manager.stop()
