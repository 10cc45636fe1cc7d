"""Closing gaps: what is asked of whom, what is answered, and when there is silence."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Mail, Network, Owner

from exchange import claims as claims_module
from exchange import feed as feed_module
from exchange import follower as follower_module
from exchange import replication as replication_module
from exchange.claims import FIRST_SHARE, REQUEST_TIMEOUT, REQUEST_TIMEOUT_MAX, Standings
from exchange.events import BUY, GENESIS, Amended, Batch, Checkpoint, Closed, Opened
from exchange.feed import Feed, state_hash
from exchange.messages import Digest, FeedPart, FeedRequest, Head, unpack
from exchange.presence import Leases
from exchange.records import PutSnapshot
from exchange.replication import GRACE, Replicator

replace = msgspec.structs.replace
ME, A, B, OWNER = (Keys(i).node_id for i in (10, 11, 12, 1))


def opened(order: int, price: int = 100) -> Opened:
    return Opened(order, BUY, price, 5, 1000 + order)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every 4 events; 2 orders on a page."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    monkeypatch.setattr(feed_module, "PAGE_ORDERS", 2)


class Desk:
    """A replicator alone, with its feeds in a dict."""

    def __init__(self, *neighbours: str) -> None:
        self.feeds: dict[tuple[str, str], Feed] = {}
        self.it = Replicator(ME, self.feeds, lambda owner, market: market == M, random.Random(1))
        for node in neighbours:
            self.it.neighbour_up(0.0, node)
        self.it._next_digest = float("inf")  # digests on a timer are tested by themselves
        self.sent()

    def sent(self) -> list[tuple[str, Any]]:
        return [(s.to, unpack(s.type, s.payload)) for s in self.it.take_outgoing()]

    def ticked(self, now: float) -> list[tuple[str, Any]]:
        self.it.tick(now)
        return self.sent()

    def hold(self, owner: Owner, batches: list[Batch]) -> None:
        """This node's copy of the owner's feed."""
        replica = owner.replica()
        for batch in batches:
            replica.offer(batch)
        self.feeds[owner.id, M] = replica.feed


def request(after: int = 0, page: int = 0) -> FeedRequest:
    return FeedRequest(OWNER, M, after, page)


# Whom to ask


def test_a_claim_is_asked_about_after_the_grace_and_once() -> None:
    desk = Desk(A)
    desk.it.claimed(1.0, A, OWNER, M, 5)
    assert desk.it.behind == 1
    assert desk.ticked(1.0 + GRACE - 0.01) == []
    assert desk.ticked(1.0 + GRACE) == [(A, request())]
    assert desk.ticked(1.0 + GRACE + REQUEST_TIMEOUT - 0.01) == []


@pytest.mark.parametrize("number", [-5, 0, 3])
def test_a_claim_of_no_more_than_is_held_is_nothing(number: int) -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(i)) for i in (1, 2, 3)])
    desk.it.claimed(0.0, A, OWNER, M, number)
    assert desk.it.behind == 0


def test_a_claim_about_another_market_or_a_feed_at_fault_is_nothing() -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(1))])
    desk.feeds[owner.id, M].fault = "caught"
    desk.it.claimed(0.0, A, OWNER, M, 9)
    desk.it.claimed(0.0, A, B, "ETH-USD", 9)
    assert desk.it.behind == 0


def test_what_arrives_within_the_grace_is_not_asked_for() -> None:
    desk = Desk(A)
    desk.it.claimed(0.0, A, OWNER, M, 5)
    desk.it.advanced(0.1, OWNER, M, 5)
    assert desk.it.behind == 0
    assert desk.ticked(9.0) == []


def test_a_claim_above_what_arrived_stays() -> None:
    desk = Desk(A, B)
    desk.it.claimed(0.0, A, OWNER, M, 5)
    desk.it.claimed(0.0, B, OWNER, M, 6)
    desk.it.advanced(0.1, OWNER, M, 5)
    assert desk.ticked(9.0) == [(B, request())]


def test_an_advance_of_what_nobody_claims_is_nothing() -> None:
    desk = Desk()
    desk.it.advanced(0.0, OWNER, M, 5)
    assert desk.it.behind == 0


def test_on_silence_the_next_claimant_is_asked_then_the_owner_then_nobody() -> None:
    desk = Desk(A, B)
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.claimed(0.0, B, OWNER, M, 5, grace=0.0)
    asked = [(t / 10, *sent) for t in range(100) for sent in desk.ticked(t / 10)]
    assert [(t, to) for t, to, _ in asked] == [
        (0.0, A),
        (REQUEST_TIMEOUT, B),
        (2 * REQUEST_TIMEOUT, OWNER),
    ]
    assert desk.it.behind == 0
    desk.it.claimed(10.0, B, OWNER, M, 5, grace=0.0)
    assert desk.ticked(10.0) == [(B, request())]


def test_neighbours_are_asked_before_those_further_away() -> None:
    desk = Desk(B)
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.claimed(0.0, B, OWNER, M, 5, grace=0.0)
    assert desk.ticked(0.0) == [(B, request())]


def test_a_neighbour_that_is_gone_is_not_asked() -> None:
    desk = Desk(A, B)
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.claimed(0.0, B, OWNER, M, 5, grace=0.0)
    desk.it.neighbour_down(A)
    desk.it.neighbour_down("unknown")
    assert desk.ticked(0.0) == [(B, request())]


def test_nobody_asks_himself() -> None:
    desk = Desk()
    desk.it.claimed(0.0, A, ME, M, 5, grace=0.0)
    asked = [to for t in range(100) for to, _ in desk.ticked(t / 10)]
    assert asked == [A]


def test_a_sooner_claim_shortens_the_grace_but_does_not_repeat_a_request() -> None:
    desk = Desk(A, B)
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=1.0)
    desk.it.claimed(0.1, B, OWNER, M, 5, grace=0.0)
    assert len(desk.ticked(0.1)) == 1
    desk.it.claimed(0.2, B, OWNER, M, 6, grace=0.0)
    assert desk.ticked(0.2) == []


def test_what_is_given_up_is_not_asked_for() -> None:
    desk = Desk(A)
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.forget(OWNER, M)
    desk.it.forget(OWNER, M)
    assert desk.ticked(0.0) == []


def test_requests_under_way_are_bounded_and_a_timeout_frees_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_module, "MAX_ACTIVE", 3)
    desk = Desk(A)
    for seed in range(20, 27):
        desk.it.claimed(0.0, A, Keys(seed).node_id, M, 1, grace=0.0)
    assert [r.owner for _, r in desk.ticked(0.0)] == [Keys(s).node_id for s in (20, 21, 22)]
    assert desk.ticked(1.0) == []
    desk.it.advanced(1.0, Keys(20).node_id, M, 1)
    assert [r.owner for _, r in desk.ticked(1.0)] == [Keys(23).node_id]
    for seed in (27, 28):
        desk.it.claimed(1.0, B, Keys(seed).node_id, M, 1, grace=0.0)
    assert [to for to, _ in desk.ticked(REQUEST_TIMEOUT)] == [B, B]


# Who claims what does not exist


def fakes(count: int, first: int = 0) -> list[str]:
    """Ids that nobody has, or of whom nobody has heard."""
    return [f"node{n:028d}" for n in range(first, first + count)]


def claim_all(desk: Desk, now: float, node: str, owners: list[str]) -> None:
    for owner in owners:
        desk.it.claimed(now, node, owner, M, 1, grace=0.0)


def test_who_claims_feeds_that_do_not_exist_leaves_the_requests_of_others_alone() -> None:
    desk = Desk(A, B)
    real, late = fakes(20, first=5000), 0
    claim_all(desk, 0.0, A, fakes(4000))
    assert [to for to, _ in desk.ticked(0.0)] == [A] * FIRST_SHARE
    claim_all(desk, 0.0, B, real)
    held = 0
    for step in range(1, 30):
        now = step / 10
        asked = [r.owner for to, r in desk.ticked(now) if to == B]
        for owner in asked:
            desk.it.advanced(now, owner, M, 1)
        held += len(asked)
        late = late or (step if held == len(real) else 0)
    assert 0 < late <= 5


def test_a_silent_claimant_gets_ever_fewer_requests_at_once() -> None:
    desk = Desk(A)
    claim_all(desk, 0.0, A, fakes(200))
    sent = [len(desk.ticked(step / 10)) for step in range(1000)]
    rounds = [count for count in sent if count]
    assert rounds[:4] == [8, 4, 2, 1]
    assert set(rounds[4:]) == {1}
    assert sum(rounds) < 40


def test_who_does_not_hold_the_feed_says_so_and_the_owner_is_asked_at_once() -> None:
    """Presence comes through nodes that do not trade the market: they are thought to hold the feed."""
    desk, other = Desk(A), Desk(A)
    for step in range(20):
        now = float(step)
        desk.it.claimed(now, A, OWNER, M, 5, grace=0.0)
        assert desk.ticked(now) == [(A, request())]
        other.it.on_request(ME, request())
        ((_, negative),) = other.sent()
        assert desk.it.on_part(now + 0.1, A, negative) is None
        assert desk.ticked(now + 0.1) == [(OWNER, request())]
        desk.it.advanced(now + 0.2, OWNER, M, 5)
    assert desk.it.behind == 0


def test_the_owner_is_asked_in_the_end_though_its_claimant_was_ever_silent() -> None:
    """Found by the simulation: with the claimant's last place its claims went too, again and again."""
    desk = Desk(A)
    claim_all(desk, 0.0, A, fakes(50))
    for step in range(1000):  # down to one request at a time, and half a minute for each
        desk.ticked(step / 10)
    for owner in fakes(50):
        desk.it.forget(owner, M)
    desk.it.claimed(100.0, A, OWNER, M, 5, grace=0.0)
    asked = [to for step in range(400) for to, _ in desk.ticked(100.0 + step / 10)]
    assert asked == [A, OWNER]


