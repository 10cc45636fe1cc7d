"""A connection of the Bitfinex WebSocket (/ws/2): events, channels, and the order of writes.

    client                                             node
                                                  <-   {"event":"info","version":2,...}
    {"event":"subscribe","channel":"book",...}    ->
                                                  <-   {"event":"subscribed","chanId":1,...}
                                                  <-   [1,[[PRICE,COUNT,AMOUNT],...]]
                                                  <-   [1,[PRICE,COUNT,AMOUNT]]   and so on
    {"event":"unsubscribe","chanId":1}            ->
                                                  <-   {"event":"unsubscribed","status":"OK","chanId":1}

    {"event":"auth","apiKey":...}                 ->
                                                  <-   {"event":"auth","status":"OK","chanId":0,...}
                                                  <-   [0,"ps",[]]  [0,"ws",[...]]  [0,"os",[...]]
    [0,"on",null,{"type":"EXCHANGE LIMIT",...}]   ->
                                                  <-   [0,"on",[ORDER]]  [0,"n",[...,"SUCCESS",...]]

The client's messages are answered in the order they arrive. Channels write through the connection's
`SocketSession`, which takes all messages of a channel at once, so an answer never lands between a snapshot
and its checksum. Inputs about orders begin in the order they arrive and may end in another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Final, Protocol
from uuid import uuid4

import orjson

from node.annexes.bitfinex import order_inputs
from node.annexes.bitfinex.account_inputs import DEAD_MAN, AccountInputs, PrivateSide
from node.annexes.bitfinex.errors import (
    ALREADY_SUBSCRIBED,
    BAD_AUTH,
    NOT_SUBSCRIBED,
    RESTART,
    TOO_MANY_CHANNELS,
    UNKNOWN,
    BitfinexError,
)
from node.annexes.bitfinex.limits import (
    CHANNELS,
    HEARTBEAT,
    MAX_ID,
    SEND_TIMEOUT,
    SNAPSHOTS_AFTER,
)
from node.annexes.bitfinex.public_channels import Channels, ChannelStream
from node.http.json_members import RepeatedMember, check_members
from node.http.server_connection import Request
from node.http.server_socket import ServerSocket
from node.http.socket_session import End, SessionRules, SocketSession
from node.streams.stream import ReaderTooSlow
from p2p.base.places import Rank

TIMESTAMPS: Final = 32_768
SEQUENCE: Final = 65_536
KEY_REVOKED: Final = 4001  # WebSocket close code
BEAT: Final = '"hb"'
_MAX_FLAGS: Final = 2**53
_MAX_CHANNEL: Final = 2**31


class Sockets(Protocol):
    """State that the connections of one application share."""

    @property
    def public(self) -> Channels: ...

    @property
    def private(self) -> PrivateSide | None: ...

    @property
    def server_id(self) -> str: ...

    def end(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what is left to do for a connection that has ended."""
        ...


