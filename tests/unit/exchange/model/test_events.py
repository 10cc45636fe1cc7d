"""Batches and events: what an honest owner can have signed, and nothing else, is let in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Owner

from exchange.model.events import (
    BUY,
    GENESIS,
    MAX_EVENTS,
    MAX_ORDER,
    MAX_PRICE,
    MAX_QUANTITY,
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
    check_event,
    sign_batch,
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


@pytest.mark.parametrize(
    ("altered", "why"),
    [
        ({"key": b"\x01" * 31}, "length"),
        ({"key": b""}, "length"),
        ({"signature": b"\x01" * 63}, "length"),
        ({"previous": b""}, "length"),
        ({"events": []}, "no events"),
        ({"events": [AMENDED] * (MAX_EVENTS + 1)}, "too many"),
        ({"first": 0}, "out of range"),
        ({"first": -1}, "out of range"),
        ({"first": 2**62}, "out of range"),
        ({"market": "m" * 81}, "too long"),
    ],
)
def test_a_batch_of_a_wrong_shape_is_refused_before_its_signature_is_looked_at(
    altered: dict[str, Any], why: str
) -> None:
    class NoVerify(Keys):
        def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
            raise AssertionError("looked at")

    batch = replace(Owner(1).batch(OPENED), **altered)
    with pytest.raises(InvalidBatch, match=why):
        check_batch(NoVerify(9), NETWORK, batch)


def test_batches_at_the_limits_of_shape_are_accepted() -> None:
    first = 2**62 - 1
    batch, _ = sign_batch(Keys(1), NETWORK, "m" * 80, first, GENESIS, [AMENDED] * MAX_EVENTS)
    check(batch)


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


def test_impossible_values_are_refused_though_the_owner_signed_them() -> None:
    batch, _ = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, [OPENED, replace(OPENED, price=0)])
    with pytest.raises(InvalidBatch, match="impossible values"):
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
        (FILLED, "shown", [-1, 4], [0, 3]),
        (FILLED, "left", [2, MAX_QUANTITY], [3, MAX_QUANTITY - 1]),
        (FILLED, "taker", ["", "t" * 65], ["t", "t" * 64]),
        (FILLED, "take", [0, -1, LIMIT], [1, LIMIT - 1]),
        (FILLED, "time", [0, -1, LIMIT], [1, LIMIT - 1]),
        (AMENDED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (AMENDED, "shown", [-1, MAX_QUANTITY], [0, MAX_QUANTITY - 1]),
        (MOVED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (MOVED, "price", [0, -1, MAX_PRICE], [1, MAX_PRICE - 1]),
        (MOVED, "shown", [-1, MAX_QUANTITY], [0, MAX_QUANTITY - 1]),
        (MOVED, "time", [0, -1, LIMIT], [1, LIMIT - 1]),
        (CLOSED, "order", [0, -1, MAX_ORDER], [1, MAX_ORDER - 1]),
        (CLOSED, "reason", ["r" * 33], ["", "r" * 32]),
        (CHECKPOINT, "state", [b"", b"\x00" * 31, b"\x00" * 33], [b"\x00" * 32]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else None,
)
def test_the_possible_values_of_each_field(
    event: Event, field: str, bad: list[Any], good: list[Any]
) -> None:
    for value in good:
        check_event(replace(event, **{field: value}))
    for value in bad:
        with pytest.raises(InvalidBatch, match="impossible values"):
            check_event(replace(event, **{field: value}))
