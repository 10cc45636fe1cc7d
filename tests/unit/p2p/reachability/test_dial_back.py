"""Rules of the dial-back server: what it dials, for whom, and how often."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from p2p.reachability.dial_back import (
    ALL_BURST,
    PROOF_BYTES,
    PROOF_TIME,
    TARGET_INTERVAL,
    DialBackDecision,
    DialBackRules,
)

SEEN = "11.1.0.1"
VICTIM = "12.0.0.1"


def rules() -> DialBackRules:
    return DialBackRules(random.Random(1))


def pay(
    server: DialBackRules, requester: str, host: str, port: int, now: float
) -> DialBackDecision:
    """Request an address elsewhere, and upload what is demanded."""
    first = server.decide(requester, SEEN, host, port, 0, now)
    if first.action != "proof":
        return first
    return server.decide(requester, SEEN, host, port, first.proof, now)


def test_the_own_address_is_dialled_at_once() -> None:
    assert rules().decide("a", SEEN, SEEN, 3000, 0, 0.0) == DialBackDecision("dial")


def test_an_address_elsewhere_costs_an_upload_first() -> None:
    server = rules()
    demand = server.decide("a", SEEN, VICTIM, 3000, 0, 0.0)
    assert demand.action == "proof"
    assert PROOF_BYTES[0] <= demand.proof <= PROOF_BYTES[1]
    assert server.decide("a", SEEN, VICTIM, 3000, demand.proof - 1, 0.1).action == "proof"
    paid = server.decide("a", SEEN, VICTIM, 3000, demand.proof, 0.2)
    assert paid.action == "dial"
    assert 0 <= paid.delay <= 3


def test_an_upload_is_good_for_one_target_and_a_short_time() -> None:
    server = rules()
    demand = server.decide("a", SEEN, VICTIM, 3000, 0, 0.0)
    assert server.decide("a", SEEN, "12.0.0.2", 3000, demand.proof, 0.1).action == "proof"
    assert server.decide("b", SEEN, VICTIM, 3000, demand.proof, 0.1).action == "proof"
    later = server.decide("a", SEEN, "12.0.0.2", 3000, PROOF_BYTES[1], PROOF_TIME + 1)
    assert later.action == "proof"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("victim.example", 3000),
        ("127.0.0.1", 3000),
        ("192.168.1.9", 3000),
        ("10.0.0.9", 22),
        ("169.254.1.1", 80),
        ("fe80::1%1", 3000),
        ("224.0.0.1", 3000),
        ("0.0.0.0", 3000),
        (SEEN, 0),
        (SEEN, 65_536),
    ],
)
def test_forbidden_addresses_are_never_dialled_back(host: str, port: int) -> None:
    assert rules().decide("a", SEEN, host, port, PROOF_BYTES[1], 0.0).action == "refuse"


def test_a_private_address_is_dialled_for_the_peer_that_is_seen_there() -> None:
    assert rules().decide("a", "192.168.1.9", "192.168.1.9", 3000, 0, 0.0).action == "dial"


@pytest.mark.parametrize("seed", range(5))
def test_attackers_together_cannot_have_a_third_party_dialled_more_than_once_a_minute(
    seed: int,
) -> None:
    """A hundred requesters that upload all that is demanded, at any port, for an hour."""
    rng = random.Random(seed)
    server = DialBackRules(random.Random(seed))
    dials: list[float] = []
    now = 0.0
    while now < 3600.0:
        now += rng.expovariate(4.0)
        requester = f"attacker {rng.randrange(100)}"
        if pay(server, requester, VICTIM, rng.randrange(1, 65_536), now).action == "dial":
            dials.append(now)
    assert len(dials) > 30  # the attack does run
    gaps = [after - before for before, after in pairwise(dials)]
    assert min(gaps) >= TARGET_INTERVAL


def test_addresses_of_one_ipv6_network_are_one_target() -> None:
    server = rules()
    assert pay(server, "a", "2a00::1", 3000, 0.0).action == "dial"
    assert pay(server, "b", "2a00::2", 3000, 1.0).action == "refuse"


def test_one_address_is_dialled_once_a_minute_for_its_own_node_too() -> None:
    server = rules()
    assert server.decide("a", SEEN, SEEN, 3000, 0, 0.0).action == "dial"
    assert server.decide("a", SEEN, SEEN, 3000, 0, 59.0).action == "refuse"
    assert server.decide("a", SEEN, SEEN, 3001, 0, 59.0).action == "dial"
    assert server.decide("a", SEEN, SEEN, 3000, 0, 61.0).action == "dial"


def test_a_dial_for_its_own_node_counts_against_others() -> None:
    server = rules()
    assert server.decide("victim", VICTIM, VICTIM, 3000, 0, 0.0).action == "dial"
    assert pay(server, "a", VICTIM, 4000, 10.0).action == "refuse"


def test_one_requester_and_all_of_them_are_limited() -> None:
    server = rules()
    own = [server.decide("a", SEEN, SEEN, port, 0, 0.0).action for port in range(3001, 3020)]
    assert own.count("dial") == 6
    many = [
        server.decide(f"n{n}", host, host, 3000, 0, 0.0).action
        for n in range(1, 200)
        for host in [f"{20 + n}.2.0.1"]
    ]
    assert own.count("dial") + many.count("dial") == ALL_BURST


@pytest.mark.parametrize(
    ("attackers", "newcomers"),
    [
        ("11.2.0.1", "31.{n}.0.1"),  # of one address
        ("11.2.{n}.1", "31.{n}.0.1"),  # of one network
        ("2a00:1:2:3::{n:x}", "31.{n}.0.1"),
        ("{m}.2.0.{n}", "31.{n}.0.1"),  # of eight networks
        ("127.0.0.1", "192.168.1.{n}"),  # of this machine
    ],
)
def test_a_hundred_identities_of_few_networks_keep_no_newcomer_from_its_dial_back(
    attackers: str, newcomers: str
) -> None:
    server, refused = rules(), 0
    for n in range(120):
        for again in range(3):  # a second
            seen = attackers.format(n=n, m=11 + (n + again) % 8)
            server.decide(f"bad{n}", seen, seen, 3000 + again, 0, n + again / 3)
        seen = newcomers.format(n=n)
        refused += server.decide(f"good{n}", seen, seen, 3000, 0, n + 0.9).action != "dial"
    assert not refused


def test_what_others_had_dialled_is_not_held_against_the_node_itself() -> None:
    server = rules()
    assert pay(server, "a", VICTIM, 3000, 0.0).action == "dial"
    assert server.decide("victim", VICTIM, VICTIM, 3000, 0, 1.0).action == "dial"
