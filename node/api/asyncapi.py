"""The stream's own description: an AsyncAPI 3.0 document made from the types of its messages."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Final, get_args

import msgspec

from node.api import limits
from node.api.message_examples import NODE_EXAMPLES, ORDER_EXAMPLES
from node.api.openapi import version
from node.streams.book_views import MAX_LEVELS, MAX_ORDERS
from node.streams.node_messages import (
    Decisions,
    DiagnosticsState,
    FeedsState,
    HaltsState,
    PeersState,
    RouterState,
    ServicesState,
    StatusState,
    TopologyState,
)
from node.streams.order_messages import (
    MAX_MANY,
    Accepted,
    AmendOrder,
    CancelAfter,
    CancelAfterSet,
    CancelOnDisconnect,
    CancelOnDisconnectSet,
    CancelOrder,
    CancelOrders,
    Many,
    Outcome,
    Refused,
    Results,
    SubmitOrder,
)
from node.streams.stream import CONFLATE_BEHIND, MAX_HISTORY
from node.streams.stream_messages import (
    Answer,
    Auth,
    Authenticated,
    Balances,
    BalancesSnapshot,
    BookL1,
    BookL2,
    BookL2Snapshot,
    BookL3,
    BookL3Snapshot,
    Candles,
    CandlesSnapshot,
    Channel,
    ClientMessage,
    Fills,
    FillsSnapshot,
    Level,
    Orders,
    OrdersSnapshot,
    Ping,
    Pong,
    RestingOrder,
    Resume,
    ServerMessage,
    StreamError,
    Subscribe,
    Subscribed,
    Ticker,
    TickerView,
    Trades,
    TradesSnapshot,
    Unsubscribe,
    Unsubscribed,
)
from node.views.views import BalanceView, CandleView, FillView, OrderView, TradeView

_CHANNEL: Final = "#/channels/stream"

# What each channel sends.
SENT: Final[dict[Channel, tuple[type[msgspec.Struct], ...]]] = {
    "book": (BookL1, BookL2Snapshot, BookL2, BookL3Snapshot, BookL3),
    "trades": (TradesSnapshot, Trades),
    "ticker": (Ticker,),
    "candles": (CandlesSnapshot, Candles),
    "orders": (OrdersSnapshot, Orders),
    "fills": (FillsSnapshot, Fills),
    "balances": (BalancesSnapshot, Balances),
    "status": (StatusState,),
    "diagnostics": (DiagnosticsState,),
    "peers": (PeersState,),
    "topology": (TopologyState,),
    "feeds": (FeedsState,),
    "services": (ServicesState,),
    "router": (RouterState,),
    "decisions": (Decisions,),
    "halts": (HaltsState,),
}
# How what a client sends is answered.
ANSWERED: Final[dict[type[msgspec.Struct], tuple[type[msgspec.Struct], ...]]] = {
    Subscribe: (Subscribed, StreamError),
    Unsubscribe: (Unsubscribed, StreamError),
    Auth: (Authenticated, StreamError),
    Ping: (Pong,),
    SubmitOrder: (Accepted, Outcome, Refused),
    AmendOrder: (Accepted, Outcome, Refused),
    CancelOrder: (Accepted, Outcome, Refused),
    CancelOrders: (Accepted, Outcome, Refused),
    CancelAfter: (CancelAfterSet, Refused),
    CancelOnDisconnect: (CancelOnDisconnectSet, Refused),
    Many: (Results, Outcome, Refused),
}

_NODE: Final = "a2b3c4d5e6f7g2h3i4j5k6l7m2n3o4p5"
_OTHER: Final = "z7y6x5w4v3u2t7s6r5q4p3o2n7m6l5k4"
_TIME: Final = "2026-01-02T03:04:05.678Z"
_BOOK: Final = "book/BTC-USD/L2/25/network"
_EPOCH: Final = "5f0c9a31-1"
_BIDS: Final = [Level("30000", "0.5", 2)]
_ORDERS: Final = [RestingOrder(f"{_OTHER}-7", "30000", "0.5", "2026-01-02T03:04:05.678901Z", False)]
_TRADE: Final = TradeView(
    id=f"{_OTHER}:3",
    market="BTC-USD",
    side="sell",
    price="30000",
    quantity="0.1",
    time=_TIME,
    maker=_NODE,
    taker=_OTHER,
)
_TICKER: Final = TickerView(
    market="BTC-USD",
    bid="30000",
    bid_quantity="0.4",
    ask=None,
    ask_quantity="0",
    last="30000",
    change="-12.5",
    high="30100",
    low="29990",
    volume="3.25",
    time=_TIME,
)
_CANDLE: Final = CandleView(
    time=_TIME,
    open="30000",
    high="30100",
    low="29990",
    close="30000",
    volume="1.5",
    trades=12,
)
_ORDER: Final = OrderView(
    id=f"{_NODE}-12",
    number=12,
    market="BTC-USD",
    side="buy",
    type="limit",
    price="30000",
    quantity="0.5",
    filled="0.1",
    remaining="0.4",
    pending="0",
    status="open",
    average_price="30000",
    created=_TIME,
)
_FILL: Final = FillView(
    id=f"{_OTHER}:3",
    market="BTC-USD",
    order_id=f"{_NODE}-12",
    role="maker",
    side="buy",
    price="30000",
    quantity="0.1",
    time=_TIME,
    counterparty=_OTHER,
    counterparty_order_id=f"{_OTHER}-9",
)
_BALANCE: Final = BalanceView(asset="USD", total="1000", held="250", available="750")


def _place(stream: str, sequence: int = 18) -> dict[str, Any]:
    return {"stream": stream, "epoch": _EPOCH, "sequence": sequence}


def _book(stream: str, checksum: int) -> dict[str, Any]:
    return {**_place(stream), "checksum": checksum, "time": _TIME}


# One message of each kind.
EXAMPLES: Final[tuple[msgspec.Struct, ...]] = (
    Subscribe(channel="book", market="BTC-USD", level="L2", depth=25, id="1"),
    Subscribe(
        channel="book",
        market="BTC-USD",
        level="L3",
        depth="full",
        scope="own",
        conflate_ms=250,
        resume=Resume(epoch=_EPOCH, sequence=17),
    ),
    Subscribe(channel="candles", market="BTC-USD", timeframe="5m"),
    Subscribe(channel="orders"),
    Subscribe(channel="fills", account="alice"),
    Unsubscribe(stream=_BOOK),
    Auth(key="K7", secret="a secret of your own"),  # noqa: S106
    Ping(id="7"),
    Subscribed(stream=_BOOK, resumed=False, id="1"),
    Unsubscribed(stream=_BOOK),
    Authenticated(account=1),
    Pong(id="7"),
    StreamError(code="unknown_market", detail="no market 'XX-USD' (known: BTC-USD)", id="1"),
    BookL1(**_book("book/BTC-USD/L1/network", 1876585526), previous=17, bid=_BIDS[0], ask=None),
    BookL2Snapshot(**_book(_BOOK, 1876585526), reason="subscribed", bids=_BIDS, asks=[]),
    BookL2(**_book(_BOOK, 0), previous=17, bids=[Level("30000", "0", 0)], asks=[]),
    BookL3Snapshot(
        **_book("book/BTC-USD/L3/25/network", 123), reason="too_old", bids=_ORDERS, asks=[]
    ),
    BookL3(**_book("book/BTC-USD/L3/25/network", 123), previous=17, bids=_ORDERS, asks=[]),
    TradesSnapshot(**_place("trades/BTC-USD"), reason="subscribed", trades=[_TRADE]),
    Trades(**_place("trades/BTC-USD"), previous=17, trades=[_TRADE]),
    Ticker(**_place("ticker/BTC-USD"), previous=None, ticker=_TICKER),
    CandlesSnapshot(**_place("candles/BTC-USD/5m"), reason="subscribed", candles=[_CANDLE]),
    Candles(**_place("candles/BTC-USD/5m"), previous=17, candles=[_CANDLE]),
    OrdersSnapshot(**_place("orders"), reason="subscribed", orders=[_ORDER]),
    Orders(**_place("orders"), previous=17, orders=[_ORDER]),
    FillsSnapshot(**_place("fills"), reason="restarted", fills=[_FILL]),
    Fills(**_place("fills"), previous=17, fills=[_FILL]),
    BalancesSnapshot(**_place("balances"), reason="subscribed", balances=[_BALANCE]),
    Balances(**_place("balances"), previous=17, balances=[_BALANCE]),
    *NODE_EXAMPLES,
    *ORDER_EXAMPLES,
)

DESCRIPTION: Final = f"""\
One WebSocket of JSON text messages, any number of subscriptions on it. Messages of the node are distinguished \
by `event`, what a client sends by `op`; every subscription has a `stream` name, which all its messages \
carry.

