"""Accounts on real nodes: trades between nodes, kill -9, keys and TLS, by API and by command."""

from __future__ import annotations

import json
import ssl
import stat
import urllib.error
import urllib.request
from collections import Counter
from decimal import Decimal

import pytest
from node_accounts import MARKET, make_account, money, place
from processes import NodeProcess, Nodes, eventually, run_cli, same_books

from node.cli.client_session import BlockingTransport, run_blocking
from node.client.exchange_client import ApiError, ExchangeClient
from node.client.server_trust import Trust
from node.views.views import OrderRequest

OPERATOR = "operator_token"


def positions(node: NodeProcess) -> dict[str, Decimal]:
    """By asset: what this node owes its only partner."""
    views = node.ask(lambda client: client.positions())
    return {view.asset: Decimal(view.balance) for view in views}


def books_add_up(node: NodeProcess, *accounts: str) -> None:
    """All holders of the node together have what came in: nothing."""
    sums: Counter[str] = Counter()
    for account in ("house", *accounts):
        sums.update({asset: int(total * 10**8) for asset, total in money(node, account).items()})
    sums.update({asset: int(owed * 10**8) for asset, owed in positions(node).items()})
    for holder in ("fees", "outside"):
        seen: set[str] = set()
        for line in node.ask(lambda client, h=holder: client.postings(h, limit=1000)):
            if line.asset not in seen:  # the newest comes first
                seen.add(line.asset)
                sums[line.asset] += int(Decimal(line.balance) * 10**8)
    assert not any(sums.values()), sums


def test_a_trade_between_accounts_of_two_nodes_is_owed_on_both_until_it_is_settled(
    nodes: Nodes,
) -> None:
    a, b = nodes.pair()
    alice, bob = make_account(a, "alice", BTC="1"), make_account(b, "bob", USD="10000")
    place(a, alice, "sell", "0.1", "30000")
    same_books(a, b, market=MARKET)
    bought = place(b, bob, "buy", "0.1", "30000")
    eventually(
        lambda: b.ask(lambda c: c.order(bought.id, account="bob")).status == "filled",
        what="the take to be granted",
    )
    assert money(a, "alice") == {"BTC": Decimal("0.9"), "USD": Decimal("2997")}
    assert money(b, "bob") == {"BTC": Decimal("0.0998"), "USD": Decimal("7000")}
    owed = positions(a)
    assert owed == {"BTC": Decimal("0.1"), "USD": Decimal("-3000")}
    assert positions(b) == {asset: -amount for asset, amount in owed.items()}
    for node, name in ((a, "alice"), (b, "bob")):
        books_add_up(node, name)

    # A node that may owe nothing more is not traded with, and is told why its order is left.
    assert a.ask(lambda c: c.set_credit("USD", "3000")).limit == "3000"
    place(a, alice, "sell", "0.1", "30000")
    same_books(a, b, market=MARKET)
    more = place(b, bob, "buy", "0.1", "30000")
    eventually(
        lambda: b.ask(lambda c: c.order(more.id, account="bob")).pending == "0",
        what="the take to be refused",
    )
    assert b.ask(lambda c: c.order(more.id, account="bob")).filled == "0"
    assert money(b, "bob")["USD"] == Decimal("7000")

    # Paid outside, written down on both sides: nothing is open, and the limit has room again.
    a.cli("ledger", "settle", b.node_id[:10], "received", "3000", "USD")
    b.cli("ledger", "settle", a.node_id[:10], "paid", "3000", "USD")
    eventually(
        lambda: b.ask(lambda c: c.order(more.id, account="bob")).status == "filled",
        what="the order to be filled after the settlement",
    )
    assert positions(a) == {"BTC": Decimal("0.2"), "USD": Decimal("-3000")}
    books_add_up(a, "alice")
    books_add_up(b, "bob")


