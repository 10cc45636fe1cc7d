"""KRPC, the messages of the DHT (BEP 5, BEP 44), as bytes and as typed values. IPv4.

A message is a bencoded dictionary: `t` is the requester's transaction id, `y` distinguishes a query
(`q` its method, `a` its arguments), a reply (`r`) or an error (`e`). The `info_hash` is a service
name as it is, of any length up to MAX_NAME: Grapes do not hash it.

    query           arguments (all have `id`)                         a reply has (besides `id`)
    ping
    find_node       target                                            nodes
    get_peers       info_hash                                         token, values and/or nodes
    announce_peer   info_hash, port, token [, implied_port]
    get             target [, seq]                                    token, nodes [, v [, k, seq, sig]]
    put             token, v [, k, seq, sig, salt, cas]

Two additions that others ignore, in `announce_peer` between Grapes of this kind (see `KIND`):
`host`, 4 bytes, the address to record instead of the sender's; `gone`, 1 to forget the record.

The usual messages are written and read without `bencode`, with the same results. The classes are not
frozen, since a frozen one takes three times as long to make; they are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, TypeAlias

from p2p.grenache.bep44 import MAX_SEQ
from p2p.grenache.dht import bencode
from p2p.grenache.dht.compact_addresses import pack, unpack
from p2p.grenache.directory import MAX_NAME, MAX_SALT, MAX_VALUE, Address

ID_BYTES: Final = 20
NODE_BYTES: Final = ID_BYTES + 6
KIND: Final = b"XN\x00\x01"  # `v` of our messages: client and version, as BEP 5 has it
MAX_TRANSACTION: Final = 32  # bytes; usual are 2 to 8
MAX_TOKEN: Final = 255
MAX_BENCODED: Final = (
    MAX_VALUE + 5
)  # limit of the Node.js Grape: 1000 bytes of text with their length
MAX_NODES: Final = 64  # read of one reply; others send 20
MAX_PEERS: Final = 2_000  # read of one reply; a Node.js Grape sends all that it has
_STARTS: Final = range(2, 2 + 8 * MAX_PEERS, 8)  # of the addresses in a list

PROTOCOL_ERROR: Final = 203
METHOD_UNKNOWN: Final = 204
TOO_LARGE: Final = 205
BAD_SIGNATURE: Final = 206
SALT_TOO_LARGE: Final = 207
CAS_MISMATCH: Final = 301
SEQ_TOO_LOW: Final = 302


class KrpcError(ValueError):
    """Not a message that can be answered: drop it."""


class BadQuery(KrpcError):
    """Invalid query, to be answered with an error."""

    def __init__(self, transaction: bytes, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.transaction = transaction
        self.code = code
        self.text = text


class DhtContact(NamedTuple):
    """DHT node as named by another node. Nothing of it is proven."""

    id: bytes
    address: Address

    def compact(self) -> bytes:
        """26 bytes."""
        return self.id + pack(self.address)


@dataclass(slots=True)
class PingQuery:
    method: ClassVar[bytes] = b"ping"

    def arguments(self) -> dict[bytes, bencode.Value]:
        return {}


@dataclass(slots=True)
class FindNode:
    """Query for the nodes closest to a node id."""

    target: bytes
    method: ClassVar[bytes] = b"find_node"

    def arguments(self) -> dict[bytes, bencode.Value]:
        return {b"target": self.target}


@dataclass(slots=True)
class GetPeers:
    """Query for the peers that serve `target`, a service name."""

    target: bytes
    method: ClassVar[bytes] = b"get_peers"

    def arguments(self) -> dict[bytes, bencode.Value]:
        return {b"info_hash": self.target}


@dataclass(slots=True)
class AnnouncePeer:
    """Record that `target` is served at `port` of the sender. `port` 0: at the sender's own UDP port."""

    target: bytes
    port: int
    token: bytes
    host: bytes | None = None  # 4 bytes: address to record; only to nodes of KIND
    gone: bool = False  # withdraw it; only to nodes of KIND
    method: ClassVar[bytes] = b"announce_peer"

    def arguments(self) -> dict[bytes, bencode.Value]:
        arguments: dict[bytes, bencode.Value] = {
            b"implied_port": int(not self.port),
            b"info_hash": self.target,
            b"port": self.port,
            b"token": self.token,
        }
        if self.host is not None:
            arguments[b"host"] = self.host
        if self.gone:
            arguments[b"gone"] = 1
        return arguments


