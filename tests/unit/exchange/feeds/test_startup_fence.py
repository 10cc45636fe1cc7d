"""A restarted node hears its neighbours before it writes: when that is over, and what waits for it."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from pathlib import Path

import pytest
from exchange_kit import EPOCH_US, FIRST_TAKE, NETWORK, Keys, M, Network, Owner
from instruments_kit import COARSE
from market_kit import FakeMarkets

from exchange.engine.engine import Engine
from exchange.feeds.exchange_messages import FeedDigest, FeedHead
from exchange.feeds.startup_fence import FENCE_GRACE, FENCE_GRACE_ALONE, FENCE_MAX, StartupFence
from exchange.journal.journal import Journal
from exchange.model.events import SELL, Filled, Opened
from exchange.model.records import PutMeta, Recovered
from exchange.orders.engine_context import CommandRejected
from node.daemon.exchange import make_exchange
from node.service.committer import Committer
from node.service.market_steps import MarketSteps
from node.views.views import OrderRequest

HEAD = FeedHead("me", M, 7, b"12345678")


def digest(*heads: FeedHead) -> FeedDigest:
    return FeedDigest(b"theirs", list(heads))


# The rule alone


def test_without_a_neighbour_it_is_over_after_the_grace() -> None:
    fence = StartupFence(grace=2.0)
    assert not fence.is_down(100.0, doubt=False)  # not begun
    fence.begin(100.0)
    assert not fence.is_down(101.9, doubt=False)
    assert fence.is_down(102.0, doubt=False)


@pytest.mark.parametrize(
    "held",
    [(), (FeedHead("me", M, 6, b"12345678"),), (FeedHead("me", M, 7, b"otherone"),), (HEAD,)],
    ids=str,
)
@pytest.mark.parametrize("same", [False, True])
def test_no_neighbour_ends_it_before_the_grace_not_even_by_an_echo(
    held: tuple[FeedHead, ...], *, same: bool
) -> None:
    fence = StartupFence(grace=2.0)
    fence.begin(100.0)
    fence.neighbour_up("a")
    fence.on_digest("a", digest(*held), same=same)
    assert not fence.is_down(101.9, doubt=False)
    assert fence.is_down(102.0, doubt=False)


def test_a_neighbour_that_has_not_spoken_is_waited_for() -> None:
    fence = StartupFence(grace=2.0, longest=10.0)
    fence.begin(100.0)
    for node in ("a", "b", "c"):
        fence.neighbour_up(node)
    fence.on_digest("a", digest(), same=False)
    fence.on_digest("b", FeedDigest(b"only a summary"), same=False)
    assert not fence.is_down(105.0, doubt=False)
    fence.neighbour_down("b")
    assert not fence.is_down(105.0, doubt=False)
    assert fence.is_down(110.0, doubt=False)  # but not for ever


# The engine


def restarted(*, orders: int = 1) -> Network:
    """Node 0 has been killed and is back, without a link; it knows node 1."""
    net = Network(2, fence_max=FENCE_MAX)
    net.sell(1, 200, 1)
    for i in range(orders):
        net.sell(0, 100 + i, 5)
    net.exchange()
    net.kill(0)
    net[1].neighbour_down(net.now, net.id(0))
    net._start(0)
    return net


def test_a_restarted_node_refuses_until_the_grace_is_over_and_then_goes_on() -> None:
    net = restarted()
    for command in (lambda: net.sell(0, 101, 1), lambda: net[0].orders.cancel(net.now, 1)):
        with pytest.raises(CommandRejected) as refused:
            command()
        assert refused.value.code == "starting"
    told: list[bool] = []
    net[0].when_fence_lifts(lambda: told.append(net[0].fenced))
    start = net.now
    while not told:
        net.run(0.1)
    assert FENCE_GRACE <= net.now - start <= FENCE_GRACE + 0.2
    assert told == [False]
    net.sell(0, 101, 1)
    net[0].when_fence_lifts(lambda: told.append(True))  # now
    assert told == [False, True]


def test_the_neighbours_digest_ends_it_after_the_grace_and_not_before() -> None:
    net = restarted()
    net.link(0)
    net.exchange()
    net.run(FENCE_GRACE - 0.1)
    assert net[0].fenced
    net.run(0.1)
    assert not net[0].fenced
    net.sell(0, 101, 1)
    net.settle()
    net.check()


def test_an_old_copy_is_noticed_while_it_listens_and_writes_nothing() -> None:
    """Its orders would cross, a client and a taker wait: nothing is written all the same."""
    net = Network(2, fence_max=FENCE_MAX)
    net.sell(0, 100, 5)
    net.exchange()
    past = net.nodes[0].store.recover()
    net.sell(0, 101, 5)
    net.exchange()
    net.kill(0)
    store = net.nodes[0].store = type(net.nodes[0].store)()
    store.commit([PutMeta(name, value) for name, value in past.meta.items()])
    net._start(0)
    told: list[str | None] = []
    net[0].when_fence_lifts(lambda: told.append(net[0].stale))
    net.link(0)
    net.exchange()
    net.run(0.2)
    assert len(told) == 1
    assert "old copy" in (told[0] or "")
    with pytest.raises(CommandRejected) as refused:
        net.sell(0, 102, 1)
    assert refused.value.code == "stale_data"
    net.run(5.0)
    assert net[1].feeds[net.id(0), M].fault is None
    assert [f.number for f in net[0].feeds.values() if f.owner == net.id(0)] == [0]


# A node that only ever took


def filled(take: int, taker: str) -> Filled:
    return Filled(1, SELL, 2, 100, 3, 3, taker, take, EPOCH_US)


def test_take_numbers_of_an_old_copy_are_not_used_a_second_time() -> None:
    net = Network(2, fence_max=FENCE_MAX)
    net.sell(1, 100, 50)
    net.exchange()
    past = net.nodes[0].store.recover()
    for _ in range(3):
        net.buy(0, None, 1)
        net.exchange()
    before = {fill.take for fill in net.fills(1)}
    net.kill(0)
    net.nodes[0].store = type(net.nodes[0].store)()
    net.nodes[0].store.commit([PutMeta(name, value) for name, value in past.meta.items()])
    net.now += 1.0
    net.restart(0)
    net.settle()
    net.buy(0, None, 4)
    net.settle()
    (fill,) = net.fills(0)
    assert fill.quantity == 4
    assert fill.take not in before
    assert len(net.fills(1)) == 4


def test_a_trade_missing_in_the_journal_is_warned_of_once() -> None:
    """A node restored from an old copy gets the makers' feeds, which tell of its lost fills."""
    net = Network(1)
    net.exchange()
    maker = Owner(50)
    lost = maker.batch(Opened(1, SELL, 100, 5, 1), filled(FIRST_TAKE, net.id(0)))
    again = maker.batch(
        Filled(1, SELL, 1, 100, 2, 2, net.id(0), FIRST_TAKE + 1, EPOCH_US),
    )
    net.now += 1.0
    net.restart(0)
    assert net.give(0, lost)
    assert net.give(0, again)
    (warning,) = net.nodes[0].warnings
    assert "not in this data directory" in warning
    assert net[0].stale is None  # anybody can write such an event


# The service


async def test_orders_and_cancels_of_clients_wait_until_the_node_writes(tmp_path: Path) -> None:
    now = 0.0
    instruments = COARSE
    engine = Engine(
        Keys(1),
        [instrument.key for instrument in instruments],
        network=NETWORK,
        epoch_us=EPOCH_US,
        rng=random.Random(0),
        recovered=Recovered(meta={"incarnation": 1}),
    )
    with closing(Journal(tmp_path / "journal.db", sync="normal")) as journal:
        committer = Committer(engine, journal, lambda drained: None)
        data = FakeMarkets(instruments).data
        steps = MarketSteps(Path("unused"), instruments, {})
        service = make_exchange(engine, committer, lambda: now, data, steps, {}).orders
        engine.resume(now)
        order = OrderRequest(market="BTC-USD", side="buy", quantity="1", price="100")
        async with asyncio.TaskGroup() as group:
            group.create_task(committer.run())
            submitted = group.create_task(service.submit(order))
            cancelled = group.create_task(service.cancel("1"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert engine.order_store.open_orders == []
            now = FENCE_GRACE_ALONE
            engine.tick(now)
            assert (await submitted).number == 1
            assert (await cancelled).status == "cancelled"
            committer.stop()