**Places.** A message of a stream has a `sequence`, and in `previous` the one before it for this reader: \
when that is not the last one that was seen, something is missing. A snapshot has no `previous`; it \
replaces what is held, and says its `reason`: `subscribed`; `restarted`, the stream began anew; `too_old`, \
what was to be resumed is not held any more; `behind`, the reader fell further behind than the history \
goes. `epoch` names the life of a stream: places of two epochs have nothing to do with each other.

**Resuming.** Subscribe with the epoch and sequence of the last message seen: the ones that were missed \
come as they were, and `subscribed` says `resumed`. The newest {MAX_HISTORY} messages of a stream are \
held, for a minute after its last reader left.

**Slow readers.** A reader more than {CONFLATE_BEHIND} messages behind gets one that says what they come \
to: of each level or order the last. `conflate_ms` asks for that always, at most one message in that many \
milliseconds. Of trades and fills none is left out: a reader too far behind for that, or one that takes nothing \
for {limits.STREAM_SEND_TIMEOUT:g} seconds, is closed with code 4000. A connection whose key was revoked is closed with 4001.

**Books.** L1 is the best bid and ask; L2 price levels, `[price, quantity, orders]`; L3 orders, `[id, \
price, quantity, time, own]`. A change gives an entry as it is now; quantity "0" means that it is gone, \
also of one that was never seen. `depth` counts entries a side; a book of more than {MAX_LEVELS} levels or \
{MAX_ORDERS} orders is not had in `full`. `scope` is the book of the whole `network`, or what this node's `own` orders are of \
it.