@dataclass(slots=True)
class Get:
    """Query for the value under `target`. `seq`: only if it is newer than that version."""

    target: bytes
    seq: int | None = None
    method: ClassVar[bytes] = b"get"

    def arguments(self) -> dict[bytes, bencode.Value]:
        if self.seq is None:
            return {b"target": self.target}
        return {b"seq": self.seq, b"target": self.target}


@dataclass(slots=True)
class Put:
    """Store a value: immutable, or signed when there is a `public_key`. `value` is canonical bencode."""

    token: bytes
    value: bytes
    public_key: bytes | None = None
    seq: int = 0
    signature: bytes = b""
    salt: bytes = b""
    cas: int | None = None
    method: ClassVar[bytes] = b"put"

    def arguments(self) -> dict[bytes, bencode.Value]:
        arguments: dict[bytes, bencode.Value] = {
            b"token": self.token,
            b"v": bencode.decode(self.value),
        }
        if self.public_key is not None:
            arguments |= {b"k": self.public_key, b"seq": self.seq, b"sig": self.signature}
            if self.salt:
                arguments[b"salt"] = self.salt
            if self.cas is not None:
                arguments[b"cas"] = self.cas
        return arguments


Ask: TypeAlias = PingQuery | FindNode | GetPeers | AnnouncePeer | Get | Put


@dataclass(slots=True)
class KrpcQuery:
    """A query. `sender` is a node id if it has 20 bytes; otherwise the sender is a client, not a
    node."""

    transaction: bytes
    sender: bytes
    ask: Ask
    read_only: bool = False  # BEP 43: do not query the sender


@dataclass(slots=True)
class KrpcReply:
    """Reply to any query. `value` is canonical bencode; `compact_nodes` has 26 bytes per node."""

    transaction: bytes
    sender: bytes
    token: bytes | None = None
    compact_nodes: bytes = b""
    peers: tuple[bytes, ...] | None = None  # compact, 6 bytes each
    value: bytes | None = None
    public_key: bytes | None = None
    seq: int | None = None
    signature: bytes | None = None
    seen_as: Address | None = None  # address of the requester as the replier sees it (BEP 42)
    kind: bytes = b""

    @property
    def nodes(self) -> list[DhtContact]:
        """Nodes named in the reply."""
        compact = self.compact_nodes
        return [
            DhtContact(
                compact[at : at + ID_BYTES], unpack(compact[at + ID_BYTES : at + NODE_BYTES])
            )
            for at in range(0, len(compact), NODE_BYTES)
        ]


@dataclass(slots=True)
class KrpcFailure:
    """An error in answer to a query."""

    transaction: bytes
    code: int
    text: str


Message: TypeAlias = KrpcQuery | KrpcReply | KrpcFailure


def encode_query(transaction: bytes, sender: bytes, ask: Ask) -> bytes:
    if type(ask) is GetPeers:  # nearly always; equal to what follows
        return b"d1:ad2:id%d:%b9:info_hash%d:%be1:q9:get_peers%b1:y1:qe" % (
            *(len(sender), sender, len(ask.target), ask.target),
            _ending(transaction),
        )
    if type(ask) is AnnouncePeer and ask.host is None and not ask.gone:
        return (
            b"d1:ad2:id%d:%b12:implied_porti%de9:info_hash%d:%b4:porti%de5:token%d:%b"
            b"e1:q13:announce_peer%b1:y1:qe"
        ) % (
            *(len(sender), sender, not ask.port, len(ask.target), ask.target, ask.port),
            *(len(ask.token), ask.token),
            _ending(transaction),
        )
    if type(ask) is FindNode:
        return b"d1:ad2:id%d:%b6:target%d:%be1:q9:find_node%b1:y1:qe" % (
            *(len(sender), sender, len(ask.target), ask.target),
            _ending(transaction),
        )
    if type(ask) is PingQuery:
        return b"d1:ad2:id%d:%be1:q4:ping%b1:y1:qe" % (len(sender), sender, _ending(transaction))
    arguments = ask.arguments()
    arguments[b"id"] = sender
    return bencode.encode(
        {b"a": arguments, b"q": ask.method, b"t": transaction, b"v": KIND, b"y": b"q"}
    )


def _ending(transaction: bytes) -> bytes:
    """Transaction and version of an own message."""
    return b"1:t%d:%b1:v%d:%b" % (len(transaction), transaction, len(KIND), KIND)


