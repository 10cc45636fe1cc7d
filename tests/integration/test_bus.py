"""The export of journals to a real NATS server: no gap, no repeat, order kept, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from nats_server import NatsServer, Received, program
from processes import ROOT, NodeProcess, Nodes, bootstrap_options, eventually, steady_trading
from sink_conformance import check_sink

from node.annexes.export import position_file
from node.annexes.export.journal_source import JournalSource
from node.annexes.export.nats_messages import StreamPlan, copy_plan, market_plan
from node.annexes.export.nats_sink import NatsSink
from node.annexes.export.sink import Delivery, Position, PositionMoved, SinkError
from node.annexes.export.verification import verify
from tests.ports import free_port

KILLS = 50 if os.environ.get("LONG_TESTS") else 6
SIZE = 1 << 26
DOCUMENT = (ROOT / "docs" / "bus.md").read_text("utf-8")
PLANS = {"copy": copy_plan, "market": market_plan}


@pytest.fixture
def server() -> Iterator[NatsServer]:
    if program() is None:
        pytest.skip("nats-server is not installed")
    found = NatsServer()
    found.start()
    yield found
    found.close()


def current(node: NodeProcess) -> bool:
    views = node.status().exports
    return len(views) == 2 and all(view.state == "running" and not view.behind for view in views)


def plan(node: NodeProcess, part: str) -> StreamPlan:
    return PLANS[part](node.status().network)


def stream(server: NatsServer, node: NodeProcess, part: str, kind: str = "") -> list[Received]:
    """The messages of a node's stream, without the positions."""
    found = plan(node, part)
    subject = f"{found.root(node.node_id)}.{kind + '.' if kind else ''}>"
    messages = server.messages(found.stream(node.node_id), subject)
    return [message for message in messages if not message.subject.endswith(".position")]


def fields(message: Received) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(message.data)
    return document


def latest_ticker(server: NatsServer, node: NodeProcess, last: str) -> dict[str, Any] | None:
    """The only message of the market, once its last price is this one."""
    name = f"EXCHANGE_TICKERS_main_{node.node_id}"
    if name not in server.streams():
        return None
    found = server.messages(name, f"exchange.tickers.main.{node.node_id}.TEST-USD")
    assert len(found) <= 1
    return next((row for row in map(fields, found) if row["last"] == last), None)


def check_verified(server: NatsServer, node: NodeProcess, part: str) -> None:
    sink = NatsSink(server.url, plan(node, part), SIZE)
    try:
        report = verify(JournalSource(node.data_dir / "journal"), sink)
    finally:
        sink.close()
    assert report.ok, [table for table in report.tables if not table.ok]


def check_messages(server: NatsServer, node: NodeProcess) -> None:
    """No id twice, order kept on every subject, and no number of a feed left out."""
    for part in PLANS:
        messages = stream(server, node, part)
        ids = [message.headers["Nats-Msg-Id"] for message in messages]
        assert len(ids) == len(set(ids))
        frames: dict[str, int] = defaultdict(int)
        numbers: dict[tuple[str, str], int] = defaultdict(int)
        for message in messages:
            row = fields(message)
            assert frames[message.subject] <= row["frame"], message
            frames[message.subject] = row["frame"]
            if part == "market" and ".book." in message.subject and not row["line"]:
                feed = row["owner"], row["feed"]
                assert row["number"] == numbers[feed] + 1, message
                numbers[feed] = row["number"]


@pytest.mark.parametrize("part", PLANS)
def test_nats_conforms(server: NatsServer, part: str) -> None:
    check_sink(lambda: NatsSink(server.url, PLANS[part]("kit"), SIZE))


def test_a_server_that_refuses_is_explained_without_the_password(server: NatsServer) -> None:
    url = f"nats://desk:hidden-word@127.0.0.1:{server.port}"
    server.kill()
    with pytest.raises(SinkError, match="NATS: ") as refused:
        NatsSink(url, copy_plan("kit"), SIZE)
    assert "hidden-word" not in str(refused.value)


