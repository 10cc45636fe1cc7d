"""`exchange-node demo`: a few real nodes in one process, simulated traders, an account for who watches,
and a check at the end."""

from __future__ import annotations

import asyncio
import json as jsonlib
import logging
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from config import HostPort, Settings
from exchange.model.commands import HOUSE
from node.client.node_finder import program
from node.daemon.node import Node
from node.daemon.run_node import start_node
from node.views.account_views import AccountRequest, KeyRequest, MoneyRequest
from node.views.views import FillView, OrderRequest, ServiceError

MARKET = "BTC-USD"
MID = Decimal(30000)
TICK = Decimal("0.1")
LOT = Decimal("0.00001")
ORDERS_PER_SECOND = 20.0  # of one trader
SPREAD_TICKS = 40.0  # standard deviation of limit prices around the mid price
WIDTH = 110  # characters of the summary
QUIET_TIMEOUT = 15.0  # seconds for the nodes to agree after the last order
YOU = "you"  # account of the person who runs the demo, on the first node
FUNDS = (("USD", "100000"), ("BTC", "2"))
FIRST_QUANTITY = "0.01"  # of the line to copy: less than one trader usually shows


OpenPage = Callable[[str], bool]


@dataclass
class DemoNode:
    """A node of the demo and its simulated trader."""

    name: str
    node: Node
    rng: random.Random
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Task[None] | None = None
    counts: Counter[str] = field(default_factory=Counter)


def run(
    *,
    nodes: int,
    seconds: float,
    seed: int | None,
    json: bool,
    open_page: OpenPage | None = None,
) -> int:
    """Run the demo; 0 when all books and both sides of every trade agree, 1 when not.

    `open_page` opens a URL in a browser, or returns False: the first node's page while they trade.
    """
    logging.getLogger().setLevel(logging.ERROR)
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    with asyncio.Runner() as runner:
        return runner.run(_demo(nodes, seconds, seed, json, open_page))


async def _demo(
    count: int, seconds: float, seed: int, as_json: bool, open_page: OpenPage | None
) -> int:
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=WIDTH)  # nothing is cut where it is piped to
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    with tempfile.TemporaryDirectory(prefix="exchange-node-demo-") as scratch, ExitStack() as stack:
        members = await _start(count, seed, Path(scratch), stack)
        try:
            if not await _meet(members):
                console.print("the nodes did not find each other in time", style="red")
                return 1
            await _fund_you(console, members[0].node)
            if open_page is not None:
                _show_pages(console, members, open_page)
            started = time.monotonic()
            with _display(console, members, started, seconds):
                await _trade(members, seconds, interrupted)
                agreed = await _settle(members)
            summary = _summary(members, time.monotonic() - started, seed, agreed)
        finally:
            for member in members:
                member.stop.set()
            await asyncio.gather(*(member.running for member in members if member.running))
    if as_json:
        print(jsonlib.dumps(summary))
    else:
        console.print(_render(summary))
    if interrupted.is_set() and open_page is None:
        return 130
    return 0 if summary["agree"] else 1


async def _start(count: int, seed: int, scratch: Path, stack: ExitStack) -> list[DemoNode]:
    members: list[DemoNode] = []
    for index in range(count):
        name = chr(ord("A") + index)
        first = members[0].node.overlay.address if members else None
        settings = Settings(
            data_dir=scratch / name,
            p2p_host="127.0.0.1",
            p2p_network=f"demo-{seed}",
            bootstrap_peers=() if first is None else (HostPort(*first),),
            discovery_mdns=False,
            journal_sync="normal",
        )
        node = await start_node(settings, stack, p2p_ports=[0], api_ports=[0])
        member = DemoNode(name, node, random.Random(f"{seed} {name}"))  # noqa: S311 - a game
        member.running = asyncio.create_task(node.run(member.stop), name=f"node {name}")
        members.append(member)
    return members


async def _fund_you(console: Console, node: Node) -> None:
    """Open an account apart from the traders', with money and a key, and print how to trade with it."""
    operator = node.operations
    await operator.create(AccountRequest(name=YOU))
    for asset, amount in FUNDS:
        await operator.deposit(YOU, MoneyRequest(asset=asset, amount=amount))
    key = await operator.create_key(YOU, KeyRequest(label="demo"))
    money = " and ".join(f"{amount} {asset}" for asset, amount in FUNDS)
    console.print(
        f"your account on node A while the demo runs (longer: --seconds 600): {YOU}, with {money}; "
        "in another terminal:",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"  EXCHANGE_NODE_KEY={key.key}:{key.secret} {program()} order buy {MARKET} {FIRST_QUANTITY}"
        f" --api {node.api.url}",
        highlight=False,
        soft_wrap=True,  # one line to copy, whatever the terminal's width
    )
    console.file.flush()


