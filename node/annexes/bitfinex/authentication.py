"""Authentication: key, nonce and signature of a request, or of the `auth` event of a WebSocket.

    REST     HMAC-SHA384(secret, "/api" + path + nonce + body), in the headers bfx-apikey, bfx-nonce
             and bfx-signature; the body is what came, byte for byte, and the path has no query
    socket   HMAC-SHA384(secret, authPayload), in the event's own fields; the payload is AUTH and the
             nonce, which some clients write twice

A key's nonces only grow. Keys are not taken from other machines over plain HTTP unless the node's
operator has allowed it: the network path can read requests and answers.

Many clients take the milliseconds of their clock as nonces. One on the same machine may get its answer within the millisecond of
its request, and would send the same nonce again. So such an answer waits for the next millisecond.

Session tokens stand in for a key that a program can hand on, for a time and with fewer permissions. A token ends with the
node, with its time, and with the revocation of its key, and a connection that it opened ends with it. Its letters bind reads
and writes. Only a signature of the key makes a token, so no token renews or widens itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from exchange.ledger.accounts import AuthError
from exchange.model.records import Account, ApiKey, Permission
from node.annexes.bitfinex.errors import BAD_AUTH, OLD_NONCE, BitfinexError, bad

_CODES: Final = {"nonce_too_small": OLD_NONCE}
_TEXTS: Final = {  # the words that Bitfinex has for it
    "bad_signature": "apikey: digest invalid",
    "revoked": "apikey: invalid",
    "nonce_too_small": "nonce: small",
}

_MILLISECOND_DIGITS: Final = 13
PAUSE = 0.002  # seconds; timers of event loops may be a millisecond early

MAX_TTL: Final = 30 * 86_400  # seconds
DEFAULT_TTL: Final = 3600
TOKENS_OF_KEY: Final = 100  # the oldest ends for a new one
TOKENS: Final = 10_000  # of all keys

# Letters of a token. Funding and settings do not exist here.
ACCOUNT: Final = "a"
ORDERS: Final = "o"
WALLETS: Final = "w"
WITHDRAWALS: Final = "wd"
LETTERS: Final = frozenset({ACCOUNT, "f", ORDERS, "s", WALLETS, WITHDRAWALS})

# Bitfinex's scopes: the letters that reading takes, and whether writing is possible.
_SCOPES: Final = (
    ("account", ACCOUNT, False),
    ("history", ORDERS + WALLETS, False),
    ("orders", ORDERS, True),
    ("positions", ORDERS, False),
    ("wallets", WALLETS, False),
)


class KeySession(NamedTuple):
    """An account, and the permissions of the key or token that opened it."""

    account: int
    permissions: frozenset[Permission]
    key: str
    letters: frozenset[str] = LETTERS
    token: str = ""

    def may(self, permission: Permission, letters: str = "") -> bool:
        """Return True with the permission and each of the letters."""
        return permission in self.permissions and self.letters.issuperset(letters)

    def demand(self, permission: Permission, letters: str = "", what: str = "apikey") -> None:
        """Raises `BitfinexError`, about the parameter `what`, unless `may`."""
        if permission not in self.permissions:
            only = "trade" if permission == "read" else "read"
            raise BitfinexError(BAD_AUTH, f"{what}: permission invalid: this key may only {only}")
        if not self.may(permission, letters):
            needed = ", ".join(letters)
            raise BitfinexError(
                BAD_AUTH, f"{what}: permission invalid: the token's caps lack {needed}"
            )

    def scopes(self) -> list[tuple[str, int, int]]:
        """List Bitfinex's scopes, each with 1 or 0 for reading and for writing."""
        return [
            (scope, int(self.may("read", letters)), int(write and self.may("trade", letters)))
            for scope, letters, write in _SCOPES
        ]


class Keys(Protocol):
    """The part of `exchange.ledger.accounts.Accounts` that is needed here."""

    def authenticate(
        self, key: str, nonce: int, message: bytes, signature_hex: str
    ) -> tuple[Account, ApiKey]: ...

    def get(self, number: int) -> Account | None: ...

    def key(self, key: str) -> ApiKey | None: ...


