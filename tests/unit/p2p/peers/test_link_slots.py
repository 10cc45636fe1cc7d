"""Link slots: tables of decisions about newcomers and evictions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.base.errors import Code
from p2p.base.network_group import is_local, network_group
from p2p.peers.link_slots import (
    REST,
    TRIAL,
    USEFUL_FOR,
    LinkRecord,
    SlotLimits,
    choose_evicted,
    decide_in_share,
    decide_slot,
    outbound_reach,
    reserved_slots,
)

KEY = b"secret of a node"
LIMITS = SlotLimits(max_peers=16, per_address=4, per_network=100)


def link(name: str, address: str, *, outbound: bool = False, at: float = 0.0, **rest) -> LinkRecord:
    return LinkRecord(name, address, outbound, opened_at=at, **rest)


def flood(count: int, network: str = "11.1", *, at: float = 100.0) -> list[LinkRecord]:
    """Inbound links from addresses of one /16."""
    return [link(f"bad{n}", f"{network}.{n // 200}.{n % 200 + 1}", at=at + n) for n in range(count)]


@pytest.mark.parametrize(
    ("host", "group", "local"),
    [
        ("11.2.3.4", "11.2.0.0/16", False),
        ("::ffff:11.2.3.4", "11.2.0.0/16", False),
        ("2a01:4f8:1:2::3", "2a01:4f8::/32", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("192.168.1.2", "192.168.1.2", True),
        ("100.64.3.4", "100.64.3.4", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("::1", "::1", True),
        ("example.org", "example.org", False),
    ],
)
def test_addresses_have_their_network_group(host: str, group: str, local: bool):
    assert (network_group(host), is_local(host)) == (group, local)


@pytest.mark.parametrize(
    ("maximum", "reserved"), [(1, 0), (7, 0), (8, 2), (16, 4), (50, 8), (1000, 8)]
)
def test_slots_reserved_for_outbound_links(maximum: int, reserved: int):
    assert reserved_slots(maximum) == reserved


def test_inbound_links_leave_the_reserve_free():
    links = flood(12)
    decision = decide_slot(link("new", "11.1.9.9"), links, LIMITS, KEY)
    assert decision.refusal is not None
    assert decision.refusal.code is Code.FULL
    assert "MAX_PEERS=16" in decision.refusal.reason
    assert decide_slot(link("me", "12.0.0.1", outbound=True), links, LIMITS, KEY).refusal is None
    outbound = [link(f"o{n}", f"2{n}.0.0.1", outbound=True) for n in range(4)]
    assert decide_slot(link("new", "11.1.9.9"), flood(11) + outbound, LIMITS, KEY).refusal is None


@pytest.mark.parametrize(
    ("limits", "address", "count", "named"),
    [
        (SlotLimits(per_address=4), "11.1.0.1", 4, "INBOUND_PER_ADDRESS"),
        (SlotLimits(per_address=0, per_network=12), "11.1.0.1", 12, "INBOUND_PER_NETWORK"),
        (SlotLimits(per_address_local=3), "127.0.0.1", 3, "INBOUND_PER_ADDRESS_LOCAL"),
    ],
)
def test_shares_of_an_address_and_of_a_network(limits, address, count, named):
    links = [link(f"n{n}", address) for n in range(count)]
    refusal = decide_slot(link("new", address), links, limits, KEY).refusal
    assert refusal is not None
    assert named in refusal.reason
    assert decide_slot(link("new", address), links[1:], limits, KEY).refusal is None
    privileged = LinkRecord("pinned", address, False, privileged=True)
    assert decide_slot(privileged, links, limits, KEY).refusal is None
    assert decide_slot(link("new", "198.18.0.1"), links, limits, KEY).refusal is None


def test_a_peer_of_another_network_replaces_a_link_of_the_flood_and_the_flood_its_own_alone():
    limits = SlotLimits(max_peers=50, per_address=0, per_network=0)
    links = flood(42)
    newcomer = decide_slot(link("honest", "12.5.0.1", at=500.0), links, limits, KEY)
    assert newcomer.refusal is None
    assert newcomer.evict == "bad41"  # the youngest of the largest group
    after = [each for each in links if each.node_id != newcomer.evict]
    after.append(link("honest", "12.5.0.1", at=500.0))
    for n in range(100):
        again = decide_slot(link(f"more{n}", f"11.1.7.{n + 1}", at=600.0), after, limits, KEY)
        assert again.evict is not None
        assert again.evict.startswith("bad")


@pytest.mark.parametrize(
    ("newcomer", "places"),
    [
        ("127.0.0.1", ["127.0.0.1"] * 42),
        ("192.168.1.9", [f"192.168.1.{n}" for n in range(100, 142)]),
        ("fd00::9", [f"fd00::{n + 100}" for n in range(42)]),
        ("13.5.0.1", [f"{n + 20}.1.0.1" for n in range(42)]),  # each in a network of its own
        ("11.1.0.1", ["11.1.0.1"] * 4),  # the share of an address
        ("11.1.0.1", [f"11.1.0.{n + 2}" for n in range(12)]),  # of a network
    ],
)
def test_idle_links_give_way_to_a_newcomer_one_at_a_time(newcomer: str, places: list[str]):
    limits = SlotLimits()
    idle = [link(f"idle{n}", address, at=float(n)) for n, address in enumerate(places)]
    now = len(places) + TRIAL
    first = decide_slot(link("new", newcomer, at=now), idle, limits, KEY)
    assert first.refusal is None
    assert first.evict is not None
    young = [link(each.node_id, each.address, at=now - 1.0) for each in idle]
    assert decide_slot(link("new", newcomer, at=now), young, limits, KEY).refusal is not None
    rested = link("new", newcomer, at=now, gave_way_at=now - REST + 1.0)
    assert decide_slot(rested, idle, limits, KEY).refusal is not None
    others = [each for each in idle if each.node_id != first.evict]
    after = [*others, link("new", newcomer, at=now)]
    second = decide_slot(link("next", newcomer, at=now + 1.0), after, limits, KEY)
    assert second.evict != "new"


def test_useful_links_of_other_networks_never_give_way_to_one_that_is_tried():
    useful = [link(f"u{n}", f"{n + 20}.1.0.1", at=float(n), useful_at=100.0) for n in range(42)]
    assert decide_slot(link("new", "13.5.0.1", at=200.0), useful, SlotLimits(), KEY).refusal
    later = link("new", "13.5.0.1", at=100.0 + USEFUL_FOR)
    assert decide_slot(later, useful, SlotLimits(), KEY).refusal is None


def test_in_the_share_of_a_kind_the_operators_link_has_its_place_and_idle_ones_give_way():
    share = [link(f"s{n}", f"{n + 20}.1.0.1", at=float(n), useful_at=50.0) for n in range(12)]
    stranger, now = link("new", "13.5.0.1", at=60.0), 50.0 + USEFUL_FOR
    assert decide_in_share(stranger, share, KEY).refusal is not None
    assert decide_in_share(link("new", "13.5.0.1", at=now), share, KEY).evict is not None
    friend = LinkRecord("friend", "13.5.0.1", True, privileged=True, opened_at=60.0)
    assert decide_in_share(friend, share, KEY).evict == "s11"


def test_links_of_the_lan_give_way_to_the_operators_alone():
    lan = [link(f"lan{n}", f"192.168.1.{n}", outbound=True, lan=True) for n in range(50)]
    for other in (link("new", "192.168.1.99"), link("m", "192.168.1.98", outbound=True, lan=True)):
        assert decide_slot(other, lan, SlotLimits(), KEY).refusal is not None
    friend = LinkRecord("friend", "11.1.0.9", True, privileged=True)
    assert decide_slot(friend, lan, SlotLimits(), KEY).evict is not None
    found = link("found", "192.168.1.9", outbound=True, lan=True)
    assert decide_slot(found, flood(50), SlotLimits(), KEY).evict is not None


def test_a_flood_from_four_networks_cannot_evict_honest_links_either():
    limits = SlotLimits(max_peers=50, per_address=0, per_network=0)
    bad = [each for g in range(4) for each in flood(10, f"11.{g}", at=100.0 + 10 * g)]
    honest = [link(f"good{n}", f"3{n}.0.0.1", at=1000.0) for n in range(2)]
    decision = decide_slot(link("x", "11.0.9.9", at=2000.0), bad + honest, limits, KEY)
    assert decision.evict is None


def test_links_that_were_hard_to_earn_are_protected():
    useful = [link(f"useful{n}", "11.1.0.1", at=500.0, useful_at=900.0) for n in range(4)]
    quick = [link(f"quick{n}", "11.1.0.1", at=500.0, rtt=0.001) for n in range(8)]
    old = [link(f"old{n}", "11.1.0.1", at=float(n)) for n in range(10)]
    young = [link(f"young{n}", "11.1.0.1", at=600.0 + n) for n in range(8)]
    links = [*useful, *quick, *old, *young]
    for _ in range(8):
        evicted = choose_evicted(links, KEY)
        assert evicted is not None
        assert evicted.node_id.startswith("young")
        links.remove(evicted)


def test_few_links_are_all_protected():
    assert choose_evicted(flood(1), KEY) is None
    assert choose_evicted([link("out", "11.1.0.1", outbound=True)], KEY) is None


@pytest.mark.parametrize("maximum", [1, 2, 7, 8, 50])
def test_a_dial_of_the_operator_always_gets_a_slot(maximum: int):
    limits = SlotLimits(max_peers=maximum)
    dial = LinkRecord("friend", "11.1.0.9", True, privileged=True, opened_at=1e6)
    for links in (
        flood(maximum),
        [link(f"o{n}", f"1{n}.0.0.1", outbound=True) for n in range(maximum)],
    ):
        decision = decide_slot(dial, links, limits, KEY)
        assert decision.refusal is None
        assert decision.evict is not None
    pinned = [LinkRecord(f"p{n}", "11.1.0.1", True, privileged=True) for n in range(maximum)]
    assert decide_slot(dial, pinned, limits, KEY).refusal is not None


def test_an_outbound_dial_below_the_reserve_replaces_an_inbound_link():
    limits = SlotLimits(max_peers=16)
    dial = link("friend", "12.0.0.1", outbound=True)
    assert decide_slot(dial, flood(16), limits, KEY).evict is not None
    outbound = [link(f"o{n}", f"2{n}.0.0.1", outbound=True) for n in range(4)]
    assert decide_slot(dial, flood(12) + outbound, limits, KEY).refusal is not None


def test_an_outbound_dial_into_a_new_network_replaces_an_inbound_link_while_few_are_reached():
    few = [link(f"o{n}", f"6{n % 2}.0.0.{n}", outbound=True) for n in range(6)]  # reserve: 4
    new = decide_slot(link("new", "34.10.0.1", outbound=True), flood(10) + few, LIMITS, KEY)
    assert new.refusal is None
    assert new.evict is not None
    assert new.evict.startswith("bad")
    known = decide_slot(link("new", "60.0.0.99", outbound=True), flood(10) + few, LIMITS, KEY)
    assert known.refusal is not None
    many = [link(f"o{n}", f"6{n}.0.0.1", outbound=True) for n in range(4)]
    enough = decide_slot(link("new", "34.10.0.1", outbound=True), flood(12) + many, LIMITS, KEY)
    assert enough.refusal is not None


def test_local_links_reach_a_network_each():
    assert outbound_reach(["60.1.2.3", "60.1.9.9", "61.1.2.3"]) == 2
    assert outbound_reach(["10.0.0.1", "10.0.0.1", "127.0.0.1"]) == 3


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 50), st.booleans()
        ),
        max_size=60,
    ),
    st.integers(1, 60),
    st.booleans(),
)
def test_slots_never_overflow_and_privileged_or_outbound_links_are_never_evicted_by_inbound(
    drawn, maximum, outbound
):
    limits = SlotLimits(max_peers=maximum, per_address=0, per_network=0)
    links = [
        LinkRecord(
            str(n), f"1{group}.0.0.1", out, privileged, float(at), 0.01 if measured else None
        )
        for n, (out, privileged, group, at, measured) in enumerate(drawn[:maximum])
    ]
    decision = decide_slot(link("new", "19.0.0.1", outbound=outbound), links, limits, KEY)
    if decision.refusal is None:
        after = [each for each in links if each.node_id != decision.evict]
        assert len(after) < maximum
    if decision.evict is not None:
        (evicted,) = (each for each in links if each.node_id == decision.evict)
        assert not evicted.privileged
        assert not evicted.outbound
