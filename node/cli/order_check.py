"""Plausibility checks of an order before it is sent: its price against the market, its size against the book.

A slip of the pen (one zero too many) costs the house most: nothing is deposited for its orders. The
checks are the command line's own; what the node refuses is in the market's rules.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Final

import click

from exchange.model.decimals import plain_decimal
from node.cli.client_session import Exit, Session
from node.views.views import AmendRequest, BookView, LevelView, MarketView, OrderRequest, Side

FAR: Final = Decimal("0.1")  # of the market's price
WHOLE_BOOK: Final = 1000  # levels a side


def market_price(market: MarketView) -> Decimal | None:
    """Return the price of the last trade, but not outside of the book; without a trade the middle of the
    book; None without either."""
    bid = None if market.bid is None else Decimal(market.bid)
    ask = None if market.ask is None else Decimal(market.ask)
    if market.last is not None:
        last = Decimal(market.last)
        if bid is None or ask is None or bid <= ask:  # a crossed book bounds nothing
            last = last if bid is None else max(last, bid)
            last = last if ask is None else min(last, ask)
        return last
    return None if bid is None or ask is None else (bid + ask) / 2


def price_doubt(side: Side, price: str, near: Decimal | None, name: str) -> str | None:
    """Return the doubt about a price, or None. `near`: the market's price, called `name`."""
    if near is None or near <= 0:
        return None
    distance = Decimal(price) - near
    if abs(distance) < FAR * near:
        return None
    percent = abs(distance) / near * 100
    how = f"{percent:.0f} % {'above' if distance > 0 else 'below'}"
    return f"the price {price} is {how} {name} {plain_decimal(near)}"


def size_doubt(request: OrderRequest, base: str, counter: list[LevelView]) -> str | None:
    """Return the doubt about the quantity of an order that trades at once, or None.
    `counter`: the levels that it can trade with, best first."""
    if not counter or request.post_only or request.stop or request.trailing_offset:
        return None
    if request.price is not None:
        limit, best = Decimal(request.price), Decimal(counter[0].price)
        if limit < best if request.side == "buy" else limit > best:
            return None  # it rests
    total = sum((Decimal(level.quantity) for level in counter), Decimal(0))
    if Decimal(request.quantity) <= total:
        return None
    offered = "offered" if request.side == "buy" else "asked for"
    return (
        f"{request.quantity} {base} is more than the whole visible book: "
        f"{plain_decimal(total)} {base} are {offered}"
    )


def order_doubts(
    request: OrderRequest, market: MarketView, book: BookView, *, new_price: bool = True
) -> list[str]:
    """Return what is odd about an order, in words."""
    doubts = []
    if request.price is not None and new_price:
        if request.stop is not None:  # the market will be there when it is triggered
            doubt = price_doubt(request.side, request.price, Decimal(request.stop), "its stop")
        else:
            near = market_price(market)
            if near is None:  # never traded, one side empty
                best = market.ask if request.side == "buy" else market.bid
                near = None if best is None else Decimal(best)
            doubt = price_doubt(request.side, request.price, near, "the market's price")
        doubts.append(doubt)
    counter = book.asks if request.side == "buy" else book.bids
    doubts.append(size_doubt(request, market.base, counter))
    return [doubt for doubt in doubts if doubt is not None]


def confirm_order(session: Session, request: OrderRequest, *, new_price: bool = True) -> None:
    """Ask again for an odd order; about its price only if that is new.

    Raises:
        CommandFailure: it is not confirmed; without a terminal and without --yes it is refused.
    """
    views = session.ask(lambda client: client.markets())
    named = [view for view in views if _letters(view.symbol) == _letters(request.market)]
    market = next((view for view in named if view.symbol == request.market), None)
    if market is None and len(named) != 1:
        return  # the node names the markets
    market = market or named[0]
    book = session.ask(lambda client: client.book(market.symbol, depth=WHOLE_BOOK))
    confirm(session, order_doubts(request, market, book, new_price=new_price))


def confirm_amendment(
    session: Session, order_id: str, changes: AmendRequest, account: str | None
) -> None:
    """Ask again when an order becomes an odd one; see `confirm_order`."""
    view = session.ask(lambda client: client.order(order_id, account=account))
    request = OrderRequest(
        market=view.market,
        side=view.side,
        quantity=plain_decimal(Decimal(changes.quantity or view.quantity) - Decimal(view.filled)),
        price=changes.price or view.price,
        stop=changes.stop or view.stop,
    )
    confirm_order(session, request, new_price=changes.price is not None)


def is_asked() -> bool:
    """Return True if a user can answer at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(session: Session, doubts: list[str]) -> None:
    """Ask whether to go on, if there are doubts; see `confirm_order`."""
    if not doubts:
        return
    text = ", and ".join(doubts)
    if not is_asked():
        raise session.failure(
            f"not sent: {text}; add --yes if this is meant", Exit.REFUSED, "not_confirmed"
        )
    click.echo(f"{text[:1].upper()}{text[1:]}.", err=True)
    if not click.confirm("Send it all the same?", default=False, err=True):
        raise session.failure("not sent", Exit.REFUSED, "not_confirmed")


def yes_option(command: click.decorators.FC) -> click.decorators.FC:
    """Add --yes."""
    return click.option(
        "--yes",
        "-y",
        is_flag=True,
        help="Do not ask again: for an order far from the market or larger than the book.",
    )(command)


def _letters(market: str) -> str:
    return "".join(char for char in market.upper() if char.isalnum())
