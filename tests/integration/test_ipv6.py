"""IPv6 as IPv4: a home whose router lets nothing in opens its port by PCP, and is dialled over IPv6 alone."""

from __future__ import annotations

import shutil

import pytest
from nat_lab import LabNode, NatLab, run_in
from netns import Namespace, _ip
from processes import eventually

pytestmark = pytest.mark.namespaces


def give_ipv6(node: LabNode, address: str) -> None:
    """Connect a public node to the internet over IPv6 as well."""
    _ip("-n", node.space, "addr", "add", f"{address}/16", "dev", "eth0", "nodad")
    _ip("-n", node.space, "route", "add", "2a20::/16", "via", "2a10:100::1")


def give_home_ipv6(node: LabNode, router: Namespace) -> None:
    """A routed prefix behind a router, whose firewall lets only answers in."""
    run_in(router, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    _ip("-n", router.name, "addr", "add", "2a10:100::1/16", "dev", "wan", "nodad")
    _ip("-n", router.name, "addr", "add", "2a20:1::1/64", "dev", "lan", "nodad")
    _ip("-n", node.space, "addr", "add", "2a20:1::2/64", "dev", "eth0", "nodad")
    _ip("-n", node.space, "route", "add", "default", "via", "2a20:1::1")


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="`miniupnpd` is not installed")
def test_a_firewalled_home_opens_its_port_by_pcp_and_is_dialled_over_ipv6(lab: NatLab) -> None:
    public, other = lab.public(1), lab.public(2)
    give_ipv6(public, "2a10:1::9")
    give_ipv6(other, "2a10:2::9")
    home = lab.home("port", mapper=True)
    assert home.router is not None
    assert home.mapper is not None
    give_home_ipv6(home, home.router)
    home.mapper.stop()
    home.mapper.allow_ipv6()
    home.mapper.start()
    public.start()
    home.start("--bootstrap", "[2a10:1::9]:3000")
    eventually(lambda: public.node_id in home.linked())
    found = eventually(
        lambda: (
            (view := home.status().reachability) and "[2a20:1::2]:3000" in view.addresses and view
        ),
        40,
        what=lambda: home.status().reachability,
    )
    assert "[2a20:1::2]:3000 by PCP" in found.mapping

    # A node that cannot be dialled, and knows only the public one, gets its address and dials it.
    closed = "table inet f { chain i { type filter hook input priority 0; tcp dport 3000 ct state new drop; }; }"
    run_in(Namespace(other.space, "", ""), "nft", "-f", "-", stdin=closed)
    other.start("--bootstrap", "[2a10:1::9]:3000")
    eventually(lambda: home.node_id in other.linked(), 40)
    (peer,) = [each for each in other.peers() if each.node_id == home.node_id]
    assert (peer.direction, peer.address, peer.path) == ("out", "2a20:1::2", "mapped")
    assert public.stop() == 0
    home.sell(5, 10)
    eventually(other.asks)
    bought = other.buy(5, 10)
    eventually(lambda: other.get_order(bought.id).status == "filled")
    assert home.stop() == 0
    assert "Traceback" not in home.log + other.log + public.log
