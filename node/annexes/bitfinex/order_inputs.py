"""Parsing of clients' order inputs into the node's commands. Pure: the time is an argument.

Numbers may be JSON numbers or texts and are taken as they are written, never as binary floats. Values
are those of `decode`: text, int, Decimal, bool, None, lists and dicts. Keys that are not known here are
ignored, as Bitfinex does (`lev` and `meta` mean nothing on a spot market).

Bots compute amounts to eight decimals and prices to five significant digits, whatever the market's
steps are. So an amount is cut to the lot, and a price is rounded to the tick so that the order is never
worse for its owner than what was written: a limit down for a buy and up for a sell; a stop, which must
not trigger early, up for a buy and down for a sell; a trailing distance up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from exchange.model.commands import Amend, NewOrder, Selection, TimeInForce
from exchange.model.peer_values import MAX_ORDER
from exchange.model.records import Order
from node.annexes.bitfinex import account_arrays
from node.annexes.bitfinex.errors import BAD_PARAMETER, BitfinexError, bad, order_not_found
from node.annexes.bitfinex.order_ids import own_number
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.http.json_members import RepeatedMember, check_members

Body = Mapping[str, Any]

MAX_NUMBER: Final = 2**53 - 1  # of cid and gid: what JSON numbers carry everywhere
_KNOWN_FLAGS: Final = (
    account_arrays.HIDDEN
    | account_arrays.REDUCE_ONLY
    | account_arrays.POST_ONLY
    | account_arrays.OCO
    | account_arrays.NO_VAR_RATES
)
_IGNORED_FLAGS: Final = account_arrays.NO_VAR_RATES
_SPOT: Final = "EXCHANGE "
_TIMES_IN_FORCE: Final[dict[str, TimeInForce]] = {
    "LIMIT": "gtc",
    "MARKET": "gtc",
    "STOP": "gtc",
    "STOP LIMIT": "gtc",
    "TRAILING STOP": "gtc",
    "FOK": "fok",
    "IOC": "ioc",
}
_AS_USUAL: Final = {_SPOT + kind: kind for kind in _TIMES_IN_FORCE}
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)


def decode(raw: bytes | str) -> Any:
    """JSON with exact numbers.

    Raises:
        BitfinexError: it is none, nested too deeply, or an object has a member twice.
    """
    try:
        value = _DECODER.decode(raw)
        check_members(raw)
        return value
    except RepeatedMember as error:
        raise BitfinexError(BAD_PARAMETER, f"json: invalid: {error.detail}", 400) from None
    except (msgspec.DecodeError, ArithmeticError, RecursionError, UnicodeError):
        raise BitfinexError(BAD_PARAMETER, "json: invalid") from None


def new_order(body: Body, account: int, symbols: Symbols, now: int) -> NewOrder:
    """Return the order to place. `now` is us since the epoch. Raises: BitfinexError: invalid input."""
    pair = symbols[body.get("symbol")]
    kind = _kind(body.get("type"))
    side, quantity = amount(pair, body.get("amount"), "amount")
    flags = _flags(body)
    price: int | None = None
    stop: int | None = None
    trailing_offset: int | None = None
    if kind in ("LIMIT", "FOK", "IOC"):
        price = limit_price(pair, body, "price", side)
    elif kind == "STOP":
        stop = _stop_price(pair, body, "price", side)
    elif kind == "STOP LIMIT":
        stop = _stop_price(pair, body, "price", side)
        price = limit_price(pair, body, "price_aux_limit", side)
    elif kind == "TRAILING STOP":
        trailing_offset = _distance(pair, body, "price_trailing")
    tif = _TIMES_IN_FORCE[kind]
    expires = _expires(body.get("tif"), now)
    if expires is not None:
        if tif != "gtc" or kind == "MARKET":
            raise bad("tif", f"{kind} orders end at once anyway")
        tif = "gtd"
    oco = _stop_price(pair, body, "price_oco_stop", side) if flags & account_arrays.OCO else None
    cid = _integer(body.get("cid"), "cid")
    return NewOrder(
        market=pair.key,
        side=side,
        quantity=quantity,
        price=price,
        account=account,
        tif=tif,
        expires=expires,
        post_only=bool(flags & account_arrays.POST_ONLY),
        hidden=bool(flags & account_arrays.HIDDEN),
        reduce_only=bool(flags & account_arrays.REDUCE_ONLY),
        stop=stop,
        trailing_offset=trailing_offset,
        oco_stop=oco,
        client_id=None if cid is None else account_arrays.client_id(cid, _day(now)),
        group=_integer(body.get("gid"), "gid") or 0,
    )


def amend(body: Body, order: Order, pair: Pair, now: int) -> Amend:
    """Parse an amendment of `order`. `amount` is the new remaining amount, `delta` is added to it.

    Raises:
        BitfinexError: that cannot be changed, or not to that.
    """
    price: int | None = None
    stop: int | None = None
    if body.get("price") is not None:
        if order.kind in ("stop", "stop_limit") and not account_arrays.triggered(order):
            stop = _stop_price(pair, body, "price", order.side)
        elif order.price is None:
            raise bad("price", "the order has none")
        else:
            price = limit_price(pair, body, "price", order.side)
    if body.get("price_aux_limit") is not None:
        if order.kind != "stop_limit" or account_arrays.triggered(order):
            raise bad("price_aux_limit", "the order has none")
        price = limit_price(pair, body, "price_aux_limit", order.side)
    quantity: int | None = None
    change: int | None = None
    if body.get("amount") is not None:
        side, left = amount(pair, body["amount"], "amount")
        if side != order.side:
            raise bad("amount", "an order keeps its side: above 0 buys, below 0 sells")
        quantity = order.filled + left
    elif body.get("delta") is not None:
        side, lots = amount(pair, body["delta"], "delta")
        change = side * order.side * lots
    _unchanged(body, order)
    return Amend(
        price=price,
        quantity=quantity,
        change=change,
        stop=stop,
        trailing_offset=None
        if body.get("price_trailing") is None
        else _distance(pair, body, "price_trailing"),
        expires=_expires(body.get("tif"), now),
    )


def _unchanged(body: Body, order: Order) -> None:
    """Flags and group cannot be amended; accept them only if unchanged."""
    if body.get("flags") is not None:
        flags = _flags(body) & ~_IGNORED_FLAGS
        if flags != account_arrays.flags_of(order):
            raise bad("flags", "an order keeps those it was placed with")
    gid = _integer(body.get("gid"), "gid")
    if gid is not None and gid != order.group:
        raise bad("gid", "an order keeps the group it was placed with")


def named_order(body: Body, now: int) -> int | str:
    """The number or the client id of the one order that is meant.

    Raises:
        BitfinexError: none is, or it can be none of this node.
    """
    if body.get("id") is not None:
        return order_number(body["id"])
    cid = _integer(body.get("cid"), "cid")
    if cid is None:
        raise bad("id", "no order selected: give id, or cid and cid_date")
    return account_arrays.client_id(cid, _date(body.get("cid_date"), now))


def selections(body: Body, account: int, now: int) -> list[Selection]:
    """Parse the selection of orders to cancel: the union of all that are named.

    Raises:
        BitfinexError: nothing that can be understood, or nothing at all.
    """
    if body.get("all") in (1, True, "1"):
        return [Selection(account=account)]
    found = []
    if body.get("id") is not None:
        numbers = frozenset(_numbers(body["id"]))
        found.append(Selection(account=account, numbers=numbers))
    if body.get("gid") is not None:
        groups = {_required(_integer(each, "gid"), "gid") for each in _list(body["gid"])}
        found.append(Selection(account=account, groups=frozenset(groups - {0})))  # 0 is no group
    if body.get("cid") is not None:
        names = set()
        for each in _list(body["cid"]):
            if not isinstance(each, list) or len(each) != 2:
                raise bad("cid", "pairs of cid and cid_date are expected")
            cid = _required(_integer(each[0], "cid"), "cid")
            names.add(account_arrays.client_id(cid, _date(each[1], now)))
        found.append(Selection(account=account, client_ids=frozenset(names)))
    if not found:
        raise bad("id", "no orders selected: give id, gid, cid or all")
    return found


def wanted_ids(body: Body) -> frozenset[int] | None:
    """The order numbers that a query is limited to."""
    return None if body.get("id") is None else frozenset(_numbers(body["id"]))


def integer(body: Body, name: str, default: int) -> int:
    """A whole number that may be absent, below 0 too.

    Raises:
        BitfinexError: something else.
    """
    value = body.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        return int(value)
    if type(value) is not int:
        raise bad(name)
    return value


# Parts


def _kind(value: Any) -> str:
    if isinstance(value, str) and value in _AS_USUAL:
        return _AS_USUAL[value]
    text = value.upper() if isinstance(value, str) else ""
    kind = text.removeprefix(_SPOT)
    if kind not in _TIMES_IN_FORCE:
        raise bad("type", f"there are {', '.join(_SPOT + known for known in _TIMES_IN_FORCE)}")
    if kind == text:
        raise bad("type", f"margin trading is not supported; use {_SPOT}{kind} for a spot order")
    return kind


def _flags(body: Body) -> int:
    if body.get("flags") is None:
        return 0
    flags = _integer(body.get("flags"), "flags") or 0
    if flags & account_arrays.CLOSE:
        raise bad("flags", "close (512) is for positions, and a spot market has none")
    if flags & ~_KNOWN_FLAGS:
        raise bad("flags", f"{flags & ~_KNOWN_FLAGS} is not known here")
    return flags


def _text(value: Any, name: str) -> str:
    """A number as it was written."""
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal) or type(value) is int:
        return str(value)
    raise bad(name, "a number is expected")


def amount(pair: Pair, value: Any, name: str) -> tuple[int, int]:
    """Side and whole lots of a signed amount."""
    text = _text(value, name)
    side = -1 if text.startswith("-") else 1
    try:
        return side, pair.scale.lots_within(text.removeprefix("-"))
    except ValueError as error:
        raise bad(name, str(error)) from None


def limit_price(pair: Pair, body: Body, name: str, side: int) -> int:
    """Ticks of a limit price: buys are rounded down, sells up.

    Raises:
        BitfinexError: the price is missing or out of range.
    """
    return _price(pair, body, name, up=side < 0)


def _stop_price(pair: Pair, body: Body, name: str, side: int) -> int:
    return _price(pair, body, name, up=side > 0)


def _distance(pair: Pair, body: Body, name: str) -> int:
    return _price(pair, body, name, up=True)


def _price(pair: Pair, body: Body, name: str, *, up: bool) -> int:
    try:
        return pair.scale.ticks_near(_text(body.get(name), name), up=up)
    except ValueError as error:
        raise bad(name, str(error)) from None


def _integer(value: Any, name: str) -> int | None:
    """A whole number from 0 to MAX_NUMBER."""
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise bad(name)
    return value


def _required(value: int | None, name: str) -> int:
    if value is None:
        raise bad(name)
    return value


def order_number(value: Any) -> int:
    """The number of the order with that id.

    Raises:
        BitfinexError: it can be none of this node.
    """
    number = own_number(_required(_integer(value, "id"), "id"))
    if not 0 < number <= MAX_ORDER:
        raise order_not_found()
    return number


def _numbers(value: Any) -> list[int]:
    """Order numbers; ids that are none of this node are left out."""
    ids = (own_number(_required(_integer(each, "id"), "id")) for each in _list(value))
    return [number for number in ids if 0 < number <= MAX_ORDER]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _day(now: int) -> str:
    return datetime.fromtimestamp(now // 1_000_000, UTC).strftime("%Y-%m-%d")


def _date(value: Any, now: int) -> str:
    """A day as YYYY-MM-DD; today if it is left out."""
    if value is None:
        return _day(now)
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise bad("cid_date", "YYYY-MM-DD is expected")
    return value


def _expires(value: Any, now: int) -> int | None:
    """The end of a good-till-date order, us: `YYYY-MM-DD[ HH:MM[:SS]]` in UTC, or milliseconds."""
    if value is None or value == "":
        return None
    try:
        if type(value) is int:
            moment = value * 1000
        else:
            at = datetime.fromisoformat(value)
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
            moment = int(at.timestamp()) * 1_000_000
    except (TypeError, ValueError, OverflowError):
        raise bad("tif", "YYYY-MM-DD HH:MM:SS in UTC is expected") from None
    # One in the past is refused later: a repeated submission is answered with its order even then.
    if not 0 < moment < now + 2**56:
        raise bad("tif", "it is out of range")
    return moment
