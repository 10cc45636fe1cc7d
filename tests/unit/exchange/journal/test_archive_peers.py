"""Archived history with one other node, against plain lists."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from journal_kit import FILL, POSTING, replace

from exchange.journal.archive import Archive
from exchange.model.records import Fill, Posting, PostingKind

PEERS = ("p", "q", "r")
KINDS: tuple[PostingKind, ...] = ("trade", "fee", "settlement", "transfer")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with closing(Archive(tmp_path / "archive.sqlite3")) as opened:
        yield opened


def history(seed: int) -> tuple[list[Fill], list[Posting]]:
    rng = random.Random(seed)
    fills = [
        replace(
            FILL,
            taker=rng.choice(("me", "you")),
            take=rng.randrange(1, 400),
            counterparty=rng.choice(PEERS),
            price=n + 1,
        )
        for n in range(500)
    ]
    postings = [
        replace(
            POSTING,
            holder=f"peer:{rng.choice(PEERS)}",
            asset=rng.choice(("BTC", "USD")),
            kind=rng.choice(KINDS),
            time=rng.randrange(50),  # makers' clocks: not in the order of writing
            balance=n,
        )
        for n in range(500)
    ]
    return fills, postings


@pytest.mark.parametrize("seed", range(3))
def test_fills_with_a_peer_come_by_take_and_in_pages(seed: int, archive: Archive) -> None:
    fills, _ = history(seed)
    archive.add([], [(1, fill) for fill in fills], [], 1)
    for peer in (*PEERS, "nobody"):
        for first, last in ((0, 2**62), (100, 199), (200, 200)):
            wanted = [
                f for f in fills if f.counterparty == peer and first <= f.take <= last
            ]  # as they were written
            found = list(archive.fills_with(peer, 500, first=first, last=last, page=7))
            assert found == sorted(wanted, key=lambda fill: fill.take)


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_stays_as_it_was(seed: int, archive: Archive) -> None:
    fills, postings = history(seed)
    assert archive.cut() == (0, 0)
    archive.add([], [(1, f) for f in fills[:200]], [(1, p) for p in postings[:300]], 1)
    cut = archive.cut()
    assert cut == (200, 300)
    before = [
        (
            list(archive.fills_with(peer, cut[0])),
            archive.last_postings(f"peer:{peer}", cut[1]),
            archive.moves_of(f"peer:{peer}", cut[1]),
        )
        for peer in PEERS
    ]
    archive.add([], [(2, f) for f in fills[200:]], [(2, p) for p in postings[300:]], 2)
    for peer, (trades, balances, moves) in zip(PEERS, before, strict=True):
        holder = f"peer:{peer}"
        assert list(archive.fills_with(peer, cut[0])) == trades
        assert archive.last_postings(holder, cut[1]) == balances
        assert archive.moves_of(holder, cut[1]) == moves
        lines = [p for p in postings[:300] if p.holder == holder]
        latest = {p.asset: p for p in lines}
        assert {p.asset: p for p in balances} == latest
        assert moves == [p for p in reversed(lines) if p.kind not in ("trade", "fee")]
        assert archive.last_postings(holder, 500) != balances
