"""Keys for simulated nodes: real node ids always, real signatures only where asked.

Ed25519 would be most of a run's time. `FastKeys` signs with a hash keyed by the public key: it binds
key, message and signature as a signature does, so a mixed-up or altered one is refused, but anyone
could make one. No simulated node forges, so nothing checked here rests on that difference.

All nodes of a run share one process, and each of them checks the same broadcasts and relayed messages. Checks of
real signatures and ids of keys are functions of their arguments, so `checked_once` computes each of them once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from hashlib import blake2b
from unittest.mock import patch

from p2p.base import identity as real
from p2p.base.identity import Identity

node_id_of = lru_cache(maxsize=4096)(real.node_id_of)
verify = lru_cache(maxsize=4096)(real.verify)


@lru_cache(maxsize=256)
def identity(number: int) -> Identity:
    """Node `number`'s identity, the same in every run. The router signs relayed messages with it."""
    return Identity.from_seed(number.to_bytes(32, "big"))


@contextmanager
def checked_once() -> Iterator[None]:
    """Check each real signature of a run once, however many nodes receive it."""
    for cached in (node_id_of, verify):  # calls are counted: a run must not profit from one before
        cached.cache_clear()
    with ExitStack() as stack:
        for module in ("p2p.mesh.relaying", "p2p.mesh.signed_broadcast"):
            stack.enter_context(patch(f"{module}.node_id_of", node_id_of))
            stack.enter_context(patch(f"{module}.verify", verify))
        yield


class RealKeys:
    """`exchange.model.ports.Keys` over an identity."""

    def __init__(self, own: Identity) -> None:
        self.node_id = own.node_id
        self.public_key = own.public_key
        self._own = own

    def sign(self, message: bytes) -> bytes:
        return self._own.sign(message)

    def node_id_of(self, public_key: bytes) -> str:
        return node_id_of(public_key)

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return verify(public_key, signature, message)


class FastKeys(RealKeys):
    """The same node id and public key, with hashes in place of signatures."""

    def sign(self, message: bytes) -> bytes:
        return _hash(self.public_key, message)

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return len(public_key) == 32 and _hash(public_key, message) == signature


def _hash(public_key: bytes, message: bytes) -> bytes:
    return blake2b(message, key=public_key, digest_size=64).digest()
