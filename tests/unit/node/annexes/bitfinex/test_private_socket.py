"""Channel 0 of the Bitfinex WebSocket: snapshots, events, inputs, filters, numbers, the dead man."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from bitfinex_kit import ALICE, BOB, BTC, Credentials, Exchange, running_exchange

from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex import bitfinex_socket, limits
from node.annexes.bitfinex.order_ids import OWN

SEQUENCE, TIMESTAMPS = 65_536, 32_768
LIMIT = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.3", "price": "30000"}


class Reader:
    """A client that has been greeted."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def say(self, message: Any) -> None:
        await self.ws.send_str(json.dumps(message))

    async def hear(self) -> Any:
        async with asyncio.timeout(5):
            return json.loads(await self.ws.receive_str())

    async def ask(self, message: Any) -> Any:
        await self.say(message)
        return await self.hear()

    async def enter(self, key: Credentials, **more: Any) -> dict[str, Any]:
        """Authenticate; the snapshots by kind."""
        told = await self.ask(key.event(**more))
        assert told["status"] == "OK", told
        found: dict[str, Any] = {}
        for message in await self.until_quiet():
            assert message[0] == 0
            found[message[1]] = message[2]
        return found

    async def until_quiet(self) -> list[Any]:
        """All that came before the answer to a ping, which is answered when nothing else waits."""
        await asyncio.sleep(0.02)
        await self.say({"event": "ping", "cid": 77})
        found: list[Any] = []
        while True:
            message = await self.hear()
            if isinstance(message, dict) and message["event"] == "pong":
                return found
            found.append(message)

    async def carry_out(self, kind: str, payload: Any) -> tuple[list[Any], Any]:
        """The events of an input, and its notification."""
        await self.say([0, kind, None, payload])
        heard = await self.until_quiet()
        (notification,) = [m[2] for m in heard if m[1] == "n"]
        return [m[1:] for m in heard if m[1] != "n"], notification


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshots do not wait; one test says what else they do."""
    monkeypatch.setattr(bitfinex_socket, "SNAPSHOTS_AFTER", 0.0)


@pytest.fixture(params=[True, False], ids=["at once", "in a task"])
async def exchange(request: pytest.FixtureRequest) -> AsyncIterator[Exchange]:
    """Orders are placed both ways that there are for inputs."""
    async with running_exchange() as exchange:
        exchange.trading.open = request.param
        yield exchange


@asynccontextmanager
async def connected(exchange: Exchange) -> AsyncIterator[Reader]:
    async with exchange.session.ws_connect(f"{exchange.url}/ws/2") as ws:
        reader = Reader(ws)
        assert (await reader.hear())["event"] == "info"
        yield reader


@pytest.fixture
async def reader(exchange: Exchange) -> AsyncIterator[Reader]:
    async with connected(exchange) as reader:
        yield reader


@pytest.fixture
async def trader(exchange: Exchange, reader: Reader) -> Reader:
    """A connection of ALICE's."""
    await reader.enter(exchange.key())
    return reader


