"""The data directory of a node of version 0.1.0, read by the present code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.compat import product

FILES = Path(__file__).parents[1] / "fixtures/v0_1_0"
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text("utf-8"))
JOURNAL: dict[str, Any] = EXPECTED["journal"]
TAKES: list[list[Any]] = JOURNAL["recovered"][2]  # whose outcome the node did not know


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A copy, with the mode that the key must have."""
    copy = tmp_path / "data"
    shutil.copytree(FILES / "data", copy)
    (copy / "node.key").chmod(0o600)
    return copy


@pytest.fixture
def identity(data_dir: Path) -> product.Identity:
    return product.Identity.load(data_dir / "node.key")


@pytest.fixture
def journal(data_dir: Path, identity: product.Identity) -> Iterator[product.Journal]:
    with closing(product.open_journal(data_dir, identity.node_id)) as opened:
        yield opened


def test_everything_is_recovered(journal: product.Journal) -> None:
    recovered = product.plain(journal.recover())
    feeds_at = 5  # compared by the test below
    for number, (found, expected) in enumerate(zip(recovered, JOURNAL["recovered"], strict=False)):
        if number != feeds_at:
            assert product.agrees(found, expected), (number, found, expected)
    assert len(recovered) >= len(JOURNAL["recovered"])
    assert journal.notes == []


def test_the_engine_goes_on_with_the_same_feeds_and_books(
    journal: product.Journal, identity: product.Identity
) -> None:
    engine = product.engine(identity, "main", journal.recover())
    feeds = sorted(
        [owner, market, feed.base, feed.number, feed.state.head.hex()]
        for (owner, market), feed in engine.feeds.items()
        if feed.number
    )
    assert feeds == JOURNAL["feeds"]
    assert any(base for _, _, base, _, _ in feeds)
    books = {
        key: [list(row) for row in market.contents()] for key, market in engine.markets.items()
    }
    assert books == JOURNAL["books"]
    assert any(books.values())
    engine.drain(1.0)
    pending = {take.take for take in engine.orders.takes.pending}
    assert pending == {take[0] for take in TAKES}


def test_the_engine_repeats_requests_without_an_answer(
    journal: product.Journal, identity: product.Identity
) -> None:
    takes = {number: maker for number, _, _, maker, *_ in TAKES}
    engine = product.engine(identity, "main", journal.recover())
    maker = next(iter(takes.values()))
    engine.neighbour_up(1.0, maker)
    asked = set()
    for tenths in range(10, 60):
        engine.tick(tenths / 10)
        for message in engine.drain(tenths / 10).messages:
            if message.type == "take":
                assert isinstance(message, product.Send)
                assert message.to == maker
                asked.add(product.plain(product.codec().payload("take", message.payload))[0])
    assert asked == set(takes)


def test_the_archive_has_the_same_fills(journal: product.Journal) -> None:
    found = product.plain(journal.history().fills(limit=1000))
    assert product.agrees(found, JOURNAL["fills"])
    assert found


def test_the_archive_can_be_made_anew(data_dir: Path, identity: product.Identity) -> None:
    """From the log and the state: what came before the state is lost, which here is no fill."""
    (data_dir / "journal" / "archive.sqlite3").unlink()
    with closing(product.open_journal(data_dir, identity.node_id)) as journal:
        journal.recover()
        assert product.agrees(product.plain(journal.history().fills(limit=1000)), JOURNAL["fills"])


def test_remembered_peers_are_read(data_dir: Path) -> None:
    path = data_dir / ".peers.json"
    (peer,) = product.PeerStorage(path).load()
    (written,) = json.loads(path.read_text("utf-8"))["peers"]
    assert (peer.node_id, peer.address, peer.port) == tuple(
        written[name] for name in ("nodeId", "address", "port")
    )
    before = path.read_bytes()
    product.PeerStorage(path).save([peer])
    assert path.read_bytes() == before
