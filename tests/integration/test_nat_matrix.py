"""Pairs of homes behind NATs of each kind: each has the best path that is possible for it, and trades over it.

Only in the full run (LONG_TESTS=1).
"""

from __future__ import annotations

import shutil
import time

import pytest
from nat_lab import LabNode, Nat, NatLab
from processes import eventually

from node.views.node_views import PeerView

pytestmark = [pytest.mark.namespaces, pytest.mark.long]

DIRECT_WITHIN = 15.0  # seconds after both are ready
needs_mapper = pytest.mark.skipif(
    shutil.which("miniupnpd") is None, reason="`miniupnpd` is not installed"
)


def seen(node: LabNode, other: LabNode) -> PeerView | None:
    return next((peer for peer in node.peers() if peer.node_id == other.node_id), None)


def path(node: LabNode, other: LabNode) -> str | None:
    found = seen(node, other)
    return None if found is None else found.path


def trade(seller: LabNode, buyer: LabNode) -> None:
    """Sell on one node what the other buys."""
    seller.sell(5, 10)
    eventually(buyer.asks, 20)
    bought = buyer.buy(5, 10)
    eventually(lambda: buyer.get_order(bought.id).status == "filled", 20)


def two_homes(
    lab: NatLab, public: LabNode, first: Nat, second: Nat, *, mapper: bool = False, delay: float = 0
) -> tuple[LabNode, LabNode]:
    homes = [
        lab.home(first, mapper=mapper, delay=delay),
        lab.home(second, delay=delay, PORT_MAPPING="false"),
    ]
    for home in homes:
        home.launch("--bootstrap", public.where)
    a, b = (home.ready() for home in homes)
    return a, b


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("full", "full", "direct"),
        ("full", "port", "direct"),
        ("full", "symmetric", "direct"),
        ("port", "port", "punched"),
        ("port", "symmetric", "relayed"),
        ("symmetric", "symmetric", "relayed"),
    ],
)
def test_each_pair_has_the_best_path_and_trades_over_it(
    lab: NatLab, first: Nat, second: Nat, wanted: str
) -> None:
    public = lab.public(1).start()
    a, b = two_homes(lab, public, first, second)
    begin = time.monotonic()
    eventually(lambda: path(a, b) == path(b, a) == wanted, 40)
    if wanted != "relayed":
        assert time.monotonic() - begin < DIRECT_WITHIN
        trade(a, b)
        assert public.stop() == 0
        trade(b, a)
        assert path(a, b) == path(b, a) == wanted
    else:
        # It stays so: nothing is punched while the two trade, and the reason is shown.
        for seller, buyer in ((a, b), (b, a)):
            trade(seller, buyer)
            found = seen(seller, buyer)
            assert found is not None
            assert found.path == "relayed"
            assert found.via == public.node_id
        table = a.cli("peers", json_output=False)
        assert "relayed by" in table
        eventually(
            lambda: any(
                "symmetric NAT" in ((found and found.last_error) or "")
                for found in (seen(a, b), seen(b, a))
            ),
            40,
        )
    assert not [node.name for node in lab.nodes if "Traceback" in node.log]


@needs_mapper
@pytest.mark.timeout(150)
@pytest.mark.parametrize("second", ["port", "symmetric"])
def test_a_mapped_home_is_dialled_by_each_other(lab: NatLab, second: Nat) -> None:
    public = lab.public(1).start()
    a, b = two_homes(lab, public, "port", second, mapper=True)
    eventually(lambda: path(a, b) == path(b, a) == "mapped", 40)
    found = seen(b, a)
    assert found is not None
    assert found.direction == "out"
    assert "mapped" in b.cli("peers", json_output=False)
    assert public.stop() == 0
    trade(a, b)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("round_trip", [0.02, 0.1, 0.3])
def test_homes_with_a_delay_between_them_punch(lab: NatLab, round_trip: float) -> None:
    """`round_trip`: seconds between the two homes, whose lines take a quarter of it one way each."""
    public = lab.public(1).start()
    a, b = two_homes(lab, public, "port", "port", delay=round_trip / 4)
    eventually(lambda: path(a, b) == path(b, a) == "punched", 40)
    assert public.stop() == 0
    trade(a, b)
    found = eventually(lambda: (peer := seen(a, b)) and peer.rtt_ms and peer)
    assert found.rtt_ms is not None
    assert found.rtt_ms >= round_trip * 1000
