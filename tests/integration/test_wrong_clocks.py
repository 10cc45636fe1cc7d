"""A clock that jumps or stops under a running node, and over its restart: orders, leases and stops stay as they are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from processes import NodeProcess, Nodes, eventually, see_each_other, trade_ids

from node.views.views import OrderRequest, OrderView

LAUNCHER = (str(Path(__file__).with_name("wrong_clock_node.py")),)
LEASE_MS = "1000"
CLOCKS = {"an hour back": "-3600", "a day ahead": "+86400", "frozen": "frozen"}


@pytest.fixture
def set_clock(tmp_path: Path) -> Callable[[str], None]:
    def write(clock: str) -> None:
        draft = tmp_path / "clock.draft"
        draft.write_text(clock, "ascii")
        draft.replace(tmp_path / "clock")

    return write


def placed(node: NodeProcess, side: str, quantity: int, **terms: str) -> OrderView:
    request = OrderRequest(market="TEST-USD", side=side, quantity=str(quantity), **terms)
    return node.ask(lambda client: client.submit(request))


def states(node: NodeProcess) -> list[tuple[object, ...]]:
    return [
        (o.id, o.status, o.price, o.stop, o.filled, o.expires)
        for o in sorted(node.orders(), key=lambda order: order.number)
    ]


def trades(maker: NodeProcess, taker: NodeProcess, price: int) -> float:
    """Seconds until a trade between two nodes is known to both."""
    begun = time.monotonic()
    sold = maker.sell(1, price)
    eventually(lambda: str(price) in taker.asks())
    bought = taker.buy(1, price)
    for node, order in ((taker, bought), (maker, sold)):
        eventually(lambda n=node, o=order: n.get_order(o.id).status == "filled")
    return time.monotonic() - begun


def untriggered(stop: tuple[NodeProcess, str]) -> bool:
    node, number = stop
    return node.get_order(number).status == "untriggered"


def traded(node: NodeProcess, other: NodeProcess) -> list[tuple[str, str, str, str]]:
    return trade_ids([fill for fill in node.fills() if fill.counterparty == other.node_id])


@pytest.mark.parametrize("clock", CLOCKS)
def test_orders_leases_and_stops_stay_as_they_are_under_another_clock(
    nodes: Nodes, set_clock: Callable[[str], None], tmp_path: Path, clock: str
) -> None:
    settings = {"PRESENCE_LEASE_MS": LEASE_MS, "CLOCK_FILE": str(tmp_path / "clock")}
    wrong = nodes.make("wrong", **settings)
    wrong.program = LAUNCHER
    wrong.start()
    right = nodes.start("right", bootstrap=wrong.p2p_address, PRESENCE_LEASE_MS=LEASE_MS)
    see_each_other(wrong, right)
    dated = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    placed(wrong, "buy", 5, price="60", tif="gtd", expires=dated)
    placed(wrong, "sell", 5, price="126")
    placed(right, "buy", 5, price="55", tif="gtd", expires=dated)
    placed(right, "sell", 5, price="150")
    trades(right, wrong, 100)
    stops = [(n, placed(n, "buy", 1, stop=s).id) for n in (wrong, right) for s in ("120", "130")]
    eventually(lambda: wrong.bids() == right.bids() == {"60": "5", "55": "5"})
    before = states(wrong), states(right)

    def unchanged() -> None:
        """Nobody's lease ends, nothing is triggered, cancelled or expired, for longer than a lease."""
        end = time.monotonic() + 1.5 * int(LEASE_MS) / 1000
        while time.monotonic() < end:
            assert (states(wrong), states(right)) == before
            for node in (wrong, right):
                assert node.status().nodes_present == 2
                assert node.bids() == {"60": "5", "55": "5"}
            time.sleep(0.2)

    set_clock(CLOCKS[clock])
    unchanged()
    assert trades(wrong, right, 101) < 5.0
    assert trades(right, wrong, 102) < 5.0
    wrong.stop()  # and once more when it starts with that clock
    wrong.restart()
    see_each_other(wrong, right)
    eventually(lambda: right.bids() == {"60": "5", "55": "5"})
    unchanged()
    assert trades(wrong, right, 103) < 5.0
    assert trades(right, wrong, 104) < 5.0
    # Stops of both are triggered by a trade at their price, the others are not.
    trades(right, wrong, 125)
    eventually(lambda: [untriggered(each) for each in stops] == [False, True, False, True])
    # The clock is set right again under the running node, then it starts once more.
    os.unlink(tmp_path / "clock")  # noqa: PTH108
    assert trades(wrong, right, 110) < 5.0
    wrong.stop()
    wrong.restart()
    see_each_other(wrong, right)
    assert trades(wrong, right, 111) < 5.0
    assert trades(right, wrong, 112) < 5.0
    eventually(lambda: traded(wrong, right) == traded(right, wrong) != [])
    for node in (wrong, right):
        assert node.bids() == {"60": "5", "55": "5"}
        assert "Traceback" not in node.log