async def eventually(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - the server only does it
            await asyncio.sleep(0.01)


# Entering


async def test_an_authenticated_connection_gets_a_confirmation_and_the_snapshots(
    exchange: Exchange, reader: Reader
) -> None:
    exchange.trading.set_balance(ALICE, "USD", "1000", "10")
    await exchange.post(exchange.key(), "w/order/submit", LIMIT)
    exchange.trading.fill(1, "30000", "0.1")
    told = await reader.ask(exchange.key().event())
    assert (told["event"], told["status"], told["chanId"]) == ("auth", "OK", 0)
    assert told["userId"] == ALICE
    assert told["caps"]["orders"] == {"read": 1, "write": 1}
    assert await reader.hear() == [0, "ps", []]
    assert await reader.hear() == [0, "ws", [["exchange", "USD", 1000, 0, 990, None, None]]]
    number, kind, orders = await reader.hear()
    assert (number, kind) == (0, "os")
    assert [(row[0], row[13]) for row in orders] == [
        (OWN + 1, "PARTIALLY FILLED @ 30000(0.1)")  # also what was filled before
    ]
    assert await reader.hear() == [0, "bu", [1000, 1000]]


async def test_a_refused_authentication_has_a_reason_and_may_be_repeated(
    exchange: Exchange, reader: Reader
) -> None:
    key = exchange.key()
    event = key.event()

    async def failed(message: Any) -> tuple[int, str]:
        told = await reader.ask(message)
        assert (told["event"], told["status"], told["chanId"]) == ("auth", "FAILED", 0)
        return told["code"], told["msg"]

    assert await failed({**event, "authSig": "0"}) == (10100, "apikey: digest invalid")
    assert await failed({**event, "apiKey": None}) == (10100, "apikey: invalid")
    assert (await failed({**event, "filter": "all"}))[0] == 10020
    assert (await failed({**event, "filter": [1]}))[0] == 10020
    assert (await reader.ask([0, "on", None, LIMIT]))["code"] == 10100
    assert (await reader.ask(event))["status"] == "OK"
    await reader.until_quiet()
    assert await failed(key.event()) == (10100, "auth: dup")
    async with connected(exchange) as second:
        told = await second.ask(event)
        assert (told["code"], told["msg"]) == (10114, "nonce: small")


# Inputs and events


async def test_an_order_is_new_and_its_sender_is_notified(
    exchange: Exchange, trader: Reader
) -> None:
    events, told = await trader.carry_out("on", {**LIMIT, "cid": 5, "gid": 6})
    ((kind, order),) = events
    assert kind == "on"
    assert order[:4] == [OWN + 1, 6, 5, "tBTCUSD"]
    assert (told[1], told[5], told[6]) == ("on-req", None, "SUCCESS")
    assert told[4] == order  # flat, unlike over REST


async def test_an_order_that_trades_is_sent_trade_by_trade(
    exchange: Exchange, trader: Reader
) -> None:
    await trader.carry_out("on", LIMIT)
    exchange.trading.fill(1, "30000", "0.1", fee=10_000, fee_asset="BTC")
    (_, te, execution), (_, tu, update), (_, ou, order) = await trader.until_quiet()
    assert (te, tu, ou) == ("te", "tu", "ou")
    assert execution[9:11] == [None, None]
    assert update[9:11] == [-0.0001, "BTC"]
    assert execution[:9] == update[:9]
    assert order[13] == "PARTIALLY FILLED @ 30000(0.1)"
    exchange.trading.fill(1, "30001", "0.2")
    *_, (_, oc, order) = await trader.until_quiet()
    assert oc == "oc"
    assert order[13] == "EXECUTED @ 30001(0.2): was PARTIALLY FILLED @ 30000(0.1)"
    assert order[6:8] == [0, 0.3]


async def test_an_order_over_at_once_is_new_trades_and_is_over(
    exchange: Exchange, trader: Reader
) -> None:
    """As one news, which is how an order that trades at once comes from the node."""
    trading = exchange.trading
    quiet, trading.listeners = trading.listeners, {}
    await exchange.post(exchange.key(), "w/order/submit", {**LIMIT, "type": "EXCHANGE MARKET"})
    fill = trading.fill(1, "30000", "0.3", role="taker")
    trading.listeners = quiet
    trading._tell(ALICE, (trading.orders[1],), (fill,))
    heard = await trader.until_quiet()
    assert [m[1] for m in heard] == ["on", "te", "tu", "oc"]
    assert (heard[0][2][6], heard[0][2][13]) == (0.3, "ACTIVE")
    assert heard[1][2][8] == -1
    assert heard[3][2][13] == "EXECUTED @ 30000(0.3)"


async def test_events_go_to_all_connections_of_the_account(
    exchange: Exchange, trader: Reader
) -> None:
    async with connected(exchange) as second, connected(exchange) as stranger:
        await second.enter(exchange.key())
        await stranger.enter(exchange.key(BOB))
        await exchange.post(exchange.key(), "w/order/submit", LIMIT)
        exchange.trading.end(1, "expired")
        exchange.trading.set_balance(ALICE, "USD", "7")
        heard = await trader.until_quiet()
        assert [m[1] for m in heard] == ["on", "oc", "wu", "bu"]
        assert heard[1][2][13] == "CANCELED"
        assert heard[2][2] == ["exchange", "USD", 7, 0, 7, None, None]
        assert heard[3][2] == [7, 7]
        assert await second.until_quiet() == heard
        assert await stranger.until_quiet() == []


async def test_the_value_of_all_wallets_is_at_the_last_prices(
    exchange: Exchange, trader: Reader
) -> None:
    exchange.markets.trade("BTC-USD", 1, "30000", "0.5")
    exchange.trading.set_balance(ALICE, "BTC", "1.5")
    exchange.trading.set_balance(ALICE, "ETH", "9")  # nobody has traded it
    exchange.trading.set_balance(ALICE, "USD", "10.5")
    heard = await trader.until_quiet()
    assert [m[1] for m in heard] == ["wu", "wu", "wu", "bu"]  # once for what comes together
    assert heard[-1][2] == [45010.5, 45010.5]


async def test_an_order_is_updated_and_cancelled(exchange: Exchange, trader: Reader) -> None:
    await trader.carry_out("on", {**LIMIT, "cid": 5})
    events, told = await trader.carry_out("ou", {"id": OWN + 1, "price": "29000"})
    ((kind, order),) = events
    assert (kind, order[16], told[1], told[4][16]) == ("ou", 29000, "ou-req", 29000)
    events, told = await trader.carry_out("oc", {"cid": 5})
    ((kind, order),) = events
    assert (kind, order[13], told[1], told[6]) == ("oc", "CANCELED", "oc-req", "SUCCESS")


@pytest.mark.parametrize(
    ("kind", "payload", "code", "index", "value"),
    [
        ("on", {**LIMIT, "cid": 5, "price": "x"}, 10020, 2, 5),
        ("on", {**LIMIT, "type": "LIMIT"}, 10020, 3, "tBTCUSD"),
        ("on", None, 10020, 0, None),
        ("ou", {"id": OWN + 9}, 10001, 0, OWN + 9),
        ("oc", {"id": OWN + 9}, 10001, 0, OWN + 9),
        ("oc", {"id": 10**30}, 10020, 0, None),
        ("oc_multi", {}, 10020, 0, None),
        ("ox_multi", [["on"]], 10020, 0, None),
    ],
)
async def test_an_input_that_is_refused_is_notified_with_an_order_of_nothing(
    trader: Reader, kind: str, payload: Any, code: int, index: int, value: Any
) -> None:
    """Its data holds what the client knows its request by, which some look for."""
    events, told = await trader.carry_out(kind, payload)
    assert events == []
    assert (told[1], told[5], told[6]) == (f"{kind}-req", code, "ERROR")
    assert len(told[4]) == 32
    assert told[4][index] == value


async def test_too_many_orders_are_refused_in_the_form_of_this_dialect(
    exchange: Exchange, trader: Reader
) -> None:
    exchange.trading.refuse = CommandRejected("rate_limited", "too many")
    _, told = await trader.carry_out("on", LIMIT)
    assert told[5:] == [11010, "ERROR", "ratelimit: error"]


async def test_a_reading_key_gets_all_events_and_changes_nothing(
    exchange: Exchange, reader: Reader
) -> None:
    await reader.enter(exchange.key(ALICE, ("read",)))
    _, told = await reader.carry_out("on", LIMIT)
    assert told[5:7] == [10100, "ERROR"]
    await exchange.post(exchange.key(), "w/order/submit", LIMIT)
    assert [m[1] for m in await reader.until_quiet()] == ["on"]


async def test_calculations_are_sent_again(exchange: Exchange, trader: Reader) -> None:
    exchange.trading.set_balance(ALICE, "USD", "10")
    await trader.until_quiet()
    names = [["wallet_exchange_USD"], ["balance"], ["position_tBTCUSD"], [7], "x", []]
    await trader.say([0, "calc", None, names])
    assert [m[1] for m in await trader.until_quiet()] == ["wu", "bu"]


@pytest.mark.parametrize(
    "message",
    [[], [0], [0, "on"], [1, "on", None, {}], [0, "xx", None, {}], [0, ["on"], None, {}],
     [0, "calc", None, "x"]],
)  # fmt: skip
async def test_malformed_inputs_are_errors_and_the_connection_stays(
    trader: Reader, message: Any
) -> None:
    assert (await trader.ask(message))["event"] == "error"
    _, told = await trader.carry_out("on", LIMIT)
    assert told[6] == "SUCCESS"


async def test_a_fault_of_the_node_is_an_error_with_its_number_in_the_log(
    exchange: Exchange, trader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.trading.place_now = None  # type: ignore[method-assign,assignment]
    _, told = await trader.carry_out("on", LIMIT)
    assert (told[5], told[6]) == (10000, "ERROR")
    assert told[7].rpartition(" ")[2] in caplog.text


# Filters, numbers, heartbeats


@pytest.mark.parametrize(
    ("words", "snapshots", "kinds"),
    [
        ([], {"ps", "ws", "os", "bu"}, ["on", "on", "n", "wu", "wu", "bu"]),
        (["trading"], {"ps", "os"}, ["on", "on"]),
        (["trading-tETHUSD", "notify"], {"os"}, ["on", "n"]),
        (["wallet"], {"ws"}, ["wu", "wu"]),
        (["wallet-exchange-BTC", "balance"], {"ws", "bu"}, ["wu", "bu"]),
        (["funding"], set(), []),
    ],
)
async def test_a_filter_leaves_out_unnamed_channels(
    exchange: Exchange, reader: Reader, words: list[str], snapshots: set[str], kinds: list[str]
) -> None:
    exchange.trading.set_balance(ALICE, "BTC", "1")
    await exchange.post(
        exchange.key(), "w/order/submit", {**LIMIT, "symbol": "tETHUSD", "price": "3000"}
    )
    assert set(await reader.enter(exchange.key(), filter=words)) == snapshots
    await reader.say([0, "on", None, LIMIT])
    await asyncio.sleep(0.02)
    await exchange.post(
        exchange.key(), "w/order/submit", {**LIMIT, "symbol": "tETHUSD", "price": "3000"}
    )
    exchange.trading.tell_balances(ALICE, BTC="1", USD="2")
    assert sorted(m[1] for m in await reader.until_quiet()) == sorted(kinds)


async def test_two_sequences_count_all_messages_and_those_of_the_account(
    exchange: Exchange, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither counts the outcome of an input: it has the private number as that is, a refusal none."""
    await reader.ask({"event": "conf", "flags": SEQUENCE})
    await reader.ask(exchange.key().event())
    heard = await reader.until_quiet()
    assert [(m[1], *m[-2:]) for m in heard] == [
        ("ps", 1, 1),
        ("ws", 2, 2),
        ("os", 3, 3),
        ("bu", 4, 4),
    ]
    await reader.say({"event": "subscribe", "channel": "book", "symbol": "tBTCUSD"})
    assert (await reader.hear())["event"] == "subscribed"
    assert (await reader.hear())[-1] == 5
    await reader.say([0, "on", None, {**LIMIT, "price": "x"}])
    assert len(await reader.hear()) == 3  # the refusal has no number
    await reader.say([0, "on", None, LIMIT])
    heard = await reader.until_quiet()
    assert [(m[1], *m[3:]) for m in heard] == [("on", 6, 5), ("n", 5)]
    await reader.ask({"event": "conf", "flags": SEQUENCE | TIMESTAMPS})
    exchange.trading.end(1, "expired")
    ((_, kind, _, public, private, at),) = await reader.until_quiet()
    assert (kind, public, private) == ("oc", 7, 6)
    assert at > 10**12


async def test_channel_0_beats(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitfinex_socket, "HEARTBEAT", 0.05)
    async with connected(exchange) as reader:
        await reader.ask({"event": "conf", "flags": SEQUENCE})
        await reader.enter(exchange.key(), filter=["notify"])
        number, beat, public = await reader.hear()
        assert (number, beat) == (0, "hb")
        assert public >= 1


async def test_channel_0_is_not_one_of_the_25_and_cannot_be_unsubscribed(
    exchange: Exchange, trader: Reader
) -> None:
    for prec in ("P0", "P1", "P2", "P3", "P4", "R0"):
        for length in (1, 25, 100, 250):
            book = {"channel": "book", "symbol": "tBTCUSD", "prec": prec, "len": length}
            await trader.say({"event": "subscribe", **book})
    heard = await trader.until_quiet()
    assert len([m for m in heard if isinstance(m, dict)]) == 24
    await trader.say({"event": "subscribe", "channel": "trades", "symbol": "tBTCUSD"})
    assert (await trader.hear())["event"] == "subscribed"
    await trader.until_quiet()
    assert (await trader.ask({"event": "unsubscribe", "chanId": 0}))["code"] == 10401
    _, told = await trader.carry_out("on", LIMIT)
    assert told[6] == "SUCCESS"


# The end


@pytest.mark.parametrize("dms", [4, 0])
async def test_the_dead_mans_switch_cancels_when_the_connection_ends(
    exchange: Exchange, dms: int
) -> None:
    async with connected(exchange) as reader:
        await reader.enter(exchange.key(), dms=dms)
        await reader.carry_out("on", LIMIT)
        await exchange.post(exchange.key(), "w/order/submit", LIMIT)  # the account's, all of them
        await exchange.post(exchange.key(BOB), "w/order/submit", LIMIT)
        connection = reader.ws._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()  # as when its machine dies
    if dms:
        await eventually(lambda: exchange.trading.orders[2].done)
    else:
        await eventually(lambda: not exchange.trading.listeners[ALICE])
    died = "dead_man" if dms else ""
    assert [order.reason for order in exchange.trading.orders.values()] == [died, died, ""]


async def test_the_dead_man_needs_a_key_that_may_trade(exchange: Exchange, reader: Reader) -> None:
    told = await reader.ask(exchange.key(ALICE, ("read",)).event(dms=4))
    assert (told["status"], told["code"]) == ("FAILED", 10100)


async def test_a_dead_mans_switch_that_cannot_cancel_is_logged(
    exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(exchange) as reader:
        await reader.enter(exchange.key(), dms=4)
        exchange.trading.refuse = CommandRejected("stale_data", "the disk is old")
    await eventually(lambda: "the disk is old" in caplog.text)


async def test_an_order_in_progress_continues_when_its_connection_ends(exchange: Exchange) -> None:
    exchange.trading.open = False
    wait = asyncio.Event()
    place = exchange.trading.place

    async def slowly(order: Any, **_more: Any) -> Any:
        await wait.wait()
        return await place(order)

    exchange.trading.place = slowly  # type: ignore[method-assign]
    async with connected(exchange) as reader:
        await reader.enter(exchange.key(), dms=4)
        await reader.say([0, "on", None, LIMIT])
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    wait.set()
    await eventually(lambda: exchange.trading.orders and exchange.trading.orders[1].done)


async def test_an_account_without_connections_has_no_listener(exchange: Exchange) -> None:
    async with connected(exchange) as one:
        await one.enter(exchange.key())
        async with connected(exchange) as two:
            await two.enter(exchange.key())
            assert len(exchange.trading.listeners[ALICE]) == 1
        await asyncio.sleep(0.05)
        await exchange.post(exchange.key(), "w/order/submit", LIMIT)
        assert [m[1] for m in await one.until_quiet()] == ["on"]
    await eventually(lambda: not exchange.trading.listeners[ALICE])


async def test_a_reader_that_leaves_its_account_lying_is_cut_and_costs_no_memory(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRIVATE_WAITING", 5)
    async with connected(exchange) as reader:
        await reader.enter(exchange.key())
        for cents in range(6):
            exchange.trading.set_balance(ALICE, "USD", f"{cents}")  # wu and bu
        async with asyncio.timeout(5):
            message = await reader.ws.receive()
        assert message.type in (
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.ERROR,
            aiohttp.WSMsgType.CLOSE,
        )
    await eventually(lambda: not exchange.trading.listeners[ALICE])


async def test_so_many_inputs_at_once_and_then_reading_waits(
    exchange: Exchange, trader: Reader
) -> None:
    exchange.trading.open = False
    wait = asyncio.Event()
    begun = []

    async def slowly(order: Any, **_more: Any) -> Any:
        begun.append(order)
        await wait.wait()
        raise CommandRejected("halted", "later")

    exchange.trading.place = slowly  # type: ignore[method-assign]
    for number in range(limits.INPUTS_WAITING + 20):
        await trader.say([0, "on", None, {**LIMIT, "cid": number}])
    await eventually(lambda: len(begun) == limits.INPUTS_WAITING)
    await asyncio.sleep(0.05)
    assert len(begun) == limits.INPUTS_WAITING
    wait.set()
    await eventually(lambda: len(begun) == limits.INPUTS_WAITING + 20)


# Orders that are placed at once


async def test_so_many_orders_without_an_answer_and_then_reading_waits(
    exchange: Exchange, trader: Reader
) -> None:
    trading = exchange.trading
    trading.open, trading.committing = True, False
    for number in range(limits.INPUTS_WAITING + 20):
        await trader.say([0, "on", None, {**LIMIT, "cid": number}])
    await eventually(lambda: len(trading.placed) == limits.INPUTS_WAITING)
    await asyncio.sleep(0.05)
    assert len(trading.placed) == limits.INPUTS_WAITING
    trading.committing = True
    trading.commit()
    heard = await trader.until_quiet()
    assert len([m for m in heard if m[1] == "n"]) == limits.INPUTS_WAITING + 20


async def test_an_order_is_not_acknowledged_before_the_disk_has_it(
    exchange: Exchange, trader: Reader
) -> None:
    trading = exchange.trading
    trading.open, trading.committing = True, False
    await trader.say([0, "on", None, LIMIT])
    assert await trader.until_quiet() == []
    trading.commit(CommandRejected("storage_failed", "the disk is full"))
    (told,) = await trader.until_quiet()
    assert (told[1], told[2][6]) == ("n", "ERROR")
    assert "the disk is full" in told[2][7]


async def test_an_order_that_takes_from_other_nodes_is_acknowledged_when_they_have_decided(
    exchange: Exchange, trader: Reader
) -> None:
    trading = exchange.trading
    trading.open = True
    place = trading.place_now

    def pending(order: Any) -> Any:
        (made,) = place(order)
        made.pending = made.quantity
        return [made]

    trading.place_now = pending  # type: ignore[method-assign]
    await trader.say([0, "on", None, LIMIT])
    assert [m[1] for m in await trader.until_quiet()] == ["on"]
    (order,) = trading.orders.values()
    order.pending = 0
    trading.fill(order.number, "30000", "0.3", role="taker")
    heard = await trader.until_quiet()
    (told,) = [m for m in heard if m[1] == "n"]
    assert told[2][4][13].startswith("EXECUTED @ 30000")


async def test_an_event_carries_the_latest_state_of_an_order_changed_before_its_publication(
    exchange: Exchange, trader: Reader
) -> None:
    trading = exchange.trading
    trading.open, trading.committing = True, False
    await trader.say([0, "on", None, LIMIT])
    await eventually(lambda: trading.orders)
    trading.orders[1].price = BTC.to_ticks("29999")
    trading.commit()
    placed, told = await trader.until_quiet()
    assert (placed[1], placed[2][16]) == ("on", 29999)
    assert (told[1], told[2][4][16]) == ("n", 30000)


async def test_a_token_opens_a_connection(exchange: Exchange, reader: Reader) -> None:
    (token,) = (await exchange.post(exchange.key(), "w/token", {"ttl": 60})).json
    told = await reader.ask({"event": "auth", "token": token})
    assert (told["status"], told["caps"]["orders"]) == ("OK", {"read": 1, "write": 0})
    async with connected(exchange) as second:
        told = await second.ask({"event": "auth", "token": token + "x"})
        assert (told["code"], told["msg"]) == (10100, "token: invalid")


async def test_letters_of_a_token_bind_its_events(exchange: Exchange, reader: Reader) -> None:
    exchange.trading.set_balance(ALICE, "USD", "5")
    key = exchange.key()
    for caps, kinds in ((["w"], {"ws", "bu"}), (["o"], {"ps", "os"}), (["a"], set[str]())):
        (token,) = (await exchange.post(key, "w/token", {"caps": caps})).json
        async with connected(exchange) as line:
            told = await line.ask({"event": "auth", "token": token})
            assert told["caps"]["wallets"] == {"read": int("w" in caps), "write": 0}
            heard = await line.until_quiet()
            assert {message[1] for message in heard} == kinds, caps


async def test_a_connection_ends_with_its_token(exchange: Exchange, reader: Reader) -> None:
    key = exchange.key()
    more = {"writePermission": True}
    (token,) = (await exchange.post(key, "w/token", more)).json
    await reader.ask({"event": "auth", "token": token, "dms": 4})
    await reader.until_quiet()
    await exchange.post(key, "w/token/del", {"token": token})
    told = await reader.ask([0, "oc_multi", None, {"all": 1}])
    assert (told["code"], told["msg"]) == (10100, "apikey: invalid: the token has ended")
    exchange.trading.set_balance(ALICE, "USD", "5")
    end = await reader.ws.receive(timeout=5)
    assert (end.data, end.extra) == (4001, "the token has ended")
