"""Books in every detail: what a reader holds is the node's book, at every sequence, and verified."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from market_kit import PEER
from stream_kit import BTC, Client, Place

from exchange.model.events import BUY, SELL
from node.client.book_replica import BookFault, BookReplica, ChecksumMismatch, SequenceGap
from node.streams import book_views
from node.streams.book_checksums import line_check
from node.streams.stream import CONFLATE_BEHIND, MAX_HISTORY, Ended
from node.streams.stream_messages import (
    BookL2,
    BookL2Snapshot,
    Level,
    Resume,
    Subscribe,
)
from node.views.views import ServiceError

STEPS = 400
VARIANTS = [
    ("L1", None, "network"),
    ("L1", None, "own"),
    *[(d, n, s) for d in ("L2", "L3") for n in (25, "full") for s in ("network", "own")],
]
every = pytest.mark.parametrize(("level", "depth", "scope"), VARIANTS)


def book(level: str = "L2", depth: Any = None, scope: str = "network", **more: Any) -> Subscribe:
    fields = {} if depth is None else {"depth": depth}
    return Subscribe(channel="book", market=BTC, level=level, scope=scope, **fields, **more)  # type: ignore[arg-type]


def check(client: Client, level: str, depth: Any, scope: str) -> None:
    """The client holds what the book has."""
    most = {"L1": 1, "L2": 25, "L3": 25}[level] if depth != "full" else None
    place = client.place
    own = scope == "own"
    for side, held in ((BUY, client.book.bids()), (SELL, client.book.asks())):
        true = (place.orders if level == "L3" else place.levels)(side, most, own=own)
        assert [msgspec.structs.astuple(entry) for entry in held] == true


@every
async def test_the_readers_book_is_the_nodes_at_every_sequence_of_a_storm(
    level: str, depth: Any, scope: str
) -> None:
    place = Place()
    for _ in range(60):
        place.step()
    client = await Client(place, book(level, depth, scope)).open()
    client.take()
    check(client, level, depth, scope)
    sequences = [client.book.sequence]
    for _ in range(STEPS):
        place.step()
        client.take()
        check(client, level, depth, scope)
        sequences.append(client.book.sequence)
    assert sequences == sorted(sequences)  # type: ignore[type-var]
    assert len(set(sequences)) > 20
    assert all(message.previous == message.sequence - 1 for message in client.told[1:])


@every
async def test_a_slow_reader_gets_the_outcome_in_one_message_and_is_right(
    level: str, depth: Any, scope: str
) -> None:
    place = Place()
    client = await Client(place, book(level, depth, scope)).open()
    client.take()
    told = client.book.sequence
    while (client.reader.stream.sequence - told) <= CONFLATE_BEHIND:  # type: ignore[union-attr]
        place.step()
    (message,) = client.take()
    assert message.previous == told
    assert message.sequence == client.reader.stream.sequence  # type: ignore[union-attr]
    check(client, level, depth, scope)
    place.step()
    client.take()
    check(client, level, depth, scope)


async def test_a_level_that_changed_often_is_sent_once_with_its_last_value() -> None:
    place = Place()
    client = await Client(place, book(conflate_ms=100)).open()
    client.take(1.0)
    key = place.fake.order(BTC, BUY, "29999", "5", number=1)
    for left in ("4", "3", "2"):
        place.fake.reduce(BTC, key, left)
    gone = place.fake.order(BTC, SELL, "30001", "1", number=2)
    place.fake.reduce(BTC, gone, "0")
    (message,) = client.take(2.0)
    assert message.bids == [Level("29999", "2", 1)]
    assert message.asks == [Level("30001", "0", 0)]  # of a level that was never seen: harmless
    check(client, "L2", 25, "network")


async def test_a_reader_beyond_the_history_gets_a_snapshot_marked_as_such() -> None:
    place = Place()
    client = await Client(place, book()).open()
    client.take()
    key = place.fake.order(BTC, BUY, "29999", "5", number=1)
    for number in range(MAX_HISTORY + 1):
        place.fake.reduce(BTC, key, str(number % 4 + 1))
    (message,) = client.take()
    assert isinstance(message, BookL2Snapshot)
    assert message.reason == "behind"
    check(client, "L2", 25, "network")


@every
async def test_a_returning_reader_gets_exactly_the_missed_messages(
    level: str, depth: Any, scope: str
) -> None:
    place = Place()
    stays = await Client(place, book(level, depth, scope)).open()
    goes = await Client(place, book(level, depth, scope)).open()
    for _ in range(30):
        place.step()
        stays.take()
        goes.take()
    held, goes_with = goes.book, goes.book.position
    goes.leave()
    for _ in range(STEPS):
        place.step()
        stays.take()
    back = await Client(place, book(level, depth, scope, resume=goes_with)).open()
    back.book = held
    missed = back.take()
    assert back.reader.resumed  # type: ignore[union-attr]
    assert len(missed) > 5  # each of them as it was, however many
    assert missed == stays.told[-len(missed) :]
    check(back, level, depth, scope)


async def test_readers_at_the_same_place_share_their_bytes() -> None:
    place = Place()
    first = await Client(place, book()).open()
    second = await Client(place, book()).open()
    assert first.reader is not None
    assert second.reader is not None
    assert first.reader.take(0.0)[0] is second.reader.take(0.0)[0]
    place.step()
    assert first.reader.take(0.0)[0] is second.reader.take(0.0)[0]
    for _ in range(CONFLATE_BEHIND + 5):
        place.step()
    assert first.reader.take(0.0)[0] is second.reader.take(0.0)[0]


async def test_paced_readers_have_common_times() -> None:
    place = Place()
    first = await Client(place, book(conflate_ms=250)).open()
    second = await Client(place, book(conflate_ms=250)).open()
    first.take(10.01)
    second.take(10.2)
    assert first.reader.due == second.reader.due == 10.25  # type: ignore[union-attr]


async def test_a_change_beyond_the_depth_is_not_sent() -> None:
    place = Place()
    for number in range(1, 27):
        place.fake.order(BTC, BUY, str(30000 - number), "1", number=number)
    client = await Client(place, book("L2", 25)).open()
    client.take()
    place.fake.order(BTC, BUY, "29000", "1", number=50)
    assert client.take() == []
    best = place.market.owners.key(PEER, 1)
    place.fake.reduce(BTC, best, "0")
    (message,) = client.take()
    assert message.bids == [Level("29999", "0", 0), Level("29974", "1", 1)]  # the 26th moves up


async def test_the_own_book_is_right_again_after_a_time_without_readers() -> None:
    place = Place()
    client = await Client(place, book("L2", scope="own")).open()
    client.leave()
    place.stream_registry.sweep(1.0)
    place.stream_registry.sweep(100.0)
    assert len(place.stream_registry) == 0
    for _ in range(50):
        place.step()
    again = await Client(place, book("L2", "full", scope="own")).open()
    again.take()
    check(again, "L2", "full", "own")


async def test_checksums_match_the_document() -> None:
    place = Place()
    place.fake.order(BTC, BUY, "30000", "0.5", number=1)
    place.fake.order(BTC, SELL, "30001.5", "1", number=2)
    levels = await Client(place, book("L2")).open()
    orders = await Client(place, book("L3")).open()
    both = line_check("buy:30000:0.5:1") + line_check("sell:30001.5:1:1")
    assert levels.take()[0].checksum == both % 2**32
    lines = [
        f"buy:{PEER}-1:30000:0.5:1970-01-01T00:00:00.000001Z",
        f"sell:{PEER}-2:30001.5:1:1970-01-01T00:00:00.000002Z",
    ]
    assert orders.take()[0].checksum == sum(line_check(line) for line in lines) % 2**32


async def test_a_book_that_outgrows_its_stream_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_views, "MAX_LEVELS", 3)
    monkeypatch.setattr(book_views, "MAX_ORDERS", 3)
    place = Place()
    for number in range(1, 4):
        place.fake.order(BTC, BUY, str(30000 - number), "1", number=number)
    clients = [await Client(place, book(level, "full")).open() for level in ("L2", "L3")]
    place.fake.order(BTC, BUY, "30000", "1", number=4)
    for client in clients:
        with pytest.raises(Ended, match="with a depth"):
            client.take()
    for level in ("L2", "L3"):
        with pytest.raises(ServiceError) as refused:
            await Client(place, book(level, "full")).open()
        assert refused.value.code == "book_too_large"
        (await Client(place, book(level, 25)).open()).take()


# The reader's end


def level(sequence: int, previous: int | None, checksum: int, *bids: Level) -> BookL2:
    return BookL2(
        stream="s", epoch="e", sequence=sequence, previous=previous, checksum=checksum, time="",
        bids=list(bids), asks=[],
    )  # fmt: skip


def held() -> BookReplica[Level]:
    found: BookReplica[Level] = BookReplica()
    found.apply(
        BookL2Snapshot(
            stream="s", reason="subscribed", epoch="e", sequence=5, checksum=0, time="",
            bids=[], asks=[],
        )
    )  # fmt: skip
    return found


def test_a_missing_message_is_noticed() -> None:
    with pytest.raises(SequenceGap, match="follows 6, and 5"):
        held().apply(level(7, 6, 0))


def test_a_message_of_another_life_is_noticed() -> None:
    with pytest.raises(SequenceGap):
        held().apply(msgspec.structs.replace(level(6, 5, 0), epoch="f"))


def test_a_wrong_book_is_noticed() -> None:
    with pytest.raises(ChecksumMismatch) as wrong:
        held().apply(level(6, 5, 1, Level("10", "1", 1)))
    assert isinstance(wrong.value, BookFault)
    assert (wrong.value.told, wrong.value.found) == (1, line_check("buy:10:1:1"))


def test_the_best_are_had_from_either_side() -> None:
    book = held()
    bids = [Level("9", "1", 1), Level("10", "1", 1), Level("8.5", "2", 1)]
    check = sum(line_check(f"buy:{e.price}:{e.quantity}:{e.orders}") for e in bids) % 2**32
    book.apply(level(6, 5, check, *bids))
    assert book.best_bid == Level("10", "1", 1)
    assert book.best_ask is None
    assert [entry.price for entry in book.bids(2)] == ["10", "9"]
    assert len(book) == 3
    assert book.position == Resume(epoch="e", sequence=6)


def test_the_part_of_a_line_in_a_checksum_is_that_of_the_documents() -> None:
    assert line_check("buy:30000:0.5:2") == 1876585526  # the CRC-32 is 3251632046