class BitfinexConnection:
    """See the module's docstring."""

    def __init__(self, sockets: Sockets, request: Request, socket: ServerSocket) -> None:
        self._sockets = sockets
        self._connection = request.connection
        self._secure, self._remote = request.secure, request.remote
        self._socket = socket
        self._public = sockets.public
        self._private = sockets.private
        self._clock = clock = asyncio.get_running_loop().time
        self._channels: dict[int, ChannelStream] = {}
        self._account: AccountInputs | None = None
        self._next = 1
        self._flags = 0
        self._sequence = 0
        self._beat = clock() + HEARTBEAT
        self._session = SocketSession[BitfinexConnection](
            socket,
            SessionRules(SEND_TIMEOUT, ReaderTooSlow),
            lambda _, now: self._due_messages(now),
            self._verdict,
        )
        self._answers = {
            "ping": self._on_ping,
            "conf": self._on_conf,
            "subscribe": self._on_subscribe,
            "unsubscribe": self._on_unsubscribe,
            "auth": self._on_auth,
        }
        self._post(
            {
                "event": "info",
                "version": 2,
                "serverId": sockets.server_id,
                "platform": {"status": 1},
            }
        )

    # For the socket

    def on_message(self, message: str | bytes) -> Coroutine[Any, Any, None] | None:
        if isinstance(message, bytes):
            self._post(_error("json: invalid", UNKNOWN))
        elif not message.lstrip().startswith("["):
            return self._handle(message)
        elif wait := self._on_input(message):
            return wait
        return self._session.held()

    def on_writable(self) -> None:
        self._session.on_writable()

    def on_end(self) -> None:
        """Listen to nothing any more, and leave the account; its orders are cancelled if that was asked for."""
        self._session.stop()
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        if self._account is not None:
            self._sockets.end(self._account.close())

    def _verdict(self) -> End | None:
        """End a connection whose key was revoked, or whose token has ended."""
        if self._private is None or self._account is None:
            return None
        ended = self._private.ended(self._account.session)
        return (KEY_REVOKED, ended) if ended else None

    # Channels

    @property
    def due(self) -> float:
        """Time of the next message of a channel, or of the heartbeat."""
        due = [channel.due for channel in self._channels.values() if channel.ready]
        return min([*due, self._beat])

    def _wake(self) -> None:
        self._session.mark(self)

    def _due_messages(self, now: float) -> list[bytes]:
        if end := self._verdict():  # nothing of the account after its key or token
            self._socket.close(*end)
            return []
        texts: list[str] = []
        for number, channel in self._channels.items():
            if channel.ready and channel.due <= now:
                channel.ready = False
                channel.due = now + channel.pace
                texts.extend(self._framed(number, channel.write(self._flags)))
        if now >= self._beat:
            self._beat = now + HEARTBEAT
            for number in self._channels:
                texts.extend(self._framed(number, [BEAT]))
        self._wake()
        return [text.encode() for text in texts]

    def goodbye(self) -> None:
        """Announce the stop of the node, and close."""
        self._post({"event": "info", "code": RESTART, "msg": "the node is stopping, connect again"})
        self._socket.close(1012, "the node is stopping")

    # Writing

    def _post(self, event: dict[str, Any]) -> None:
        self._session.post(orjson.dumps(event))

    async def _tell(self, event: dict[str, Any]) -> None:
        self._post(event)
        await self._drained()

    async def _drained(self) -> None:
        if wait := self._session.held():
            await wait

    def _framed(self, number: int, bodies: Iterable[str]) -> Iterator[str]:
        if not self._flags & (SEQUENCE | TIMESTAMPS):
            for body in bodies:
                yield f"[{number},{body}]"
            return
        for body in bodies:
            text = f"[{number},{body}"
            if self._flags & SEQUENCE:
                if body == BEAT:
                    text += f",{self._counted()}"
                else:
                    text += self._channels[number].numbers(body, self._counted)
            if self._flags & TIMESTAMPS:
                text = f"{text},{time.time_ns() // 1_000_000}"
            yield f"{text}]"

    def _counted(self) -> int:
        """The next public sequence number."""
        self._sequence += 1
        return self._sequence

    # Reading

    async def _handle(self, text: str) -> None:
        try:
            message = orjson.loads(text)
            check_members(text)
        except RepeatedMember as error:
            await self._tell(_error(f"json: invalid: {error.detail}", UNKNOWN))
            return
        except (ValueError, RecursionError):
            await self._tell(_error("json: invalid", UNKNOWN))
            return
        event = message.get("event") if isinstance(message, dict) else None
        answer = self._answers.get(event) if isinstance(event, str) else None
        if answer is None:
            await self._tell(_error("event: invalid", UNKNOWN))
            return
        # Echoed input passes an encoder that nests less deeply than the decoder.
        flat = {key: value for key, value in message.items() if not isinstance(value, list | dict)}
        try:
            await answer(message if event == "auth" else flat)
        except BitfinexError as error:
            await self._tell({**flat, **_error(error.text, error.code)})

    async def _on_ping(self, message: dict[str, Any]) -> None:
        cid = {"cid": message["cid"]} if "cid" in message else {}
        await self._tell({"event": "pong", "ts": time.time_ns() // 1_000_000, **cid})

    async def _on_conf(self, message: dict[str, Any]) -> None:
        flags = message.get("flags", 0)
        if type(flags) is not int or not 0 <= flags < _MAX_FLAGS:
            raise BitfinexError(UNKNOWN, "flags: invalid")
        self._post({"event": "conf", "status": "OK", "flags": flags})
        self._flags = flags  # from the next message on
        await self._drained()

    async def _on_auth(self, message: dict[str, Any]) -> None:
        try:
            if self._private is None:
                raise BitfinexError(BAD_AUTH, "apikey: invalid")
            if self._account is not None:
                raise BitfinexError(BAD_AUTH, "auth: dup")
            dead_man = message.get("dms") == DEAD_MAN
            account = await self._private.enter(
                message,
                self._wake,
                dead_man=dead_man,
                secure=self._secure,
                remote=self._remote,
            )
        except BitfinexError as error:
            told = {"status": "FAILED", "chanId": 0, "code": error.code, "msg": error.text}
            await self._tell({"event": "auth", **told})
            return
        self._account = account
        self._connection.rise(Rank.KNOWN)
        session = account.session
        told = {
            "event": "auth",
            "status": "OK",
            "chanId": 0,
            "userId": session.account,
            "auth_id": str(uuid4()),
            "dms": DEAD_MAN if dead_man else 0,
            "caps": {
                scope: {"read": read, "write": write} for scope, read, write in session.scopes()
            },
        }
        self._post(told)
        account.stream.due = self._clock() + SNAPSHOTS_AFTER
        self._channels[0] = account.stream
        self._wake()
        await self._drained()

    def _on_input(self, text: str) -> Coroutine[Any, Any, None] | None:
        """Take an input of channel 0."""
        if self._account is None:
            self._post(_error("auth: required", BAD_AUTH))
            return None
        try:
            return self._account.take(order_inputs.decode(text))
        except BitfinexError as error:
            self._post(_error(error.text, error.code))
            return None

    async def _on_subscribe(self, message: dict[str, Any]) -> None:
        channel = self._public.make(message, self._wake)
        if len(str(message.get("subId", ""))) > MAX_ID:
            raise BitfinexError(UNKNOWN, "subId: invalid")
        if any(channel.identity == other.identity for other in self._channels.values()):
            raise BitfinexError(ALREADY_SUBSCRIBED, "subscribe: dup")
        if len(self._channels.keys() - {0}) >= CHANNELS:
            raise BitfinexError(TOO_MANY_CHANNELS, "subscribe: limit")
        try:
            await channel.open()
            number = self._next
            self._next = self._next % _MAX_CHANNEL + 1
            told = {**message, "event": "subscribed", "chanId": number, **channel.echo()}
        except BaseException:
            channel.close()
            raise
        self._post(told)
        self._channels[number] = channel
        self._wake()
        await self._drained()

    async def _on_unsubscribe(self, message: dict[str, Any]) -> None:
        text = str(message.get("chanId"))
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
        channel = self._channels.pop(number, None) if number else None
        if channel is None:
            raise BitfinexError(NOT_SUBSCRIBED, "unsubscribe: invalid")
        channel.close()
        await self._tell({"event": "unsubscribed", "status": "OK", "chanId": number})


def _error(text: str, code: int) -> dict[str, Any]:
    return {"event": "error", "msg": text, "code": code}
