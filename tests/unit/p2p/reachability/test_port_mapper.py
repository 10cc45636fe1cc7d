"""Port mapping against routers of every temper, in virtual time; and any bytes as a router's answer."""

from __future__ import annotations

import ipaddress
import random
import struct
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.reachability import mapping_messages as wire
from p2p.reachability.port_mapper import LIFETIME, PortMapper

CLIENT = "192.168.1.2"
PORT = 3000
NONCE = b"0123456789ab"


@dataclass
class Router:
    """A router written from the two RFCs, with its own bytes: it shares no code with the client."""

    pcp: bool = True
    pmp: bool = True
    wan: str = "11.9.0.1"
    lifetime: int = 7200  # granted at most
    refuse: int = 0  # result code of every MAP
    offset: int = 0  # of the external port
    announce: int = 0  # result code of ANNOUNCE
    silent: bool = False
    started: float = 0.0
    mappings: dict[int, tuple[int, float]] = field(
        default_factory=dict
    )  # internal: external, until
    requests: list[tuple[float, str]] = field(default_factory=list)

    def restart(self, now: float) -> None:
        self.mappings.clear()
        self.started = now

    def answer(self, data: bytes, now: float) -> bytes | None:
        if self.silent:
            return None
        epoch = int(now - self.started)
        if data[0] == 2:
            return self._pcp(data, epoch, now)
        return self._pmp(data, epoch, now) if self.pmp else None

    def _pcp(self, data: bytes, epoch: int, now: float) -> bytes | None:
        if not self.pcp:
            # RFC 6886, section 9: version 0, operation of the request, unsupported version.
            return struct.pack("!BBHI", 0, 0x80 | data[1], 1, epoch) if self.pmp else None
        operation, lifetime = data[1], int.from_bytes(data[4:8], "big")
        assert data[8:24] == ipaddress.IPv6Address(f"::ffff:{CLIENT}").packed
        if operation == 0:
            assert len(data) == 24
            self.requests.append((now, "announce"))
            return struct.pack("!BBBBII12x", 2, 0x80, 0, self.announce, 0, epoch)
        assert len(data) == 60
        nonce, protocol, internal = data[24:36], data[36], int.from_bytes(data[40:42], "big")
        assert (operation, protocol, internal) == (1, 6, PORT)
        external = internal + self.offset
        granted = self._change(internal, external, lifetime, now)
        head = struct.pack("!BBBBII12x", 2, 0x81, 0, self.refuse, granted, epoch)
        host = ipaddress.IPv6Address(f"::ffff:{self.wan}").packed
        return head + nonce + struct.pack("!B3xHH", 6, internal, external) + host

    def _pmp(self, data: bytes, epoch: int, now: float) -> bytes:
        if data == b"\x00\x00":
            self.requests.append((now, "address"))
            return struct.pack("!BBHI", 0, 128, 0, epoch) + ipaddress.IPv4Address(self.wan).packed
        _, operation, _, internal, _, lifetime = struct.unpack("!BBHHHI", data)
        assert (operation, internal) == (2, PORT)
        external = internal + self.offset
        granted = self._change(internal, external, lifetime, now)
        return struct.pack("!BBHIHHI", 0, 130, self.refuse, epoch, internal, external, granted)

    def _change(self, internal: int, external: int, lifetime: int, now: float) -> int:
        self.requests.append((now, "map" if lifetime else "delete"))
        granted = min(lifetime, self.lifetime)
        if not self.refuse and granted:
            self.mappings[internal] = (external, now + granted)
        elif not lifetime:
            self.mappings.pop(internal, None)
        return granted


class Home:
    """A mapper and its router."""

    def __init__(self, router: Router | None = None) -> None:
        self.router = router or Router()
        self.mapper = PortMapper(CLIENT, PORT, NONCE, random.Random(1))
        self.now = 1000.0
        self.router.started = self.now - 500

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            datagram = self.mapper.due(self.now)
            if datagram is not None:
                answer = self.router.answer(datagram, self.now)
                if answer is not None:
                    self.mapper.received(answer, self.now)

    def count(self, kind: str) -> int:
        return sum(each == kind for _, each in self.router.requests)

    @property
    def external(self) -> tuple[str, int] | None:
        mapping = self.mapper.mapping
        return None if mapping is None else (mapping.host, mapping.port)


def test_pcp_maps_at_once() -> None:
    home = Home()
    home.run(1)
    assert home.external == ("11.9.0.1", PORT)
    assert home.mapper.describe() == "11.9.0.1:3000 by PCP"


