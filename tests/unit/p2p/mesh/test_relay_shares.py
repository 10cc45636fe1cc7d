"""Fair shares of a relay's rate, in virtual time."""

from __future__ import annotations

from collections import Counter

import pytest

from p2p.mesh.relay_shares import (
    LEAST_QUEUE,
    MAX_PAIRS,
    OVERHEAD,
    PAIRS_OF_PEER,
    RESERVED,
    RelayShares,
)

RATE = 1_000_000
SIZE = 10_000 - OVERHEAD


def carried(
    shares: RelayShares[str], wanted: dict[str, int], seconds: float, start: float = 0.0
) -> Counter[str]:
    """Bytes that get through for pairs that each send so many bytes a second, in small messages."""
    through: Counter[str] = Counter()
    owed = dict.fromkeys(wanted, 0.0)
    step = 0.01
    for tick in range(int(seconds / step)):
        now = start + tick * step
        for name, rate in wanted.items():
            owed[name] += rate * step
            while owed[name] >= SIZE:
                owed[name] -= SIZE
                shares.offer(now, name, f"to {name}", name, SIZE, name)
        for name in shares.due(now):
            through[name] += SIZE
    return through


def test_a_pair_that_sends_more_than_its_share_leaves_the_others_theirs() -> None:
    through = carried(RelayShares(RATE), {"greedy": 10 * RATE, "feed": RATE // 3}, 20.0)
    assert through["feed"] == pytest.approx(RATE / 3 * 20, rel=0.02)
    assert through["greedy"] == pytest.approx(RATE * 20 * 2 / 3, rel=0.06)


def test_greedy_pairs_get_equal_shares_and_use_what_others_leave() -> None:
    wanted = {"quiet": RATE // 20} | {f"greedy {n}": RATE for n in range(4)}
    through = carried(RelayShares(RATE), wanted, 20.0)
    each = (RATE - RATE / 20) / 4 * 20
    for number in range(4):
        assert through[f"greedy {number}"] == pytest.approx(each, rel=0.1)
    assert through["quiet"] == pytest.approx(RATE / 20 * 20, rel=0.05)


def test_both_directions_are_one_pair() -> None:
    shares: RelayShares[int] = RelayShares(RATE)
    shares.offer(0.0, "a", "b", "a", 1, 1)
    shares.offer(0.0, "b", "a", "b", 1, 2)
    assert shares.due(0.0) == [1, 2]
    [pair] = shares.active(0.0)
    assert (pair.messages, pair.bytes, pair.via) == (2, 2 * (OVERHEAD + 1), "a")


def test_waiting_messages_are_bounded_and_refused_with_the_share() -> None:
    shares: RelayShares[int] = RelayShares(RATE)
    refusals = [shares.offer(0.0, "a", "b", "a", SIZE, n) for n in range(1000)]
    refused = [refusal for refusal in refusals if refusal is not None]
    assert refusals[:200] == [None] * 200  # two seconds' worth
    assert len(refused) == 800
    assert refused[0].kind == "share"
    assert "1000000 bytes a second" in refused[0].reason
    assert shares.refused["share"] == 800
    assert shares.offer(0.0, "c", "d", "c", SIZE, 0) is None


def test_a_message_longer_than_any_share_passes_alone() -> None:
    shares: RelayShares[int] = RelayShares(1000)
    shares.offer(0.0, "a", "b", "a", 5 * LEAST_QUEUE, 1)
    assert shares.due(0.0) == [1]
    shares.offer(0.0, "c", "d", "c", 10, 2)
    assert shares.due(0.0) == []
    at = shares.next_deadline()
    assert at == pytest.approx(5 * LEAST_QUEUE / 1000, rel=0.1)
    assert at is not None
    assert shares.due(at) == [2]


def test_reservations_are_limited_for_each_peer_and_for_all_and_end_when_idle() -> None:
    shares: RelayShares[int] = RelayShares(RATE)
    for peer in range(MAX_PAIRS // PAIRS_OF_PEER):
        for number in range(PAIRS_OF_PEER):
            both_ways(shares, 1.0, f"{peer}/{number}", f"{peer}")
        refusal = shares.offer(1.0, f"{peer}/more", "z", f"{peer}", 1, 0)
        assert refusal is not None
        assert refusal.kind == "pairs"
    assert shares.of_peer("0") == PAIRS_OF_PEER
    shares.forget_peer("0")
    assert shares.offer(1.0, "x", "z", "x", 1, 0) is None
    shares.due(1.0)
    assert shares.offer(1.0 + RESERVED, "y", "z", "y", 1, 0) is None
    assert [(p.one, p.other) for p in shares.active(1.0 + RESERVED)] == [("y", "z")]


def both_ways(shares: RelayShares[int], now: float, node: str, via: str) -> None:
    assert shares.offer(now, node, "z", via, 1, 0) is None
    assert shares.offer(now, "z", node, "z", 1, 0) is None


GREEDY = {
    "five links of one address": (["11.1.0.0/16"] * 5, False),
    "five links of this machine": ([""] * 5, False),
    "five networks": ([f"11.{n}.0.0/16" for n in range(5)], False),
    "five links of one network, and answers": (["11.1.0.0/16"] * 5, True),
    "five networks, and answers": ([f"11.{n}.0.0/16" for n in range(5)], True),
}


@pytest.mark.parametrize("attack", GREEDY)
def test_places_that_cost_nothing_give_way_to_an_honest_pair_and_it_keeps_its_own(
    attack: str,
) -> None:
    groups, answers = GREEDY[attack]
    shares: RelayShares[int] = RelayShares(RATE)
    for n, group in enumerate(groups):
        shares.link_up(f"bad{n}", group)
    shares.link_up("good", "31.7.0.0/16" if groups[0] else "")
    for n in range(1280):  # in a minute
        if n == 1100:
            both_ways(shares, n * 0.047, "honest", "good")
        sender = f"{n}"
        if shares.offer(n * 0.047, sender, "y", f"bad{n % 5}", 300, 0) is None and answers:
            shares.offer(n * 0.047, "y", sender, "y", 300, 0)
        shares.due(n * 0.047)
    held = shares.active(60.2)
    assert len(held) > 900
    assert [pair.via for pair in held if "honest" in (pair.one, pair.other)] == ["good"]
    assert shares.offer(60.2, "second", "z", "good", 1, 0) is None


def test_equal_peers_keep_their_places() -> None:
    shares: RelayShares[int] = RelayShares(RATE)
    for n in range(MAX_PAIRS):
        both_ways(shares, 1.0, f"{n}", f"peer {n}")
    refusal = shares.offer(1.0, "x", "z", "x", 1, 0)
    assert refusal is not None
    assert f"{MAX_PAIRS} pairs" in refusal.reason


def test_without_a_rate_nothing_is_relayed() -> None:
    shares: RelayShares[int] = RelayShares(0)
    refusal = shares.offer(0.0, "a", "b", "a", 1, 0)
    assert refusal is not None
    assert (refusal.kind, shares.active(0.0)) == ("off", [])
    assert "P2P_RELAY_RATE=0" in refusal.reason
