"""Budget of first contacts that strangers cause: by host, by teller and in all."""

from __future__ import annotations

import random

import pytest

from p2p.addresses.address import OPERATOR, Address, PeerFound
from p2p.addresses.address_book import AddressBook
from p2p.addresses.dial_choice import DialChoice
from p2p.addresses.reconnect import Reconnect
from p2p.addresses.tip_budget import IN_ALL, PER_HOST, PER_NEAR_HOST, PER_TELLER, TipBudget
from p2p.base.network_group import network_group
from p2p.base.reach import Reach

CASES = {
    "many ports of one host": (lambda n: (f"9.{n}.0.1", "50.1.0.1", 3100 + n), PER_HOST),
    "many addresses of an IPv6 /64": (
        lambda n: (f"9.{n}.0.1", f"2a00::{n + 1:x}", 13_000),
        PER_HOST,
    ),
    "many ports of this machine": (lambda n: ("127.0.0.1", "127.0.0.1", 30_000 + n), PER_NEAR_HOST),
    "many hosts, named by one network": (
        lambda n: (f"9.9.{n}.1", f"50.{n}.0.1", 13_000),
        PER_TELLER,
    ),
    "many hosts, named by many networks": (lambda n: (f"9.{n}.0.1", f"50.{n}.0.1", 13_000), IN_ALL),
}


def tip(teller: str, host: str, port: int, source: str = "exchange") -> Address:
    address = Address(host, port, None, source)
    address.teller = network_group(teller)
    return address


@pytest.mark.parametrize("case", CASES)
def test_dials_without_an_answer_are_bounded_a_minute(case: str) -> None:
    make, bound = CASES[case]
    tips = TipBudget()
    addresses = [tip(*make(n)) for n in range(200)]
    minutes = [
        sum(tips.take(address, at + n * 0.3) for n, address in enumerate(addresses))
        for at in (0.0, 60.0, 120.0)
    ]
    assert minutes[0] <= 2 * bound
    assert minutes[1] == pytest.approx(bound, abs=1.0)
    assert minutes[2] == pytest.approx(bound, abs=1.0)
    late = addresses[-1]
    at = tips.ready_at(late, 180.0)
    assert tips.take(late, at + 0.001)


def test_dials_that_reach_a_node_and_those_of_the_operator_cost_nothing() -> None:
    tips = TipBudget()
    for n in range(500):
        real = tip("127.0.0.1", "127.0.0.1", 30_000 + n)
        assert tips.take(real, 0.0)
        tips.ended(real, 0.0, answered=True)
        assert tips.take(tip("", "50.1.0.1", 3000 + n, random.Random(n).choice(OPERATOR)), 0.0)
    assert sum(tips.take(tip("a", "127.0.0.1", 5000 + n), 0.0) for n in range(50)) == PER_NEAR_HOST


@pytest.mark.parametrize("host", ["50.1.0.1", "127.0.0.1"])
def test_a_target_that_does_not_answer_is_dialled_once_in_half_a_minute(host: str) -> None:
    rng, tips = random.Random(1), TipBudget()
    book = AddressBook("z" * 32, Reconnect(30.0))
    dials: list[float] = []
    for tick in range(1500):
        now = tick * 0.1
        for port in range(13_000, 13_004):
            found = PeerFound(
                host, port, None, "exchange", f"{tick}", via_address=host, by=Reach.PUBLIC
            )
            book.add(found, now)
        choice = DialChoice(book, ready_at=tips.ready_at)
        for address in choice.candidates(now, rng, connected=(), busy=(), limit=8):
            if tips.take(address, now):
                dials.append(now)
                tips.ended(address, now, answered=False)
                book.failed(address, now, rng, "no answer")
    assert 1 <= sum(at < 25.0 for at in dials) <= 4  # of four ports
    assert len(dials) <= 4 * 3
