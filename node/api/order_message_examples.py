"""Examples of the stream's messages about orders, for its description."""

from __future__ import annotations

from typing import Final

import msgspec

from node.streams.order_messages import (
    Accepted,
    AmendOrder,
    CancelAfter,
    CancelAfterSet,
    CancelOnDisconnect,
    CancelOnDisconnectSet,
    CancelOrder,
    CancelOrders,
    Many,
    Outcome,
    Refused,
    Results,
    SubmitOrder,
)
from node.views.problem_view import Problem
from node.views.views import AmendRequest, OrderRequest, OrderView

_NODE: Final = "a2b3c4d5e6f7g2h3i4j5k6l7m2n3o4p5"
_TIME: Final = "2026-01-02T03:04:05.678Z"


def _order(filled: str, pending: str, remaining: str, status: str) -> OrderView:
    return OrderView(
        id=f"{_NODE}-12",
        number=12,
        market="BTC-USD",
        side="buy",
        type="limit",
        price="30000",
        quantity="0.5",
        filled=filled,
        remaining=remaining,
        pending=pending,
        status=status,  # type: ignore[arg-type]
        average_price="30000" if filled != "0" else None,
        created=_TIME,
        client_id="bid-7",
        updated=_TIME,
    )


_REQUEST: Final = OrderRequest(
    market="BTC-USD", side="buy", quantity="0.5", price="30000", client_id="bid-7"
)
_REFUSED: Final = Refused(
    id="3",
    op="cancel",
    problem=Problem(
        type="/docs#problem-unknown_order",
        title="Unknown order",
        status=404,
        detail="this node has no order 13",
        code="unknown_order",
        instance="/v1/stream",
    ),
)
_ACCEPTED: Final = Accepted(
    id="1", op="submit", decided=False, orders=[_order("0", "0.3", "0.2", "open")]
)

ORDER_EXAMPLES: Final[tuple[msgspec.Struct, ...]] = (
    SubmitOrder(id="1", order=_REQUEST),
    SubmitOrder(
        id="2",
        order=OrderRequest(market="BTC-USD", side="sell", quantity="0.1", tif="ioc"),
        wait_for_takes=True,
        account="alice",
    ),
    AmendOrder(id="4", client_id="bid-7", changes=AmendRequest(price="30010")),
    CancelOrder(id="3", order_id="13"),
    CancelOrders(id="5", market="BTC-USD"),
    CancelOrders(id="6", all=True),
    CancelAfter(id="7", timeout_ms=60_000),
    CancelOnDisconnect(id="8", enabled=True),
    Many(
        id="9",
        requests=[SubmitOrder(id="1", order=_REQUEST), CancelOrder(id="3", order_id="13")],
    ),
    _ACCEPTED,
    _REFUSED,
    Outcome(id="1", op="submit", orders=[_order("0.3", "0", "0.2", "open")]),
    Results(id="9", results=[_ACCEPTED, _REFUSED]),
    CancelAfterSet(id="7", at=_TIME),
    CancelOnDisconnectSet(id="8", enabled=True),
)
