"""Batches and events: what an honest owner can have signed, and nothing else, is let in."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Owner

from exchange.feeds.exchange_messages import pack, unpack
from exchange.model.events import (
    BUY,
    GENESIS,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Event,
    Filled,
    InvalidBatch,
    Moved,
    Opened,
    check_batch,
    sign_batch,
)
from exchange.model.instruments import Instrument, Instruments, instrument_of
from exchange.model.peer_values import (
    MAX_EVENTS,
    MAX_ORDER,
    MAX_PRICE,
    MAX_QUANTITY,
    is_market_key,
)

OPENED = Opened(1, BUY, 100, 5, 1000)
FILLED = Filled(1, BUY, 2, 100, 3, 3, "taker", 7, 2000)
AMENDED = Amended(1, 4)
MOVED = Moved(1, 101, 5, 2_000)
CLOSED = Closed(1, "cancelled")
CHECKPOINT = Checkpoint(b"\x07" * 32)

replace = msgspec.structs.replace


def check(batch: Batch, network: str = NETWORK) -> bytes:
    return check_batch(Keys(9), network, batch)


def decoded(batch: Batch) -> msgspec.Struct:
    return unpack("order", pack(batch))


@pytest.mark.parametrize(
    "altered",
    [
        {"key": b"\x01" * 31},
        {"key": b""},
        {"signature": b"\x01" * 63},
        {"previous": b""},
        {"events": []},
        {"events": [AMENDED] * (MAX_EVENTS + 1)},
        {"first": 0},
        {"first": -1},
        {"first": 2**62},
        {"market": "m" * 81},
        {"market": M[:-1] + "0"},
    ],
    ids=str,
)
def test_a_batch_with_a_value_that_no_node_writes_is_not_decoded(altered: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoded(replace(Owner(1).batch(OPENED), **altered))


def test_batches_at_the_limits_of_shape_are_accepted() -> None:
    market = f"{'A' * 12}-{'B' * 12}@{'999999.' + '9' * 12}/{'0.' + '9' * 12}"
    first = 2**62 - 1
    batch, _ = sign_batch(Keys(1), NETWORK, market, first, GENESIS, [AMENDED] * MAX_EVENTS)
    assert decoded(batch) == batch
    check(batch)


@pytest.mark.parametrize(
    ("key", "good"),
    [
        *((instrument.key, True) for instrument in Instruments.default()),
        (Instrument("A1-B2", Decimal("1e-12"), Decimal(1_000_000)).key, True),
        *(
            (key, False)
            for key in ("x", "", M + "\n", "A-B@1/1", "AA-AA@1/1", "AA-BB@1", "BTC-USD")
        ),
        *(
            (f"AA-BB@{step}/1", False)
            for step in ("0", "0.0", "00", "01", "1.0", "1000000.5", ".5")
        ),
        *((f"AA-BB@1/{step}", False) for step in ("0", "1.", "-1", "1e3", "2000000", "\u0661")),
    ],
)
def test_a_market_key_is_accepted_if_and_only_if_its_instrument_can_be_made(
    key: str, good: bool
) -> None:
    assert is_market_key(key) is good
    try:
        assert (instrument_of(key).key == key) is good
    except (ValueError, ArithmeticError):
        assert not good


def test_a_checkpoint_is_only_ever_the_last_event() -> None:
    alone, _ = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, [CHECKPOINT])
    last, _ = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, [OPENED, CHECKPOINT])
    inside, _ = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, [CHECKPOINT, OPENED])
    twice, _ = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, [CHECKPOINT, CHECKPOINT])
    check(alone)
    check(last)
    for batch in (inside, twice):
        with pytest.raises(InvalidBatch, match="checkpoint inside"):
            check(batch)


def test_more_shown_than_left_is_refused_though_the_owner_signed_it() -> None:
    batch, _ = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, [OPENED, replace(FILLED, shown=4)])
    with pytest.raises(InvalidBatch, match="than left"):
        check(batch)


LIMIT = 2**62


@pytest.mark.parametrize(
    ("event", "field", "bad", "good"),
    [
        (OPENED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (OPENED, "side", [0, 2, -2], [BUY, SELL]),
        (OPENED, "price", [0, -1, MAX_PRICE], [1, MAX_PRICE - 1]),
        (OPENED, "shown", [0, -1, MAX_QUANTITY], [1, MAX_QUANTITY - 1]),
        (OPENED, "time", [0, -1, LIMIT], [1, LIMIT - 1]),
        (FILLED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (FILLED, "side", [0, 2, -2], [BUY, SELL]),
        (FILLED, "quantity", [0, -1, MAX_QUANTITY], [1, MAX_QUANTITY - 1]),
        (FILLED, "price", [0, -1, MAX_PRICE], [1, MAX_PRICE - 1]),
        (FILLED, "shown", [-1, MAX_QUANTITY], [0, 3]),
        (FILLED, "left", [-1, MAX_QUANTITY], [3, MAX_QUANTITY - 1]),
        (FILLED, "taker", ["", "t" * 65, "a\0", "a\n", "a b", "\u009b"], ["t", "t" * 64]),
        (FILLED, "take", [0, -1, LIMIT], [1, LIMIT - 1]),
        (FILLED, "time", [0, -1, LIMIT], [1, LIMIT - 1]),
        (AMENDED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (AMENDED, "shown", [-1, MAX_QUANTITY], [0, MAX_QUANTITY - 1]),
        (MOVED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (MOVED, "price", [0, -1, MAX_PRICE], [1, MAX_PRICE - 1]),
        (MOVED, "shown", [-1, MAX_QUANTITY], [0, MAX_QUANTITY - 1]),
        (MOVED, "time", [0, -1, LIMIT], [1, LIMIT - 1]),
        (CLOSED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (CLOSED, "reason", ["r" * 33, "\x1b[2J", "a\n"], ["", "r" * 32]),
        (CHECKPOINT, "state", [b"", b"\x00" * 31, b"\x00" * 33], [b"\x00" * 32]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else None,
)
def test_the_possible_values_of_each_field(
    event: Event, field: str, bad: list[Any], good: list[Any]
) -> None:
    batch = Owner(1).batch(OPENED)
    for value in good:
        decoded(replace(batch, events=(replace(event, **{field: value}),)))
    for value in bad:
        with pytest.raises(msgspec.ValidationError):
            decoded(replace(batch, events=(replace(event, **{field: value}),)))
