"""The table of routes, each an operation with the work of the node that answers it.

Router, OpenAPI document and figures are made from the table.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

import msgspec

from node.api.access import Caller
from node.api.node_service import NodeService
from node.api.route import Call, Durable, Route, span_of
from node.operations import operator_operations as operator
from node.operations import public_operations as public
from node.operations import trading_operations as trading
from node.operations.operation import Params
from node.parts.table import annexes
from node.version import VERSION
from node.views.node_views import CallerAccess, HealthView, ReadyView, SessionView
from node.views.views import BookView, OrderRequest, OrderView, ServiceError


def submit_order(
    node: NodeService, call: Call[trading.NewOrderParams, OrderRequest]
) -> Awaitable[OrderView] | Durable[OrderView]:
    wait = call.params.wait_for_takes
    if wait or not node.trading.open:
        return node.orders.submit(call.body, account=call.account, wait_for_takes=wait)
    placed = node.trading.place_now(node.texts.new_order(call.body, call.account))
    return Durable(node.texts.order(placed[0]))


def cancel_orders(
    node: NodeService, call: Call[trading.SeveralOrders, None]
) -> Awaitable[list[OrderView]]:
    chosen = call.params.selection
    if chosen == trading.OrderSelection():
        raise ServiceError(
            400,
            "invalid_parameter",
            "no orders selected: give market, group, client_id, or all=true for every open order",
            parameter="all",
        )
    return node.orders.cancel_many(
        account=call.account, market=chosen.market, group=chosen.group, client_id=chosen.client_id
    )


def get_book(node: NodeService, call: Call[public.BookParams, None]) -> BookView:
    """`own` shows the account's orders."""
    account = call.caller.account if call.caller.may("read") else None
    return node.markets.book(call.params.market, depth=call.params.depth, account=account)


def get_health(node: NodeService, _: Call[Params, None]) -> HealthView:
    status = node.reports.status()
    return HealthView(status="ok", node_id=status.node_id, version=status.version)


def get_ready(node: NodeService, _: Call[Params, None]) -> ReadyView:
    found = node.reports.ready()
    if found.ready:
        return found
    reasons = "; ".join(check.reason for check in found.checks if not check.ok)
    checks = [msgspec.structs.asdict(check) for check in found.checks]
    raise ServiceError(503, "not_ready", reasons, checks=checks)


def get_session(node: NodeService, call: Call[Params, None]) -> SessionView:
    caller = call.caller
    account = None if caller.account is None else node.accounts.get(caller.account)
    key = node.accounts.key(caller.key) if caller.key else None
    return SessionView(
        node_id=node.node_id,
        version=VERSION,
        account=caller.account,
        account_name=None if account is None else account.name,
        access=_access(caller),
        operator=caller.operator,
        authenticated_by=caller.authenticated_by,
        permissions=sorted(caller.permissions),
        key=caller.key or None,
        key_label=None if key is None else key.label,
        keys_required=call.rules.keys_required,
        desk=any(part.name == "desk" for part in node.parts),
    )


def _access(caller: Caller) -> CallerAccess:
    if caller.operator:
        return "operator"
    return "public" if caller.account is None else "account"


