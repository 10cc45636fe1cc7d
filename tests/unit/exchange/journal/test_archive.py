"""The archive: queries against plain lists, and a file that can be lost."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from exchange_kit import M
from journal_kit import FILL, ORDER, POSTING, random_records, replace

from exchange.journal.archive import Archive
from exchange.journal.frames import JournalError
from exchange.model.codec import pack
from exchange.model.records import Fill, Order, Posting, Transaction

MARKETS = (None, M, "ETH-USD", "unknown")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with closing(Archive(tmp_path / "archive.sqlite3")) as opened:
        yield opened


def random_history(seed: int) -> tuple[list[Order], list[Fill], list[Posting]]:
    records = random_records(random.Random(seed), 2000)
    orders = {r.number: r for r in records if isinstance(r, Order) and r.done}
    fills = [r for r in records if isinstance(r, Fill)]
    postings = [p for r in records if isinstance(r, Transaction) for p in r.postings()]
    return list(orders.values()), fills, postings


def parts(rng: random.Random) -> Iterator[dict[str, Any]]:
    for _ in range(20):
        start = rng.choice((0, rng.randrange(1000)))
        yield {
            "start": start,
            "end": rng.choice((None, start, start + rng.randrange(500))),
            "limit": rng.choice((1, 10, 10_000)),
            "newest_first": rng.random() < 0.5,
        }


def cut(rows: list[Any], time: str, then: str, part: dict[str, Any]) -> list[Any]:
    """Expected answer to a query for `part` of `rows`, with rows of one time in the order of `then`."""
    end = 2**62 if part["end"] is None else part["end"]
    found = [row for row in rows if part["start"] <= getattr(row, time) <= end]
    found.sort(key=attrgetter(time, then))
    if part["newest_first"]:
        found.reverse()
    return found[: part["limit"]]


@pytest.mark.parametrize("seed", range(3))
def test_queries_agree_with_plain_lists(seed: int, archive: Archive) -> None:
    orders, fills, postings = random_history(seed)
    third = len(fills) // 3
    archive.add([(1, o) for o in orders], [(1, f) for f in fills[:third]], [], 1)
    archive.add([], [(2, f) for f in fills[third:]], [(2, p) for p in postings], 2)
    rng = random.Random(seed)
    for part in parts(rng):
        for account in range(4):
            for market in MARKETS:
                mine = [o for o in orders if o.account == account and market in (None, o.market)]
                found = archive.past_orders(account, market=market, **part)
                assert found == cut(mine, "updated", "number", part)
                kept = [f for f in fills if f.account == account and market in (None, f.market)]
                found = archive.fills_of(account, market=market, **part)
                assert found == cut(kept, "time", "take", part)
                number = rng.randrange(1, 40)
                kept = [f for f in kept if f.order == number]
                found = archive.fills_of(account, market=market, order=number, **part)
                assert found == cut(kept, "time", "take", part)
        for holder in ("account:1", "fees", "nobody"):
            for asset in (None, "BTC", "unknown"):
                lines = [p for p in postings if p.holder == holder and asset in (None, p.asset)]
                found = archive.postings(holder, asset=asset, **part)
                assert found == cut(lines, "time", "transaction", part)


@pytest.mark.parametrize("count", [0, 1, 4, 49, 50, 556, 1500])
def test_any_number_of_rows_is_written_and_in_the_file_after_a_flush(
    count: int, tmp_path: Path
) -> None:
    path, copy = tmp_path / "archive.sqlite3", tmp_path / "copy.sqlite3"
    fills = [replace(FILL, take=take) for take in range(count)]
    with closing(Archive(path)) as archive:
        archive.add([(1, ORDER), (1, replace(ORDER, filled=4))], [(1, f) for f in fills], [], 7)
        assert archive.flush() == 7
        copy.write_bytes(path.read_bytes())  # without the write-ahead log of SQLite
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(Archive(copy)) as archive:
        assert (archive.at, archive.put_aside) == (7, None)
        assert archive.fills(limit=-1) == fills[::-1]
        assert archive.orders(limit=-1) == [replace(ORDER, filled=4)]


def test_all_accounts_newest_first(archive: Archive) -> None:
    orders, fills, postings = random_history(1)
    archive.add([(1, o) for o in orders], [(1, f) for f in fills], [(1, p) for p in postings], 1)
    orders.sort(key=lambda order: -order.number)
    assert archive.orders(limit=-1) == orders
    assert archive.orders(market=M, limit=3) == [o for o in orders if o.market == M][:3]
    assert archive.orders(market="unknown", limit=3) == []
    assert archive.fills(limit=-1) == fills[::-1]
    assert archive.fills(market=M, limit=3) == [f for f in fills[::-1] if f.market == M][:3]
    assert archive.ledger(limit=-1) == postings[::-1]


def test_an_order_is_found_by_number_and_by_the_latest_use_of_its_client_id(
    archive: Archive,
) -> None:
    numbered = [replace(ORDER, number=n, account=a) for n, a in ((1, 1), (2, 1), (3, 2))]
    archive.add([(1, order) for order in numbered], [], [], 1)
    assert archive.order(2) == numbered[1]
    assert archive.order(4) is None
    assert archive.by_client_id("mine", 1) == numbered[1]
    assert archive.by_client_id("mine", 2) == numbered[2]
    assert archive.by_client_id("mine", 3) is archive.by_client_id("other", 1) is None


def test_a_write_that_fails_leaves_nothing(archive: Archive) -> None:
    archive.add([], [(1, FILL)], [], 1)
    bad = replace(POSTING, time=2**70, asset="NEW")
    with pytest.raises(JournalError, match=r"cannot write the archive .*archive\.sqlite3"):
        archive.add([(2, ORDER)], [(2, FILL)], [(2, bad)], 2)
    assert (archive.at, archive.orders(limit=9), archive.fills(limit=9)) == (1, [], [FILL])
    archive.add([(2, ORDER)], [(2, FILL)], [(2, replace(POSTING, asset="NEW"))], 2)
    assert (len(archive.fills(limit=9)), len(archive.postings("account:2", asset="NEW"))) == (2, 1)


def test_rows_of_later_frames_are_set_aside_and_kept(archive: Archive) -> None:
    for at in (1, 2, 3):
        archive.add([(at, replace(ORDER, number=at))], [(at, FILL)], [(at, POSTING)], at)
    assert [archive.count_after(frame) for frame in (0, 1, 3)] == [9, 6, 0]
    archive.set_aside_after(1)
    assert (archive.at, archive.count_after(1)) == (1, 0)
    assert len(archive.orders(limit=9)) == len(archive.fills(limit=9)) == 1
    assert len(archive.ledger(limit=9)) == 1
    with closing(sqlite3.connect(archive.path)) as db:
        lost = db.execute("SELECT kind, frame, data FROM lost ORDER BY kind, frame").fetchall()
    assert [row[:2] for row in lost] == [
        *(("fills", 2), ("fills", 3), ("orders", 2), ("orders", 3)),
        *(("postings", 2), ("postings", 3)),
    ]
    assert lost[0][2] == pack(FILL)


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"version"])
def test_a_file_that_cannot_be_used_is_put_aside(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archive.sqlite3"
    if content == b"version":
        Archive(path).close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with closing(Archive(path)) as archive:
        assert archive.put_aside is not None
        archive.add([], [(1, FILL)], [], 1)
        assert archive.fills(limit=1) == [FILL]
    assert path.with_name("archive.sqlite3.damaged").read_bytes() == content


def test_a_directory_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        Archive(tmp_path / "nowhere" / "archive.sqlite3")
