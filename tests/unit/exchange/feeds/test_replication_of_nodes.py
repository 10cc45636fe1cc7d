"""Whole nodes replicate each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Mail, Network, Owner
from replication_kit import answer, opened, replace

from exchange.feeds import feed as feed_module
from exchange.feeds.exchange_messages import FeedDigest, FeedHead, FeedPart, FeedRequest, unpack
from exchange.feeds.feed import state_hash
from exchange.feeds.feed_limits import FeedLimits
from exchange.feeds.missing_feeds import SHOWN_FOR, WHOLE_EVENTS
from exchange.feeds.presence import PresenceLeases
from exchange.model.events import BUY, GENESIS, Amended, Batch, Checkpoint, Closed
from exchange.model.records import PutSnapshot


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every 4 events; 2 orders on a page."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    monkeypatch.setattr(feed_module, "PAGE_ORDERS", 2)


def count(net: Network, kind: str) -> int:
    return sum(mail.type == kind for mail in net.sent)


def test_a_late_joiner_learns_of_an_owner_that_is_down_from_others(checkpoints: None) -> None:
    net = Network(3)
    net.kill(2)
    for i in range(20):
        net.sell(0, 100 + i, 5)
        net.exchange()
    net.kill(0)
    net.restart(2)
    net.settle()
    assert net[2].feeds[net.id(0), M].number == net[1].feeds[net.id(0), M].number > 20
    assert net.book(2) == []  # nobody has heard its owner since
    net.restart(0)
    net.settle()
    assert len(net.book(2)) == 20
    net.check()


def test_a_node_that_missed_broadcasts_catches_up_after_the_grace() -> None:
    net = Network(2)
    net.on_mail = lambda mail: [] if mail.type == "order" else [mail]
    net.sell(0, 100, 5)
    net.exchange()
    assert net.book(1) == []
    net.run(4.0)
    assert net.book(1) == [(-1, 100, 0, 1, 5)]
    assert count(net, "feed_request") == 1


def test_a_snapshot_joins_broadcasts_that_overtook_it(checkpoints: None) -> None:
    """Found by these tests: what was held back when the snapshot came was never applied."""
    net = Network(2)
    net.on_mail = lambda mail: []
    for i in range(9):
        net.sell(0, 100 + i, 5)
        net.exchange()
    held: list[Mail] = []

    def hold_parts(mail: Mail) -> list[Mail]:
        if mail.type == "feed":
            held.append(mail)
            return []
        return [mail]

    net.on_mail = hold_parts
    net.sell(0, 200, 5)
    net.exchange()
    net[1].tick(net.now)
    while not held:
        net.run(0.1)
    net.on_mail = lambda mail: [mail]
    for mail in held:
        net.deliver(mail)
    net.settle()
    assert len(net.book(1)) == 10
    net.check()


def test_a_fork_hides_its_owner_everywhere_though_each_node_saw_another_side_first() -> None:
    net = Network(2)
    owner = Owner(50)
    one, two = owner.lie(1, GENESIS, opened(1)), owner.lie(1, GENESIS, opened(1, price=90))
    leases = _present(net, 50)
    assert net.give(0, one)
    assert net.give(1, two)
    assert [len(net.book(i)) for i in (0, 1)] == [1, 1]
    for _ in range(3):
        net.run(8.0)
        leases()
    assert [net[i].feeds[owner.id, M].fault is not None for i in (0, 1)] == [True, True]
    assert [net.book(i) for i in (0, 1)] == [[], []]
    assert [len(net.nodes[i].warnings) for i in (0, 1)] == [1, 1]
    assert "contradicts its own feed" in net.nodes[0].warnings[0]


def _present(net: Network, seed: int) -> Callable[[], None]:
    """An owner without an engine says that it is here, now and whenever called."""
    leases = PresenceLeases(Keys(seed), NETWORK, incarnation=1, lease_ms=600_000)

    def renew() -> None:
        made = leases.make(net.now, [])
        for i in range(len(net.nodes)):
            assert net.give(i, made, origin=Keys(seed).node_id)

    renew()
    return renew


def test_a_fault_in_the_middle_of_a_batch_leaves_nothing_of_its_owner_on_the_book() -> None:
    """Found by these tests: what the batch had closed before the fault stayed as a ghost."""
    net = Network(1)
    owner = Owner(50)
    _present(net, 50)
    one = owner.batch(opened(1), opened(2))
    assert net.give(0, one)
    assert len(net.book(0)) == 2
    head = one.digest(NETWORK)
    assert net.give(0, owner.lie(3, head, Closed(1, "cancelled"), Amended(77, 1)))
    assert net.book(0) == []
    order = net.sell(0, 100, 5)
    assert order.shown == 5
    net.run(3.0)


def claim(net: Network, node: int, number: int) -> FeedRequest:
    """A stranger claims more of the owner's feed; the request that follows."""
    stranger = Keys(99).node_id
    net.give(
        node, FeedDigest(b"other", [FeedHead(Keys(50).node_id, M, number, b"")]), origin=stranger
    )
    net[node].tick(net.now)
    drained = net[node].drain(net.now)
    (asked,) = [
        unpack(m.type, m.payload)
        for m in drained.messages
        if m.type == "feed_request" and getattr(m, "to", "") == stranger
    ]
    assert isinstance(asked, FeedRequest)
    return asked