def test_a_second_writer_is_refused_and_goes_on_from_what_the_first_one_wrote(
    server: NatsServer,
) -> None:
    first, second = (NatsSink(server.url, copy_plan("kit"), SIZE) for _ in range(2))
    row = ("n", 1, "name", None, False, None, None)
    assert first.position("n") is None
    assert second.position("n") is None
    first.deliver(Delivery("n", None, Position(1), {"accounts": [(*row, 1)]}))
    with pytest.raises(PositionMoved):
        second.deliver(Delivery("n", None, Position(2), {"accounts": [(*row, 2)]}))
    assert second.position("n") == Position(1)
    second.deliver(Delivery("n", Position(1), Position(2), {"accounts": [(*row, 2)]}))
    first.close()
    second.close()
    found = server.messages(copy_plan("kit").stream("n"), "exchange.copy.kit.n.accounts")
    assert [fields(message)["frame"] for message in found] == [1, 2]


def test_a_delivery_that_was_cut_off_is_completed_without_a_repeat(server: NatsServer) -> None:
    rows = [("n", number, "name", None, False, None, None, 1) for number in range(1, 1201)]
    sink = NatsSink(server.url, copy_plan("kit"), SIZE)
    assert sink.position("n") is None
    whole, _ = copy_plan("kit").messages(
        Delivery("n", None, Position(1), {"accounts": rows}), frozenset()
    )

    async def part(js: Any) -> None:
        for message in whole[:700]:
            await js.publish(message.subject, message.data, headers={"Nats-Msg-Id": message.id})

    server.ask(part)
    with pytest.raises(PositionMoved):
        sink.deliver(Delivery("n", None, Position(1), {"accounts": rows}))
    assert sink.position("n") is None
    sink.deliver(Delivery("n", None, Position(1), {"accounts": rows}))
    # Ids that the server remembers: refused one by one, and the rest goes on.
    sink.deliver(Delivery("n", Position(1), Position(2), {"accounts": [*rows, (*rows[0][:-1], 2)]}))
    sink.close()
    found = server.messages(copy_plan("kit").stream("n"), "exchange.copy.kit.n.accounts")
    assert [fields(message)["number"] for message in found] == [*range(1, 1201), 1]


def test_rows_and_the_market_data_of_all_nodes_are_on_the_bus(
    nodes: Nodes, server: NatsServer
) -> None:
    a = nodes.make("a").start()
    b = nodes.make("b", EXPORT_NATS=server.url).start(*bootstrap_options(a.p2p_address))
    eventually(lambda: b.node_id in a.linked())
    order = a.sell(10, 100, client_id="mine")
    eventually(lambda: b.asks() == {"100": "10"})
    b.buy(4, 100)
    eventually(lambda: a.get_order(order.id).filled == "4")
    eventually(lambda: current(b), what=lambda: b.log)
    root = f"exchange.market.main.{b.node_id}"
    trades = stream(server, b, "market", "trades")
    assert [message.subject for message in trades] == [f"{root}.trades.TEST-USD"]
    (trade,) = map(fields, trades)
    assert (trade["owner"], trade["price"], trade["quantity"]) == (a.node_id, "100", "4")
    assert trades[0].headers["Nats-Msg-Id"] == (
        f"trades:{a.node_id}:{trade['feed']}:{trade['number']}"
    )
    book = [fields(message) for message in stream(server, b, "market", "book")]
    assert [(row["event"], row["quantity"]) for row in book if row["owner"] == a.node_id] == [
        ("opened", "10"),
        ("filled", "6"),
    ]
    fills = [m for m in stream(server, b, "copy") if ".fills." in m.subject]
    assert [fields(message)["quantity"] for message in fills] == ["4"]
    for part in PLANS:
        check_verified(server, b, part)
    check_messages(server, b)
    ticker = eventually(lambda: latest_ticker(server, b, "100"), what=lambda: b.log)
    assert (ticker["ask"], ticker["ask_quantity"], ticker["bid"]) == ("100", "6", None)
    assert ticker["volume"] == "4"


