from __future__ import annotations

import pytest

from p2p.peers.reputation import PeerFacts, Standing, reputation


@pytest.mark.parametrize(
    ("facts", "standing", "reason"),
    [
        (PeerFacts(True), "ordinary", ""),
        (PeerFacts(True, news=9), "ordinary", ""),
        (PeerFacts(True, news=1200), "useful", "delivered 1,200 batches first"),
        (PeerFacts(True, requests_answered=1), "useful", "answered 1 service call"),
        (PeerFacts(True, rtt=1.25), "slow", "round trip of 1.2 s"),
        (PeerFacts(True, degraded="breaker open"), "slow", "breaker open"),
        (PeerFacts(True, dropped=3), "abusive", "3 messages beyond its budget"),
        (PeerFacts(True, invalid=1), "abusive", "1 invalid message"),
        (PeerFacts(False, ban="too many"), "abusive", "banned: too many"),
        (PeerFacts(True, fraud=True), "abusive", "signed two events under one number"),
        (PeerFacts(False, failures=2), "ordinary", ""),
        (
            PeerFacts(False, failures=3, last_error="no route to host"),
            "unreachable",
            "3 dials failed in a row, the last: no route to host",
        ),
        (PeerFacts(True, failures=9), "ordinary", ""),
    ],
)
def test_one_fact_gives_its_standing(facts: PeerFacts, standing: Standing, reason: str) -> None:
    found = reputation(facts)
    assert found.standing == standing
    assert found.reasons == ((reason,) if reason else ())


def test_the_worst_fact_counts_and_the_others_are_still_reported() -> None:
    found = reputation(PeerFacts(True, news=50, rtt=2.0, invalid=2, failures=4))
    assert found.standing == "abusive"
    assert found.reasons == (
        "2 invalid messages",
        "round trip of 2.0 s",
        "delivered 50 batches first",
    )
