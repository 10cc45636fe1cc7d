"""Call every operation with the generated client. Runs in its environment, beside the package `client`.

    python generated_calls.py URL TOKEN OTHER_NODE OTHER_ADDRESS

Each answer has to be the success that the document promises, read into its type. Prints the number of calls.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

import client.api
from client import AuthenticatedClient, models

MARKET = "BTC-USD"
STEPS_CHANGED = "ETH-BTC"  # the node was started again with other steps of it


class Caller:
    """Calls operations by their name in the document, and remembers which."""

    def __init__(self, url: str, token: str) -> None:
        self.document = json.loads(Path("openapi.json").read_text("utf-8"))
        self.success = {
            operation["operationId"]: int(min(operation["responses"]))
            for methods in self.document["paths"].values()
            for operation in methods.values()
        }
        self.modules = {
            module.name.rpartition(".")[2].replace("_", ""): importlib.import_module(module.name)
            for module in pkgutil.walk_packages(client.api.__path__, "client.api.")
            if not module.ispkg
        }
        assert {name.lower() for name in self.success} == self.modules.keys()
        self.url = url
        self.operator = AuthenticatedClient(url, token, raise_on_unexpected_status=True)
        self.account: AuthenticatedClient = self.operator
        self.called: set[str] = set()
        self.calls = 0

    def __call__(self, name: str, *path: Any, own: bool = False, **more: Any) -> Any:
        """Call an operation as the operator, or with the account's key (`own`); returns what was read."""
        module = self.modules[name.lower()]
        by = self.account if own else self.operator
        answer = module.sync_detailed(*path, client=by, **more)
        assert answer.status_code == self.success[name], (name, answer.status_code, answer.content)
        assert not isinstance(answer.parsed, models.Problem)
        assert answer.parsed is not None, name
        self.called.add(name)
        self.calls += 1
        return answer.parsed


def order(**more: Any) -> Any:
    fields = {"market": MARKET, "side": "buy", "quantity": "0.1", "price": "20000"} | more
    return models.OrderRequest.from_dict(fields)


def accounts(call: Caller) -> None:
    made = call("createAccount", body=models.AccountRequest(name="alice"))
    assert call("getAccount", "alice").number == made.number
    call("changeAccount", "alice", body=models.AccountChange(max_open_orders=50))
    assert {each.name for each in call("listAccounts")} >= {"alice", "house"}
    for asset, amount in (("USD", "100000"), ("BTC", "5")):
        call("deposit", "alice", body=models.MoneyRequest(asset=asset, amount=amount))
    taken = call("withdraw", "alice", body=models.MoneyRequest(asset="USD", amount="0.5"))
    assert taken.amount == "-0.5"
    key = call("createKey", "alice", body=models.KeyRequest())
    spare = call("createKey", "alice", body=models.KeyRequest(label="spare"))
    assert len(call("listKeys", "alice")) == 2
    call("revokeKey", spare.key)
    call.account = AuthenticatedClient(
        call.url, f"{key.key}:{key.secret}", raise_on_unexpected_status=True
    )


def orders(call: Caller) -> None:
    placed = call("submitOrder", own=True, body=order(client_id="first"), wait_for_takes=True)
    assert call("getOrder", placed.id, own=True).status == "open"
    assert call("getOrderByClientId", "first", own=True).id == placed.id
    amended = call(
        "amendOrder", placed.id, own=True, body=models.AmendRequest.from_dict({"price": "19999"})
    )
    assert amended.price == "19999"
    assert [each.id for each in call("listOrders", own=True, market=MARKET)] == [placed.id]
    call("cancelOrder", placed.id, own=True)
    call("submitOrder", own=True, body=order(group=7))
    selection = models.CancelOrdersSelection.from_dict({"market": MARKET, "group": 7})
    assert len(call("cancelOrders", own=True, selection=selection)) == 1
    assert call("cancelAfter", own=True, body=models.CancelAfterRequest(timeout_ms=60000)).at
    call("submitOrder", body=order(side="sell"))
    bought = call("submitOrder", own=True, body=order())
    assert bought.status == "filled"
    assert len(call("listFills", own=True, order=bought.id)) == 1
    assert {each.asset for each in call("listBalances", own=True)} >= {"BTC", "USD"}
    assert call("listLedger", own=True, asset="USD")
    assert call("listFees", own=True)


def markets(call: Caller) -> None:
    assert {each.symbol for each in call("listMarkets")} >= {MARKET}
    call("submitOrder", own=True, body=order(price="19000"))
    assert call("getBook", MARKET, depth=5).bids
    assert call("listTrades", market=MARKET)
    assert call("listCandles", MARKET, timeframe=models.ListCandlesTimeframe("1m"))
    call("haltMarket", MARKET, body=models.HaltRequest(reason="a test"))
    assert any(each.halted for each in call("listHalts"))
    call("resumeMarket", MARKET)
    assert any(each.at_next_start for each in call("listMarketSteps")) is False
    call("changeMarketSteps", STEPS_CHANGED)
    assert any(each.at_next_start for each in call("listMarketSteps"))


def network(call: Caller, other: str, address: str) -> None:
    assert call("connectPeer", body=models.ConnectRequest(address=address)).node_id == other
    assert [each.node_id for each in call("listPeers")] == [other]
    subject = {"action": "pin", "subject": other}
    changed = call("changePeerPolicy", body=models.PeerPolicyRequest.from_dict(subject))
    assert call("getPeerPolicy").pins == changed.pins == [other]
    assert call("pingNode", other).node_id == other
    assert call("listServices")
    payload = {"payload": {"market": MARKET}, "timeout_ms": 5000}
    call("callService", "book", body=models.CallRequest.from_dict(payload))
    call("setCredit", body=models.CreditRequest(asset="USD", peer=other, limit="1000"))
    assert call("listCredit")
    settlement = {"peer": other, "asset": "USD", "amount": "5", "direction": "paid"}
    call("settle", body=models.SettlementRequest.from_dict(settlement))
    assert call("listPositions")
    call("listObligations")
    assert call("listPostings", holder=f"peer:{other}")
    call("reconcile", other)


def node(call: Caller) -> None:
    for name in (
        "getRouter", "getStatus", "getSession", "getDiagnostics", "getTopology", "listFeeds",
        "getHealth", "getReady",
    ):  # fmt: skip
        call(name)


def desk(call: Caller) -> None:
    """Read from the two own nodes together."""
    assert len(call("getDeskStatus").status) == 2
    assert call("listDeskBalances").totals
    assert call("listDeskOrders", market=MARKET, open_=False).orders
    assert call("listDeskTrades", market=MARKET).trades
    call("listDeskObligations")


def main(url: str, token: str, other: str, address: str) -> None:
    call = Caller(url, f"operator:{token}")
    accounts(call)
    orders(call)
    markets(call)
    network(call, other, address)
    node(call)
    desk(call)
    missing = call.success.keys() - call.called
    assert not missing, missing
    print(
        f"generated client: {len(call.called)} of {len(call.success)} operations, {call.calls} calls"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