**Checksums.** Every message of a book has the checksum of the book after it: one line for each entry, \
c its CRC-32, and the sum of c * (2 * c + 1) over all lines, modulo 2^32; the lines are `buy:30000:0.5:2` (side, price, quantity, orders) for L1 and L2, \
`buy:<id>:30000:0.5:2026-01-02T03:04:05.678901Z` (side, id, price, quantity, time) for L3, sides `buy` and \
`sell`, texts as in the message. An empty book has 0.

**The node.** `status`, `diagnostics`, `peers`, `topology`, `feeds`, `services` and `router` say the whole state in each message, when it has changed; `decisions` brings the router's as they happen. They are for the operator and keys of the house that may read. `halts` needs no key.

**Orders.** `submit`, `amend`, `cancel`, `cancel_many`, `cancel_after` and `many` (at most {MAX_MANY} of them) \
do what REST does, with the same permissions, limits and problem documents. Each has an `id` of the \
client's, which its answers carry. Requests take effect in the order they were sent. `accepted` says that a \
request took effect and is on the node's disk, `refused` that it did not, with the `problem`. An order that \
takes from other nodes is `pending` with them: it is accepted with `decided` false, and `outcome` follows; with \
`wait_for_takes` the acknowledgement itself waits, for TAKE_ANSWER_WAIT at the most. The end of the connection \
takes nothing back, unless `cancel_on_disconnect` was enabled. While {limits.STREAM_IN_FLIGHT} requests have \
no answer, the node reads no more of them.