def test_a_claimant_that_delivers_gets_more_requests_at_once() -> None:
    desk = Desk(A)
    owners = fakes(500)
    claim_all(desk, 0.0, A, owners)
    rounds = []
    now = 0.0
    while desk.it.behind:
        asked = [r.owner for _, r in desk.ticked(now)]
        rounds.append(len(asked))
        now += 0.05
        for name in asked:
            desk.it.advanced(now, name, M, 1)
    assert rounds[:4] == [8, 16, 32, 32]


def test_nodes_that_are_no_neighbours_share_one_share() -> None:
    desk = Desk(A)
    for stranger, owner in zip(fakes(50), fakes(50, first=100), strict=True):
        desk.it.claimed(0.0, stranger, owner, M, 1, grace=0.0)
    assert len(desk.ticked(0.0)) == FIRST_SHARE


def test_when_no_more_claims_are_remembered_who_claims_most_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_module, "MAX_CLAIMS", 100)
    desk = Desk(A, B)
    claim_all(desk, 0.0, A, fakes(1000))
    claim_all(desk, 0.0, B, fakes(1000, first=5000))
    assert desk.it.behind == 100
    brought = Counter(want.bringer for want in desk.it._wants.values())
    assert brought == {A: 50, B: 50}
    desk.it.forget(*next(iter(desk.it._wants)))
    assert desk.it.behind == 99


