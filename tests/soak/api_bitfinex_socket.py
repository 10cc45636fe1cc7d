"""A bot's way through the Bitfinex dialect's WebSocket: inputs and news on channel 0.

A connection that ends is made again. What was asked on the old one and not answered is unanswered: the bot
asks again with the same cid.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import aiohttp

from node.client.server_trust import Trust
from tests.soak.api_bitfinex_rest import TIMEOUT, BitfinexRestApi, change_of, loads, refusal
from tests.soak.bitfinex import Nonces, fill_of, order_id, payload_of, signature, state_of
from tests.soak.told import Record, State, Unanswered, Wish


class BitfinexSocketApi:
    """`dead_man`: all orders of the account end with the connection. Questions about the past go over
    REST (`rest`, with a key of its own), which this dialect's WebSocket has no messages for."""

    name = "bitfinex-ws"
    streams = True

    def __init__(
        self,
        url: str,
        trust: Trust,
        key: str,
        secret: str,
        record: Record,
        rest: BitfinexRestApi,
        *,
        dead_man: bool = False,
    ) -> None:
        self._url = url.replace("http", "ws", 1) + "/ws/2"
        self._trust = trust
        self._key = key
        self._secret = secret
        self._record = record
        self._rest = rest
        self._dead_man = dead_man
        self._nonces = Nonces()
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waiting: tuple[str, int | None, asyncio.Future[Any]] | None = None
        self.heard = 0
        self.connections = 0

    def heard_all(self, restarted: bool) -> bool:
        return not restarted and self.connections == 1

    async def open(self) -> None:
        await self._rest.open()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust.context())
        )
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            (done,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(done, Exception):
                self._record.fault(f"its connection failed: {done!r}")
        if self._session is not None:
            await self._session.close()
        await self._rest.close()

    async def drop(self) -> None:
        """Break the connection without a word."""
        if self._socket is not None:
            transport = self._socket._response.connection
            if transport is not None and transport.transport is not None:
                transport.transport.abort()

    # The connection

    async def _run(self) -> None:
        assert self._session is not None
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    socket = await self._session.ws_connect(
                        self._url, heartbeat=TIMEOUT, max_msg_size=0
                    )
                async with socket:
                    self._socket = socket
                    await self._enter(socket)
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            self._take(loads(message.data))
            self._socket = None
            self._ready.clear()
            if self._waiting is not None and not self._waiting[2].done():
                self._waiting[2].set_exception(Unanswered("the connection ended"))
            await asyncio.sleep(0.2)

    async def _enter(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        nonce = self._nonces.next()
        event: dict[str, Any] = {
            "event": "auth",
            "apiKey": self._key,
            "authNonce": nonce,
            "authPayload": f"AUTH{nonce}",
            "authSig": signature(self._secret, f"AUTH{nonce}"),
        }
        if self._dead_man:
            event["dms"] = 4
        await socket.send_str(json.dumps(event))

    def _take(self, message: Any) -> None:
        if isinstance(message, dict):
            if message.get("event") == "auth":
                if message.get("status") == "OK":
                    self.connections += 1
                    self._ready.set()
                elif message.get("code") != 20060:
                    self._record.fault(f"not let in: {message}")
            return
        if message[0] != 0 or message[1] == "hb":
            return
        self.heard += 1
        kind, data = message[1], message[2]
        if kind == "os":
            for fields in data:
                self._record.told(state_of(fields))
        elif kind in ("on", "ou", "oc"):
            self._record.told(state_of(data))
        elif kind in ("te", "tu"):
            self._record.told_fill(fill_of(data))
        elif kind == "n":
            self._notified(data)

    def _notified(self, data: list[Any]) -> None:
        """Pass a notification to the caller that waits for it."""
        if self._waiting is None or self._waiting[2].done():
            return
        kind, subject, answer = self._waiting
        about = data[4]
        if data[1] != f"{kind}-req":
            return
        if kind == "on" and about[2] != subject:
            return
        if kind in ("oc", "ou") and about[0] != subject:
            return
        if data[6] == "SUCCESS":
            answer.set_result(about)
        else:
            answer.set_exception(refusal(data[5], str(data[7])))

    async def _input(self, kind: str, payload: dict[str, Any], subject: int | None) -> Any:
        """
        Raises:
            Refusal: the node says that nothing was done.
            Unanswered: nobody knows.
        """
        answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._ready.wait()
                if self._socket is None:
                    raise Unanswered("there is no connection")
                self._waiting = (kind, subject, answer)
                await self._socket.send_str(json.dumps([0, kind, None, payload]))
                return await answer
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise Unanswered(repr(error)) from error
        finally:
            self._waiting = None
            answer.cancel()

    # Requests

    async def place(self, wish: Wish) -> State:
        return state_of(await self._input("on", payload_of(wish), wish.client))

    async def amend(self, number: int, quantity: Decimal | None, price: Decimal | None) -> State:
        known = self._record.orders[number]
        body = change_of(number, known.first, known.filled, quantity, price)
        return state_of(await self._input("ou", body, order_id(number)))

    async def cancel(self, number: int) -> State:
        name = order_id(number)
        return state_of(await self._input("oc", {"id": name}, name))

    async def cancel_all(self, group: int | None = None) -> list[State]:
        body = {"all": 1} if group is None else {"gid": [group]}
        return [state_of(fields) for fields in await self._input("oc_multi", body, None)]

    async def look(self, number: int) -> State:
        return await self._rest.look(number)

    async def fills(self) -> None:
        await self._rest.fills()
