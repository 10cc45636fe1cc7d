"""Answers to requests for what is missing: parts, snapshots, digests."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Owner
from replication_kit import OWNER, A, B, Desk, answer, opened, replace, request

from exchange.feeds import feed as feed_module
from exchange.feeds import replication as replication_module
from exchange.feeds.exchange_messages import FeedDigest, FeedHead, FeedPart, FeedRequest
from exchange.feeds.feed import Feed, state_hash
from exchange.feeds.request_budget import REQUEST_TIMEOUT
from exchange.model.events import BUY, GENESIS, Batch, Checkpoint


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every 4 events; 2 orders on a page."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    monkeypatch.setattr(feed_module, "PAGE_ORDERS", 2)


# Answers that arrive


def part(owner: Owner, number: int, batches: list[Batch]) -> FeedPart:
    return FeedPart(owner.id, M, number, batches)


def test_an_answer_that_brings_a_part_is_followed_by_a_request_for_the_rest() -> None:
    desk, owner = Desk(A), Owner(1)
    batches = [owner.batch(opened(i)) for i in range(1, 6)]
    desk.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    desk.ticked(0.0)
    desk.hold(owner, batches[:2])
    desk.it.advanced(0.1, OWNER, M, 2)
    assert desk.it.on_part(0.1, A, part(owner, 5, batches[:2])) is None
    assert desk.sent() == [(A, request(2))]


def test_an_answer_that_brings_nothing_is_not_asked_for_again() -> None:
    desk, owner = Desk(A, B), Owner(1)
    desk.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.announced(0.0, B, OWNER, M, 5, grace=0.0)
    assert desk.ticked(0.0) == [(A, request())]
    desk.it.on_part(0.1, A, part(owner, 5, []))
    assert desk.ticked(0.1) == [(B, request())]  # at once, of another
    desk.it.on_part(0.2, B, part(owner, 5, []))
    assert desk.ticked(0.2) == []
    assert desk.it.behind == 0


def test_an_answer_that_nobody_asked_for_is_not_counted() -> None:
    desk, owner = Desk(A, B), Owner(1)
    desk.it.on_part(0.0, A, part(owner, 5, []))
    desk.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    desk.it.announced(0.0, B, OWNER, M, 5, grace=0.0)
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


def asking(owner: Owner) -> Desk:
    desk = Desk(A, B)
    for node in (A, B):
        desk.it.announced(0.0, node, owner.id, M, 11, grace=0.0)
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
    desk.it.announced(0.0, A, OWNER, M, 11, grace=0.0)
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
    desk.it.on_digest(0.0, A, FeedDigest(desk.it.summary()))
    desk.it.on_digest(0.0, A, FeedDigest(desk.it.summary(), []))
    assert desk.sent() == []


def test_a_summary_that_differs_is_answered_with_heads() -> None:
    desk, owner = Desk(A), Owner(1)
    batch = owner.batch(opened(1))
    desk.hold(owner, [batch])
    desk.it.on_digest(0.0, A, FeedDigest(b"other"))
    head = FeedHead(OWNER, M, 1, batch.digest(NETWORK)[:8])
    assert desk.sent() == [(A, FeedDigest(desk.it.summary(), [head], False))]


@pytest.mark.parametrize(
    ("theirs", "answer", "reply"),
    [(0, False, True), (1, False, True), (None, False, True), (9, False, False), (1, True, False)],
)
def test_heads_are_answered_with_heads_when_ours_go_further_and_never_twice(
    theirs: int | None, answer: bool, reply: bool
) -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(i)) for i in (1, 2)])
    heads = [] if theirs is None else [FeedHead(OWNER, M, theirs, b"")]
    desk.it.on_digest(0.0, A, FeedDigest(b"other", heads, answer))
    sent = desk.sent()
    assert [d.answer for _, d in sent if isinstance(d, FeedDigest)] == ([True] if reply else [])
    assert desk.it.behind == (1 if theirs == 9 else 0)


def test_heads_that_go_further_are_asked_for_without_grace() -> None:
    desk = Desk(A)
    desk.it.on_digest(0.0, A, FeedDigest(b"other", [FeedHead(OWNER, M, 3, b"")]))
    assert desk.ticked(0.0) == [(A, request())]


def test_the_same_number_with_another_hash_makes_us_ask_for_the_proof() -> None:
    desk, owner = Desk(A), Owner(1)
    desk.hold(owner, [owner.batch(opened(i)) for i in (1, 2)])
    forked = FeedDigest(b"other", [FeedHead(OWNER, M, 2, b"otherway")])
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
    desk.it.on_digest(0.0, A, FeedDigest(b"other", [FeedHead(OWNER, M, 5, b"otherway")]))
    assert desk.sent() == []


def test_heads_beyond_the_limit_are_left_out_of_a_digest_by_chance_and_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_module, "MAX_HEADS", 2)
    desk = Desk(A)
    for seed in range(1, 6):
        owner = Owner(seed)
        desk.hold(owner, [owner.batch(opened(1))])
    sent = set()
    for second in range(30):
        desk.it.on_digest(second, A, FeedDigest(b"other"))
        ((_, digest),) = desk.sent()
        assert len(digest.heads) == 2
        sent |= {head.owner for head in digest.heads}
    assert len(sent) == 5
    many = [FeedHead(Keys(seed).node_id, M, 9, b"") for seed in range(30, 40)]
    desk.it.on_digest(30.0, A, FeedDigest(b"other", many))
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
    assert len(a.feeds.heads()) == 1


def test_a_new_neighbour_is_told_the_heads_and_some_neighbour_the_summary_now_and_then() -> None:
    desk = Desk()
    desk.it.neighbour_up(0.0, A)
    assert desk.sent() == [(A, FeedDigest(desk.it.summary(), [], False))]
    desk.it._next_digest = 0.0
    times = [t / 10 for t in range(600) for _ in desk.ticked(t / 10)]
    assert 9 <= len(times) <= 16
    desk.it.neighbour_down(A)
    assert [sent for t in range(600, 700) for sent in desk.ticked(t / 10)] == []
