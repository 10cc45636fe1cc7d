"""Each misbehaviour of the simulation against real nodes: honest links stay, honest orders are filled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest
from processes import NodeProcess, Nodes, eventually
from real_attacker import RealAttacker

from tests.simulation.dishonest.attacker import NETWORK
from tests.simulation.dishonest.misbehaviours import (
    CATALOGUE,
    EarlyCheckpoints,
    HalfOpen,
    Misbehaviour,
    OrderFlood,
    Unconnected,
)

IN_CI: Final = (EarlyCheckpoints, OrderFlood, Unconnected)
FILLS: Final = 12  # during an attack
SLOWEST: Final = 5.0  # s for an honest order, on a machine that the attacker shares
MARKET: Final = "BTC-USD"


def fill_time(a: NodeProcess, b: NodeProcess, price: int) -> float:
    """Seconds from an order of one node to its fill on the other."""
    began = time.monotonic()
    a.sell("0.1", price, market=MARKET)
    eventually(lambda: str(price) in b.asks(MARKET))
    bought = b.buy("0.1", price, market=MARKET)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    return time.monotonic() - began


def memory(node: NodeProcess) -> int:
    """Resident memory in bytes."""
    assert node.process is not None
    return int(Path(f"/proc/{node.process.pid}/statm").read_text("ascii").split()[1]) * 4096


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in IN_CI else pytest.mark.long, id=kind.__name__)
        for kind in CATALOGUE
        if kind is not HalfOpen  # the links of a process send heartbeats
    ],
)
def test_honest_nodes_trade_on_beside(nodes: Nodes, kind: type[Misbehaviour]) -> None:
    a, b = nodes.pair(P2P_NETWORK=NETWORK)
    a.buy("0.1", 15_000, market=MARKET)  # prices are held against the book, if there is one
    a.sell("0.1", 30_000, market=MARKET)
    calm = sorted(fill_time(a, b, 20_000 + n) for n in range(5))
    before = memory(a), memory(b)
    with RealAttacker(kind, [a, b], "1") as attacker:
        attacked = []
        for n in range(FILLS):
            attacked.append(fill_time(a, b, 21_000 + n))
            time.sleep(0.25)
        assert b.node_id in a.linked()
        assert a.node_id in b.linked()
    assert sum(attacker.sent.values()) > 0
    assert max(attacked) < SLOWEST
    after = sorted(fill_time(a, b, 22_000 + n) for n in range(5))
    assert after[2] < max(5 * calm[2], 0.5)
    assert "Traceback" not in a.log + b.log
    grown = [memory(node) - first for node, first in zip((a, b), before, strict=True)]
    assert max(grown) < 64 << 20, grown
    print(
        f"{kind.__name__}: median s to a fill {calm[2]:.3f} before, {sorted(attacked)[FILLS // 2]:.3f} "
        f"(most {max(attacked):.3f}) during {attacker.sent}, {after[2]:.3f} after; "
        f"memory {[round(g / 1e6, 1) for g in grown]} MB; links ended {attacker.ended[:2]}"
    )