def encode_reply(reply: KrpcReply) -> bytes:
    """Encode an own reply; `kind` is always KIND. The keys are in their canonical order."""
    parts = [b"d"]
    if reply.seen_as is not None:
        parts.append(b"2:ip6:" + pack(reply.seen_as))
    parts.append(b"1:rd2:id%d:%b" % (len(reply.sender), reply.sender))
    if reply.public_key is not None:
        parts.append(b"1:k%d:%b" % (len(reply.public_key), reply.public_key))
    if reply.compact_nodes:
        parts.append(b"5:nodes%d:%b" % (len(reply.compact_nodes), reply.compact_nodes))
    if reply.seq is not None:
        parts.append(b"3:seqi%de" % reply.seq)
    if reply.signature is not None:
        parts.append(b"3:sig%d:%b" % (len(reply.signature), reply.signature))
    if reply.token is not None:
        parts.append(b"5:token%d:%b" % (len(reply.token), reply.token))
    if reply.value is not None:
        parts.append(b"1:v" + reply.value)
    if reply.peers:
        parts.append(b"6:valuesl6:" + b"6:".join(reply.peers) + b"e")
    parts.append(b"e" + _ending(reply.transaction) + b"1:y1:re")
    return b"".join(parts)


def encode_failure(failure: KrpcFailure) -> bytes:
    return bencode.encode(
        {
            b"e": [failure.code, failure.text.encode()],
            b"t": failure.transaction,
            b"v": KIND,
            b"y": b"e",
        }
    )


def decode(data: bytes) -> Message:
    """Decode the message in a datagram.

    Raises:
        BadQuery: an incomplete query, to be answered with an error.
        KrpcError: not a message that can be answered.
    """
    usual = _usual_query(data) if data.startswith(b"d1:ad") else _usual_reply(data)
    if usual is not None:
        return usual
    try:
        message = bencode.decode(data)
    except bencode.BencodeError as error:
        raise KrpcError(str(error)) from None
    if not isinstance(message, dict):
        raise KrpcError("no dictionary")
    transaction = message.get(b"t")
    if not isinstance(transaction, bytes) or len(transaction) > MAX_TRANSACTION:
        raise KrpcError("no transaction")
    kind = message.get(b"y")
    if kind == b"q":
        return _query(message, transaction)
    if kind == b"r":
        return _reply(message, transaction)
    if kind == b"e":
        return _failure(message, transaction)
    raise KrpcError("neither query nor reply nor error")


# The usual forms. Nearly all datagrams of a busy Grape are `get_peers`, `announce_peer` and their replies, and where many
# Grapes start `ping` and `find_node`, with the same keys in the same order. Reading these as bencode takes half of the time
# that a Grape spends on a lookup. A function returns None for all that it does not understand to the last byte, everything
# invalid included: so its message is always what the general way finds, and errors have one text. Strings of variable
# length cannot be matched by a regular expression, since their length comes before them: each form is a head, which ends
# with such a length, the string, and a tail.

_SENDER: Final = rb"2:id20:(.{20})"
_TOKEN: Final = rb"5:token(?:8:(.{8})|20:(.{20}))"  # of this project's Grapes, of the Node.js ones
_END: Final = rb"1:t(?:4:(.{4})|2:(.{2}))(?:1:v4:(.{4}))?1:y1:"

_QUERY: Final = re.compile(
    rb"d1:ad" + _SENDER + rb"(?:12:implied_porti([01])e)?9:info_hash([1-9]\d{0,3}):", re.DOTALL
)
_GET_PEERS_TAIL: Final = re.compile(rb"e1:q9:get_peers" + _END + rb"qe", re.DOTALL)
_ANNOUNCE_TAIL: Final = re.compile(
    rb"4:porti([1-9]\d{0,4})e" + _TOKEN + rb"e1:q13:announce_peer" + _END + rb"qe", re.DOTALL
)
_NODE_QUERY: Final = re.compile(
    rb"d1:ad" + _SENDER + rb"(?:6:target20:(.{20})e1:q9:find_node|e1:q4:ping)" + _END + rb"qe",
    re.DOTALL,
)
_REPLY: Final = re.compile(
    rb"d(?:2:ip6:(.{6}))?1:rd" + _SENDER + rb"(?:5:nodes([1-9]\d{0,3}):)?", re.DOTALL
)
_REPLY_TAIL: Final = re.compile(
    rb"(?:" + _TOKEN + rb")?(?:6:valuesl((?:6:.{6})*)e)?e" + _END + rb"re", re.DOTALL
)


