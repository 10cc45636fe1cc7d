"""Signed broadcasts of one kind: making them, and accepting those of others. No I/O.

Every such message is a struct that begins with `key`, `incarnation` and `counter` and ends with `signature`.
(`incarnation`, `counter`) grows with every message of its origin, over restarts too, so a copy that is played
again later is recognised, however long ago the original was. The signature covers a label, the network's name
and all fields before it, in their order: the message proves itself, whichever node brings it. Its key names its origin before that
(`key_proves`), also of the broadcasts of the exchange, which have a field `key` too.

Rules of this file:
- A message whose shape or signature is wrong is invalid (False): the router charges the link that brought it.
- A message that is older than the last one of its origin is valid and has no effect (True).
- A message beyond its origin's rate is dropped and not passed on (None): the origin is at fault, not the link.
- Keys are free to make, so the table of origins is bounded and a rate for all origins together stands beside the rate of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from typing import Any, Generic, TypeVar

import msgspec

from p2p.base.identity import PUBLIC_KEY_LENGTH, Identity, node_id_of, verify
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.tokens import Tokens
from p2p.wire.messages import pack

MAX_MARK = 2**63
MAX_ORIGINS = 10_000

M = TypeVar("M", bound=msgspec.Struct)


class _Keyed(msgspec.Struct):
    key: bytes


_keyed = msgspec.msgpack.Decoder(_Keyed)


def key_proves(origin: str, payload: bytes) -> bool | None:
    """Return True if a payload with a field `key` has the key of its origin, None if it has another, False if it has none."""
    try:
        key = _keyed.decode(payload).key
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    if len(key) != PUBLIC_KEY_LENGTH:
        return False
    return True if node_id_of(key) == origin else None


class ReplayVerdict(Enum):
    """Decision about a message whose signature is right."""

    NEW = auto()
    OLD = auto()  # seen before, or overtaken by a later one: valid, and without effect
    TOO_MUCH = auto()  # beyond the rate: neither taken nor passed on


class _Origin(Tokens):
    __slots__ = ("mark",)

    def __init__(self, now: float, burst: float) -> None:
        super().__init__(burst, now)
        self.mark = (-1, -1)


class ReplayGuard:
    """At most `rate` new messages a second from one origin and `rate_all` from all together, and a burst.

    Bounded: when the table is full, the origin that was silent for longest is forgotten.
    """

    def __init__(
        self,
        *,
        rate: float = 1.0,
        burst: float = 5.0,
        rate_all: float = 100.0,
        limit: int = MAX_ORIGINS,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._all_rate = rate_all
        self._all = Tokens(2.0 * rate_all, 0.0)
        self._origins: BoundedMap[str, _Origin] = BoundedMap(limit)

    def __len__(self) -> int:
        return len(self._origins)

    def admit(self, now: float, origin: str, incarnation: int, counter: int) -> ReplayVerdict:
        """Decide about a message that `origin` signed, and count it."""
        known = self._origins.renew(origin)
        if known is None:
            known = self._origins[origin] = _Origin(now, self._burst)
        mark = (incarnation, counter)
        if mark <= known.mark:
            return ReplayVerdict.OLD
        if not known.take(now, self._rate, self._burst):
            return ReplayVerdict.TOO_MUCH
        if not self._all.take(now, self._all_rate, 2.0 * self._all_rate):
            return ReplayVerdict.TOO_MUCH
        known.mark = mark
        return ReplayVerdict.NEW


@dataclass(frozen=True, slots=True)
class AcceptedBroadcast(Generic[M]):
    """Outcome of receiving a payload: the router's verdict, and the message if it has an effect."""

    verdict: bool | None
    origin: str = ""
    message: M | None = None


class SignedBroadcast(Generic[M]):
    """One kind of message. `incarnation` grows with every start of this node."""

    def __init__(
        self,
        kind: type[M],
        label: str,
        identity: Identity,
        network: str,
        *,
        incarnation: int,
        guard: ReplayGuard,
    ) -> None:
        """`label` separates the signatures of this kind from all others; it never changes."""
        self._label = label
        self._identity = identity
        self._network = network
        self._incarnation = incarnation
        self._counter = 0
        self._guard = guard
        self._kind = kind
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._signed_fields = [f for f in kind.__struct_fields__ if f != "signature"]

    def signed_bytes(self, message: M) -> bytes:
        """Return the digest that the origin signs."""
        fields = [getattr(message, name) for name in self._signed_fields]
        return sha256(pack([self._label, self._network, *fields])).digest()

    def publish(self, **fields: Any) -> bytes:
        """Make the next message of this node with the given fields; returns its payload."""
        self._counter += 1
        draft = self._kind(
            key=self._identity.public_key,
            incarnation=self._incarnation,
            counter=self._counter,
            **fields,
        )
        signature = self._identity.sign(self.signed_bytes(draft))
        return pack(msgspec.structs.replace(draft, signature=signature))

    def receive(self, now: float, payload: bytes) -> AcceptedBroadcast[M]:
        """Check a payload that arrived."""
        try:
            message = self._decoder.decode(payload)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return AcceptedBroadcast(False)
        origin = self._origin(message)
        if origin is None:
            return AcceptedBroadcast(False)
        if origin == self._identity.node_id:
            return AcceptedBroadcast(True)
        mark = (getattr(message, "incarnation"), getattr(message, "counter"))  # noqa: B009 - generic
        verdict = self._guard.admit(now, origin, *mark)
        if verdict is ReplayVerdict.NEW:
            return AcceptedBroadcast(True, origin, message)
        return AcceptedBroadcast(True if verdict is ReplayVerdict.OLD else None, origin)

    def _origin(self, message: Any) -> str | None:
        """Return the node that signed the message, None if the signature is wrong."""
        if not (0 <= message.incarnation < MAX_MARK and 0 <= message.counter < MAX_MARK):
            return None
        if not verify(message.key, message.signature, self.signed_bytes(message)):
            return None
        return node_id_of(message.key)
