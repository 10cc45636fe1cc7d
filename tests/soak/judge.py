"""The end of a soak: wait until it is quiet, then hold the nodes to what their clients were told.

First over the nodes' APIs: books, positions, statements, sums of the ledger, orders. Then the nodes are
stopped, and what their journals hold is compared: with each other, with itself, with the clients' records.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from node.client.exchange_client import ClientError, ExchangeClient, UntrustedNode
from tests.soak.bots import Bot
from tests.soak.disk import Disk, between, read
from tests.soak.report import percentiles
from tests.soak.told import Refusal, State, Unanswered

if TYPE_CHECKING:
    from tests.soak.operators import Operators
    from tests.soak.world import Soak

QUIET: Final = 90.0  # seconds until everything has to be settled
DECIMALS: Final = 12  # in which amounts are compared
CANCEL: Final = 30.0  # seconds
STILL: Final = 1.0  # seconds that it has to stay so
BACK: Final = 30.0  # seconds until every link is what it was before the faults
SAMPLE: Final = 15  # orders of each bot that are looked at over its API
LOUD: Final = ("Traceback", "incident ", "Task exception", "never awaited", "never retrieved")


class Judge:
    def __init__(self, soak: Soak, operators: Operators) -> None:
        self._soak = soak
        self._report = soak.report
        self._nodes = soak.nodes
        self._operators = operators
        self._clients = operators.clients

    async def run(self) -> None:
        await self._ask_to_cancel()
        if not await self._quiet():
            await self._differences()
        await self._ways()
        await self._certificates()
        told = await self._balances()
        await self._positions()
        await self._statements()
        await self._over_the_apis()
        await self._stop()
        disks = [await asyncio.to_thread(read, node.data_dir) for node in self._nodes]
        self._journals(disks)
        self._sums(disks, told)
        self._records(disks)
        self._logs()
        self._count()

    def _fail(self, text: str) -> None:
        self._report.failures.append(text)

    # Until it is quiet

    async def _ask_to_cancel(self) -> None:
        """Every other bot leaves what it has in the book."""
        for bot in self._soak.bots[::2]:
            try:
                async with asyncio.timeout(CANCEL):
                    await bot.cancel_all()
            except (TimeoutError, Refusal) as error:
                self._fail(f"{bot.record.name} cannot cancel its orders: {error!r}")

    async def _quiet(self) -> bool:
        """True if all nodes agreed in time, and went on doing so."""
        began = time.monotonic()
        since: float | None = None
        before: object = None
        while time.monotonic() < began + QUIET:
            now = await self._snapshot()
            if now is None or now != before:
                since, before = None, now
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() > since + STILL:
                self._report.quiet_after = since - began
                return True
            await asyncio.sleep(0.2)
        return False

    async def _snapshot(self) -> object:
        """The digests of all books, where all nodes have the same and nothing is under way."""
        found = set()
        for client in self._clients:
            try:
                status = await client.status()
                if status.pending_takes or status.feeds_behind:
                    return None
                if status.nodes_present != len(self._nodes):
                    return None
                books = [await client.book(market, depth=1) for market in status.markets]
            except ClientError:
                return None
            found.add(tuple((book.market, book.digest) for book in books))
        return found if len(found) == 1 else None

    async def _differences(self) -> None:
        """Reason for which the network is not quiet yet."""
        self._fail(f"the nodes do not agree {QUIET:g} s after the storm")
        for node, client in zip(self._nodes, self._clients, strict=True):
            status = await client.status()
            digests = [(await client.book(m, depth=1)).digest[:8] for m in status.markets]
            self._fail(
                f"{node.name}: {status.nodes_present} present, {status.pending_takes} takes pending, "
                f"{status.feeds_behind} feeds behind, books {digests}, {status.warnings}"
            )

    # The ways between them

    async def _ways(self) -> None:
        """Every node has a link to every other, and a direct one where both have such."""
        network = self._soak.network
        direct = {frozenset(pair) for pair in network.links.direct}
        expected = {
            (a, b): "tcp" if frozenset((a, b)) in direct else "grenache"
            for a, b in itertools.permutations(range(len(self._nodes)), 2)
        }
        deadline, found = time.monotonic() + BACK, await self._carriers()
        while found != expected and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            found = await self._carriers()
        if found != expected:
            wrong = {
                ends: found.get(ends) for ends in expected if found.get(ends) != expected[ends]
            }
            self._fail(f"links of nodes (from, to) that are not as they should be: {wrong}")
        for carrier in found.values():
            self._report.checked[f"links over {carrier}"] += 1
        for carrier, count in network.links.carried.items():
            self._report.carried[carrier] = round(count / 1e6, 1)

    async def _carriers(self) -> dict[tuple[int, int], str]:
        """Carrier of each link between two nodes."""
        numbers = {node.node_id: number for number, node in enumerate(self._nodes)}
        found: dict[tuple[int, int], str] = {}
        for viewer, client in enumerate(self._clients):
            for peer in await client.peers():
                if peer.node_id in numbers and peer.carrier is not None:
                    found[viewer, numbers[peer.node_id]] = peer.carrier
        return found

    async def _certificates(self) -> None:
        """Check that certificates are verified: a client without a node's certificate gets no answer from it."""
        for node in self._nodes:
            if node.api_url.startswith("https:"):
                async with ExchangeClient(node.api_url) as stranger:
                    try:
                        await stranger.status()
                        self._fail(f"a certificate that nobody knows is accepted of {node.name}")
                    except UntrustedNode:
                        self._report.checked["certificates"] += 1

    # Over the APIs

    async def _balances(self) -> list[dict[tuple[int, str], int]]:
        """By node: what its accounts have, by number and asset."""
        found = []
        for client in self._clients:
            has: dict[tuple[int, str], int] = {}
            for account in await client.accounts():
                for view in await client.balances(account=account.name):
                    has[account.number, view.asset] = _units(view.total)
            found.append(has)
        return found

    async def _positions(self) -> None:
        """Check that each node's debt is the other one's claim."""
        owed: dict[tuple[str, str, str], int] = {}
        for node, client in zip(self._nodes, self._clients, strict=True):
            for position in await client.positions():
                owed[node.node_id, position.peer, position.asset] = _units(position.balance)
        for (node_id, peer, asset), amount in owed.items():
            back = owed.get((peer, node_id, asset), 0)
            if amount + back:
                self._fail(f"{node_id} owes {peer} {amount} {asset}, which says {back}")
        self._report.checked["positions"] += len(owed)

    async def _statements(self) -> None:
        """The signed statements of every pair agree."""
        for first, second in itertools.permutations(range(len(self._nodes)), 2):
            name = f"{self._nodes[first].name} with {self._nodes[second].name}"
            try:
                found = await self._clients[first].reconcile(self._nodes[second].node_id)
            except ClientError as error:
                self._fail(f"no reconciliation of {name}: {error}")
                continue
            if not found.agree or found.pending or found.trades:
                self._fail(
                    f"the statements of {name} do not agree: {found.assets} {found.trades[:3]}"
                )
            self._report.checked["statements"] += 1
            self._report.checked["trades in statements"] += found.trades_count

    async def _over_the_apis(self) -> None:
        """Compare earlier answers with present ones, for a sample and for all open orders."""
        await asyncio.gather(*(self._bot_over_its_api(bot) for bot in self._soak.bots))

    async def _bot_over_its_api(self, bot: Bot) -> None:
        numbers = {known.first.number for known in bot.record.open}
        numbers |= set(
            bot.rng.sample(sorted(bot.record.orders), min(SAMPLE, len(bot.record.orders)))
        )
        for number in sorted(numbers):
            try:
                await self._compare(bot, number)
            except Exception as error:  # whatever it is, the order was not found
                self._fail(f"{bot.record.name}: order {number} is not found: {error!r}")
            self._report.checked["orders over their API"] += 1

    async def _compare(self, bot: Bot, number: int) -> None:
        known = bot.record.orders[number]
        for _ in range(10):
            try:
                found: State = await bot.api.look(number)
                break
            except Unanswered:
                await asyncio.sleep(0.3)
        else:
            raise TimeoutError("no answer")
        if found.ended and known.ended is None:
            self._report.checked[f"ends unheard of, {bot.api.name}"] += 1
            if bot.api.heard_all(self._restarted(bot)):
                self._fail(f"{bot.record.name}: nobody told it of the end of {known}")
        bot.record.told(found)
        if found.filled < known.filled:
            self._fail(f"{bot.record.name}: order {number} was told as {known}, is {found}")

    def _restarted(self, bot: Bot) -> bool:
        soak = self._soak
        home = soak.homes[soak.bots.index(bot)]
        return soak.faults is not None and home in soak.faults.restarted

    # On the disks

    async def _stop(self) -> None:
        for node in self._nodes:
            code = await asyncio.to_thread(node.stop)
            if code != 0:
                self._fail(f"{node.name} ended with {code}")

    def _journals(self, disks: list[Disk]) -> None:
        names = {node.node_id: disk for node, disk in zip(self._nodes, disks, strict=True)}
        for node, disk in zip(self._nodes, disks, strict=True):
            for text in disk.contradictions():
                self._fail(f"journal of {node.name}: {text}")
            self._report.checked["orders in journals"] += len(disk.orders)
            self._report.checked["fills in journals"] += len(disk.fills)
            self._report.checked["ledger lines"] += len(disk.postings)
        for text in between(names):
            self._fail(text)

    def _sums(self, disks: list[Disk], told: list[dict[tuple[int, str], int]]) -> None:
        """Per node and asset all holders together have nothing; over all nodes clients, houses and fees
        have what was deposited; and the APIs told just that."""
        everywhere: Counter[str] = Counter()
        for node, disk, said in zip(self._nodes, disks, told, strict=True):
            sums: Counter[str] = Counter()
            for (holder, asset), units in disk.balances(DECIMALS).items():
                sums[asset] += units
                kind, _, name = holder.partition(":")
                if kind in ("account", "fees"):
                    everywhere[asset] += units
                if kind == "account" and said.get((int(name), asset), 0) != units:
                    self._fail(f"{node.name} told {said} of {holder}, which has {units} {asset}")
                self._report.checked["balances"] += 1
            if any(sums.values()):
                self._fail(f"{node.name}: the holders together do not have nothing: {sums}")
        deposited = {
            asset: _units(str(amount)) for asset, amount in self._operators.deposited.items()
        }
        if {asset: units for asset, units in everywhere.items() if units} != deposited:
            self._fail(f"deposited {deposited}, there is {everywhere}")
        self._report.checked["assets conserved"] += len(everywhere)

    def _records(self, disks: list[Disk]) -> None:
        for bot, home in zip(self._soak.bots, self._soak.homes, strict=True):
            for text in disks[home].against(bot.record):
                self._fail(text)
            for text in bot.record.faults:
                self._fail(text)
            self._report.checked["orders told"] += len(bot.record.orders)
            self._report.checked["fills told"] += len(bot.record.fills)

    def _logs(self) -> None:
        logs = {node.name: node.log for node in self._nodes}
        grape = self._soak.network.grape
        if grape is not None:
            logs["the Grape"] = grape.log_path.read_text("utf-8")
            if grape.process is None or grape.process.poll() is not None:
                self._fail("the Grape has ended by itself")
        for name, log in logs.items():
            for line in log.splitlines():
                if any(word in line for word in LOUD):
                    self._fail(f"log of {name}: {line[:300]}")

    def _count(self) -> None:
        report = self._report
        latencies: dict[str, list[float]] = {}
        for bot in self._soak.bots:
            counts = report.apis.setdefault(bot.api.name, Counter())
            counts["bots"] += 1
            home = self._nodes[self._soak.homes[self._soak.bots.index(bot)]]
            counts["bots over TLS"] += home.api_url.startswith("https:")
            counts["orders"] += len(bot.record.orders)
            counts["acts"] += bot.acts
            counts["messages"] += bot.api.heard
            counts["unanswered"] += bot.record.unanswered
            counts["silences ended"] += bot.silences
            report.refused.update(bot.record.refused)
            latencies.setdefault(bot.api.name, []).extend(bot.latencies)
        report.latency_ms = {name: percentiles(found) for name, found in latencies.items()}


def _units(text: str) -> int:
    """Of 10**-DECIMALS."""
    value = Decimal(text).scaleb(DECIMALS)
    assert value == int(value), text
    return int(value)
