"""Accounts on node processes: with money and keys, trading with them."""

from __future__ import annotations

from decimal import Decimal

from processes import NodeProcess

from node.cli.client_session import BlockingTransport, run_blocking
from node.client.exchange_client import ExchangeClient
from node.views.account_views import AccountRequest, NewKeyView
from node.views.views import OrderRequest, OrderView, Side

MARKET = "BTC-USD"


def make_account(node: NodeProcess, name: str, **money: str) -> NewKeyView:
    """An account with money (`USD="100"`) and a key."""
    node.ask(lambda client: client.create_account(AccountRequest(name=name)))
    for asset, amount in money.items():
        node.ask(lambda client, a=asset, m=amount: client.deposit(name, a, m))
    return node.ask(lambda client: client.create_key(name))


def place(
    node: NodeProcess, key: NewKeyView, side: Side, quantity: str, price: str, **more: str
) -> OrderView:
    client = ExchangeClient(
        node.api_url, key=key.key, secret=key.secret, transport=BlockingTransport()
    )
    request = OrderRequest(market=MARKET, side=side, quantity=quantity, price=price, **more)
    return run_blocking(client.submit(request))


def money(node: NodeProcess, account: str) -> dict[str, Decimal]:
    views = node.ask(lambda client: client.balances(account=account))
    return {view.asset: Decimal(view.total) for view in views if view.total != "0"}
