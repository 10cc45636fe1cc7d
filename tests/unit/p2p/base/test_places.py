"""Slots of a port: who gives way to whom."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.base.listener import Handshakes
from p2p.base.places import Places, Rank, address_group, within_files

HERE = "127.0.0.1"
STRANGER, KNOWN, LOCAL, OPERATOR = Rank


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_addresses_of_one_client_are_one_group(address: str, group: str | None) -> None:
    assert address_group(address) == group


def far(number: int) -> str:
    return f"{number + 1}.2.3.4"  # each of a network of its own


def test_an_address_and_a_network_have_a_share_and_this_machine_has_all() -> None:
    places: Places[str] = Places(20, 3, 5)
    assert [places.enter(f"a{n}", "9.9.9.9") for n in range(4)] == [None, None, None, "a0"]
    assert [places.enter(f"b{n}", "9.9.1.1") for n in range(3)] == [None, None, "a1"]
    assert [places.enter(f"here{n}", HERE) for n in range(12)] == [None] * 12
    for name in ("a2", "a3", "b0", "b1", "b2"):
        places.work(name)
    assert places.enter("refused", "9.9.2.2") == "refused"
    places.leave("b1")
    places.leave("b1")  # twice is once
    assert places.enter("b3", "9.9.2.2") is None
    assert len(places) == 5 + 12


@pytest.mark.parametrize(
    ("inside", "newcomer", "goes"),
    [
        ("s s s s", STRANGER, 0),  # who has waited longest
        ("S s S S", STRANGER, 1),  # of those that wait
        ("S S S S", STRANGER, None),
        ("k l o S", STRANGER, None),  # strangers displace strangers alone
        ("l k o k", STRANGER, None),
        ("k s S o", LOCAL, 1),  # a stranger that waits before one at work
        ("k S S o", LOCAL, 1),  # a stranger at work before all others
        ("k l l o", LOCAL, 1),  # its own kind before a lower rank
        ("K k o L", LOCAL, 1),
        ("K L o K", LOCAL, 0),
        ("L o o L", LOCAL, None),
        ("k l L K", KNOWN, 0),
        ("K l L K", KNOWN, None),
        ("L o K L", OPERATOR, 1),
        ("L O K L", OPERATOR, 2),
    ],
)
def test_a_full_port_makes_room_by_rank(inside: str, newcomer: Rank, goes: int | None) -> None:
    """A letter is a rank, and a capital one is at work."""
    places: Places[int] = Places(4, 2)
    ranks = {"s": STRANGER, "k": KNOWN, "l": LOCAL, "o": OPERATOR}
    for who, letter in enumerate(inside.split()):
        places.enter(who, HERE if letter in "lL" else far(who))
        places.rise(who, ranks[letter.lower()])
        if letter.isupper():
            places.work(who)
    assert places.enter(9, HERE if newcomer is LOCAL else far(9), newcomer) == (
        9 if goes is None else goes
    )
    assert len(places) == 4


def test_an_address_with_many_at_work_gives_way_to_one_with_fewer() -> None:
    places: Places[int] = Places(6, 4)
    for who, host in enumerate((1, 1, 1, 2, 3, 3)):
        places.enter(who, far(host))
        places.work(who)
    assert places.enter(6, far(4)) == 2  # the latest of the largest
    places.work(6)
    assert places.enter(7, far(4)) == 7  # no address has two more
    assert places.enter(8, far(5)) == 1
    places.work(8)
    assert places.enter(9, far(6)) == 5
    places.work(9)
    places.wait(3)
    assert places.enter(10, far(7)) == 3


STEPS = st.sampled_from(["enter", "work", "wait", "leave", "rise"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 11), st.sampled_from(list(Rank)))))
def test_slots_are_bounded_and_strangers_displace_strangers_alone(
    steps: list[tuple[str, int, Rank]],
) -> None:
    places: Places[int] = Places(5, 2, 3)
    rank: dict[int, Rank] = {}
    hosts = {who: HERE if who % 4 == 0 else f"9.9.9.{who % 4}" for who in range(12)}
    for step, who, risen in steps:
        if step == "enter" and who not in rank:
            goes = places.enter(who, hosts[who])
            own = LOCAL if hosts[who] == HERE else STRANGER
            if goes is None or goes == who:
                assert goes is None or len(rank) == 5 or own is STRANGER
            else:
                assert rank[goes] <= own
                assert (
                    own is STRANGER
                    or rank[goes] is LOCAL
                    or STRANGER not in rank.values()
                    or (rank[goes] is STRANGER)
                )
                del rank[goes]
            if goes != who:
                rank[who] = own
        elif step == "rise" and who in rank:
            places.rise(who, risen)
            rank[who] = max(rank[who], risen)
        elif step == "leave":
            places.leave(who)
            rank.pop(who, None)
        elif step == "work":
            places.work(who)
        elif step == "wait":
            places.wait(who)
        assert sorted(places.all()) == sorted(rank)
        assert len(places) <= 5
        for host in set(hosts.values()) - {HERE}:
            assert sum(hosts[each] == host for each in rank) <= 2


def test_handshakes_of_an_address_are_few_a_second_and_those_of_all_bounded() -> None:
    handshakes = Handshakes()
    assert all(handshakes.admit(0.0, HERE) for _ in range(5_000))
    admitted = sum(handshakes.admit(0.0, "192.0.2.1") for _ in range(5_000))
    assert admitted == 50 + 500
    assert [handshakes.admit(0.0, "192.0.2.2") for _ in range(51)] == [True] * 50 + [False]
    assert sum(handshakes.admit(1.0, "192.0.2.1") for _ in range(5_000)) == 5 + 100


def test_a_part_of_the_files_of_the_process_is_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, allowed in ((100, 50), (10_000, 1024), (1, 1), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert within_files(1024, 2) == allowed