**Limits.** {limits.STREAM_MAX_SUBSCRIPTIONS} subscriptions a connection, 256 connections or as many \
as API_MAX_STREAMS says, {limits.STREAM_MAX_MESSAGE} bytes a message from a client. The node sends WebSocket pings and \
closes with code 1001 when it stops.
"""


def tag_of(kind: type[msgspec.Struct]) -> str:
    """Return the field and value that name a message's kind."""
    tag = kind.__struct_config__.tag
    return str(tag)


def _names(kinds: tuple[type[msgspec.Struct], ...]) -> list[dict[str, str]]:
    return [{"$ref": f"{_CHANNEL}/messages/{kind.__name__}"} for kind in kinds]


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    text = inspect.cleandoc(kind.__doc__ or "").replace("\n", " ")
    plain = not text.startswith(
        f"{kind.__name__}("
    )  # msgspec makes a signature where there is none
    return {
        "name": tag_of(kind),
        "title": kind.__name__,
        **({"summary": text} if plain and text else {}),
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "examples": [
            {"payload": msgspec.json.decode(msgspec.json.encode(example))}
            for example in EXAMPLES
            if type(example) is kind
        ],
    }


def _tidy(schema: dict[str, Any]) -> None:
    """Refine schemas beyond the types, in terms of JSON Schema draft 7, which AsyncAPI uses."""
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    for kind in (Level, RestingOrder):
        if schema.get("title") == kind.__name__:
            members = schema["items"] = schema.pop("prefixItems")
            for name, member in zip(kind.__struct_fields__, members, strict=True):
                member["title"] = name
            schema["additionalItems"] = False
    if schema.get("title") in ("AmendOrder", "CancelOrder"):
        schema["oneOf"] = [{"required": ["order_id"]}, {"required": ["client_id"]}]
    elif schema.get("title") == "CancelOrders":
        names = ("market", "group", "client_id", "all")
        schema["anyOf"] = [{"required": [name]} for name in names]
    elif schema.get("title") == "Problem":
        schema["additionalProperties"] = True


@cache
def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document."""
    received, sent = get_args(ClientMessage), get_args(ServerMessage)
    kinds = (*received, *sent)
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        _tidy(schema)
    operations: dict[str, Any] = {
        tag_of(kind): {
            "action": "receive",
            "channel": {"$ref": _CHANNEL},
            "messages": _names((kind,)),
            "reply": {"channel": {"$ref": _CHANNEL}, "messages": _names(ANSWERED[kind])},
        }
        for kind in received
    }
    for channel, messages in SENT.items():
        operations[channel] = {
            "action": "send",
            "channel": {"$ref": _CHANNEL},
            "summary": f"What a subscription to the channel {channel} brings.",
            "messages": _names(messages),
        }
    operations["answer"] = {
        "action": "send",
        "channel": {"$ref": _CHANNEL},
        "summary": "Answers to a client's messages, and the end of a subscription.",
        "messages": _names(get_args(Answer)),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "exchange-node stream",
            "version": version(),
            "description": DESCRIPTION,
            "license": {"name": "ISC"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "node": {
                "host": "127.0.0.1:8300",
                "protocol": "ws",
                "description": "API_HOST and API_PORT of the node; wss where it has a certificate.",
                "security": [{"$ref": "#/components/securitySchemes/key"}],
            }
        },
        "channels": {
            "stream": {
                "address": "/v1/stream",
                "messages": {
                    kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"}
                    for kind in kinds
                },
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": operations,
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in kinds},
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "KEY:SECRET",
                    "description": "Needed for the channels of an account where the node requires keys.",
                }
            },
        },
    }
