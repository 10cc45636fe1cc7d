"""Hostile values in each field of each message of the exchange: judged, and nothing of them is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from engine_kit import ask
from exchange_kit import DOGE, ETH, NETWORK, Keys, M, Network, Owner

from exchange.feeds.exchange_messages import (
    FeedDigest,
    FeedHead,
    FeedPart,
    FeedRequest,
    PresenceRequest,
    TakeResult,
    pack,
)
from exchange.feeds.presence import PresenceLeases
from exchange.model.events import BUY, GENESIS, SELL, Amended, Closed, Filled, Opened, sign_batch

STRANGER = Keys(50)
SURROGATE = "SURROGATE"  # becomes three of them, which no encoder writes
HOSTILE: dict[str, Any] = {
    "NUL": "a\0b",
    "CR": "a\rb",
    "LF": M + "\n",
    "ESC": "\x1b[2J",
    "CSI": "\x9b2J",
    "turned": "\u202eabc",
    "surrogates": SURROGATE,
    "10 MB": "A" * 10**7,
    "empty": "",
    "markup": "<img src=x>",
    "unknown market": DOGE,
    "another market": ETH,
    "no steps": "BTC-USD@0/0",
    "number": 7,
    "zero": 0,
    "negative": -(2**63),
    "huge": 2**64 - 1,
    "no number": float("nan"),
    "list": ["x"],
    "map": {"x": "\x1b"},
    "nil": None,
    "bytes": b"\x1b" * 40,
}


def signed(kind: str, *events: Any, market: Any = M) -> tuple[str, bytes]:
    return kind, pack(sign_batch(STRANGER, NETWORK, market, 1, GENESIS, events)[0])


def presence(*head: Any) -> tuple[str, bytes]:
    leases = PresenceLeases(STRANGER, NETWORK, incarnation=1, lease_ms=600_000)
    return "presence", pack(leases.make(0.0, [head]))


def part(value: Any) -> FeedPart:
    batch = sign_batch(STRANGER, NETWORK, M, 1, GENESIS, [OPENED, Closed(1, value)])[0]
    return FeedPart(STRANGER.node_id, M, 2, [batch])


OPENED = Opened(1, SELL, 100, 5, 1000)
FILLED = {
    **{"order": 1, "side": SELL, "quantity": 5, "price": 100, "shown": 0, "left": 0},
    **{"taker": "taker", "take": 7, "time": 2000},
}
Message = Callable[[Any], tuple[str, bytes]]
FIELDS: dict[str, Message] = {
    "market of an order": lambda value: signed("order", OPENED, market=value),
    "price of an order": lambda value: signed("order", Opened(1, SELL, value, 5, 1000)),
    "time of an order": lambda value: signed("order", Opened(1, BUY, 90, 5, value)),
    "quantity of an amendment": lambda value: signed("order", OPENED, Amended(1, value)),
    "reason of an end": lambda value: signed("order", OPENED, Closed(1, value)),
    **{
        f"{field} of a trade": lambda value, field=field: signed(
            "trade", OPENED, Filled(**{**FILLED, field: value})
        )
        for field in FILLED
    },
    "market of a head": lambda value: presence(value, 3),
    "number of a head": lambda value: presence(M, value),
    **{
        f"{field} of a take": lambda value, field=field: ("take", pack(ask(**{field: value})))
        for field in (
            "market",
            "quantity",
            "price",
            "taker_order",
            "void",
            "phase",
            "until",
            "traceparent",
        )
    },
    "reason of a result": lambda value: (
        "take_result",
        pack(TakeResult(1, M, 1, 100, 0, 1000, 1, value)),
    ),
    "owner of a digest": lambda value: (
        "digest",
        pack(FeedDigest(b"", [FeedHead(value, M, 3, b"x" * 8)])),
    ),
    "market of a digest": lambda value: (
        "digest",
        pack(FeedDigest(b"", [FeedHead(STRANGER.node_id, value, 3, b"x" * 8)])),
    ),
    "market of a request": lambda value: (
        "feed_request",
        pack(FeedRequest(STRANGER.node_id, value, 0)),
    ),
    "reason in a part": lambda value: ("feed", pack(part(value))),
    "parts of a request": lambda value: ("presence_request", pack(PresenceRequest(0, value))),
}


def texts(value: Any) -> list[str]:
    """All texts in a value, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [text for each in value for text in texts(each)]
    return texts(msgspec.to_builtins(value)) if isinstance(value, msgspec.Struct) else []


@pytest.mark.parametrize("field", FIELDS)
def test_nothing_of_a_hostile_value_is_kept_and_the_node_trades_on(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = Network(1)
    net.sell(0, 100, 10)
    net.settle()
    engine = net[0]
    for name, value in HOSTILE.items():
        kind, payload = FIELDS[field](value)
        payload = payload.replace(SURROGATE.encode(), b"\xed\xa0\x80" * 3)
        verdict = engine.receive(net.now, kind, payload, STRANGER.node_id, STRANGER.node_id)
        assert verdict in (True, False, None), name
        net.now += 1.0
        engine.tick(net.now)
        drained = engine.drain(net.now)
        net.nodes[0].store.commit(drained.records)
        shown = [drained.records, engine.other_steps]
        shown += [net.nodes[0].warnings, [feed for feed, _ in engine.feeds.items()], caplog.text]
        for text in texts(shown):
            assert text.replace("\n", "").isprintable(), (name, text)
            assert "<" not in text, name
            assert len(text) < 1000, name
    net.restart(0)
    net.buy(0, 100, 3)
    net.settle()
    assert sum(fill.quantity for fill in net.fills(0) if fill.role == "taker") == 3


def test_an_honest_owner_of_the_same_kind_is_heard() -> None:
    """The table's messages are valid but for the hostile value."""
    net = Network(1)
    assert net.give(0, Owner(51).batch(OPENED, Filled(**FILLED)))
    good = {"market of an order": M, "market of a take": M, "reason of an end": "cancelled"}
    for field, value in {**good, "reason in a part": "filled", "market of a head": M}.items():
        kind, payload = FIELDS[field](value)
        fresh = Network(1)[0]
        assert fresh.receive(0.0, kind, payload, STRANGER.node_id, STRANGER.node_id) is True, field
