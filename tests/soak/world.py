"""A soak: nodes, accounts, bots, faults; then quiet, and the judgement."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.views.account_views import AccountRequest
from tests.integration.processes import NodeProcess
from tests.soak import bots as habits
from tests.soak.api_bitfinex_rest import BitfinexRestApi
from tests.soak.api_bitfinex_socket import BitfinexSocketApi
from tests.soak.api_native import NativeApi
from tests.soak.bots import Api, Bot
from tests.soak.faults import Faults
from tests.soak.judge import Judge
from tests.soak.network import Mode, Network
from tests.soak.operators import Operators
from tests.soak.report import Report
from tests.soak.told import Record

# By bot: which API, which habit. Twenty and then again from the start.
CAST: Final = (
    *(("native", "make"), ("bitfinex-rest", "make"), ("bitfinex-ws", "make")),
    *(("native", "take"), ("bitfinex-rest", "take"), ("bitfinex-ws", "take")),
    *(("native", "trigger"), ("bitfinex-rest", "trigger"), ("bitfinex-ws", "trigger")),
    *(("native", "lurk"), ("bitfinex-rest", "lurk"), ("native", "die"), ("bitfinex-ws", "die")),
    *(("native", "expire"), ("bitfinex-rest", "expire"), ("native", "spend")),
    *(("bitfinex-ws", "make"), ("native", "make"), ("bitfinex-rest", "take")),
    ("bitfinex-ws", "take"),
)
MONEY: Final = {"USD": "400000", "BTC": "10", "ETH": "150", "TEST": "20000"}
POOR: Final = {"USD": "2000", "BTC": "0.05", "ETH": "1", "TEST": "100"}
PATIENCE: Final = 60.0  # seconds in which all is answered once there are no more faults
LONGEST: Final = 12.0  # seconds of one fault: longer than a lease
PAUSE: Final = 0.12  # seconds, mean, between two acts of a bot


@dataclass
class Plan:
    """Settings of one soak."""

    directory: Path
    seconds: float
    seed: int
    nodes: int = 5
    bots: int = 20
    intensity: float = 1.0
    pause: float = PAUSE
    mode: Mode = "p2p"


@dataclass
class Soak:
    """`tell` gets a line for each event that is worth one."""

    plan: Plan
    tell: Callable[[str], None]
    report: Report = field(init=False)
    bots: list[Bot] = field(default_factory=list)
    phase: str = "starting"
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        plan = self.plan
        self.report = Report(plan.seed, plan.mode, plan.nodes, plan.bots)
        rng = random.Random(plan.seed)
        self._rngs = [random.Random(rng.random()) for _ in range(plan.bots + 2)]
        self.network = Network(plan.directory, plan.nodes, plan.mode)
        self.nodes = self.network.nodes
        self.faults: Faults | None = None
        self.homes: list[int] = []  # by bot: its node

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    async def run(self) -> Report:
        """Whatever happens, no process is left when this returns."""
        operators: Operators | None = None
        try:
            await self.network.start()
            operators = Operators(self.nodes, self._rngs[-1], self.tell)
            operators.open()
            await self._hire(operators)
            self.phase = "storm"
            await self._storm(operators)
            self.phase = "judging"
            await Judge(self, operators).run()
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            self.report.failures.append(f"the soak could not go on ({self.phase}):\n{trace}")
        finally:
            self.phase = "ending"
            for bot in self.bots:
                await bot.api.close()
            if operators is not None:
                await operators.close()
            await self.network.close()
        return self.report

    async def _hire(self, operators: Operators) -> None:
        numbers = range(self.plan.bots)
        self.homes = [number % self.plan.nodes for number in numbers]
        self.bots = await asyncio.gather(*(self._hired(number, operators) for number in numbers))
        for bot in self.bots:
            await bot.api.open()

    async def _hired(self, number: int, operators: Operators) -> Bot:
        kind, habit = CAST[number % len(CAST)]
        home = self.homes[number]
        node, client = self.nodes[home], operators.clients[home]
        where = (node.api_url, node.trust)
        name = f"b{number + 1}-{habit}"
        await client.create_account(AccountRequest(name=name))
        for asset, amount in (POOR if habit == "spend" else MONEY).items():
            await operators.deposit(home, name, asset, amount)
        record = Record(name)
        key = await client.create_key(name)
        api: Api
        if kind == "native":
            api = NativeApi(*where, node.node_id, key.key, key.secret, record)
        else:
            rest = BitfinexRestApi(*where, key.key, key.secret, record)
            api = rest
            if kind == "bitfinex-ws":
                own = await client.create_key(name)
                dead_man = habit == "die"
                api = BitfinexSocketApi(
                    *(*where, own.key, own.secret, record, rest), dead_man=dead_man
                )
        return Bot(
            api,
            record,
            self._rngs[number],
            getattr(habits, habit),
            lambda: self.now,
            self.plan.pause,
            self._calm_since,
        )

    def _calm_since(self, moment: float) -> bool:
        return self.faults is None or self.faults.calm_since(moment)

    async def _storm(self, operators: Operators) -> None:
        plan, network = self.plan, self.network
        longest = min(LONGEST, max(3.0, plan.seconds / 12))
        faults = Faults(
            *(network.nodes, network.links, network.grape),
            *(self._rngs[-2], self.tell, longest, plan.intensity),
        )
        self.faults = faults
        self.report.memory_start = self.memory()
        began = self.now
        calm, stop = asyncio.Event(), asyncio.Event()
        accounts = [
            (home, bot.record.name) for home, bot in zip(self.homes, self.bots, strict=True)
        ]
        async with asyncio.TaskGroup() as tasks:
            acting = [tasks.create_task(bot.run(stop), name=bot.record.name) for bot in self.bots]
            acting.append(tasks.create_task(operators.run(stop, accounts), name="the operators"))
            watching = tasks.create_task(faults.watch())
            hands = tasks.create_task(faults.run(calm))
            # The last tenth is without faults: what was cut off catches up under load.
            await asyncio.sleep(plan.seconds * 0.9)
            calm.set()
            await hands
            await asyncio.sleep(max(0.0, began + plan.seconds - self.now))
            stop.set()
            _, late = await asyncio.wait(acting, timeout=PATIENCE)
            for task in late:
                self.report.failures.append(f"{task.get_name()} got no answer in {PATIENCE:g} s")
            for task in (watching, *late):
                task.cancel()
        self.report.stormed = self.now - began
        self.report.faults = faults.counts
        self.report.operator = operators.counts
        self.report.failures += faults.failures
        self.report.memory_end = self.memory()

    def memory(self) -> list[float]:
        """Resident MB of each node that runs."""
        return [resident(node) for node in self.nodes if node.running]

    def progress(self) -> str:
        """One line."""
        orders = sum(len(bot.record.orders) for bot in self.bots)
        fills = sum(len(bot.record.fills) for bot in self.bots)
        retries = sum(bot.retries for bot in self.bots)
        bad = sum(len(bot.record.faults) for bot in self.bots)
        up = sum(node.running for node in self.nodes)
        kinds: Counter[str] = self.faults.counts if self.faults is not None else Counter()
        left = max(0.0, self.plan.seconds - self.now)
        return (
            f"{self.now:5.0f} s  {self.phase} ({left:.0f} s of the storm left): {up} nodes up, {orders} orders, {fills} fills told, "
            f"{retries} retries, {kinds.total()} faults, {bad} contradictions"
        )


def resident(node: NodeProcess) -> float:
    """MB of memory that a node's process has; 0 where the system does not say."""
    assert node.process is not None
    try:
        text = Path(f"/proc/{node.process.pid}/status").read_text("ascii")
    except OSError:
        return 0.0
    line = next((each for each in text.splitlines() if each.startswith("VmRSS")), "VmRSS: 0 kB")
    return int(line.split()[1]) / 1024