def _usual_query(data: bytes) -> KrpcQuery | None:
    head = _QUERY.match(data)
    if head is None:
        return _usual_node_query(data)
    sender, implied, length = head.groups()
    start = head.end()
    end = start + int(length)
    if end - start > MAX_NAME:
        return None
    if implied is None:
        tail = _GET_PEERS_TAIL.fullmatch(data, end)
        if tail is None:
            return None
        four, two, _ = tail.groups()
        return KrpcQuery(four or two, sender, GetPeers(data[start:end]))
    tail = _ANNOUNCE_TAIL.fullmatch(data, end)
    if tail is None:
        return None
    digits, short, long, four, two, _ = tail.groups()
    port = int(digits)
    if port > 65535:
        return None
    ask = AnnouncePeer(data[start:end], 0 if implied == b"1" else port, short or long)
    return KrpcQuery(four or two, sender, ask)


def _usual_node_query(data: bytes) -> KrpcQuery | None:
    match = _NODE_QUERY.fullmatch(data)
    if match is None:
        return None
    sender, target, four, two, _ = match.groups()
    return KrpcQuery(four or two, sender, PingQuery() if target is None else FindNode(target))


def _usual_reply(data: bytes) -> KrpcReply | None:
    head = _REPLY.match(data)
    if head is None:
        return None
    seen_as, sender, length = head.groups()
    at = head.end()
    nodes = b""
    if length:
        nodes = data[at : at + int(length)]
        at += int(length)
    tail = _REPLY_TAIL.fullmatch(data, at)
    if tail is None:
        return None
    short, long, peers, four, two, kind = tail.groups()
    return KrpcReply(
        four or two,
        sender,
        short or long,
        _nodes(nodes),
        None if peers is None else tuple([peers[at : at + 6] for at in _STARTS[: len(peers) // 8]]),
        seen_as=unpack(seen_as) if seen_as else None,
        kind=kind or b"",
    )


class _Arguments:
    """Reader of a query's arguments. Raises BadQuery for invalid ones."""

    def __init__(
        self, transaction: bytes, method: bytes, values: dict[bytes, bencode.Value]
    ) -> None:
        self._transaction = transaction
        self._method = method.decode("ascii", "replace")
        self.values = values

    def bad(self, what: str, code: int = PROTOCOL_ERROR) -> BadQuery:
        return BadQuery(self._transaction, code, f"`{self._method}` {what}")

    def text(self, key: bytes, low: int, high: int) -> bytes:
        value = self.values.get(key)
        if not isinstance(value, bytes):
            raise self.bad(f"missing required `a.{key.decode()}` field")
        if not low <= len(value) <= high:
            size = f"{low}" if low == high else f"{low} to {high}"
            raise self.bad(f"`a.{key.decode()}` has {len(value)} bytes, expected {size}")
        return value

    def number(self, key: bytes, low: int, high: int) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or not low <= value <= high:
            raise self.bad(f"`a.{key.decode()}` must be a number from {low} to {high}")
        return value

    def version(self, key: bytes) -> int | None:
        return self.number(key, 0, MAX_SEQ) if key in self.values else None


def _query(message: dict[bytes, bencode.Value], transaction: bytes) -> KrpcQuery:
    method, values = message.get(b"q"), message.get(b"a")
    if not isinstance(method, bytes):
        raise BadQuery(transaction, PROTOCOL_ERROR, "a query has a method `q`")
    if not isinstance(values, dict):
        raise BadQuery(transaction, PROTOCOL_ERROR, "a query has arguments `a`")
    read = _READERS.get(method)
    if read is None:
        raise BadQuery(transaction, METHOD_UNKNOWN, "Method Unknown")
    sender = values.get(b"id")
    if not isinstance(sender, bytes):
        raise BadQuery(transaction, PROTOCOL_ERROR, "a query has the `a.id` of its sender")
    ask = read(_Arguments(transaction, method, values))
    return KrpcQuery(transaction, sender, ask, message.get(b"ro") == 1)


def _read_ping(arguments: _Arguments) -> PingQuery:
    return PingQuery()


def _read_find_node(arguments: _Arguments) -> FindNode:
    return FindNode(arguments.text(b"target", ID_BYTES, ID_BYTES))


def _read_get_peers(arguments: _Arguments) -> GetPeers:
    return GetPeers(arguments.text(b"info_hash", 1, MAX_NAME))


def _read_announce_peer(arguments: _Arguments) -> AnnouncePeer:
    implied = arguments.values.get(b"implied_port") not in (None, 0)
    return AnnouncePeer(
        target=arguments.text(b"info_hash", 1, MAX_NAME),
        port=0 if implied else arguments.number(b"port", 1, 65535),
        token=arguments.text(b"token", 1, MAX_TOKEN),
        host=arguments.text(b"host", 4, 4) if b"host" in arguments.values else None,
        gone=arguments.values.get(b"gone") == 1,
    )


def _read_get(arguments: _Arguments) -> Get:
    return Get(arguments.text(b"target", ID_BYTES, ID_BYTES), arguments.version(b"seq"))


def _read_put(arguments: _Arguments) -> Put:
    token = arguments.text(b"token", 1, MAX_TOKEN)
    if b"v" not in arguments.values:
        raise arguments.bad("missing required `a.v` field")
    value = bencode.encode(arguments.values[b"v"])
    if len(value) > MAX_BENCODED:
        raise arguments.bad("data payload too large", TOO_LARGE)
    if not arguments.values.keys() & {b"k", b"sig"}:
        return Put(token, value)
    salt = arguments.values.get(b"salt", b"")
    if isinstance(salt, bytes) and len(salt) > MAX_SALT:
        raise arguments.bad("salt is too big", SALT_TOO_LARGE)
    return Put(
        token,
        value,
        public_key=arguments.text(b"k", 32, 32),
        seq=arguments.number(b"seq", 0, MAX_SEQ),
        signature=arguments.text(b"sig", 64, 64),
        salt=arguments.text(b"salt", 0, MAX_SALT) if b"salt" in arguments.values else b"",
        cas=arguments.version(b"cas"),
    )


_READERS: Final[dict[bytes, Callable[[_Arguments], Ask]]] = {
    b"ping": _read_ping,
    b"find_node": _read_find_node,
    b"get_peers": _read_get_peers,
    b"announce_peer": _read_announce_peer,
    b"get": _read_get,
    b"put": _read_put,
}


def _reply(message: dict[bytes, bencode.Value], transaction: bytes) -> KrpcReply:
    """Parse a reply. Fields of the wrong shape count as absent: the others may be usable."""
    r = message.get(b"r")
    if not isinstance(r, dict):
        raise KrpcError("a reply without `r`")
    sender = r.get(b"id")
    if not isinstance(sender, bytes):
        raise KrpcError("a reply without `r.id`")
    token = _sized(r.get(b"token"), 1, MAX_TOKEN)
    value = bencode.encode(r[b"v"]) if b"v" in r else None
    seq = r.get(b"seq")
    seen_as = _sized(message.get(b"ip"), 6, 6)
    return KrpcReply(
        transaction,
        sender,
        token,
        _nodes(r.get(b"nodes")),
        _peers(r.get(b"values")),
        value if value is not None and len(value) <= MAX_BENCODED else None,
        _sized(r.get(b"k"), 32, 32),
        seq if isinstance(seq, int) and 0 <= seq <= MAX_SEQ else None,
        _sized(r.get(b"sig"), 64, 64),
        unpack(seen_as) if seen_as else None,
        _sized(message.get(b"v"), 1, 16) or b"",
    )


def _sized(value: bencode.Value | None, low: int, high: int) -> bytes | None:
    return value if isinstance(value, bytes) and low <= len(value) <= high else None


def _nodes(compact: bencode.Value | None) -> bytes:
    """Cut to complete entries, at most the limit."""
    if not isinstance(compact, bytes):
        return b""
    return compact[: min(len(compact) // NODE_BYTES, MAX_NODES) * NODE_BYTES]


def _peers(values: bencode.Value | None) -> tuple[bytes, ...] | None:
    if not isinstance(values, list):
        return None
    return tuple([v for v in values[:MAX_PEERS] if isinstance(v, bytes) and len(v) == 6])


def _failure(message: dict[bytes, bencode.Value], transaction: bytes) -> KrpcFailure:
    e = message.get(b"e")
    code, text = (e[0], e[1]) if isinstance(e, list) and len(e) >= 2 else (0, b"")
    return KrpcFailure(
        transaction,
        code if isinstance(code, int) else 0,
        text[:200].decode("utf-8", "replace") if isinstance(text, bytes) else "",
    )