def test_messages_about_an_order_continue_the_trace_of_its_request(
    nodes: Nodes, server: NatsServer
) -> None:
    node = nodes.make(
        "traced",
        EXPORT_NATS=server.url,
        TRACING="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",  # no collector
    ).start()
    eventually(lambda: current(node), what=lambda: node.log)
    body = json.dumps(
        {"market": "TEST-USD", "side": "sell", "quantity": "5", "price": "100"}
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    request = urllib.request.Request(node.api_url + "/v1/orders", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        order = json.load(answer)["id"]

    def traces() -> list[str]:
        """Trace ids of the messages about orders; "" for none."""
        eventually(lambda: current(node), what=lambda: node.log)
        found = stream(server, node, "copy", "orders")
        return [message.headers.get("traceparent", "").partition("-")[2][:32] for message in found]

    assert traces() == ["0af7651916cd43dd8448eb211c80319c"]
    progress = position_file.read(node.data_dir / "export-nats-copy.json")
    assert progress is not None
    os.kill(progress.process, signal.SIGKILL)  # the next process gets what this one knew
    node.cancel(order)
    eventually(lambda: len(traces()) == 2, what=lambda: node.log)
    assert traces() == ["0af7651916cd43dd8448eb211c80319c"] * 2
    market = stream(server, node, "market")
    assert market
    assert not any("traceparent" in message.headers for message in market)


def test_messages_of_others_on_the_bus_change_no_orders(nodes: Nodes, server: NatsServer) -> None:
    a = nodes.make("a", EXPORT_NATS=server.url).start()
    a.sell(5, 100)
    eventually(lambda: current(a), what=lambda: a.log)
    before = a.status().open_orders
    copies = [m for m in stream(server, a, "copy") if ".orders." in m.subject]

    async def repeat(js: Any) -> None:
        for message in copies:
            await js.publish(message.subject, message.data.replace(b'"5"', b'"7"'))

    server.ask(repeat)
    a.sell(6, 100)
    eventually(lambda: current(a), what=lambda: a.log)
    assert a.status().open_orders == before + 1
    assert a.asks() == {"100": "11"}


def test_a_node_trades_while_its_bus_is_away_and_reports_it(
    nodes: Nodes, server: NatsServer
) -> None:
    server.stop()
    a = nodes.make("a", EXPORT_NATS=server.url).start()
    a.sell(5, 100)
    assert a.buy(5, 100).status == "filled"
    away = eventually(lambda: [w for w in a.status().warnings if w.startswith("export: ")])
    assert "NATS" in away[0]
    server.start()
    eventually(lambda: current(a), what=lambda: a.log)
    assert a.status().warnings == []
    for part in PLANS:
        check_verified(server, a, part)
    assert a.stop() == 0


def test_the_reader_of_the_document_resumes_by_sequence(nodes: Nodes, server: NatsServer) -> None:
    a = nodes.make("a", EXPORT_NATS=server.url).start()
    for number in range(5):
        a.sell(1, 100 + number)
    eventually(lambda: current(a), what=lambda: a.log)
    scope: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0], scope)
    subject = f"exchange.market.main.{a.node_id}.book.>"

    def read(after: int, count: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []

        def handle(sequence: int, id_: str, row: dict[str, Any]) -> None:
            found.append((sequence, row["price"]))
            if len(found) == count:
                raise EOFError

        name = plan(a, "market").stream(a.node_id)
        with suppress(EOFError):
            asyncio.run(scope["follow"](server.url, name, subject, after, handle))
        return found

    first = read(0, 2)
    rest = read(first[-1][0], 3)
    assert [price for _, price in first + rest] == ["100", "101", "102", "103", "104"]


@pytest.mark.timeout(600)
def test_no_gap_and_no_repeat_after_kills_of_node_server_and_export(
    nodes: Nodes, server: NatsServer
) -> None:
    rng = random.Random(7)
    a = nodes.make("a", EXPORT_NATS=server.url).start()
    with steady_trading(a):
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.1, 1.5))
            target = rng.choice(["node", "server", "nats-copy", "nats-market"])
            if target == "node":
                a.kill9()
                a.restart()
            elif target == "server":
                server.kill()
                time.sleep(rng.uniform(0.0, 0.5))
                server.start()
            else:
                progress = position_file.read(a.data_dir / f"export-{target}.json")
                if progress is not None:
                    with suppress(ProcessLookupError):
                        os.kill(progress.process, signal.SIGKILL)
    eventually(lambda: current(a), 60, what=lambda: a.log)
    for part in PLANS:
        check_verified(server, a, part)
    check_messages(server, a)
    fills = [m for m in stream(server, a, "copy") if ".fills." in m.subject]
    assert len(fills) == len(a.fills()) > 0
    assert not [m for m in stream(server, a, "copy") if m.subject.endswith(".gaps")]
