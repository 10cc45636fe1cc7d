"""The public REST paths under /v2, and the form of all answers there."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from operator import itemgetter
from typing import Final

import orjson

from exchange.market.candles import LATEST, TIMEFRAMES, Timeframe, TradeRecord
from node.annexes.bitfinex import order_inputs, public_arrays
from node.annexes.bitfinex.bitfinex_books import Books, check_length, check_precision
from node.annexes.bitfinex.errors import (
    BAD_PARAMETER,
    UNKNOWN,
    BitfinexError,
    bad,
    rate_limited,
    unknown_path,
)
from node.annexes.bitfinex.limits import (
    BOOK_DEFAULT,
    BOOK_MAX,
    CANDLES_DEFAULT,
    ROWS_MAX,
    TICKERS_HIST_DEFAULT,
    TICKERS_HIST_MAX,
    TICKERS_MAX,
    TRADES_DEFAULT,
)
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.pages import whole_page
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.http.http_messages import Response
from node.http.http_server import Application
from node.http.rate_limit import RateLimit
from node.http.router import Handler, Router
from node.http.server_connection import BodyTooLarge, BodyTooSlow, Request
from node.service.market_data import MarketData
from node.service.trading import Span
from p2p.base.places import address_group

log = logging.getLogger("node.api")

Respond = Callable[[Request], str | Awaitable[str]]  # the JSON text of an answer
_LAST_MS: Final = LATEST // 1000
_RATES: Final = Context(prec=12, rounding=ROUND_HALF_EVEN)


def candle_key(key: object, symbols: Symbols) -> tuple[Timeframe, Pair]:
    """The parts of trade:TIMEFRAME:SYMBOL.

    Raises:
        BitfinexError: not of this form, or there is no such length or market.
    """
    parts = key.split(":", 2) if isinstance(key, str) else []
    if len(parts) != 3 or parts[0] != "trade":
        raise BitfinexError(BAD_PARAMETER, "key: invalid")
    frame = TIMEFRAMES.get(parts[1])
    if frame is None:
        raise BitfinexError(BAD_PARAMETER, "timeframe: invalid")
    return frame, symbols[parts[2]]


class Form:
    """Answers and errors as Bitfinex writes them. `clock` is monotonic seconds."""

    def __init__(
        self, application: Application, rate: RateLimit, clock: Callable[[], float]
    ) -> None:
        self.application = application
        self.rate = rate
        self.clock = clock

    def of(self, respond: Respond) -> Handler:
        """A handler of what `respond` answers with the JSON text of an array; requests are counted by address."""

        def handler(request: Request) -> Response | Awaitable[Response]:
            try:
                if not self.allows(request, self.clock()):
                    raise rate_limited()
                if request.head.target.query:
                    check_query(request)
                found = respond(request)
            except Exception as error:
                return self.refusal(request, error)
            if isinstance(found, str):
                return Response(200, found.encode())
            return self.later(request, found)

        return handler

    def allows(self, request: Request, now: float) -> bool:
        """Count a request for its address."""
        return self.rate.allows(f"address {address_group(request.remote)}", now)

    async def later(self, request: Request, found: Awaitable[str]) -> Response:
        try:
            return Response(200, (await found).encode())
        except Exception as error:
            return self.refusal(request, error)

    def refusal(self, request: Request, error: Exception) -> Response:
        """The answer to a request that raised an error."""
        if isinstance(error, BodyTooLarge):
            error = bad("body", "it is too long")
        elif isinstance(error, BodyTooSlow):
            error = bad("body", "it did not come in time")
        if not isinstance(error, BitfinexError):
            incident = secrets.token_hex(4)
            where = request.head.method, request.head.target.path
            log.error("incident %s: %s %r failed", incident, *where, exc_info=error)
            error = BitfinexError(
                UNKNOWN, f"the node failed to answer; its log has incident {incident}"
            )
        return Response(error.status, orjson.dumps(["error", error.code, error.text]))


def query_of(request: Request) -> dict[str, str]:
    """The query, whose names are there once."""
    return dict(request.head.target.query)


class Rest:
    """The handlers. Each returns the JSON text of an array, or raises BitfinexError."""

    def __init__(self, market_data: MarketData, symbols: Symbols, books: Books, form: Form) -> None:
        self._market_data = market_data
        self._symbols = symbols
        self._books = books
        self._form = form

    def add_to(self, router: Router) -> None:
        answers: tuple[tuple[str, Respond], ...] = (
            ("/v2/platform/status", self._status),
            ("/v2/conf/{labels}", self._conf),
            ("/v2/tickers", self._tickers),
            ("/v2/tickers/hist", self._past_tickers),
            ("/v2/ticker/{symbol}", self._ticker),
            ("/v2/trades/{symbol}/hist", self._trades),
            ("/v2/book/{symbol}/{precision}", self._book),
            ("/v2/candles/{key}/{section}", self._candles),
        )
        for path, respond in answers:
            router.add("GET", path, self._form.of(respond))
        calculations = Calculations(self._market_data, self._symbols)
        for path, calculate in (
            ("/v2/calc/trade/avg", calculations.trade_average),
            ("/v2/calc/fx", calculations.rate),
        ):
            router.add("POST", path, self._form.of(_calculated(calculate)))
        router.missing("/v2/", self._form.of(_nothing))

    def _status(self, _request: Request) -> str:
        return "[1]"

    def _conf(self, request: Request) -> str:
        labels = request.head.target.route.params["labels"].split(",")
        return orjson.dumps(
            [public_arrays.configuration(label, self._symbols) for label in labels]
        ).decode()

    def _tickers(self, request: Request) -> str:
        pairs = self._wanted(request)
        return public_arrays.array(
            public_arrays.named_ticker(pair, self._market_data) for pair in pairs
        )

    def _wanted(self, request: Request) -> list[Pair]:
        wanted = query_of(request).get("symbols", "")
        if wanted == "ALL":
            return list(self._symbols)
        names = wanted.split(",") if wanted else []
        if not 0 < len(names) <= TICKERS_MAX:
            raise BitfinexError(BAD_PARAMETER, "symbols: invalid")
        return [self._symbols[name] for name in names]

    async def _past_tickers(self, request: Request) -> str:
        start, end = _span(request)
        limit = min(_limit(request, TICKERS_HIST_DEFAULT), TICKERS_HIST_MAX)
        rows = []
        for pair in self._wanted(request):
            candles = await self._market_data.candles(
                pair.key, "1h", start=start, end=end, limit=limit, newest_first=True
            )
            rows += [(-candle.start, public_arrays.past_ticker(pair, candle)) for candle in candles]
        rows.sort(key=itemgetter(0))
        return public_arrays.array(text for _, text in rows[:limit])

    def _ticker(self, request: Request) -> str:
        return public_arrays.ticker(
            self._symbols[request.head.target.route.params["symbol"]], self._market_data
        )

    async def _trades(self, request: Request) -> str:
        pair = self._symbols[request.head.target.route.params["symbol"]]
        start, end = _span(request)
        span = Span(
            start=start,
            end=end,
            limit=_limit(request, TRADES_DEFAULT),
            newest_first=_newest_first(request),
        )

        async def read(part: Span) -> list[TradeRecord]:
            return await self._market_data.trades(
                pair.key,
                start=part.start,
                end=end if part.end is None else part.end,
                limit=part.limit,
                newest_first=part.newest_first,
                skip=part.skip,
            )

        cursor = query_of(request).get("cursor")
        records = await whole_page(request, cursor, span, read, lambda record: record.time)
        return public_arrays.array(public_arrays.trade(pair, record) for record in records)

    def _book(self, request: Request) -> str:
        pair = self._symbols[request.head.target.route.params["symbol"]]
        precision = check_precision(request.head.target.route.params["precision"])
        length = check_length(query_of(request).get("len", BOOK_DEFAULT))
        return self._books.view(pair, precision, length).snapshot

    async def _candles(self, request: Request) -> str:
        frame, pair = candle_key(request.head.target.route.params["key"], self._symbols)
        section = request.head.target.route.params["section"]
        if section == "last":
            candles = await self._market_data.candles(pair.key, frame.name, limit=1)
            return public_arrays.candle(pair, candles[0]) if candles else "[]"
        if section != "hist":
            raise BitfinexError(BAD_PARAMETER, "section: invalid")
        start, end = _span(request)
        candles = await self._market_data.candles(
            pair.key,
            frame.name,
            start=start,
            end=end,
            limit=_limit(request, CANDLES_DEFAULT),
            newest_first=_newest_first(request),
        )
        return public_arrays.array(public_arrays.candle(pair, candle) for candle in candles)


def _calculated(calculate: Callable[[order_inputs.Body], str]) -> Respond:
    """Parameters come in the body or in the query."""

    def respond(request: Request) -> str:
        raw = request.body
        body = order_inputs.decode(raw) if raw.strip() else {}
        if not isinstance(body, dict):
            raise bad("body", "a JSON object is expected")
        query = query_of(request)
        for name in query.keys() & body.keys():
            raise BitfinexError(
                BAD_PARAMETER, f"{name}: invalid: it is in the query and the body", 400
            )
        return calculate({**query, **body})

    return respond


def check_query(request: Request) -> None:
    """Refuse parameters that are given twice."""
    for name, times in Counter(name for name, _ in request.head.target.query).items():
        if times > 1:
            raise BitfinexError(BAD_PARAMETER, f"{name[:40]}: invalid: it is given twice", 400)


def _nothing(_request: Request) -> str:
    raise unknown_path()


def _number(request: Request, name: str, default: int) -> int:
    text = query_of(request).get(name)
    if not text:
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise BitfinexError(BAD_PARAMETER, f"{name}: invalid")
    return int(text)


def _limit(request: Request, default: int) -> int:
    limit = _number(request, "limit", default)
    if limit < 1:
        raise BitfinexError(BAD_PARAMETER, "limit: invalid")
    return min(limit, ROWS_MAX)


def _span(request: Request) -> tuple[int, int]:
    """`start` and `end`, which are milliseconds and both included, in microseconds."""
    start = min(max(_number(request, "start", 0), 0), _LAST_MS)
    end = min(max(_number(request, "end", _LAST_MS), 0), _LAST_MS)
    return start * 1000, end * 1000 + 999


def _newest_first(request: Request) -> bool:
    sort = _number(request, "sort", -1)
    if sort not in (-1, 1):
        raise BitfinexError(BAD_PARAMETER, "sort: invalid")
    return sort == -1


class Calculations:
    """Average price of a market order, and exchange rates. Each returns the JSON text of an array, or raises BitfinexError."""

    def __init__(self, market_data: MarketData, symbols: Symbols) -> None:
        self._market_data = market_data
        self._symbols = symbols

    def trade_average(self, body: Body) -> str:
        """PRICE_AVG, AMOUNT: what an order for `amount` (negative: sold) would trade of the book's first
        250 levels, no worse than `rate_limit` (also called `price_limit`)."""
        pair = self._symbols[body.get("symbol")]
        side, wanted = order_inputs.amount(pair, body.get("amount"), "amount")
        worst: int | None = None
        for name in ("rate_limit", "price_limit"):
            if body.get(name) not in (None, 0, "0"):
                worst = order_inputs.limit_price(pair, body, name, side)
        lots = value = 0
        for ticks, quantity, _ in self._market_data.shown(pair.key).book.levels(-side, BOOK_MAX):
            if lots == wanted or (worst is not None and side * (ticks - worst) > 0):
                break
            taken = min(quantity, wanted - lots)
            lots += taken
            value += taken * ticks
        if not lots:
            raise BitfinexError(BAD_PARAMETER, "amount: the book has nothing at such a price")
        average = pair.instrument.average_price_text(value, lots)
        return f"[{average},{pair.scale.amount(side * lots)}]"

    def rate(self, body: Body) -> str:
        """CURRENT_RATE of `ccy1` in `ccy2`, by last prices: of their market in either direction, else over
        one currency in between."""
        first, second = body.get("ccy1"), body.get("ccy2")
        known = self._symbols.currencies
        for name, currency in (("ccy1", first), ("ccy2", second)):
            if currency not in known:
                raise bad(name, f"one of {', '.join(known)} is expected")
        if first == second:
            return "[1]"
        rates = self._rates()
        found = rates.get((first, second))
        if found is None:
            found = next(
                (
                    _RATES.multiply(rates[first, between], rates[between, second])
                    for between in known
                    if (first, between) in rates and (between, second) in rates
                ),
                None,
            )
        if found is None:
            raise BitfinexError(BAD_PARAMETER, f"no market has a price of {first} in {second}")
        return f"[{found.normalize(_RATES):f}]"

    def _rates(self) -> dict[tuple[object, object], Decimal]:
        rates: dict[tuple[object, object], Decimal] = {}
        for pair in self._symbols:
            price = self._price(pair)
            if price is not None:
                base, quote = pair.instrument.base, pair.instrument.quote
                rates[base, quote] = price
                rates[quote, base] = _RATES.divide(Decimal(1), price)
        return rates

    def _price(self, pair: Pair) -> Decimal | None:
        """Last price; of a market that was not traded the middle of its book."""
        ticker = self._market_data.ticker(pair.key)
        ticks = ticker.day.last
        if ticks is not None:
            return Decimal(pair.scale.price(ticks))
        if ticker.bid is None or ticker.ask is None:
            return None
        return (Decimal(pair.scale.price(ticker.bid)) + Decimal(pair.scale.price(ticker.ask))) / 2