def test_a_long_way_is_waited_for_and_a_short_one_again_when_it_is_back() -> None:
    standings = Standings(most=32)
    assert standings.timeout(A) == REQUEST_TIMEOUT
    for _ in range(8):  # sent together, silent together: one doubling
        standings.silent(A, REQUEST_TIMEOUT)
    assert standings.timeout(A) == 2 * REQUEST_TIMEOUT
    for _ in range(8):
        standings.silent(A, standings.timeout(A))
    assert standings.timeout(A) == REQUEST_TIMEOUT_MAX
    standings.answered(A, 3.0)
    assert standings.timeout(A) == 6.0
    standings.answered(A, 0.1)
    assert standings.timeout(A) == REQUEST_TIMEOUT
    standings.answered(B, 0.1)
    assert standings.timeout(B) == REQUEST_TIMEOUT


def test_standings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "MAX_STANDINGS", 3)
    standings = Standings(most=32)
    for name in "abcd":
        standings.failed(name, 0.0, 1.0)
    assert [standings.share(name) for name in "abcd"] == [8, 4, 4, 4]


def test_feeds_that_others_make_us_think_of_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "MAX_CLAIMS", 2)
    desk = Desk(A)
    for seed in (20, 21, 22):
        desk.it.claimed(0.0, A, Keys(seed).node_id, M, 1)
    assert desk.it.behind == 2


# Answers that arrive


def part(owner: Owner, number: int, batches: list[Batch]) -> FeedPart:
    return FeedPart(owner.id, M, number, batches)


def test_an_answer_that_brings_a_part_is_followed_by_a_request_for_the_rest() -> None:
    desk, owner = Desk(A), Owner(1)
    batches = [owner.batch(opened(i)) for i in range(1, 6)]
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.ticked(0.0)
    desk.hold(owner, batches[:2])
    desk.it.advanced(0.1, OWNER, M, 2)
    assert desk.it.on_part(0.1, A, part(owner, 5, batches[:2])) is None
    assert desk.sent() == [(A, request(2))]


def test_an_answer_that_brings_nothing_is_not_asked_for_again() -> None:
    desk, owner = Desk(A, B), Owner(1)
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.claimed(0.0, B, OWNER, M, 5, grace=0.0)
    assert desk.ticked(0.0) == [(A, request())]
    desk.it.on_part(0.1, A, part(owner, 5, []))
    assert desk.ticked(0.1) == [(B, request())]  # at once, of another
    desk.it.on_part(0.2, B, part(owner, 5, []))
    assert desk.ticked(0.2) == []
    assert desk.it.behind == 0


