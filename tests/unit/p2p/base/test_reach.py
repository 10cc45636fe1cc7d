"""Reach of addresses: which of them are taken from whom."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.annexes.grenache.settings import BridgeSettings
from node.daemon.port_choice import wanted_ports
from p2p.base.host_port import normal_host
from p2p.base.reach import Reach, is_other_service, may_dial, may_name, reach, teller

LOOPBACK, LINK, PRIVATE = Reach.LOOPBACK, Reach.LINK, Reach.PRIVATE
SHARED, PUBLIC, NONE = Reach.SHARED, Reach.PUBLIC, Reach.NONE

EXAMPLES = {
    LOOPBACK: "127.0.0.1 127.8.0.1 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: localhost a.localhost",
    LINK: "169.254.3.4 fe80::1 fe80::1%eth0 192.0.0.2 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe",
    PRIVATE: "10.0.0.1 172.31.0.1 192.168.1.1 198.18.0.1 fd00::1 fc00::1 fec0::1 ::ffff:10.0.0.1 ::10.0.0.1"
    " 64:ff9b::10.0.0.1 64:ff9b:1::808:808 ::ffff:0:10.0.0.1 2002:a00:1::1 2a01:4f8::5efe:10.0.0.1"
    " 2001:0:a00:1::f7f7:f7f7 2001:0:808:808::f5ff:fffe",  # Teredo: server, client
    SHARED: "100.64.0.1 100.127.255.254 64:ff9b::6440:1",
    PUBLIC: "8.8.8.8 172.32.0.1 100.128.0.1 192.0.2.1 2a01:4f8::1 2001:db8::1 64:ff9b::808:808 2002:808:808::1"
    " 2001:0:808:808::f7f7:f7f7 example.org",
    NONE: "0.0.0.0 0.1.2.3 :: 224.0.0.251 ff02::fb 240.0.0.1 255.255.255.255 100::1 4000::1 64:ff9b:: 64:ff9b::e000:1",
}
TABLE = [(host, at) for at, hosts in EXAMPLES.items() for host in hosts.split()]


@pytest.mark.parametrize(("host", "at"), TABLE)
def test_addresses_have_their_reach(host: str, at: Reach) -> None:
    assert reach(host) is at


@pytest.mark.parametrize("by", [LOOPBACK, LINK, PRIVATE, SHARED, PUBLIC])
@pytest.mark.parametrize(("host", "at"), TABLE)
def test_nobody_names_addresses_of_a_narrower_reach_than_his_own(
    host: str, at: Reach, by: Reach
) -> None:
    assert may_name(by, host) is (at is not NONE and at >= by)


def test_an_unknown_teller_counts_as_public() -> None:
    assert {teller(who) for who in ("", "example.org", "localhost", "0.0.0.0", "8.8.8.8")} == {
        PUBLIC
    }
    assert teller("192.168.1.5") is PRIVATE


@pytest.mark.parametrize(
    "host", ["example.org", "localhost", "127.1", "0x7f000001", "2130706433", ""]
)
def test_names_of_strangers_are_not_dialled(host: str) -> None:
    assert not may_dial(LOOPBACK, host, 3000)


def test_ports_of_other_services_are_not_dialled_and_those_of_nodes_are() -> None:
    known = "22 25 53 80 110 143 443 1433 2049 2375 3306 3389 5432 5984 6000 6379 6667 9200 10250 11211 27017"
    assert all(is_other_service(int(port)) for port in known.split())
    assert all(is_other_service(port) for port in (-1, 0, 1, 1023, 65536))
    own = BridgeSettings()
    for first in (own.p2p_port, own.grenache_port, own.grape_dht_port):
        assert not any(is_other_service(port) for port in wanted_ports(first, True)[:-1])
    assert not any(is_other_service(port) for port in range(29_000, 65_536))


@given(st.ip_addresses())
def test_every_address_has_the_reach_of_its_canonical_spelling(ip) -> None:  # type: ignore[no-untyped-def]
    assert reach(str(ip)) is reach(normal_host(str(ip)))
    if ip.version == 4:
        mapped = socket.inet_ntop(socket.AF_INET6, bytes(10) + b"\xff\xff" + ip.packed)
        assert reach(mapped) is reach(str(ip))
        assert reach(f"64:ff9b::{ip}") is reach(str(ip))