PAGE = msgspec.msgpack.encode([(1, BUY, 100, 5, 1000)])


def page_part(batch: Batch, pages: list[bytes], page: int = 0) -> FeedPart:
    hashes = [hashlib.sha256(p).digest() for p in pages]
    owner = Keys(50).node_id
    return FeedPart(owner, M, 99, checkpoint=batch, page=page, pages=hashes, orders=pages[page])


def test_a_snapshot_is_adopted_and_written_to_the_journal() -> None:
    net = Network(1)
    _present(net, 50)
    claim(net, 0, 99)
    batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash([PAGE])))
    assert net.give(0, page_part(batch, [PAGE]))
    assert len(net.book(0)) == 1
    records = net[0].drain(net.now).records
    assert [type(r) for r in records if isinstance(r, PutSnapshot)] == [PutSnapshot]


def test_an_unsigned_snapshot_is_refused_at_its_first_page() -> None:
    net = Network(1)
    claim(net, 0, 99)
    batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash([PAGE, PAGE])))
    assert not net.give(0, page_part(replace(batch, signature=b"\x01" * 64), [PAGE, PAGE]))
    other = Owner(51).lie(7, GENESIS, Checkpoint(state_hash([PAGE, PAGE])))
    assert not net.give(0, page_part(other, [PAGE, PAGE]))
    elsewhere = Owner(50, market="ETH-USD").lie(7, GENESIS, Checkpoint(state_hash([PAGE, PAGE])))
    assert not net.give(0, page_part(elsewhere, [PAGE, PAGE]))
    assert all(missing.pages == [] for missing in net[0]._replicator._missing._missing.values())


def test_a_signed_snapshot_of_impossible_orders_is_its_owners_fault_and_not_ours() -> None:
    """Found by these tests: it was put into the book, and the error escaped `receive`."""
    for row in [(1, 0, 100, 5, 1000), (1, BUY, -1, 5, 1000), (2**40 + 1, BUY, 100, 5, 1000)]:
        net = Network(1)
        _present(net, 50)
        claim(net, 0, 99)
        pages = [msgspec.msgpack.encode([row])]
        batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash(pages)))
        assert net.give(0, page_part(batch, pages))
        assert net.book(0) == []
        assert net[0].feeds[Keys(50).node_id, M].fault is not None
        assert len(net.nodes[0].warnings) == 1
        assert net[0].feeds_behind == 0


def test_a_part_whose_batches_are_of_another_feed_or_forged_is_refused() -> None:
    net = Network(1)
    batch = Owner(51).batch(opened(1))
    assert not net.give(0, FeedPart(Keys(50).node_id, M, 1, [batch]))
    assert not net.give(0, FeedPart(Keys(51).node_id, M, 1, [replace(batch, market="ETH-USD")]))
    forged = replace(batch, signature=b"\x01" * 64)
    assert not net.give(0, FeedPart(Keys(51).node_id, M, 1, [forged]))
    assert net.give(0, FeedPart(Keys(51).node_id, "DOGE-USD", 1, [batch]))
    assert net[0].feeds.keys() == {(net.id(0), M)}
    assert net.give(0, FeedPart(Keys(51).node_id, M, 1, [batch]))
    assert (Keys(51).node_id, M) in net[0].feeds


