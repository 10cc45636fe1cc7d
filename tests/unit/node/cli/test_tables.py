"""Output for people: tables, the ladder, and the book that --watch keeps."""

from __future__ import annotations

import os
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_kit import CannedNetwork
from trading_kit import ME, PEER, running_trading_node

from node.cli.commands.service_commands import why_lines
from node.cli.commands.watch_commands import book_view, describe, frame_lines
from node.cli.ladder import bar, draws_blocks, ladder
from node.cli.order_text import OrderTextError, parse_order
from node.cli.table_layout import Column, Line, align, table
from node.cli.tables import clock, order_table, peer_table, to_rich
from node.client.book_replica import BookReplica
from node.daemon.progress import duration
from node.streams.book_checksums import MODULUS, level_check
from node.streams.stream_messages import BookL2, BookL2Snapshot, Level, Trades
from node.views.node_views import RouterEventView, RouterView
from node.views.views import BookView, LevelView, OrderRequest, TradeView

TIME = "2026-01-02T03:04:05.678Z"


def plain(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def level(price: str, quantity: str, own: str = "0", orders: int = 1) -> LevelView:
    return LevelView(price=price, quantity=quantity, orders=orders, own=own)


def view(bids: list[LevelView], asks: list[LevelView]) -> BookView:
    return BookView(
        market="BTC-USD",
        sequence=42,
        digest="d",
        bids=bids,
        asks=asks,
        time="2026-01-02T03:04:05.678Z",
    )


# The ladder


def test_the_ladder_has_asks_above_bids_with_the_best_prices_in_the_middle() -> None:
    book = view(
        bids=[level("30000", "0.5", own="0.25", orders=2), level("29990.5", "2")],
        asks=[level("30010", "1"), level("30020.25", "0.125")],
    )
    assert plain(ladder(book, width=54)) == [
        "BTC-USD  2026-01-02 03:04:05.678Z  sequence 42",
        "",
        "     price  quantity  total  orders",
        "  30020.25     0.125  1.125       1  ▌",
        "  30010        1      1           1  ████",
        "  ── spread 10 (0.033 %) ──────────",
        "* 30000        0.5    0.5         2  ██       own 0.25",
        "  29990.5      2      2.5         1  ████████",
    ]


def test_the_sides_of_the_ladder_may_be_of_unequal_length() -> None:
    book = view([level("9", "1")], [level(price, "1") for price in ("10", "11", "12")])
    assert [line.split()[0] for line in plain(ladder(book))[3:]] == ["12", "11", "10", "──", "9"]


def test_the_ladder_can_do_without_block_characters() -> None:
    lines = plain(ladder(view([level("1", "2")], [level("2", "1")]), width=None, blocks=False))
    assert "".join(lines).isascii()
    assert lines[-1].endswith("########")


@pytest.mark.parametrize(
    ("bids", "asks", "text"),
    [
        ([], [], "the book is empty"),
        ([level("1", "1")], [], "no asks"),
        ([], [level("1", "1")], "no bids"),
        ([level("3", "1")], [level("1", "1")], "crossed by 2"),
        ([level("1", "1")], [level("1", "1")], "crossed by 0"),
        ([level("0.00000001", "1")], [level("0.00000002", "1")], "spread 0.00000001"),
    ],
)
def test_the_line_between_asks_and_bids(
    bids: list[LevelView], asks: list[LevelView], text: str
) -> None:
    assert text in "\n".join(plain(ladder(view(bids, asks))))


def test_market_names_cannot_steer_the_terminal() -> None:
    book = view([level("1", "1")], [])
    book.market = "X\x1b[2J\n"
    assert "\x1b" not in "".join(plain(ladder(book)))
    assert "\x1b" not in "".join(plain(table([Column("a")], [["\x1b[2J"]])))


@given(st.decimals(0, 10**9, places=4), st.decimals(0, 10**9, places=4), st.integers(1, 40))
def test_a_bar_fits_its_width_and_is_seen_when_there_is_anything(
    part: Decimal, whole: Decimal, width: int
) -> None:
    for blocks in (True, False):
        drawn = bar(min(part, whole), whole, width, blocks=blocks)
        assert len(drawn) <= width
        assert bool(drawn) == (part > 0 and whole > 0)
    assert bar(Decimal(1), Decimal(1), width) == "█" * width


@given(st.lists(st.decimals(0, 10**6, places=3).map(lambda d: f"{d.normalize():f}"), min_size=1))
def test_aligned_numbers_are_unchanged_and_equally_wide(numbers: list[str]) -> None:
    aligned = align(numbers)
    assert [text.strip() for text in aligned] == numbers
    assert len({len(text) for text in aligned}) == 1
    points = {text.index(".") for text in aligned if "." in text}
    assert len(points) <= 1


# Tables


async def test_orders_have_full_ids_on_request_only() -> None:
    async with running_trading_node() as node:
        for price in ("2", None):
            order = OrderRequest(market="BTC-USD", side="buy", quantity="1", price=price)
            await node.orders.submit(order)
        found = await node.orders.find(open_only=False)
    full, short = (plain(order_table(found, full=full)) for full in (True, False))
    assert full[1].startswith(f"{ME}-2  BTC-USD  buy ")
    assert short[1].startswith("2      BTC-USD  buy ")
    assert "market" in short[1]


def test_peers_show_address_link_and_failure() -> None:
    (peer,) = CannedNetwork(ME, PEER).peers()
    peer.address, peer.encrypted, peer.last_error = "fe80::1", False, "timed out\x07"
    peer.node_id = None
    line = plain(peer_table([peer], full=False))[1]
    assert line.startswith("?     [fe80::1]:3000  connected")
    assert "plain" in line
    assert line.endswith("timed out\ufffd")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (3725.5, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rich_gets_the_same_text_and_styles() -> None:
    lines = ladder(view([level("1", "1", own="1")], [level("2", "1")]))
    text = to_rich(lines)
    assert [line.rstrip() for line in text.plain.split("\n")] == plain(lines)
    assert {"green", "red", "bold yellow"} <= {str(span.style) for span in text.spans}


@pytest.mark.parametrize(
    ("encoding", "term", "blocks"),
    [
        ("utf-8", "xterm", True),
        ("UTF8", "", True),
        ("ascii", "xterm", False),
        ("utf-8", "dumb", False),
    ],
)
def test_blocks_are_drawn_where_they_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, encoding: str, term: str, blocks: bool
) -> None:
    monkeypatch.setitem(os.environ, "TERM", term)
    monkeypatch.setattr("sys.stdout", type("Out", (), {"encoding": encoding})())
    assert draws_blocks() is blocks


# The book that --watch keeps


def held(*levels: Level) -> BookReplica[Level]:
    check = sum(level_check("buy", level) for level in levels) % MODULUS
    book: BookReplica[Level] = BookReplica()
    book.apply(
        BookL2Snapshot(
            stream="s", reason="subscribed", epoch="e", sequence=3, checksum=check, time=TIME,
            bids=list(levels), asks=[],
        )
    )  # fmt: skip
    return book


def test_a_drawn_book_marks_own_quantity() -> None:
    network = held(Level("10", "3", 2), Level("9", "1", 1))
    view = book_view("BTC-USD", network, held(Level("10", "2", 1)))
    assert (view.market, view.sequence, view.time, view.asks) == ("BTC-USD", 3, TIME, [])
    assert [(bid.price, bid.quantity, bid.orders, bid.own) for bid in view.bids] == [
        ("10", "3", 2, "2"),
        ("9", "1", 1, "0"),
    ]
    assert [bid.own for bid in book_view("BTC-USD", network).bids] == ["0", "0"]


def test_messages_are_described_in_one_line_a_change() -> None:
    place = {"stream": "s", "epoch": "e", "sequence": 2, "previous": 1}
    book = BookL2(
        **place, checksum=0, time=TIME,  # type: ignore[arg-type]
        bids=[Level("10", "1.5", 2)], asks=[Level("11", "0", 0)],
    )  # fmt: skip
    view = TradeView(
        id="t:1", market="BTC-USD", side="sell", price="10", quantity="1", time=TIME,
        maker="m", taker="t",
    )  # fmt: skip
    trades = Trades(**place, trades=[view, view])  # type: ignore[arg-type]
    assert list(describe("BTC-USD", book)) == [
        "BTC-USD  level buy 10: 1.5 in 2 orders",
        "BTC-USD  level sell 11: gone",
    ]
    lines = list(describe("BTC-USD", trades))
    assert len(lines) == 2
    assert all(line.startswith("BTC-USD  trade sell 1 @ 10  2026") for line in lines)
    snapshot = BookL2Snapshot(
        stream="s", reason="behind", epoch="e", sequence=1, checksum=0, time=TIME, bids=[], asks=[]
    )
    assert list(describe("BTC-USD", snapshot)) == []


# Orders as they are typed


@pytest.mark.parametrize(
    ("words", "price", "hint"),
    [
        ([], None, "which market"),
        (["BTC-USD"], None, "how much"),
        (["BTC-USD", "0.5", "30000"], None, "order buy BTC-USD 0.5 @ 30000"),
        (["0.5", "BTC-USD"], None, "order buy BTC-USD 0.5"),
        (["0.5", "BTC-USD", "@", "3"], None, "order buy BTC-USD 0.5 @ 3"),
        (["0.5", "1"], None, "'0.5' is not a market"),
        (["BTC-USD", "0.5", "@"], None, "leave out the @: exchange-node order buy BTC-USD 0.5"),
        (["BTC-USD", "@", "30000"], None, "quantity before @ is missing"),
        (["BTC-USD", "@"], None, "price after @ is missing"),
        (["BTC-USD", "1", "@", "2", "@", "3"], None, "more than one @"),
        (["BTC-USD", "1", "@", "2", "3"], None, "'3' is one word too many"),
        (["BTC-USD", "1", "2", "3"], None, "'2' is one word too many"),
        (["BTC-USD", "1", "@", "2"], "3", "given twice"),
        (["BTC-USD", "1", "2"], "3", "'2' is one word too many"),
        (["BTC-USD", "-1"], None, "quantity -1 is negative"),
        (["BTC-USD", "1", "@", "-1"], None, "price -1 is negative"),
        (["BTC-USD", "0"], None, "quantity must be more than 0"),
        (["BTC-USD", "1"], "0.00", "price must be more than 0"),
        (["BTC-USD", "1e3"], None, "did you mean 1000?"),
        (["BTC-USD", "1.5e2"], None, "did you mean 150?"),
        (["BTC-USD", "1,5"], None, "did you mean 1.5?"),
        (["BTC-USD", "1"], "30,000", "did you mean 30000?"),
        (["BTC-USD", "1"], "$30,000.50", "did you mean 30000.50?"),
        (["BTC-USD", "1"], "30k", "did you mean 30000?"),
        (["BTC-USD", "1"], "30_000", "did you mean 30000?"),
        (["BTC-USD", "0.5BTC"], None, "did you mean 0.5?"),
        (["BTC-USD", "one"], None, "such as 0.5 or 30000"),
        (["BTC-USD", "nan"], None, "not a plain decimal"),
        (["BTC-USD", "1."], None, "not a plain decimal"),
        (["BTC-USD", "\u0661"], None, "not a plain decimal"),
    ],
)
def test_a_text_that_is_no_order_is_answered_with_an_example(
    words: list[str], price: str | None, hint: str
) -> None:
    with pytest.raises(OrderTextError) as refused:
        parse_order("buy", words, price)
    assert hint in str(refused.value)


@given(
    st.lists(st.text(alphabet="BTC-USD0123.,@ekK$-_ ", max_size=8), max_size=5),
    st.none() | st.text(max_size=6),
)
def test_anything_typed_is_an_order_or_a_documented_error(
    words: list[str], price: str | None
) -> None:
    try:
        order = parse_order("sell", words, price)
    except OrderTextError:
        return
    assert Decimal(order.quantity) > 0
    assert order.price is None or Decimal(order.price) > 0


# Narrow terminals


COLUMNS = [Column("order"), Column("price", number=True, rank=1), Column("why")]
ROWS = [["12", "30000.5", "its time is over"], ["heading of a group"], ["9", "31000", "x"]]


def test_a_column_of_lesser_rank_is_left_out_first_and_named() -> None:
    assert plain(table(COLUMNS, ROWS, width=30)) == [
        "order  why",
        "12     its time is over",
        "heading of a group",
        "9      x",
        "not shown for want of room: price",
    ]


def test_texts_continue_on_the_next_line_at_words() -> None:
    assert plain(table(COLUMNS, ROWS, width=16))[:3] == [
        "order  why",
        "12     its time",
        "       is over",
    ]


@given(
    st.lists(st.lists(st.text("ab c", max_size=30), min_size=3, max_size=3), max_size=6),
    st.integers(1, 60),
)
def test_no_word_is_lost_or_broken(rows: list[list[str]], width: int) -> None:
    lines = plain(table([Column("x"), Column("y"), Column("z")], rows, width=width))
    words = sorted(word for row in rows for text in row for word in text.split())
    assert sorted(word for line in lines[1:] for word in line.split()) == words


def test_a_table_fits_80_columns() -> None:
    fitted = table([Column("a"), Column("b")], [["x" * 50, "word " * 20]], width=80)
    assert max(len(line) for line in plain(fitted)) <= 80
    assert clock(TIME, today=TIME[:10]) == TIME[11:]


# Frames of `book --watch`


@pytest.mark.parametrize("height", range(2, 40))
@pytest.mark.parametrize("levels", [0, 1, 3, 12])
def test_a_frame_fits_and_has_the_best_prices(height: int, levels: int) -> None:
    book = view(
        bids=[level(f"{100 - n}", "1", own="1") for n in range(levels)],
        asks=[level(f"{101 + n}", "1") for n in range(levels)],
    )
    trade = TradeView(
        id="t", market="BTC-USD", price="100", quantity="1", side="buy",
        time="2026-01-02T03:04:05.678Z", maker=ME, taker=ME,
    )  # fmt: skip
    lines = plain(frame_lines(book, [trade] * 5, height=height, depth=10, width=80))
    assert len(lines) <= max(height, 3)
    text = "\n".join(lines)
    if levels and height > 2:
        assert any(line.split()[:2] == ["*", "100"] for line in lines)
        assert any(line.split()[:1] == ["101"] for line in lines)
    if height >= 2 * levels + 12 and levels:
        assert text.count("trade buy") == 5
        assert lines[-1] == "Ctrl-C ends"


def test_every_decision_of_the_router_is_one_line() -> None:
    event = RouterEventView(
        time=TIME,
        kind="pick",
        service="jobs",
        node="a" * 16,
        reason="expected 19.0 ms with 0 in flight; next of 2 38.0 ms",
        detail={},
    )
    view = RouterView(policy="adaptive", routes=[], hints=[], events=[event])
    (line,) = plain(why_lines(view, full=True))
    assert line.endswith(f"jobs {'a' * 16}: expected 19.0 ms with 0 in flight; next of 2 38.0 ms")
    empty = RouterView(policy="adaptive", routes=[], hints=[], events=[])
    assert plain(why_lines(empty, full=True)) == ["no service was called yet"]
