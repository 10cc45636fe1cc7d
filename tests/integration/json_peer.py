"""A peer written from the documents alone: plain TCP, frames of JSON, one Ed25519 key. It shares no code
with the node, so that what it understands is what any other language would."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TIMEOUT = 15.0
Message = dict[str, Any]


def connect(address: str, source: str = "") -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT, (source, 0))


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def until_closed(stream: socket.socket) -> bytes:
    """All that the other side still says before it hangs up (or resets)."""
    heard = b""
    try:
        while chunk := stream.recv(65536):
            heard += chunk
    except ConnectionError:
        pass
    return heard


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


class Refused(Exception):
    """The node ended the connection with a goodbye."""

    def __init__(self, payload: Message) -> None:
        super().__init__(f"{payload['code']}: {payload['reason']}")
        self.code = payload["code"]


class JsonPeer:
    """Dials a node with P2P_SECURITY=off. Everything received after the handshake is in `heard`."""

    def __init__(
        self, address: str, *, network: str = "main", version: str = "1.0.0", source: str = ""
    ) -> None:
        self.network = network
        self.version = version
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        digest = hashlib.sha256(b"exchange-node id\x00" + self.public).digest()
        self.node_id = base64.b32encode(digest[:20]).decode("ascii").lower()
        self.heard: list[Message] = []
        self.node = ""  # id of the other side
        self.stream = connect(address, source)
        self._buffer = b""

    def close(self) -> None:
        self.stream.close()

    # Frames and messages

    def send_frame(self, payload: bytes) -> None:
        self.stream.sendall(len(payload).to_bytes(4, "big") + payload)

    def send(self, kind: str, payload: Message, to: str | None = None, **more: Any) -> None:
        message = {
            "type": kind,
            "from": self.node_id,
            "to": self.node if to is None else to,
            "timestamp": time.time_ns() // 1_000_000,
            "payload": payload,
            **more,
        }
        self.send_frame(json.dumps(message).encode())

    def receive(self) -> Message:
        """The next message, which has to be JSON that a person can read.

        Raises:
            Refused: it is a goodbye.
            ConnectionError: the node has hung up.
        """
        frame = self._exactly(int.from_bytes(self._exactly(4), "big"))
        assert frame[:1] == b"{", frame[:20]
        message: Message = json.loads(frame)
        if message["type"] == "goodbye":
            raise Refused(message["payload"])
        return message

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            chunk = self.stream.recv(65536)
            if not chunk:
                raise ConnectionError("the node has hung up")
            self._buffer += chunk
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def wait_for(self, wanted: Callable[[Message], bool]) -> Message:
        """The next message that is wanted; heartbeats are answered on the way."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            message = self.receive()
            self.heard.append(message)
            if message["type"] == "heartbeat" and message["payload"]["sequence"]:
                echo = message["payload"]["sequence"]
                self.send("heartbeat", {"sequence": 0, "echo": echo})
            if wanted(message):
                return message
        raise AssertionError(f"not in time; heard {[m['type'] for m in self.heard]}")

    # Handshake

    def shake_hands(self, **claims: Any) -> Message:
        """Introduce ourselves, with other `claims` than the true ones if given; the node's handshake."""
        nonce = secrets.token_bytes(32)
        mine = {
            "nodeId": self.node_id,
            "publicKey": b64(self.public),
            "version": self.version,
            "network": self.network,
            "port": 0,
            "nonce": b64(nonce),
            "capabilities": {"version": self.version, "agent": "json by hand"},
            **claims,
        }
        self.send("handshake", mine, to="", **{"from": mine["nodeId"]})
        theirs: Message = self.receive()["payload"]
        self.node = theirs["nodeId"]
        proof = msgspec.msgpack.encode(
            [
                *("exchange-node handshake 1", "dial", self.network),
                *(mine["nodeId"], nonce),
                *(self.node, base64.b64decode(theirs["nonce"])),
            ]
        )
        ack = {"nodeId": mine["nodeId"], "signature": b64(self.key.sign(proof))}
        self.send("handshake_ack", ack, **{"from": mine["nodeId"]})
        answer = self.receive()
        assert answer["type"] == "handshake_ack"
        assert answer["payload"]["nodeId"] == self.node
        return theirs


@contextmanager
def json_peer(address: str, **more: Any) -> Iterator[JsonPeer]:
    peer = JsonPeer(address, **more)
    try:
        yield peer
    finally:
        peer.close()