@pytest.mark.parametrize("router", [Router(pcp=False), Router(pcp=False, offset=7)])
def test_a_router_that_knows_nat_pmp_alone(router: Router) -> None:
    home = Home(router)
    home.run(3)
    assert home.external == ("11.9.0.1", PORT + router.offset)
    assert home.mapper.describe().endswith("by NAT-PMP")


def test_a_router_that_refuses_by_pcp_may_grant_by_nat_pmp() -> None:
    home = Home(Router(refuse=2))
    home.run(2)
    assert home.external is None
    assert "not authorised" in home.mapper.describe()
    home.router.refuse = 0
    home.run(20)
    assert home.external == ("11.9.0.1", PORT)


def test_without_an_answer_both_are_tried_and_then_ever_more_rarely() -> None:
    home = Home(Router(silent=True))
    home.run(20)
    assert home.mapper.describe() == "the router answers neither PCP nor NAT-PMP"
    home.router.silent = False
    home.run(20)
    assert home.external == ("11.9.0.1", PORT)
    silent = Home(Router(silent=True))
    sent = 0
    for quarter in range(4 * 86_400):
        sent += silent.mapper.due(1000.0 + quarter / 4) is not None
    assert sent < 900  # a day


@pytest.mark.parametrize("pcp", [True, False])
def test_a_mapping_is_renewed_at_half_its_lifetime(pcp: bool) -> None:
    home = Home(Router(pcp=pcp, lifetime=600))
    home.run(3 * 3600)
    renewals = [at for at, kind in home.router.requests if kind == "map"]
    gaps = [after - before for before, after in pairwise(renewals)]
    assert max(gaps) <= 301
    assert min(gaps) >= 290
    assert home.router.mappings[PORT][1] > home.now


@pytest.mark.parametrize("pcp", [True, False])
def test_a_restart_of_the_router_is_noticed_by_its_epoch(pcp: bool) -> None:
    home = Home(Router(pcp=pcp))
    home.run(100)
    made = home.mapper.mapping.made if home.mapper.mapping else -1
    home.router.restart(home.now)
    assert PORT not in home.router.mappings
    home.run(25)
    assert home.router.mappings[PORT][0] == PORT
    assert home.mapper.mapping is not None
    assert home.mapper.mapping.made > made  # so that it is tested again


@pytest.mark.parametrize("pcp", [True, False])
@pytest.mark.parametrize("away", [5.0, 40.0, 200.0])
def test_a_router_that_is_away_for_a_while_maps_again_within_a_minute(
    pcp: bool, away: float
) -> None:
    home = Home(Router(pcp=pcp))
    home.run(100)
    home.router.silent = True
    home.run(away)
    home.router.silent = False
    home.router.restart(home.now)
    limit = 60 if away <= 40 else 330
    home.run(limit)
    assert PORT in home.router.mappings
    assert home.external == ("11.9.0.1", PORT)


def test_a_router_that_stays_away_ends_the_mapping_soon() -> None:
    home = Home()
    home.run(100)
    home.router.silent = True
    home.run(60)
    assert home.external is None


def test_a_second_restart_right_after_the_first_is_made_good_by_a_renewal() -> None:
    home = Home()
    home.router.restart(home.now)
    home.run(2)
    home.router.restart(home.now)
    home.run(40)
    assert PORT in home.router.mappings


def test_an_epoch_that_keeps_pace_changes_nothing() -> None:
    home = Home()
    home.run(3000)
    assert home.count("map") == 1
    assert home.count("announce") > 100


def test_the_external_address_follows_the_router() -> None:
    home = Home(Router(pcp=False))
    home.run(100)
    home.router.wan = "11.9.0.2"
    home.run(25)
    assert home.external == ("11.9.0.2", PORT)
    other = Home()
    other.run(100)
    other.router.wan = "11.9.0.2"
    other.router.restart(other.now)  # RFC 6887, section 8.5: a new address resets the epoch
    other.run(25)
    assert other.external == ("11.9.0.2", PORT)


def test_a_router_without_announce_is_watched_by_renewals() -> None:
    home = Home(Router(announce=4))
    home.run(100)
    assert home.external is not None
    home.router.restart(home.now)
    home.run(25)
    assert PORT in home.router.mappings


def test_a_lifetime_of_zero_is_no_grant() -> None:
    home = Home(Router(lifetime=0))
    home.run(5)
    assert home.external is None
    assert "no lifetime" in home.mapper.describe()


