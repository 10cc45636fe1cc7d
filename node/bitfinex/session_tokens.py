"""Session tokens: stand-ins for a key that a program can hand on, for a time and with fewer permissions.

A token dies with the node, with its time, and with the revocation of its key.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from exchange.model.records import Permission
from node.bitfinex.errors import BAD_AUTH, BitfinexError, bad
from node.bitfinex.request_signing import Keys, KeySession

MAX_TTL: Final = 30 * 86_400  # seconds
DEFAULT_TTL: Final = 3600
TOKENS_OF_KEY: Final = 100  # the oldest ends for a new one
TOKENS: Final = 10_000  # of all keys

_ORDERS: Final = "o"
_CAPABILITIES: Final = frozenset({"a", "f", _ORDERS, "s", "w", "wd"})


class _Token(NamedTuple):
    session: KeySession
    until: float


class SessionTokens:
    """Tokens of this run. `clock` is monotonic seconds."""

    def __init__(self, keys: Keys, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        self._tokens: dict[str, _Token] = {}  # oldest first
        self._count: Counter[str] = Counter()  # by key

    def issue(self, session: KeySession, ttl: int, capabilities: object, *, write: bool) -> str:
        """Issue a token for `ttl` seconds.

        `capabilities` are Bitfinex's letters, None for all: without `o` there is no trading.

        Raises:
            BitfinexError: an invalid time, or letters that are none.
        """
        if not 1 <= ttl <= MAX_TTL:
            raise bad("ttl", f"1 to {MAX_TTL} seconds are expected")
        letters = _CAPABILITIES if capabilities is None else capabilities
        if not isinstance(letters, list | frozenset) or not all(
            isinstance(letter, str) and letter in _CAPABILITIES for letter in letters
        ):
            raise bad("caps", f"a list of {', '.join(sorted(_CAPABILITIES))} is expected")
        kept: set[Permission] = set(session.permissions)
        if not write or _ORDERS not in letters:
            kept.discard("trade")
        self._make_room(session.key)
        listed = "".join(f":{letter}" for letter in sorted(letters))
        token = (
            f"pub:api:{secrets.token_hex(24)}-caps{listed}-{'write' if 'trade' in kept else 'read'}"
        )
        self._tokens[token] = _Token(
            session._replace(permissions=frozenset(kept)), self._clock() + ttl
        )
        self._count[session.key] += 1
        return token

    def session(self, token: object) -> KeySession:
        """Return the session of a token.

        Raises:
            BitfinexError: unknown, expired, or its key is revoked.
        """
        found = self._tokens.get(token) if isinstance(token, str) else None
        if found is None or found.until <= self._clock():
            raise BitfinexError(BAD_AUTH, "token: invalid")
        known = self._keys.key(found.session.key)
        if known is None or known.revoked:
            raise BitfinexError(BAD_AUTH, "token: invalid")
        return found.session

    def end(self, token: object, key: str) -> bool:
        """End a token of this key. Returns False when there is none."""
        found = self._tokens.get(token) if isinstance(token, str) else None
        if found is None or found.session.key != key or not isinstance(token, str):
            return False
        self._drop(token)
        return True

    def _make_room(self, key: str) -> None:
        now = self._clock()
        for token in [name for name, held in self._tokens.items() if held.until <= now]:
            self._drop(token)
        if self._count[key] >= TOKENS_OF_KEY:
            self._drop(next(name for name, held in self._tokens.items() if held.session.key == key))
        elif len(self._tokens) >= TOKENS:
            self._drop(next(iter(self._tokens)))

    def _drop(self, token: str) -> None:
        key = self._tokens.pop(token).session.key
        self._count[key] -= 1
        if not self._count[key]:
            del self._count[key]
