"""Each message of a peer is charged what a real node spends on it."""

from __future__ import annotations

import pytest

from p2p.mesh.message_budget import CHECK_US
from tests.benchmarks.bench_costs import KINDS, check_us, measured

MOST = 1.5  # cost to charge
IN_CI = ("reachability", "take that fills", "relayed take of a new key")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "names", [IN_CI, pytest.param(None, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_no_message_costs_more_than_one_and_a_half_times_its_charge(
    names: tuple[str, ...] | None,
) -> None:
    kinds = [kind for kind in KINDS if names is None or kind.name in names]
    speed = CHECK_US / check_us()
    costs = measured(kinds)
    assert len(costs) == len(kinds)
    charged = {n: (c.us * speed, c.charge) for n, c in costs.items() if c.charge is not None}
    over = {n: found for n, found in charged.items() if found[0] > MOST * found[1]}
    assert not over, over
