"""Messages of the stream about orders: requests of a client, their acknowledgement and their outcome.

    client                                                        node
    {"op":"submit","id":"1","order":{...}}                    ->
                                                              <-  {"event":"accepted","id":"1","decided":false,"orders":[...]}
                                                              <-  {"event":"outcome","id":"1","orders":[...]}
    {"op":"cancel","id":"2","order_id":"12"}                  ->
                                                              <-  {"event":"refused","id":"2","problem":{...}}
    {"op":"many","id":"3","requests":[{...},{...}]}           ->
                                                              <-  {"event":"results","id":"3","results":[...]}

`accepted` means that the request took effect and is on the node's disk. An order that takes from other
nodes is then `pending` with them: `decided` is false, and `outcome` follows when all of them have answered.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from node.views.account_views import CancelTimeout
from node.views.field_types import ClientId, Group, Timestamp
from node.views.problem_view import Problem
from node.views.views import AmendRequest, OrderRequest, OrderView

MAX_REQUEST_ID: Final = 64
MAX_MANY: Final = 100

RequestId = Annotated[str, Meta(min_length=1, max_length=MAX_REQUEST_ID)]
OrderOp = Literal["submit", "amend", "cancel", "cancel_many"]
Op = Literal[OrderOp, "cancel_after", "cancel_on_disconnect", "many"]


class _Request(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="op"
):
    BODY: ClassVar[str] = ""  # the field that REST has as the request's body

    id: RequestId  # the client's own; comes back in every answer
    account: str | UnsetType = UNSET  # for the operator: act for this account, not for the house


class SubmitOrder(_Request, kw_only=True, tag="submit"):
    """Place an order, as `POST /v1/orders` does. With a `client_id` in it, a repeated submission is answered
    with the first one's order."""

    BODY: ClassVar[str] = "order"

    order: OrderRequest
    wait_for_takes: bool = False  # acknowledge when decided, after TAKE_ANSWER_WAIT at the latest


class AmendOrder(_Request, kw_only=True, tag="amend"):
    """Amend an order, as `PATCH /v1/orders/{id}` does. Give `order_id` or `client_id`."""

    BODY: ClassVar[str] = "changes"

    changes: AmendRequest
    order_id: str | UnsetType = UNSET  # the full id or the number
    client_id: ClientId | UnsetType = UNSET
    wait_for_takes: bool = False  # as of `submit`


class CancelOrder(_Request, kw_only=True, tag="cancel"):
    """Cancel an order. Give `order_id` or `client_id`."""

    order_id: str | UnsetType = UNSET
    client_id: ClientId | UnsetType = UNSET


class CancelOrders(_Request, kw_only=True, tag="cancel_many"):
    """Cancel the open orders that fit all that is given; `all` without more means every one."""

    market: str | UnsetType = UNSET
    group: Group | UnsetType = UNSET
    client_id: ClientId | UnsetType = UNSET
    all: Literal[True] | UnsetType = UNSET


class CancelAfter(_Request, kw_only=True, tag="cancel_after"):
    """Cancel all open orders of the account after this many milliseconds unless this is repeated; 0 ends it."""

    timeout_ms: CancelTimeout


class CancelOnDisconnect(_Request, kw_only=True, tag="cancel_on_disconnect"):
    """Cancel all open orders of the account when this connection ends, however it ends. A node that is
    killed cannot do that: use `cancel_after` too."""

    enabled: bool


OrderMessage = SubmitOrder | AmendOrder | CancelOrder | CancelOrders


class Many(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="many", tag_field="op"):
    """Several requests, carried out in their order and written to the disk together. One that is refused
    does not stop those after it. Each has an id of its own."""

    id: RequestId
    requests: Annotated[list[OrderMessage], Meta(min_length=1, max_length=MAX_MANY)]


TradingMessage = OrderMessage | CancelAfter | CancelOnDisconnect | Many


class Accepted(msgspec.Struct, kw_only=True, tag="accepted", tag_field="event"):
    """A request took effect and is on the node's disk: the orders as they are with it. `decided`: no
    outcome follows, since nothing is pending with other nodes."""

    id: str
    op: OrderOp
    decided: bool
    orders: list[OrderView]  # one; of `cancel_many` those that were cancelled


class Refused(msgspec.Struct, kw_only=True, tag="refused", tag_field="event"):
    """A request had no effect, for the reason that REST would give. Of code `no_answer` and `storage_failed`
    the effect is not known: look the order up, or repeat the request with the same `client_id`."""

    id: str
    op: Op
    problem: Problem


class Outcome(msgspec.Struct, kw_only=True, tag="outcome", tag_field="event"):
    """Other nodes have decided on all that the request's orders took from them: the orders as they are
    then. What changes later is in the channels `orders` and `fills`."""

    id: str
    op: OrderOp
    orders: list[OrderView]


class Results(msgspec.Struct, kw_only=True, tag="results", tag_field="event"):
    """The acknowledgement of `many`: of each request in its order what would be the answer to it alone."""

    id: str
    results: list[Accepted | Refused]


class CancelAfterSet(msgspec.Struct, kw_only=True, tag="cancel_after_set", tag_field="event"):
    """The deadline is on the node's disk."""

    id: str
    at: Timestamp | None  # when the orders are cancelled; None: not


class CancelOnDisconnectSet(
    msgspec.Struct, kw_only=True, tag="cancel_on_disconnect_set", tag_field="event"
):
    """From now on the end of this connection cancels the account's orders, or does not."""

    id: str
    enabled: bool


TradingAnswer = Accepted | Refused | Outcome | Results | CancelAfterSet | CancelOnDisconnectSet