def test_an_answer_that_nobody_asked_for_is_not_counted() -> None:
    desk, owner = Desk(A, B), Owner(1)
    desk.it.on_part(0.0, A, part(owner, 5, []))
    desk.it.claimed(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.claimed(0.0, B, OWNER, M, 5, grace=0.0)
    desk.ticked(0.0)
    desk.it.on_part(0.1, B, part(owner, 5, []))
    assert desk.ticked(0.2) == []
    assert desk.it.behind == 1


# Snapshots, page by page


def owner_with_snapshot() -> Owner:
    """Numbers 1 to 11, the snapshot at 5 with two pages (under the `checkpoints` fixture)."""
    owner = Owner(1)
    for i in range(1, 10):
        owner.batch(opened(i))
    assert owner.writer.feed.base == 5
    return owner


def answer(owner: Owner, asked: FeedRequest) -> FeedPart:
    """What a node that holds the owner's feed answers."""
    server = Desk()
    server.feeds[owner.id, M] = owner.writer.feed
    server.it.on_request(A, asked)
    ((_, found),) = server.sent()
    assert isinstance(found, FeedPart)
    return found


def asking(owner: Owner) -> Desk:
    desk = Desk(A, B)
    for node in (A, B):
        desk.it.claimed(0.0, node, owner.id, M, 11, grace=0.0)
    assert desk.ticked(0.0) == [(A, request())]
    return desk


def test_a_snapshot_comes_page_by_page(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    desk = asking(owner)
    assert desk.it.on_part(0.1, A, answer(owner, request())) is None
    assert desk.sent() == [(A, request(0, 1))]
    complete = desk.it.on_part(0.2, A, answer(owner, request(0, 1)))
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    assert complete == (snapshot.batch, snapshot.pages)
    desk.hold(owner, [])
    desk.feeds[owner.id, M].adopt(snapshot)
    assert desk.ticked(0.2) == [(A, request(5))]  # and what follows it


def false_pages(good: FeedPart) -> dict[str, FeedPart]:
    other = [b"\x00" * 32, *good.pages[1:]]
    return {
        "another page than asked": replace(good, page=1),
        "beyond the pages": replace(good, pages=[], page=0),
        "other orders": replace(good, orders=b"\x90"),
        "other hashes": replace(good, pages=other, orders=good.orders),
        "no checkpoint in the batch": replace(
            good,
            checkpoint=replace(good.checkpoint, events=[opened(1)]) if good.checkpoint else None,
        ),
    }


@pytest.mark.parametrize("which", list(false_pages(FeedPart("", "", 0, pages=[b"", b""]))))
def test_a_false_page_is_refused_and_another_node_is_asked(which: str, checkpoints: None) -> None:
    owner = owner_with_snapshot()
    desk = asking(owner)
    good = answer(owner, request())
    assert desk.it.on_part(0.1, A, false_pages(good)[which]) is None
    assert desk.ticked(0.1) == []
    assert desk.ticked(REQUEST_TIMEOUT) == [(B, request())]
    assert desk.it.on_part(2.1, B, good) is None
    assert desk.sent() == [(B, request(0, 1))]
    assert desk.it.on_part(2.2, B, answer(owner, request(0, 1))) is not None


def test_too_many_pages_are_refused(checkpoints: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "MAX_PAGES", 1)
    owner = owner_with_snapshot()
    desk = asking(owner)
    assert desk.it.on_part(0.1, A, answer(owner, request())) is None
    assert desk.sent() == []


def test_an_only_page_completes_a_snapshot(checkpoints: None) -> None:
    pages = [msgspec.msgpack.encode([(1, BUY, 100, 5, 1000)])]
    owner = Owner(1)
    batch = owner.lie(5, GENESIS, Checkpoint(state_hash(pages)))
    desk = asking(owner)
    hashes = [hashlib.sha256(page).digest() for page in pages]
    whole = FeedPart(OWNER, M, 5, checkpoint=batch, pages=hashes, orders=pages[0])
    assert desk.it.on_part(0.1, A, whole) == (batch, pages)


def test_a_snapshot_that_moves_in_the_middle_is_begun_anew(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    desk = asking(owner)
    desk.it.on_part(0.1, A, answer(owner, request()))
    for i in range(10, 14):
        owner.batch(opened(i))
    assert owner.writer.feed.base == 10
    assert desk.it.on_part(0.2, A, answer(owner, request(0, 1))) is None
    desk.sent()
    assert desk.ticked(0.2 + REQUEST_TIMEOUT) == [(B, request())]
    now, number = 3.0, 0
    while (complete := desk.it.on_part(now, B, answer(owner, request(0, number)))) is None:
        number += 1
        assert desk.sent() == [(B, request(0, number))]
    assert complete[0].last == 10


def test_pages_of_two_nodes_are_not_mixed(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    desk = asking(owner)
    desk.it.on_part(0.1, A, answer(owner, request()))
    desk.sent()
    assert desk.ticked(0.1 + REQUEST_TIMEOUT) == [(B, request(0, 0))]


def test_a_snapshot_that_is_not_later_is_no_progress(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    desk = Desk(A)
    desk.hold(owner, [])
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    desk.feeds[owner.id, M].adopt(snapshot)
    desk.it.claimed(0.0, A, OWNER, M, 11, grace=0.0)
    assert desk.ticked(0.0) == [(A, request(5))]
    for _ in range(3):
        assert desk.it.on_part(0.1, A, answer(owner, request(0))) is None
    assert [sent for t in range(1, 50) for sent in desk.ticked(t / 10)] == []
    assert desk.it.behind == 0


# Answering


def test_batches_are_served_from_a_border_as_far_as_they_are_held() -> None:
    desk, owner = Desk(A), Owner(1)
    batches = [owner.batch(opened(i)) for i in (1, 2, 3)]
    desk.feeds[owner.id, M] = owner.writer.feed
    desk.it.on_request(A, request(1))
    desk.it.on_request(B, request(3))
    assert desk.sent() == [(A, part(owner, 3, batches[1:])), (B, part(owner, 3, []))]


def test_one_answer_is_bounded_and_the_rest_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "PART_BYTES", 600)
    desk, owner = Desk(A), Owner(1)
    batches = [owner.batch(opened(i)) for i in range(1, 6)]
    desk.feeds[owner.id, M] = owner.writer.feed
    desk.it.on_request(A, request(0))
    assert desk.sent() == [(A, part(owner, 5, batches[:2]))]


@pytest.mark.parametrize("asked", [FeedRequest(A, M, 0), FeedRequest(OWNER, "ETH-USD", 0)])
def test_a_request_for_a_feed_that_is_not_held_is_answered_so(asked: FeedRequest) -> None:
    desk = Desk(A)
    desk.it.on_request(A, asked)
    assert desk.sent() == [(A, FeedPart(asked.owner, asked.market, 0))]


@pytest.mark.parametrize(
    "asked",
    [
        FeedRequest("nobody", M, 0),
        FeedRequest(OWNER, "m" * 81, 0),
        request(-1),
        request(0, -1),
        request(0, 2),
    ],
)
def test_a_request_that_makes_no_sense_is_not_answered(
    asked: FeedRequest, checkpoints: None
) -> None:
    desk = Desk(A)
    desk.feeds[OWNER, M] = owner_with_snapshot().writer.feed
    desk.it.on_request(A, asked)
    assert desk.sent() == []


# Digests


def test_equal_digests_are_silence() -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(1))])
    desk.it.on_digest(0.0, A, Digest(desk.it.summary()))
    desk.it.on_digest(0.0, A, Digest(desk.it.summary(), []))
    assert desk.sent() == []


def test_a_summary_that_differs_is_answered_with_heads() -> None:
    desk, owner = Desk(A), Owner(1)
    batch = owner.batch(opened(1))
    desk.hold(owner, [batch])
    desk.it.on_digest(0.0, A, Digest(b"other"))
    head = Head(OWNER, M, 1, batch.digest(NETWORK)[:8])
    assert desk.sent() == [(A, Digest(desk.it.summary(), [head], False))]


@pytest.mark.parametrize(
    ("theirs", "answer", "reply"),
    [(0, False, True), (1, False, True), (None, False, True), (9, False, False), (1, True, False)],
)
def test_heads_are_answered_with_heads_when_ours_go_further_and_never_twice(
    theirs: int | None, answer: bool, reply: bool
) -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(i)) for i in (1, 2)])
    heads = [] if theirs is None else [Head(OWNER, M, theirs, b"")]
    desk.it.on_digest(0.0, A, Digest(b"other", heads, answer))
    sent = desk.sent()
    assert [d.answer for _, d in sent if isinstance(d, Digest)] == ([True] if reply else [])
    assert desk.it.behind == (1 if theirs == 9 else 0)