def test_acknowledged_orders_of_accounts_survive_kill_9(nodes: Nodes) -> None:
    node = nodes.start("a")
    alice, bob = make_account(node, "alice", USD="100000"), make_account(node, "bob", BTC="2")
    made = []
    for number in range(10):
        made.append(place(node, bob, "sell", "0.1", "30000", client_id=f"s{number}"))
        made.append(place(node, alice, "buy", "0.05", "30000", client_id=f"b{number}"))
    stop = place(node, alice, "buy", "0.1", "31000", stop="30500")
    hidden = node.ask(
        lambda c: c.submit(
            OrderRequest(market=MARKET, side="buy", quantity="0.1", price="29000", hidden=True),
            account="alice",
        )
    )
    node.ask(lambda c: c.freeze("bob"))
    before = money(node, "alice"), money(node, "bob")
    held = node.ask(lambda c: c.balances(account="alice"))
    node.kill9()
    node.restart()
    assert (money(node, "alice"), money(node, "bob")) == before
    assert node.ask(lambda c: c.balances(account="alice")) == held
    for order in made:
        name = "alice" if order.side == "buy" else "bob"
        found = node.ask(lambda c, o=order, n=name: c.order_by_client_id(o.client_id, account=n))
        assert (found.id, found.price) == (order.id, order.price)
        assert Decimal(found.filled) >= Decimal(order.filled)
    assert node.ask(lambda c: c.order(stop.id, account="alice")).status == "untriggered"
    assert node.ask(lambda c: c.order(hidden.id, account="alice")).hidden
    books_add_up(node, "alice", "bob")
    # Keys are valid still, the account is frozen still, and a repeated order is the first one.
    again = place(node, alice, "buy", "0.05", "30000", client_id="b0")
    assert again.id == made[1].id
    with pytest.raises(ApiError, match="frozen"):
        place(node, bob, "sell", "0.1", "30000")


def test_keys_are_required_and_the_certificate_is_known(nodes: Nodes) -> None:
    node = nodes.start("a", API_AUTH="required", API_TLS_SELF_SIGNED="true", API_RATE_LIMIT="30")
    certificate = node.data_dir / "api-cert.pem"
    runtime = json.loads(node.runtime_path.read_text("utf-8"))
    assert stat.S_IMODE(node.runtime_path.stat().st_mode) == 0o600
    node.cli("account", "create", "alice")
    node.cli("account", "deposit", "alice", "5", "USD")
    key = node.cli("account", "keys", "create", "alice")
    secret = f"{key['key']}:{key['secret']}"

    # A program that nobody here wrote, with nothing but the certificate's file.
    context = ssl.create_default_context(cafile=str(certificate))

    def fetch(path: str, authorization: str = "") -> tuple[int, str]:
        request = urllib.request.Request(node.api_url + path)
        if authorization:
            request.add_header("Authorization", f"Bearer {authorization}")
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    assert fetch("/v1/markets")[0] == 200
    assert fetch("/v1/balances")[0] == 401
    assert fetch("/v1/balances", secret) == (
        200,
        '[{"asset":"USD","total":"5","held":"0","available":"5"}]',
    )
    assert fetch("/v1/accounts", secret)[0] == 403
    assert fetch("/v1/accounts", f"operator:{runtime[OPERATOR]}")[0] == 200
    statuses = [fetch("/v1/balances", secret)[0] for _ in range(40)]
    assert statuses.count(429) >= 5
    done = run_cli(
        *("markets", "--api", node.api_url, "--api-cafile", str(certificate)),
    )
    assert done.returncode == 0, done.stderr
    trusted = ExchangeClient(
        node.api_url, transport=BlockingTransport(trust=Trust(ca_file=certificate))
    )
    assert run_blocking(trusted.book(MARKET)).bids == []
    # No secret is written anywhere but in the file that is the user's alone.
    for word in (key["secret"], runtime[OPERATOR]):
        assert word not in node.log
    assert node.stop() == 0
    old = runtime[OPERATOR]
    node.restart()
    assert json.loads(node.runtime_path.read_text("utf-8"))[OPERATOR] != old
    assert fetch("/v1/accounts", f"operator:{old}")[0] == 401
