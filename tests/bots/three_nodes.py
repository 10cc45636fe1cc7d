"""freqtrade and two market makers on three nodes, one of which is killed and restarted again and again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import cycle
from pathlib import Path

import requests
from freqtrade_bot import HERE, Freqtrade, account, balances, fills
from processes import NodeProcess, Nodes, eventually, see_each_other

DEPOSITS = {"USD": "500000", "BTC": "20"}
DOWN = 5.0  # seconds that a killed node is away
LIFTS = (4.0, 7.0)  # seconds between orders of each maker that take, which make candles
STOPPING = 60.0
POLL = 1.0
MUST = (  # happen, or nothing was shown
    *("closed positions", "fills of freqtrade", "profits equal to the ledger", "makers: placed"),
    *("makers: amended", "makers: checksums", "makers: trades by stream"),
)


@dataclass
class Maker:
    """A process of market_maker.py that trades for the account `maker` of a node."""

    node: NodeProcess
    directory: Path
    lift: float
    process: subprocess.Popen[bytes] | None = None

    @property
    def _state(self) -> Path:
        return self.directory / f"{self.node.name}-maker-state.json"

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.node.name}-maker.log"

    def start(self) -> None:
        key = account(self.node, "maker", **DEPOSITS)
        given = {
            **{"url": self.node.api_url, "key": key["key"], "secret": key["secret"]},
            **{"lift": self.lift, "state": str(self._state)},
        }
        configuration = self.directory / f"{self.node.name}-maker.json"
        configuration.write_text(json.dumps(given), "utf-8")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "market_maker.py", configuration], stdout=log, stderr=log
            )

    def check(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text("utf-8", "replace")[-3000:]

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOPPING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def compare(self) -> Counter[str]:
        """Compare its trades and position with the account. Returns what it did, counted.

        Raises:
            AssertionError: they differ.
        """
        assert self._state.exists(), self._log.read_text("utf-8", "replace")[-3000:]
        state = json.loads(self._state.read_text("utf-8"))
        held = balances(self.node, "maker")
        for asset, amount in state["position"].items():
            assert abs(Decimal(amount) - held[asset]) < Decimal("1e-8"), (
                f"{self.node.name}'s maker has {amount} {asset}, the account {held[asset]}"
            )
        assert state["missed"] == 0, f"{state['missed']} trades were seen by the last look only"
        found = fills(self.node, "maker")
        assert len(found) == len(state["trades"]), (len(found), len(state["trades"]))
        return Counter(state["counts"])


@dataclass
class Plan:
    program: Path
    directory: Path
    minutes: float
    kill: float  # seconds between kills; 0: none
    counts: Counter[str] = field(default_factory=Counter)


def run(plan: Plan) -> dict[str, int]:
    """Run all for so long, stop the bots, compare. Returns what was done, counted.

    Raises:
        AssertionError: a bot ended, or what one knows differs from the ledger.
    """
    nodes = Nodes(plan.directory)
    try:
        first = nodes.start("a")
        others = [nodes.start(name, bootstrap=first.p2p_address) for name in ("b", "c")]
        see_each_other(first, *others)
        makers = [
            Maker(node, plan.directory, lift)
            for node, lift in zip((first, others[1]), LIFTS, strict=True)
        ]
        bot = Freqtrade(plan.program, plan.directory, others[0], entries="market")
        try:
            for each in (*makers, bot):
                each.start()
            disturb(plan, nodes, [*makers, bot])
        finally:
            for each in (bot, *makers):
                each.stop()
        counts: Counter[str] = Counter()
        for maker in makers:
            counts += maker.compare()
        done = {"nodes killed": plan.counts["kills"], **bot.compare()}
        agree(nodes)
        done |= {f"makers: {name}": count for name, count in sorted(counts.items())}
        must = [*MUST, *(["nodes killed"] if 0 < plan.kill < plan.minutes * 60 else [])]
        missing = [name for name in must if not done.get(name)]
        assert not missing, f"not once: {', '.join(missing)}"
        return done
    finally:
        nodes.cleanup()


def disturb(plan: Plan, nodes: Nodes, bots: list[Maker | Freqtrade]) -> None:
    """Kill the nodes in turn until the time is over."""
    end = time.monotonic() + plan.minutes * 60
    victims = cycle(nodes.all)
    next_kill = time.monotonic() + plan.kill if plan.kill else end
    while time.monotonic() < end:
        for bot in bots:
            bot.check()
        if time.monotonic() >= next_kill:
            victim = next(victims)
            victim.kill9()
            time.sleep(DOWN)
            victim.restart()
            plan.counts["kills"] += 1
            next_kill += plan.kill
        time.sleep(POLL)


def agree(nodes: Nodes) -> None:
    """Both sides of each trade have it, and no money came or went but fees.

    Raises:
        AssertionError: a trade has one side only.
    """

    def sides() -> dict[str, Decimal]:
        found: dict[str, Decimal] = {}
        for node in nodes.all:
            for name in ("bot", "maker"):
                if name not in {each["name"] for each in accounts(node)}:
                    continue
                for fill in fills(node, name):
                    sign = 1 if fill["side"] == "buy" else -1
                    quantity = sign * Decimal(fill["quantity"])
                    found[fill["id"]] = found.get(fill["id"], Decimal(0)) + quantity
        return {trade: quantity for trade, quantity in found.items() if quantity}

    eventually(lambda: not sides(), what=lambda: f"both sides of {sides()}")


def accounts(node: NodeProcess) -> list[dict[str, str]]:
    found: list[dict[str, str]] = requests.get(f"{node.api_url}/v1/accounts", timeout=20).json()
    return found