def test_heads_that_go_further_are_asked_for_without_grace() -> None:
    desk = Desk(A)
    desk.it.on_digest(0.0, A, Digest(b"other", [Head(OWNER, M, 3, b"")]))
    assert desk.ticked(0.0) == [(A, request())]


def test_the_same_number_with_another_hash_makes_us_ask_for_the_proof() -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(i)) for i in (1, 2)])
    forked = Digest(b"other", [Head(OWNER, M, 2, b"otherway")])
    desk.it.on_digest(0.0, A, forked)
    assert desk.sent() == [(A, request(1))]
    desk.feeds[OWNER, M].fault = "known"
    desk.it.on_digest(0.0, A, forked)
    assert desk.sent() == []


def test_no_proof_can_be_asked_for_under_a_snapshot(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    desk = Desk(A)
    feed = desk.feeds[OWNER, M] = Feed(OWNER, M)
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    feed.adopt(snapshot)
    desk.it.on_digest(0.0, A, Digest(b"other", [Head(OWNER, M, 5, b"otherway")]))
    assert desk.sent() == []


def test_heads_beyond_the_limit_are_left_out_of_a_digest_by_chance_and_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_module, "MAX_HEADS", 2)
    desk = Desk(A)
    for seed in range(1, 6):
        owner = Owner(seed)
        desk.hold(owner, [owner.batch(opened(1))])
    told = set()
    for _ in range(30):
        desk.it.on_digest(0.0, A, Digest(b"other"))
        ((_, digest),) = desk.sent()
        assert len(digest.heads) == 2
        told |= {head.owner for head in digest.heads}
    assert len(told) == 5
    many = [Head(Keys(seed).node_id, M, 9, b"") for seed in range(30, 40)]
    desk.it.on_digest(0.0, A, Digest(b"other", many))
    assert desk.it.behind == 2


