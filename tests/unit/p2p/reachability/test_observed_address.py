"""The vote on the external address, and the kind of NAT that follows from what peers see."""

from __future__ import annotations

import pytest

from p2p.reachability.nat_kind import NatVerdict, nat_kind
from p2p.reachability.observed_address import VOTE_KEPT, Observation, ObservedAddresses

HOME = ("192.168.1.2", 40_000)


def seen(
    by: str,
    host: str = "11.9.0.1",
    port: int = 40_000,
    *,
    observer: str = "",
    at: float = 0.0,
    local: tuple[str, int] = HOME,
) -> Observation:
    return Observation(observer or by, by, host, port, local, outbound=True, at=at)


def vote(*observations: Observation) -> ObservedAddresses:
    votes = ObservedAddresses()
    for each in observations:
        votes.add(each)
    return votes


def test_three_networks_confirm_an_address() -> None:
    votes = vote(seen("11.1.0.1"), seen("11.2.0.1"))
    two = votes.external(1.0)
    assert two is not None
    assert (two.host, two.confirmed, two.groups) == ("11.9.0.1", False, 2)
    votes.add(seen("11.3.0.1"))
    three = votes.external(1.0)
    assert three is not None
    assert (three.confirmed, three.groups, three.translated) == (True, 3, True)


def test_many_observers_of_one_network_are_one_vote() -> None:
    liars = [seen(f"11.1.0.{n}", "66.6.6.6", at=5.0) for n in range(1, 60)]
    votes = vote(*liars, seen("11.2.0.1"), seen("11.3.0.1"))
    external = votes.external(6.0)
    assert external is not None
    assert (external.host, external.groups) == ("11.9.0.1", 2)


def test_an_address_is_confirmed_only_by_a_majority() -> None:
    honest = [seen(f"11.{n}.0.1") for n in range(1, 4)]
    liars = [seen(f"12.{n}.0.1", f"66.6.{n}.6") for n in range(1, 5)]
    external = vote(*honest, *liars).external(0.0)
    assert external is not None
    assert (external.host, external.confirmed) == ("11.9.0.1", False)


def test_the_last_votes_decide_when_the_address_changes() -> None:
    votes = vote(*(seen(f"11.{n}.0.1") for n in range(1, 4)))
    for n in range(1, 4):
        votes.add(seen(f"11.{n}.0.1", "11.9.0.2", at=float(n)))
    external = votes.external(5.0)
    assert external is not None
    assert (external.host, external.confirmed) == ("11.9.0.2", True)


def test_a_vote_is_kept_for_two_minutes_after_its_link() -> None:
    votes = vote(seen("11.1.0.1", observer="a"))
    votes.link_lost("a", 1000.0)
    assert votes.external(1000.0 + VOTE_KEPT - 1) is not None
    assert votes.external(1000.0 + VOTE_KEPT) is None


@pytest.mark.parametrize("observer", ["192.168.1.7", "127.0.0.1", "10.1.2.3", "fe80::1"])
def test_peers_on_the_lan_have_no_vote(observer: str) -> None:
    assert not vote().add(seen(observer))


@pytest.mark.parametrize("host", ["", "home.example", "127.0.0.1", "0.0.0.0", "224.0.0.1"])
def test_addresses_that_cannot_be_public_are_no_votes(host: str) -> None:
    assert not vote().add(seen("11.1.0.1", host))


def test_ipv6_is_a_vote_of_its_own_with_one_vote_for_a_32() -> None:
    here = ("2a00:1::5", 3000)
    votes = vote(
        *(seen(f"2a01:db8:{n}::1", "2a00:1::5", local=here) for n in range(4)), seen("11.1.0.1")
    )
    six = votes.external(0.0, 6)
    assert six is not None
    assert (six.host, six.groups, six.translated) == ("2a00:1::5", 1, False)
    four = votes.external(0.0, 4)
    assert four is not None
    assert four.host == "11.9.0.1"


def kind(
    *,
    translated: bool = True,
    reachable: bool | None = False,
    ports: tuple[tuple[str, int], ...] = (),
    observations: tuple[Observation, ...] = (),
) -> NatVerdict:
    return nat_kind(
        translated=translated,
        reachable=reachable,
        mapped_ports=ports,
        listen_port=3000,
        observations=observations,
    )


SAME = (("11.1.0.1", 3000), ("11.2.0.1", 3000))
MOVED = (("11.1.0.1", 5000), ("11.2.0.1", 5000))
DIFFERENT = (("11.1.0.1", 5000), ("11.2.0.1", 6000))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (kind(translated=False), ("none", True)),
        (kind(reachable=True), ("full_cone", True)),
        (kind(ports=SAME), ("port_restricted", True)),
        (kind(ports=MOVED), ("port_restricted", True)),
        (kind(ports=DIFFERENT), ("symmetric", True)),
        (kind(ports=DIFFERENT, reachable=None), ("symmetric", True)),
        (kind(ports=SAME, reachable=None), ("unknown", False)),
        (kind(ports=SAME[:1]), ("port_restricted", False)),
        (kind(ports=DIFFERENT[:1]), ("symmetric", False)),
        (kind(observations=(seen("11.1.0.1"),)), ("port_restricted", False)),
        (kind(observations=(seen("11.1.0.1", port=7),)), ("symmetric", False)),
        (kind(observations=(seen("11.1.0.1", port=0),)), ("unknown", False)),
    ],
)
def test_votes_decide_the_kind_of_nat(verdict: NatVerdict, expected: tuple[str, bool]) -> None:
    assert (verdict.kind, verdict.confirmed) == expected
