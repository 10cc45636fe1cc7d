"""Routers, envelopes and links for tests of the router."""

from __future__ import annotations

import random

import msgspec
from virtual_mesh import NEWS, NOTE, anyone, identity

from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received, RouterHost, RouterSettings, broadcast_id
from p2p.wire.messages import EVERYONE, Envelope, pack, signed_bytes

HELLO = pack("hello")


def make(number: int = 0, *, host: RouterHost | None = None, **overrides: float) -> MessageRouter:
    return MessageRouter(
        identity(number),
        rng=random.Random(number),
        wall_ms=lambda: 1_700_000_000_000,
        host=host,
        settings=RouterSettings(**overrides),
    )


def node(number: int) -> str:
    return identity(number).node_id


def news(origin: int, payload: bytes, /, **changes: object) -> Envelope:
    envelope = Envelope(
        type=NEWS,
        from_=node(origin),
        to=EVERYONE,
        timestamp=1,
        payload=msgspec.Raw(payload),
        id=broadcast_id(NEWS, node(origin), payload),
    )
    return msgspec.structs.replace(envelope, **changes)


def signed(
    origin: int, to: int, payload: bytes = HELLO, *, number: int = 1, kind: str = NOTE
) -> Envelope:
    envelope = Envelope(
        type=kind,
        from_=node(origin),
        to=node(to),
        timestamp=1,
        payload=msgspec.Raw(payload),
        id=number.to_bytes(16, "big"),
    )
    envelope.key = identity(origin).public_key
    envelope.sig = identity(origin).sign(signed_bytes(envelope))
    return envelope


def direct(origin: int, kind: str = NOTE, payload: bytes = HELLO, to: str = "") -> Envelope:
    return Envelope(type=kind, from_=node(origin), to=to, timestamp=1, payload=msgspec.Raw(payload))


class Host:
    """Owner of a router that remembers its calls."""

    def __init__(self) -> None:
        self.useful: list[str] = []
        self.deferred: list[tuple[str, str]] = []

    def first_with_news(self, link: str) -> None:
        self.useful.append(link)

    def defer(self, link: str, origin: str) -> None:
        self.deferred.append((link, origin))

    def why_not_grenache(self, node: str) -> str:
        return f"{node[:1]} was not found"


class Inbox:
    """A handler that remembers, and says what it is told to say."""

    def __init__(self, router: MessageRouter, kind: str) -> None:
        self.received: list[Received] = []
        self.verdict = True
        router.handle(kind, self, origin=anyone)

    def __call__(self, received: Received) -> bool:
        self.received.append(received)
        return self.verdict