_TRADING: Final[tuple[Route[Any, Any, Any], ...]] = (
    Route(
        trading.SUBMIT_ORDER,
        submit_order,
        doing="placing the order",
        location=lambda order: f"/v1/orders/{order.id}",
    ),
    Route(
        trading.LIST_ORDERS,
        lambda node, call: node.orders.find(
            account=call.account,
            market=call.params.market,
            open_only=call.params.open,
            span=span_of(call.params.page),
        ),
        row_time=lambda params, order: (
            order.created if params.open else order.updated or order.created
        ),
    ),
    Route(trading.CANCEL_ORDERS, cancel_orders, doing="cancelling the orders"),
    Route(
        trading.CANCEL_AFTER,
        lambda node, call: node.orders.cancel_after(call.body.timeout_ms, account=call.account),
        doing="setting the switch",
    ),
    Route(
        trading.GET_ORDER_BY_CLIENT_ID,
        lambda node, call: node.orders.by_client_id(call.params.client_id, account=call.account),
    ),
    Route(
        trading.GET_ORDER, lambda node, call: node.orders.get(call.params.id, account=call.account)
    ),
    Route(
        trading.AMEND_ORDER,
        lambda node, call: node.orders.amend(
            call.params.id,
            call.body,
            account=call.account,
            wait_for_takes=call.params.wait_for_takes,
        ),
        doing="amending the order",
    ),
    Route(
        trading.CANCEL_ORDER,
        lambda node, call: node.orders.cancel(call.params.id, account=call.account),
        doing="cancelling the order",
    ),
    Route(
        trading.LIST_FILLS,
        lambda node, call: node.orders.fills(
            account=call.account,
            market=call.params.market,
            order=call.params.order,
            span=span_of(call.params.page),
        ),
    ),
    Route(trading.LIST_BALANCES, lambda node, call: node.operations.balances(call.account)),
    Route(
        trading.LIST_LEDGER,
        lambda node, call: node.operations.postings(
            f"account:{call.account}", span_of(call.params.page), asset=call.params.asset
        ),
    ),
    Route(trading.LIST_FEES, lambda node, call: node.operations.fees(call.account)),
)
_OPERATOR: Final[tuple[Route[Any, Any, Any], ...]] = (
    Route(operator.LIST_ACCOUNTS, lambda node, call: node.operations.accounts()),
    Route(
        operator.CREATE_ACCOUNT,
        lambda node, call: node.operations.create(call.body),
        doing="making the account",
        location=lambda account: f"/v1/accounts/{account.number}",
    ),
    Route(operator.GET_ACCOUNT, lambda node, call: node.operations.show(call.params.account)),
    Route(
        operator.CHANGE_ACCOUNT,
        lambda node, call: node.operations.change(call.params.account, call.body),
        doing="changing the account",
    ),
    Route(
        operator.DEPOSIT,
        lambda node, call: node.operations.deposit(call.params.account, call.body),
        doing="the deposit",
    ),
    Route(
        operator.WITHDRAW,
        lambda node, call: node.operations.withdraw(call.params.account, call.body),
        doing="the withdrawal",
    ),
    Route(operator.LIST_KEYS, lambda node, call: node.operations.keys(call.params.account)),
    Route(
        operator.CREATE_KEY,
        lambda node, call: node.operations.create_key(call.params.account, call.body),
        doing="making the key",
    ),
    Route(
        operator.REVOKE_KEY,
        lambda node, call: node.operations.revoke_key(call.params.key),
        doing="revoking the key",
    ),
    Route(
        operator.HALT_MARKET,
        lambda node, call: node.operations.halt(call.params.market, call.body.reason),
        doing="the halt",
    ),
    Route(
        operator.RESUME_MARKET,
        lambda node, call: node.operations.resume(call.params.market),
        doing="resuming",
    ),
    Route(operator.LIST_HALTS, lambda node, call: node.operations.halts()),
    Route(operator.LIST_MARKET_STEPS, lambda node, call: node.operations.market_steps()),
    Route(
        operator.CHANGE_MARKET_STEPS,
        lambda node, call: node.operations.change_market_steps(call.params.market),
        doing="changing the steps",
    ),
    Route(
        operator.LIST_POSTINGS,
        lambda node, call: node.operations.postings(
            call.params.holder, span_of(call.params.page), asset=call.params.asset
        ),
    ),
    Route(operator.LIST_POSITIONS, lambda node, call: node.operations.positions.positions()),
    Route(operator.LIST_OBLIGATIONS, lambda node, call: node.operations.positions.obligations()),
    # It changes nothing, and has a limit of its own.
    Route(
        operator.RECONCILE,
        lambda node, call: node.statements.reconcile(
            node.operations.positions.peer(call.params.peer)
        ),
    ),
    Route(
        operator.SETTLE,
        lambda node, call: node.operations.positions.settle(call.body),
        doing="the settlement",
    ),
    Route(operator.LIST_CREDIT, lambda node, call: node.operations.positions.credit()),
    Route(
        operator.SET_CREDIT,
        lambda node, call: node.operations.positions.set_credit(call.body),
        doing="setting the limit",
    ),
)
_PUBLIC: Final[tuple[Route[Any, Any, Any], ...]] = (
    Route(
        public.LIST_TRADES,
        lambda node, call: node.markets.trades(
            market=call.params.market, span=span_of(call.params.page)
        ),
    ),
    Route(
        public.LIST_CANDLES,
        lambda node, call: node.markets.candles(
            call.params.market, call.params.timeframe, span=span_of(call.params.span)
        ),
    ),
    Route(public.GET_BOOK, get_book),
    Route(public.LIST_MARKETS, lambda node, call: node.markets.views()),
    Route(public.LIST_PEERS, lambda node, call: node.reports.peers()),
    Route(
        public.CONNECT_PEER,
        lambda node, call: node.peering.connect(call.body.address),
        doing="dialling the peer",
    ),
    Route(public.GET_PEER_POLICY, lambda node, call: node.peering.policy()),
    Route(public.CHANGE_PEER_POLICY, lambda node, call: node.peering.change_policy(call.body)),
    Route(
        public.PING_NODE, lambda node, call: node.peering.ping(call.params.node), doing="the ping"
    ),
    Route(public.LIST_SERVICES, lambda node, call: node.reports.services()),
    # It has a deadline of its own.
    Route(
        public.CALL_SERVICE,
        lambda node, call: node.service_calls.call_service(call.params.service, call.body),
        until_gone=True,
    ),
    Route(
        public.GET_ROUTER,
        lambda node, call: node.reports.routing(events=call.params.events, kind=call.params.kind),
    ),
    Route(public.GET_STATUS, lambda node, call: node.reports.status()),
    Route(public.GET_SESSION, get_session),
    Route(public.GET_DIAGNOSTICS, lambda node, call: node.reports.diagnostics()),
    Route(public.GET_TOPOLOGY, lambda node, call: node.reports.topology()),
    Route(public.LIST_FEEDS, lambda node, call: node.reports.feeds()),
    Route(public.GET_HEALTH, get_health, any_query=True),
    Route(public.GET_READY, get_ready, any_query=True),
)
ROUTES: Final[tuple[Route[Any, Any, Any], ...]] = (
    *_TRADING,
    *_OPERATOR,
    *(route for annex in annexes() if annex.routes for route in annex.load(annex.routes)),
    *_PUBLIC,
)
