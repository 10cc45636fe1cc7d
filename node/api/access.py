"""Access control of the API: keys, the operator, and rate limits of callers.

    Authorization: Bearer KEY:SECRET        an account's key
    Authorization: Bearer operator:TOKEN    the operator; the token is in DATA_DIR/node.json
    (no header)                             the operator, where keys are optional; else an
                                            anonymous caller, who sees public data

A request that tries to say who it is, and fails, is refused: an empty header, a key in a header or in the query,
where it is not read. Otherwise a program whose key got lost would trade for the house.

Each operation declares its `Access`. Only the operator may call `operator` operations, never a key.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from exchange.ledger.accounts import Accounts, AuthError
from exchange.model.commands import HOUSE
from exchange.model.records import ApiKey, Permission
from node.api.problems import Answered, problem
from node.http.http_messages import Head
from node.http.limits import HEADS
from node.http.rate_limit import RateLimit, RateVerdict
from node.http.server_connection import Request
from node.operations.operation import Access
from node.views.node_views import Authentication
from node.views.views import ServiceError
from p2p.base.places import Rank, address_group
from p2p.ground.bounded_map import BoundedMap

# public: no key needed. read, trade: an account's key with that permission. node: the operator, or
# a key of the house. operator: the operator alone.

OPERATOR: Final = "operator"
_MAX_HEADER: Final = 300  # characters; a key and its secret have about 100
# Names that APIs have for a key, a token or a signature, in headers and in the query: X-API-Key, bfx-apikey, api_key.
_CREDENTIAL: Final = re.compile(
    r"(x-)?(auth-?|access-?)?(token|secret|signature)|(x-|exchange-node-)?key|exchange-node-token|(x-)?auth(orization)?(-key)?"
    r"|([a-z0-9]+-){0,3}(api-?|access-)(key|token|secret|sign|signature|passphrase)|(bfx-.+)"
)


CredentialPlace = Literal["header", "query parameter"]


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Rules of access: where the API listens and what callers may do there."""

    keys_required: bool = False  # the operator needs the token too
    plain_keys: bool = False  # keys are taken over plain HTTP from other machines
    rate_limit: int = 0  # requests a minute for each key or address; 0: any number
    max_streams: int = 256  # WebSocket connections at once, of each dialect
    operator_token: str = ""  # of this run; "" is none

    def __repr__(self) -> str:
        return f"AccessRules(keys_required={self.keys_required}, rate_limit={self.rate_limit})"


class Caller(NamedTuple):
    """Authenticated caller of a request."""

    account: int | None  # None: unknown caller; the operator acts for the house
    permissions: frozenset[Permission] = frozenset()
    operator: bool = False
    key: str = ""  # of the account
    authenticated_by: Authentication = "nothing"

    @property
    def rank(self) -> Rank:
        if self.authenticated_by == "nothing":
            return Rank.STRANGER
        return Rank.OPERATOR if self.operator else Rank.KNOWN

    def may(self, access: Access) -> bool:
        if access == "public" or self.operator:
            return True
        if self.account is None or access == "operator":
            return False
        if access == "node":
            return self.account == HOUSE and "read" in self.permissions
        return access in self.permissions


THE_OPERATOR: Final = Caller(HOUSE, frozenset({"read", "trade"}), operator=True)
TOKEN_HOLDER: Final = THE_OPERATOR._replace(authenticated_by="token")
ANYBODY: Final = Caller(None)


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=512)
def _is_credential(name: str, place: CredentialPlace) -> bool:
    name = name.lower().replace("_", "-")
    if name == "authorization":
        return place != "header"
    return _CREDENTIAL.fullmatch(name) is not None


def refuse_credentials(names: Iterable[str], place: CredentialPlace) -> None:
    """Refuse keys under names that are not read.

    Raises:
        ServiceError: there is such a name.
    """
    for name in names:
        if _is_credential(name, place):
            raise _bad_authorization(
                f"the {place} {name[:40]} is not read, and without a key the caller would be another one"
            )


def _bad_authorization(what: str) -> ServiceError:
    return ServiceError(
        401, "bad_authorization", f"{what}; send the header Authorization: Bearer KEY:SECRET"
    )


