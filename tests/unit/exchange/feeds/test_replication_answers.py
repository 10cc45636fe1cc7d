"""Answers to requests for what is missing: parts, snapshots, digests."""

from __future__ import annotations

import pytest
from exchange_kit import Keys, M, Owner
from replication_kit import OWNER, A, B, LoneReplicator, answer, opened, replace, request

from exchange.feeds import feed as feed_module
from exchange.feeds import missing_feeds
from exchange.feeds import replication as replication_module
from exchange.feeds.exchange_messages import FeedDigest, FeedHead, FeedPart, FeedRequest
from exchange.feeds.feed import Feed
from exchange.feeds.request_budget import REQUEST_TIMEOUT
from exchange.model.events import Batch


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
    local, owner = LoneReplicator(A), Owner(1)
    batches = [owner.batch(opened(i)) for i in range(1, 6)]
    local.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    local.ticked(0.0)
    local.hold(owner, batches[:2])
    local.it.advanced(0.1, OWNER, M, 2)
    assert local.it.on_part(0.1, A, part(owner, 5, batches[:2])) is None
    assert local.sent() == [(A, request(2))]


def test_an_empty_answer_is_not_requested_again() -> None:
    local, owner = LoneReplicator(A, B), Owner(1)
    local.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    local.it.announced(0.0, B, OWNER, M, 5, grace=0.0)
    assert local.ticked(0.0) == [(A, request())]
    local.it.on_part(0.1, A, part(owner, 5, []))
    assert local.ticked(0.1) == [(B, request())]  # at once, of another
    local.it.on_part(0.2, B, part(owner, 5, []))
    assert local.ticked(0.2) == []
    assert local.it.behind == 0


# Snapshots, page by page


def owner_with_snapshot() -> Owner:
    """Numbers 1 to 11, the snapshot at 5 with two pages (under the `checkpoints` fixture)."""
    owner = Owner(1)
    for i in range(1, 10):
        owner.batch(opened(i))
    assert owner.writer.feed.base == 5
    return owner


def asking(owner: Owner) -> LoneReplicator:
    local = LoneReplicator(A, B)
    for node in (A, B):
        local.it.announced(0.0, node, owner.id, M, 11, grace=0.0)
    assert local.ticked(0.0) == [(A, request())]
    return local


def test_a_snapshot_comes_page_by_page(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    local = asking(owner)
    assert local.it.on_part(0.1, A, answer(owner, request())) is None
    assert local.sent() == [(A, request(0, 1))]
    complete = local.it.on_part(0.2, A, answer(owner, request(0, 1)))
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    assert complete == (snapshot.batch, snapshot.pages)
    local.hold(owner, [])
    local.feeds[owner.id, M].adopt(snapshot)
    assert local.ticked(0.2) == [(A, request(5))]  # and what follows it


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
def test_a_false_page_is_refused_and_requested_from_another_node(
    which: str, checkpoints: None
) -> None:
    owner = owner_with_snapshot()
    local = asking(owner)
    good = answer(owner, request())
    assert local.it.on_part(0.1, A, false_pages(good)[which]) is None
    assert local.ticked(0.1) == []
    assert local.ticked(REQUEST_TIMEOUT) == [(B, request())]
    assert local.it.on_part(2.1, B, good) is None
    assert local.sent() == [(B, request(0, 1))]
    assert local.it.on_part(2.2, B, answer(owner, request(0, 1))) is not None


def test_too_many_pages_are_refused(checkpoints: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "MAX_PAGES", 1)
    owner = owner_with_snapshot()
    local = asking(owner)
    assert local.it.on_part(0.1, A, answer(owner, request())) is None
    assert local.sent() == []


def test_pages_of_two_nodes_are_not_mixed(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    local = asking(owner)
    local.it.on_part(0.1, A, answer(owner, request()))
    local.sent()
    assert local.ticked(0.1 + REQUEST_TIMEOUT) == [(B, request(0, 0))]


# Answering


def test_one_answer_is_bounded_and_the_rest_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "PART_BYTES", 600)
    local, owner = LoneReplicator(A), Owner(1)
    batches = [owner.batch(opened(i)) for i in range(1, 6)]
    local.feeds[owner.id, M] = owner.writer.feed
    local.it.on_request(0.0, A, request(0))
    assert local.sent() == [(A, part(owner, 5, batches[:2]))]


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
    local = LoneReplicator(A)
    local.feeds[OWNER, M] = owner_with_snapshot().writer.feed
    local.it.on_request(0.0, A, asked)
    assert local.sent() == []


# Digests


@pytest.mark.parametrize(
    ("theirs", "answer", "reply"),
    [(0, False, True), (1, False, True), (None, False, True), (9, False, False), (1, True, False)],
)
def test_heads_are_answered_with_heads_when_ours_go_further_and_never_twice(
    theirs: int | None, answer: bool, reply: bool
) -> None:
    local, owner = LoneReplicator(A), Owner(1)
    local.hold(owner, [owner.batch(opened(i)) for i in (1, 2)])
    heads = [] if theirs is None else [FeedHead(OWNER, M, theirs, b"")]
    local.it.on_digest(0.0, A, FeedDigest(b"other", heads, answer))
    sent = local.sent()
    assert [d.answer for _, d in sent if isinstance(d, FeedDigest)] == ([True] if reply else [])
    assert local.it.behind == (1 if theirs == 9 else 0)


def test_higher_heads_are_requested_without_grace() -> None:
    local = LoneReplicator(A)
    local.it.on_digest(0.0, A, FeedDigest(b"other", [FeedHead(OWNER, M, 3, b"")]))
    assert local.ticked(0.0) == [(A, request())]


def test_the_same_number_with_another_hash_leads_to_a_request_for_the_proof() -> None:
    local, owner = LoneReplicator(A), Owner(1)
    local.hold(owner, [owner.batch(opened(i)) for i in (1, 2)])
    forked = FeedDigest(b"other", [FeedHead(OWNER, M, 2, b"otherway")])
    local.it.on_digest(0.0, A, forked)
    assert local.sent() == [(A, request(1))]
    local.feeds[OWNER, M].fault = "known"
    local.it.on_digest(0.0, A, forked)
    assert local.sent() == []


def test_no_proof_can_be_requested_below_a_snapshot(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    local = LoneReplicator(A)
    feed = local.feeds[OWNER, M] = Feed(OWNER, M)
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    feed.adopt(snapshot)
    local.it.on_digest(0.0, A, FeedDigest(b"other", [FeedHead(OWNER, M, 5, b"otherway")]))
    assert local.sent() == []


def test_heads_beyond_the_limit_are_left_out_of_a_digest_by_chance_and_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_module, "MAX_HEADS", 2)
    local = LoneReplicator(A)
    for seed in range(1, 6):
        owner = Owner(seed)
        local.hold(owner, [owner.batch(opened(1))])
    sent = set()
    for second in range(30):
        local.it.on_digest(second, A, FeedDigest(b"other"))
        ((_, digest),) = local.sent()
        assert len(digest.heads) == 2
        sent |= {head.owner for head in digest.heads}
    assert len(sent) == 5
    many = [FeedHead(Keys(seed).node_id, M, 9, b"") for seed in range(30, 40)]
    local.it.on_digest(30.0, A, FeedDigest(b"other", many))
    assert local.it.behind == 2


# Bounds


def test_answers_to_one_neighbour_are_bounded_in_bytes_and_later_requests_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_module, "ANSWER_RATE", 10_000)
    monkeypatch.setattr(replication_module, "ANSWER_BURST", 20_000)
    local, owner = LoneReplicator(A, B), Owner(1)
    owner.batch(opened(1))
    local.feeds[owner.id, M] = owner.writer.feed
    for _ in range(100):
        local.it.on_request(0.0, A, request())
    at_once = len(local.sent())
    assert 1 <= at_once <= 5
    assert [len(kept) for kept in local.it._waiting.values()] == [replication_module.MAX_WAITING]
    local.it.on_request(0.0, B, request())  # another neighbour has a budget of its own
    assert [to for to, _ in local.sent()] == [B]
    counts = [sum(to == A for to, _ in local.ticked(step * 1.0)) for step in range(1, 30)]
    assert sum(counts) == replication_module.MAX_WAITING
    assert max(counts) <= 5
    local.it.on_request(40.0, A, request())
    assert len(local.sent()) == 1


