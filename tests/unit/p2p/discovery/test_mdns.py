import asyncio

import pytest
from discovery_conformance import StartFailureConformance
from peer_network import node_id
from zeroconf import IPVersion

from p2p.base.identity import Identity
from p2p.base.own_addresses import own_addresses
from p2p.discovery import mdns
from p2p.discovery.mdns import MdnsStrategy, reach_of, usable

HOST = ["127.0.0.1", "::1", "192.0.2.7", "169.254.1.1", "2001:db8::7", "fe80::7"]


def fresh_id():
    return Identity.generate().node_id


def make(network, port=4001, node=None, host="127.0.0.1"):
    return MdnsStrategy(node or fresh_id(), network, host, port, "1.0.0")


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
def network():
    """A network name of its own: other test runs share the loopback interface."""
    return f"test-{fresh_id()[:8]}"


class TestMdnsConformance(StartFailureConformance):
    settle = 0.5

    @pytest.fixture(autouse=True)
    async def _neighbour(self, network):
        self.network = network
        neighbour = make(network, 4002)
        await neighbour.start(lambda peer: None)
        yield
        await neighbour.stop()

    def make(self):
        return make(self.network)

    def break_it(self, strategy, monkeypatch):
        def broken(**kwargs):
            raise OSError("broken for the test")

        monkeypatch.setattr(mdns, "AsyncZeroconf", broken)


async def test_two_nodes_on_loopback_find_each_other_and_see_each_other_leave(network):
    a, b = make(network, 4001), make(network, 4002)
    found_a, found_b = [], []
    await a.start(found_a.append)
    await b.start(found_b.append)
    try:
        await until(lambda: found_a and found_b)
        assert (found_a[0].host, found_a[0].port, found_a[0].node_id) == (
            "127.0.0.1",
            4002,
            b.node_id,
        )
        assert found_b[0].node_id == a.node_id
        assert a.present == [b.node_id]
        assert a.detail == "announcing and browsing on loopback only; 1 other node announced"
        await b.stop()
        await until(lambda: a.present == [])
        assert "0 other nodes" in a.detail
    finally:
        await a.stop()
        await b.stop()
    assert not any(peer.node_id == a.node_id for peer in found_a)


async def test_a_node_that_comes_back_on_another_port_is_found_there(network):
    a, b = make(network, 4001), make(network, 4002)
    found = []
    await a.start(found.append)
    await b.start(lambda peer: None)
    try:
        await until(lambda: [p.port for p in found] == [4002])
        await b.stop()
        b = make(network, 4003, node=b.node_id)
        await b.start(lambda peer: None)
        await until(lambda: found[-1].port == 4003)
        assert found[-1].node_id == b.node_id
    finally:
        await a.stop()
        await b.stop()


async def test_other_networks_and_malformed_announcements_are_not_seen(network):
    a = make(network, 4001)
    others = [make(f"{network}-other", 4002), make(network, 4003, node="not-a-node-id")]
    friend = make(network, 4004)
    found = []
    await a.start(found.append)
    for strategy in [*others, friend]:
        await strategy.start(lambda peer: None)
    try:
        await until(lambda: found)
        await asyncio.sleep(0.5)
        assert {p.port for p in found} == {4004}
        assert a.present == [friend.node_id]
    finally:
        for strategy in [a, *others, friend]:
            await strategy.stop()


async def test_a_second_node_under_the_same_id_fails_with_the_likely_cause(network):
    a = make(network, 4001)
    b = make(network, 4002, node=a.node_id)
    await a.start(lambda peer: None)
    await until(lambda: a._zeroconf.zeroconf.registry.async_get_service_infos())
    await b.start(lambda peer: None)
    try:
        await until(lambda: b.state == "failed")
        assert "its key may have been copied" in b.detail
    finally:
        await a.stop()
        await b.stop()


async def test_addresses_of_this_machine_that_change_are_announced_anew(network, monkeypatch):
    monkeypatch.setattr(mdns, "INTERFACE_CHECK", 0.05)
    a, b = make(network, 4001), make(network, 4002)
    found = []
    await a.start(found.append)
    await b.start(lambda peer: None)
    try:
        await until(lambda: found)
        await asyncio.sleep(1.5)
        b.host = "::1"  # as if the interface had got another address
        await until(lambda: found[-1].host == "::1")
    finally:
        await a.stop()
        await b.stop()


async def test_without_multicast_the_start_fails_with_a_helpful_sentence(network, monkeypatch):
    def refused(**kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(mdns, "AsyncZeroconf", refused)
    strategy = make(network)
    with pytest.raises(OSError, match="multicast DNS cannot be used on loopback only"):
        await strategy.start(lambda peer: None)
    assert strategy.state == "failed"
    assert "Operation not permitted" in strategy.detail


async def test_a_node_on_loopback_takes_no_addresses_of_the_lan(network):
    strategy = make(network)
    await strategy.start(lambda peer: None)
    try:
        assert strategy._dialable(["192.0.2.1", "127.0.0.1", "::1"]) == ["127.0.0.1", "::1"]
    finally:
        await strategy.stop()


@pytest.mark.parametrize(
    ("bind", "own", "taken"),
    [
        ("0.0.0.0", ["127.0.0.1", "192.168.1.5"], ["169.254.1.1", "10.0.0.9", "8.8.8.8"]),
        ("192.168.1.5", ["127.0.0.1", "192.168.1.5"], ["169.254.1.1", "10.0.0.9", "8.8.8.8"]),
        ("0.0.0.0", ["127.0.0.1"], ["127.0.0.1", "169.254.1.1", "10.0.0.9", "8.8.8.8"]),
    ],
)
def test_nothing_on_the_segment_names_addresses_of_this_machine(network, bind, own, taken):
    strategy = make(network)
    strategy._reach = reach_of(bind, own)
    named = ["127.0.0.1", "169.254.1.1", "10.0.0.9", "8.8.8.8"]
    assert strategy._dialable(named) == taken


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1"])
def test_a_loopback_bind_host_stays_on_loopback(host):
    reach = reach_of(host, HOST)
    assert reach.loopback
    assert reach.interfaces == ["127.0.0.1"]
    assert reach.addresses == [host]


def test_a_specific_bind_host_uses_its_interface_alone():
    reach = reach_of("192.0.2.7", HOST)
    assert (reach.interfaces, reach.addresses) == (["192.0.2.7"], ["192.0.2.7"])
    assert reach.ip_version is IPVersion.V4Only
    assert reach_of("2001:db8::7", HOST).ip_version is IPVersion.V6Only


def test_a_wildcard_bind_host_uses_all_interfaces_and_announces_addresses_to_dial():
    four, both = reach_of("0.0.0.0", HOST), reach_of("::", HOST)
    assert four.interfaces is both.interfaces is None
    assert four.addresses == ["192.0.2.7"]
    assert both.addresses == ["192.0.2.7", "2001:db8::7"]
    assert (four.ip_version, both.ip_version) == (IPVersion.V4Only, IPVersion.All)


def test_the_best_addresses_there_are_get_announced():
    assert usable(["127.0.0.1", "169.254.1.1"], (4,)) == ["169.254.1.1"]
    assert usable(["127.0.0.1"], (4,)) == ["127.0.0.1"]
    assert len(usable([f"192.0.2.{n}" for n in range(1, 50)], (4,))) == 8


def test_this_machines_addresses_are_plain_text():
    assert "127.0.0.1" in own_addresses()
    assert node_id("a") not in own_addresses()
