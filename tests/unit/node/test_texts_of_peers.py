"""Every text that peers write in a message has a type that keeps control characters out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from engine_kit import ask
from msgspec import inspect, to_builtins

from exchange.feeds.exchange_messages import MESSAGES
from p2p.base.errors import MalformedMessage
from p2p.grenache_links.tunnel import TunnelReply, TunnelRequest
from p2p.reachability.dial_back import DialBackAnswer, DialBackBody
from p2p.reachability.hole_punching import PunchAnswer, PunchOffer, PunchSync
from p2p.services import health_gossip, service_directory
from p2p.services.service_server import ServiceCall, ServiceReply
from p2p.wire.messages import PAYLOADS, Capabilities, Codec, Envelope, Goodbye, Handshake, pack

KINDS: list[Any] = [
    *(Envelope, *PAYLOADS.values(), *MESSAGES.values(), *service_directory.MESSAGES.values()),
    *(*health_gossip.MESSAGES.values(), ServiceCall, ServiceReply, TunnelRequest, TunnelReply),
    *(PunchOffer, PunchAnswer, PunchSync, DialBackBody, DialBackAnswer),
]
COMPARED = {  # with known names, before anything is kept or shown
    *("Envelope.type", "Envelope.from_", "Envelope.to", "Presence.heads", "HintItem.peer"),
    *("Branch.push", "Branch.leave", "Branch.reset", "FeedHead.owner", "FeedHead.market"),
    *("FeedRequest.owner", "FeedRequest.market", "FeedPart.owner", "FeedPart.market"),
}
UNSAFE = ("a\0", "a\r", "\x1b[2J", "\x9b2J", "\x7f", "\u2028", "\u202ea", "\u061ca", "\u2066a")


def texts(kind: Any, where: str = "") -> Iterator[tuple[str, inspect.StrType]]:
    """Types of texts in a type, with the fields that have them."""
    if isinstance(kind, inspect.StrType):
        yield where, kind
    for field in getattr(kind, "fields", ()):
        yield from texts(field.type, f"{kind.cls.__name__}.{field.name}")
    inner = [getattr(kind, name, None) for name in ("type", "item_type", "key_type", "value_type")]
    for part in (*inner, *getattr(kind, "types", ()), *getattr(kind, "item_types", ())):
        if part is not None:
            yield from texts(part, where)


def test_every_text_of_a_peer_has_a_pattern_without_control_characters() -> None:
    free = set()
    for kind in KINDS:
        for field, text in texts(inspect.type_info(kind)):
            if text.pattern is None or field in COMPARED:
                free.add(field)
                continue
            for unsafe in UNSAFE:
                assert not re.search(text.pattern, unsafe), (field, unsafe)
    assert free == COMPARED


@pytest.mark.parametrize("text", UNSAFE)
def test_a_message_with_an_unsafe_text_is_malformed(text: str) -> None:
    codec = Codec()
    claims = Capabilities("1.0", ["take"], ["msgpack"], text)
    for name, payload in {
        "goodbye": Goodbye("full", text),
        "handshake": Handshake("n", b"k" * 32, "1.0", "main", 1, b"n" * 32, claims),
    }.items():
        with pytest.raises(MalformedMessage):
            codec.payload(name, pack(payload))
    with pytest.raises(MalformedMessage) as caught:  # its text quotes the value
        Codec(MESSAGES).payload("take", pack({**to_builtins(ask()), "phase": text}))
    assert str(caught.value).isprintable()
    assert codec.payload("goodbye", pack(Goodbye("full", "no room: née 1 €, try later")))