def test_a_summary_tells_feeds_apart_and_does_not_depend_on_the_order_of_arrival() -> None:
    one, two = Owner(1), Owner(2)
    batches = one.batch(opened(1)), two.batch(opened(1))
    ab, ba, a = Desk(), Desk(), Desk()
    ab.hold(one, [batches[0]])
    ab.hold(two, [batches[1]])
    ba.hold(two, [batches[1]])
    ba.hold(one, [batches[0]])
    a.hold(one, [batches[0]])
    a.feeds["nobody", M] = Feed("nobody", M)  # an empty feed is as none
    assert ab.it.summary() == ba.it.summary() != a.it.summary()
    assert len(a.it.heads()) == 1


def test_a_new_neighbour_is_told_the_heads_and_some_neighbour_the_summary_now_and_then() -> None:
    desk = Desk()
    desk.it.neighbour_up(0.0, A)
    assert desk.sent() == [(A, Digest(desk.it.summary(), [], False))]
    desk.it._next_digest = 0.0
    times = [t / 10 for t in range(600) for _ in desk.ticked(t / 10)]
    assert 9 <= len(times) <= 16
    desk.it.neighbour_down(A)
    assert [sent for t in range(600, 700) for sent in desk.ticked(t / 10)] == []


# Whole nodes


def count(net: Network, kind: str) -> int:
    return sum(mail.type == kind for mail in net.sent)


def test_a_gap_is_asked_about_until_it_is_closed() -> None:
    net = Network(1)
    owner = Owner(50)
    one, two = owner.batch(opened(1)), owner.batch(opened(2))
    assert net.give(0, two)
    assert net[0].feeds_behind == 1
    net[0].tick(net.now + GRACE)
    sent = [m for m in net[0].drain(net.now).messages if m.type == "feed_request"]
    assert [unpack(m.type, m.payload) for m in sent] == [FeedRequest(owner.id, M, 0)]
    assert net.give(0, one)
    assert net[0].feeds_behind == 0
    assert net[0].feeds[owner.id, M].number == 2


def test_nodes_that_hold_the_same_say_nothing_but_presence_and_summaries() -> None:
    net = Network(3)
    net.sell(0, 100, 5)
    net.settle()
    net.sent.clear()
    net.run(30.0)
    assert {mail.type for mail in net.sent} == {"presence", "digest"}
    digests = [mail.message for mail in net.sent if mail.type == "digest"]
    assert all(digest.heads is None for digest in digests)
    assert len(digests) <= 3 * 8


@pytest.mark.parametrize("orders", [1, 3, 4, 5, 7, 8, 9, 30])
def test_a_late_joiner_has_the_book_whatever_the_owner_still_holds(
    orders: int, checkpoints: None
) -> None:
    net = Network(3)
    net.kill(2)
    for i in range(orders):
        net.sell(0, 100 + i, 5)
        net.exchange()
    net.restart(2)
    net.settle()
    assert len(net.book(2)) == orders
    net.check()
    assert net[2].feeds[net.id(0), M].base == net[0].feeds[net.id(0), M].base


def test_a_late_joiner_learns_of_an_owner_that_is_down_from_others(checkpoints: None) -> None:
    net = Network(3)
    net.kill(2)
    for i in range(20):
        net.sell(0, 100 + i, 5)
        net.exchange()
    net.kill(0)
    net.restart(2)
    net.settle()
    assert net[2].feeds[net.id(0), M].number == net[1].feeds[net.id(0), M].number > 20
    assert net.book(2) == []  # nobody has heard its owner since
    net.restart(0)
    net.settle()
    assert len(net.book(2)) == 20
    net.check()


def test_a_node_that_missed_broadcasts_catches_up_after_the_grace() -> None:
    net = Network(2)
    net.on_mail = lambda mail: [] if mail.type == "order" else [mail]
    net.sell(0, 100, 5)
    net.exchange()
    assert net.book(1) == []
    net.run(4.0)
    assert net.book(1) == [(-1, 100, 0, 1, 5)]
    assert count(net, "feed_request") == 1


