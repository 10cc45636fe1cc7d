"""Nodes of a network in memory, started and looked at by tests of the peer manager."""

from peer_network import node_id

from p2p.addresses.address import PeerFound
from p2p.wire.messages import Envelope, pack

A, B, C = node_id("a"), node_id("b"), node_id("c")


def found(node, *, with_id=False, source="bootstrap"):
    return PeerFound(node.host, node.port, node.id if with_id else None, source)


def dials(net, letter):
    return [(host, port) for who, host, port, _ in net.dials if who == letter]


async def start(*nodes):
    for node in nodes:
        await node.manager.start()


def envelope(sender, kind="order", **more):
    return Envelope(kind, sender, "", 0, pack({}), **more)


class MemoryStorage:
    def __init__(self, peers=()):
        self.peers = list(peers)
        self.fails = False

    def load(self):
        return self.peers

    def save(self, peers, serial=None):
        if self.fails:
            raise OSError("disk full")
        self.peers = list(peers)