def test_a_very_short_lifetime_does_not_flood_the_router() -> None:
    home = Home(Router(lifetime=1))
    home.run(600)
    assert home.count("map") <= 600 / 15 + 1


def test_a_router_behind_another_nat_is_reported() -> None:
    home = Home(Router(wan="100.64.3.4"))
    home.run(1)
    assert home.mapper.describe().endswith("which is behind another NAT")


@pytest.mark.parametrize("pcp", [True, False])
def test_the_mapping_is_deleted_at_the_end(pcp: bool) -> None:
    home = Home(Router(pcp=pcp))
    home.run(3)
    datagram = home.mapper.delete()
    assert datagram is not None
    home.router.answer(datagram, home.now)
    assert home.router.mappings == {}
    assert home.mapper.delete() is None


def test_an_answer_to_another_request_is_ignored() -> None:
    mine = Home()
    foreign = PortMapper(CLIENT, PORT, b"x" * 12, random.Random(2))
    datagram = foreign.due(mine.now)
    assert datagram is not None
    answer = mine.router.answer(datagram, mine.now)
    assert answer is not None
    mine.mapper.due(mine.now)
    mine.mapper.received(answer, mine.now)
    assert mine.external is None


@given(st.lists(st.binary(max_size=1200), max_size=20), st.booleans())
def test_any_bytes_of_a_router_are_harmless(answers: list[bytes], mapped: bool) -> None:
    home = Home()
    home.run(1 if mapped else 0)
    for data in answers:
        home.mapper.due(home.now)
        home.mapper.received(data, home.now)
        home.now += 1
    assert home.mapper.mapping is None or home.mapper.mapping.port


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80))
def test_answers_with_a_valid_head_and_any_rest_are_read_or_refused(
    operation: int, result: int, rest: bytes
) -> None:
    for data in (
        bytes((2, operation, 0, result)) + rest,
        bytes((0, operation, 0, result)) + rest,
    ):
        for answer in (wire.read_pcp(data, NONCE), wire.read_pmp(data)):
            assert answer is None or 0 <= answer.external_port <= 65_535
        wire.wants_nat_pmp(data)


def test_requests_have_the_lengths_of_the_rfcs() -> None:
    assert len(wire.pcp_map(CLIENT, NONCE, PORT, ("", 0), LIFETIME)) == 60
    assert len(wire.pcp_announce(CLIENT)) == 24
    assert wire.pmp_address() == b"\0\0"
    assert len(wire.pmp_map(PORT, PORT, LIFETIME)) == 12


IPV6_CLIENT = "2a10::2"


def ipv6_mapper() -> PortMapper:
    return PortMapper(IPV6_CLIENT, PORT, NONCE, random.Random(1))


def ipv6_answer(request: bytes, result: int = 0) -> bytes:
    """Grant what a MAP request asks for: the same address and port."""
    assert request[8:24] == ipaddress.IPv6Address(IPV6_CLIENT).packed
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, 7200, 100)
    return head + request[24:36] + struct.pack("!B3xHH", 6, PORT, PORT) + request[8:24]


def test_an_ipv6_port_is_opened_by_pcp() -> None:
    mapper = ipv6_mapper()
    request = mapper.due(0.0)
    assert request is not None
    mapper.received(ipv6_answer(request), 0.1)
    assert mapper.mapping is not None
    assert (mapper.mapping.host, mapper.mapping.port) == (IPV6_CLIENT, PORT)
    assert mapper.describe() == "[2a10::2]:3000 by PCP"
    farewell = mapper.delete()
    assert farewell is not None
    assert farewell[4:8] == bytes(4)


@pytest.mark.parametrize("answer", ["none", "old", "version", "refusal"])
def test_nat_pmp_is_never_tried_for_ipv6(answer: str) -> None:
    mapper, now, versions = ipv6_mapper(), 0.0, set()
    while now < 200.0:
        request = mapper.due(now)
        if request is not None:
            versions.add(request[0])
            if answer == "old":
                mapper.received(struct.pack("!BBHI", 0, 0x81, 1, 5), now)
            elif answer == "version":
                mapper.received(ipv6_answer(request, wire.UNSUPPORTED_VERSION), now)
            elif answer == "refusal":
                mapper.received(ipv6_answer(request, 2), now)
        now += 0.25
    assert versions == {2}
    assert mapper.mapping is None
    assert mapper.problem
