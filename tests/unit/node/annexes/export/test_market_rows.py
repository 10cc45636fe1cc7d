"""Public market data as rows: every number of a feed once, in order, and snapshots that restart it."""

from __future__ import annotations

from decimal import Decimal

from exchange_kit import Owner

from exchange.feeds.feed import FeedState
from exchange.model.decimals import plain_decimal
from exchange.model.events import (
    BUY,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Filled,
    Moved,
    Opened,
    Snapshot,
)
from exchange.model.instruments import Instruments
from exchange.model.records import PutBatch, PutSnapshot, Recovered, StoredFeed
from node.annexes.export.nats_messages import copy_plan, market_plan, read_row
from node.annexes.export.rows import RowBuilder
from node.annexes.export.sink import Delivery, Position
from node.annexes.export.tables import MARKET_TABLES, TABLES, Row

M = Instruments.default()["BTC-USD"].key
NODE = "node-a"
BOOK = MARKET_TABLES["book"]


def builder() -> RowBuilder:
    return RowBuilder(NODE, {}, MARKET_TABLES, versions=True)


def many(owner: Owner) -> list[Batch]:
    """Batches with a checkpoint in the middle, and three orders that stay open."""
    return [
        owner.batch(Opened(n, BUY, 100 + n, 5, 1000), *([Closed(n, "cancelled")] if n > 3 else []))
        for n in range(1, 600)
    ]


def snapshot_of(owner: Owner, batches: list[Batch]) -> Snapshot:
    """The snapshot at the first checkpoint."""
    state = FeedState()
    for batch in batches:
        for event in batch.events:
            state.apply(event)
        if isinstance(batch.events[-1], Checkpoint):
            return Snapshot(batch, batch.digest(owner.network), state.pages())
    raise AssertionError("no checkpoint")


def brief(row: Row) -> tuple[object, ...]:
    """Number, line, event, order, price and quantity."""
    fields = dict(zip(BOOK.names, row, strict=True))
    return tuple(
        plain_decimal(value) if isinstance(value := fields[name], Decimal) else value
        for name in ("number", "line", "event", "order_number", "price", "quantity")
    )


def test_every_event_of_every_feed_is_a_row() -> None:
    rows = builder()
    for owner in (Owner(1, M), Owner(2, M)):
        batch = owner.batch(
            Opened(1, SELL, 3_000_000, 5, 1000),
            Amended(1, 4),
            Moved(1, 3_000_100, 4, 2000),
            Filled(1, SELL, 3, 3_000_100, 1, 1, "taker", 9, 3000),
            Closed(1, "cancelled"),
        )
        rows.add(7, [PutBatch(owner.id, batch)])
        rows.add(8, [PutBatch(owner.id, batch)])  # a feed that is held again
    found = rows.take()
    assert [brief(row) for row in found["book"][:5]] == [
        (1, 0, "opened", 1, "300000", "0.00000005"),
        (2, 0, "amended", 1, None, "0.00000004"),
        (3, 0, "moved", 1, "300010", "0.00000004"),
        (4, 0, "filled", 1, "300010", "0.00000001"),
        (5, 0, "closed", 1, None, "0"),
    ]
    assert len(found["book"]) == 10
    (trade, _) = found["market_trades"]
    assert (trade[3], trade[4], trade[6:9]) == (4, "BTC-USD", ("taker", 9, "buy"))


def test_a_snapshot_restarts_a_feed_and_earlier_numbers_are_no_rows() -> None:
    owner = Owner(1, M)
    batches = many(owner)
    snapshot = snapshot_of(owner, batches)
    at = snapshot.batch.last
    rows = builder()
    rows.add(1, [PutBatch(owner.id, batch) for batch in batches[:3]])
    rows.add(2, [PutSnapshot(owner.id, M, snapshot)])
    rows.add(3, [PutBatch(owner.id, batch) for batch in batches])
    rows.add(4, [PutSnapshot(owner.id, M, snapshot)])
    found = rows.take()["book"]
    assert [brief(row)[0] for row in found[:3]] == [1, 2, 3]
    assert brief(found[3]) == (at, 1, "snapshot", None, None, None)
    orders = [row for row in found if row[4] not in (0, 1)]
    assert found[3][BOOK.names.index("orders")] == len(orders)
    later = [brief(row)[0] for row in found[4 + len(orders) :]]
    assert later == list(range(at + 1, batches[-1].last + 1))


def test_a_checkpoint_is_a_row_so_that_no_number_is_left_out() -> None:
    owner = Owner(1, M)
    rows = builder()
    rows.add(1, [PutBatch(owner.id, batch) for batch in many(owner)])
    found = rows.take()["book"]
    assert [row[3] for row in found] == list(range(1, len(found) + 1))
    assert [brief(row)[2] for row in found].count("checkpoint") == 1


def test_a_state_has_the_snapshots_and_batches_of_all_feeds() -> None:
    owner = Owner(1, M)
    batches = many(owner)
    snapshot = snapshot_of(owner, batches)
    kept = [batch for batch in batches if batch.first > snapshot.batch.last]
    rows = builder()
    rows.add_state(5, Recovered(feeds=[StoredFeed(owner.id, M, snapshot, kept)]))
    events = [brief(row)[2] for row in rows.take()["book"]]
    assert events.count("snapshot") == 1
    assert events.count("opened") == 3 + len(kept)


def test_rows_are_messages_and_back() -> None:
    owner = Owner(1, M)
    rows = builder()
    rows.add(7, [PutBatch(owner.id, owner.batch(Opened(1, SELL, 3_000_000, 5, 1000)))])
    (row,) = rows.take()["book"]
    plan = market_plan("main")
    delivery = Delivery(NODE, None, Position(7), {"book": [row]})
    ((message,), _) = plan.messages(delivery, frozenset())
    assert message.subject == f"exchange.market.main.{NODE}.book.BTC-USD"
    assert message.id == f"book:{owner.id}:{M}:1:0"
    assert read_row(BOOK, message.data) == row
    assert plan.messages(delivery, frozenset({message.id})) == ([], [])


def test_messages_are_in_the_order_of_the_journal() -> None:
    halts = [(NODE, "BTC-USD", None, frame) for frame in (3, 9)]
    limits = [(NODE, "peer", "USD", None, frame) for frame in (1, 5)]
    delivery = Delivery(
        NODE, None, Position(9), {"halts": halts, "credit_limits": limits}, gap=(1, 2)
    )
    found, _ = copy_plan("main").messages(delivery, frozenset())
    assert [message.id for message in found] == [
        f"{NODE}:credit_limits:peer:USD:1",
        f"{NODE}:halts:BTC-USD:3",
        f"{NODE}:credit_limits:peer:USD:5",
        f"{NODE}:halts:BTC-USD:9",
        f"{NODE}:gaps:1",
    ]
    assert set(TABLES) == set(copy_plan("main").tables)


def test_texts_of_a_subject_have_no_wildcards() -> None:
    subject = copy_plan("main").subject("n", "orders", "a.b *>")
    assert subject == "exchange.copy.main.n.orders.a%2Eb%20%2A%3E"
