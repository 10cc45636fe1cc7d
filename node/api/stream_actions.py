"""Applying a client's requests about orders, as REST checks and applies them, without waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from exchange.model.commands import HOUSE, Selection
from exchange.model.records import Order
from node.api import limits
from node.api.access import Caller, check_access
from node.api.node_service import NodeService
from node.http.rate_limit import RateVerdict
from node.service.refusals import refusals
from node.streams.order_messages import (
    AmendOrder,
    CancelAfter,
    CancelAfterSet,
    CancelOnDisconnect,
    CancelOnDisconnectSet,
    CancelOrder,
    CancelOrders,
    SubmitOrder,
)
from node.views.account_views import MAX_CANCEL_MS, MIN_CANCEL_MS
from node.views.order_mapping import check_group
from node.views.timestamps import iso
from node.views.views import ServiceError


class Effect(NamedTuple):
    """Changes of a request, not durable yet."""

    account: int
    orders: Sequence[Order] = ()
    waits: bool = False  # for other nodes, before it is acknowledged
    answer: msgspec.Struct | None = None  # to a request that is not about orders


class OrderActions:
    """Requests of one connection. `count` counts one against the rate of its caller."""

    def __init__(self, service: NodeService, count: Callable[[Caller], RateVerdict]) -> None:
        self._service = service
        self._trading = service.trading
        self._texts = service.texts
        self._count = count
        self.cancelled_at_end: set[int] = set()  # accounts
        self._kinds: Final[dict[type, Callable[[Any, int], Effect]]] = {
            SubmitOrder: self._submit,
            AmendOrder: self._amend,
            CancelOrder: self._cancel,
            CancelOrders: self._cancel_many,
            CancelAfter: self._cancel_after,
            CancelOnDisconnect: self._cancel_on_disconnect,
        }

    def apply(self, request: Any, caller: Caller, *, full: bool) -> Effect:
        """Apply a request. When `full`, no order may be placed or amended now.

        Raises:
            ServiceError: the caller may not make it, or it cannot be carried out. Nothing was changed.
        """
        account = self._admit(request, caller)
        kind = type(request)
        if full and kind in (SubmitOrder, AmendOrder):
            raise ServiceError(
                429,
                "too_many_undecided",
                f"{limits.STREAM_UNDECIDED} orders of this connection are pending with other nodes; wait for "
                "their outcomes",
                retry_after=1,
            )
        with refusals():
            return self._kinds[kind](request, account)

    def _admit(self, request: Any, caller: Caller) -> int:
        """Return the account that a request is for."""
        verdict = self._count(caller)
        if not verdict.allowed:
            detail = f"more than {verdict.limit} requests a minute; wait {verdict.reset} s"
            raise ServiceError(429, "rate_limited", detail, retry_after=verdict.reset)
        if caller.key:
            key = self._service.accounts.key(caller.key)
            if key is None or key.revoked:
                raise ServiceError(401, "key_revoked", "the key was revoked")
        check_access(caller, "trade")
        if request.account is UNSET:
            return HOUSE if caller.account is None else caller.account
        if not caller.operator:
            raise ServiceError(
                403,
                "operator_only",
                "an API key acts for its own account; leave out account",
                parameter="account",
            )
        return self._service.operations.account(request.account).number

    def _submit(self, request: SubmitOrder, account: int) -> Effect:
        placed = self._trading.place_now(self._texts.new_order(request.order, account))
        # Of a pair the first, as REST answers.
        return Effect(account, placed[:1], request.wait_for_takes)

    def _amend(self, request: AmendOrder, account: int) -> Effect:
        order = self._named(request, account)
        changes = self._texts.changes(order.market, request.changes)
        amended = self._trading.amend_now(account, order.number, changes)
        return Effect(account, [amended], request.wait_for_takes)

    def _cancel(self, request: CancelOrder, account: int) -> Effect:
        number = self._named(request, account).number
        return Effect(account, [self._trading.cancel_now(account, number)])

    def _cancel_many(self, request: CancelOrders, account: int) -> Effect:
        texts = self._texts
        market, group, client_id = request.market, request.group, request.client_id
        if all(each is UNSET for each in (market, group, client_id, request.all)):
            raise ServiceError(
                400,
                "invalid_body",
                "no orders selected: give market, group, client_id, or all for every open order",
                pointer="/all",
            )
        which = Selection(
            account=account,
            market=None if market is UNSET else texts.key(market),
            groups=None if group is UNSET else frozenset([check_group(group)]),
            client_ids=None if client_id is UNSET else frozenset([texts.client_id(client_id)]),
        )
        return Effect(account, self._trading.cancel_many_now(which))

    def _cancel_after(self, request: CancelAfter, account: int) -> Effect:
        wanted = request.timeout_ms
        if wanted and not MIN_CANCEL_MS <= wanted <= MAX_CANCEL_MS:
            detail = f"timeout_ms is {MIN_CANCEL_MS} to {MAX_CANCEL_MS} ms, or 0 to end the switch, not {wanted}"
            raise ServiceError(400, "bad_timeout", detail, pointer="/timeout_ms")
        at = self._trading.cancel_after_now(account, wanted)
        answer = CancelAfterSet(id=request.id, at=None if at is None else iso(at))
        return Effect(account, answer=answer)

    def _cancel_on_disconnect(self, request: CancelOnDisconnect, account: int) -> Effect:
        change = self.cancelled_at_end.add if request.enabled else self.cancelled_at_end.discard
        change(account)
        answer = CancelOnDisconnectSet(id=request.id, enabled=request.enabled)
        return Effect(account, answer=answer)

    def _named(self, request: AmendOrder | CancelOrder, account: int) -> Order:
        if (request.order_id is UNSET) == (request.client_id is UNSET):
            detail = "give order_id or client_id, and not both"
            raise ServiceError(400, "invalid_body", detail)
        if request.client_id is not UNSET:
            name = self._texts.client_id(request.client_id)
            order = self._trading.order_by_client_id(account, name)
            if order is None:
                detail = f"there is no order with the client id {request.client_id!r}"
                raise ServiceError(404, "unknown_order", detail)
            return order
        number = self._texts.number(str(request.order_id))
        order = self._trading.order_of(account, number)
        if order is None:
            raise ServiceError(404, "unknown_order", f"this node has no order {number}")
        return order