class AccessControl:
    """Identify the caller of each request, and limit its rate."""

    def __init__(self, accounts: Accounts, rules: AccessRules) -> None:
        self._accounts = accounts
        self.rules = rules
        self._rates = RateLimit(rules.rate_limit)
        self._known = BoundedMap[Head, tuple[Caller, ApiKey | None]](HEADS)

    def keys_may_pass(self, *, secure: bool, remote: str) -> bool:
        """Return True if a secret may be sent this way: over TLS, or without leaving this machine."""
        return secure or self.rules.plain_keys or is_loopback(remote)

    def caller_of(self, request: Request) -> Caller:
        """Return the caller of a request. The key of a head that is repeated is not looked up again, but that it still
        holds, and may be sent this way, is checked for each request.

        Raises:
            ServiceError: as `identify`; or a key is in the query or there twice.
        """
        head, secure, remote = request.head, request.secure, request.remote
        found = self._known.get(head)
        if found is not None:
            caller, key = found
            if key is None or self._accounts.key(key.key) is key:
                if caller.authenticated_by != "nothing":
                    self._check_way(secure=secure, remote=remote)
                return caller
            del self._known[head]
        refuse_credentials([name for name, _ in head.target.query], "query parameter")
        if "authorization" in head.repeated:
            raise ServiceError(
                401,
                "bad_authorization",
                "the header Authorization is given twice, and they may be different callers'; send it once",
            )
        caller = self.identify(head.headers, secure=secure, remote=remote)
        self._known[head] = caller, self._accounts.key(caller.key) if caller.key else None
        return caller

    def admit(self, request: Request, now: float, access: Access = "public") -> Caller:
        """Identify the caller of a request, and count the request.

        Raises:
            ServiceError: who calls is wrong, or may not.
            Answered: the caller makes too many requests.
        """
        caller, failure = None, None
        try:
            caller = self.caller_of(request)
        except ServiceError as error:
            failure = error
        verdict = self.count(caller, request.remote, now)
        if verdict.limit:
            request.add_lines(
                f"RateLimit-Limit: {verdict.limit}\r\nRateLimit-Remaining: {verdict.remaining}\r\n"
                f"RateLimit-Reset: {verdict.reset}\r\n"
            )
            if not verdict.allowed:
                detail = f"more than {verdict.limit} requests a minute; wait {verdict.reset} s"
                headers = {"Retry-After": str(verdict.reset)}
                path = request.head.target.raw_path
                raise Answered(problem(path, 429, "rate_limited", detail, headers=headers))
        if caller is None:
            raise failure or RuntimeError("nobody")
        if caller.authenticated_by != "nothing" and request.connection.rank is Rank.STRANGER:
            request.connection.rise(caller.rank)
        return caller if caller.may(access) else check_access(caller, access)

    def identify(self, headers: Mapping[str, str], *, secure: bool, remote: str) -> Caller:
        """Return the caller that the headers of a request stand for.

        Raises:
            ServiceError: they are wrong, or a key may not be sent this way.
        """
        refuse_credentials(headers, "header")
        header = headers.get("authorization")
        if header is None:
            return ANYBODY if self.rules.keys_required else THE_OPERATOR
        scheme, _, credentials = header[:_MAX_HEADER].strip().partition(" ")
        key, colon, secret = credentials.strip().partition(":")
        if not scheme:
            raise _bad_authorization("the header Authorization is empty")
        if scheme.lower() != "bearer" or not colon:
            self._check_way(secure=secure, remote=remote)
            raise _bad_authorization("invalid Authorization header")
        return self.authenticate(key.strip(), secret.strip(), secure=secure, remote=remote)

    def authenticate(self, key: str, secret: str, *, secure: bool, remote: str) -> Caller:
        """Return the holder of a key, or of the operator's token. Raises as `identify`."""
        self._check_way(secure=secure, remote=remote)
        if not key.strip() or not secret.strip():
            raise _bad_authorization(f"the {'secret' if key.strip() else 'key'} is empty")
        if key == OPERATOR:
            token = self.rules.operator_token
            if token and secret.isascii() and hmac.compare_digest(secret, token):
                return TOKEN_HOLDER
            raise ServiceError(
                401,
                "bad_token",
                "this is not the operator's token of this run of the node; node.json in its data "
                "directory has it",
            )
        try:
            _, found = self._accounts.authenticate_bearer(key, secret)
        except AuthError as error:
            if error.code == "revoked":
                raise ServiceError(401, "key_revoked", "the key was revoked") from None
            raise ServiceError(401, "bad_key", "unknown API key or wrong secret") from None
        return Caller(found.account, found.permissions, key=found.key, authenticated_by="key")

    def _check_way(self, *, secure: bool, remote: str) -> None:
        if not self.keys_may_pass(secure=secure, remote=remote):
            raise ServiceError(
                403,
                "tls_required",
                "API keys over plain HTTP are refused, because the network path can read them: "
                "use https (API_TLS_CERT or API_TLS_SELF_SIGNED on the node), and replace the key "
                "that was just sent by a new one",
            )

    def count(self, caller: Caller | None, remote: str, now: float) -> RateVerdict:
        """Count a request against the caller's rate limit; None stands for a wrong key. The
        operator is not limited."""
        if caller is not None and caller.operator:
            return RateVerdict(True, 0, 0, 0)
        key = caller.key if caller is not None else ""
        return self._rates.ask(f"key {key}" if key else f"address {address_group(remote)}", now)


def check_access(caller: Caller, access: Access) -> Caller:
    """Return the caller if it has a permission.

    Raises:
        ServiceError: the caller lacks it.
    """
    if caller.may(access):
        return caller
    if caller.account is None:
        raise ServiceError(
            401,
            "key_required",
            "this needs an API key: send the header Authorization: Bearer KEY:SECRET "
            "(exchange-node account keys create makes one)",
        )
    if access in ("operator", "node"):
        raise ServiceError(403, "operator_only", "this is for the node's operator, not for a key")
    raise ServiceError(
        403,
        "no_permission",
        f"the key {caller.key} may {', '.join(sorted(caller.permissions)) or 'do nothing'}, and "
        f"this needs {access}",
    )