def test_a_snapshot_joins_broadcasts_that_overtook_it(checkpoints: None) -> None:
    """Found by these tests: what was held back when the snapshot came was never applied."""
    net = Network(2)
    net.on_mail = lambda mail: []
    for i in range(9):
        net.sell(0, 100 + i, 5)
        net.exchange()
    held: list[Mail] = []

    def hold_parts(mail: Mail) -> list[Mail]:
        if mail.type == "feed":
            held.append(mail)
            return []
        return [mail]

    net.on_mail = hold_parts
    net.sell(0, 200, 5)
    net.exchange()
    net[1].tick(net.now)
    while not held:
        net.run(0.1)
    net.on_mail = lambda mail: [mail]
    for mail in held:
        net.deliver(mail)
    net.settle()
    assert len(net.book(1)) == 10
    net.check()


def test_a_fork_hides_its_owner_everywhere_though_each_node_saw_another_side_first() -> None:
    net = Network(2)
    owner = Owner(50)
    one, two = owner.lie(1, GENESIS, opened(1)), owner.lie(1, GENESIS, opened(1, price=90))
    leases = _present(net, 50)
    assert net.give(0, one)
    assert net.give(1, two)
    assert [len(net.book(i)) for i in (0, 1)] == [1, 1]
    for _ in range(3):
        net.run(8.0)
        leases()
    assert [net[i].feeds[owner.id, M].fault is not None for i in (0, 1)] == [True, True]
    assert [net.book(i) for i in (0, 1)] == [[], []]
    assert [len(net.nodes[i].warnings) for i in (0, 1)] == [1, 1]
    assert "contradicts its own feed" in net.nodes[0].warnings[0]


def _present(net: Network, seed: int) -> Callable[[], None]:
    """An owner without an engine says that it is here, now and whenever called."""
    leases = Leases(Keys(seed), NETWORK, incarnation=1, lease_ms=600_000)

    def renew() -> None:
        made = leases.make(net.now, [])
        for i in range(len(net.nodes)):
            assert net.give(i, made, origin=Keys(seed).node_id)

    renew()
    return renew


def test_a_fault_in_the_middle_of_a_batch_leaves_nothing_of_its_owner_on_the_book() -> None:
    """Found by these tests: what the batch had closed before the fault stayed as a ghost."""
    net = Network(1)
    owner = Owner(50)
    _present(net, 50)
    one = owner.batch(opened(1), opened(2))
    assert net.give(0, one)
    assert len(net.book(0)) == 2
    head = one.digest(NETWORK)
    assert net.give(0, owner.lie(3, head, Closed(1, "cancelled"), Amended(77, 1)))
    assert net.book(0) == []
    order = net.sell(0, 100, 5)
    assert order.shown == 5
    net.run(3.0)


def test_a_number_that_is_used_again_is_the_new_order_on_every_node(checkpoints: None) -> None:
    net = Network(2)
    owner = Owner(50)
    _present(net, 50)
    batches = [owner.batch(opened(1)), owner.batch(Closed(1, "cancelled"), opened(1, price=90))]
    for batch in batches:
        net.give(0, batch)
    for batch in reversed(batches):  # both applied at once
        net.give(1, batch)
    assert [row[1] for row in net.book(0)] == [90]
    assert net[0].markets[M].digest() == net[1].markets[M].digest()


def claim(net: Network, node: int, number: int) -> FeedRequest:
    """A stranger claims more of the owner's feed; the request that follows."""
    stranger = Keys(99).node_id
    net.give(node, Digest(b"other", [Head(Keys(50).node_id, M, number, b"")]), origin=stranger)
    net[node].tick(net.now)
    drained = net[node].drain(net.now)
    (asked,) = [
        unpack(m.type, m.payload)
        for m in drained.messages
        if m.type == "feed_request" and getattr(m, "to", "") == stranger
    ]
    assert isinstance(asked, FeedRequest)
    return asked


PAGE = msgspec.msgpack.encode([(1, BUY, 100, 5, 1000)])


def page_part(batch: Batch, pages: list[bytes], page: int = 0) -> FeedPart:
    hashes = [hashlib.sha256(p).digest() for p in pages]
    owner = Keys(50).node_id
    return FeedPart(owner, M, 99, checkpoint=batch, page=page, pages=hashes, orders=pages[page])


def test_a_snapshot_is_adopted_and_written_to_the_journal() -> None:
    net = Network(1)
    _present(net, 50)
    claim(net, 0, 99)
    batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash([PAGE])))
    assert net.give(0, page_part(batch, [PAGE]))
    assert len(net.book(0)) == 1
    records = net[0].drain(net.now).records
    assert [type(r) for r in records if isinstance(r, PutSnapshot)] == [PutSnapshot]


def test_an_unsigned_snapshot_is_refused_at_its_first_page() -> None:
    net = Network(1)
    claim(net, 0, 99)
    batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash([PAGE, PAGE])))
    assert not net.give(0, page_part(replace(batch, signature=b"\x01" * 64), [PAGE, PAGE]))
    other = Owner(51).lie(7, GENESIS, Checkpoint(state_hash([PAGE, PAGE])))
    assert not net.give(0, page_part(other, [PAGE, PAGE]))
    elsewhere = Owner(50, market="ETH-USD").lie(7, GENESIS, Checkpoint(state_hash([PAGE, PAGE])))
    assert not net.give(0, page_part(elsewhere, [PAGE, PAGE]))
    assert all(want.pages == [] for want in net[0]._replicator._wants.values())


