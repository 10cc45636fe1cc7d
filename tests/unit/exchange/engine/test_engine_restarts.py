"""Whole nodes: restarted at every step of a take, from an old copy of the data, and what strangers send."""

from __future__ import annotations

import msgspec
import pytest
from engine_kit import (
    ask,
    asked,
    lost,
    old_copy,
)
from exchange_kit import DOGE, ETH, NETWORK, Keys, M, Network, Owner, submit

from exchange.engine.engine import (
    MAX_OTHER_STEPS_OF_OWNER,
    CommandRejected,
)
from exchange.feeds import feed as feed_module
from exchange.feeds.exchange_messages import pack
from exchange.feeds.presence import PresenceLeases
from exchange.feeds.startup_fence import FENCE_MAX
from exchange.model.events import BUY, SELL, Closed, Opened
from exchange.model.records import PutBatch

replace = msgspec.structs.replace


# Restarting at every step of a take


def test_of_two_orders_that_crossed_unseen_the_earlier_one_does_not_take_after_a_restart() -> None:
    net = Network(2, fence_max=FENCE_MAX)
    net.on_mail = lambda mail: []
    net.sell(0, 100, 5)
    net.exchange()
    net.now += 1
    net.buy(1, 110, 3)
    net.exchange()
    net.restart(0)
    net.on_mail = lambda mail: [] if mail.sender == 0 and mail.type in ("order", "feed") else [mail]
    net.run(FENCE_MAX)
    assert not net[0].fenced
    assert net.book(0) == [(BUY, 110, 1, 1, 3), (SELL, 100, 0, 1, 5)]
    net.on_mail = lambda mail: [mail]
    net.settle()
    assert [(fill.price, fill.quantity, fill.role) for fill in net.fills(1)] == [(100, 3, "taker")]
    net.check()


def test_trades_and_orders_are_there_after_a_restart() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    done = net.buy(0, 100, 2)
    net.settle()
    for i in (0, 1):
        net.restart(i)
    net.settle()
    assert [len(net[i].markets[M].tape) for i in (0, 1)] == [1, 1]
    assert [order.number for order in net[0].order_store.open_orders] == [1]
    assert [order.number for order in net[0].order_store.recent.values()] == [done.number]


def test_a_market_that_is_not_configured_any_more_is_left_in_the_journal() -> None:
    net = Network(2, markets=(M, ETH))
    submit(net[0], net.now, ETH, SELL, 100, 5)
    net.settle()
    net.on_mail = lost("take")
    submit(net[1], net.now, ETH, BUY, 100, 2)
    net.exchange()
    net.on_mail = lambda mail: [mail]
    net.markets = (M,)
    for i in (0, 1):
        net.restart(i)
    net.settle()
    assert (
        net[0].order_store.open_orders
        == net[1].order_store.open_orders
        == net[1].orders.takes.pending
        == []
    )
    net.markets = (M, ETH)
    for i in (0, 1):
        net.restart(i)
    net.settle()
    (order,) = net[0].order_store.open_orders
    assert order.filled == 2
    assert len(net[1].markets[ETH].contents()) == 1
    net.check()


# An old copy of a data directory