def _show_pages(console: Console, members: list[DemoNode], open_page: OpenPage) -> None:
    """Print where the pages of the nodes are, and open the first one where that is possible."""
    for member in members:
        console.print(f"page of node {member.name}: {member.node.api.url}/", highlight=False)
    url = f"{members[0].node.api.url}/#/market/{MARKET}/{YOU}"
    console.print(f"and as {YOU}: {url}", highlight=False, soft_wrap=True)
    if not open_page(url):
        console.print("no browser can be opened from here; open one of these addresses in one")
    console.file.flush()


async def _meet(members: list[DemoNode]) -> bool:
    """Wait until all nodes see each other's presence."""
    deadline = time.monotonic() + QUIET_TIMEOUT
    while time.monotonic() < deadline:
        if all(member.node.reports.status().nodes_present == len(members) for member in members):
            return True
        await asyncio.sleep(0.05)
    return False


async def _trade(members: list[DemoNode], seconds: float, interrupted: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        traders = [group.create_task(_trader(member)) for member in members]
        try:
            async with asyncio.timeout(seconds):
                await interrupted.wait()
        except TimeoutError:
            pass
        for trader in traders:
            trader.cancel()


async def _trader(member: DemoNode) -> None:
    """Mostly limit orders around a wandering price, some market orders, some cancels."""
    rng = member.rng
    mid = MID
    while True:
        await asyncio.sleep(rng.expovariate(ORDERS_PER_SECOND))
        mid += TICK * rng.choice((-1, 0, 1))
        await _act(member, mid)


async def _act(member: DemoNode, mid: Decimal) -> None:
    rng, node = member.rng, member.node
    dice = rng.random()
    if dice < 0.25:
        resting = await node.orders.find(market=MARKET)
        if resting:
            try:
                await node.orders.cancel(rng.choice(resting).id)
                member.counts["cancels"] += 1
            except ServiceError:
                member.counts["too late to cancel"] += 1  # filled in the meantime
        return
    side = rng.choice(("buy", "sell"))
    quantity = str(LOT * rng.randint(100, 50_000))
    price = None
    if dice < 0.9:
        offset = TICK * round(rng.gauss(0, SPREAD_TICKS))
        price = str((mid - 10 * TICK if side == "buy" else mid + 10 * TICK) + offset)
    request = OrderRequest(
        market=MARKET, side="buy" if side == "buy" else "sell", quantity=quantity, price=price
    )
    try:
        await node.orders.submit(request)
        member.counts["orders"] += 1
    except ServiceError as error:
        member.counts[error.code] += 1


async def _settle(members: list[DemoNode]) -> bool:
    """Wait until nothing is pending, all nodes hold the same book, and their disks have it all."""
    deadline = time.monotonic() + QUIET_TIMEOUT
    while time.monotonic() < deadline:
        statuses = [member.node.reports.status() for member in members]
        quiet = not any(status.pending_takes or status.feeds_behind for status in statuses)
        if quiet and len({member.node.markets.book(MARKET).digest for member in members}) == 1:
            await asyncio.gather(*(member.node.trading.durable() for member in members))
            return True
        await asyncio.sleep(0.05)
    return False


def _fills(node: Node) -> list[FillView]:
    """Every own fill on disk, oldest first."""
    fills = node.journal.history().fills(limit=-1)
    return [node.texts.fill(fill) for fill in reversed(fills)]


def _summary(members: list[DemoNode], elapsed: float, seed: int, agreed: bool) -> dict[str, Any]:
    sides: dict[str, list[tuple[str, str, str]]] = {}
    rows: list[dict[str, Any]] = []
    for member in members:
        fills = _fills(member.node)
        for fill in fills:
            sides.setdefault(fill.id, []).append((fill.role, fill.price, fill.quantity))
        bought = sum((Decimal(f.quantity) for f in fills if f.side == "buy"), Decimal(0))
        sold = sum((Decimal(f.quantity) for f in fills if f.side == "sell"), Decimal(0))
        book = member.node.markets.book(MARKET, depth=1)
        rows.append(
            {
                "node": member.name,
                "node_id": member.node.node_id,
                "orders": member.counts["orders"],
                "cancels": member.counts["cancels"],
                "fills": len(fills),
                "position": format(bought - sold, "f"),
                "resting": len(member.node.trading.open_orders_of(HOUSE)),
                "bid": book.bids[0].price if book.bids else None,
                "ask": book.asks[0].price if book.asks else None,
                "book": book.digest,
            }
        )
    # A trade is right when it was recorded once as maker and once as taker, with equal terms.
    wrong = [
        trade
        for trade, records in sides.items()
        if sorted(role for role, _, _ in records) != ["maker", "taker"]
        or len({(price, quantity) for _, price, quantity in records}) != 1
    ]
    total = sum((Decimal(str(row["position"])) for row in rows), Decimal(0))
    return {
        "seconds": round(elapsed, 1),
        "seed": seed,
        "orders": sum(int(row["orders"]) for row in rows),
        "cancels": sum(int(row["cancels"]) for row in rows),
        "trades": len(sides),
        "between_nodes": _between_nodes(members),
        "wrong_trades": len(wrong),
        "books_agree": agreed,
        "positions_sum": format(total.normalize() if total else Decimal(0), "f"),
        "agree": agreed and not wrong and not total,
        "nodes": rows,
    }


def _between_nodes(members: list[DemoNode]) -> int:
    return sum(
        1
        for member in members
        for fill in _fills(member.node)
        if fill.role == "taker" and fill.counterparty != member.node.node_id
    )


def _how_long(seconds: float) -> str:
    return f"for {seconds:g} s" if seconds < 1e6 else "until Ctrl-C"


@contextmanager
def _display(
    console: Console, members: list[DemoNode], started: float, seconds: float
) -> Iterator[None]:
    """A table that follows the nodes, where there is a terminal to show it."""
    if not console.is_terminal:
        console.print(f"{len(members)} nodes trade {MARKET} {_how_long(seconds)} ...")
        yield
        return

    def table() -> Table:
        elapsed = min(time.monotonic() - started, seconds)
        view = Table(
            title=f"{MARKET}  {elapsed:4.1f} s, {_how_long(seconds)}", title_justify="left"
        )
        for name in ("node", "orders", "fills", "resting", "bid", "ask", "book"):
            view.add_column(name, justify="left" if name in ("node", "book") else "right")
        for member in members:
            book = member.node.markets.book(MARKET, depth=1)
            view.add_row(
                member.name,
                str(member.counts["orders"]),
                str(member.node.trading.fill_count),
                str(member.node.reports.status().open_orders),
                book.bids[0].price if book.bids else "-",
                book.asks[0].price if book.asks else "-",
                book.digest,
            )
        return view

    with Live(get_renderable=table, console=console, refresh_per_second=5, transient=True):
        yield


def _render(summary: dict[str, Any]) -> Group:
    table = Table(
        title=f"{len(summary['nodes'])} nodes, {summary['seconds']} s, seed {summary['seed']}",
        title_justify="left",
    )
    columns = ("node", "orders", "cancels", "fills", "position", "resting", "bid", "ask", "book")
    for name in columns:
        table.add_column(name, justify="left" if name in ("node", "book") else "right")
    for row in summary["nodes"]:
        table.add_row(*(str(row[name] if row[name] is not None else "-") for name in columns))
    lines = [
        f"{summary['orders']} orders, {summary['cancels']} cancels, {summary['trades']} trades, "
        f"{summary['between_nodes']} of them between nodes",
        _verdict(summary["books_agree"], "all books are the same", "the books differ"),
        _verdict(
            not summary["wrong_trades"],
            "every trade stands once on each side, with the same terms",
            f"{summary['wrong_trades']} trades do not stand equally on both sides",
        ),
        _verdict(
            summary["positions_sum"] == "0",
            "positions sum to zero: nothing was created or lost",
            f"positions sum to {summary['positions_sum']}",
        ),
    ]
    return Group(table, *(Text.from_markup(line) for line in lines))


def _verdict(good: bool, yes: str, no: str) -> str:
    return f"[green]ok[/]  {yes}" if good else f"[red]BAD[/] {no}"
