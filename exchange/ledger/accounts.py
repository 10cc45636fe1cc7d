"""Trading accounts of a node, their limits, and the API keys that sign their requests.

Accounts exist on this node only; other nodes do not see them. Account 0 is the house, the operator's
own account: it always exists, cannot be frozen, and has no limits.

Requests are signed with HMAC-SHA384. Its verifier needs the secret itself, so secrets are stored in
plain. The nonce must grow with every request of a key. The greatest nonce is kept for each number of
digits, because programs that count in milliseconds and programs that count in microseconds may share
a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Final, get_args

import msgspec

from exchange.model.commands import HOUSE, SUSPENSE
from exchange.model.records import Account, ApiKey, Permission, PutNonce, Record
from p2p.ground.tokens import Tokens

MAX_ACCOUNTS = 10_000
MAX_KEYS = 1000  # of one account, revoked keys included: they stay in memory
MAX_LIMIT = 1_000_000  # largest value of either limit of an account
MAX_LABEL = 100
MAX_NONCE = 2**63 - 1
_BLOCK = 128  # bytes that SHA-384 takes at a time

# Names with a meaning of their own: of accounts that the program creates, of the ledger's other holders and
# their kinds, and of callers without an account. Accounts of earlier versions may have them.
RESERVED: Final = frozenset(
    {"suspense", "fees", "outside", "account", "peer", "operator", "public", "ourselves"}
)
_SUSPENSE_NAME: Final = re.compile(r"suspense-[0-9]+")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")  # also of secrets; 16 characters have 64 bits
_PERMISSIONS: Final = frozenset[Permission](get_args(Permission))
# Both checks take the same time.
_NO_SECRET = "stands in for the secret of an unknown key"  # noqa: S105
_WRONG = "The API key is unknown or the signature is wrong."


class AccountError(ValueError):
    """Refused change of an account or API key. `code` is stable, the text is a sentence.

    Codes: unknown_account, unknown_key, bad_name, name_taken, bad_limit, bad_key, key_taken, too_many.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class AuthError(Exception):
    """Failed authentication. `code` is stable, the text is a sentence; without the secret neither shows
    whether a key exists.

    Codes: bad_signature (also for an unknown key), revoked, nonce_too_small.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


_MINUTE: Final = 60.0  # s


class Accounts:
    """Accounts, API keys, nonces and order rates. `time`: us since the epoch; `now`: seconds."""

    def __init__(self) -> None:
        self.records: list[Record] = []  # not yet durable; cleared by the drain
        self.by_number: dict[int, Account] = {HOUSE: Account(HOUSE, "house", 0)}  # for reading only
        self._by_name: dict[str, int] = {"house": HOUSE}  # lower case
        self._keys: dict[str, ApiKey] = {}
        self._keys_of: dict[int, dict[str, None]] = {}
        self._nonces: dict[tuple[str, int], int] = {}  # (key, digits) -> greatest nonce
        # Seconds left of the minute whose worth of orders may come at once, by account. An order costs
        # its share of a minute, so a changed rate counts at once.
        self._order_rates: dict[int, Tokens] = {}
        self._paces: dict[
            int, tuple[Tokens, float]
        ] = {}  # with an order's share, until the rate changes

    def restore(
        self,
        accounts: Iterable[Account],
        keys: Iterable[ApiKey],
        nonces: Mapping[tuple[str, int], int],
    ) -> None:
        """Continue from the stored accounts, keys and nonces.

        Raises:
            AccountError: unknown_account, for a key without an account.
        """
        for account in accounts:
            self._keep(account)
        for key in keys:
            self._known(key.account)
            self._keep_key(key)
        self._nonces.update(nonces)

    # Accounts

    def __len__(self) -> int:
        return len(self.by_number)

    def all(self) -> list[Account]:
        """List the accounts by number, the house first."""
        return sorted(self.by_number.values(), key=lambda account: account.number)

    def get(self, number: int) -> Account | None:
        return self.by_number.get(number)

    def by_name(self, name: str) -> Account | None:
        """Find an account by its name; case is ignored."""
        number = self._by_name.get(name.lower())
        return None if number is None else self.by_number[number]

    def create(
        self,
        time: int,
        name: str,
        *,
        max_open_orders: int = 1000,
        orders_per_minute: int = 6000,
    ) -> Account:
        """Create an account with the next free number.

        Raises:
            AccountError: bad_name, name_taken, bad_limit, too_many.
        """
        if not _NAME.fullmatch(name):
            raise AccountError(
                "bad_name",
                f"{name[:40]!r} is not a valid name: use 1 to 32 letters, digits, dots, dashes and "
                "underscores, beginning with a letter or digit.",
            )
        if name.lower() in RESERVED or _SUSPENSE_NAME.fullmatch(name.lower()):
            raise AccountError(
                "bad_name", f"{name!r} is a name that the ledger itself uses: choose another name."
            )
        if name.lower() in self._by_name:
            raise AccountError(
                "name_taken", f"An account named {name!r} exists already: choose another name."
            )
        if len(self.by_number) > MAX_ACCOUNTS:  # the house does not count
            raise AccountError("too_many", f"A node has at most {MAX_ACCOUNTS} accounts.")
        _check_limits(max_open_orders, orders_per_minute)
        number = max(number for number in self.by_number if number != SUSPENSE) + 1
        account = Account(
            number,
            name,
            time,
            max_open_orders=max_open_orders,
            orders_per_minute=orders_per_minute,
        )
        return self._put(account)

    def add_suspense(self, time: int) -> Account:
        """Create the account for fills whose client is not known. It does not trade."""
        name, count = "suspense", 1
        while name in self._by_name:
            count += 1
            name = f"suspense-{count}"
        return self._put(Account(SUSPENSE, name, time, frozen=True))

    def freeze(self, number: int) -> Account:
        """Forbid an account to trade and withdraw; it may still read and cancel.

        Raises:
            AccountError: unknown_account.
        """
        if number == HOUSE:
            raise AccountError("unknown_account", "The house cannot be frozen.")
        return self._put(msgspec.structs.replace(self._known(number), frozen=True))

    def thaw(self, number: int) -> Account:
        """Allow a frozen account to trade again.

        Raises:
            AccountError: unknown_account.
        """
        return self._put(msgspec.structs.replace(self._known(number), frozen=False))

    def set_limits(
        self,
        number: int,
        *,
        max_open_orders: int | None = None,
        orders_per_minute: int | None = None,
    ) -> Account:
        """Change limits of an account; None keeps a limit.

        Raises:
            AccountError: unknown_account, bad_limit.
        """
        account = self._known(number)
        if max_open_orders is None:
            max_open_orders = account.max_open_orders
        if orders_per_minute is None:
            orders_per_minute = account.orders_per_minute
        _check_limits(max_open_orders, orders_per_minute)
        return self._put(
            msgspec.structs.replace(
                account, max_open_orders=max_open_orders, orders_per_minute=orders_per_minute
            )
        )

    # Limits

    def allows_order(self, now: float, number: int) -> bool:
        """Check the order rate, and count an order that is allowed.

        An idle account may place a minute's worth of orders at once, then orders at its rate.
        """
        if number == HOUSE:
            return True
        pace = self._paces.get(number)
        if pace is None:
            account = self.by_number.get(number)
            most = 0 if account is None else account.orders_per_minute
            if not most:
                return False
            bucket = self._order_rates.get(number)
            if bucket is None:
                bucket = self._order_rates[number] = Tokens(_MINUTE, now)
            pace = self._paces[number] = bucket, _MINUTE / most
        bucket, cost = pace
        return bucket.take(now, 1.0, _MINUTE, cost)

    # Keys

    def create_key(
        self,
        time: int,
        account: int,
        permissions: Collection[Permission],
        label: str,
        key: str,
        secret: str,
    ) -> ApiKey:
        """Create an API key. The caller draws `key` and `secret` at random.

        Raises:
            AccountError: unknown_account, bad_key, key_taken, too_many.
        """
        self._known(account)
        if not permissions or not _PERMISSIONS.issuperset(permissions):
            raise AccountError("bad_key", f"Permissions are {', '.join(sorted(_PERMISSIONS))}.")
        if not (_KEY.fullmatch(key) and _KEY.fullmatch(secret)):
            raise AccountError(
                "bad_key", "A key and its secret have 16 to 128 letters, digits, - and _."
            )
        if len(label) > MAX_LABEL or not label.isprintable():
            raise AccountError(
                "bad_key",
                f"A label has at most {MAX_LABEL} printable characters, got {label[:120]!r}.",
            )
        if key in self._keys:
            raise AccountError("key_taken", "This API key exists already: draw another one.")
        if len(self._keys_of.get(account, ())) >= MAX_KEYS:
            raise AccountError("too_many", f"An account has at most {MAX_KEYS} keys.")
        return self._put_key(ApiKey(key, secret, account, frozenset(permissions), time, label))

    def revoke(self, time: int, key: str) -> ApiKey:
        """Revoke an API key for good. Revoking it again changes nothing.

        Raises:
            AccountError: unknown_key.
        """
        known = self._keys.get(key)
        if known is None:
            raise AccountError("unknown_key", f"Unknown API key {key[:40]!r}.")
        if known.revoked:
            return known
        return self._put_key(msgspec.structs.replace(known, revoked=time))

    def key(self, key: str) -> ApiKey | None:
        return self._keys.get(key)

    def keys_of(self, account: int) -> list[ApiKey]:
        """List the keys of an account in the order of creation, revoked keys included."""
        return [self._keys[key] for key in self._keys_of.get(account, ())]

    # Authentication

    def authenticate(
        self, key: str, nonce: int, message: bytes, signature_hex: str
    ) -> tuple[Account, ApiKey]:
        """Return the account and key of a signed request, and use up its nonce.

        The nonce becomes durable together with the effects of the request, so a replayed request has
        no second effect, not even after a crash.

        Raises:
            AuthError: bad_signature, revoked, nonce_too_small.
        """
        known = self._keys.get(key)
        expected = _signature(_NO_SECRET if known is None else known.secret, message)
        if not _same(expected, signature_hex.lower()) or known is None:
            raise AuthError("bad_signature", _WRONG)
        account = self._account_of(known)
        if not 0 < nonce <= MAX_NONCE:
            # Without the value: it may be an integer of any size.
            raise AuthError("nonce_too_small", f"A nonce is from 1 to {MAX_NONCE}.")
        digits = len(str(nonce))
        greatest = self._nonces.get((key, digits), 0)
        if nonce <= greatest:
            raise AuthError(
                "nonce_too_small",
                f"Nonce {nonce} was used or passed: send one greater than {greatest}.",
            )
        self._nonces[key, digits] = nonce
        self.records.append(PutNonce(key, digits, nonce))
        return account, known

    def authenticate_bearer(self, key: str, secret: str) -> tuple[Account, ApiKey]:
        """Return the account and key of a request that carries the secret itself.

        Raises:
            AuthError: bad_signature, revoked.
        """
        known = self._keys.get(key)
        expected = _NO_SECRET if known is None else known.secret
        if not _same(expected, secret) or known is None:
            raise AuthError("bad_signature", _WRONG)
        return self._account_of(known), known

    # Internals

    def _account_of(self, key: ApiKey) -> Account:
        if key.revoked:
            raise AuthError("revoked", "The API key was revoked: create another one.")
        return self.by_number[key.account]

    def _known(self, number: int) -> Account:
        account = self.by_number.get(number)
        if account is None:
            raise AccountError("unknown_account", f"Unknown account {number}.")
        return account

    def _put(self, account: Account) -> Account:
        self._keep(account)
        self.records.append(account)
        return account

    def _keep(self, account: Account) -> None:
        self._paces.pop(account.number, None)
        self.by_number[account.number] = account
        self._by_name[account.name.lower()] = account.number

    def _put_key(self, key: ApiKey) -> ApiKey:
        self._keep_key(key)
        self.records.append(key)
        return key

    def _keep_key(self, key: ApiKey) -> None:
        self._keys[key.key] = key
        self._keys_of.setdefault(key.account, {})[key.key] = None


def _signature(secret: str, message: bytes) -> str:
    """HMAC-SHA384 in hex. Most of its time would go into the start of both hashes, which is the same each time."""
    inner, outer = (begun.copy() for begun in _begun(secret))
    inner.update(message)
    outer.update(inner.digest())
    return outer.hexdigest()


@lru_cache(maxsize=4096)
def _begun(secret: str) -> tuple[hashlib._Hash, hashlib._Hash]:
    """The inner and the outer hash of HMAC (RFC 2104), after the key."""
    key = secret.encode()
    if len(key) > _BLOCK:
        key = hashlib.sha384(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    return (
        hashlib.sha384(bytes(byte ^ 0x36 for byte in key)),
        hashlib.sha384(bytes(byte ^ 0x5C for byte in key)),
    )


def _same(expected: str, got: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(expected.encode(), got.encode(errors="replace"))


def _check_limits(max_open_orders: int, orders_per_minute: int) -> None:
    for limit in (max_open_orders, orders_per_minute):
        if not 0 <= limit <= MAX_LIMIT:
            raise AccountError("bad_limit", f"A limit is from 0 to {MAX_LIMIT}, got {limit}.")