@pytest.mark.parametrize("every", [1024, 4])
def test_an_old_copy_of_a_data_directory_is_noticed_and_writes_nothing(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what is missing can only be had as a snapshot, which was adopted as another's feed."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", every)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    net = old_copy(2, later=20)
    net.restart(0)
    net.settle()
    stale = net[0].stale
    assert stale is not None
    assert "old copy" in stale
    assert net.nodes[0].warnings == [stale]
    assert net.id(0) not in net[0].markets[M].replicas
    for command in (lambda: net.sell(0, 300, 1), lambda: net[0].orders.cancel(net.now, 1)):
        with pytest.raises(CommandRejected) as refused:
            command()
        assert (refused.value.code, refused.value.detail) == ("stale_data", stale)
    net.sent.clear()
    net.run(20.0)
    assert [mail.type for mail in net.sent if mail.sender == 0 and mail.type != "digest"] == []
    assert net[1].feeds[net.id(0), M].fault is None


def test_an_old_copy_that_wrote_before_it_was_noticed_stops_there() -> None:
    net = old_copy(2, later=3)
    net.nodes[0].warnings.clear()
    net._start(0)
    for i in range(5):  # alone, it gets further than the network
        net.sell(0, 300 + i, 1)
        net.drain(0)
    net.link(0)
    net.settle()
    assert net[1].feeds[net.id(0), M].fault is not None
    assert net.book(1) == []
    for held in net[1].feeds[net.id(0), M].batches.values():
        assert net.give(0, held.batch)
    assert net[0].stale is not None


def test_an_old_copy_answers_takes_with_a_refusal_and_takes_nothing_itself() -> None:
    net = old_copy(1, later=1)
    net.restart(0)
    net.settle()
    assert net[0].stale is not None
    refused = asked(net, ask(order=1, price=100))
    assert refused is not None
    assert (refused.quantity, refused.reason) == (0, "stale_data")
    net.buy(1, 99, 5)
    net.exchange()
    stranger = Owner(50)
    leases = PresenceLeases(stranger.keys, NETWORK, incarnation=1, lease_ms=600_000)
    assert net.give(0, leases.make(net.now, []))
    assert net.give(0, stranger.batch(Opened(1, BUY, 150, 5, 1)))
    net.run(1.0)
    assert net[0].markets[M].book.crossed
    assert net[0].orders.takes.pending == []


def test_own_batches_that_come_back_are_no_sign_of_an_old_copy() -> None:
    net = Network(2)
    for i in range(3):
        net.sell(0, 100 + i, 5)
        net.exchange()
    net.sell(0, 110, 5)  # not signed yet
    for held in net[0].feeds[net.id(0), M].batches.values():
        assert net.give(0, held.batch)
    assert net[0].stale is None
    forged = replace(held.batch, signature=b"\x01" * 64)
    assert not net.give(0, forged)


# What strangers send


def test_other_steps_of_present_owners_are_noted_and_go_with_their_leases() -> None:
    net = Network(1)
    leases = PresenceLeases(Keys(50), NETWORK, incarnation=1, lease_ms=9000)
    other = "BTC-USD@1/1"
    heads = [(DOGE, 3), (M, 0), (other, 1), ("x" * 80, 1), (M + "\x1b[2J", 1)]
    assert net.give(0, leases.make(0.0, heads))
    assert net[0].other_steps == {Keys(50).node_id: [other]}
    assert net.give(0, leases.make(0.0, [(f"BTC-USD@{i}/1", 0) for i in range(1, 900)]))
    assert len(net[0].other_steps[Keys(50).node_id]) == MAX_OTHER_STEPS_OF_OWNER
    net.run(9.5)
    assert net[0].other_steps == {}
    assert net.give(0, leases.make(net.now, [(other, 0)]))
    assert net.give(0, leases.make(net.now, [(M, 0)]))
    assert net[0].other_steps == {}


def test_a_batch_of_a_market_that_is_not_traded_here_is_judged_and_not_kept() -> None:
    net = Network(1)
    batch = Owner(50, market=DOGE).batch(Opened(1, SELL, 100, 5, 1))
    assert net.give(0, batch)
    assert not net.give(0, replace(batch, first=2))
    assert net.give(0, Owner(1, market=DOGE).batch(Opened(1, SELL, 100, 5, 1)))  # our own key
    assert net[0].stale is None
    assert len(net[0].feeds) == 1


def test_a_forged_batch_leaves_nothing() -> None:
    net = Network(1)
    forged = replace(Owner(50).batch(Opened(1, SELL, 100, 5, 1)), signature=b"\x01" * 64)
    assert not net.give(0, forged)
    assert not net.give(0, replace(forged, key=b"k" * 100_000))
    assert len(net[0].feeds) == 1
    owner = Owner(50)
    assert net.give(0, owner.batch(Opened(1, SELL, 100, 5, 1)))
    more = owner.batch(Opened(2, SELL, 100, 5, 1))
    assert not net.give(0, replace(more, signature=b"\x01" * 64))
    assert net[0].feeds[owner.id, M].number == 1
    assert all(len(key) == 32 for key in net[0]._ingest._ids)


def test_a_first_batch_that_is_at_fault_is_remembered_as_such() -> None:
    net = Network(1)
    owner = Owner(50)
    assert net.give(0, owner.lie(1, b"\x00" * 32, Closed(1, "x")))
    assert net[0].feeds[owner.id, M].fault is not None
    assert len(net.nodes[0].warnings) == 1
    assert net.book(0) == []


def test_a_feed_that_was_contradicted_stays_hidden_over_a_restart() -> None:
    net = Network(1)
    owner, other, first_at_fault = Owner(50), Owner(51), Owner(52)
    owners = (owner, other, first_at_fault)
    leases = [PresenceLeases(o.keys, NETWORK, incarnation=1, lease_ms=600_000) for o in owners]
    for each, lease in zip(owners, leases, strict=True):
        net.give(0, lease.make(net.now, []), origin=each.id)
    for each in (owner, other):
        net.give(0, each.batch(Opened(1, SELL, 100, 5, 1)), origin=each.id)
    assert len(net.book(0)) == 2
    net.give(0, owner.lie(1, bytes(32), Opened(1, SELL, 90, 5, 1)), origin=owner.id)
    net.give(0, first_at_fault.lie(1, bytes(32), Closed(1, "x")), origin=first_at_fault.id)
    net.drain(0)
    for number in (1, 2):
        net.restart(0)
        for each, lease in zip(owners, leases, strict=True):
            net.give(0, lease.make(net.now, []), origin=each.id)
        net.give(0, first_at_fault.batch(Opened(number, SELL, 95, 5, 1)), origin=first_at_fault.id)
        net.drain(0)
        faults = {name: feed.fault for (name, _), feed in net[0].feeds.items()}
        assert faults[owner.id] is not None
        assert faults[first_at_fault.id] is not None
        assert faults[other.id] is None
        assert [price for _, price, *_ in net.book(0)] == [100]
        net.now += 1.0


def test_events_applied_before_a_fault_are_written() -> None:
    """Otherwise the node would restart with another feed than it had. Found by a dishonest node of the simulation."""
    net = Network(1)
    owner = Owner(50)
    first = owner.batch(Opened(1, SELL, 100, 5, 1))
    engine = net[0]
    for batch in (
        owner.lie(2, b"\x00" * 32, Closed(1, "x")),
        first,
    ):  # the second one connects both
        engine.receive(net.now, "order", pack(batch), owner.id, owner.id)
    feed = engine.feeds[owner.id, M]
    assert (feed.number, feed.fault is None) == (1, False)
    records = engine.drain(net.now).records
    assert [record.batch for record in records if isinstance(record, PutBatch)] == [first]


@pytest.mark.parametrize("kind", ["nonsense", "", "order", "take", "presence"])
@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x80", b"{}", b"\x81\xa3key\xa1\xff", b"\x91" * 5000]
)
def test_malformed_messages_are_invalid(kind: str, payload: bytes) -> None:
    net = Network(1)
    assert not net[0].receive(net.now, kind, payload, "a", "b")


def test_text_that_is_not_utf8_is_invalid() -> None:
    """Found by these tests: it left `receive` as a UnicodeDecodeError."""
    net = Network(1)
    good = pack(ask())
    assert good.count(M.encode()) == 1
    assert not net[0].receive(net.now, "take", good.replace(M.encode(), b"\xff" * len(M)), "a", "b")
