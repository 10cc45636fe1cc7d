"""Nodes at home, behind routers of each kind: where they stand, what they announce, and trading between them."""

from __future__ import annotations

import shutil

import pytest
from nat_lab import LabNode, NatLab
from processes import eventually

from node.views.node_views import PeerView

pytestmark = pytest.mark.namespaces


def state(node: LabNode) -> tuple[str, str | None, bool]:
    """State, NAT, and if the external address is confirmed."""
    found = node.status().reachability
    assert found is not None
    return found.state, found.nat, found.confirmed


def peer(node: LabNode, other: LabNode) -> PeerView:
    (found,) = [each for each in node.peers() if each.node_id == other.node_id]
    return found


@pytest.mark.timeout(150)
def test_homes_behind_each_kind_of_nat_know_where_they_stand_and_trade(lab: NatLab) -> None:
    public = [lab.public(number).launch() for number in (1, 2, 3)]
    for node in public:
        node.ready()
    bootstrap = [option for node in public for option in ("--bootstrap", node.where)]
    full, port, symmetric = homes = [
        lab.home(kind).launch(*bootstrap) for kind in ("full", "port", "symmetric")
    ]
    for node in homes:
        node.ready()
    expected = [
        (full, ("reachable", "full_cone", True)),
        (port, ("nat", "port_restricted", True)),
        (symmetric, ("nat", "symmetric", True)),
    ]
    for node, wanted in expected:
        eventually(lambda node=node, wanted=wanted: state(node) == wanted, 40, what=node.name)  # type: ignore[misc]

    # What is announced: the home that can be dialled is, the others are not.
    assert full.router is not None
    (address,) = (full.status().reachability or pytest.fail("no view")).addresses
    assert address == f"{full.router.address}:3000"
    eventually(lambda: port.node_id in full.linked() and symmetric.node_id in full.linked())
    assert peer(port, full).direction == "out"
    assert peer(public[0], full).reachable is True
    for node, kind in ((port, "port_restricted"), (symmetric, "symmetric")):
        eventually(lambda node=node: peer(public[0], node).reachable is False)  # type: ignore[misc]
        assert peer(public[0], node).nat == kind
        advice = (node.status().reachability or pytest.fail("no view")).advice
        assert "forward TCP port 3000" in advice

    # The two that cannot reach each other trade through a neighbour, and say so.
    found = eventually(
        lambda: [p for p in port.peers() if p.node_id == symmetric.node_id and p.path == "relayed"]
    )
    assert found[0].via in {node.node_id for node in [*public, full]}
    eventually(lambda: "symmetric NAT" in (peer(port, symmetric).last_error or ""))
    symmetric.sell(5, 10)
    eventually(port.asks)
    bought = port.buy(5, 10)
    eventually(lambda: port.get_order(bought.id).status == "filled")
    table = port.cli("peers", json_output=False)
    assert "relayed by" in table
    assert "behind a port-restricted NAT" in port.cli("status", json_output=False)
    assert not [node.name for node in lab.nodes if "Traceback" in node.log]


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="`miniupnpd` is not installed")
@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(False, id="once"),
        pytest.param(True, id="again after its restart", marks=pytest.mark.long),
    ],
)
def test_a_router_maps_the_port_and_forgets_it_at_the_end(lab: NatLab, restarts: bool) -> None:
    public = lab.public(1).start()
    other = lab.home("symmetric", PORT_MAPPING="false").launch("--bootstrap", public.where)
    home = lab.home("port", mapper=True)
    assert home.mapper is not None
    home.start("--bootstrap", public.where)
    other.ready()
    eventually(lambda: state(home)[0] == "mapped", 30)
    rules = home.mapper.rules
    assert "dport 3000 dnat" in rules
    # Reached from outside, by a node that cannot be reached itself.
    eventually(lambda: home.node_id in other.linked())
    assert peer(other, home).direction == "out"
    assert state(other)[0] != "mapped"

    if restarts:
        home.mapper.stop()
        assert "dnat" not in home.mapper.rules
        home.mapper.start()
        assert home.mapper is not None
        eventually(lambda: home.mapper and "dport 3000 dnat" in home.mapper.rules, 60)
        other.stop()
        other.start("--bootstrap", public.where)
        eventually(lambda: home.node_id in other.linked() and peer(other, home).direction == "out")

    assert home.stop() == 0
    eventually(lambda: home.mapper and "dnat" not in home.mapper.rules)
    assert "Traceback" not in home.log + other.log + public.log


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="`miniupnpd` is not installed")
def test_a_router_that_speaks_upnp_alone_maps_the_port(lab: NatLab) -> None:
    public = lab.public(1).start()
    home = lab.home("port", mapper=True, upnp=True)
    home.start("--bootstrap", public.where)
    assert home.mapper is not None
    eventually(lambda: home.mapper and "dport 3000 dnat" in home.mapper.rules, 40)
    # Before it was mapped the address was dialled in vain; a neighbour dials it once a minute.
    eventually(lambda: state(home)[0] == "mapped", 90)
    assert "mapped by the router" in home.cli("status", json_output=False)

    home.mapper.stop()
    home.mapper.start()
    eventually(lambda: home.mapper and "dport 3000 dnat" in home.mapper.rules, 90)
    assert home.stop() == 0
    assert "dnat" not in home.mapper.rules
    assert "Traceback" not in home.log + public.log


@pytest.mark.timeout(120)
def test_two_homes_punch_a_link_and_trade_on_when_the_relay_has_gone(lab: NatLab) -> None:
    public = lab.public(1).start()
    homes = [lab.home("port").launch("--bootstrap", public.where) for _ in (1, 2)]
    a, b = (node.ready() for node in homes)
    eventually(lambda: [p for p in a.peers() if p.node_id == b.node_id and p.path == "punched"], 40)
    assert peer(b, a).path == "punched"
    # Punched, not forwarded: neither can be dialled from outside, and only one of the two has accepted.
    assert {state(a)[0], state(b)[0]} == {"nat"}
    assert {peer(a, b).direction, peer(b, a).direction} == {"in", "out"}
    assert "punched" in a.cli("peers", json_output=False)

    a.sell(5, 10)
    eventually(b.asks)
    assert public.stop() == 0
    bought = b.buy(5, 10)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    a.sell(3, 11)
    eventually(lambda: b.asks() == {"11": "3"})
    assert a.linked() == {b.node_id}
    assert "Traceback" not in a.log + b.log + public.log