class KeyAuthenticator:
    """Authentication by API key. `plain_keys`: accept keys over plain HTTP."""

    def __init__(self, keys: Keys, *, plain_keys: bool) -> None:
        self._keys = keys
        self._plain_keys = plain_keys

    def of_request(
        self, headers: Mapping[str, str], path: str, body: bytes, *, secure: bool, remote: str
    ) -> KeySession:
        """Authenticate a request to `path`, given as it was sent.

        Raises:
            BitfinexError: 10100, or 10114 for a nonce that is not greater than the last one.
        """
        self.check_way(secure=secure, remote=remote)
        nonce = headers.get("bfx-nonce", "")
        message = f"/api{path}{nonce}".encode() + body
        return self._session(
            headers.get("bfx-apikey"), nonce, message, headers.get("bfx-signature")
        )

    def of_event(self, event: Mapping[str, Any], *, secure: bool, remote: str) -> KeySession:
        """Authenticate an `auth` event. Raises as `of_request`."""
        self.check_way(secure=secure, remote=remote)
        nonce = event.get("authNonce")
        payload = event.get("authPayload")
        text = str(nonce) if type(nonce) is int else nonce
        if not isinstance(text, str) or payload not in (f"AUTH{text}", f"AUTH{text}{text}"):
            raise BitfinexError(BAD_AUTH, "authPayload: invalid: AUTH and the nonce are expected")
        return self._session(event.get("apiKey"), text, payload.encode(), event.get("authSig"))

    def check_way(self, *, secure: bool, remote: str) -> None:
        """Refuse keys and tokens over plain HTTP from other machines. Raises `BitfinexError`."""
        if not (secure or self._plain_keys or _is_loopback(remote)):
            raise BitfinexError(
                BAD_AUTH,
                "apikey: refused: this node takes keys over TLS only (https, wss); its operator can "
                "allow API_PLAIN_KEYS",
            )

    def _session(self, key: Any, nonce: str, message: bytes, signature: Any) -> KeySession:
        if not isinstance(key, str) or not key or not isinstance(signature, str):
            raise BitfinexError(BAD_AUTH, "apikey: invalid")
        if not (nonce.isascii() and nonce.isdigit() and len(nonce) <= 19):
            raise BitfinexError(OLD_NONCE, "nonce: invalid")
        try:
            account, known = self._keys.authenticate(key, int(nonce), message, signature)
        except AuthError as error:
            code = _CODES.get(error.code, BAD_AUTH)
            raise BitfinexError(code, _TEXTS.get(error.code, error.detail)) from None
        return KeySession(account.number, known.permissions, key)


def is_this_millisecond(nonce: str, now: int) -> bool:
    """Report if a valid nonce is the millisecond of the time `now`, in microseconds since the epoch."""
    return len(nonce) == _MILLISECOND_DIGITS and int(nonce) == now // 1000


async def next_millisecond(nonce: str, now: Callable[[], int]) -> None:
    """Wait until a clock of milliseconds gives another nonce. Mostly it does already."""
    if is_this_millisecond(nonce, now()):
        await asyncio.sleep(PAUSE)


@lru_cache(maxsize=1024)
def _is_loopback(remote: str) -> bool:
    try:
        return ipaddress.ip_address(remote.partition("%")[0]).is_loopback
    except ValueError:
        return False


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
            BitfinexError: an invalid time, letters that are none, or the session is a token's.
        """
        if session.token:
            raise BitfinexError(
                BAD_AUTH, "token: invalid: a token makes no token; sign the request with the key"
            )
        if not 1 <= ttl <= MAX_TTL:
            raise bad("ttl", f"1 to {MAX_TTL} seconds are expected")
        letters = LETTERS if capabilities is None else capabilities
        if not isinstance(letters, list | frozenset) or not all(
            isinstance(letter, str) and letter in LETTERS for letter in letters
        ):
            raise bad("caps", f"a list of {', '.join(sorted(LETTERS))} is expected")
        kept: set[Permission] = set(session.permissions)
        if not write or ORDERS not in letters:
            kept.discard("trade")
        self._make_room(session.key)
        listed = "".join(f":{letter}" for letter in sorted(letters))
        token = (
            f"pub:api:{secrets.token_hex(24)}-caps{listed}-{'write' if 'trade' in kept else 'read'}"
        )
        self._tokens[token] = _Token(
            KeySession(session.account, frozenset(kept), session.key, frozenset(letters), token),
            self._clock() + ttl,
        )
        self._count[session.key] += 1
        return token

    def session(self, token: object) -> KeySession:
        """Return the session of a token.

        Raises:
            BitfinexError: unknown, expired, or its key is revoked.
        """
        found = self._tokens.get(token) if isinstance(token, str) else None
        if found is None or self.ended(found.session):
            raise BitfinexError(BAD_AUTH, "token: invalid")
        return found.session

    def ended(self, session: KeySession) -> str:
        """Return why a session is over, "" while it is not: its key was revoked, or its token has ended."""
        known = self._keys.key(session.key)
        if known is None or known.revoked:
            return "the key was revoked"
        if not session.token:
            return ""
        held = self._tokens.get(session.token)
        return "the token has ended" if held is None or held.until <= self._clock() else ""

    def end(self, token: object, by: KeySession) -> bool:
        """End a token of this key, by the key or by the token itself. Returns False when there is none."""
        found = self._tokens.get(token) if isinstance(token, str) else None
        if found is None or found.session.key != by.key or by.token not in ("", token):
            return False
        self._drop(found.session.token)
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