@pytest.mark.parametrize(
    ("owner", "market", "wanted"),
    [
        (Keys(50).node_id, M, 1),
        (Keys(50).node_id, "DOGE-USD", 0),
        ("*", M, 0),
        ("", M, 0),
        ("x" * 64, M, 0),
        (Keys(50).node_id[:-1], M, 0),
    ],
)
def test_only_feeds_of_nodes_and_of_markets_traded_here_are_wanted(
    owner: str, market: str, wanted: int
) -> None:
    net = Network(1)
    net.give(0, FeedDigest(b"other", [FeedHead(owner, market, 9, b"")]))
    assert net[0].feeds_behind == wanted


def test_feeds_are_bounded_and_excess_messages_are_still_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Network(1)
    monkeypatch.setattr(net[0]._ingest.bounds, "limits", FeedLimits(max_feeds=2))
    _present(net, 50)  # the own feed and that of an owner that is here
    followed = Owner(50)
    assert net.give(0, followed.batch(opened(1)))
    assert net.give(0, followed.batch(opened(2)))
    assert net[0].feeds[followed.id, M].number == 2
    batch = Owner(51).batch(opened(1))
    assert net.give(0, batch)
    assert not net.give(0, replace(batch, signature=b"\x01" * 64))
    assert len(net[0].feeds) == 2
    assert net[0].stale is None
    stranger = Keys(99).node_id
    net.give(0, FeedDigest(b"other", [FeedHead(Keys(52).node_id, M, 9, b"")]), origin=stranger)
    net[0].tick(net.now)
    pages = [PAGE]
    late = Owner(52).lie(7, GENESIS, Checkpoint(state_hash(pages)))
    snapshot = replace(page_part(late, pages), owner=Keys(52).node_id)
    assert net.give(0, snapshot, origin=stranger)
    assert len(net[0].feeds) == 2


def test_a_snapshot_that_the_broadcasts_have_overtaken_is_not_adopted(checkpoints: None) -> None:
    net = Network(1)
    owner = Owner(50)
    batches = [owner.batch(opened(i)) for i in range(1, 10)]
    _present(net, 50)
    claim(net, 0, 12)
    for page in (0, 1):
        if page == 1:
            for batch in batches:
                assert net.give(0, batch)
        assert net.give(0, answer(owner, FeedRequest(owner.id, M, 0, page)))
    feed = net[0].feeds[owner.id, M]
    assert (feed.number, feed.fault) == (11, None)
    assert feed.state.orders == owner.writer.feed.state.orders


def test_an_own_order_takes_crossing_orders_of_a_snapshot() -> None:
    net = Network(1)
    _present(net, 50)
    claim(net, 0, 99)
    order = net.sell(0, 100, 3)
    batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash([PAGE])))
    assert net.give(0, page_part(batch, [PAGE]))
    assert [(t.maker, t.quantity) for t in net[0].orders.takes.pending] == [(Keys(50).node_id, 3)]
    assert order.pending == 3


def test_only_feeds_that_others_show_count_as_loading() -> None:
    net = Network(1)
    owner = Owner(50)
    _present(net, 50)
    claim(net, 0, 10_000)  # a ghost: nobody can show it
    assert (net[0].feeds_behind, net[0].feeds_loading(net.now)) == (1, 0)
    feed = owner.writer.feed
    for events, loading in ((100, 0), (WHOLE_EVENTS, 1)):  # a drop, and a whole answer
        for _ in range(events):
            owner.writer.append(opened(feed.number + 1))
        part = FeedPart(owner.id, M, 10_000, owner.writer.flush())
        assert net.give(0, part, origin=Keys(99).node_id)
        while net[0].feeds[owner.id, M].number < feed.number:
            net[0].tick(net.now)  # a slice
        assert (net[0].feeds_behind, net[0].feeds_loading(net.now)) == (1, loading)
    assert net[0].feeds_loading(net.now + SHOWN_FOR + 1) == 0