def test_a_signed_snapshot_of_impossible_orders_is_its_owners_fault_and_not_ours() -> None:
    """Found by these tests: it was put into the book, and the error escaped `receive`."""
    for row in [(1, 0, 100, 5, 1000), (1, BUY, -1, 5, 1000), (2**40 + 1, BUY, 100, 5, 1000)]:
        net = Network(1)
        _present(net, 50)
        claim(net, 0, 99)
        pages = [msgspec.msgpack.encode([row])]
        batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash(pages)))
        assert net.give(0, page_part(batch, pages))
        assert net.book(0) == []
        assert net[0].feeds[Keys(50).node_id, M].fault is not None
        assert len(net.nodes[0].warnings) == 1
        assert net[0].feeds_behind == 0


def test_a_part_whose_batches_are_of_another_feed_or_forged_is_refused() -> None:
    net = Network(1)
    batch = Owner(51).batch(opened(1))
    assert not net.give(0, FeedPart(Keys(50).node_id, M, 1, [batch]))
    assert not net.give(0, FeedPart(Keys(51).node_id, M, 1, [replace(batch, market="ETH-USD")]))
    forged = replace(batch, signature=b"\x01" * 64)
    assert not net.give(0, FeedPart(Keys(51).node_id, M, 1, [forged]))
    assert net.give(0, FeedPart(Keys(51).node_id, "DOGE-USD", 1, [batch]))
    assert net[0].feeds.keys() == {(net.id(0), M)}
    assert net.give(0, FeedPart(Keys(51).node_id, M, 1, [batch]))
    assert (Keys(51).node_id, M) in net[0].feeds


@pytest.mark.parametrize(
    ("owner", "market", "wanted"),
    [
        (Keys(50).node_id, M, 1),
        (Keys(50).node_id, "DOGE-USD", 0),
        ("*", M, 0),
        ("", M, 0),
        ("x" * 64, M, 0),
        (Keys(50).node_id[:-1], M, 0),
    ],
)
def test_only_feeds_of_nodes_and_of_markets_traded_here_are_wanted(
    owner: str, market: str, wanted: int
) -> None:
    net = Network(1)
    net.give(0, Digest(b"other", [Head(owner, market, 9, b"")]))
    assert net[0].feeds_behind == wanted


def test_feeds_are_bounded_and_what_does_not_fit_is_still_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower_module, "MAX_FEEDS", 2)  # the own one and one more
    net = Network(1)
    followed = Owner(50)
    assert net.give(0, followed.batch(opened(1)))
    assert net.give(0, followed.batch(opened(2)))
    assert net[0].feeds[followed.id, M].number == 2
    batch = Owner(51).batch(opened(1))
    assert net.give(0, batch)
    assert not net.give(0, replace(batch, signature=b"\x01" * 64))
    assert len(net[0].feeds) == 2
    assert net[0].stale is None
    stranger = Keys(99).node_id
    net.give(0, Digest(b"other", [Head(Keys(52).node_id, M, 9, b"")]), origin=stranger)
    net[0].tick(net.now)
    pages = [PAGE]
    late = Owner(52).lie(7, GENESIS, Checkpoint(state_hash(pages)))
    snapshot = replace(page_part(late, pages), owner=Keys(52).node_id)
    assert net.give(0, snapshot, origin=stranger)
    assert len(net[0].feeds) == 2


def test_a_snapshot_that_the_broadcasts_have_overtaken_is_not_adopted(checkpoints: None) -> None:
    net = Network(1)
    owner = Owner(50)
    batches = [owner.batch(opened(i)) for i in range(1, 10)]
    _present(net, 50)
    claim(net, 0, 12)
    for page in (0, 1):
        if page == 1:
            for batch in batches:
                assert net.give(0, batch)
        assert net.give(0, answer(owner, FeedRequest(owner.id, M, 0, page)))
    feed = net[0].feeds[owner.id, M]
    assert (feed.number, feed.fault) == (11, None)
    assert feed.state.orders == owner.writer.feed.state.orders


def test_an_own_order_takes_what_a_snapshot_brings_across_it() -> None:
    net = Network(1)
    _present(net, 50)
    claim(net, 0, 99)
    order = net.sell(0, 100, 3)
    batch = Owner(50).lie(7, GENESIS, Checkpoint(state_hash([PAGE])))
    assert net.give(0, page_part(batch, [PAGE]))
    assert [(t.maker, t.quantity) for t in net[0].pending_takes] == [(Keys(50).node_id, 3)]
    assert order.pending == 3
