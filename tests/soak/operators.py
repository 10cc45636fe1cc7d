"""The operators of a soak's nodes: deposits, payments between nodes, credit limits, halts of markets.

Their requests have no client ids, so one that was not answered is looked for in the ledger, by its note,
before it is made again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Literal, TypeVar

from node.client.exchange_client import ApiError, ClientError, ExchangeClient, PooledTransport
from tests.integration.processes import NodeProcess
from tests.soak.bots import GROUNDS

T = TypeVar("T")

# Longer than a process is frozen for: a request ends with an answer, or with the process.
TIMEOUT = 60.0
RETRY = 0.3
LIMITED = 1  # the node that allows others little credit
LIMIT = {"USD": "60000", "BTC": "0.5"}


@dataclass
class Operators:
    nodes: Sequence[NodeProcess]
    rng: random.Random
    note: Callable[[str], None]
    deposited: dict[str, Decimal] = field(default_factory=dict)  # by asset
    counts: Counter[str] = field(default_factory=Counter)
    clients: list[ExchangeClient] = field(default_factory=list)
    _notes: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def open(self) -> None:
        self.clients = [
            ExchangeClient(
                n.api_url, node_id=n.node_id, transport=PooledTransport(TIMEOUT, trust=n.trust)
            )
            for n in self.nodes
        ]

    async def close(self) -> None:
        for client in self.clients:
            await client.close()

    async def run(self, stop: asyncio.Event, accounts: Sequence[tuple[int, str]]) -> None:
        """Act now and then until `stop`. `accounts`: node and name."""
        for asset, limit in LIMIT.items():
            await self.insist(partial(self.clients[LIMITED].set_credit, asset, limit))
        while not stop.is_set():
            chance = self.rng.random()
            if chance < 0.4:
                await self._settle()
            elif chance < 0.7:
                node, name = self.rng.choice(accounts)
                asset, amount = self.rng.choice((("USD", "1000"), ("BTC", "0.05"), ("TEST", "50")))
                await self.deposit(node, name, asset, amount)
            elif chance < 0.85:
                await self._freeze(*self.rng.choice(accounts))
            else:
                await self._halt()
            await asyncio.sleep(self.rng.uniform(0.5, 3.0))

    async def deposit(self, node: int, account: str, asset: str, amount: str) -> None:
        name = f"soak {next(self._notes)}"
        client = self.clients[node]
        await self._once(
            *(node, f"account:{account}", name),
            lambda: client.deposit(account, asset, amount, note=name),
        )
        self.deposited[asset] = self.deposited.get(asset, Decimal(0)) + Decimal(amount)
        self.counts["deposits"] += 1

    async def _settle(self) -> None:
        """Half of what is open between two nodes in an asset is paid, and both write it down."""
        first, second = self.rng.sample(range(len(self.nodes)), 2)
        peer = self.nodes[second].node_id
        positions = await self.insist(self.clients[first].positions)
        open_with = [p for p in positions if p.peer == peer and Decimal(p.balance)]
        if not open_with:
            return
        position = self.rng.choice(open_with)
        owed = Decimal(position.balance)
        amount = str(round(abs(owed) / 2, 5))
        if not Decimal(amount):
            return
        name = f"soak {next(self._notes)}"
        for payer, other in ((first, second), (second, first)):
            pays = (payer == first) == (owed > 0)
            them = self.nodes[other].node_id
            direction: Literal["paid", "received"] = "paid" if pays else "received"
            settle = partial(
                self.clients[payer].settle, them, position.asset, amount, direction, note=name
            )
            await self._once(payer, f"peer:{them}", name, settle)
        self.counts["payments between nodes"] += 1

    async def _freeze(self, node: int, account: str) -> None:
        client = self.clients[node]
        await self.insist(lambda: client.freeze(account))
        await asyncio.sleep(self.rng.uniform(0.1, 1.0))
        await self.insist(lambda: client.freeze(account, False))
        self.counts["frozen accounts"] += 1

    async def _halt(self) -> None:
        client = self.rng.choice(self.clients)
        market = self.rng.choice(GROUNDS).market
        await self.insist(lambda: client.halt(market, "soak"))
        await asyncio.sleep(self.rng.uniform(0.1, 1.5))
        try:
            await self.insist(lambda: client.resume(market))
        except ApiError as error:
            if error.code != "not_halted":
                raise
        self.counts["halts"] += 1

    async def _once(
        self, node: int, holder: str, note: str, ask: Callable[[], Awaitable[object]]
    ) -> None:
        """Ask until the ledger has a line with this note."""
        while True:
            try:
                await ask()
                return
            except ApiError as error:
                # A node knows those that are here, or that it has a position with: it may have to wait for
                # the answer that makes one.
                if error.code not in ("no_answer", "internal_error", "unknown_node"):
                    raise
            except ClientError:
                pass
            await asyncio.sleep(RETRY)
            if not await self._knows(node, holder):
                continue
            lines = await self.insist(partial(self.clients[node].postings, holder, limit=1000))
            if any(line.reference == note for line in lines):
                return

    async def _knows(self, node: int, holder: str) -> bool:
        """True if the node has such a holder in its ledger, or can have."""
        try:
            await self.insist(partial(self.clients[node].postings, holder, limit=1))
        except ApiError as error:
            if error.code != "unknown_node":
                raise
            return False
        return True

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer; what is asked may happen twice."""
        while True:
            try:
                return await ask()
            except ApiError as error:
                if error.code not in ("no_answer", "internal_error"):
                    raise
            except ClientError:
                pass
            await asyncio.sleep(RETRY)