def test_snapshots_under_way_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_feeds, "MAX_ASSEMBLED_BYTES", 10_000)
    missing = missing_feeds.MissingFeeds("me", {A: None, B: None})
    for node in (A, B):
        missing.announce(0.0, node, (node, M), 9, 0.0)
    heavy, light = missing.get((A, M)), missing.get((B, M))
    assert heavy is not None
    assert light is not None
    missing.add_page(light, bytes(1000))
    for _ in range(12):
        missing.add_page(heavy, bytes(900))
        assert missing.assembled_bytes <= 10_000
    assert light.page_bytes == 1000  # the heaviest loses
    assert heavy.page_bytes < 2000
    missing.drop((A, M))
    missing.drop((B, M))
    assert missing.assembled_bytes == 0


def test_numbers_announced_by_a_departed_node_alone_are_not_requested() -> None:
    local = LoneReplicator(A, B)
    owners = [f"{n:032d}" for n in range(100)]
    local.it.announced(0.0, B, OWNER, M, 9, grace=0.0)
    for owner in owners:
        local.it.announced(0.0, A, owner, M, 9, grace=0.0)
    local.it.announced(0.0, B, owners[7], M, 9, grace=0.0)
    local.ticked(0.1)
    local.it.neighbour_down(A)
    assert local.it.behind == 2
    assert local.it.is_missing(owners[7])
    assert local.it.is_missing(OWNER)


def test_a_false_second_page_drops_what_came_before(checkpoints: None) -> None:
    owner = owner_with_snapshot()
    local = asking(owner)
    local.it.on_part(0.1, A, answer(owner, request()))
    assert local.sent() == [(A, request(0, 1))]
    assert local.it._missing.assembled_bytes > 0
    false = replace(answer(owner, request(0, 1)), orders=b"\x90")
    assert local.it.on_part(0.2, A, false) is None
    assert local.it._missing.assembled_bytes == 0
    assert local.it.on_part(0.3, A, answer(owner, request(0, 1))) is None  # out of turn now
    assert [asked for _, asked in local.ticked(0.3 + REQUEST_TIMEOUT)] == [request(0, 0)]


def test_a_missing_feed_that_no_one_holds_is_announced_with_number_0() -> None:
    local, owner = LoneReplicator(A), Owner(1)
    local.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    assert local.it.newest_announced() == {(OWNER, M): 5}
    local.ticked(0.0)
    local.it.on_part(0.1, A, part(owner, 0, []))
    assert local.it.newest_announced() == {(OWNER, M): 0}
